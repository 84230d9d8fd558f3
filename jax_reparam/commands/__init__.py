"""`jax-reparam COMMAND`, one module per command.

Each module has `parser()`, which imports nothing heavy, and `main(argv)`, which gives the exit code
(`errors.ExitCode`).
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

# What each command does, in the order in which a newcomer needs them.
COMMANDS = {
    'predict': 'emotions of recordings, by an exported model',
    'listen': 'emotions of a stream: a microphone, or a recording as if it came from one',
    'train': 'train a recipe',
    'fold': 'fold a trained model, export it and verify it',
    'verify': 'score every form of an exported model on labelled recordings',
    'study': 'train and compare families of recipes over folds and seeds',
    'prepare': 'prepare a corpus and check it',
    'summary': 'parameters and costs of recipes, or of exported models',
    'doctor': 'what is installed here, and how to install what is missing',
}
INTERRUPTED = {
    'train': 'interrupted; the same command goes on from the last checkpoint, if there is one',
    'study': 'interrupted; the same command goes on with the runs that have no line yet',
}


def parser() -> argparse.ArgumentParser:
    """The arguments before those of a command."""
    from jax_reparam._version import __version__

    width = max(map(len, COMMANDS))
    command = argparse.ArgumentParser(
        prog='jax-reparam',
        usage='jax-reparam COMMAND [options]',
        description='Speech emotion recognition on a microcontroller.',
        epilog='\n'.join(
            [
                'commands:',
                *(f'  {name:{width}}  {told}' for name, told in COMMANDS.items()),
                '\njax-reparam COMMAND --help lists the options of a command.',
            ]
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.add_argument('--version', action='version', version=f'jax-reparam {__version__}')
    return command


def module(name: str) -> Any:
    """The module of a command."""
    return importlib.import_module(f'jax_reparam.commands.{name}')


def main(argv: Sequence[str] | None = None, *, name: str | None = None) -> None:
    """Runs a command and exits with its code.

    Args:
      argv: the command and its arguments; None: those of the process.
      name: the command, if `argv` holds its arguments alone.
    """
    if os.name != 'posix':  # file locks (fcntl), fork, signals
        sys.exit(f'error: jax_reparam: expected Linux or macOS (on Windows: WSL), found {sys.platform}')
    from jax_reparam.errors import known, run

    arguments = list(sys.argv[1:] if argv is None else argv)

    def start() -> int | None:
        chosen = name
        if chosen is None:
            if not arguments or arguments[0].startswith('-'):
                top = parser()
                top.parse_args(arguments or ['--help'])
                top.error(f'expected a command ({", ".join(COMMANDS)}), found {arguments[0]!r}')
            chosen = known('jax-reparam', arguments.pop(0), tuple(COMMANDS))
        command: Callable[[Sequence[str]], int | None] = module(chosen).main
        return command(arguments)

    run(start, interrupted=INTERRUPTED.get(name or ''.join(arguments[:1]), 'interrupted'))
