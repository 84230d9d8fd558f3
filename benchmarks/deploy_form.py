"""Exports recipes twice, as they are trained and in their deploy form, and prints what each costs in 8 bits alone.

python benchmarks/deploy_form.py [configs/transformer_xs.py ...] [--classes 7] [--json FILE]

The weights are fresh ones, moved at random: bytes, operators and arena do not depend on their values. Prints operators,
bytes and TFLM's arena of both forms, or what refused the form that is trained.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jax_reparam import deploy, manifest, models
from jax_reparam.config import Recipe, load_recipe, recipes
from jax_reparam.deploy import convert
from jax_reparam.graph import flatbuffer
from jax_reparam.quantise import forms as made
from jax_reparam.runtime import tflm


def forms(recipe: Recipe, classes: int) -> tuple[dict[str, convert.Function], np.ndarray]:
    """Both forms as functions of one window, and windows to calibrate with."""
    frames, bands = recipe.window_config.frames, recipe.frontend.n_mels
    rng = np.random.default_rng(0)
    windows = rng.standard_normal((4, frames, bands)).astype(np.float32)
    plain: Any = models.build(recipe.model, n_classes=classes)
    fresh = jax.jit(plain.init)(jax.random.key(0), windows[:1])
    # A bias of zero would be dropped, a scale of one would vanish.
    variables = jax.tree.map(
        lambda leaf: np.asarray(leaf + 0.05 * np.abs(rng.standard_normal(leaf.shape)), np.float32), fresh
    )
    params = jax.tree.map(np.asarray, deploy.prepare(recipe.model, variables, frames))
    return {
        'as trained': lambda features: plain.apply(variables, features),
        'deploy': lambda features: deploy.apply(recipe.model, params, features, norm=deploy.unit(recipe.model)),
    }, windows


def measure(function: convert.Function, windows: np.ndarray) -> dict[str, Any]:
    """Operators, bytes and arena of a form in 8 bits alone, where no conversions are counted; or `refused`."""
    try:
        model = made.integer(function, windows, manifest.NPU_FORM)
        ops = flatbuffer.graph(model).ops
        found: dict[str, Any] = {'ops': sum(ops.values()), 'bytes': len(model), 'by_op': ops}
        return {**found, 'arena': tflm.run(model, windows[:1]).arena_bytes}
    except convert.ConversionError as error:
        return {'refused': f'converter: {error}'}
    except tflm.TFLMError as error:
        return {**found, 'refused': f'TFLM: {error}'}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('configs', nargs='*', help='default: configs/*.py')
    parser.add_argument('--classes', type=int, default=7)
    parser.add_argument('--json', type=Path, help='write {config: {form: ...}} here')
    args = parser.parse_args()
    results: dict[str, Any] = {}
    for path in args.configs or recipes():
        functions, windows = forms(load_recipe(path), args.classes)
        for name, function in functions.items():
            found = measure(function, windows)
            results.setdefault(Path(path).stem, {})[name] = found
            columns = [f'{found.get(key, 0):>9,} {key}' for key in ('ops', 'bytes', 'arena')]
            print(f'{Path(path).stem:18} {name:11}', *columns, found.get('refused', '')[:120], flush=True)
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + '\n')


if __name__ == '__main__':
    main()
