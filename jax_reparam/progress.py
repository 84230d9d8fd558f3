"""Progress of long work: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

T = TypeVar('T')


class Progress:
    """Shows how far a piece of work is, its rate and the time left, on standard error.

    On a terminal a bar (tqdm); elsewhere one plain line at most every `every` seconds, so that logs stay readable.

    Args:
      total: number of steps.
      name: what is being done.
      start: steps done before.
      unit: what a step is.
      every: seconds between plain lines.
      enabled: False shows nothing.
    """

    def __init__(
        self, total: int, name: str, *, start: int = 0, unit: str = 'it', every: float = 10.0, enabled: bool = True
    ) -> None:
        self._total, self._name, self._every, self._unit = total, name, every, unit
        self._done = self._first = start
        self._note = ''
        self._began = self._told = time.monotonic()
        self._bar = None
        self._enabled = enabled
        if enabled and sys.stderr.isatty():
            import tqdm

            self._bar = tqdm.tqdm(total=total, desc=name, initial=start, unit=unit, dynamic_ncols=True)

    def update(self, note: str = '') -> None:
        """Counts one step; `note` stands behind the bar."""
        self._done += 1
        self._note = note or self._note
        if self._bar is not None:
            self._bar.set_postfix_str(self._note, refresh=False)
            self._bar.update()
        elif self._enabled and (time.monotonic() - self._told >= self._every or self._done == self._total):
            self._tell()

    def close(self) -> None:
        """Ends the bar."""
        if self._bar is not None:
            self._bar.close()

    def _tell(self) -> None:
        self._told = time.monotonic()
        rate = (self._done - self._first) / max(self._told - self._began, 1e-9)
        left = (self._total - self._done) / rate
        parts = f'{self._name}: {self._done}/{self._total}', f'{rate:.1f} {self._unit}/s', f'{left:.0f} s left'
        print(', '.join((*parts, self._note) if self._note else parts), file=sys.stderr, flush=True)


def track(items: Sequence[T], name: str, *, unit: str = 'clip', enabled: bool = True) -> Iterator[T]:
    """Yields `items`, showing progress."""
    progress = Progress(len(items), name, unit=unit, enabled=enabled)
    for item in items:
        yield item
        progress.update()
    progress.close()
