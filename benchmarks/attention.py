"""Times SpeechFormer's frame stage by length, with windowed and with full attention, interleaved in one run.

python benchmarks/attention.py [--frames 400 800 1600] [--batch 4] [--steps 7] [--json FILE]

One step is the loss and its gradient through the two layers of the frame stage of S (C 128, 8 heads, window 5). Prints
the median step time and what the compiled step needs in memory (temporaries, by XLA's own analysis), each as a ratio to
the shortest length of its own kind. Windowed attention costs O(T w), so four times the frames should cost four times as
much; full attention costs O(T^2). The variants take turns step by step, so that a machine whose speed drifts slows them
alike.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jax_reparam.layers import PLAIN
from jax_reparam.models.speech_former import Layer, SpeechFormerConfig, frame_positions, spans

WIDTH = 128
KINDS = ('windowed', 'full')


class FrameStage(nn.Module):
    """The layers of the frame stage.

    Attributes:
      window: tokens that a query sees; None for all.
    """

    window: int | None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[B, T, C]` to `[B, T, C]`."""
        config = SpeechFormerConfig()
        positions = jnp.asarray(frame_positions(x.shape[1], WIDTH), x.dtype)[None]
        for index in range(config.layers[0]):
            x = Layer(config, PLAIN, self.window, name=f'frame_{index}')(x, None, positions, train=False)
        return x


def compile_step(kind: str, batch: int, frames: int) -> tuple[Any, Any, jax.Array]:
    """The compiled step, its parameters and its input."""
    model: Any = FrameStage(spans(SpeechFormerConfig().hop_ms)[0][0] if kind == 'windowed' else None)
    x = np.random.default_rng(0).standard_normal((batch, frames, WIDTH)).astype(np.float32)
    params = jax.jit(model.init)(jax.random.key(0), x[:1, :8])
    step = jax.jit(jax.value_and_grad(lambda params, x: jnp.mean(jnp.square(model.apply(params, x)))))
    return step.lower(params, x).compile(), params, jnp.asarray(x)


def measure(lengths: list[int], batch: int, steps: int) -> dict[str, dict[int, dict[str, float]]]:
    """Median time and memory of every kind at every length."""
    cases = {(kind, frames): compile_step(kind, batch, frames) for kind in KINDS for frames in lengths}
    times: dict[tuple[str, int], list[float]] = {case: [] for case in cases}
    for _ in range(steps + 2):
        for case, (step, params, x) in cases.items():
            # Once untimed: what ran before has filled the caches, and given back the memory that this one asks for.
            jax.block_until_ready(step(params, x))
            began = time.perf_counter()
            jax.block_until_ready(step(params, x))
            times[case].append(time.perf_counter() - began)
    result: dict[str, dict[int, dict[str, float]]] = {kind: {} for kind in KINDS}
    for (kind, frames), (step, _, _) in cases.items():
        result[kind][frames] = {
            'median_s': float(np.median(times[kind, frames][2:])),
            'temporary_bytes': int(step.memory_analysis().temp_size_in_bytes),
        }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--frames', type=int, nargs='+', default=[400, 800, 1600], help='lengths, the shortest first')
    parser.add_argument('--batch', type=int, default=4)
    parser.add_argument('--steps', type=int, default=7, help='timed steps of each variant')
    parser.add_argument('--json', type=Path, help='write {kind: {frames: {median_s, temporary_bytes}}} here')
    args = parser.parse_args()
    print(f'{jax.device_count()} x {jax.devices()[0].device_kind}, {platform.machine()}, jax {jax.__version__}')
    result = measure(args.frames, args.batch, args.steps)
    for kind, lengths in result.items():
        shortest = lengths[args.frames[0]]
        for frames, value in lengths.items():
            ratios = {key: value[key] / shortest[key] for key in value}
            print(
                f'{kind:9} {frames:5} frames {1000 * value["median_s"]:8.1f} ms  x {ratios["median_s"]:5.2f}'
                f'   {value["temporary_bytes"] / 2**20:7.1f} MiB  x {ratios["temporary_bytes"]:5.2f}'
            )
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + '\n')


if __name__ == '__main__':
    main()
