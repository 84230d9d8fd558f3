"""Log-mel features against the definition, written out in NumPy."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from jax_reparam.frontend.features import FrontendConfig, log_mel, mel_matrix


def reference(audio, config):
    """ln(mel |DFT(hann * frame)|^2 + floor), frame by frame, in float64."""
    n = config.frame_length
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n) / n)
    frames = []
    for start in range(0, len(audio) - n + 1, config.hop_length):
        spectrum = np.fft.rfft(window * audio[start : start + n], config.n_fft)
        frames.append(np.log(mel_matrix(config).astype(np.float64) @ np.abs(spectrum) ** 2 + config.floor))
    return np.array(frames)


def test_equals_the_definition(rng):
    config = FrontendConfig()
    audio = (3000 * rng.standard_normal(8000)).astype(np.int16)
    got = log_mel(audio, config)
    assert got.dtype == np.float32
    assert got.shape == (1 + (8000 - 400) // 160, 64)
    np.testing.assert_allclose(got, reference(audio / 32768, config), atol=1e-4)


@pytest.mark.parametrize('n_mels', [64, 128])
def test_equals_librosa(rng, n_mels):
    """But for one rounding of the logarithm, over loud and quiet frames, and over more than one block of them."""
    import librosa

    config = FrontendConfig(n_mels=n_mels, n_fft=512 if n_mels == 64 else 1024)
    audio = (rng.standard_normal(24000) * np.geomspace(1, 9000, 24000)).astype(np.int16)
    side = (config.n_fft - 400) // 2  # librosa's frames stand in the middle of the transform
    padded = np.pad(audio.astype(np.float32) / 32768, side)
    spectrum = librosa.stft(padded, n_fft=config.n_fft, hop_length=160, win_length=400, center=False)
    expected = np.log(mel_matrix(config) @ np.abs(spectrum) ** 2 + np.float32(config.floor)).T
    np.testing.assert_allclose(log_mel(audio, config), expected, atol=4e-6)


def test_float_and_int16_audio_agree(rng):
    audio = (3000 * rng.standard_normal(1600)).astype(np.int16)
    np.testing.assert_array_equal(
        log_mel(audio, FrontendConfig()), log_mel(audio.astype(np.float32) / 32768, FrontendConfig())
    )


@pytest.mark.parametrize(('samples', 'frames'), [(1, 1), (400, 1), (559, 1), (560, 2), (16000, 98)])
def test_number_of_frames(samples, frames):
    assert log_mel(np.ones(samples, np.int16), FrontendConfig()).shape == (frames, 64)


def test_silence_is_the_floor():
    np.testing.assert_allclose(log_mel(np.zeros(800, np.int16), FrontendConfig()), np.log(1e-7), rtol=1e-6)


def test_every_band_hears_something():
    assert (mel_matrix(FrontendConfig()).sum(axis=1) > 0).all()


def test_the_compiler_is_loaded_with_the_first_clip_only():
    code = "import sys, jax_reparam.frontend.features; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, '-c', code], check=False).returncode == 0
