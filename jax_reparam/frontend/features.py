"""Log-mel features: the one definition that training, prediction and the device share."""

from __future__ import annotations

import dataclasses
import functools
from typing import ClassVar

import numpy as np

from jax_reparam import schema
from jax_reparam.frontend.audio import SAMPLE_RATE
from jax_reparam.schema import Amount, Positive, Size

# Part of the key of features on disk: another number, and they are computed anew.
VERSION = 2

# Frames that are transformed together: more of them would leave the processor's cache.
_BLOCK = 128


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
      floor: added to every band's power before the logarithm; full scale is 1.0.
    """

    sample_rate: ClassVar[int] = SAMPLE_RATE
    n_mels: Size = 64
    frame_ms: Size = 25
    hop_ms: Size = 10
    n_fft: Size = 512
    fmin: Amount = 20.0
    fmax: Positive = 8000.0
    floor: Positive = 1e-7

    def __post_init__(self) -> None:
        super().__post_init__()
        frame, n_fft, nyquist = self.frame_length, self.n_fft, self.sample_rate / 2
        fits = n_fft >= frame and n_fft.bit_count() == 1
        schema.expect(fits, 'n_fft', f'a power of two of at least a frame of {frame} samples', n_fft)
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


@functools.lru_cache(maxsize=8)
def mel_matrix(config: FrontendConfig) -> np.ndarray:
    """The mel filter bank, `[M, n_fft / 2 + 1]` float32."""
    import librosa

    return librosa.filters.mel(
        sr=config.sample_rate, n_fft=config.n_fft, n_mels=config.n_mels, fmin=config.fmin, fmax=config.fmax
    )


@functools.lru_cache(maxsize=8)
def window(config: FrontendConfig) -> np.ndarray:
    """The Hann window of a frame, `[frame]` float32, periodic as librosa's."""
    import librosa

    return librosa.filters.get_window('hann', config.frame_length, fftbins=True).astype(np.float32)


def frame_count(samples: int, config: FrontendConfig) -> int:
    """The number of frames T of a clip of so many samples."""
    return 1 + max(0, samples - config.frame_length) // config.hop_length


def log_mel(audio: np.ndarray, config: FrontendConfig) -> np.ndarray:
    """Log-mel spectrogram `ln(mel power + floor)` of one clip, in single precision, as a device computes it.

    Frame t covers the samples [t * hop, t * hop + frame): nothing is centred or reflected, so that a device which sees
    the samples as they come computes the same frames. A clip shorter than one frame is padded with zeros to one frame.

    Args:
      audio: `[N]`, int16, or float in [-1, 1].
      config: the frontend's parameters.

    Returns:
      `[T, M]` float32 with T = 1 + (max(N, frame) - frame) // hop.
    """
    from jax_reparam.frontend import fourier

    if audio.dtype == np.int16:
        audio = audio.astype(np.float32) / 32768.0
    if len(audio) < config.frame_length:
        audio = np.pad(audio, (0, config.frame_length - len(audio)))
    frames = np.lib.stride_tricks.sliding_window_view(audio, config.frame_length)[:: config.hop_length].T
    hann, bank = window(config), mel_matrix(config)
    mel = np.empty((config.n_mels, frames.shape[1]), np.float32)
    for start in range(0, frames.shape[1], _BLOCK):
        power = fourier.power_spectrum(frames[:, start : start + _BLOCK], hann, config.n_fft)
        np.matmul(bank, power, out=mel[:, start : start + _BLOCK])
    features: np.ndarray = np.log(mel.T + np.float32(config.floor))
    return features
