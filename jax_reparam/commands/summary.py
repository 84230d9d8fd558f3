"""What recipes cost: jax-reparam summary [RECIPE[:CORPUS] ...] [--out DIR ...] [--classes N] [--json].

For each recipe the parameters in training, folded and of the plain model, the multiply-accumulates (MACs) of the plain
model on one window and, where `fold.py` has exported that model, the bytes of its int8 form and of its arena. Folded
and plain are counted apart: that they agree is what folding claims. Parameters and MACs come from shapes; nothing is
computed. Exit code 2: a recipe or a folder is not what it should be.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from jax_reparam import config
from jax_reparam.config import ModelConfig, Recipe
from jax_reparam.errors import InputError, count, need
from jax_reparam.manifest import FILE, Manifest, load
from jax_reparam.table import aligned

# Below the current folder: where exports are looked for, and folders that hold none.
SEARCHED = ('*', '*/*', '*/*/*')
SKIPPED = frozenset({'build', 'checkpoints'})
COLUMNS = ('recipe', 'frames x mels', 'training', 'folded', 'plain', 'MACs', 'export', 'int8 bytes', 'arena bytes')
MISSING = '-'
# A folder that `fold.py` wrote, and its manifest.
Export: TypeAlias = tuple[str, Manifest]
# Primitives of JAX that call a jaxpr once, with their own inputs and outputs.
CALLS = frozenset({'jit', 'custom_jvp_call'})


def exports() -> Iterator[Export]:
    """The exports up to three folders below the current one, by name; what cannot be read is left out."""
    for path in sorted(path for depth in SEARCHED for path in Path().glob(f'{depth}/{FILE}')):
        if any(name.startswith('.') or name in SKIPPED for name in path.parent.parts):
            continue
        try:
            yield str(path.parent), load(path.parent)
        except (InputError, OSError):
            continue


def newest(recipe: Recipe, candidates: Sequence[Export]) -> dict[str, Any] | None:
    """What the output of `--json` says of a recipe's newest export; None where there is none.

    The numbers of bytes are None where there is no int8 form, or it was not run in TFLM.
    """
    shape = recipe.window_config.frames, recipe.frontend.n_mels
    own = [
        (folder, manifest)
        for folder, manifest in candidates
        if manifest.architecture == recipe.model
        and (manifest.input.window.frames, manifest.input.frontend.n_mels) == shape
    ]
    if not own:
        return None
    folder, manifest = max(own, key=lambda export: (Path(export[0]) / FILE).stat().st_mtime)
    int8 = manifest.forms.get('int8')
    return {
        'folder': folder,
        'int8_bytes': int8 and int8.bytes,
        'arena_bytes': int8 and int8.tflm and int8.tflm.arena_bytes,
    }


def entry(name: str, recipe: Recipe, classes: int, candidates: Sequence[Export]) -> dict[str, Any]:
    """One recipe's entry in the output of `--json`."""
    # Behind the arguments, so that --help and a wrong recipe answer at once.
    import jax

    from jax_reparam import checkpoint, models, reparam

    frames, n_mels = recipe.window_config.frames, recipe.frontend.n_mels
    training, plain = (
        _variables(models.build(recipe.model, hrf, n_classes=classes), frames, n_mels) for hrf in (recipe.hrf, None)
    )
    return {
        'recipe': name,
        'frames': frames,
        'n_mels': n_mels,
        'params': {
            'training': checkpoint.count(training['params']),
            'folded': checkpoint.count(jax.eval_shape(reparam.dehrf, training)['params']),
            'plain': checkpoint.count(plain['params']),
        },
        'macs': model_macs(recipe.model, frames, n_mels, classes),
        'export': newest(recipe, candidates),
    }


def model_macs(model: ModelConfig, frames: int, n_mels: int, n_classes: int) -> int:
    """Counts the MACs of a plain (folded) model, `[1, frames, n_mels]` to logits `[1, n_classes]`; see `count_macs`."""
    from jax_reparam import models

    plain = models.build(model, n_classes=n_classes)
    return count_macs(plain.apply, _variables(plain, frames, n_mels), np.zeros((1, frames, n_mels), np.float32))


def _variables(model: Any, frames: int, n_mels: int) -> Any:
    """Shapes and types of what a model's `init` makes."""
    import jax
    import jax.numpy as jnp

    # With the key inside, no device is ever asked for.
    return jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, frames, n_mels))))


def count_macs(function: Callable[[Any, Any], Any], variables: Any, x: Any) -> int:
    """Counts the multiply-accumulates (MACs) of a function in its jaxpr.

    Counted are the matrix products and convolutions with an operand that depends on `x`; those with the zeros of a
    padding too, as in every table of MACs. A product of variables alone (the composition of HRF factors, the projection
    of a table of positions) is done once, before a device ever sees the model.

    Of `variables` and `x`, trees of arrays, shapes and types are all that is read.

    Raises:
      ValueError: products in a loop, a branch or another primitive that may not run them exactly once.
    """
    import jax

    jaxpr, first = jax.make_jaxpr(function)(variables, x).jaxpr, len(jax.tree.leaves(variables))
    return _count(jaxpr, [place >= first for place in range(len(jaxpr.invars))])[0]


def _count(jaxpr: Any, inputs: Sequence[bool]) -> tuple[int, list[bool]]:
    """MACs of a jaxpr, given which of its inputs depend on x; also which of its outputs do."""
    dependent = {variable for variable, depends in zip(jaxpr.invars, inputs, strict=True) if depends}
    total = 0

    def depend(atoms: Sequence[Any]) -> list[bool]:
        # What has a value with it is a literal.
        return [not hasattr(atom, 'val') and atom in dependent for atom in atoms]

    for equation in jaxpr.eqns:
        operands, outputs = depend(equation.invars), [True] * len(equation.outvars)
        if not any(operands):
            continue
        name, params, macs = equation.primitive.name, equation.params, 0
        values = itertools.chain(*(value if isinstance(value, (list, tuple)) else [value] for value in params.values()))
        inner = [getattr(value, 'jaxpr', value) for value in values if hasattr(value, 'eqns')]
        if params.get('name') == 'sum_of_taps':  # of `layers`: a depthwise convolution
            macs = math.prod(equation.outvars[0].aval.shape) * equation.invars[1].aval.shape[0]
        elif name in CALLS:
            [called] = inner
            macs, outputs = _count(called, operands)
        elif name == 'dot_general':
            (contracting, _), _ = params['dimension_numbers']
            summed = [equation.invars[0].aval.shape[axis] for axis in contracting]
            macs = math.prod(equation.outvars[0].aval.shape) * math.prod(summed)
        elif name == 'conv_general_dilated':
            kernel = equation.invars[1].aval.shape
            channels = kernel[params['dimension_numbers'].rhs_spec[0]]
            macs = math.prod(equation.outvars[0].aval.shape) * (math.prod(kernel) // channels)
        elif any(_count(one, [True] * len(one.invars))[0] for one in inner):
            raise ValueError(f'{name}: expected no products in it, since how often it runs is not known here')
        total += macs
        dependent |= {variable for variable, depends in zip(equation.outvars, outputs, strict=True) if depends}
    return total, depend(jaxpr.outvars)


def table(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """The entries as lines of text."""
    return aligned([COLUMNS, *map(_row, entries)], left=(COLUMNS.index('recipe'), COLUMNS.index('export')))


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
        prog='jax-reparam summary',
        description='What recipes cost: parameters, multiply-accumulates a window, bytes and arena of their exports.',
    )
    command.add_argument('recipes', metavar='RECIPE[:CORPUS]', nargs='*', help='default: all recipes')
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
    need('summary', 'train')
    names = args.recipes or config.recipes()
    # All of them before the first is counted: a wrong one shows at once.
    loaded = [config.load_recipe(path, corpus) for path, _, corpus in (name.partition(':') for name in names)]
    candidates = [(folder, load(folder)) for folder in args.out] if args.out else list(exports())
    entries = [entry(name, recipe, args.classes, candidates) for name, recipe in zip(names, loaded, strict=True)]
    if args.json:
        print(json.dumps({'classes': args.classes, 'recipes': entries}, indent=2, ensure_ascii=False))
    else:
        print('\n'.join(table(entries)))
    return 0
