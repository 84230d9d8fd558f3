"""From samples as they come to windows as they fill: each frame is computed once, each window shares those it can.

The same rules as for a recording (docs/frontend.md): windows start every `hop` frames; at the end of a stream the last
one is moved back to end with it, and a stream shorter than a window is repeated until it fills one. `Stream` is to the
sample what `firmware/emotion_recognizer.cc` does on a device.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np

from jax_reparam.frontend import windows
from jax_reparam.frontend.features import FrontendConfig
from jax_reparam.frontend.inputs import Input


@dataclasses.dataclass(frozen=True)
class Window:
    """One window of a stream.

    Attributes:
      start: its first frame, counted from the beginning of the stream.
      frames: how many frames of the stream are in it; fewer than a window where the stream is shorter.
      features: `[window, M]`, in the stream's order.
    """

    start: int
    frames: int
    features: np.ndarray


class FrameCutter:
    """Cuts samples, as they come, into overlapping frames."""

    def __init__(self, config: FrontendConfig) -> None:
        self._frame, self._hop = config.frame_length, config.hop_length
        self._pending = np.zeros(0, np.int16)
        self._skip = 0  # samples between two frames, where the hop is longer than a frame
        self._any = False

    def feed(self, samples: np.ndarray) -> Iterator[np.ndarray]:
        """Takes the next samples, `[N]` int16, any N, and yields each frame `[frame]` that they complete."""
        self._pending = np.concatenate([self._pending, samples])
        while True:
            skipped = min(self._skip, len(self._pending))
            self._pending, self._skip = self._pending[skipped:], self._skip - skipped
            if len(self._pending) < self._frame:
                return
            frame, self._any = self._pending[: self._frame], True
            self._pending = self._pending[min(self._hop, self._frame) :]
            self._skip = max(0, self._hop - self._frame)
            yield frame

    def finish(self) -> Iterator[np.ndarray]:
        """Ends the stream: a rest is dropped, but padded with zeros to a frame where it is all there was."""
        if not self._any and len(self._pending):
            yield np.pad(self._pending, (0, self._frame - len(self._pending)))


class Stream:
    """Keeps the features of the last window of frames, and yields windows."""

    def __init__(self, inputs: Input, frame_features: Callable[[np.ndarray], np.ndarray]) -> None:
        """Starts with nothing: no window comes before the stream fills one.

        Args:
          inputs: lengths of frames and windows.
          frame_features: the features `[M]` of one frame's samples `[frame]` int16.
        """
        self._cutter, self._window, self._features = FrameCutter(inputs.frontend), inputs.window, frame_features
        self._ring: np.ndarray | None = None
        self._seen = 0
        self._next_end = self._window.frames  # frames that complete the next window

    def feed(self, samples: np.ndarray) -> Iterator[Window]:
        """Takes the next samples, `[N]` int16, any N, and yields each window that they complete."""
        for frame in self._cutter.feed(samples):
            self._push(frame)
            if self._seen == self._next_end:
                self._next_end += self._window.hop
                yield self._cut()

    def finish(self) -> Iterator[Window]:
        """Ends the stream; yields the window that ends with it, unless that one has come already."""
        for frame in self._cutter.finish():
            self._push(frame)
        came = self._seen >= self._window.frames and self._seen == self._next_end - self._window.hop
        if self._seen and not came:
            yield self._cut()

    def _push(self, samples: np.ndarray) -> None:
        features = self._features(samples)
        if self._ring is None:
            self._ring = np.zeros((self._window.frames, *features.shape), features.dtype)
        self._ring[self._seen % self._window.frames] = features
        self._seen += 1

    def _cut(self) -> Window:
        assert self._ring is not None
        frames = min(self._seen, self._window.frames)
        start = self._seen - frames
        last = windows.cut(self._ring, start, frames)
        return Window(start, frames, windows.cut(last, 0, self._window.frames))
