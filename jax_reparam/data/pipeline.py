"""From a corpus to batches: features computed once, training speakers' statistics, windows, a deterministic stream."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jax_reparam import corpora, evaluation
from jax_reparam.config import DataConfig, Recipe
from jax_reparam.data import feature_store, packed, protocols
from jax_reparam.errors import InputError, user_path
from jax_reparam.frontend import speech, windows
from jax_reparam.frontend.inputs import Heard, Input
from jax_reparam.frontend.voice import Profile

Part = Literal['train', 'validation', 'test']


def cache_dir(configured: str) -> Path:
    """The folder that holds prepared corpora and features.

    Raises:
      InputError: it is nowhere: there is no home folder.
    """
    return user_path(configured or os.environ.get('JAX_REPARAM_CACHE') or '~/.cache/jax_reparam')


@dataclasses.dataclass(frozen=True)
class Data:
    """A corpus, split, as features.

    Attributes:
      corpus: the prepared corpus.
      split: clip indices of the three parts.
      inputs: how features become a model's input, with the statistics of the training speakers.
      features: of each clip's active span, `[T, M]` int8, read when they are asked for.
    """

    corpus: corpora.Corpus
    split: protocols.Split
    inputs: Input
    features: feature_store.Features

    def clips(self, part: Part) -> np.ndarray:
        """The clip indices of a part, `[n]`."""
        return {'train': self.split.train, 'validation': self.split.validation, 'test': self.split.test}[part]

    @property
    def held_out(self) -> bool:
        """Whether there are clips that do not train."""
        return bool(len(self.split.test))

    def labels(self, part: Part) -> np.ndarray:
        """The classes of a part's clips, `[n]`."""
        labels: np.ndarray = self.corpus.label[self.clips(part)]
        return labels

    def units(self, part: Part) -> tuple[tuple[str, ...], np.ndarray]:
        """What is decided in a part: the clips, or the speakers, as the protocol says.

        Returns:
          Their names, ascending, and the position among them of each clip of the part, `[n]`.
        """
        clips = self.clips(part)
        if self.split.protocol.unit == 'clip':
            return tuple(self.corpus.id[clip] for clip in clips), np.arange(len(clips))
        names, unit = np.unique([self.corpus.speaker[clip] for clip in clips], return_inverse=True)
        return tuple(names.tolist()), unit

    def truth(self, part: Part) -> np.ndarray:
        """The classes of what is decided in a part, in the order of `units`."""
        _, unit = self.units(part)
        # The clips of a unit have one class: the protocol has looked.
        return self.labels(part)[np.unique(unit, return_index=True)[1]]

    def decide(self, part: Part, probabilities: np.ndarray) -> np.ndarray:
        """From probabilities of a part's clips, `[n, C]`, to those of its units, `[u, C]`."""
        names, unit = self.units(part)
        return evaluation.decide(probabilities, unit, self.split.protocol.join, len(names))

    def heard(
        self, clips: Iterable[int], history: Callable[[int], Profile] | None = None
    ) -> Iterator[tuple[Heard, int]]:
        """Every window of some clips, in their order, and the position of its clip among them.

        Args:
          clips: their indices.
          history: of a clip's index, what is known of its speaker; None: nothing.
        """
        for position, clip in enumerate(clips):
            profile = None if history is None else history(int(clip))
            for heard in self.inputs.windows(self.features[clip], profile):
                yield heard, position

    def spoken(
        self, clips: Iterable[int], size: int | None = None, history: Callable[[int], Profile] | None = None
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The windows of `heard` in which somebody speaks, `size` at a time or all at once (`windows.batches`).

        Returns:
          An iterator over the windows `[b, frames, M]` and the position of the clip of each, `[b]`.

        Raises:
          InputError: nobody speaks in any of the clips.
        """
        spoken = ((heard.features, clip) for heard, clip in self.heard(clips, history) if heard.speech.there)
        return windows.batches(spoken, size, self.corpus.name)

    def histories(self, clip: int) -> np.ndarray:
        """The other clips of a clip's speaker, in its part of the split; none where the corpus names no speakers."""
        return self._others[clip]

    @functools.cached_property
    def _others(self) -> dict[int, np.ndarray]:
        others = {}
        for part in (self.split.train, self.split.validation, self.split.test):
            speakers = np.array([self.corpus.speaker[clip] for clip in part])
            for clip, speaker in zip(part, speakers, strict=True):
                others[int(clip)] = part[(speakers == speaker) & (part != clip) & (speakers != '')]
        return others

    def profile(self, clips: np.ndarray, most: int | None = None) -> Profile:
        """What clips of one speaker tell of it, in their order, up to the one that makes `most` frames of speech.

        None: up to the one in which learning ends.
        """
        store, most = self.features, self.inputs.most_frames if most is None else most
        clips = clips[: int(np.searchsorted(np.cumsum(store.voice_frames[clips]), most)) + 1]
        return Profile(store.voice_sums[clips].sum(axis=0, dtype=np.int32), int(store.voice_frames[clips].sum()))

    def batches(
        self, *, size: int, seed: int, start: int, crop: float = 0.0, shard: tuple[int, int] = (0, 1)
    ) -> Iterator[dict[str, Any]]:
        """The endless stream of training batches from step `start` on; batch s depends on (seed, s) alone.

        A clip longer than a window gives one window at random.

        Args:
          size: windows in a global batch.
          seed: of the order and the crops.
          start: the step of the first batch.
          crop: see `AugmentConfig`.
          shard: (index, count) of this process; each yields its block of `size / count` windows of every batch, and
            reads no others.

        Yields:
          `codes` `[b, frames, M]` int8, of which the first `frames` `[b]` are the clip's; `voice` `[b, M]` float32 and
          `voice_frames` `[b]`, the mean speech and its frames in other clips of the speaker, where the recipe's
          `voice.history` gives some; `labels` `[b]` int32.
        """
        import grain

        index, count = shard
        clips = (
            grain.MapDataset.source(self.clips('train'))
            .seed(seed)
            .shuffle()
            .repeat(None)
            # Before the shards are cut, so that a crop depends on the window's place in the whole stream.
            .random_map(functools.partial(self._example, crop))
            .batch(size // count)[index::count]
        )
        options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)
        yield from clips[start:].to_iter_dataset(options)

    def draw(self, clip: int, crop: float, rng: np.random.Generator) -> tuple[int, int, Profile]:
        """What a training window of a clip is: its first frame, its frames, and what is known of the speaker."""
        length, window = int(self.features.lengths[clip]), self.inputs.window.frames
        first, after = (int(cut) for cut in rng.integers(int(crop * length) + 1, size=2))
        slack = length - first - after - window
        first += int(rng.integers(slack + 1)) if slack > 0 else 0
        return first, min(length - first - after, window), self.draw_history(clip, rng)

    def draw_history(self, clip: int, rng: np.random.Generator) -> Profile:
        """What is known of a clip's speaker in training, as the recipe's `voice` says."""
        others, voice = self.histories(clip), self.inputs.voice
        if not len(others) or rng.random() >= voice.history:
            return Profile.empty(self.features.n_mels)
        others = rng.permutation(others)
        if rng.random() < voice.one_class:
            others = others[self.corpus.label[others] == self.corpus.label[others[0]]]
        return self.profile(others[: rng.integers(1, len(others) + 1)])

    def _example(self, crop: float, clip: np.integer, rng: np.random.Generator) -> dict[str, Any]:
        first, frames, known = self.draw(int(clip), crop, rng)
        codes = self.features[clip][first : first + frames]
        return {
            'codes': np.pad(codes, ((0, self.inputs.window.frames - frames), (0, 0))),
            'frames': np.int32(frames),
            'voice': known.mean,
            'voice_frames': np.int32(known.frames),
            'labels': np.int32(self.corpus.label[clip]),
        }


def load_data(recipe: Recipe, *, show_progress: bool = True) -> Data:
    """Prepares what a recipe names: the corpus, its split and its features.

    Args:
      recipe: with `data.fold` a number.
      show_progress: report preparation on standard error.

    Raises:
      InputError: the corpus is missing or damaged, or its speakers do not allow the protocol.
    """
    corpus, split = load_split(recipe, show_progress=show_progress)
    cache = cache_dir(recipe.data.cache)
    zero = np.zeros(recipe.frontend.n_mels, np.float32)
    inputs = Input(recipe.frontend, recipe.window_config, zero, zero + 1, zero, recipe.voice)
    if recipe.data.source.endswith(packed.SUFFIX):
        features: feature_store.Features = _unpacked(recipe.data.source, corpus, inputs)
    else:
        features = feature_store.corpus_features(corpus, inputs, cache, show_progress=show_progress)
    sums = features.voice_sums[split.train].sum(axis=0, dtype=np.int64)
    voice_mean = sums / (speech.PARTS * max(1, int(features.voice_frames[split.train].sum())))
    inputs = dataclasses.replace(inputs, voice_mean=voice_mean.astype(np.float32))
    unstandardised = Data(corpus, split, inputs, features)
    rng = np.random.default_rng(0)
    history = lambda clip: unstandardised.draw_history(clip, rng)
    mean, std = statistics(heard.features for heard, _ in unstandardised.heard(split.train, history))
    return dataclasses.replace(unstandardised, inputs=dataclasses.replace(inputs, mean=mean, std=std))


def load_split(recipe: Recipe, *, show_progress: bool = True) -> tuple[corpora.Corpus, protocols.Split]:
    """Prepares the corpus of a recipe, and splits it; see `load_data`."""
    data = recipe.data
    corpus = _corpus(data, show_progress)
    return corpus, protocols.split(
        corpus, protocol=data.protocol, fold=int(data.fold), seed=recipe.seed, turns=data.turns, join=data.join
    )


def count_folds(recipe: Recipe, *, show_progress: bool = True) -> int:
    """The number of folds of a recipe's protocol."""
    return protocols.folds(_corpus(recipe.data, show_progress), recipe.data.protocol)


def _unpacked(source: str, corpus: corpora.Corpus, inputs: Input) -> packed.Packed:
    _, features = packed.read(Path(source))
    if features.key != feature_store.key(corpus, inputs):
        raise InputError(f'{source}: expected features of this frontend and window, found others; pack it anew')
    return features


def _corpus(data: DataConfig, show_progress: bool) -> corpora.Corpus:
    if data.source.endswith(packed.SUFFIX):
        corpus, _ = packed.read(Path(data.source))
        if corpus.name != data.corpus:
            raise InputError(f'{data.source}: expected {data.corpus}, found {corpus.name}')
        return corpus
    return corpora.prepare(
        data.corpus,
        source=data.source,
        data_dir=cache_dir(data.cache),
        accept_mismatch=data.accept_mismatch,
        progress=show_progress,
    )


def statistics(windows: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each mel band over all frames of `windows` (each `[T, M]`), as float32 `[M]`.

    One pass, a window at a time: the sums of two sets of frames are joined about the mean of both (Chan, Golub and
    LeVeque 1979), which loses nothing where the mean is large beside the deviation.
    """
    count, mean, squares = 0, np.zeros(1), np.zeros(1)
    for window in windows:
        own = window.mean(axis=0, dtype=np.float64)
        shift, total = own - mean, count + len(window)
        squares = squares + np.square(window - own).sum(axis=0) + np.square(shift) * (count * len(window) / total)
        mean = mean + shift * (len(window) / total)
        count = total
    # A band that never moves would divide by zero.
    return mean.astype(np.float32), np.maximum(np.sqrt(squares / count), 1e-3).astype(np.float32)
