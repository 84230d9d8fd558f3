"""What glibc's allocator does with memory that is freed (mallopt(3)); with another C library nothing changes."""

from __future__ import annotations

import ctypes
import platform

_NEVER = -1
_MIB = 1 << 20
# M_ARENA_MAX, M_MMAP_MAX, M_TRIM_THRESHOLD and M_TOP_PAD of malloc.h. Memory lies in one arena, since those of threads
# end at 64 MiB; no block has a mapping of its own, which would end with it; the arena never shrinks, and grows by more
# than a block at a time.
_KEEP = {-8: 1, -4: 0, -1: _NEVER, -2: 64 * _MIB}


def keep_all() -> bool:
    """Keeps what is freed, for the next that asks; called once, before a program computes.

    XLA takes the temporaries of a training step, 100 to 500 MiB in XS and S, anew for every step on a CPU. By default
    glibc gives so large a block back each time, and the kernel clears it page by page for the next step, in up to a
    quarter of its time (docs/training.md).
    The price: the process stays as large as it once was.

    Returns:
      Whether the allocator is glibc's and took all of it.
    """
    if platform.libc_ver()[0] != 'glibc':
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all(mallopt(option, value) for option, value in _KEEP.items())
