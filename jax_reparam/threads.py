"""Threads over clips and windows.

Decoding, resampling, hashing, NumPy and LiteRT let go of Python's lock, so they keep all cores busy.
"""

from __future__ import annotations

import collections
import contextlib
import os
import queue
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np

_T = TypeVar('_T')
_R = TypeVar('_R')
_E = TypeVar('_E')

# More than what a clip needs at a time.
_KEPT = 31 << 20


@contextlib.contextmanager
def pool(workers: int) -> Iterator[ThreadPoolExecutor]:
    """Threads; at the end those that run are waited for."""
    # glibc gives freed memory back to the system, and a clip asks for it anew, page by page, which takes as long as its
    # log-mel features. Once a block of this size was freed it keeps as much (mallopt(3), M_MMAP_THRESHOLD).
    np.empty(_KEPT, np.uint8)
    with ThreadPoolExecutor(max(1, workers)) as executor:
        try:
            yield executor
        except BaseException:
            executor.shutdown(wait=False, cancel_futures=True)
            raise


def cores(at_most: int) -> int:
    """How many cores there are, or `at_most`."""
    return min(at_most, os.cpu_count() or 1)


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


def in_order_by(engines: Sequence[_E], function: Callable[[_E, _T], _R], items: Iterable[_T]) -> Iterator[_R]:
    """As `in_order`, with a thread for each engine; no engine is given two items at a time."""
    free: queue.SimpleQueue[_E] = queue.SimpleQueue()
    for engine in engines:
        free.put(engine)

    def run(item: _T) -> _R:
        engine = free.get()
        try:
            return function(engine, item)
        finally:
            free.put(engine)

    return in_order(run, items, len(engines))
