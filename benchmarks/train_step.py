"""Times the training step of the plain model, of both HRF forward passes and of branches, interleaved in one run.

python benchmarks/train_step.py [configs/transformer_xs.py configs/transformer_s.py ...] [--steps 15] [--json FILE]

Prints the median step time and what the compiled step needs in memory (arguments, outputs and temporaries, by XLA's own
analysis), each with its ratio to the plain model's. The variants take turns step by step, so that a machine whose
speed drifts slows them alike.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jax_reparam import models
from jax_reparam.config import Recipe, load_recipe
from jax_reparam.frontend.inputs import Input
from jax_reparam.train import loop
from jax_reparam.train.optimizer import adamw

CONFIGS = Path(__file__).parent.parent / 'configs'
CLASSES = 7
VARIANTS: dict[str, dict[str, Any]] = {
    'plain': {'hrf.expansion': 0.0},
    'composed': {'hrf.forward': 'composed'},
    'two_step': {'hrf.forward': 'two_step'},
    'branches': {'hrf.sites': 'convolution'},
}


def compile_step(recipe: Recipe, batch: loop.Batch) -> tuple[Any, loop.State]:
    model = models.build(recipe.model, recipe.hrf, n_classes=CLASSES)
    optimizer = adamw(recipe)
    zero = np.zeros(recipe.frontend.n_mels, np.float32)
    inputs = Input(recipe.frontend, recipe.window_config, zero, zero + 1, zero)
    step = loop.make_step(recipe, model, optimizer, None, recipe.seed, inputs)
    state = jax.jit(lambda: loop.init_state(model, optimizer, batch['codes'][:1].astype(np.float32), 0))()
    return jax.jit(step, donate_argnums=0).lower(state, batch).compile(), state


def random_batch(recipe: Recipe) -> dict[str, jax.Array]:
    size, frames = recipe.train.batch_size, recipe.window_config.frames
    rng = np.random.default_rng(0)
    batch = {
        'codes': rng.integers(-128, 128, (size, frames, recipe.frontend.n_mels)).astype(np.int8),
        'frames': np.full(size, frames, np.int32),
        'voice': np.zeros((size, recipe.frontend.n_mels), np.float32),
        'voice_frames': np.zeros(size, np.int32),
        'labels': rng.integers(CLASSES, size=size).astype(np.int32),
    }
    placed: dict[str, jax.Array] = jax.device_put(batch)
    return placed


def measure(recipe: Recipe, steps: int) -> dict[str, dict[str, float]]:
    batch = random_batch(recipe)
    compiled, states = {}, {}
    for name, hrf in VARIANTS.items():
        compiled[name], states[name] = compile_step(recipe.with_changes(hrf), batch)
    times: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for _ in range(steps + 2):
        for name, step in compiled.items():
            began = time.perf_counter()
            states[name], _ = step(states[name], batch)
            jax.block_until_ready(states[name])
            times[name].append(time.perf_counter() - began)
    result = {}
    for name, step in compiled.items():
        memory = step.memory_analysis()
        needed = memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes
        result[name] = {
            'median_s': float(np.median(times[name][2:])),
            # Donated arguments and outputs share their place.
            'peak_bytes': int(needed - memory.alias_size_in_bytes),
        }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('configs', nargs='*', type=Path, default=[CONFIGS / f'transformer_{s}.py' for s in ('xs', 's')])
    parser.add_argument('--steps', type=int, default=15, help='timed steps of each variant')
    parser.add_argument('--json', type=Path, help='write {config: {variant: {median_s, peak_bytes}}} here')
    args = parser.parse_args()
    device = jax.devices()[0]
    print(f'{jax.device_count()} x {device.device_kind}, {platform.machine()}, jax {jax.__version__}')
    results = {}
    for path in args.configs:
        result = results[path.stem] = measure(load_recipe(path), args.steps)
        plain = result['plain']
        for name, value in result.items():
            ratios = {key: value[key] / plain[key] for key in value}
            print(
                f'{path.stem:16} {name:9} {1000 * value["median_s"]:8.1f} ms  x {ratios["median_s"]:.2f}'
                f'   {value["peak_bytes"] / 2**20:7.1f} MiB  x {ratios["peak_bytes"]:.2f}'
            )
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + '\n')


if __name__ == '__main__':
    main()
