"""Which windows an export is calibrated and verified on: the same ones every time."""

from __future__ import annotations

import dataclasses

import numpy as np

from jax_reparam import windows
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
      truth: the class of each clip, `[n]`.
    """

    features: np.ndarray
    clip: np.ndarray
    truth: np.ndarray


def of_part(data: Data, part: Part, limit: int | None) -> Windows:
    """A part's windows: all of them, or at most `limit`, of clips drawn with a fixed seed.

    Only whole clips are drawn, since a decision is a clip's; at least one is.
    """
    features, clip = data.windows(part)
    truth = data.labels(part)
    if limit is None or limit >= len(features):
        return Windows(features, clip, truth)
    order = np.random.default_rng(SEED).permutation(len(truth))
    total = np.cumsum(np.bincount(clip)[order])
    chosen = np.sort(order[: max(1, int(np.searchsorted(total, limit, side='right')))])
    kept = np.isin(clip, chosen)
    return Windows(features[kept], np.searchsorted(chosen, clip[kept]), truth[chosen])


def calibration(data: Data, count: int = CALIBRATION_WINDOWS) -> tuple[np.ndarray, list[tuple[str, int]]]:
    """Training windows drawn with a fixed seed.

    Returns:
      Standardised features `[W, frames, n_mels]`, W <= `count`, and for each window its clip's id and its first frame.
    """
    places = [
        (int(clip), int(start))
        for clip in data.clips('train')
        for start in windows.starts(len(data.log_mel[clip]), data.window)
    ]
    drawn = np.sort(np.random.default_rng(SEED).permutation(len(places))[:count])
    chosen = [places[index] for index in drawn]
    features = [windows.cut(data.standardised(clip), start, data.window.frames) for clip, start in chosen]
    return np.stack(features), [(data.corpus.id[clip], start) for clip, start in chosen]
