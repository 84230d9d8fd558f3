"""Keeps what C++ libraries write to standard error away from the user, until something fails."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator


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
