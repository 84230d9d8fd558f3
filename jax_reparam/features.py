"""Log-mel features: the one definition that training, prediction and the device share."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

# Part of the key of features on disk: another number, and they are computed anew.
VERSION = 2

# Frames that are transformed together: more of them would leave the processor's cache.
_BLOCK = 64


@dataclasses.dataclass(frozen=True)
class FrontendConfig:
    """Parameters of the log-mel frontend.

    Attributes:
      sample_rate: samples per second of the audio that goes in.
      n_mels: mel bands M (Slaney scale and area normalisation, librosa's defaults).
      frame_ms: length of a frame in milliseconds (Hann window).
      hop_ms: distance between frames in milliseconds.
      n_fft: length of the Fourier transform; the frame is padded with zeros to it.
      fmin: lower edge of the lowest band in Hz.
      fmax: upper edge of the highest band in Hz.
      floor: added to every band's power before the logarithm; full scale is 1.0.
    """

    sample_rate: int = 16000
    n_mels: int = 64
    frame_ms: int = 25
    hop_ms: int = 10
    n_fft: int = 512
    fmin: float = 20.0
    fmax: float = 8000.0
    floor: float = 1e-7

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


def frame_count(samples: int, config: FrontendConfig) -> int:
    """The number of frames T of a clip of so many samples."""
    return 1 + max(0, samples - config.frame_length) // config.hop_length


def log_mel(audio: np.ndarray, config: FrontendConfig) -> np.ndarray:
    """Log-mel spectrogram `ln(mel power + floor)` of one clip.

    Frame t covers the samples [t * hop, t * hop + frame): nothing is centred or reflected, so that a device which sees
    the samples as they come computes the same frames. A clip shorter than one frame is padded with zeros to one frame.

    Args:
      audio: `[N]`, int16, or float in [-1, 1].
      config: the frontend's parameters.

    Returns:
      `[T, M]` float32 with T = 1 + (max(N, frame) - frame) // hop.
    """
    if audio.dtype == np.int16:
        audio = audio.astype(np.float32) / 32768.0
    audio = np.pad(audio, (0, max(0, config.frame_length - len(audio))))
    frames = np.lib.stride_tricks.sliding_window_view(audio, config.frame_length)[:: config.hop_length]
    window, bank = _tables(config)
    # In double precision up to the power: single would move quiet bands by up to 2e-4.
    padded = np.zeros((_BLOCK, config.n_fft))
    spectrum = np.empty((_BLOCK, len(bank)), np.complex128)
    power = np.empty(spectrum.shape, np.float32)
    mel = np.empty((len(frames), config.n_mels), np.float32)
    for start in range(0, len(frames), _BLOCK):
        block = frames[start : start + _BLOCK]
        n = len(block)
        np.multiply(block, window, out=padded[:n, : config.frame_length])
        squares = np.fft.rfft(padded[:n], out=spectrum[:n]).view(np.float64)
        np.square(squares, out=squares)
        np.add(squares[:, 0::2], squares[:, 1::2], out=power[:n], casting='same_kind')
        np.matmul(power[:n], bank, out=mel[start : start + n])
    mel += np.float32(config.floor)
    return np.log(mel, out=mel)


@functools.lru_cache(maxsize=8)
def _tables(config: FrontendConfig) -> tuple[np.ndarray, np.ndarray]:
    """The periodic Hann window, `[frame_length]` float64, and the mel filter bank, `[n_fft / 2 + 1, M]` float32."""
    angle = 2 * np.pi * np.arange(config.frame_length) / config.frame_length
    return 0.5 - 0.5 * np.cos(angle), np.ascontiguousarray(mel_matrix(config).T)
