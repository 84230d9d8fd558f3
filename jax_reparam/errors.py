"""What can go wrong, and how a command says it: one line, and an exit code that is not 0."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import enum
import importlib.util
import io
import os
import select
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import ClassVar

from jax_reparam._version import __version__

# After Ctrl-C a command has so long to end by itself, and so long in a block of `deferred`.
_SECONDS, _DEFERRED_SECONDS = 1.0, 10.0


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
    nobody foresaw, and its traceback goes to a file that the line names. A reader who has gone is no error. Ctrl-C ends
    the command within a second, or when a block of `deferred` has.

    Args:
      main: gives the exit code; None is 0.
      interrupted: what is said after Ctrl-C, if the KeyboardInterrupt that ended `main` says nothing itself.
    """
    _keep_streams()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors='backslashreplace')  # a terminal that knows ASCII alone is told escapes
    with _Interrupt.caught(interrupted) as interrupt:
        try:
            code = main() or ExitCode.DONE
            _flush()
        except BrokenPipeError:
            _drop_output()
            code = ExitCode.UNREAD
        except (Error, OSError) as error:
            _drop_output()
            _say(f'error: {one_line(error)}')
            code = error.exit_code if isinstance(error, Error) else ExitCode.INPUT
        except KeyboardInterrupt as end:
            _say(str(end) or interrupted)
            code = ExitCode.INTERRUPTED
            if interrupt.came:
                # XLA may be compiling in another thread, which would crash while the interpreter is taken down.
                os._exit(code)
        except Exception as error:
            module = str(error.name).partition('.')[0] if isinstance(error, ModuleNotFoundError) else ''
            if module in EXTRAS:
                _say(f'error: {lacking("jax_reparam", module)}')
                code = ExitCode.INPUT
            else:
                _say(f'error: a fault of jax_reparam: {_kept(error)}')
                code = ExitCode.FAULT
    sys.exit(int(code))


class _Interrupt:
    """Ctrl-C while a command runs: raises KeyboardInterrupt, and sees to it that the process ends.

    Python may be busy in C++ for minutes (XLA compiles), and loses an exception that is raised in a callback. A thread
    of its own therefore waits for the signal, too, and ends the process if it has not ended by itself.
    """

    current: ClassVar[_Interrupt | None] = None

    def __init__(self, says: str) -> None:
        self.says, self.came, self.deferred = says, False, False
        self._stderr = 2

    @classmethod
    @contextlib.contextmanager
    def caught(cls, says: str) -> Iterator[_Interrupt]:
        """Handles Ctrl-C in a block, unless somebody else does or the process is to ignore it (`nohup`)."""
        self = cls(says)
        ours = threading.current_thread() is threading.main_thread()
        if not ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
            yield self
            return
        told, tell = os.pipe()
        self._stderr = os.dup(2)  # which a block of `system.captured_stderr` may have put elsewhere
        os.set_blocking(tell, False)
        signal.signal(signal.SIGINT, self._handle)
        before = signal.set_wakeup_fd(tell, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=(told,), daemon=True).start()
        cls.current = self
        unraisable = sys.unraisablehook
        # One that was lost in a callback: the thread sees to it.
        sys.unraisablehook = lambda lost: None if lost.exc_type is KeyboardInterrupt else unraisable(lost)
        try:
            yield self
        finally:
            sys.unraisablehook = unraisable
            cls.current = None
            signal.set_wakeup_fd(before)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            os.close(tell)
            os.close(self._stderr)

    def _handle(self, number: int, frame: object) -> None:
        self.came = True
        if not self.deferred:
            raise KeyboardInterrupt

    def _watch(self, told: int) -> None:
        while (number := os.read(told, 1)) and number[0] != signal.SIGINT:
            pass
        if number:
            # Another signal ends it at once, and so does the command if it ends: then nothing is left to do.
            again, _, _ = select.select([told], [], [], _DEFERRED_SECONDS if self.deferred else _SECONDS)
            if not again or os.read(told, 1):
                os.write(self._stderr, ('\n' * os.isatty(self._stderr) + self.says + '\n').encode(errors='replace'))
                os._exit(ExitCode.INTERRUPTED)
        os.close(told)


@contextlib.contextmanager
def deferred() -> Iterator[Callable[[], bool]]:
    """Puts Ctrl-C off while work is done that is lost else; yields what says whether it came.

    The block is to end then, within some seconds. Outside `run` nothing is put off.
    """
    interrupt = _Interrupt.current
    if interrupt is None:
        yield lambda: False
        return
    interrupt.deferred = True
    try:
        yield lambda: interrupt.came
    finally:
        interrupt.deferred = False
    if interrupt.came:  # and nobody has asked since
        raise KeyboardInterrupt


def _keep_streams() -> None:
    """Gives a process that was started with standard streams closed the null device in their place.

    The next file that it opens would else become its standard output.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free
    for name in ('stdout', 'stderr'):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open('w'))  # noqa: SIM115


def _flush() -> None:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OSError(error.errno, error.strerror, 'standard output') from error


def _drop_output() -> None:
    """Loses what cannot be written: it would be tried again, and complained of, at the very end."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _say(line: str) -> None:
    with contextlib.suppress(OSError):  # nobody is left to be told
        print(line, file=sys.stderr, flush=True)


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


# The package's modules that only some installations have, and the extra of pyproject.toml that brings each.
EXTRAS = {
    'absl': 'train',
    'array_record': 'train',
    'chex': 'train',
    'etils': 'train',
    'flax': 'train',
    'grain': 'train',
    'jax': 'train',
    'librosa': 'train',
    'matplotlib': 'train',
    'optax': 'train',
    'orbax': 'train',
    'safetensors': 'train',
    'scipy': 'train',
    'tensorboardX': 'train',
    'tensorflow_datasets': 'train',
    'tensorflow': 'export',
    'yaml': 'export',
    'tflite_micro': 'tflm',
    'espeakng_loader': 'demo',
    'sounddevice': 'listen',
    'ethosu': 'npu',
    'apache_beam': 'beam',
    'pydub': 'tfds',
    'opensmile': 'baselines',
}


def install(extra: str) -> str:
    """The line that installs an extra."""
    return f"pip install '.[{extra}]' in a checkout, or 'jax_reparam-{__version__}-py3-none-any.whl[{extra}]'"


def lacking(what: str, module: str) -> InputError:
    """The error where a module of an extra is not installed; `what` needs it."""
    extra = EXTRAS[module]
    return InputError(f'{what}: expected the package {module} of the extra {extra!r}, found none; {install(extra)}')


def absent(extra: str) -> list[str]:
    """The modules of an extra that are not installed."""
    return [module for module, its in EXTRAS.items() if its == extra and importlib.util.find_spec(module) is None]


def need(what: str, *extras: str) -> None:
    """Checks that extras are installed, before any work.

    Raises:
      InputError: one is not; names it and the line that installs it.
    """
    for extra in extras:
        for module in absent(extra):
            raise lacking(what, module)


def count(text: str) -> int:
    """An argument that is a count, for `argparse`'s `type`."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f'expected at least 1, found {value}')
    return value


def user_path(text: str) -> Path:
    """A path of the user's, with `~` as their home; shells leave it in `--workdir=~/x`.

    Raises:
      InputError: nobody knows where that home is.
    """
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise InputError(
            f'{text}: expected a home folder for ~, found none; set HOME or give the whole path'
        ) from error


def one_line(error: BaseException) -> str:
    """The error's message with its line breaks and runs of blanks made single blanks."""
    return ' '.join(str(error).split()) or type(error).__name__
