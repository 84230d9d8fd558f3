"""What is asked of the operating system: memory that is kept, a folder locked, files named, C++ libraries kept quiet.

The package needs a POSIX system.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import platform
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

# The name of a lock in its folder.
LOCK = 'lock'

# What glibc's allocator does with memory that is freed (mallopt(3)); with another C library nothing changes.
_NEVER = -1
_MIB = 1 << 20
# M_ARENA_MAX, M_MMAP_MAX, M_TRIM_THRESHOLD and M_TOP_PAD of malloc.h. Memory lies in one arena, since those of threads
# end at 64 MiB; no block has a mapping of its own, which would end with it; the arena never shrinks, and grows by more
# than a block at a time.
_KEEP = {-8: 1, -4: 0, -1: _NEVER, -2: 64 * _MIB}


def keep_all() -> bool:
    """Keeps what is freed, for the next that asks; called once, before a program computes.

    XLA takes the temporaries of a training step, 100 MiB and more, anew for every step on a CPU. By default
    glibc gives so large a block back each time, and the kernel clears it page by page for the next step.
    The price: the process stays as large as it once was.

    Returns:
      Whether the allocator is glibc's and took all of it.
    """
    if platform.libc_ver()[0] != 'glibc':
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all(mallopt(option, value) for option, value in _KEEP.items())


class HeldError(Exception):
    """Another process holds a lock; the message says which."""


@contextlib.contextmanager
def alone(folder: Path, *, wait: bool = True) -> Iterator[None]:
    """Makes a folder and holds the one right to write in it; the system takes it back when the process ends.

    The lock is a file in the folder, which names its holder and goes when the block ends.

    Args:
      folder: may exist.
      wait: until another process that holds it is done.

    Raises:
      HeldError: another process holds it, and `wait` is False.
      OSError: the folder cannot be made or written.
    """
    path = folder / LOCK
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        with path.open('a+') as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError as error:
                file.seek(0)
                raise HeldError(file.read().strip() or 'another process') from error
            if not _is(file, path):  # whoever held it before has removed it meanwhile
                continue
            file.truncate(0)
            file.write(f'process {os.getpid()} on {platform.node()}\n')
            file.flush()
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


def _is(file: IO[str], path: Path) -> bool:
    """Whether an open file is the one that has this path now."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Has an `OSError` of the block that names no file name this one; a full disk, for example, names none."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


@contextlib.contextmanager
def captured_stderr() -> Iterator[None]:
    """Holds back the whole process's standard error; lets it out only if the block raises.

    TensorFlow, its converter and LiteRT log to the file descriptor itself, past `sys.stderr` and past their own log
    levels.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(kept, held.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
