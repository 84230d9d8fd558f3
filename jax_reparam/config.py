"""The recipe: what one training run is told, with every default and every bound.

All of it is checked when a recipe is made, before any work. Neither jax nor TensorFlow is imported.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args

from jax_reparam import schema
from jax_reparam.errors import InputError, known, one_line
from jax_reparam.frontend.features import FrontendConfig
from jax_reparam.frontend.voice import VoiceConfig
from jax_reparam.frontend.windows import WindowConfig
from jax_reparam.schema import Amount, Bound, Count, Positive, Rate, Share, Size, at_most

# The recipes: an installed package has them as jax_reparam.recipes, a checkout in configs/.
_PACKAGE = Path(__file__).parent
RECIPES = next(folder for folder in (_PACKAGE / 'recipes', _PACKAGE.parent / 'configs') if folder.is_dir())

# What a corpus changes in a recipe; `configs/NAME.py:emodb` picks one.
CORPORA: Mapping[str, Mapping[str, Any]] = {
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
    'ravdess': {
        'train.steps': 2400,
        'train.eval_every': 100,
        # Its quiet emotions are recorded quietly; a clamp of 8 lets a model hear that (docs/field.md).
        'frontend.clamp_nats': 6.0,
        # A model that fits its training speakers less closely keeps more decisions at another level (docs/field.md).
        'augment.stretch': 0.15,
        'augment.warp': 0.1,
        'train.weight_decay': 0.5,
    },
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
CORPORA_XS: Mapping[str, Mapping[str, Any]] = {
    'emodb': {'train.weight_decay': 0.5},
    'ravdess': {'augment.mixup': 0.2, 'train.learning_rate': 2e-3},
}

# Keys that say where something lies on this machine.
PLACES = ('data.source', 'data.cache', 'train.init', 'train.step_from')
# The protocol in which every clip trains.
ALL = 'all'
Site = Literal['ffn_in', 'ffn_out', 'attention', 'pointwise', 'convolution']
SITES: tuple[Site, ...] = get_args(Site)
Pooling = Literal['mean', 'statistics']
# Frames in SpeechFormer's position table.
POSITIONS = 2000
# Of both ends of a clip so much may go that something stays.
Crop = Annotated[float, Bound('0 or more and less than 0.5', lambda value: 0 <= value < 0.5)]
# Seconds of a window.
SHORTEST_WINDOW = 0.5
# The upper bounds lie far beyond what anybody trains, and within what memory, counters and random keys of 32 bits take:
# a slip of the finger is named at once, and not by an allocator or a loop without an end.
Width = Annotated[Size, at_most(1 << 14)]
Depth = Annotated[Size, at_most(256)]
Steps = Annotated[Size, at_most(1_000_000_000)]
Seconds = Annotated[Positive, at_most(3600)]
Masks = Annotated[Count, at_most(100)]
Span = Annotated[Count, at_most(100_000)]
Expand = Annotated[Size, at_most(16)]
Decibels = Annotated[Amount, at_most(200)]
Expansion = Annotated[Amount, at_most(256)]
Branches = Annotated[Size, at_most(64)]
Batch = Annotated[Size, at_most(1 << 20)]
Warmup = Annotated[Count, at_most(1_000_000_000)]
Seed = Annotated[Count, at_most((1 << 32) - 1)]
LearningRate = Annotated[Positive, at_most(1e6)]
Factor = Annotated[Amount, at_most(1e6)]
Line = Annotated[str, Bound('text on one line', lambda text: not set('\0\n') & set(text))]


class _Encoder(schema.Checked):
    """What ConvTransformer and Conformer share; the fields are theirs."""

    channels: int
    width: int
    heads: int
    ffn_width: int

    def __post_init__(self) -> None:
        super().__post_init__()
        schema.expect(self.width % self.heads == 0, 'width', f'a multiple of {self.heads} heads', self.width)

    def sites(self, n_mels: int) -> Iterator[tuple[Site, int, int]]:
        """The shapes of the layers that may be HRF sites: kind, input width, output width."""
        # Two convolutions of stride 2 leave a quarter of the bands.
        yield 'pointwise', self.channels * math.ceil(n_mels / 4), self.width
        yield 'attention', self.width, self.width
        yield 'ffn_in', self.width, self.ffn_width
        yield 'ffn_out', self.ffn_width, self.width


@dataclasses.dataclass(frozen=True)
class ConvTransformerConfig(_Encoder):
    """Sizes of a ConvTransformer; the defaults are S.

    Attributes:
      name: of the architecture.
      channels: channels of both convolutions.
      width: token width D.
      layers: number of encoder layers L.
      heads: attention heads H; D is a multiple of it.
      ffn_width: inner width F of the feed-forward networks.
      dropout: rate in the residual branches, the feed-forward networks and before the classifier, in training.
      attention_dropout: rate on the attention probabilities, in training.
      pooling: what the classifier reads of the tokens: their `mean`, or the mean and standard deviation of each channel
        (`statistics`).
      deltas: whether the first convolution reads the first and second derivative of the features over time, too; on a
        device it is one convolution over 11 frames in place of 3.
    """

    name: ClassVar[str] = 'conv_transformer'
    channels: Width = 16
    width: Width = 96
    layers: Depth = 4
    heads: Width = 4
    ffn_width: Width = 384
    dropout: Rate = 0.1
    attention_dropout: Rate = 0.1
    pooling: Pooling = 'mean'
    deltas: bool = False


@dataclasses.dataclass(frozen=True)
class ConformerConfig(_Encoder):
    """Sizes of a Conformer; the defaults are S.

    Attributes:
      name: of the architecture.
      channels: channels of both subsampling convolutions.
      width: token width D.
      layers: number of blocks L.
      heads: attention heads H; D is a multiple of it.
      ffn_width: inner width F of the feed-forward networks.
      kernel: frames that the depthwise convolution sees, odd.
      positions: `relative` (Transformer-XL), or `none` as in torchaudio's Conformer.
      activation: in the feed-forward networks and after the depthwise convolution: `swish` (the paper), or `relu`,
        which costs no operator of its own on a device.
      dropout: rate after each module, in the feed-forward networks and before the classifier, in training.
      attention_dropout: rate on the attention probabilities, in training.
      pooling: what the classifier reads of the tokens: their `mean`, or the mean and standard deviation of each channel
        (`statistics`).
      deltas: whether the first convolution reads the first and second derivative of the features over time, too; on a
        device it is one convolution over 11 frames in place of 3.
    """

    name: ClassVar[str] = 'conformer'
    channels: Width = 16
    width: Width = 64
    layers: Depth = 4
    heads: Width = 4
    ffn_width: Width = 256
    kernel: Width = 15
    positions: Literal['relative', 'none'] = 'relative'
    activation: Literal['swish', 'relu'] = 'swish'
    dropout: Rate = 0.1
    attention_dropout: Rate = 0.1
    pooling: Pooling = 'mean'
    deltas: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        schema.expect(self.kernel % 2 == 1, 'kernel', 'an odd number', self.kernel)

    def sites(self, n_mels: int) -> Iterator[tuple[Site, int, int]]:
        """The shapes of the layers that may be HRF sites: kind, input width, output width."""
        yield from super().sites(n_mels)
        yield 'pointwise', self.width, 2 * self.width
        yield 'pointwise', self.width, self.width


@dataclasses.dataclass(frozen=True)
class SpeechFormerConfig(schema.Checked):
    """Sizes of a SpeechFormer; the defaults are S. The width C is the number of mel bands.

    Attributes:
      name: of the architecture.
      hop_ms: distance between frames in milliseconds, from which windows and merges follow; the frontend's.
      layers: layers of the four stages.
      heads: attention heads H; mel bands beyond a multiple of it are left out.
      expand: factor of the width after each merge.
      dropout: rate on the attention's output, after the ReLU and after each feed-forward network, in training.
      attention_dropout: rate on the attention probabilities, in training.
      head_dropout: rate between the layers of the classifier, in training.
    """

    name: ClassVar[str] = 'speech_former'
    hop_ms: Width = 10
    layers: tuple[Depth, Depth, Depth, Depth] = (2, 2, 4, 4)
    heads: Width = 8
    expand: tuple[Expand, Expand, Expand] = (1, 1, 1)
    dropout: Rate = 0.1
    attention_dropout: Rate = 0.1
    head_dropout: Rate = 0.5

    def sites(self, n_mels: int) -> Iterator[tuple[Site, int, int]]:
        """The shapes of the layers that may be HRF sites: kind, input width, output width."""
        width = n_mels - n_mels % self.heads
        for expand in (*self.expand, None):
            yield 'attention', width, 3 * width
            yield 'attention', width, width
            yield 'ffn_in', width, width // 2
            yield 'ffn_out', width // 2, width
            if expand:
                yield 'pointwise', width, width * expand
                width *= expand


ModelConfig = ConvTransformerConfig | ConformerConfig | SpeechFormerConfig


@dataclasses.dataclass(frozen=True)
class HRFConfig(schema.Checked):
    """How the layers at HRF sites are trained.

    Attributes:
      expansion: E / D, the width of the extra linear layer over its input's; 0 trains the plain layers, convolutions
        too.
      forward: `composed` multiplies the factors first and applies one layer (the price of a plain layer), `two_step`
        applies one after the other. Values and gradients are equal to rounding.
      init: `lecun` draws both factors by fan-in (LeCun), scaled to the variance of the plain kernel; `orthonormal`
        starts as the very function of the plain layer of the same seed. See `layers.Branches` for convolutions.
      decay: weight decay at the sites: `none`, on both `factors`, or on their `product`. The kernels of a convolution's
        branches decay as the plain convolution's does, unless it is `none`.
      sites: which linear layers of a model are sites, any of `ffn_in` and `ffn_out` (first and second layer of every
        feed-forward network; the first is the paper's site), `attention` (query, key, value and output projections) and
        `pointwise` (the other layers that map each token by itself: Conformer's pointwise convolutions, the projection
        after the convolutions, SpeechFormer's merging layers), `convolution` (the convolutions at the front,
        Conformer's depthwise convolution; they are trained as branches). `'ffn_in,attention'` is read as two.
      branches: of each convolution that is a site, each with its own batch normalisation: 1 is the convolution alone
        (the control), the second is a 1 x 1 convolution, the third the identity where stride and channels allow it, all
        others are convolutions as the first.
    """

    expansion: Expansion = 4.0
    forward: Literal['composed', 'two_step'] = 'composed'
    init: Literal['lecun', 'orthonormal'] = 'lecun'
    decay: Literal['none', 'factors', 'product'] = 'product'
    sites: tuple[Site, ...] = ('ffn_in',)
    branches: Branches = 3

    def __post_init__(self) -> None:
        if isinstance(self.sites, str):
            object.__setattr__(self, 'sites', schema.from_text(tuple[Site, ...], self.sites, 'sites'))
        super().__post_init__()
        object.__setattr__(self, 'sites', tuple(site for site in SITES if site in self.sites))

    def at(self, site: Site) -> HRFConfig:
        """The training form of a layer of that kind: this one where it is a site, `PLAIN` elsewhere."""
        return self if site in self.sites else PLAIN


PLAIN = HRFConfig(expansion=0)


@dataclasses.dataclass(frozen=True)
class WindowSeconds(schema.Checked):
    """Length and spacing of windows, in seconds.

    Attributes:
      seconds: length of a window.
      hop_seconds: distance between the starts of two windows of one clip.
    """

    seconds: Seconds = 4.0
    hop_seconds: Seconds = 2.0


@dataclasses.dataclass(frozen=True)
class DataConfig(schema.Checked):
    """What is trained on.

    Attributes:
      corpus: its name; what follows a slash is the corpus's own choice, of labels for example.
      source: folder (or table) of a corpus that is not embedded.
      cache: folder of prepared corpora and features; '' is $JAX_REPARAM_CACHE, else ~/.cache/jax_reparam.
      protocol: how clips are split; '' is the corpus's own.
      fold: a number, or `all`.
      accept_mismatch: train on a copy with other counts than the published ones.
      turns: the longest clips of each speaker that are used, where a decision is by speaker; 0 is the protocol's.
      join: how these make one decision, `mean` or `vote`; '' is the protocol's.
    """

    corpus: str = 'synth'
    source: Line = ''
    cache: Line = ''
    protocol: Line = ''
    fold: str = '0'
    accept_mismatch: bool = False
    turns: Span = 0
    join: Literal['', 'mean', 'vote'] = ''

    def __post_init__(self) -> None:
        super().__post_init__()
        known('corpus', self.corpus, tuple(CORPORA))
        number = self.fold.isascii() and self.fold.isdecimal() and len(self.fold) < 10
        schema.expect(self.fold == 'all' or number, 'fold', "a number or 'all'", self.fold)


@dataclasses.dataclass(frozen=True)
class AugmentConfig(schema.Checked):
    """How strongly training features are varied; every window draws its own values.

    Attributes:
      freq_masks: number of frequency masks (SpecAugment).
      freq_mask_bands: largest width of one, in mel bands.
      time_masks: number of time masks (SpecAugment).
      time_mask_frames: largest width of one, in frames.
      stretch: largest change of tempo, as a share: 0.15 plays a window at 0.85 to 1.15 of its speed.
      warp: largest scaling of the mel axis, as a share (vocal tract length perturbation, Jaitly and Hinton 2013).
      crop: largest share of a clip that is cut off at either end.
      field: share of windows that come from another microphone or room; what follows varies these alone.
      level_db: largest attenuation, before the floor.
      equaliser_db: largest gain or attenuation of a random, smooth frequency response.
      tilt_db: largest tilt of the frequency response, per octave.
      noise: share of them with noise (white, pink, brown, others' speech, or a tone) 5 to 40 dB below.
      room: share of them in a room (reverberation of 0.2 to 1 s).
      telephone: share of them in a telephone's band.
      mixup: a window and its label are mixed with those of another clip of the batch, in shares drawn from
        Beta(mixup, mixup) (Zhang et al. 2018); 0 does not mix.
    """

    freq_masks: Masks = 2
    freq_mask_bands: Span = 10
    time_masks: Masks = 2
    time_mask_frames: Span = 40
    stretch: Rate = 0.0
    warp: Rate = 0.0
    crop: Crop = 0.0
    field: Share = 0.5
    level_db: Decibels = 20.0
    equaliser_db: Decibels = 6.0
    tilt_db: Decibels = 2.0
    noise: Share = 0.5
    room: Share = 0.0
    telephone: Share = 0.0
    mixup: Factor = 0.0


@dataclasses.dataclass(frozen=True)
class TrainConfig(schema.Checked):
    """How the optimizer trains.

    Attributes:
      steps: optimizer steps in all.
      batch_size: windows per step, over all devices.
      learning_rate: its peak.
      warmup_steps: steps of linear warm-up.
      hold: share of the other steps at the peak rate; a cosine to 0 follows.
      weight_decay: decoupled (AdamW), on kernels; at HRF sites as `hrf.decay` says.
      label_smoothing: share of the target spread over all classes.
      class_weights: weigh clips by the inverse frequency of their class among the training clips.
      site_rate: what Adam's step is multiplied by at the kernels that `hrf.sites` names, and at HRF's factors there;
        the weight decay is not multiplied.
      site_decay: what the weight decay is multiplied by at these kernels; 0 does not decay them.
      log_site_norms: log how far each step moves these kernels (HRF: the product), as `site_norm/LAYER`.
      site_norms: runs (or their metrics.jsonl) with `log_site_norms`; a plain model's updates of these kernels get the
        mean of their norms, step by step. `A,B` is read as two.
      teacher: trained runs of the same fold, whose mean probabilities of the augmented window are the targets in place
        of its label; runs with other training speakers are refused. `A,B` is read as two.
      clip_norm: largest global norm of the gradient; 0 does not clip.
      average: decay of the moving average of parameters and batch statistics that is validated, kept and folded
        (Polyak averaging), over at most a third of the steps done; 0 keeps the last values.
      eval_every: steps between validations (and checkpoints).
      init: a model to start from, of the same architecture: a training folder, a folder that `fold.py` wrote, or
        `emodb_xs`, which is in the package. A classifier for other labels is new; plain layers become HRF sites.
      step_from: for `data.protocol=all`, which has nothing to choose a checkpoint by: the folder of a run of this
        recipe over all folds of another protocol. Training ends at the median of the steps that its folds chose, and
        their scores travel with the model. '' trains all steps.
    """

    steps: Steps = 1000
    batch_size: Batch = 32
    learning_rate: LearningRate = 1e-3
    warmup_steps: Warmup = 100
    hold: Rate = 0.0
    weight_decay: Factor = 0.01
    label_smoothing: Rate = 0.1
    class_weights: bool = False
    site_rate: Factor = 1.0
    site_decay: Factor = 1.0
    log_site_norms: bool = False
    site_norms: tuple[Line, ...] = ()
    teacher: tuple[Line, ...] = ()
    clip_norm: Factor = 1.0
    average: Rate = 0.99
    eval_every: Steps = 50
    init: str = ''
    step_from: str = ''


@dataclasses.dataclass(frozen=True)
class Recipe(schema.Checked):
    """All that one training run is told; the defaults train with HRF on the synthetic corpus.

    Raises:
      ValueError: `SECTION.KEY: expected ..., found ...`.
    """

    model: ModelConfig
    hrf: HRFConfig = HRFConfig()
    frontend: FrontendConfig = dataclasses.field(default_factory=FrontendConfig)
    window: WindowSeconds = WindowSeconds()
    data: DataConfig = DataConfig()
    augment: AugmentConfig = AugmentConfig()
    voice: VoiceConfig = dataclasses.field(default_factory=VoiceConfig)
    train: TrainConfig = TrainConfig()
    seed: Seed = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_window()
        self._check_all()
        if isinstance(self.model, SpeechFormerConfig):
            self._check_speech_former(self.model)
        if self.hrf.expansion:
            self._check_expansion()
        if self.asks_for_sites:
            kinds = {site for site, _, _ in self.model.sites(self.frontend.n_mels)}
            named = ','.join(self.hrf.sites)
            schema.expect(bool(kinds & set(self.hrf.sites)), 'hrf.sites', f'any of {", ".join(sorted(kinds))}', named)

        plain = not self.train.site_norms or self.hrf.expansion == 0
        schema.expect(plain, 'hrf.expansion', '0 (a plain model) with train.site_norms', self.hrf.expansion)

    def _check_all(self) -> None:
        data, source = self.data, self.train.step_from
        if data.protocol == ALL:
            schema.expect(data.fold == '0', 'data.fold', f'0 (protocol {ALL} has one)', data.fold)
        else:
            schema.expect(not source, 'train.step_from', f'data.protocol={ALL}', data.protocol or "the corpus's own")

    def _check_window(self) -> None:
        seconds, hop, frame = self.window.seconds, self.window.hop_seconds, self.frontend.hop_ms / 1000
        frames, hop_frames = self._frames(seconds), self._frames(hop)
        schema.expect(
            seconds >= SHORTEST_WINDOW, 'window.seconds', f'at least {SHORTEST_WINDOW} (speech has to fit)', seconds
        )
        fits = 1 <= hop_frames <= frames
        schema.expect(fits, 'window.hop_seconds', f'{frame:g} (one frame) to {seconds:g} (the window)', hop)

    def _check_speech_former(self, model: SpeechFormerConfig) -> None:
        hop_ms, n_mels, frames = self.frontend.hop_ms, self.frontend.n_mels, self.window_config.frames
        schema.expect(model.hop_ms == hop_ms, 'model.hop_ms', f"the frontend's, {hop_ms}", model.hop_ms)
        schema.expect(model.heads <= n_mels, 'model.heads', f'at most the {n_mels} mel bands', model.heads)
        fits = f'at most {POSITIONS} frames (the position table) of {hop_ms} ms'
        schema.expect(frames <= POSITIONS, 'window.seconds', fits, self.window.seconds)
        dense = 'convolution' not in self.hrf.sites or not self.hrf.expansion
        schema.expect(dense, 'hrf.sites', f'kinds of layers that {model.name} has', 'convolution')

    def _check_expansion(self) -> None:
        for site, width, features in self.model.sites(self.frontend.n_mels):
            inner, least = round(self.hrf.expansion * width), min(width, features)
            if site in self.hrf.sites and inner < least:
                raise ValueError(
                    f'hrf.expansion: expected E >= min(D, F) = {least} at {site}, '
                    f'found {self.hrf.expansion:g}: E = {inner} (D {width}, F {features})'
                )

    def _frames(self, seconds: float) -> int:
        return round(seconds * (1000 / self.frontend.hop_ms))

    @property
    def asks_for_sites(self) -> bool:
        """Whether training treats HRF's sites, or the plain layers there, otherwise than the other layers."""
        train = self.train
        return (train.site_rate, train.site_decay) != (1, 1) or train.log_site_norms or bool(train.site_norms)

    @property
    def window_config(self) -> WindowConfig:
        """Length and spacing of windows, in frames."""
        return WindowConfig(self._frames(self.window.seconds), self._frames(self.window.hop_seconds))

    def without_places(self) -> Recipe:
        """The recipe for whoever has the files elsewhere."""
        return self.with_changes(dict.fromkeys(PLACES, ''))

    def as_json(self) -> dict[str, Any]:
        """What config.json and checkpoints hold: an object per section."""
        return dict(schema.to_json(self))

    @classmethod
    def from_json(cls, values: Any, key: str = '') -> Recipe:
        """Reads what `as_json` gave; what an earlier run does not have keeps its default.

        Raises:
          ValueError: see `Recipe`.
        """
        return schema.from_json(cls, values, key)

    def with_changes(self, changes: Mapping[str, Any]) -> Recipe:
        """The recipe with other values, by `section.key`; texts are read as flags: `{'train.steps': '300'}`.

        The hop of a SpeechFormer follows that of its frontend.

        Raises:
          ValueError: no such key (the nearest is named), or see `Recipe`.
        """
        values = self.as_json()
        if isinstance(self.model, SpeechFormerConfig) and 'frontend.hop_ms' in changes:
            changes = {'model.hop_ms': changes['frontend.hop_ms'], **changes}
        sections = tuple(name for name in values if name != 'seed')
        for key, value in changes.items():
            section, dot, name = key.rpartition('.')
            if dot:
                known('recipe', section, sections)
            owner, place = (getattr(self, section), values[section]) if dot else (self, values)
            kinds = schema.field_types(type(owner))
            kind = kinds[known(section or 'recipe', name, tuple(kinds))]
            place[name] = schema.from_text(kind, value, key) if isinstance(value, str) else value
        return Recipe.from_json(values)

    def for_corpus(self, corpus: str, *, xs: bool = False) -> Recipe:
        """The recipe for a corpus ('' is its own), with what goes with it, and with the smallest size (`xs`).

        Raises:
          InputError: no such corpus.
        """
        corpus = corpus or self.data.corpus
        known('data.corpus', corpus, tuple(CORPORA))
        more = CORPORA_XS.get(corpus, {}) if xs else {}
        return self.with_changes({'data.corpus': corpus, **CORPORA[corpus], **more})


def load_recipe(path: str | Path, corpus: str = '') -> Recipe:
    """Loads a recipe from a config file, or by its name (`transformer_s`), for one corpus; '' is the recipe's own.

    Raises:
      InputError: no such file, or one that does not give a recipe.
    """
    path = Path(path)
    if not path.suffix and len(path.parts) == 1 and not path.exists():
        path = RECIPES / f'{known("recipe", path.name, recipes())}.py'
    if not path.is_file():
        raise InputError(f'{path}: expected a recipe, found {"a folder" if path.is_dir() else "no such file"}')
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise InputError(f'{path}: expected a recipe in Python, found a file whose name does not end with .py')
    module = importlib.util.module_from_spec(spec)
    expected = f'{path}: expected a recipe (get_config(corpus) gives a Recipe), found'
    # The file is the user's, and may raise anything.
    try:
        spec.loader.exec_module(module)
        recipe = module.get_config(corpus)
    except ValueError as error:  # as a Recipe raises it
        raise InputError(f'{path}: {one_line(error)}') from error
    except Exception as error:
        raise InputError(f'{expected} {type(error).__name__}: {one_line(error)}') from error
    if not isinstance(recipe, Recipe):
        raise InputError(f'{expected} {type(recipe).__name__}')
    return recipe


def recipes() -> list[str]:
    """The names of all recipes."""
    return sorted(path.stem for path in RECIPES.glob('[!_]*.py'))
