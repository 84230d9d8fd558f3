"""Trains a recipe: python train.py --config configs/transformer_s.py[:CORPUS] --workdir W [--config.KEY=VALUE ...]

The same command goes on with a run that was stopped.
"""

from __future__ import annotations

from pathlib import Path

from absl import app, flags
from ml_collections import config_flags

from jax_reparam.errors import run

_CONFIG = config_flags.DEFINE_config_file('config', 'configs/transformer_s.py', 'Recipe, and corpus behind a colon.')
_WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of the run; default runs/RECIPE[-CORPUS].')


def main(argv: list[str]) -> int:
    """Trains, and says where the result is and what it is."""
    if len(argv) > 1:
        raise app.UsageError(f'expected flags only, got {argv[1]!r}')
    # Behind the flags, so that --help and a mistyped key answer at once.
    from jax_reparam import report, training

    config = _CONFIG.value.to_dict()
    recipe, _, corpus = str(flags.FLAGS['config'].config_filename).partition(':')
    workdir = Path(_WORKDIR.value or f'runs/{Path(recipe).stem}' + (f'-{corpus}' if corpus else ''))
    start = training.train_folds if config['data']['fold'] == 'all' else training.train
    result = start(config, workdir)
    print(f'{workdir}: {report.headline(result)}')
    return 0


if __name__ == '__main__':
    app.run(lambda argv: run(lambda: main(argv)))
