"""Of several processes that would write in one folder, one does."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Makes a folder and holds the one right to write in it; the system takes it back when the process ends."""
    import fcntl

    folder.mkdir(parents=True, exist_ok=True)
    with (folder / 'lock').open('w') as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
