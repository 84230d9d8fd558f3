"""The arrays in firmware/ against TFLM's Python interpreter, run here anew."""

from __future__ import annotations

import re

import numpy as np
import pytest

from helpers import needs_tflm
from jax_reparam.device import golden
from jax_reparam.frontend import windows
from jax_reparam.graph import flatbuffer
from jax_reparam.runtime import tflm


def array(folder, file, name):
    """The numbers of one array of a C++ source."""
    body = re.search(rf'{name}\[[^=;]*= \{{(.*?)\}};', (folder / file).read_text(), re.DOTALL).group(1)
    return np.array([int(number) for number in re.findall(r'-?\d+', body)])


def constant(folder, name):
    return int(re.search(rf'{name} = (\d+);', (folder / 'golden_data.h').read_text()).group(1))


@pytest.fixture(scope='module')
def pcm(written):
    return array(written[1], 'golden_data.cc', 'kGoldenPcm').astype(np.int16)


@pytest.fixture(scope='module')
def steps(model, front):
    """Int8 features of samples, by TFLM: every frame of the recording, cut by hand."""

    def run(samples):
        starts = range(0, len(samples) - 399, 160)
        frames = np.stack([samples[at : at + 400] for at in starts])
        return flatbuffer.graph(model).input.encode(tflm.run(front, frames).logits)

    return run


@pytest.fixture(scope='module')
def decide(model):
    """Int8 logits of windows of int8 features, by TFLM."""
    port, sink = flatbuffer.graph(model).input, flatbuffer.graph(model).output

    def run(cut):
        values = port.decode(cut)
        np.testing.assert_array_equal(port.encode(values), cut)
        return sink.encode(tflm.run(model, values).logits)

    return run


@needs_tflm
def test_features_are_tflm_s_bit_for_bit(written, pcm, steps):
    expected = steps(pcm)
    assert len(expected) == constant(written[1], 'kGoldenFrames')
    np.testing.assert_array_equal(array(written[1], 'golden_data.cc', 'kGoldenFeatures'), expected.ravel())
    assert len(np.unique(expected)) > 50


@needs_tflm
def test_logits_are_tflm_s_bit_for_bit(written, pcm, steps, decide):
    features = steps(pcm)
    assert len(features) < 24
    expected = decide(features[np.arange(24) % len(features)][None])
    np.testing.assert_array_equal(array(written[1], 'golden_data.cc', 'kGoldenLogits'), expected[0])


@needs_tflm
def test_the_stream_is_tflm_s_bit_for_bit(written, fresh_inputs, pcm, steps, decide):
    features = steps(np.tile(pcm, constant(written[1], 'kGoldenRepeats')))
    starts = windows.starts(len(features), fresh_inputs.window)
    np.testing.assert_array_equal(array(written[1], 'golden_data.cc', 'kGoldenStarts'), starts)
    expected = decide(windows.split([features], fresh_inputs.window)[0])
    np.testing.assert_array_equal(array(written[1], 'golden_data.cc', 'kGoldenStreamLogits'), expected.ravel())
    # The ring goes round, and the end moves the last window back.
    assert len(starts) >= 3
    assert starts[-1] - starts[-2] < fresh_inputs.window.hop
    assert len(np.unique(expected, axis=0)) > 1


def test_the_npy_files_hold_the_same(written):
    for name, file in [
        ('kGoldenPcm', 'pcm'),
        ('kGoldenFeatures', 'features'),
        ('kGoldenLogits', 'logits'),
        ('kGoldenStarts', 'starts'),
        ('kGoldenStreamLogits', 'stream_logits'),
    ]:
        saved = np.load(written[1] / 'golden' / f'{file}.npy')
        np.testing.assert_array_equal(array(written[1], 'golden_data.cc', name), saved.ravel())


def test_the_models_are_those_of_the_folder(written, model, front):
    assert bytes(array(written[1], 'model_data.cc', 'kModel').astype(np.uint8)) == model
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
