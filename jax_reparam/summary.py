"""What recipes cost: python -m jax_reparam.summary [CONFIG.py[:CORPUS] ...] [--out DIR ...] [--classes N] [--json].

For each recipe the parameters in training, folded and of the plain model, the multiply-accumulates (MACs) of the plain
model on one window and, where `fold.py` has exported that model, the bytes of its int8 form and of its arena. Folded
and plain are counted apart: that they agree is what folding claims. Parameters and MACs come from shapes; nothing is
computed. Exit code 2: a recipe or a folder is not what it should be.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from jax_reparam import config, manifest, schema
from jax_reparam.config import HRFConfig, ModelConfig, Recipe
from jax_reparam.errors import InputError, count, run

# Below the current folder: where exports are looked for, and folders that hold none.
SEARCHED = ('*', '*/*', '*/*/*')
SKIPPED = frozenset({'build', 'checkpoints'})
COLUMNS = ('recipe', 'frames x mels', 'training', 'folded', 'plain', 'MACs', 'export', 'int8 bytes', 'arena bytes')
LEFT = frozenset({'recipe', 'export'})  # the other columns are numbers
MISSING = '-'


@dataclasses.dataclass(frozen=True)
class Export:
    """A folder that `fold.py` wrote, as far as it tells what a model costs.

    Attributes:
      folder: where it lies.
      model: architecture and sizes.
      frames: length of a window.
      n_mels: number of mel bands.
      int8_bytes: size of the int8 form; None where the form failed its gate.
      arena_bytes: TFLM's arena of the int8 form; None where the form failed, or was not run in TFLM.
      written: time of its manifest, in seconds.
    """

    folder: str
    model: ModelConfig
    frames: int
    n_mels: int
    int8_bytes: int | None
    arena_bytes: int | None
    written: float

    @classmethod
    def load(cls, folder: str | Path) -> Export:
        """Reads an export's manifest.

        Raises:
          InputError: no manifest there, or not a whole one.
        """
        content, path = manifest.read(folder), Path(folder) / manifest.FILE
        try:
            # A form that failed lies under 'failed', with the same fields: it is not in the folder.
            form = content['forms'].get('int8') or {}
            return cls(
                folder=str(folder),
                model=schema.from_json(cast(Any, ModelConfig), content['model'], 'model'),
                frames=content['input']['frames'],
                n_mels=content['input']['n_mels'],
                int8_bytes=form.get('bytes'),
                arena_bytes=(form.get('tflm') or {}).get('arena_bytes'),
                written=path.stat().st_mtime,
            )
        except (AttributeError, KeyError, TypeError) as error:
            raise InputError(f'{path}: expected a whole manifest, found none of {error}') from error
        except ValueError as error:
            raise InputError(f'{path}: {error}') from error

    def belongs_to(self, recipe: Recipe) -> bool:
        """Whether this is the model of a recipe."""
        expected = (recipe.model, recipe.window_config.frames, recipe.frontend.n_mels)
        return (self.model, self.frames, self.n_mels) == expected

    def as_json(self) -> dict[str, Any]:
        """What the output of `--json` says of it."""
        return {'folder': self.folder, 'int8_bytes': self.int8_bytes, 'arena_bytes': self.arena_bytes}


def exports() -> Iterator[Export]:
    """The exports up to three folders below the current one, by name; what cannot be read is left out."""
    paths = sorted(path for depth in SEARCHED for path in Path().glob(f'{depth}/{manifest.FILE}'))
    for path in paths:
        if any(name.startswith('.') or name in SKIPPED for name in path.parent.parts):
            continue
        try:
            yield Export.load(path.parent)
        except (InputError, OSError):
            continue


def entry(name: str, recipe: Recipe, classes: int, found: Sequence[Export]) -> dict[str, Any]:
    """One recipe's entry in the output of `--json`.

    Args:
      name: the recipe's name there.
      recipe: the recipe.
      classes: number of logits.
      found: exports, of which the newest that belongs to the recipe is taken.
    """
    # Behind the arguments, so that --help and a wrong recipe answer at once.
    import jax
    import jax.numpy as jnp

    from jax_reparam import checkpoint, macs, models, reparam

    frames, n_mels = recipe.window_config.frames, recipe.frontend.n_mels

    def initial(hrf: HRFConfig | None) -> Any:
        model = models.build(recipe.model, hrf, n_classes=classes)
        # With the key inside, no device is ever asked for.
        return jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, frames, n_mels))))['params']

    training, plain = initial(recipe.hrf), initial(None)
    own = [export for export in found if export.belongs_to(recipe)]
    newest = max(own, key=lambda export: export.written, default=None)
    return {
        'recipe': name,
        'frames': frames,
        'n_mels': n_mels,
        'params': {
            'training': checkpoint.count(training),
            'folded': checkpoint.count(jax.eval_shape(reparam.dehrf, training)),
            'plain': checkpoint.count(plain),
        },
        'macs': macs.of_model(recipe.model, frames, n_mels, classes),
        'export': None if newest is None else newest.as_json(),
    }


def table(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """The entries as lines of text."""
    rows = [COLUMNS, *map(_row, entries)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    return [
        '  '.join(
            cell.ljust(width) if name in LEFT else cell.rjust(width)
            for name, cell, width in zip(COLUMNS, row, widths, strict=True)
        ).rstrip()
        for row in rows
    ]


def _row(entry: Mapping[str, Any]) -> tuple[str, ...]:
    params, export = entry['params'], entry['export'] or {}
    return (
        entry['recipe'],
        f'{entry["frames"]} x {entry["n_mels"]}',
        *(_number(params[kind]) for kind in ('training', 'folded', 'plain')),
        f'{entry["macs"] / 1e6:,.1f} M',
        export.get('folder', MISSING),
        _number(export.get('int8_bytes')),
        _number(export.get('arena_bytes')),
    )


def _number(value: int | None) -> str:
    return MISSING if value is None else f'{value:,}'


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    command = argparse.ArgumentParser(
        prog='python -m jax_reparam.summary',
        description='What recipes cost: parameters, multiply-accumulates a window, bytes and arena of their exports.',
    )
    command.add_argument('recipes', metavar='CONFIG.py[:CORPUS]', nargs='*', help='default: configs/*.py')
    command.add_argument(
        '--out',
        metavar='DIR',
        action='append',
        help='folder that fold.py wrote; may be repeated (default: those up to three folders below the current one)',
    )
    command.add_argument('--classes', type=count, default=4, metavar='N', help='number of classes (default: 4)')
    command.add_argument('--json', action='store_true', help='print one JSON object instead of a table')
    return command


def main(argv: Sequence[str] | None = None) -> int:
    """Prints what each recipe costs."""
    args = parser().parse_args(argv)
    names = args.recipes or config.recipes()
    # All of them before the first is counted: a wrong one shows at once.
    loaded = [config.load_recipe(path, corpus) for path, _, corpus in (name.partition(':') for name in names)]
    found = [Export.load(folder) for folder in args.out] if args.out else list(exports())
    entries = [entry(name, recipe, args.classes, found) for name, recipe in zip(names, loaded, strict=True)]
    if args.json:
        print(json.dumps({'classes': args.classes, 'recipes': entries}, indent=2, ensure_ascii=False))
    else:
        print('\n'.join(table(entries)))
    return 0


if __name__ == '__main__':
    run(main)
