"""Streams: samples in chunks of any size become the frames and the windows of the whole recording."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from jax_reparam.frontend import features, stream, windows
from jax_reparam.frontend.features import FrontendConfig
from jax_reparam.frontend.inputs import Input
from jax_reparam.frontend.windows import WindowConfig

# Frames of 64 samples every 16; windows of 5 frames every 2.
CONFIG = FrontendConfig(n_mels=4, frame_ms=4, hop_ms=1, n_fft=64)
INPUTS = Input(CONFIG, WindowConfig(5, 2), *np.ones((3, 4), np.float32))


def recording(samples):
    """Every sample differs from every other."""
    return np.arange(1, samples + 1, dtype=np.int16)


def chunks(samples, size):
    return [samples[at : at + size] for at in range(0, len(samples), size)]


def cut(samples, size, config=CONFIG):
    cutter = stream.FrameCutter(config)
    frames = [frame for chunk in chunks(samples, size) for frame in cutter.feed(chunk)]
    return [*frames, *cutter.finish()]


def listen(samples, size, frame_features=lambda frame: frame):
    cutter = stream.Windows(INPUTS, frame_features)
    found = [window for chunk in chunks(samples, size) for window in cutter.feed(chunk)]
    return [*found, *cutter.finish()]


@pytest.mark.parametrize('size', [1, 7, 16, 63, 64, 65, 500])
def test_frames_are_those_of_the_recording(size):
    samples = recording(303)
    expected = [samples[at : at + 64] for at in range(0, 303 - 63, 16)]
    np.testing.assert_array_equal(cut(samples, size), expected)


@pytest.mark.parametrize('size', [1, 9, 100])
def test_samples_between_frames_are_skipped_where_the_hop_is_longer(size):
    config = FrontendConfig(frame_ms=1, hop_ms=3)
    samples = recording(180)
    np.testing.assert_array_equal(cut(samples, size, config), [samples[at : at + 16] for at in (0, 48, 96, 144)])


def test_less_than_a_frame_is_padded_with_zeros():
    np.testing.assert_array_equal(cut(recording(3), 2), [[1, 2, 3, *[0] * 61]])


@pytest.mark.parametrize('samples', [64, 96, 112, 128, 144, 160, 175, 176, 177, 533])
@pytest.mark.parametrize('size', [1, 13, 1000])
def test_windows_are_those_of_the_recording(samples, size):
    audio = recording(samples)
    frames = np.stack(cut(audio, len(audio)))
    found = listen(audio, size)
    starts = windows.starts(len(frames), INPUTS.window)
    np.testing.assert_array_equal([window.start for window in found], starts)
    for window in found:
        assert window.frames == len(window.codes) == min(5, len(frames))
        np.testing.assert_array_equal(window.codes, frames[window.start : window.start + 5])
    # Each frame is new once, in the first window that holds it.
    new = [frame for window in found for frame in window.codes[window.frames - window.new :]]
    np.testing.assert_array_equal(new, frames)


def test_samples_at_full_scale_are_counted_in_each_frame(rng):
    audio = np.where(rng.random(303) < 0.1, rng.choice([-32768, -32767, 32767], 303), 32766).astype(np.int16)
    found = listen(audio, 50)
    counts = (np.abs(np.stack(cut(audio, 303)).astype(int)) >= 32767).sum(axis=1)
    np.testing.assert_array_equal(features.full_scale(audio, CONFIG), counts)
    for window in found:
        np.testing.assert_array_equal(window.full_scale, counts[window.start : window.start + 5])
    assert len(np.unique(counts)) > 3


def same_codes(inputs, audio):
    """Checks that the windows of a stream hold the codes of the recording, and returns these."""
    cutter = stream.Windows(inputs, lambda frame: inputs.codes(frame)[0])
    found = [window for chunk in chunks(audio, 777) for window in cutter.feed(chunk)] + list(cutter.finish())
    codes = inputs.codes(audio)
    for window in found:
        np.testing.assert_array_equal(window.codes, codes[window.start : window.start + 20])
    return codes


def test_codes_of_a_stream_are_those_of_the_recording(rng):
    inputs = Input(FrontendConfig(), WindowConfig(20, 10), *np.ones((3, 64), np.float32))
    audio = (3000 * rng.standard_normal(9000)).astype(np.int16)
    same_codes(inputs, audio)


CHANGES = {'n_mels': 12, 'frame_ms': 32, 'hop_ms': 15, 'n_fft': 1024, 'fmin': 300.0, 'fmax': 3000.0}


# The clamp is no part of a code; tests/frontend/test_speech.py has it.
OF_CODES = [field.name for field in dataclasses.fields(FrontendConfig) if field.name != 'clamp_nats']


@pytest.mark.parametrize('name', OF_CODES)
def test_every_key_of_the_frontend_counts_alike_for_a_stream_and_for_a_recording(rng, name):
    """A corpus's features are those of `Input.codes`; a device hears a stream, and knows its model by the digest."""
    config = FrontendConfig(**{name: CHANGES[name]})
    inputs, default = (
        Input(one, WindowConfig(20, 10), *np.ones((3, one.n_mels), np.float32)) for one in (config, FrontendConfig())
    )
    audio = (3000 * rng.standard_normal(9000)).astype(np.int16)
    codes = same_codes(inputs, audio)
    assert not np.array_equal(codes, default.codes(audio))
    assert inputs.digest != default.digest


def test_a_frame_is_computed_once():
    seen = []
    listen(recording(533), 50, lambda frame: seen.append(int(frame[0])) or frame)
    assert seen == list(range(1, 533 - 62, 16))


def test_no_window_comes_before_one_is_full():
    cutter = stream.Windows(INPUTS, lambda frame: frame)
    assert list(cutter.feed(recording(127))) == []
    assert [window.start for window in cutter.feed(recording(1))] == [0]


def test_an_empty_stream_has_no_window():
    assert listen(recording(0), 1) == []
