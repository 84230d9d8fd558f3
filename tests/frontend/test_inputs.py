"""How audio becomes a model's input: what is written is what is read, and windows of clips are those of `speech`."""

from __future__ import annotations

import copy
import dataclasses
import json
import re
import tracemalloc

import numpy as np
import pytest
import soundfile

from helpers import MISSING, pattern, put, syllables
from jax_reparam.frontend import audio, features, speech
from jax_reparam.frontend import inputs as inputs_module
from jax_reparam.frontend.features import FrontendConfig
from jax_reparam.frontend.inputs import Input
from jax_reparam.frontend.voice import Profile, VoiceConfig
from jax_reparam.frontend.windows import WindowConfig

CONFIG = FrontendConfig(n_mels=12, fmin=50.0)


@pytest.fixture
def inputs(rng):
    mean, std, voice_mean = rng.standard_normal((3, 12)).astype(np.float32)
    voice = VoiceConfig(0.5, 0.25, 7.0, 20.0, 90.0)
    return Input(CONFIG, WindowConfig(100, 50), mean, np.abs(std) + 1, voice_mean, voice)


def silence(seconds):
    return np.zeros(round(16000 * seconds), np.int16)


def test_it_comes_back(inputs):
    content = json.loads(json.dumps(inputs.as_json(), allow_nan=False))
    read = Input.from_json(copy.deepcopy(content))
    assert (read.frontend, read.window, read.voice) == (inputs.frontend, inputs.window, inputs.voice)
    for name in ('mean', 'std', 'voice_mean'):
        np.testing.assert_array_equal(getattr(read, name), getattr(inputs, name))
        assert getattr(read, name).dtype == np.float32
    assert content['window_seconds'] == pytest.approx(1.0)
    assert content['window_hop_seconds'] == pytest.approx(0.5)
    assert content['voice'] == {
        'history': 0.5,
        'one_class': 0.25,
        'half_seconds': 7.0,
        'after_seconds': 20.0,
        'most_seconds': 90.0,
    }
    assert (content['floor'], content['sample_rate']) == (1e-9, 16000)


@pytest.mark.parametrize(
    ('path', 'value', 'message'),
    [
        (['mean'], [0.0] * 11, 'input.mean: expected 12 numbers, found 11'),
        (['voice_mean'], [0.0] * 13, 'input.voice_mean: expected 12 numbers, found 13'),
        (['std', 2], 0.0, 'input.std: expected numbers above 0, found 0'),
        (['mean', 2], float('nan'), 'input.mean[2]: expected a number, found nan'),
        (['mean', 2], 'x', "input.mean[2]: expected a number, found 'x'"),
        (['frames'], 0, 'input.frames: expected at least 1, found 0'),
        (['hop_frames'], 101, 'input.hop_frames: expected 1 to 100 frames (the window), found 101'),
        (['n_mels'], 13, 'input.mean: expected 13 numbers, found 12'),
        (['n_mels'], MISSING, 'input.n_mels: expected a value, found none'),
        (['voice_mean'], MISSING, 'input.voice_mean: expected a value, found none'),
        (['voice'], MISSING, 'input.voice: expected a value, found none'),
        (['voice', 'history'], 2, 'input.voice.history: expected 0 to 1, found 2'),
        (['voice', 'half'], 2, "input.voice: expected one of .*, found 'half'"),
        (['floor'], 1e-7, 'input.floor: expected 1e-09, found 1e-07'),
        (['sample_rate'], 8000, 'input.sample_rate: expected 16000, found 8000'),
        (['flor'], 1, "input: expected one of .*, found 'flor'; did you mean 'floor'?"),
    ],
)
def test_what_is_wrong_is_one_line(inputs, path, value, message):
    content = json.loads(json.dumps(inputs.as_json()))
    put(content, path, value)
    with pytest.raises(ValueError, match='expected') as caught:
        Input.from_json(content)
    assert re.match(pattern(message), str(caught.value))
    assert '\n' not in str(caught.value)


def test_what_is_no_object_is_refused():
    with pytest.raises(ValueError, match=r'^input: expected an object, found None$'):
        Input.from_json(None)


@pytest.mark.parametrize('frame_ms', [25, 5], ids=['frames overlap', 'gaps'])
@pytest.mark.parametrize('samples', [1, 399, 400, 559, 560, 640, 720, 879, 880, 1040, 4000])
@pytest.mark.parametrize('size', [1, 97, 100_000])
def test_a_recording_in_blocks_is_that_recording(inputs, monkeypatch, frame_ms, samples, size):
    """Of any length, in blocks of any size, 4 frames at a time."""
    monkeypatch.setattr(inputs_module, '_FRAMES', 4)
    inputs = dataclasses.replace(inputs, frontend=FrontendConfig(n_mels=12, fmin=50.0, frame_ms=frame_ms))
    sound = np.maximum(syllables(1)[:samples] * 4, -32768).astype(np.int16)
    sound[::7] = 32767
    found = inputs.recording(sound[at : at + size] for at in range(0, samples, size))
    np.testing.assert_array_equal(found.codes, inputs.codes(sound))
    np.testing.assert_array_equal(found.full_scale, features.full_scale(sound, inputs.frontend))
    assert found.samples == samples


@pytest.mark.parametrize('channels', [1, 2])
def test_a_recording_of_any_length_takes_the_memory_of_its_codes(inputs, tmp_path, channels):
    soundfile.write(tmp_path / 'a.wav', np.tile(syllables(10)[:, None], (24 // channels, channels)), 16000)  # 7.7 MB
    inputs.recording(iter([syllables(10)]))
    tracemalloc.start()
    found = inputs.recording(audio.blocks(tmp_path / 'a.wav'))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.samples == 240 // channels * 16000
    assert peak < 5e6


@pytest.mark.parametrize('seconds', [0.5, 0.9, 1.0])
def test_a_window_is_normalised_and_standardised(inputs, seconds):
    codes = inputs.codes(syllables(seconds))
    np.testing.assert_array_equal(codes, features.encode(features.log_mel(syllables(seconds), CONFIG)))
    heard = inputs.hear(codes)
    padded = np.pad(codes, ((0, 100 - len(codes)), (0, 0)))
    expected, found = speech.normalise(padded, len(codes), inputs.rule)
    assert heard.features.dtype == np.float32
    assert heard.features.shape == (100, 12)
    np.testing.assert_array_equal(heard.features, (expected - inputs.mean) / inputs.std)
    assert heard.speech.there == found.there
    profile = Profile(np.arange(12, dtype=np.int32) * 9999, 3000)
    np.testing.assert_array_equal(
        inputs.hear(codes, profile).features, (expected - inputs.offset(profile)) / inputs.std
    )


def test_windows_of_a_clip_lie_over_its_active_span(inputs):
    sound = np.concatenate([silence(3), syllables(2.3), silence(4)])
    codes = inputs.codes(sound)
    active = speech.active(codes, inputs.rule)
    assert len(active) < 240
    got = list(inputs.clip(codes))
    starts = [*range(0, len(active) - 100, 50), len(active) - 100]
    assert len(got) == len(starts)
    for heard, start in zip(got, starts, strict=True):
        np.testing.assert_array_equal(heard.features, inputs.hear(active[start : start + 100]).features)
    again = list(inputs.windows(active))
    assert all(np.array_equal(a.features, b.features) for a, b in zip(got, again, strict=True))


def test_an_active_span_is_not_cut_again(inputs, rng):
    """Without the silence around it, its noise would be another background."""
    noise = (700 * rng.standard_normal(16000 * 6)).astype(np.int16)
    noise[32000:64000] += syllables(2)
    active = speech.active(inputs.codes(noise), inputs.rule)
    assert len(speech.active(active, inputs.rule)) < len(active) < 300
    assert sum(1 for _ in inputs.windows(active)) == -(-(len(active) - 100) // 50) + 1


def test_a_clip_without_speech_has_the_windows_of_all_of_it(inputs):
    got = list(inputs.clip(inputs.codes(silence(2))))
    assert len(got) == 3
    assert not any(heard.speech.there for heard in got)


def test_one_frame_is_a_window(inputs):
    [heard] = inputs.clip(inputs.codes(np.ones(1, np.int16)))
    assert heard.features.shape == (100, 12)
    assert np.isfinite(heard.features).all()
