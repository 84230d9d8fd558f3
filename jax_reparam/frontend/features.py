"""Log-mel features: the one definition that training, prediction and the device share.

Samples become frames, each frame loses its mean (a microphone's DC), and its mel power becomes `ln(power + floor)`.
What is kept of that is `encode`'s int8, in steps of 0.1 nat (0.43 dB): on disk, in batches, and in the ring of a
device. All that a window then goes through (`speech.normalise`) is exact arithmetic on these integers.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import zipfile
from typing import Annotated, ClassVar

import numpy as np

from jax_reparam import schema
from jax_reparam.frontend.audio import SAMPLE_RATE
from jax_reparam.schema import Amount, Bound, Positive, Size, at_most

# Part of the key of features on disk: another number, and they are computed anew.
VERSION = 4
# Nats in a step of `encode`, and the code of 0 nat. int8 then spans -20.7 nats, the logarithm of the floor, to 4.8.
STEP, ZERO = 0.1, 79

# Samples of at least this size are at full scale.
FULL_SCALE = 32767
# Frames that are transformed together: more of them would leave the processor's cache.
BLOCK = 128
# Rows of a matrix product. BLAS gives a product this small to one thread; waiting for others takes up to 20 times the
# processor time of the product itself.
_PRODUCT = 8


@dataclasses.dataclass(frozen=True)
class FrontendConfig(schema.Checked):
    """Parameters of the log-mel frontend.

    Attributes:
      sample_rate: samples per second of the audio that goes in; recordings of other rates are resampled to it.
      n_mels: mel bands M (Slaney scale and area normalisation, librosa's defaults).
      frame_ms: length of a frame in milliseconds (Hann window).
      hop_ms: distance between frames in milliseconds.
      n_fft: length of the Fourier transform, a power of two; the frame is padded with zeros to it.
      fmin: lower edge of the lowest band in Hz.
      fmax: upper edge of the highest band in Hz.
      floor: added to every band's power before the logarithm; full scale is 1.0. Three times what rounding samples to
        16 bits leaves in a band.
      clamp_nats: log-mel ends so far below the level of the speech (`speech.level_off`): what is quieter is the
        room's, or the rounding of samples. Less hides more of both, and of speech.
    """

    sample_rate: ClassVar[int] = SAMPLE_RATE
    floor: ClassVar[float] = 1e-9
    n_mels: Annotated[Size, at_most(1024)] = 64
    frame_ms: Annotated[Size, at_most(1000)] = 25
    hop_ms: Annotated[Size, at_most(1000)] = 10
    n_fft: Annotated[Size, at_most(1 << 16)] = 512
    fmin: Amount = 20.0
    fmax: Positive = 8000.0
    clamp_nats: Annotated[float, Bound('1 to 25', lambda value: 1 <= value <= 25)] = 8.0

    def __post_init__(self) -> None:
        super().__post_init__()
        frame, n_fft, nyquist = self.frame_length, self.n_fft, self.sample_rate / 2
        fits = n_fft >= frame and n_fft.bit_count() == 1
        schema.expect(fits, 'n_fft', f'a power of two of at least a frame of {frame} samples', n_fft)
        schema.expect(self.n_mels <= n_fft // 2, 'n_mels', f'at most half of n_fft, {n_fft // 2}', self.n_mels)
        schema.expect(self.fmax <= nyquist, 'fmax', f'at most half the sample rate, {nyquist:g}', self.fmax)
        schema.expect(self.fmin < self.fmax, 'fmin', f'less than fmax, {self.fmax:g}', self.fmin)

    @property
    def frame_length(self) -> int:
        """Samples in a frame."""
        return self.sample_rate * self.frame_ms // 1000

    @property
    def hop_length(self) -> int:
        """Samples between the starts of two frames."""
        return self.sample_rate * self.hop_ms // 1000


@dataclasses.dataclass(frozen=True, eq=False)
class Filters:
    """The arrays of a frontend. librosa computes them for training, and an exported model carries them.

    Attributes:
      window: the Hann window of a frame, `[frame]` float32, periodic.
      mel: the mel filter bank, `[M, n_fft / 2 + 1]` float32.
      centres: the frequency in Hz at which each band is centred, `[M]` float64.
    """

    window: np.ndarray
    mel: np.ndarray
    centres: np.ndarray

    def to_bytes(self) -> bytes:
        """The content of an .npz file."""
        file = io.BytesIO()
        np.savez_compressed(file, **vars(self))
        return file.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes, config: FrontendConfig) -> Filters:
        """Reads what `to_bytes` gave.

        Raises:
          ValueError: it is no such file, or its arrays are not of this frontend.
        """
        try:
            with np.load(io.BytesIO(content)) as file:
                found = cls(**{field.name: file[field.name] for field in dataclasses.fields(cls)})
        except (KeyError, OSError, zipfile.BadZipFile) as error:
            raise ValueError(f'expected an .npz file with the filters of a frontend, found: {error}') from error
        shapes = {
            'window': (config.frame_length,),
            'mel': (config.n_mels, config.n_fft // 2 + 1),
            'centres': (config.n_mels,),
        }
        for name, shape in shapes.items():
            schema.expect(getattr(found, name).shape == shape, name, f'shape {shape}', getattr(found, name).shape)
        return found


@functools.lru_cache(maxsize=8)
def filters(config: FrontendConfig) -> Filters:
    """The arrays of a frontend, by librosa."""
    import librosa

    low, high, bands = config.fmin, config.fmax, config.n_mels
    return Filters(
        librosa.filters.get_window('hann', config.frame_length, fftbins=True).astype(np.float32),
        librosa.filters.mel(sr=config.sample_rate, n_fft=config.n_fft, n_mels=bands, fmin=low, fmax=high),
        librosa.mel_frequencies(bands + 2, fmin=low, fmax=high)[1:-1],
    )


def frame_count(samples: int, config: FrontendConfig) -> int:
    """The number of frames T of a clip of so many samples."""
    return 1 + max(0, samples - config.frame_length) // config.hop_length


def frames(samples: np.ndarray, config: FrontendConfig) -> np.ndarray:
    """The frames of a clip without their mean: what the Fourier transform, and `frontend.tflite`, are given.

    Frame t covers the samples [t * hop, t * hop + frame): nothing is centred or reflected, so that a device which sees
    the samples as they come computes the same frames. A clip shorter than one frame is padded with zeros to one frame.
    The sum of a frame is exact; its mean and the differences are rounded to float32.

    Args:
      samples: `[N]` int16.
      config: the frontend's parameters.

    Returns:
      `[T, frame]` float32 in steps of int16, with T = 1 + (max(N, frame) - frame) // hop.
    """
    cut = _cut(samples, config)
    mean = cut.sum(axis=1, dtype=np.int32, keepdims=True).astype(np.float32) / np.float32(config.frame_length)
    centred: np.ndarray = cut - mean
    return centred


def full_scale(samples: np.ndarray, config: FrontendConfig) -> np.ndarray:
    """How many samples of each frame are at full scale, `[T]` of `[N]` int16: see `speech.clipping`."""
    full = (samples <= -FULL_SCALE) | (samples >= FULL_SCALE)
    counts: np.ndarray = _cut(full, config).sum(axis=1)
    return counts


def _cut(samples: np.ndarray, config: FrontendConfig) -> np.ndarray:
    length = config.frame_length
    if len(samples) < length:
        samples = np.pad(samples, (0, length - len(samples)))
    return np.lib.stride_tricks.sliding_window_view(samples, length)[:: config.hop_length]


def log_mel(samples: np.ndarray, config: FrontendConfig, arrays: Filters | None = None) -> np.ndarray:
    """Log-mel spectrogram `ln(mel power + floor)` of one clip, in single precision.

    Args:
      samples: `[N]` int16.
      config: the frontend's parameters.
      arrays: those of the frontend; None: librosa's.

    Returns:
      `[T, M]` float32; see `frames`.
    """
    arrays = filters(config) if arrays is None else arrays
    scaled_window, bank = arrays.window / np.float32(32768), arrays.mel.T
    mel = []
    hop, overlap = config.hop_length, config.frame_length - config.hop_length
    for start in range(0, frame_count(len(samples), config) * hop, BLOCK * hop):
        cut = frames(samples[start : start + BLOCK * hop + max(0, overlap)], config)[:BLOCK]
        spectrum = np.fft.rfft(cut * scaled_window, config.n_fft)
        # Rows that fill no product are zeros.
        power = np.zeros((-(-len(cut) // _PRODUCT), _PRODUCT, spectrum.shape[1]), np.float32)
        np.add(np.square(spectrum.real), np.square(spectrum.imag), out=power.reshape(-1, spectrum.shape[1])[: len(cut)])
        mel.append((power @ bank).reshape(-1, config.n_mels)[: len(cut)])
    features: np.ndarray = np.log(np.concatenate(mel) + np.float32(config.floor))
    return features


def encode(log_mel: np.ndarray) -> np.ndarray:
    """Log-mel in steps of `STEP` nats from `ZERO`: int8, the nearest step, ties to even, of any shape."""
    steps = np.rint(log_mel * np.float32(1 / STEP)) + np.float32(ZERO)
    codes: np.ndarray = np.clip(steps, -128, 127).astype(np.int8)
    return codes
