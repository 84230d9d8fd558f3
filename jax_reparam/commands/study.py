"""Trains what a study declares, and writes the page that its results support: jax-reparam study FILE [FILE ...].

The same command goes on with a study that was stopped, and several may work on one file at a time.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from jax_reparam import system
from jax_reparam.errors import InputError, count, known, need, user_path


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    command = argparse.ArgumentParser(
        prog='jax-reparam study',
        description='Trains the runs that a study file declares, each as one line of its file of results. The same '
        'command goes on with a study that was stopped; several processes may work on one study at a time.',
        allow_abbrev=False,
    )
    command.add_argument('files', nargs='+', type=user_path, metavar='FILE', help='a study, in TOML')
    command.add_argument(
        '--source', action='append', default=[], metavar='CORPUS=FOLDER', help='where a corpus lies; may be repeated'
    )
    command.add_argument(
        '--phase',
        action='append',
        choices=('tuning', 'primary', 'exploratory'),
        help='train these only; may be repeated',
    )
    command.add_argument(
        '--together', type=count, metavar='N', help='runs in one program, at most (default: 1 on a CPU, else all)'
    )
    command.add_argument('--keep', type=user_path, metavar='FOLDER', help='keep a checkpoint of each run, for fold')
    command.add_argument(
        '--pack',
        type=user_path,
        metavar='FOLDER',
        help='write FOLDER/CORPUS.npz, which another machine takes as the source; train nothing',
    )
    command.add_argument(
        '--page', type=user_path, metavar='PAGE.md', help='write the evidence page, and its figures; train nothing'
    )
    return command


def main(argv: Sequence[str] | None = None) -> int:
    """Trains, or writes the page."""
    args = parser().parse_args(argv)
    need('study', 'train')
    # After the arguments, so that --help and a mistyped flag answer at once.
    from jax_reparam.study import evidence, planning

    plans = [planning.load(path) for path in args.files]
    if args.page:
        evidence.write(args.page, plans)
        print(args.page)
        return 0
    corpora = tuple(dict.fromkeys(corpus for plan in plans for corpus in plan.study.corpora))
    sources = {}
    for given in args.source:
        corpus, equals, folder = given.partition('=')
        if not equals:
            raise InputError(f'--source: expected CORPUS=FOLDER, found {given!r}')
        sources[known('--source', corpus, corpora)] = folder
    system.keep_all()
    from absl import logging

    from jax_reparam.study import training

    logging.set_verbosity(logging.FATAL)  # Orbax reports what it then raises.
    for plan in plans:
        worker = training.Worker(plan, sources, keep=args.keep)
        if args.pack:
            print(*worker.pack(args.pack), sep='\n')
            continue
        trained = worker.work(args.phase or planning.PHASES, args.together)
        print(f'{plan.lines}: all runs done, {trained} of them by this process')
    return 0
