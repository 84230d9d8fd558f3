"""Trains a recipe: python train.py --config configs/transformer_s.py[:CORPUS] --workdir W [--config.KEY=VALUE ...].

The same command goes on with a run that was stopped.
"""

from __future__ import annotations

import re
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

from jax_reparam import system
from jax_reparam.errors import InputError, run

_CONFIG = config_flags.DEFINE_config_file('config', None, 'Recipe, and corpus behind a colon.')
_DISTRIBUTED = flags.DEFINE_bool('distributed', False, 'Train with the other processes of a cluster.')
_WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of the run; default runs/RECIPE[-CORPUS].')


def parse(argv: list[str]) -> list[str]:
    """Parses flags.

    Raises:
      InputError: a mistyped key (with the nearest right one), a value of the wrong type, a recipe that is not there.
    """
    try:
        rest = flags.FLAGS(argv)
        if _CONFIG.value is None:
            raise InputError('--config: expected a recipe such as configs/transformer_s.py, found none')
    except SystemExit as end:
        # absl ends --help, too, with exit code 1.
        raise SystemExit(0) from end
    except (flags.Error, AttributeError, KeyError, TypeError, OSError) as error:
        # ml_collections puts the traceback of a recipe into its message; the last line says what is wrong.
        lines = [line for line in str(error).replace('\\n', '\n').splitlines() if line.strip()]
        near = re.search(r'Did you mean "(.+)" instead of "(.+)"', str(error))
        if near:
            raise InputError(
                f'--config: expected a key of the recipe, found {near[2]!r}; did you mean {near[1]!r}?'
            ) from error
        reason = lines[-1].strip().strip('"')
        if re.fullmatch("'[^']+'", reason):  # a KeyError's message is the key alone
            raise InputError(f'--config: expected a key of the recipe, found {reason}') from error
        raise InputError(reason.removeprefix('jax_reparam.errors.InputError: ')) from error
    if len(rest) > 1:
        raise InputError(f'expected flags only, found {rest[1]!r}')
    return rest


def main(argv: list[str]) -> int:
    """Trains, and says where the result is and what it is."""
    del argv
    logging.set_verbosity(logging.FATAL)  # Orbax reports what it then raises.
    system.keep_all()
    # Behind the flags, so that --help and a mistyped key answer at once.
    from jax_reparam.train import loop, processes, report

    if _DISTRIBUTED.value:
        processes.start()
    config = _CONFIG.value.to_dict()
    recipe, _, corpus = config_flags.get_config_filename(flags.FLAGS['config']).partition(':')
    workdir = Path(_WORKDIR.value or f'runs/{Path(recipe).stem}' + (f'-{corpus.replace("/", "_")}' if corpus else ''))
    start = loop.train_folds if config['data']['fold'] == 'all' else loop.train
    result = start(config, workdir)
    if processes.first():
        print(f'{workdir}: {report.headline(result)}')
    return 0


if __name__ == '__main__':
    run(lambda: app.run(main, flags_parser=parse))
