"""What fold.py writes for devices, and what it leaves out when a check fails."""

from __future__ import annotations

import dataclasses
import hashlib

import pytest

from helpers import needs_tflm
from jax_reparam import manifest
from jax_reparam.deploy import convert
from jax_reparam.device import bundle, frontend, waveform
from jax_reparam.runtime import tflm

pytestmark = pytest.mark.slow


@pytest.fixture
def write(exported, inputs, data, tmp_path):
    """Writes once more into an empty folder, around the models of `exported`."""
    file = manifest.FORM_FILES['int8']
    (tmp_path / file).write_bytes((exported.path / file).read_bytes())
    clips = [data.corpus.audio(index) for index in data.clips('test')[:2]]

    def run(form='int8'):
        # A classifier that is quick to convert.
        logits = lambda windows: windows.mean(axis=1)[:, :2]
        return bundle.write(tmp_path, logits=logits, form=form, labels=['high', 'low'], inputs=inputs, clips=clips)

    return run


@needs_tflm
@pytest.mark.parametrize(('name', 'file'), [('frontend', manifest.FRONTEND), ('waveform', manifest.WAVEFORM)])
def test_the_manifest_knows_the_files(exported, name, file):
    entry = getattr(exported.manifest.device, name)
    content = (exported.path / file).read_bytes()
    assert (entry.file, entry.bytes) == (file, len(content))
    assert entry.sha256 == hashlib.sha256(content).hexdigest()
    assert getattr(manifest.load(exported.path).device, name) == entry


@needs_tflm
def test_measured_differences_are_kept_and_small(exported):
    device = exported.manifest.device
    assert 0 < device.frontend.max_abs_diff < 1e-3
    assert 0 <= device.frontend.differing_codes < 1e-3
    assert 0 <= device.waveform.max_abs_diff < 1e-5


@needs_tflm
def test_a_frontend_that_is_not_training_s_is_left_out_and_the_firmware_with_it(write, tmp_path, monkeypatch):
    real = frontend.filters
    louder = lambda config: dataclasses.replace(real(config), mel=1.01 * real(config).mel)
    monkeypatch.setattr(frontend, 'filters', louder)
    device, failed = write()
    assert failed['frontend'].reasons[0].startswith('frontend: expected log-mel within 0.0015 of training, found ')
    assert device.frontend is device.firmware is None
    assert device.reason.startswith('firmware: expected a frontend and a quantised form')
    assert sorted(path.name for path in tmp_path.iterdir()) == ['model_int8.tflite', manifest.WAVEFORM]


@needs_tflm
def test_a_waveform_model_that_decides_otherwise_is_left_out(write, tmp_path, monkeypatch):
    real = waveform.log_mel
    monkeypatch.setattr(waveform, 'log_mel', lambda pcm, config: real(pcm, config)[::-1] * 1.1)
    device, failed = write()
    assert failed['waveform'].reasons[0].startswith('waveform: expected probabilities within 0.0001 of JAX, found ')
    assert device.waveform is None
    assert not (tmp_path / manifest.WAVEFORM).exists()
    assert device.firmware.form == 'int8'


@needs_tflm
def test_a_waveform_model_that_the_converter_refuses_is_named(write, monkeypatch):
    def refuse(function, shape):
        raise convert.ConversionError('TensorFlow refused the graph: no such operator')

    monkeypatch.setattr(convert, 'to_float32', refuse)
    assert write()[1]['waveform'].reasons == ('waveform: TensorFlow refused the graph: no such operator',)


@needs_tflm
def test_no_quantised_form_no_firmware(write, tmp_path):
    device, failed = write(form=None)
    assert failed == {}
    assert device.frontend is not None
    assert device.firmware is None
    assert not (tmp_path / 'firmware').exists()


def test_without_tflm_only_the_waveform_model_is_written(write, monkeypatch):
    monkeypatch.setattr(tflm, 'PACKAGE', 'tflite_micro_that_is_not_there')
    device, failed = write()
    assert failed == {}
    assert device.waveform is not None
    assert device.frontend is device.firmware is None
    assert device.reason.startswith('not verified: the package tflite-micro is not installed')
