"""What is asked of the operating system: memory that is kept, a folder locked, C++ libraries kept quiet.

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


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Makes a folder and holds the one right to write in it; the system takes it back when the process ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / 'lock').open('w') as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


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
