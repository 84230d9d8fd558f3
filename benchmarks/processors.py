"""What models cost on a Cortex-M4F (estimated) and an Ethos-U55 (by Vela): python benchmarks/processors.py SOURCE ...

A source is a folder of `fold.py`, or a recipe, whose weights are then fresh. Of int8, of int8 with `--fast`, and of the
form for an NPU. All are calibrated on random windows: work, placement and memory depend on no values.
"""

from __future__ import annotations

import argparse
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
    args = parser.parse_args()
    for path in args.sources:
        for name, graph in forms_of(path).items():
            found, (_, placed) = cost.of_graph(graph), npu.compiled(flatbuffer.write(graph), args.npu)
            shares = ', '.join(f'{row.op} {row.share:.1%}' for row in found.ops[:5])
            print(f'{path.stem} {name}: {found.macs / 1e6:.1f} M MACs, {found.instructions / 1e6:.1f} M instructions,')
            print(f'  {found.instructions / found.macs:.2f} a MAC, assumed {found.assumed:.1%}: {shares}')
            print(f'  {args.npu}: {placed.share:.1%} placed, SRAM {placed.sram_bytes:,}, flash {placed.flash_bytes:,},')
            print(f'  {placed.milliseconds:.1f} ms estimated', *npu.failures(placed), sep='\n  ', flush=True)


if __name__ == '__main__':
    main()
