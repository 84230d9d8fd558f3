"""Freed memory is kept: a block that is asked for again is not cleared page by page."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from jax_reparam import system

ROOT = Path(__file__).parent.parent
# Page faults of a thread that asks for a block of 64 MiB eight times, the first time apart.
_FAULTS = """
import resource, threading
{}
def ask(times, byte=b'x'):
    for _ in range(times):
        byte * (64 << 20)
def run(times):
    thread = threading.Thread(target=ask, args=(times,))
    thread.start()
    thread.join()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
before = run(1)
print(run(8) - before)
"""


def faults(start: str) -> int:
    command = [sys.executable, '-c', _FAULTS.format(start)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='the allocator is not glibc')
def test_a_large_block_is_kept_for_the_next():
    kept = faults('from jax_reparam import system; assert system.keep_all()')
    assert kept < faults('') / 16


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(system.platform, 'libc_ver', lambda: ('musl', '1.2'))
    monkeypatch.setattr(system.ctypes, 'CDLL', None)  # a call would raise
    assert system.keep_all() is False


def test_train_keeps_memory_before_it_imports_jax():
    code = (
        "import sys; from jax_reparam import system; system.keep_all = lambda: sys.exit(7 + ('jax' in sys.modules)); "
        "import train; train.main(['--config', 'configs/transformer_s.py'])"
    )
    assert subprocess.run([sys.executable, '-c', code], cwd=ROOT, check=False).returncode == 7
