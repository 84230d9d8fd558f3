"""Trains a recipe: jax-reparam train --config transformer_s[:CORPUS] --workdir W [--config.KEY=VALUE ...].

The same command goes on with a run that was stopped.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import re
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

from jax_reparam import config, schema, system
from jax_reparam.errors import InputError, from_user, known, need, user_path

KEY = '--config.'
FLAGS = ('--config', '--workdir', '--source', '--init', '--distributed', '--help')


def parser() -> argparse.ArgumentParser:
    """The command's arguments, less the keys of the recipe."""
    command = argparse.ArgumentParser(
        prog='jax-reparam train',
        usage='jax-reparam train --config RECIPE[:CORPUS] [--source S] [--config.KEY=VALUE ...] [options]',
        description='Trains a recipe. The same command goes on with a run that was stopped.',
        epilog='\n'.join(['keys of a recipe, and their defaults where it does not say otherwise:', *_keys()]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.add_argument(
        '--config',
        metavar='RECIPE[:CORPUS]',
        help='a recipe: transformer_s, or a file such as configs/transformer_s.py',
    )
    command.add_argument(
        '--workdir', type=user_path, metavar='W', help='folder of the run (default: runs/RECIPE[-CORPUS])'
    )
    command.add_argument('--source', metavar='S', help='where the corpus lies; the same as --config.data.source')
    command.add_argument(
        '--init',
        metavar='W',
        help='a model to start from: a run, a folder that fold.py wrote, or emodb_xs (train.init)',
    )
    command.add_argument(
        '--distributed', action='store_true', help='train with the other processes of a cluster (docs/training.md)'
    )
    return command


def recipe_keys() -> Iterator[tuple[str, str, str, str]]:
    """Every key of a recipe: section (`train (TrainConfig)`), key, default, and the meaning that docstrings tell."""
    for name, kind in schema.field_types(config.Recipe).items():
        if get_origin(kind) is Annotated:
            yield '', name, str(getattr(config.Recipe, name)), ''
            continue
        for section in get_args(kind) or (kind,):
            told = dict(re.findall(r'^  (\w+): (.+(?:\n    .+)*)', inspect.getdoc(section) or '', re.MULTILINE))
            for key in dataclasses.fields(section):
                default = ','.join(map(str, key.default)) if isinstance(key.default, tuple) else str(key.default)
                meaning = ' '.join(told.get(key.name, '').split())
                yield f'{name} ({section.__name__})', f'{name}.{key.name}', default, meaning


def _keys() -> Iterator[str]:
    """A paragraph per key of a recipe."""
    last = ''
    for section, key, default, meaning in recipe_keys():
        if section != last:
            yield f'\n{section}:' if section else ''
        yield f'  {KEY}{key}={default}'
        if meaning:
            yield textwrap.indent(textwrap.fill(meaning, 100), ' ' * 6)
        last = section


def parse(argv: Sequence[str] | None) -> tuple[argparse.Namespace, dict[str, Any]]:
    """The command's arguments, and of a recipe, by key, the values that `--config.KEY=VALUE` (or ` VALUE`) change.

    A key without a value gets True.

    Raises:
      InputError: an argument that is neither.
    """
    args, others = parser().parse_known_args(argv)
    changes: dict[str, Any] = {}
    while others:
        flag, equals, value = others.pop(0).partition('=')
        if flag.startswith(KEY):
            follows = others and not others[0].startswith('--')
            changes[flag.removeprefix(KEY)] = value if equals else others.pop(0) if follows else True
        elif flag.startswith('-'):
            known('flags', flag, FLAGS)
        else:
            raise InputError(f'expected flags only, found {flag + equals + value!r}')
    return args, changes


def main(argv: Sequence[str] | None = None) -> int:
    """Trains, and says where the result is and what it is."""
    args, changes = parse(argv)
    if args.config is None:
        raise InputError('--config: expected a recipe such as transformer_s, found none')
    path, _, corpus = args.config.partition(':')
    recipe = config.load_recipe(path, corpus)
    if args.source is not None:
        changes['data.source'] = args.source
    if args.init is not None:
        changes['train.init'] = args.init
    with from_user():
        recipe = recipe.with_changes(changes)
    workdir = Path(args.workdir or f'runs/{Path(path).stem}' + (f'-{corpus.replace("/", "_")}' if corpus else ''))

    need('train', 'train')
    system.keep_all()
    # After the recipe, so that --help and a mistyped key answer at once.
    from absl import logging

    from jax_reparam.train import loop, processes, report

    logging.set_verbosity(logging.FATAL)  # Orbax reports what it then raises.
    if args.distributed:
        processes.start()
    result = loop.fit(recipe, workdir)
    if processes.first():
        print(f'{workdir}: {report.headline(result)}')
    return 0
