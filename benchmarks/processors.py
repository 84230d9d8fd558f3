"""What models cost on a Cortex-M4F (estimated) and an Ethos-U55 (by Vela): python benchmarks/processors.py SOURCE ...

A source is a folder of `fold.py`, or a recipe, whose weights are then fresh. Of int8, of int8 with `--fast`, and of the
form for an NPU. All are calibrated on random windows: work, placement and memory depend on no values. With --out each
is a line of JSON in a file, which is written anew.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jax_reparam import checkpoint, deploy, manifest, models
from jax_reparam.config import Recipe, load_recipe
from jax_reparam.deploy import convert
from jax_reparam.export import npu
from jax_reparam.graph import cost, flatbuffer, passes
from jax_reparam.graph.graph import Graph
from jax_reparam.quantise.quantise import Calibration, quantise

CLASSES = 4  # of a recipe without a corpus


def source(path: Path) -> tuple[Recipe, Mapping[str, Any]]:
    """The recipe and the plain model's variables."""
    if path.is_dir():
        found = checkpoint.load(path / 'checkpoint')
        return found.recipe, found.variables
    recipe = load_recipe(path)
    windows = np.zeros((1, recipe.window_config.frames, recipe.frontend.n_mels), np.float32)
    return recipe, jax.jit(models.build(recipe.model, n_classes=CLASSES).init)(jax.random.key(0), windows)


def forms_of(path: Path) -> dict[str, Graph]:
    """The forms, by name; --fast where it changes something."""
    recipe, variables = source(path)
    model, frames = recipe.model, recipe.window_config.frames
    windows = np.random.default_rng(0).standard_normal((4, frames, recipe.frontend.n_mels)).astype(np.float32)
    float32 = convert.to_float32(deploy.build(model, variables, frames), windows[:1].shape)
    calibration = Calibration(flatbuffer.read(float32), windows)
    bits = {
        'int8': deploy.widths(model, frames),
        'int8 --fast': deploy.widths(model, frames, fast=True),
        manifest.NPU_FORM: {'': 8},
    }
    if bits['int8 --fast'] == bits['int8']:
        del bits['int8 --fast']
    return {name: passes.optimise(quantise(calibration, widths).graph) for name, widths in bits.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('sources', metavar='SOURCE', nargs='+', type=Path)
    parser.add_argument('--npu', default='ethos-u55-128', choices=manifest.NPU_FILES)
    parser.add_argument('--out', type=Path, metavar='FILE', help='also write the lines to this file')
    args = parser.parse_args()
    lines = []
    for path in args.sources:
        for name, graph in forms_of(path).items():
            found, (_, placed) = cost.of_graph(graph), npu.compiled(flatbuffer.write(graph), args.npu)
            line = {
                'recipe': path.stem,
                'form': name,
                'macs': found.macs,
                'instructions': found.instructions,
                'assumed': round(found.assumed, 4),
                'dearest': {f'{row.op}, {row.dtype}': round(row.share, 3) for row in found.ops[:3]},
                'npu': args.npu,
                'placed': round(placed.share, 4),
                'sram_bytes': placed.sram_bytes,
                'flash_bytes': placed.flash_bytes,
                'milliseconds': round(placed.milliseconds, 1),
                'left': npu.failures(placed),
            }
            lines.append(json.dumps(line) + '\n')
            print(lines[-1], end='', flush=True)
    if args.out:
        args.out.write_text(''.join(lines))


if __name__ == '__main__':
    main()
