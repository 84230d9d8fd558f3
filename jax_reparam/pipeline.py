"""From a corpus to batches: features computed once, training speakers' statistics, windows, a deterministic stream."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jax_reparam import corpora, features, progress, protocols, windows

Part = Literal['train', 'validation', 'test']


def cache_dir(configured: str) -> Path:
    """The folder that holds prepared corpora and features."""
    default = os.environ.get('JAX_REPARAM_CACHE') or '~/.cache/jax_reparam'
    return Path(configured or default).expanduser()


def window_config(config: Mapping[str, Any]) -> windows.WindowConfig:
    """The window of a recipe, in frames."""
    per_second = 1000 / config['frontend']['hop_ms']
    window = config['window']
    return windows.WindowConfig(
        frames=round(window['seconds'] * per_second), hop=round(window['hop_seconds'] * per_second)
    )


@dataclasses.dataclass(frozen=True)
class Data:
    """A corpus, split, as standardised features.

    Attributes:
      corpus: the prepared corpus.
      split: clip indices of the three parts.
      window: length and spacing of windows, in frames.
      mean: `[M]` float32, over the frames of the training speakers.
      std: `[M]` float32, likewise.
      log_mel: one `[T, M]` float32 array a clip, not standardised.
    """

    corpus: corpora.Corpus
    split: protocols.Split
    window: windows.WindowConfig
    mean: np.ndarray
    std: np.ndarray
    log_mel: Sequence[np.ndarray]

    def standardised(self, clip: int) -> np.ndarray:
        """A clip's features, `[T, M]`, with the training speakers' mean taken off and divided by their deviation."""
        return (self.log_mel[clip] - self.mean) / self.std

    def clips(self, part: Part) -> np.ndarray:
        """The clip indices of a part, `[n]`."""
        return getattr(self.split, part)

    def labels(self, part: Part) -> np.ndarray:
        """The classes of a part's clips, `[n]`."""
        return self.corpus.label[self.clips(part)]

    def windows(self, part: Part) -> tuple[np.ndarray, np.ndarray]:
        """All windows of a part, in the order of its clips.

        Returns:
          The windows `[W, frames, M]` and, for each, the position of its clip in `clips(part)`, `[W]`.
        """
        cut = [windows.split(self.standardised(clip), self.window) for clip in self.clips(part)]
        return np.concatenate(cut), np.repeat(np.arange(len(cut)), [len(c) for c in cut])

    def batches(self, *, size: int, seed: int, start: int, shard: tuple[int, int] = (0, 1)) -> Iterator[dict[str, Any]]:
        """The endless stream of training batches from step `start` on; batch s depends on (seed, s) alone.

        A clip longer than a window gives one window at random.

        Args:
          size: windows in a global batch.
          seed: of the order and the crops.
          start: the step of the first batch.
          shard: (index, count) of this process; each yields `size / count` windows of every batch.

        Yields:
          `features` `[b, frames, M]` float32, `mask` `[b, frames]` bool and `labels` `[b]` int32.
        """
        import grain

        index, count = shard
        clips = (
            grain.MapDataset.source(self.clips('train'))
            .seed(seed)
            .shuffle()
            .repeat(None)[index::count]
            .random_map(self._example)
            .batch(size // count)
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


def load_data(config: Mapping[str, Any], *, show_progress: bool = True) -> Data:
    """Prepares what a recipe names: the corpus, its split and its features.

    Args:
      config: a recipe (`jax_reparam.config`), with `data.fold` a number.
      show_progress: report preparation on standard error.

    Raises:
      InputError: the corpus is missing or damaged, or its speakers do not allow the protocol.
    """
    data = config['data']
    corpus = _corpus(config, show_progress)
    split = protocols.split(corpus, protocol=data['protocol'], fold=int(data['fold']), seed=config['seed'])
    frontend = features.FrontendConfig(**config['frontend'])
    log_mel = corpus_features(corpus, frontend, cache_dir(data['cache']), show_progress=show_progress)
    mean, std = statistics([log_mel[clip] for clip in split.train])
    return Data(corpus, split, window_config(config), mean, std, log_mel)


def count_folds(config: Mapping[str, Any], *, show_progress: bool = True) -> int:
    """The number of folds of a recipe's protocol."""
    return protocols.folds(_corpus(config, show_progress), config['data']['protocol'])


def _corpus(config: Mapping[str, Any], show_progress: bool) -> corpora.Corpus:
    data = config['data']
    return corpora.prepare(
        data['corpus'],
        source=data['source'],
        data_dir=cache_dir(data['cache']),
        accept_mismatch=data.get('accept_mismatch', False),  # runs of earlier versions do not have it
        progress=show_progress,
    )


def statistics(clips: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each mel band over all frames of `clips` (each `[T, M]`), as float32 `[M]`."""
    count = sum(len(clip) for clip in clips)
    mean = sum(clip.sum(axis=0, dtype=np.float64) for clip in clips) / count
    variance = sum(np.square(clip - mean).sum(axis=0) for clip in clips) / count
    # A band that never moves would divide by zero.
    return mean.astype(np.float32), np.maximum(np.sqrt(variance), 1e-3).astype(np.float32)


def corpus_features(
    corpus: corpora.Corpus, frontend: features.FrontendConfig, cache: Path, *, show_progress: bool = True
) -> list[np.ndarray]:
    """Log-mel features of every clip, computed once and kept under `cache`, keyed by corpus and frontend."""
    what = json.dumps([corpus.key, dataclasses.asdict(frontend)], sort_keys=True)
    path = cache / 'features' / f'{corpus.name}-{hashlib.sha256(what.encode()).hexdigest()[:16]}.npz'
    if not path.exists():
        clips = range(len(corpus.id))
        computed = [
            features.log_mel(corpus.audio(clip), frontend)
            for clip in progress.track(clips, 'features', enabled=show_progress)
        ]
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f'.{os.getpid()}.tmp')
        with temporary.open('wb') as file:
            np.savez(file, frames=np.concatenate(computed), lengths=[len(c) for c in computed])
        temporary.replace(path)
    with np.load(path) as stored:
        frames, lengths = stored['frames'], stored['lengths']
    return np.split(frames, np.cumsum(lengths)[:-1])
