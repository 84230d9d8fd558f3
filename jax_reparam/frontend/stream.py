"""From samples as they come to windows as they fill: each frame is computed once, each window shares those it can.

The same rules as for a recording (docs/frontend.md): windows start every `hop` frames; at the end of a stream the last
one is moved back to end with it, and a stream shorter than a window has one that is not full. What of a window is
speech, its level, and the voice are found window by window (`Input.hear`). `Windows` is to the sample what
`firmware/emotion_recognizer.cc` does on a device.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np

from jax_reparam.frontend import features, windows
from jax_reparam.frontend.features import FrontendConfig
from jax_reparam.frontend.inputs import Input


@dataclasses.dataclass(frozen=True)
class Window:
    """One window of a stream.

    Attributes:
      start: its first frame, counted from the beginning of the stream.
      frames: how many frames n of the stream are in it; fewer than a window where the stream is shorter.
      new: how many of them, at its end, no earlier window held: those that a profile learns from.
      codes: `[n, M]` int8, in the stream's order (`features.encode`).
      full_scale: samples at full scale in each frame, `[n]` (`features.full_scale`).
    """

    start: int
    frames: int
    new: int
    codes: np.ndarray
    full_scale: np.ndarray


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


class Windows:
    """Keeps the codes of the last window of frames, and yields windows."""

    def __init__(self, inputs: Input, frame_codes: Callable[[np.ndarray], np.ndarray]) -> None:
        """Starts with nothing: no window comes before the stream fills one.

        Args:
          inputs: lengths of frames and windows.
          frame_codes: the codes `[M]` int8 of one frame's samples `[frame]` int16.
        """
        self._cutter, self._window, self._codes = FrameCutter(inputs.frontend), inputs.window, frame_codes
        self._frontend = inputs.frontend
        self._ring: np.ndarray | None = None
        self._full_scale = np.zeros(self._window.frames, int)
        self._seen = self._came = 0  # frames, and those that windows held
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
        if self._seen > self._came:
            yield self._cut()

    def _push(self, samples: np.ndarray) -> None:
        codes, place = self._codes(samples), self._seen % self._window.frames
        if self._ring is None:
            self._ring = np.zeros((self._window.frames, *codes.shape), codes.dtype)
        self._ring[place] = codes
        self._full_scale[place] = features.full_scale(samples, self._frontend)[0]
        self._seen += 1

    def _cut(self) -> Window:
        assert self._ring is not None
        frames, new = min(self._seen, self._window.frames), self._seen - self._came
        self._came, start = self._seen, self._seen - frames
        last = (windows.cut(kept, start, frames) for kept in (self._ring, self._full_scale))
        return Window(start, frames, new, *last)
