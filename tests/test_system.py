"""Freed memory is kept: a block that is asked for again is not cleared page by page. A lock has one holder."""

from __future__ import annotations

import errno
import os
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
        "from jax_reparam.commands import train; train.main(['--config', 'configs/transformer_s.py'])"
    )
    assert subprocess.run([sys.executable, '-c', code], cwd=ROOT, check=False).returncode == 7


def test_a_lock_has_one_holder_and_goes_with_it(tmp_path):
    with system.alone(tmp_path / 'w'):
        assert (tmp_path / 'w' / system.LOCK).exists()
        with (
            pytest.raises(system.HeldError, match=f'process {os.getpid()} on '),
            system.alone(tmp_path / 'w', wait=False),
        ):
            pass
        assert (tmp_path / 'w' / system.LOCK).exists()
    assert list((tmp_path / 'w').iterdir()) == []


def test_a_lock_of_a_process_that_was_killed_is_free(tmp_path):
    code = (
        f'import os, pathlib, time; from jax_reparam import system\nwith system.alone(pathlib.Path({str(tmp_path)!r})):'
    )
    command = [sys.executable, '-c', f'{code}\n  print(1, flush=True); time.sleep(60)']
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as child:
        child.stdout.readline()
        with pytest.raises(system.HeldError, match=f'process {child.pid} on '), system.alone(tmp_path, wait=False):
            pass
        child.kill()
    assert (tmp_path / system.LOCK).exists()
    with system.alone(tmp_path, wait=False):
        pass


def test_who_waited_for_a_lock_makes_it_anew(tmp_path, monkeypatch):
    """The file that was waited for went with its holder: a third process would lock another."""
    real, calls = system.fcntl.flock, []

    def flock(file, how):
        calls.append(how)
        if len(calls) == 1:
            (tmp_path / system.LOCK).unlink()
        real(file, how)

    monkeypatch.setattr(system.fcntl, 'flock', flock)
    with system.alone(tmp_path), pytest.raises(system.HeldError), system.alone(tmp_path, wait=False):
        pass
    assert len(calls) == 3


def test_an_error_of_the_system_gets_the_name_of_the_file(tmp_path):
    with pytest.raises(OSError, match="No space left on device: 'a/b'"), system.naming(Path('a/b')):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(FileNotFoundError, match='nowhere'), system.naming(Path('a/b')):
        (tmp_path / 'nowhere').read_text()
    with pytest.raises(OSError, match=r'^told$'), system.naming(Path('a/b')):
        raise OSError('told')
