"""Recipes: every one in configs/ builds for every corpus, and what is wrong in one is named before any work."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import re
import subprocess
import sys
from typing import Annotated, get_args, get_origin

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers import RECIPE, ROOT, TINY, TINY_MODELS, batch, pattern, plain_inputs
from jax_reparam import checkpoint, config, corpora, models, reparam, schema
from jax_reparam.config import (
    SITES,
    AugmentConfig,
    ConformerConfig,
    ConvTransformerConfig,
    DataConfig,
    HRFConfig,
    Recipe,
    SpeechFormerConfig,
    TrainConfig,
    WindowSeconds,
    load_recipe,
)
from jax_reparam.errors import InputError
from jax_reparam.frontend.features import FrontendConfig
from jax_reparam.frontend.speech import Rule
from jax_reparam.frontend.voice import VoiceConfig
from jax_reparam.frontend.windows import WindowConfig
from jax_reparam.train import loop
from jax_reparam.train.optimizer import adamw

RECIPES = sorted((ROOT / 'configs').glob('[!_]*.py'))
FORMER = Recipe(SpeechFormerConfig())


def test_importing_it_is_light():
    heavy = ('jax', 'flax', 'tensorflow', 'librosa', 'ml_collections')
    code = f'import sys, jax_reparam.config; sys.exit(str([name for name in {heavy} if name in sys.modules] or ""))'
    assert subprocess.run([sys.executable, '-c', code], check=False, capture_output=True, text=True).stderr == '\n'


@pytest.mark.parametrize('path', RECIPES, ids=lambda path: path.stem)
@pytest.mark.parametrize('corpus', ['', *config.CORPORA])
def test_recipes_of_every_corpus(path, corpus):
    recipe = load_recipe(path, corpus)
    assert recipe.data.corpus == (corpus or 'synth')
    assert recipe.hrf == HRFConfig()
    decay = {'emodb': 0.5 if path.stem.endswith('_xs') else 1.0, 'ravdess': 0.5}.get(corpus, 0.01)
    assert recipe.train.weight_decay == decay
    assert recipe.frontend.clamp_nats == (6.0 if corpus == 'ravdess' else 8.0)
    assert recipe.augment.mixup == (0.2 if corpus == 'ravdess' and path.stem.endswith('_xs') else 0.0)
    assert recipe.train.class_weights == (corpus in ('iemocap/all', 'm3ed', 'daic_woz'))
    seconds = {'iemocap': 6, 'iemocap/all': 6, 'daic_woz': 8, 'crema_d': 3, 'nemo': 3}.get(corpus, 4)
    assert recipe.window_config == WindowConfig(100 * seconds, 50 * seconds)
    assert Recipe.from_json(json.loads(json.dumps(recipe.as_json()))) == recipe


@pytest.mark.parametrize('path', RECIPES, ids=lambda path: path.stem)
def test_recipes_fold_to_their_plain_model_with_sites_of_one_kind_and_of_all(path):
    recipe = load_recipe(path)
    x = jnp.zeros((1, 40, recipe.frontend.n_mels))
    key = jax.random.key(0)
    expected = jax.eval_shape(models.build(recipe.model, n_classes=4).init, key, x)
    for sites in (recipe.hrf.sites, SITES):
        trained = models.build(recipe.model, HRFConfig(sites=sites), n_classes=4)
        variables = jax.eval_shape(trained.init, key, x)
        assert reparam.hrf_sites(variables)
        chex.assert_trees_all_equal_shapes_and_dtypes(jax.eval_shape(reparam.dehrf, variables), expected)


@pytest.mark.parametrize('name', ['transformer_xs', 'conformer_xs', 'speechformer_xs'])
def test_recipes_train_a_step_and_fold(rng, name):
    """One step with all kinds of sites moves every leaf that it should; the folded logits are the same.

    A layer of each stack is enough: more of them are alike, and take as much longer to compile. So are larger recipes.
    """
    recipe = load_recipe(RECIPES[0].with_name(f'{name}.py'))
    model = dataclasses.replace(recipe.model, layers=jax.tree.map(lambda _: 1, recipe.model.layers))
    trained, plain = (models.build(model, form, n_classes=4) for form in (HRFConfig(sites=SITES), None))
    data = batch(rng, [1, 3], 40, recipe.frontend.n_mels)
    x = rng.standard_normal(data['codes'].shape).astype(np.float32)
    inputs = dataclasses.replace(plain_inputs(recipe), std=np.full(recipe.frontend.n_mels, 40, np.float32))
    # The first step of a warm-up has rate 0.
    optimizer = adamw(recipe.with_changes({'train.warmup_steps': 0}))
    state = jax.jit(functools.partial(loop.init_state, trained, optimizer, seed=0))(x)
    step = loop.make_step(recipe, trained, optimizer, None, recipe.seed, inputs)
    after, metrics = jax.jit(step)(state, data)
    assert np.isfinite(metrics['loss'])
    still = [
        name
        for (name, old), (_, new) in zip(
            checkpoint.leaves(state.variables), checkpoint.leaves(after.variables), strict=True
        )
        if np.array_equal(old, new)
    ]
    # A key's bias moves all logits of a query alike.
    assert [name for name in still if not name.endswith(('key/bias', 'key/hrf/bias_u', 'key/hrf/bias_v'))] == []
    logits = jax.jit(trained.apply)(after.variables, x)
    folded = reparam.dehrf(after.variables, strict=True)
    got = jax.jit(plain.apply)(folded, x)
    np.testing.assert_allclose(got, logits, atol=1e-5 * max(1, np.abs(logits).max()))


def test_corpora_of_recipes_are_those_that_can_be_prepared():
    assert set(corpora.NAMES) == set(config.CORPORA)


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (lambda: ConvTransformerConfig(width=15), 'width: expected a multiple of 4 heads, found 15'),
        (lambda: ConvTransformerConfig(layers=0), 'layers: expected at least 1, found 0'),
        (lambda: ConvTransformerConfig(dropout=1), 'dropout: expected 0 or more and less than 1, found 1'),
        (lambda: ConvTransformerConfig(channels=2.5), 'channels: expected a whole number, found 2.5'),
        (lambda: ConformerConfig(kernel=4), 'kernel: expected an odd number, found 4'),
        (lambda: ConformerConfig(positions='rel'), "positions: expected one of 'relative', 'none', found 'rel'"),
        (lambda: ConformerConfig(activation='gelu'), "activation: expected one of 'swish', 'relu', found 'gelu'"),
        (lambda: SpeechFormerConfig(layers=(1, 2)), 'layers: expected 4 values, found (1, 2)'),
        (lambda: SpeechFormerConfig(expand=(1, 0, 1)), 'expand[1]: expected at least 1, found 0'),
        (lambda: SpeechFormerConfig(hop_ms=0), 'hop_ms: expected at least 1, found 0'),
        (lambda: SpeechFormerConfig(head_dropout=-0.1), 'head_dropout: expected 0 or more and less than 1'),
        (lambda: HRFConfig(forward='both'), "forward: expected one of 'composed', 'two_step', found 'both'"),
        (lambda: HRFConfig(init='zeros'), "init: expected one of 'lecun', 'orthonormal', found 'zeros'"),
        (lambda: HRFConfig(decay='all'), "decay: expected one of 'none', 'factors', 'product', found 'all'"),
        (lambda: HRFConfig(expansion=-1), 'expansion: expected at least 0, found -1'),
        (lambda: HRFConfig(sites=('pointwize',)), "sites[0]: expected one of 'ffn_in', 'ffn_out', 'attention', "),
        (lambda: HRFConfig(branches=0), 'branches: expected at least 1, found 0'),
        (
            lambda: FORMER.with_changes({'hrf.sites': 'ffn_in,convolution'}),
            "hrf.sites: expected kinds of layers that speech_former has, found 'convolution'",
        ),
        (lambda: FrontendConfig(n_mels=0), 'n_mels: expected at least 1, found 0'),
        (lambda: FrontendConfig(frame_ms=0), 'frame_ms: expected at least 1, found 0'),
        (lambda: FrontendConfig(hop_ms=0), 'hop_ms: expected at least 1, found 0'),
        (lambda: FrontendConfig(n_fft=256), 'n_fft: expected a power of two of at least a frame of 400 sam'),
        (lambda: FrontendConfig(n_fft=600), 'n_fft: expected a power of two of at least a frame of 400 sam'),
        (lambda: FrontendConfig(fmax=8001), 'fmax: expected at most half the sample rate, 8000, found 8001.0'),
        (lambda: FrontendConfig(fmin=8000), 'fmin: expected less than fmax, 8000, found 8000.0'),
        (lambda: FrontendConfig(fmin=-1), 'fmin: expected at least 0, found -1'),
        (lambda: WindowSeconds(0), 'seconds: expected more than 0, found 0'),
        (lambda: WindowSeconds(hop_seconds=float('inf')), 'hop_seconds: expected a number, found inf'),
        (lambda: DataConfig('emod'), 'corpus: expected one of synth, emodb, '),
        (lambda: DataConfig(fold='-1'), "fold: expected a number or 'all', found '-1'"),
        (lambda: DataConfig(turns=-1), 'turns: expected at least 0, found -1'),
        (lambda: DataConfig(join='sum'), "join: expected one of '', 'mean', 'vote', found 'sum'"),
        (lambda: Recipe(TINY, seed=-1), 'seed: expected at least 0, found -1'),
        *(
            (functools.partial(AugmentConfig, **{name: -1}), f'{name}: expected at least 0, found -1')
            for name in ('freq_masks', 'freq_mask_bands', 'time_masks', 'time_mask_frames')
        ),
        *(
            (functools.partial(AugmentConfig, **{name: 1.0}), f'{name}: expected 0 or more and less than 1')
            for name in ('stretch', 'warp')
        ),
        *(
            (functools.partial(AugmentConfig, **{name: -0.1}), f'{name}: expected at least 0, found -0.1')
            for name in ('level_db', 'equaliser_db', 'tilt_db')
        ),
        (lambda: AugmentConfig(crop=0.5), 'crop: expected 0 or more and less than 0.5, found 0.5'),
        *(
            (functools.partial(AugmentConfig, **{name: 1.1}), f'{name}: expected 0 to 1, found 1.1')
            for name in ('field', 'noise', 'room', 'telephone')
        ),
        (lambda: VoiceConfig(one_class=-0.1), 'one_class: expected 0 to 1, found -0.1'),
        (lambda: AugmentConfig(level_db=float('inf')), 'level_db: expected a number, found inf'),
        (lambda: VoiceConfig(history=1.1), 'history: expected 0 to 1, found 1.1'),
        (lambda: VoiceConfig(history='half'), "history: expected a number, found 'half'"),
        (lambda: VoiceConfig(half_seconds=0), 'half_seconds: expected more than 0, found 0'),
        (lambda: VoiceConfig(after_seconds=-1), 'after_seconds: expected at least 0, found -1'),
        (lambda: VoiceConfig(most_seconds=0), 'most_seconds: expected more than 0, found 0'),
        *(
            (functools.partial(TrainConfig, **{name: 0}), f'{name}: expected at least 1, found 0')
            for name in ('steps', 'batch_size', 'eval_every')
        ),
        *(
            (functools.partial(TrainConfig, **{name: -1}), f'{name}: expected at least 0, found -1')
            for name in ('warmup_steps', 'weight_decay', 'site_rate', 'site_decay', 'clip_norm')
        ),
        *(
            (functools.partial(TrainConfig, **{name: 1.0}), f'{name}: expected 0 or more and less than 1')
            for name in ('label_smoothing', 'average')
        ),
        (lambda: TrainConfig(learning_rate=0), 'learning_rate: expected more than 0, found 0'),
        (lambda: TrainConfig(learning_rate=float('nan')), 'learning_rate: expected a number, found nan'),
    ],
)
def test_bounds(make, message):
    with pytest.raises(ValueError, match='expected') as caught:
        make()
    assert re.match(pattern(message), str(caught.value))


def numbers(kind, *path):
    """Where the fields of a dataclass, and of those in it, lie that are numbers."""
    for name, hint in schema.field_types(kind).items():
        inner = get_args(hint)[0] if get_origin(hint) is Annotated else hint
        if dataclasses.is_dataclass(inner):
            yield from numbers(inner, *path, name)
        elif inner in (int, float):
            yield (*path, name)


@pytest.mark.parametrize('model', [ConvTransformerConfig, ConformerConfig, SpeechFormerConfig])
@pytest.mark.parametrize(
    'odd',
    [10**20, 2**31, -(10**20), -1, 1e300, -1e300, float('nan'), float('inf'), True, '1', None, [1], 1.5j],
    ids=str,
)
def test_no_number_of_a_recipe_is_without_bounds(model, odd):
    """Each number of a recipe refuses what is none, what is below 0, and what no memory or 32-bit counter holds."""
    recipe = Recipe(model())
    places = [('model', *path) for path in numbers(model)] + list(numbers(Recipe))
    assert len(places) > 40
    for *sections, name in places:
        # A fold and a random key may be any number of 32 bits.
        if (name, odd) == ('seed', 2**31):
            continue
        values = recipe.as_json()
        place = values
        for section in sections:
            place = place[section]
        place[name] = odd
        with pytest.raises(ValueError, match=rf'^{".".join((*sections, name))}: expected .*, found ') as error:
            Recipe.from_json(values)
        assert str(error.value).isprintable()


@pytest.mark.parametrize('sites', [3, None, [3], ['ffn'], [None], {'ffn_in': 1}, True])
def test_sites_that_are_none(sites):
    with pytest.raises(ValueError, match=r'^sites(\[0\])?: expected '):
        HRFConfig(sites=sites)


def test_the_largest_seed_makes_a_key():
    largest = Recipe(TINY, seed=2**32 - 1).seed
    assert jax.random.key(largest) != jax.random.key(0)
    with pytest.raises(ValueError, match='seed: expected at most 4,294,967,295, found 4294967296'):
        Recipe(TINY, seed=2**32)


@pytest.mark.parametrize('fold', ['²', '1' * 100, '1.0', ' 1', '+1', '\u0663', ''])
def test_folds_that_are_no_numbers(fold):
    with pytest.raises(ValueError, match=r"^fold: expected a number or 'all', found "):
        DataConfig(fold=fold)


@pytest.mark.parametrize('name', ['source', 'cache', 'protocol'])
def test_texts_with_control_characters(name):
    with pytest.raises(ValueError, match=rf'^{name}: expected text on one line, found '):
        DataConfig(**{name: 'a\0b'})


@pytest.mark.parametrize(
    ('recipe', 'changes', 'message'),
    [
        (RECIPE, {'window.seconds': 0.49}, 'window.seconds: expected at least 0.5 (speech has to fit), found 0.49'),
        (RECIPE, {'window.seconds': 0.001}, 'window.seconds: expected at least 0.5 (speech has to fit), found 0.001'),
        (RECIPE, {'window.hop_seconds': 0.65}, 'window.hop_seconds: expected 0.01 (one frame) to 0.64 (the window)'),
        (RECIPE, {'window.hop_seconds': 0.001}, 'window.hop_seconds: expected 0.01 (one frame) to 0.64 (the window)'),
        (FORMER, {'model.hop_ms': 20}, "model.hop_ms: expected the frontend's, 10, found 20"),
        (FORMER, {'frontend.n_mels': 7}, 'model.heads: expected at most the 7 mel bands, found 8'),
        (
            FORMER,
            {'window.seconds': 20.01},
            'window.seconds: expected at most 2000 frames (the position table) of 10 ms',
        ),
        # E = 4: the first layers' D is 16, the second ones' F.
        (RECIPE, {'hrf.expansion': 0.25}, 'hrf.expansion: expected E >= min(D, F) = 16 at ffn_in, found 0.25: E = 4 ('),
        (
            RECIPE,
            {'train.site_norms': 'runs/a,runs/b'},
            'hrf.expansion: expected 0 (a plain model) with train.site_norms, found 4',
        ),
        (RECIPE, {'hrf.sites': '', 'train.site_rate': 2.0}, "hrf.sites: expected any of attention, .*, found ''"),
    ],
)
def test_what_belongs_together(recipe, changes, message):
    with pytest.raises(ValueError, match='expected') as caught:
        recipe.with_changes(changes)
    assert re.match(pattern(message), str(caught.value))


def test_the_shortest_window_holds_speech():
    recipe = RECIPE.with_changes({'window.seconds': 0.5})
    assert recipe.window_config.frames == 50 > 2 * Rule.of(recipe.frontend).shortest - 1


def test_a_speech_former_takes_as_many_frames_as_it_has_positions():
    assert FORMER.with_changes({'window.seconds': 20}).window_config.frames == config.POSITIONS


@pytest.mark.parametrize('path', RECIPES, ids=lambda path: path.stem)
@pytest.mark.parametrize('n_mels', [0, 13])
def test_shapes_of_sites_are_those_of_the_model(path, n_mels):
    recipe = load_recipe(path)
    n_mels = n_mels or recipe.frontend.n_mels
    for site in SITES:
        model = models.build(recipe.model, HRFConfig(sites=(site,)), n_classes=4)
        tree = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 40, n_mels)))
        shapes = {name: leaf.shape for name, leaf in checkpoint.leaves(tree)}
        found = {
            (shape[0], shapes[name.removesuffix('_u') + '_v'][1])
            for name, shape in shapes.items()
            if name.endswith('kernel_u')
        }
        assert {(d, f) for kind, d, f in recipe.model.sites(n_mels) if kind == site} == found


def refused(make):
    with contextlib.suppress(ValueError):
        make()
        return False
    return True


@pytest.mark.parametrize('model', TINY_MODELS.values(), ids=list(TINY_MODELS))
@pytest.mark.parametrize('site', [site for site in SITES if site != 'convolution'])
def test_the_least_expansion_is_that_of_the_layers(model, site):
    """A recipe refuses what its model would, and takes what it takes."""
    found = set()
    for expansion in (0.05, 0.1, 0.2, 0.25, 0.3, 0.45, 0.5, 0.6, 0.7, 0.9, 1.0, 1.5):
        hrf = HRFConfig(expansion, sites=(site,))
        init = models.build(model, hrf, n_classes=3).init
        late = refused(lambda init=init: jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, 8, 12))))
        assert refused(lambda hrf=hrf: Recipe(model, hrf=hrf, frontend=FrontendConfig(n_mels=12))) == late, expansion
        found.add(late)
    assert found == {True, False}


def test_sites_are_in_their_own_order_and_once():
    assert HRFConfig(sites=('attention', 'ffn_in', 'attention')).sites == ('ffn_in', 'attention')
    assert HRFConfig(sites='attention, ffn_in').sites == ('ffn_in', 'attention')
    hrf = HRFConfig(sites=['ffn_out'])
    assert hrf.at('ffn_out') is hrf
    assert hrf.at('ffn_in') is config.PLAIN
    assert dataclasses.replace(HRFConfig(), expansion=0) == config.PLAIN


def test_changes_are_read_as_flags():
    recipe = RECIPE.with_changes(
        {
            'train.steps': '300',
            'hrf.sites': 'attention,ffn_in',
            'seed': '7',
            'data.fold': 'all',
            'augment.room': '0.25',
            'voice.history': '0.5',
        }
    )
    assert (recipe.augment.room, recipe.voice) == (0.25, VoiceConfig(history=0.5))
    assert (recipe.train.steps, recipe.seed, recipe.data.fold) == (300, 7, 'all')
    assert recipe.hrf.sites == ('ffn_in', 'attention')
    assert recipe.train == dataclasses.replace(RECIPE.train, steps=300)
    assert RECIPE.with_changes({'data.accept_mismatch': True}).data.accept_mismatch
    # The two together, either of which alone would be refused.
    assert RECIPE.with_changes({'model.heads': 3, 'model.width': 18}).model.width == 18


def test_the_hop_of_a_speech_former_follows_its_frontend():
    assert FORMER.with_changes({'frontend.hop_ms': '20'}).model.hop_ms == 20
    with pytest.raises(ValueError, match=r"model\.hop_ms: expected the frontend's, 20, found 10"):
        FORMER.with_changes({'frontend.hop_ms': '20', 'model.hop_ms': '10'})


@pytest.mark.parametrize(
    ('key', 'message'),
    [
        ('train.stps', "train: expected one of .*, found 'stps'; did you mean 'steps'?"),
        ('trian.steps', "recipe: expected one of .*, found 'trian'; did you mean 'train'?"),
        ('sed', "recipe: expected one of .*, found 'sed'; did you mean 'seed'?"),
        ('seed.x', "recipe: expected one of .*, found 'seed'"),
        ('train', "train: expected TrainConfig, found '1'"),
        ('model.name', "model: expected one of .*, found 'name'"),
        ('frontend.sample_rate', "frontend: expected one of .*, found 'sample_rate'"),
        ('frontend.floor', "frontend: expected one of .*, found 'floor'"),
        ('augment.equalizer_db', "augment: expected one of .*, found 'equalizer_db'; did you mean 'equaliser_db'?"),
        ('augment.noises', "augment: expected one of .*, found 'noises'; did you mean 'noise'?"),
        ('voice.histroy', "voice: expected one of .*, found 'histroy'; did you mean 'history'?"),
        ('voices.history', "recipe: expected one of .*, found 'voices'; did you mean 'voice'?"),
    ],
)
def test_keys_that_are_none(key, message):
    with pytest.raises(ValueError, match='expected') as caught:
        RECIPE.with_changes({key: '1'})
    assert re.match(pattern(message), str(caught.value))


def test_a_recipe_in_json_has_the_layout_of_every_run():
    values = RECIPE.as_json()
    assert list(values) == ['model', 'hrf', 'frontend', 'window', 'data', 'augment', 'voice', 'train', 'seed']
    assert next(iter(values['model'].items())) == ('name', 'conv_transformer')
    assert (values['frontend']['sample_rate'], values['frontend']['floor']) == (16000, 1e-9)
    assert values['hrf']['sites'] == ['ffn_in']


def test_recipes_of_earlier_runs_are_read():
    values = RECIPE.as_json()
    del values['data']['turns'], values['data']['join'], values['data']['accept_mismatch'], values['hrf']['sites']
    assert Recipe.from_json(values) == RECIPE


@pytest.mark.parametrize(
    ('section', 'change', 'message'),
    [
        ('frontend', {'sample_rate': 8000}, 'frontend.sample_rate: expected 16000, found 8000'),
        ('frontend', {'floor': 1e-7}, 'frontend.floor: expected 1e-09, found 1e-07'),
        ('voice', {'history': 2}, 'voice.history: expected 0 to 1, found 2'),
        ('voice', {'past': 2}, "voice: expected one of .*, found 'past'"),
        ('augment', {'crop': 0.6}, 'augment.crop: expected 0 or more and less than 0.5, found 0.6'),
        ('model', {'name': 'lstm'}, "model.name: expected one of 'conv_transformer', 'conformer', 'speech_former', fo"),
        ('model', {'widht': 3}, "model: expected one of .*, found 'widht'; did you mean 'width'?"),
        ('model', {'kernel': 3}, "model: expected one of .*, found 'kernel'"),
        ('train', {'steps': '3'}, "train.steps: expected a whole number, found '3'"),
        ('train', {'steps': 0}, 'train.steps: expected at least 1, found 0'),
        ('model', {'width': 15}, 'model.width: expected a multiple of 2 heads, found 15'),
        ('hrf', {'sites': ['ffn']}, "hrf.sites[0]: expected one of 'ffn_in', "),
        ('hrf', {'sites': 3}, 'hrf.sites: expected a list, found 3'),
    ],
)
def test_json_that_is_wrong_is_named(section, change, message):
    values = RECIPE.as_json()
    values[section] |= change
    with pytest.raises(ValueError, match='expected') as caught:
        Recipe.from_json(values)
    assert re.match(pattern(message), str(caught.value))


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('get_config = ', r'expected a recipe \(.*\), found SyntaxError: invalid syntax'),
        ('import no_such_module', "found ModuleNotFoundError: No module named 'no_such_module'"),
        ('', "found AttributeError: module 'bad' has no attribute 'get_config'"),
        ('def get_config(): ...', 'found TypeError: get_config.. takes 0 positional arguments'),
        ('def get_config(corpus): return {}', r'expected a recipe \(.*\), found dict'),
        (
            'from jax_reparam.config import *\ndef get_config(corpus): return Recipe(ConformerConfig(widht=3))',
            "found TypeError: .* unexpected keyword argument 'widht'",
        ),
        (
            'from jax_reparam.config import *\ndef get_config(corpus): return Recipe(ConformerConfig(width=3))',
            r'width: expected a multiple of 4 heads, found 3$',
        ),
    ],
)
def test_a_broken_recipe(tmp_path, monkeypatch, text, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'bad.py').write_text(text)
    with pytest.raises(InputError, match=rf'^bad\.py: (expected .*, )?{message}') as caught:
        load_recipe('bad.py')
    assert '\n' not in str(caught.value)


def test_a_recipe_that_is_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'recipe.txt').write_text('')
    for path, message in (
        ('nowhere.py', 'nowhere.py: expected a recipe, found no such file'),
        ('transformer_sx', "^recipe: expected one of .*, found 'transformer_sx'; did you mean 'transformer_"),
        ('.', r'\.: expected a recipe, found a folder'),
        ('recipe.txt', 'recipe.txt: expected a recipe in Python'),
    ):
        with pytest.raises(InputError, match=message):
            load_recipe(path)
    with pytest.raises(
        InputError, match=r"_s\.py: data\.corpus: expected one of .*, found 'emod'; did you mean 'emodb'"
    ):
        load_recipe(ROOT / 'configs/transformer_s.py', 'emod')
