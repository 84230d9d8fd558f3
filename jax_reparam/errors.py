"""What can go wrong, and how a command says it: one line, and an exit code that is not 0."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import enum
import io
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar


class ExitCode(enum.IntEnum):
    """What every command's exit code means; docs/architecture.md repeats the table for users."""

    DONE = 0  # all that was asked for
    FAILED = 1  # the input was good, but a gate, a limit or a clip failed
    INPUT = 2  # bad input, a package that is missing, or a file that cannot be written
    FAULT = 70  # nobody foresaw it: a fault of jax_reparam
    INTERRUPTED = 130  # Ctrl-C
    UNREAD = 141  # whoever read the output (`| head`) has gone; nothing is said


class Error(Exception):
    """What this package raises on purpose; the message is one line."""

    exit_code: ClassVar[ExitCode] = ExitCode.FAILED


class InputError(Error, ValueError):
    """Something the user gave is missing, damaged or of the wrong kind.

    The message names the file or key, what was expected and what was found.
    """

    exit_code = ExitCode.INPUT


def run(main: Callable[[], int | None], *, interrupted: str = 'interrupted') -> None:
    """Runs a command's `main` and exits with its code.

    `Error` and `OSError` (a full disk, a folder one may not write) become one line on standard error. So does what
    nobody foresaw, and its traceback goes to a file that the line names. A reader who has gone is no error.

    Args:
      main: gives the exit code; None is 0.
      interrupted: what is said after Ctrl-C.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors='backslashreplace')  # a terminal that knows ASCII alone is told escapes
    try:
        code = main() or ExitCode.DONE
        sys.stdout.flush()
    except BrokenPipeError:
        # What is left in the buffer would be written, and complained of, at the very end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = ExitCode.UNREAD
    except (Error, OSError) as error:
        print(f'error: {one_line(error)}', file=sys.stderr)
        code = error.exit_code if isinstance(error, Error) else ExitCode.INPUT
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        code = ExitCode.INTERRUPTED
    except Exception as error:
        print(f'error: a fault of jax_reparam: {_kept(error)}', file=sys.stderr)
        code = ExitCode.FAULT
    sys.exit(int(code))


def _kept(error: Exception) -> str:
    """Writes the traceback to a file; what happened and where that file is, in one line."""
    handle, path = tempfile.mkstemp(prefix='jax_reparam-fault-', suffix='.txt')
    with os.fdopen(handle, 'w') as file:
        file.write(' '.join(sys.argv) + '\n')
        traceback.print_exception(error, file=file)
    return f'{type(error).__name__}: {one_line(error)[:200]}; {path} has the traceback'


@contextlib.contextmanager
def from_user() -> Iterator[None]:
    """Marks what is made of the user's values alone: a `ValueError` or `TypeError` there is an `InputError`."""
    try:
        yield
    except (ValueError, TypeError) as error:
        raise InputError(str(error)) from error


def known(what: str, found: str, names: Sequence[str]) -> str:
    """Gives `found` back if it is one of `names`.

    Raises:
      InputError: it is none of them; names the nearest.
    """
    if found not in names:
        near = difflib.get_close_matches(found, names, n=1)
        hint = f'; did you mean {near[0]!r}?' if near else ''
        raise InputError(f'{what}: expected one of {", ".join(names)}, found {found!r}{hint}')
    return found


def count(text: str) -> int:
    """An argument that is a count, for `argparse`'s `type`."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f'expected at least 1, found {value}')
    return value


def one_line(error: BaseException) -> str:
    """The error's message with its line breaks and runs of blanks made single blanks."""
    return ' '.join(str(error).split()) or type(error).__name__
