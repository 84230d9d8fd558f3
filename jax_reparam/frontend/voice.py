"""What is known of a voice: the mean of its speech, level off, which `Input.window` takes off what it says next.

A microphone's and a room's stationary colour, and what a voice always has, are one constant a band. The difference
between a speaker's mean and the training speakers' is taken off, shrunk by n / (n + n0) after n frames of speech, so
that with no history the input is as it was. Learning needs no labels and ends after a minute of speech: it would else
turn minutes of anger into "neutral".
"""

from __future__ import annotations

import dataclasses

import numpy as np

from jax_reparam import schema
from jax_reparam.frontend import speech
from jax_reparam.frontend.speech import PARTS, Rule, Speech
from jax_reparam.frontend.windows import WindowConfig
from jax_reparam.schema import Amount, Positive, Share


@dataclasses.dataclass(frozen=True)
class VoiceConfig(schema.Checked):
    """How a model gets to know a voice.

    Attributes:
      history: share of training windows that come with a history of 1 to all other clips of their speaker; a model with
        some adapts by default.
      one_class: share of these histories whose clips are all of one class: a user has said little but neutral things.
      half_seconds: seconds of speech (n0) after which half of the difference is taken off.
      after_seconds: less speech than this counts as none.
      most_seconds: after so much speech nothing more is learned.
    """

    history: Share = 0.0
    one_class: Share = 0.0
    half_seconds: Positive = 5.0
    after_seconds: Amount = 0.0
    most_seconds: Positive = 60.0


@dataclasses.dataclass(frozen=True)
class Profile:
    """The speech of one speaker so far.

    Attributes:
      sums: over its frames, level off, in 1 / PARTS of a step, `[M]` int32.
      frames: their number n.
    """

    sums: np.ndarray
    frames: int = 0

    @classmethod
    def empty(cls, n_mels: int) -> Profile:
        """Of a speaker whom nobody has heard."""
        return cls(np.zeros(n_mels, np.int32))

    @property
    def mean(self) -> np.ndarray:
        """`[M]` float32 in steps; 0 before the first frame."""
        mean: np.ndarray = self.sums.astype(np.float32) / np.float32(PARTS * max(1, self.frames))
        return mean

    def learn(self, codes: np.ndarray, found: Speech, rule: Rule, *, new: int, most: int) -> Profile:
        """With the speech of the last frames of a window.

        Args:
          codes: the window's real frames, `[n, M]` (`features.encode`).
          found: what of them is speech; of a window without any nothing is learned.
          rule: the constants that found it.
          new: frames at its end that no earlier window held.
          most: frames at which learning ends.
        """
        mask = np.array(found.mask[: len(codes)])
        mask[: len(codes) - new] = False
        taken = np.flatnonzero(mask)[: max(0, most - self.frames)] if found.there else ()
        if not len(taken):
            return self
        off = speech.level_off(codes[taken], found.level, rule)
        return Profile(self.sums + (PARTS * off).astype(np.int32).sum(axis=0, dtype=np.int32), self.frames + len(taken))


def of_recording(
    codes: np.ndarray, window: WindowConfig, rule: Rule, *, most: int, known: Profile | None = None
) -> Profile:
    """What a recording `[T, M]` tells of its speaker, heard as a stream; `known` is what was known before."""
    profile = Profile.empty(codes.shape[1]) if known is None else known
    heard = 0
    for start, found in speech.windows_of(codes, window, rule):
        cut = codes[start : start + window.frames]
        profile = profile.learn(cut, found, rule, new=start + len(cut) - heard, most=most)
        heard = start + len(cut)
    return profile
