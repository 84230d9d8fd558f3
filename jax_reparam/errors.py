"""What a user can cause, and how a command says it: one line, and an exit code that is not 0."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import sys
from collections.abc import Callable, Iterator, Sequence


class InputError(ValueError):
    """Something the user gave is missing, damaged or of the wrong kind.

    The message is one line and names the file or key, what was expected and what was found.
    """


def run(main: Callable[[], int | None]) -> None:
    """Runs a command's `main` and exits with its code.

    `InputError` and `OSError` (a full disk, a folder one may not write) become one line on standard
    error and exit code 2; Ctrl-C becomes exit code 130. Anything else is a fault of ours and keeps its traceback.
    """
    try:
        code = main()
    except (InputError, OSError) as error:
        print(f'error: {one_line(error)}', file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print('interrupted; the same command goes on from the last checkpoint', file=sys.stderr)
        code = 130
    sys.exit(code or 0)


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
