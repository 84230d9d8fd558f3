"""What is known of a voice: the mean of its speech, level off, which `Input.hear` takes off what it says next.

A microphone's and a room's stationary colour, and what a voice always has, are one constant a band. The difference
between a speaker's mean and the training speakers' is taken off, shrunk by n / (n + n0) after n frames of speech, so
that with no history the input is as it was. Learning needs no labels and ends after a minute of speech: it would else
turn minutes of anger into "neutral".
"""

from __future__ import annotations

import contextlib
import dataclasses
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np

from jax_reparam import schema
from jax_reparam.errors import InputError
from jax_reparam.frontend import speech
from jax_reparam.frontend.speech import PARTS, Rule, Speech
from jax_reparam.frontend.windows import WindowConfig
from jax_reparam.schema import Amount, Positive, Share, at_most

if TYPE_CHECKING:
    from jax_reparam.frontend.inputs import Input

DIGEST_BYTES = 32


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
    half_seconds: Annotated[Positive, at_most(86400)] = 5.0
    after_seconds: Annotated[Amount, at_most(86400)] = 0.0
    most_seconds: Annotated[Positive, at_most(86400)] = 60.0


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


def to_bytes(profile: Profile, inputs: Input) -> bytes:
    """A profile as files and devices keep it.

    The 32 bytes of `Input.digest`, the frames, the sums, and the CRC-32 of all before; 32 bits each, the lowest first.
    """
    body = bytes.fromhex(inputs.digest) + np.array([profile.frames, *profile.sums], '<i4').tobytes()
    return body + zlib.crc32(body).to_bytes(4, 'little')


def from_bytes(content: bytes, inputs: Input) -> Profile:
    """The profile in the bytes of `to_bytes`, or of the firmware's `Profile::Save`.

    Raises:
      ValueError: damaged, or learned with another model.
    """
    size = len(to_bytes(Profile.empty(inputs.frontend.n_mels), inputs))
    expected = f'expected the {size} bytes of a profile of a voice'
    if not content:
        raise ValueError(f'{expected}, found an empty file')
    body = content[:-4]
    if len(body) < DIGEST_BYTES or zlib.crc32(body) != int.from_bytes(content[-4:], 'little'):
        found = 'a wrong CRC-32: it is damaged' if len(content) == size else f'{len(content)} bytes'
        raise ValueError(f'{expected}, found {found}')
    digest = body[:DIGEST_BYTES].hex()
    if digest != inputs.digest:
        raise ValueError(f'expected a profile learned with this model ({inputs.digest[:12]}), found {digest[:12]}')
    if len(content) != size:
        raise ValueError(f'{expected}, found {len(content)} bytes')
    frames, *sums = np.frombuffer(body[DIGEST_BYTES:], '<i4').tolist()
    # No frame adds more than the span of int8, or less than the clamp.
    low, high = -PARTS * inputs.rule.clamp * frames, PARTS * 255 * frames
    if not 0 <= frames <= inputs.most_frames or min(sums) < low or max(sums) > high:
        raise ValueError(f'expected sums over at most {inputs.most_frames} frames of speech, found others')
    return Profile(np.array(sums, np.int32), frames)


def save(path: str | Path, profile: Profile, inputs: Input) -> None:
    """Writes a profile; another that is there is replaced at once or not at all.

    Raises:
      InputError: it cannot be written there.
    """
    temporary = Path(f'{path}.tmp')
    try:
        temporary.write_bytes(to_bytes(profile, inputs))
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise InputError(f'{path}: expected a file that can be written, found: {error.strerror}') from error


def load(path: str | Path, inputs: Input) -> Profile:
    """Reads what `save` wrote, or what a device saved.

    Raises:
      InputError: nothing there, no profile, a damaged one, or one that was learned with another model.
    """
    try:
        return from_bytes(Path(path).read_bytes(), inputs)
    except OSError as error:
        raise InputError(f'{path}: expected the profile of a voice, found: {error.strerror}') from error
    except ValueError as error:
        raise InputError(f'{path}: {error}') from error


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
