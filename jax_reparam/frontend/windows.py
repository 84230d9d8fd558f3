"""The one definition of a window and of its padding, for training, evaluation and every exported form.

A window is `frames` feature frames (400 frames at a 10 ms hop: 4 s). A longer clip becomes overlapping windows
`hop` frames apart, the last one moved back so that it ends with the clip. A shorter clip is *repeated* from its start
until the window is full, so every frame of every window is a real frame: a mask would be true everywhere, and a graph
that has no mask input computes the very function that training and evaluation computed. See docs/frontend.md.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator

import numpy as np

from jax_reparam.errors import InputError


@dataclasses.dataclass(frozen=True)
class WindowConfig:
    """Length and spacing of windows, in feature frames.

    Attributes:
      frames: length of a window.
      hop: distance between the starts of two windows of one clip.
    """

    frames: int = 400
    hop: int = 200

    def __post_init__(self) -> None:
        if not 1 <= self.hop <= self.frames:
            raise ValueError(f'hop_frames: expected 1 to {self.frames} frames (the window), found {self.hop}')


def starts(length: int, config: WindowConfig) -> np.ndarray:
    """Start frames of the windows that cover a clip of `length` frames, `[W]` int64; W >= 1."""
    if length < 1:
        raise ValueError(f'clip: expected at least 1 frame, got {length}')
    last = max(0, length - config.frames)
    regular = np.arange(0, last + 1, config.hop)
    return regular if regular[-1] == last else np.append(regular, last)


def cut(sequence: np.ndarray, start: int, length: int) -> np.ndarray:
    """Places start, start + 1, ... of a sequence, taken modulo its length: frames `[T, M]`, or samples `[N]`."""
    return sequence[(start + np.arange(length)) % len(sequence)]


def batches(
    spoken: Iterable[tuple[np.ndarray, int]], size: int | None, source: str = 'clips'
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Windows in which somebody speaks, some at a time; no more than these are in memory.

    Args:
      spoken: the windows, each `[frames, M]`, and the position of its clip.
      size: windows at a time, the last time fewer; None: all at once.
      source: what to call the clips in the error.

    Yields:
      Windows `[W, frames, M]` and, for each, the position of its clip, `[W]`.

    Raises:
      InputError: there is none.
    """
    every, found = iter(spoken), False
    while batch := list(itertools.islice(every, size)):
        found = True
        cut, positions = zip(*batch, strict=True)
        yield np.stack(cut), np.array(positions)
    if not found:
        raise InputError(f'{source}: expected speech in at least one clip, found none')
