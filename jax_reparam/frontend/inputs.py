"""How audio becomes a model's input, the same in training and on a device: features, speech, voice, standardisation."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from jax_reparam import schema
from jax_reparam.frontend import features, speech, voice, windows
from jax_reparam.frontend.features import FrontendConfig
from jax_reparam.frontend.speech import Rule, Speech
from jax_reparam.frontend.voice import Profile, VoiceConfig
from jax_reparam.frontend.windows import WindowConfig
from jax_reparam.schema import Positive, Size

# Frames that are made of a recording at a time.
_FRAMES = 8 * features.BLOCK


@dataclasses.dataclass(frozen=True)
class _Written:
    """What the manifest's `input` holds beside the fields of the frontend."""

    window_seconds: Positive
    window_hop_seconds: Positive
    frames: Size
    hop_frames: Size
    mean: np.ndarray
    std: np.ndarray
    voice_mean: np.ndarray
    voice: VoiceConfig


class Heard(NamedTuple):
    """A window as a model is given it.

    Attributes:
      features: `[frames, M]` float32, standardised.
      speech: what of it is speech (`speech.Speech`).
    """

    features: np.ndarray
    speech: Speech


class Recording(NamedTuple):
    """What is kept of a recording's N samples.

    Attributes:
      codes: `[T, M]` int8 (`features.encode`).
      full_scale: samples at full scale in each frame, `[T]` (`features.full_scale`).
      samples: their number N.
    """

    codes: np.ndarray
    full_scale: np.ndarray
    samples: int


@dataclasses.dataclass(frozen=True)
class Input:
    """How audio becomes the model's input.

    Attributes:
      frontend: of the log-mel features.
      window: length and spacing of windows, in frames.
      mean: `[M]` float32, taken off the windows, in steps (`features.STEP`).
      std: `[M]` float32, the windows are then divided by it.
      voice_mean: `[M]` float32, the mean speech of the training speakers, level off.
      voice: how much of a speaker's difference from it is taken off.
      filters: the frontend's arrays as an export carries them; None: librosa's.
    """

    frontend: FrontendConfig
    window: WindowConfig
    mean: np.ndarray
    std: np.ndarray
    voice_mean: np.ndarray
    voice: VoiceConfig = dataclasses.field(default_factory=VoiceConfig)
    filters: features.Filters | None = dataclasses.field(default=None, compare=False)

    def __post_init__(self) -> None:
        bands = self.frontend.n_mels
        for name in ('mean', 'std', 'voice_mean'):
            values = getattr(self, name)
            schema.expect(values.shape == (bands,), name, f'{bands} numbers', len(values))
        if isinstance(self.std, np.ndarray):  # in training it may be traced
            schema.expect(bool((self.std > 0).all()), 'std', 'numbers above 0', float(self.std.min()))

    @property
    def rule(self) -> Rule:
        """What is speech."""
        return Rule.of(self.frontend, self.filters)

    @property
    def most_frames(self) -> int:
        """Frames of speech after which nothing more is learned of a voice."""
        return self._frames(self.voice.most_seconds)

    @property
    def half_frames(self) -> int:
        """Frames of speech after which half of a voice's difference is taken off."""
        return max(1, self._frames(self.voice.half_seconds))

    @functools.cached_property
    def digest(self) -> str:
        """A digest of all of it, in hexadecimal: what was learned of a voice by one is not for another."""
        return hashlib.sha256(json.dumps(self.as_json(), sort_keys=True).encode()).hexdigest()

    def seconds(self, frames: int) -> float:
        """How long so many frames of speech are."""
        return frames * self.frontend.hop_ms / 1000

    def learned(self, codes: np.ndarray, profile: Profile | None = None, *, most: int | None = None) -> Profile:
        """What is known of a voice after a recording `[T, M]`, heard as a stream; `profile` is what was before.

        Learning ends at `most` frames of speech; None: at `most_frames`.
        """
        most = self.most_frames if most is None else most
        return voice.of_recording(codes, self.window, self.rule, most=most, known=profile)

    def codes(self, samples: np.ndarray) -> np.ndarray:
        """Features of a recording, `[N]` int16 to `[T, M]` int8."""
        return features.encode(features.log_mel(samples, self.frontend, self.filters))

    def recording(self, blocks: Iterable[np.ndarray]) -> Recording:
        """Features of a recording that comes in blocks, `[n]` int16, any n (`audio.blocks`); N is at least 1.

        They are those of `codes`; a recording of any length takes the memory of its codes.
        """
        frontend = self.frontend
        step = _FRAMES * frontend.hop_length
        size = step + max(0, frontend.frame_length - frontend.hop_length)
        # They grow in place: of three hours a second copy would be 70 MB.
        codes, full_scale = bytearray(), bytearray()

        def keep(samples: bytearray) -> None:
            cut = np.frombuffer(samples, np.int16)
            codes.extend(self.codes(cut).tobytes())
            full_scale.extend(features.full_scale(cut, frontend).astype(np.int16).tobytes())

        count, rest = 0, bytearray()
        for block in blocks:
            count += len(block)
            rest += block.tobytes()
            while len(rest) >= 2 * size:
                keep(rest[: 2 * size])
                del rest[: 2 * step]
        if not codes or len(rest) >= 2 * frontend.frame_length:
            keep(rest)
        return Recording(
            np.frombuffer(codes, np.int8).reshape(-1, frontend.n_mels), np.frombuffer(full_scale, np.int16), count
        )

    def offset(self, profile: Profile | None = None) -> np.ndarray:
        """What is taken off a window beside its level, `[M]` float32 in steps: `mean`, and what is known of a voice."""
        if profile is None:
            return self.mean
        offset: np.ndarray = self.mean + self.share(profile.frames) * (profile.mean - self.voice_mean)
        return offset

    def share(self, frames: Any, xp: Any = np) -> Any:
        """The share of a voice's difference that is taken off after so many frames of speech, 0 to less than 1."""
        share = xp.float32(frames) / xp.float32(frames + self.half_frames)
        return xp.where(frames < self._frames(self.voice.after_seconds), xp.float32(0), share)

    def _frames(self, seconds: float) -> int:
        return round(1000 * seconds / self.frontend.hop_ms)

    def hear(self, codes: np.ndarray, profile: Profile | None = None, found: Speech | None = None) -> Heard:
        """One window of at most `window.frames` frames, `[n, M]` int8, for the model; `found`: its speech, if known."""
        missing = self.window.frames - len(codes)
        off, found = speech.normalise(np.pad(codes, ((0, missing), (0, 0))), len(codes), self.rule, found=found)
        return Heard((off - self.offset(profile)) / self.std, found)

    def clip(self, codes: np.ndarray, profile: Profile | None = None) -> Iterator[Heard]:
        """The windows of a clip `[T, M]`, laid over its active span."""
        return self.windows(speech.active(codes, self.rule), profile)

    def windows(self, active: np.ndarray, profile: Profile | None = None) -> Iterator[Heard]:
        """The windows of a clip's active span `[T, M]`.

        Each finds its speech in the span alone. Where the background is less than 22 dB below the loud part, that is
        not quite what it would find in the whole clip.
        """
        for start in windows.starts(len(active), self.window):
            yield self.hear(active[start : start + self.window.frames], profile)

    def as_json(self) -> dict[str, Any]:
        """The manifest's `input`."""
        seconds, window = self.frontend.hop_ms / 1000, self.window
        written = _Written(
            window.frames * seconds,
            window.hop * seconds,
            window.frames,
            window.hop,
            self.mean,
            self.std,
            self.voice_mean,
            self.voice,
        )
        return {**schema.to_json(self.frontend), **schema.to_json(written)}

    @classmethod
    def from_json(cls, content: Any, key: str = 'input') -> Input:
        """Reads the manifest's `input`.

        Raises:
          ValueError: `KEY.frames: expected ..., found ...`: a wrong type, a number out of its bounds, or numbers that
            do not go together.
        """
        schema.expect(isinstance(content, dict), key, 'an object', content)
        own = {name: item for name, item in content.items() if name in schema.field_types(_Written)}
        for name in schema.field_types(FrontendConfig):
            if name not in content:
                raise ValueError(f'{key}.{name}: expected a value, found none')
        frontend = schema.from_json(FrontendConfig, {name: content[name] for name in content if name not in own}, key)
        written = schema.from_json(_Written, own, key)
        try:
            window = WindowConfig(written.frames, written.hop_frames)
            return cls(frontend, window, written.mean, written.std, written.voice_mean, written.voice)
        except ValueError as error:
            raise ValueError(f'{key}.{error}') from error
