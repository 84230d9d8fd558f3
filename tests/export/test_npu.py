"""Vela: what it says is read, and a model that it does not place as a whole fails with the operator's name."""

from __future__ import annotations

import dataclasses
import importlib.util
import subprocess

import jax.numpy as jnp
import numpy as np
import pytest

from helpers import quantise
from jax_reparam.errors import InputError
from jax_reparam.export import npu
from jax_reparam.graph import flatbuffer
from jax_reparam.graph.passes import optimise

SAID = """
Warning (supported operators) operator: L2_NORMALIZATION, ofm: '<unnamed>'
Reason: Unsupported opType

Warning (supported operators) operator: DEPTHWISE_CONV_2D, ofm: '<unnamed>'
Reason: Unsupported kernel stride: 1, 5
Kernel stride must be in the range (1,3).

Warning (supported operators) operator: L2_NORMALIZATION, ofm: '<unnamed>'
Reason: Unsupported opType

Network summary for model
CPU operators = 3 (30.0%)
NPU operators = 7 (70.0%)
"""
SUMMARY = (
    'network,inference_time,sram_memory_used,on_chip_flash_memory_used,off_chip_flash_memory_used,nn_macs\n'
    'model,0.002,2.5,0.5,1.0,1234\n'
)


def vela(test):
    """Marks a test that runs Vela, in a child process."""
    missing = importlib.util.find_spec(npu.PACKAGE) is None
    return pytest.mark.slow(pytest.mark.skipif(missing, reason='needs ethos-u-vela')(test))


def test_reads_what_vela_says():
    found = npu.read('ethos-u55-128', SAID, SUMMARY, 0.9)
    assert (found.npu_ops, found.cpu_ops, found.share, found.mac_share) == (7, 3, 0.7, 0.9)
    assert (found.sram_bytes, found.flash_bytes, found.milliseconds, found.macs) == (2560, 1536, 2.0, 1234)
    stride = 'Unsupported kernel stride: 1, 5 Kernel stride must be in the range (1,3).'
    assert found.left == (('DEPTHWISE_CONV_2D', stride), ('L2_NORMALIZATION', 'Unsupported opType'))
    assert npu.failures(found)[1] == (
        'ethos-u55-128: expected all operators on the NPU, found L2_NORMALIZATION on the processor (Unsupported opType)'
    )


def test_an_operator_that_vela_does_not_name_still_fails():
    said = 'CPU operators = 1 (10.0%)\nNPU operators = 9 (90.0%)\n'
    assert npu.failures(npu.read('ethos-u55-128', said, SUMMARY, 1.0)) == [
        'ethos-u55-128: expected all operators on the NPU, found 1 on the processor'
    ]


@pytest.mark.parametrize(('said', 'summary'), [('', SUMMARY), (SAID, 'network\nmodel\n')])
def test_another_summary_is_refused(said, summary):
    with pytest.raises(npu.NPUError, match=r'expected the summary of Vela 5\.2'):
        npu.read('ethos-u55-128', said, summary, 1.0)


def form(function, windows):
    """A function in 8 bits, ready for a device."""
    return flatbuffer.write(optimise(quantise(function, windows)))


@vela
@pytest.mark.parametrize(('sums', 'left'), [(False, []), (True, ['L2_NORMALIZATION'])])
def test_compiles(sums, left):
    windows = np.random.default_rng(0).standard_normal((4, 6, 8)).astype(np.float32)

    def apply(x):
        y = x[0] @ windows[0].T
        y = y / jnp.sqrt(jnp.sum(y * y, axis=-1, keepdims=True)) if sums else y
        return (y @ windows[1, :, :3])[:1]

    model = form(apply, windows)
    compiled, found = npu.compiled(model)
    assert found.mac_share == 1
    assert [op for op, _ in found.left] == left
    assert bool(npu.failures(found)) == sums
    assert compiled[4:8] == b'TFL3'
    assert found.sram_bytes > 0 < found.flash_bytes


@vela
def test_macs_left_to_the_processor_are_counted(monkeypatch):
    windows = np.random.default_rng(0).standard_normal((4, 6, 8)).astype(np.float32)
    model = form(lambda x: (x[0] @ windows[0].T)[:1], windows)

    def run(command, cwd, **_):
        (cwd / 'model_summary_x.csv').write_text(SUMMARY)
        (cwd / 'model_vela.tflite').write_bytes(model)  # nothing placed
        return subprocess.CompletedProcess(command, 0, 'CPU operators = 2 (100%)\nNPU operators = 0 (0%)\n', '')

    monkeypatch.setattr(npu.subprocess, 'run', run)
    assert npu.compiled(model)[1].mac_share == 0


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder, and a compiler that gives what it is told."""
    found = npu.read('ethos-u55-64', 'CPU operators = 0 (0%)\nNPU operators = 9 (100%)\n', SUMMARY, 1.0)

    def write(*, passed=True, **changes):
        def compiled(model, accelerator):
            assert (model, accelerator) == (b'form', 'ethos-u55-64')
            if 'error' in changes:
                raise npu.NPUError(changes['error'])
            return b'compiled', dataclasses.replace(found, **changes)

        monkeypatch.setattr(npu, 'compiled', compiled)
        return npu.write(tmp_path, b'form', 'ethos-u55-64', passed=passed)

    return tmp_path, write


def test_what_is_placed_as_a_whole_is_written(folder):
    path, write = folder
    entry, failed = write()
    assert failed == {}
    assert (path / 'model_ethos-u55-64_vela.tflite').read_bytes() == b'compiled'
    assert (entry.file, entry.bytes, entry.milliseconds) == ('model_ethos-u55-64_vela.tflite', 8, 2.0)


@pytest.mark.parametrize(
    ('changes', 'reason'),
    [
        ({'error': 'ethos-u55-64: Vela failed: no'}, 'npu: ethos-u55-64: Vela failed: no'),
        ({'passed': False}, 'npu: ethos-u55-64: expected int8_npu to pass its gates, found that it did not'),
        ({'cpu_ops': 1}, 'npu: ethos-u55-64: expected all operators on the NPU, found 1 on the processor'),
    ],
)
def test_what_is_not_is_named_and_left_out(folder, changes, reason):
    path, write = folder
    entry, failed = write(**changes)
    assert entry is None
    assert failed['npu'].reasons == (reason,)
    assert list(path.iterdir()) == []
    assert getattr(failed['npu'].found, 'milliseconds', None) == (None if 'error' in changes else 2.0)


@vela
def test_a_damaged_model_is_refused_in_one_line():
    with pytest.raises(npu.NPUError, match=r'^ethos-u55-128: Vela failed: [^\n]+$'):
        npu.compiled(b'\x1c\0\0\0TFL3' + bytes(40))


@vela
def test_vela_that_does_not_end_is_ended(monkeypatch):
    def run(command, **kwargs):
        raise subprocess.TimeoutExpired(command, kwargs['timeout'])

    monkeypatch.setattr(npu.subprocess, 'run', run)
    with pytest.raises(npu.NPUError, match='did not end within 2 s'):
        npu.compiled(b'', timeout=2)


def test_without_the_package(monkeypatch):
    monkeypatch.setattr(importlib.util, 'find_spec', lambda _: None)
    with pytest.raises(InputError, match=r"^--npu: expected the package ethosu of the extra 'npu', found none; "):
        npu.compiled(b'')


def test_an_unknown_accelerator():
    with pytest.raises(InputError, match=r"expected one of ethos-u55-32, .* found 'u55'"):
        npu.compiled(b'', 'u55')
