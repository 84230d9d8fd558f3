"""Threads over clips. Decoding, resampling, hashing and NumPy let go of Python's lock, so they keep all cores busy."""

from __future__ import annotations

import collections
import contextlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np

_T = TypeVar('_T')
_R = TypeVar('_R')

# More than what a clip needs at a time.
_KEPT = 31 << 20


@contextlib.contextmanager
def pool(workers: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that compute with one core each; at the end those that run are waited for."""
    import threadpoolctl

    # glibc gives freed memory back to the system, and a clip asks for it anew, page by page, which takes as long as its
    # log-mel features. Once a block of this size was freed it keeps as much (mallopt(3), M_MMAP_THRESHOLD).
    np.empty(_KEPT, np.uint8)
    # A matrix product that spreads over all cores takes longer than one that does not, where each has a thread.
    with threadpoolctl.threadpool_limits(1), ThreadPoolExecutor(max(1, workers)) as executor:
        try:
            yield executor
        except BaseException:
            executor.shutdown(wait=False, cancel_futures=True)
            raise


def in_order(function: Callable[[_T], _R], items: Iterable[_T], workers: int) -> Iterator[_R]:
    """Runs `function` in threads and gives the results in the order of the items.

    It works a few of them ahead and no more: a slow reader does not collect the whole corpus in memory.
    """
    with pool(workers) as executor:
        ahead: collections.deque[Future[_R]] = collections.deque()
        for item in items:
            ahead.append(executor.submit(function, item))
            if len(ahead) > 4 * workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
