"""The arrays in firmware/ against TFLM's Python interpreter, run here anew."""

from __future__ import annotations

import re

import numpy as np
import pytest

from helpers import needs_tflm
from jax_reparam.device import golden
from jax_reparam.frontend import features, speech, voice, windows
from jax_reparam.frontend.features import FrontendConfig
from jax_reparam.frontend.speech import Rule
from jax_reparam.graph import flatbuffer
from jax_reparam.runtime import tflm


def array(folder, file, name):
    """The numbers of one array of a C++ source."""
    body = re.search(rf'{name}\[[^=;]*= \{{(.*?)\}};', (folder / file).read_text(), re.DOTALL).group(1)
    return np.array([int(number) for number in re.findall(r'-?\d+', body)])


def constant(folder, name):
    return int(re.search(rf'{name} = (\d+);', (folder / 'golden_data.h').read_text()).group(1))


@pytest.fixture(scope='module')
def found(written):
    """An array of `golden_data.cc`, by name."""
    return lambda name: array(written[1], 'golden_data.cc', f'kGolden{name}')


@pytest.fixture(scope='module')
def codes(front):
    """Codes of samples, by TFLM: every frame of the recording, cut by hand."""

    def run(samples):
        frames = np.stack([samples[at : at + 400] for at in range(0, len(samples) - 399, 160)])
        frames = frames - frames.mean(axis=1, keepdims=True).astype(np.float32)
        return features.encode(tflm.run(front, frames.astype(np.float32)).logits)

    return run


@pytest.fixture(scope='module')
def decide(model, fresh_inputs):
    """Int8 logits of windows of codes, by TFLM; each window may have a profile."""
    sink = flatbuffer.read(model).output

    def run(heard):
        return sink.encode(tflm.run(model, np.stack([fresh_inputs.hear(*window).features for window in heard])).logits)

    return run


@pytest.fixture(scope='module')
def stream(written, found):
    """The samples of the stream."""
    speech = np.tile(found('Pcm').astype(np.int16), constant(written[1], 'kGoldenRepeats'))
    silence, quieter = (constant(written[1], f'kGolden{name}') for name in ('Silence', 'Quieter'))
    return np.concatenate([speech, np.zeros(silence, np.int16), (speech / quieter).astype(np.int16)])


@pytest.fixture(scope='module')
def profiles(fresh_inputs, codes, stream):
    """The profile before each window of the stream, and after the last: of its beginning, learned as a recording."""
    heard, (window, rule, most) = codes(stream), (fresh_inputs.window, fresh_inputs.rule, fresh_inputs.most_frames)
    ends = [start + window.frames for start in windows.starts(len(heard), window)]
    return [voice.Profile.empty(12), *(voice.of_recording(heard[:end], window, rule, most=most) for end in ends)]


@needs_tflm
def test_codes_are_tflm_s_bit_for_bit(written, found, codes):
    expected = codes(found('Pcm').astype(np.int16))
    assert len(expected) == constant(written[1], 'kGoldenFrames')
    np.testing.assert_array_equal(found('Codes'), expected.ravel())
    assert len(np.unique(expected)) > 50


@needs_tflm
def test_logits_are_tflm_s_bit_for_bit(found, codes, decide, profiles):
    heard = codes(found('Pcm').astype(np.int16))
    assert len(heard) < 48
    unknown, known = decide([(heard,), (heard, profiles[-1])])
    np.testing.assert_array_equal(found('Logits'), unknown)
    np.testing.assert_array_equal(found('KnownLogits'), known)
    assert (unknown != known).any()


@needs_tflm
def test_the_stream_is_tflm_s_bit_for_bit(fresh_inputs, found, codes, decide, stream, profiles):
    heard, window = codes(stream), fresh_inputs.window
    starts = windows.starts(len(heard), window)
    np.testing.assert_array_equal(found('Starts'), starts)
    cut = [heard[start : start + window.frames] for start in starts]
    there = [speech for _, speech in speech.windows_of(heard, window, fresh_inputs.rule)]
    spoken = np.array([bool(each.there) for each in there])
    np.testing.assert_array_equal(found('Speech'), [each.mask.sum() * each.there for each in there])
    expected = np.zeros((len(starts), 3), int)
    expected[spoken] = decide([(cut[i], profiles[i]) for i in np.flatnonzero(spoken)])
    np.testing.assert_array_equal(found('StreamLogits'), expected.ravel())
    # The ring goes round, the end moves the last window back, and before and after silence somebody speaks.
    assert len(starts) >= 5
    assert starts[-1] - starts[-2] < window.hop
    assert spoken[[0, -1]].all()
    assert not spoken.all()
    assert len(np.unique(expected, axis=0)) > 2


@needs_tflm
def test_the_stream_s_speaker_is_learned(written, fresh_inputs, found, profiles):
    learned = found('Learned')
    np.testing.assert_array_equal(learned, [profile.frames for profile in profiles[1:]])
    assert found('Profile').astype(np.uint8).tobytes() == voice.to_bytes(profiles[-1], fresh_inputs)
    # It grows, stays in silence, grows, and ends.
    assert 0 < learned[0] < learned[-1] == fresh_inputs.most_frames
    assert (np.diff(learned)[found('Speech')[1:] == 0] == 0).all()
    assert np.diff(learned[found('Speech').argmin() :]).any()


def test_the_npy_files_hold_the_same(written, found):
    for file in ('pcm', 'codes', 'logits', 'known_logits', 'starts', 'stream_logits', 'speech', 'learned'):
        saved = np.load(written[1] / 'golden' / f'{file}.npy')
        np.testing.assert_array_equal(found(file.title().replace('_', '')), saved.ravel())


def test_the_models_are_those_of_the_folder(written, model, front, fresh_inputs):
    assert bytes(array(written[1], 'model_data.cc', 'kModel').astype(np.uint8)) == model
    assert bytes(array(written[1], 'model_data.cc', 'kInputDigest').astype(np.uint8)) == bytes.fromhex(
        fresh_inputs.digest
    )
    assert bytes(array(written[1], 'frontend_data.cc', 'kFrontend').astype(np.uint8)) == front
    for file in ('model_data.cc', 'frontend_data.cc'):
        assert 'alignas(16) const unsigned char' in (written[1] / file).read_text()


def test_the_signal_is_loud_and_always_the_same():
    first, second = golden.signal(16000), golden.signal(16000)
    np.testing.assert_array_equal(first, second)
    assert first.dtype == np.int16
    assert np.abs(first.astype(int)).max() == 20000
    power = np.abs(np.fft.rfft(first)) ** 2
    assert power[len(power) // 2 :].sum() > 0.01 * power.sum()


@pytest.mark.parametrize('config', [FrontendConfig(), FrontendConfig(n_mels=12)])
@pytest.mark.parametrize('seconds', [golden.SECONDS, 0.36])
def test_the_signal_is_speech_but_not_all_of_it(config, seconds):
    codes = features.encode(features.log_mel(golden.signal(16000, seconds), config))
    found = speech.detect(codes, len(codes), Rule.of(config))
    assert found.there
    assert 0.5 * len(codes) < found.mask.sum() < len(codes)
