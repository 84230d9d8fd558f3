"""From a corpus to batches: features computed once, training speakers' statistics, windows, a deterministic stream."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jax_reparam import corpora, evaluation
from jax_reparam.config import DataConfig, Recipe
from jax_reparam.data import feature_store, protocols
from jax_reparam.frontend import windows

Part = Literal['train', 'validation', 'test']


def cache_dir(configured: str) -> Path:
    """The folder that holds prepared corpora and features."""
    default = os.environ.get('JAX_REPARAM_CACHE') or '~/.cache/jax_reparam'
    return Path(configured or default).expanduser()


@dataclasses.dataclass(frozen=True)
class Data:
    """A corpus, split, as standardised features.

    Attributes:
      corpus: the prepared corpus.
      split: clip indices of the three parts.
      window: length and spacing of windows, in frames.
      mean: `[M]` float32, over the frames of the training speakers.
      std: `[M]` float32, likewise.
      log_mel: one `[T, M]` float32 array a clip, not standardised, read when it is asked for.
    """

    corpus: corpora.Corpus
    split: protocols.Split
    window: windows.WindowConfig
    mean: np.ndarray
    std: np.ndarray
    log_mel: feature_store.Features

    def standardised(self, clip: int) -> np.ndarray:
        """A clip's features, `[T, M]`, with the training speakers' mean taken off and divided by their deviation."""
        features: np.ndarray = (self.log_mel[clip] - self.mean) / self.std
        return features

    def clips(self, part: Part) -> np.ndarray:
        """The clip indices of a part, `[n]`."""
        return {'train': self.split.train, 'validation': self.split.validation, 'test': self.split.test}[part]

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
        return evaluation.decide(probabilities, self.units(part)[1], self.split.protocol.join)

    def windows(self, part: Part) -> tuple[np.ndarray, np.ndarray]:
        """All windows of a part at once, in the order of its clips.

        Returns:
          The windows `[W, frames, M]` and, for each, the position of its clip in `clips(part)`, `[W]`.
        """
        return windows.split(map(self.standardised, self.clips(part)), self.window)

    def window_batches(self, part: Part, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """What `windows` returns, `size` windows at a time (`windows.batches`): `[b, frames, M]` and `[b]`."""
        return windows.batches(map(self.standardised, self.clips(part)), self.window, size)

    def batches(self, *, size: int, seed: int, start: int, shard: tuple[int, int] = (0, 1)) -> Iterator[dict[str, Any]]:
        """The endless stream of training batches from step `start` on; batch s depends on (seed, s) alone.

        A clip longer than a window gives one window at random.

        Args:
          size: windows in a global batch.
          seed: of the order and the crops.
          start: the step of the first batch.
          shard: (index, count) of this process; each yields its block of `size / count` windows of every batch, and
            reads no others.

        Yields:
          `features` `[b, frames, M]` float32, `mask` `[b, frames]` bool and `labels` `[b]` int32.
        """
        import grain

        index, count = shard
        clips = (
            grain.MapDataset.source(self.clips('train'))
            .seed(seed)
            .shuffle()
            .repeat(None)
            # Before the shards are cut, so that a crop depends on the window's place in the whole stream.
            .random_map(self._example)
            .batch(size // count)[index::count]
        )
        options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)
        yield from clips[start:].to_iter_dataset(options)

    def _example(self, clip: np.integer, rng: np.random.Generator) -> dict[str, Any]:
        clip_features = self.standardised(int(clip))
        slack = len(clip_features) - self.window.frames
        start = int(rng.integers(slack + 1)) if slack > 0 else 0
        return {
            'features': windows.cut(clip_features, start, self.window.frames),
            'mask': np.ones(self.window.frames, bool),
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
    data = recipe.data
    corpus = _corpus(data, show_progress)
    split = protocols.split(
        corpus, protocol=data.protocol, fold=int(data.fold), seed=recipe.seed, turns=data.turns, join=data.join
    )
    cache = cache_dir(data.cache)
    log_mel = feature_store.corpus_features(corpus, recipe.frontend, cache, show_progress=show_progress)
    mean, std = statistics(log_mel[clip] for clip in split.train)
    return Data(corpus, split, recipe.window_config, mean, std, log_mel)


def count_folds(recipe: Recipe, *, show_progress: bool = True) -> int:
    """The number of folds of a recipe's protocol."""
    return protocols.folds(_corpus(recipe.data, show_progress), recipe.data.protocol)


def _corpus(data: DataConfig, show_progress: bool) -> corpora.Corpus:
    return corpora.prepare(
        data.corpus,
        source=data.source,
        data_dir=cache_dir(data.cache),
        accept_mismatch=data.accept_mismatch,
        progress=show_progress,
    )


def statistics(clips: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each mel band over all frames of `clips` (each `[T, M]`), as float32 `[M]`.

    One pass, a clip at a time: the sums of two sets of frames are joined about the mean of both (Chan, Golub and
    LeVeque 1979), which loses nothing where the mean is large beside the deviation.
    """
    count, mean, squares = 0, np.zeros(1), np.zeros(1)
    for clip in clips:
        own = clip.mean(axis=0, dtype=np.float64)
        shift, total = own - mean, count + len(clip)
        squares = squares + np.square(clip - own).sum(axis=0) + np.square(shift) * (count * len(clip) / total)
        mean = mean + shift * (len(clip) / total)
        count = total
    # A band that never moves would divide by zero.
    return mean.astype(np.float32), np.maximum(np.sqrt(squares / count), 1e-3).astype(np.float32)
