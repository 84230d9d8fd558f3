"""Log-mel features against the definition, written out in NumPy; and their codes."""

from __future__ import annotations

import numpy as np
import pytest

from jax_reparam.frontend.features import STEP, ZERO, FrontendConfig, encode, filters, frames, log_mel

CONFIG = FrontendConfig()


def reference(audio, config):
    """ln(mel |DFT(hann * (frame - its mean))|^2 + floor), frame by frame, in float64."""
    n = config.frame_length
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n) / n)
    rows = []
    for start in range(0, len(audio) - n + 1, config.hop_length):
        frame = audio[start : start + n] - audio[start : start + n].mean()
        spectrum = np.fft.rfft(window * frame, config.n_fft)
        rows.append(np.log(filters(config).mel.astype(np.float64) @ np.abs(spectrum) ** 2 + config.floor))
    return np.array(rows)


def test_equals_the_definition(rng):
    audio = (3000 * rng.standard_normal(8000) + 2000).astype(np.int16)
    got = log_mel(audio, CONFIG)
    assert got.dtype == np.float32
    assert got.shape == (1 + (8000 - 400) // 160, 64)
    np.testing.assert_allclose(got, reference(audio / 32768, CONFIG), atol=4e-6)


@pytest.mark.parametrize('n_mels', [64, 128])
def test_equals_librosa(rng, n_mels):
    """Over loud and quiet frames, and over more than one block of them."""
    import librosa

    config = FrontendConfig(n_mels=n_mels, n_fft=512 if n_mels == 64 else 1024)
    audio = (rng.standard_normal(24000) * np.geomspace(1, 9000, 24000)).astype(np.int16)
    # Frames end to end, so that each can lose its mean before librosa cuts them, in the middle of its transform.
    cut = np.pad(frames(audio, config) / 32768, ((0, 0), ((config.n_fft - 400) // 2, (config.n_fft - 400) // 2)))
    spectrum = librosa.stft(cut.ravel(), n_fft=config.n_fft, hop_length=config.n_fft, win_length=400, center=False)
    expected = np.log(filters(config).mel @ np.abs(spectrum) ** 2 + np.float32(config.floor)).T
    np.testing.assert_allclose(log_mel(audio, config), expected, atol=4e-6)


def test_frames_are_the_samples_without_the_mean_of_each(rng):
    audio = rng.integers(-32768, 32768, 1000).astype(np.int16)
    got = frames(audio, CONFIG)
    assert got.dtype == np.float32
    for t in range(4):
        frame = audio[160 * t : 160 * t + 400]
        np.testing.assert_array_equal(got[t], frame - np.float32(frame.sum(dtype=int)) / np.float32(400))


@pytest.mark.parametrize('offset', [-20000, 1, 1638])
def test_a_constant_offset_changes_no_code(rng, offset):
    audio = (3000 * rng.standard_normal(8000)).astype(np.int16)
    moved = encode(log_mel((audio + offset).astype(np.int16), CONFIG))
    np.testing.assert_array_equal(moved, encode(log_mel(audio, CONFIG)))


def test_an_offset_alone_is_silence():
    np.testing.assert_array_equal(
        log_mel(np.full(800, 12345, np.int16), CONFIG), log_mel(np.zeros(800, np.int16), CONFIG)
    )


@pytest.mark.parametrize(('samples', 'count'), [(1, 1), (400, 1), (559, 1), (560, 2), (16000, 98)])
def test_number_of_frames(samples, count):
    assert log_mel(np.ones(samples, np.int16), CONFIG).shape == (count, 64)


def test_a_short_clip_is_padded_with_zeros_to_a_frame(rng):
    audio = rng.integers(-99, 99, 123).astype(np.int16)
    np.testing.assert_array_equal(log_mel(audio, CONFIG), log_mel(np.pad(audio, (0, 277)), CONFIG))


def test_silence_is_the_floor():
    silence = log_mel(np.zeros(800, np.int16), CONFIG)
    np.testing.assert_allclose(silence, np.log(1e-9), rtol=1e-6)
    assert (encode(silence) == -128).all()


def test_every_band_hears_something():
    assert (filters(CONFIG).mel.sum(axis=1) > 0).all()


def test_bands_are_centred_where_they_hear_most():
    bins = filters(CONFIG).mel.argmax(axis=1) * 16000 / 512
    assert np.abs(bins - filters(CONFIG).centres).max() < 16000 / 512


def test_codes_are_the_nearest_step():
    values = np.linspace(-25, 9, 3001, dtype=np.float32)
    codes = encode(values)
    assert codes.dtype == np.int8
    inside = (values > -20.7) & (values < 4.8)
    back = (codes.astype(np.float32) - ZERO) * np.float32(STEP)
    assert np.abs(back - values)[inside].max() <= STEP / 2 + 1e-5
    assert set(codes[values < -20.8]) == {-128}
    assert set(codes[values > 4.85]) == {127}
    assert encode(np.float32(0)) == ZERO
