"""What exports cost on a Cortex-M4F (estimated) and an Ethos-U55 (by Vela): python benchmarks/processors.py OUT ...

For the NPU an int8 form without L2_NORMALIZATION is made of the folder's checkpoint, calibrated on random windows:
placement and memory do not depend on their values.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import jax
import numpy as np

from jax_reparam import checkpoint, deploy, pipeline
from jax_reparam.export import cost, forms, npu


def models(out: Path) -> dict[str, bytes]:
    """The int8 form by how normalisations are written."""
    found = checkpoint.load(out / 'checkpoint')
    recipe = found.config['model']
    frames, bands = pipeline.window_config(found.config).frames, found.config['frontend']['n_mels']
    windows = np.random.default_rng(0).standard_normal((4, frames, bands)).astype(np.float32)
    params = jax.tree.map(np.asarray, deploy.prepare(recipe, found.variables, frames))
    return {
        'l2': forms.integer(lambda x: deploy.apply(recipe, params, x, norm='l2'), windows),
        'rsqrt': forms.integer(lambda x: deploy.apply(recipe, params, x, norm='rsqrt'), windows),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('folders', metavar='OUT', nargs='+', type=Path)
    parser.add_argument('--npu', default='ethos-u55-128', choices=npu.ACCELERATORS)
    args = parser.parse_args()
    for out in args.folders:
        for norm, model in models(out).items():
            found, placed = cost.of_model(model), npu.compiled(model, args.npu)
            shares = ', '.join(f'{row.op} {row.share:.1%}' for row in found.rows[:5])
            print(f'{out.name} {norm}: {found.macs / 1e6:.1f} M MACs, {found.instructions / 1e6:.1f} M instructions,')
            print(f'  {found.instructions / found.macs:.2f} a MAC, assumed {found.as_json()["assumed"]:.1%}: {shares}')
            print(f'  {args.npu}: {placed.share:.1%} placed, SRAM {placed.sram_bytes:,}, flash {placed.flash_bytes:,},')
            print(f'  {placed.milliseconds:.1f} ms estimated', *placed.failures(), sep='\n  ', flush=True)


if __name__ == '__main__':
    main()
