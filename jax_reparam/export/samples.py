"""Which windows an export is calibrated and verified on: the same ones every time."""

from __future__ import annotations

import dataclasses

import numpy as np

from jax_reparam import evaluation, windows
from jax_reparam.pipeline import Data, Part

# The whole of a small corpus: speakers to come would else leave the ranges more often.
CALIBRATION_WINDOWS = 512
# Enough to tell ways of quantising apart, few enough to wait for.
VALIDATION_WINDOWS = 128
SEED = 0


@dataclasses.dataclass(frozen=True)
class Windows:
    """Windows of n clips.

    Attributes:
      features: standardised log-mel, `[W, frames, n_mels]` float32.
      clip: the clip of each window, `[W]`, 0 to n - 1.
      truth: the class of each unit, `[u]`.
      unit: the unit of each clip, which is what is decided, `[n]`, 0 to u - 1; None: each clip is one.
      join: how the clips of a unit make a decision, 'mean' or 'vote'.
    """

    features: np.ndarray
    clip: np.ndarray
    truth: np.ndarray
    unit: np.ndarray | None = None
    join: str = 'mean'

    def decide(self, logits: np.ndarray) -> np.ndarray:
        """Probabilities of the units, `[u, C]`, of logits of the windows, `[W, C]`."""
        probabilities = evaluation.clip_probabilities(logits, self.clip)
        return probabilities if self.unit is None else evaluation.decide(probabilities, self.unit, self.join)


def of_part(data: Data, part: Part, limit: int | None) -> Windows:
    """A part's windows: all of them, or at most `limit`, of units drawn with a fixed seed.

    Only whole units (clips, or speakers, as the protocol decides) are drawn, since a decision is theirs; at least one
    is.
    """
    clips, truth = data.clips(part), data.truth(part)
    unit = data.units(part)[1]
    counts = np.array([len(windows.starts(int(data.log_mel.lengths[clip]), data.window)) for clip in clips])
    if limit is not None and limit < counts.sum():
        order = np.random.default_rng(SEED).permutation(len(truth))
        total = np.cumsum(np.bincount(unit, weights=counts)[order])
        chosen = np.sort(order[: max(1, int(np.searchsorted(total, limit, side='right')))])
        kept = np.isin(unit, chosen)
        clips, unit, truth = clips[kept], np.searchsorted(chosen, unit[kept]), truth[chosen]
    features, clip = data.windows_of(clips)
    protocol = data.split.protocol
    return Windows(features, clip, truth, None if protocol.unit == 'clip' else unit, protocol.join)


def evenly(windows: np.ndarray, count: int) -> np.ndarray:
    """At most `count` of the windows, evenly spaced."""
    return windows[:: -(-len(windows) // count)]


def calibration(data: Data, count: int = CALIBRATION_WINDOWS) -> tuple[np.ndarray, list[tuple[str, int]]]:
    """Training windows drawn with a fixed seed.

    Returns:
      Standardised features `[W, frames, n_mels]`, W <= `count`, and for each window its clip's id and its first frame.
    """
    places = [
        (int(clip), int(start))
        for clip in data.clips('train')
        for start in windows.starts(int(data.log_mel.lengths[clip]), data.window)
    ]
    drawn = np.sort(np.random.default_rng(SEED).permutation(len(places))[:count])
    chosen = [places[index] for index in drawn]
    features = [windows.cut(data.standardised(clip), start, data.window.frames) for clip, start in chosen]
    return np.stack(features), [(data.corpus.id[clip], start) for clip, start in chosen]
