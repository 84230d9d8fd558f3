"""Progress of long work: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time

# Between two plain lines.
_SECONDS = 10.0


class Progress:
    """Shows how far a piece of work is, its rate and the time left, on standard error.

    On a terminal a bar (tqdm); elsewhere one plain line at most every 10 s, so that logs stay readable.

    Args:
      total: number of steps.
      name: what is being done.
      start: steps done before.
      unit: what a step is.
      enabled: False shows nothing.
    """

    def __init__(self, total: int, name: str, *, start: int = 0, unit: str = 'it', enabled: bool = True) -> None:
        self._total, self._name, self._unit = total, name, unit
        self._done = self._start = start
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
        if self._done == self._start + 1:
            # The first step pays for imports and compilation: the rate counts from its end.
            self._began = time.monotonic()
        self._note = note or self._note
        if self._bar is not None:
            self._bar.set_postfix_str(self._note, refresh=False)
            self._bar.update()
        elif self._enabled and (time.monotonic() - self._told >= _SECONDS or self._done == self._total):
            self._tell()

    def close(self) -> None:
        """Ends the bar."""
        if self._bar is not None:
            self._bar.close()

    def _tell(self) -> None:
        self._told = time.monotonic()
        parts = [f'{self._name}: {self._done}/{self._total}']
        timed = self._done - self._start - 1
        if timed:
            rate = timed / max(self._told - self._began, 1e-9)
            parts += [f'{rate:.1f} {self._unit}/s', f'{(self._total - self._done) / rate:.0f} s left']
        if self._note:
            parts.append(self._note)
        print(', '.join(parts), file=sys.stderr, flush=True)
