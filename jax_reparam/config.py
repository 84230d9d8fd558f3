"""The recipe that every file in configs/ starts from. Importing this loads neither jax nor TensorFlow."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from jax_reparam.errors import InputError, one_line
from jax_reparam.frontend.features import FrontendConfig

# What a corpus changes in a recipe; `configs/NAME.py:emodb` picks one.
CORPORA: dict[str, dict[str, Any]] = {
    'synth': {'train.steps': 400},
    'emodb': {
        'train.batch_size': 16,
        'train.steps': 3000,
        'train.eval_every': 150,
        'augment.stretch': 0.15,
        'augment.warp': 0.1,
        # What decays little is trained to weights that int8 rounds with twice the noise (docs/models.md).
        'train.weight_decay': 1.0,
    },
    'ravdess': {'train.steps': 2400, 'train.eval_every': 100},
    # The following are where to start: none of these corpora was at hand to tune on.
    'iemocap': {'window.seconds': 6.0, 'window.hop_seconds': 3.0, 'train.steps': 3000, 'train.eval_every': 100},
    'iemocap/all': {
        'window.seconds': 6.0,
        'window.hop_seconds': 3.0,
        'train.steps': 5000,
        'train.eval_every': 100,
        'train.class_weights': True,
    },
    # Uneven classes are weighed by their counts in training.
    'm3ed': {'train.steps': 10000, 'train.eval_every': 500, 'train.class_weights': True},
    'daic_woz': {
        'window.seconds': 8.0,
        'window.hop_seconds': 4.0,
        'train.steps': 2000,
        'train.eval_every': 100,
        'train.class_weights': True,
    },
    'crema_d': {'window.seconds': 3.0, 'window.hop_seconds': 1.5, 'train.steps': 4000, 'train.eval_every': 200},
    'nemo': {'window.seconds': 3.0, 'window.hop_seconds': 1.5, 'train.steps': 3000, 'train.eval_every': 100},
    'savee': {'train.batch_size': 16, 'train.steps': 1000},
    'folder': {},
}
# And what it changes besides for XS, of about 0.1 M parameters.
CORPORA_XS: dict[str, dict[str, Any]] = {'emodb': {'train.weight_decay': 0.5}}
# What a file must have to be a recipe.
SECTIONS = ('model', 'hrf', 'frontend', 'window')


def base(**model: Any) -> ConfigDict:
    """What all recipes share: training with HRF on the synthetic corpus.

    Args:
      **model: `name` and the fields of that architecture's config (jax_reparam/models/).
    """
    return ConfigDict(
        {
            'model': model,
            # layers.HRFConfig; expansion 0 trains the plain model. Sites as a flag: --config.hrf.sites=ffn_in,attention
            'hrf': {
                'expansion': 4.0,
                'forward': 'composed',
                'init': 'lecun',
                'decay': 'product',
                'sites': ('ffn_in',),
            },
            'frontend': dataclasses.asdict(FrontendConfig()),
            # windows.WindowConfig, in seconds.
            'window': {'seconds': 4.0, 'hop_seconds': 2.0},
            'data': {
                'corpus': 'synth',
                'source': '',  # folder (or table) of a corpus that is not embedded
                'cache': '',  # '' is $JAX_REPARAM_CACHE, else ~/.cache/jax_reparam
                'protocol': '',  # '' is the corpus's own
                'fold': '0',  # a number, or 'all'
                'accept_mismatch': False,  # whether to train on a copy with other counts than the published ones
                'turns': 0,  # the longest clips of each speaker, where a decision is by speaker; 0 is the protocol's
                'join': '',  # mean or vote, likewise; '' is the protocol's
            },
            'augment': {
                'freq_masks': 2,
                'freq_mask_bands': 10,
                'time_masks': 2,
                'time_mask_frames': 40,
                'stretch': 0.0,
                'warp': 0.0,
            },
            'train': {
                'steps': 1000,
                'batch_size': 32,
                'learning_rate': 1e-3,
                'warmup_steps': 100,
                'weight_decay': 0.01,
                'label_smoothing': 0.1,
                'class_weights': False,
                'clip_norm': 1.0,
                'average': 0.99,
                'eval_every': 50,
            },
            'seed': 0,
        }
    )


def speech_former(*, n_mels: int, learning_rate: float, **model: Any) -> ConfigDict:
    """What SpeechFormer's recipes share: its width is `n_mels`, and its windows follow from the frontend's hop.

    Its layers are post-norm and learn at a smaller rate. The authors' dropout of 0.5 in the head holds the small ones
    back for long (docs/models.md has what was tried, on validation speakers).
    """
    recipe = base(name='speech_former', **model, dropout=0.1, attention_dropout=0.1, head_dropout=0.1)
    recipe.train.learning_rate = learning_rate
    # 128 bands are narrower than the bins of a 512-point transform.
    recipe.frontend.update(n_mels=n_mels, n_fft=512 if n_mels <= 64 else 1024)
    recipe.model.hop_ms = recipe.frontend.get_ref('hop_ms')
    return recipe


def for_corpus(config: ConfigDict, corpus: str, *, xs: bool = False) -> ConfigDict:
    """Sets a recipe's corpus and what goes with it.

    Args:
      config: the recipe.
      corpus: its name; '' keeps the default.
      xs: the recipe is of the smallest size.

    Raises:
      InputError: no such corpus.
    """
    corpus = corpus or config.data.corpus
    # What follows a slash is the corpus's own choice, of labels for example.
    name = corpus.partition('/')[0]
    if name not in CORPORA:
        raise InputError(f'config: expected a corpus, one of {sorted(CORPORA)}, got {corpus!r}')
    config.data.corpus = corpus
    for key, value in (CORPORA[name] | (CORPORA_XS.get(name, {}) if xs else {})).items():
        section, field = key.split('.')
        config[section][field] = value
    return config


def load_recipe(path: str | Path, corpus: str = '') -> dict[str, Any]:
    """Loads a recipe from a config file, for one corpus; '' is the recipe's own.

    Raises:
      InputError: no such file, or one that does not give a recipe.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f'{path}: expected a recipe, found {"a folder" if path.is_dir() else "no such file"}')
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise InputError(f'{path}: expected a recipe in Python, found a file whose name does not end with .py')
    module = importlib.util.module_from_spec(spec)
    # The file is the user's, and may raise anything.
    try:
        spec.loader.exec_module(module)
        recipe = module.get_config(corpus).to_dict()
    except InputError as error:
        raise InputError(f'{path}: {error}') from error
    except Exception as error:
        raise InputError(
            f'{path}: expected a recipe (get_config(corpus) gives a ConfigDict), '
            f'found {type(error).__name__}: {one_line(error)}'
        ) from error
    missing = [section for section in SECTIONS if not isinstance(recipe.get(section), dict)]
    if missing:
        raise InputError(f'{path}: expected a recipe with the sections {", ".join(SECTIONS)}, found no {missing[0]}')
    return recipe


def recipes(folder: str | Path = 'configs') -> list[str]:
    """The config files of a folder, by name.

    Raises:
      InputError: there are none.
    """
    found = sorted(str(path) for path in Path(folder).glob('*.py'))
    if not found:
        raise InputError(f'{folder}/*.py: expected recipes there, or some to be named, found none')
    return found
