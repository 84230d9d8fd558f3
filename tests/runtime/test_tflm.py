"""TFLM in its child process: what it computes, and how its failures come back."""

from __future__ import annotations

import os
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from helpers import needs_tflm, windows_of
from jax_reparam import threads
from jax_reparam.deploy import convert
from jax_reparam.graph import flatbuffer
from jax_reparam.runtime import observe, tflm

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def windows(data):
    return windows_of(data, 'test')[0]


@pytest.fixture
def child(tmp_path, monkeypatch):
    """Puts a module of one's own in the child's place."""

    def replace(body):
        (tmp_path / 'other_child.py').write_text(body)
        monkeypatch.setenv('PYTHONPATH', str(tmp_path))
        monkeypatch.setattr(tflm, 'CHILD', 'other_child')

    return replace


@needs_tflm
# The two round int8 otherwise: by up to 0.0108, of logits to 2.
@pytest.mark.parametrize(('form', 'apart'), [('float32', 3e-6), ('int8', 0.015)])
def test_tflm_and_litert_agree(exported, windows, form, apart):
    model = (exported.path / f'model_{form}.tflite').read_bytes()
    done = []
    outcome = tflm.run(model, windows, progress=lambda: done.append(1))
    expected = observe.logits(flatbuffer.read(model), windows)
    np.testing.assert_allclose(outcome.logits, expected, atol=apart)
    assert len(done) == len(windows)
    assert outcome.arena_bytes == exported.manifest.forms[form].tflm.arena_bytes


@needs_tflm
def test_many_windows_run_in_several_children_and_come_back_in_order(exported, windows, monkeypatch):
    model = (exported.path / 'model_int8.tflite').read_bytes()
    started, alone = [], tflm.run(model, windows[:8])
    monkeypatch.setattr(tflm, 'WINDOWS_A_CHILD', 4)
    monkeypatch.setattr(threads, 'cores', lambda at_most: at_most)
    monkeypatch.setattr(tflm, 'started', lambda *a, start=tflm.started, **k: started.append(a) or start(*a, **k))
    together = tflm.run(model, windows[:8])
    np.testing.assert_array_equal(together.logits, alone.logits)
    assert len(np.unique(alone.logits, axis=0)) == 8
    assert (len(started), together.arena_bytes) == (2, alone.arena_bytes)


@needs_tflm
def test_an_operator_that_tflm_lacks_is_named(windows):
    model = convert.to_float32(lambda x: jnp.arctan2(x, x + 1).sum(1), (1, *windows.shape[1:]))
    with pytest.raises(tflm.TFLMError, match=r"TFLM failed: .*op for builtin opcode 'ATAN2'"):
        tflm.run(model, windows)


READY = 'import os, sys, time\nprint("Arena allocation total 5 bytes", file=sys.stderr)\nos.write(1, b"+")\n'


@pytest.mark.parametrize('before', ['import os, sys', f'{READY}sys.stdin.buffer.read(1)'], ids=['loading', 'running'])
def test_a_child_that_aborts_is_reported(exported, windows, child, before):
    child(f'{before}\nprint("arena full", file=sys.stderr, flush=True)\nos.abort()')
    with pytest.raises(tflm.TFLMError, match=r'^TFLM ended its process with SIGABRT\. .*arena full'):
        tflm.run((exported.path / 'model_int8.tflite').read_bytes(), windows)


@pytest.mark.parametrize('before', ['import os, time', READY], ids=['loading', 'running'])
def test_a_child_that_hangs_is_ended(exported, windows, child, tmp_path, monkeypatch, before):
    monkeypatch.setattr(tflm, 'TIMEOUT', 0.5)
    child(f'{before}\nopen({str(tmp_path / "id")!r}, "w").write(str(os.getpid()))\ntime.sleep(600)')
    with pytest.raises(tflm.TFLMError, match=r'^TFLM gave no output in 0\.5 s$'):
        tflm.run((exported.path / 'model_int8.tflite').read_bytes(), windows)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / 'id').read_text()), 0)


def test_a_child_that_does_not_read_is_given_up(exported, child, monkeypatch):
    monkeypatch.setattr(tflm, 'TIMEOUT', 0.5)
    child(f'{READY}time.sleep(600)')
    model = (exported.path / 'model_int8.tflite').read_bytes()
    hung = pytest.raises(tflm.TFLMError, match=r'^TFLM took no input in 0\.5 s$')
    with hung, tflm.started(model) as session:
        session._send(bytes(2**20))  # more than a pipe holds


def test_a_child_that_says_nothing_of_its_arena_is_a_failure(exported, windows, child):
    child('import os\nos.write(1, b"+")')
    with pytest.raises(tflm.TFLMError, match='did not report its arena'):
        tflm.run((exported.path / 'model_int8.tflite').read_bytes(), windows)


@needs_tflm
def test_a_window_of_another_shape_is_refused(exported, windows):
    refused = pytest.raises(ValueError, match=r'^window: expected \[64, 12\], got \[63, 12\]$')
    with refused, tflm.started((exported.path / 'model_int8.tflite').read_bytes()) as session:
        session.run(windows[0, 1:])


CHATTY = """
import sys, numpy as np

class Interpreter:
    @classmethod
    def from_bytes(cls, model, arena_size):
        print('loading', flush=True)
        return cls()

    def print_allocations(self):
        print('Arena allocation total 5 bytes', file=sys.stderr)

    def get_input_details(self, index):
        return {'shape': (1, 64, 12), 'dtype': np.int16}

    def set_input(self, window, index):
        print('working', flush=True)
        self.output = window[:, 0, :2]

    def invoke(self):
        pass

    def get_output(self, index):
        return self.output
"""


def test_what_a_library_prints_does_not_come_between(exported, windows, tmp_path, monkeypatch):
    package = tmp_path / 'tflite_micro' / 'python' / 'tflite_micro'
    package.mkdir(parents=True)
    (package / 'runtime.py').write_text(CHATTY)
    for folder in (package, package.parent, package.parent.parent):
        (folder / '__init__.py').touch()
    monkeypatch.setenv('PYTHONPATH', str(tmp_path))
    model = (exported.path / 'model_int16.tflite').read_bytes()  # both ends are of one type
    graph = flatbuffer.read(model)
    expected = graph.output.decode(graph.input.encode(windows)[:, 0, :2])
    np.testing.assert_array_equal(tflm.run(model, windows).logits, expected)


def test_missing_is_said(monkeypatch):
    monkeypatch.setattr(tflm, 'PACKAGE', 'tflite_micro_that_is_not_there')
    assert tflm.missing().startswith('not verified: the package tflite-micro is not installed')


def test_the_child_imports_neither_jax_nor_tensorflow():
    code = (
        'import sys, jax_reparam.runtime.tflm_child\n'
        'print([name for name in ("jax", "flax", "tensorflow", "librosa") if name in sys.modules])'
    )
    found = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True, env=os.environ)
    assert found.stdout.strip() == '[]'
