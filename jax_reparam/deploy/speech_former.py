"""SpeechFormer as it is exported.

Its layers are post-norm: what is added to the residual is a normalisation's output with scale and bias, so the stream
has no basis in which it stays of mean 0. The layers that are added to the residual take its mean off: it is one more of
their inputs, and what they add has mean 0. Epsilon is added where a row is divided by its length.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import named_scope as scope

from jax_reparam.config import SpeechFormerConfig
from jax_reparam.deploy import absorb, ops
from jax_reparam.models.speech_former import STAGES, frame_positions, spans
from jax_reparam.reparam import Params


def prepare(config: SpeechFormerConfig, variables: Params, frames: int) -> Params:
    """See `deploy.prepare`. Biases of normalisations go where their sums are formed; q, k and v are three layers."""
    params = variables['params']
    width = len(params['frame_norm']['scale'])
    positions = jnp.asarray(frame_positions(frames, width), params['frame_norm']['scale'].dtype)
    _, merges = spans(config.hop_ms)
    stages = []
    for index, stage in enumerate(STAGES):
        norm = _root(params[f'{stage}_norm'])
        layers = []
        for number in range(config.layers[index]):
            layer = params[f'{stage}_{number}']
            layers.append(_layer(config, norm, layer, stage))
            norm = _root(layer['ffn_norm'])
        ready: dict[str, Any] = {'layers': layers}
        if f'{stage}_merge' in params:
            merge = params[f'{stage}_merge']
            # The merge's own normalisation and the next stage's follow each other.
            ready['merge'] = {'project': _project(norm, merge['project'], frames, merges[index])}
            ready['merge']['affine'] = _root(merge['norm'])
            frames = math.ceil(frames / merges[index])
        stages.append(ready)
    head = params['head']
    return {
        'positions': positions,
        'stages': stages,
        'head': {**head, 'hidden_0': absorb.read_affine(norm, head['hidden_0'])},
    }


def _root(norm: Params) -> Params:
    """A normalisation's scale and bias, for rows that were divided by their length instead of their deviation."""
    return {'scale': len(norm['scale']) ** 0.5 * norm['scale'], 'bias': norm['bias']}


def _layer(config: SpeechFormerConfig, norm: Params, layer: Params, stage: str) -> Params:
    """One layer behind the normalisation `norm`; in the frame stage attention reads scaled rows and positions."""
    packed = absorb.split(layer['attention']['qkv'], 3)
    depth = len(norm['scale']) // config.heads
    read = {'scale': jnp.ones_like(norm['scale']), 'bias': norm['bias']} if stage == 'frame' else norm
    query, key, value = (absorb.read_affine(read, projection) for projection in packed)
    middle = _root(layer['attention_norm'])
    out = layer['attention']['out']
    if stage == STAGES[-1]:  # elsewhere the zeros behind the ends take a share of the weights
        value, out = absorb.without_value_bias(value, out)
    ffn_in, ffn_out = absorb.read_affine(middle, layer['ffn']['ffn_in']), layer['ffn']['ffn_out']
    mean, out = _mean(norm, norm['scale'][:, None] * packed[-1]['kernel'], out)
    ffn_mean, ffn_out = _mean(middle, ffn_in['kernel'], ffn_out)
    # A hidden unit is ReLU's: the mean is the difference of two.
    ffn_in = {name: jnp.concatenate([leaf, ffn_mean[name], -ffn_mean[name]], axis=-1) for name, leaf in ffn_in.items()}
    ffn_out = {**ffn_out, 'kernel': jnp.concatenate([ffn_out['kernel'], -ffn_out['kernel'][-1:]])}
    return {
        'scale': norm['scale'],
        'query': absorb.scaled(query, depth**-0.5),
        'key': key,
        'value': value,
        'mean': mean,
        'out': out,
        'ffn_scale': middle['scale'],
        'ffn_in': ffn_in,
        'ffn_out': ffn_out,
    }


def _project(norm: Params, layer: Params, frames: int, group: int) -> Params:
    """A merge's projection, given means of rows without the scale and bias of `norm`; what it makes has mean 0.

    Zeros stand for the rows that the last group lacks, so of the bias it has a share.
    """
    ready = absorb.centred(absorb.read_affine(norm, layer))
    lacking = -frames % group
    if lacking:
        without = absorb.centred(layer)['bias']
        last = ready['bias'] + lacking / group * (without - ready['bias'])
        rows = math.ceil(frames / group)
        ready['bias'] = jnp.concatenate([jnp.tile(ready['bias'], (rows - 1, 1)), last.reshape(1, -1)])
    return ready


def _mean(norm: Params, beside: jax.Array, out: Params) -> tuple[Params, Params]:
    """The layer `[C, 1]` that gives the residual's mean, and `out` `[F + 1, C]`, which takes it off with its own.

    Args:
      norm: the residual is a normalisation, of this scale and bias.
      beside: the kernel `[C, F]` that makes the other inputs of `out` of the normalisation: the mean is made at most
        about as large as they are, since all have one step in int8. Where the scale varies little it is smaller than
        that step; made so large that int8 holds it, it took no noise away (three models).
      out: `[F, C]`, added to the residual.
    """
    column = norm['scale'][:, None] / len(norm['scale'])
    sizes = jnp.mean(jnp.sum(beside**2, axis=0)), jnp.sum(column**2)
    gain = jnp.where((sizes[0] > 0) & (sizes[1] > 0), jnp.sqrt(sizes[0] / sizes[1]), 1.0)
    mean = {'kernel': gain * column, 'bias': jnp.zeros_like(column[0])}
    return mean, absorb.less(absorb.centred({**out, 'bias': out['bias'] + norm['bias']}), 1 / gain)


def apply(config: SpeechFormerConfig, params: Params, features: jax.Array) -> jax.Array:
    """See `deploy.apply`. Each stage is a scope, named as it is."""
    windows, merges = spans(config.hop_ms)
    x = features[0, :, None, : params['positions'].shape[-1]]
    for index, (name, stage) in enumerate(zip(STAGES, params['stages'], strict=True)):
        with scope(name):
            with scope('norm'):
                # ADD, not SUB: TFLM computes SUB's multipliers in float32, LiteRT and other versions in float64.
                x = _normalise(x + x @ jnp.full((x.shape[-1], 1), -1 / x.shape[-1], x.dtype))
            for number, layer in enumerate(stage['layers']):
                with scope(str(number)):
                    window = windows[index] if index < len(windows) else None
                    x = _apply_layer(config, layer, x, params['positions'] if index == 0 else None, window)
            if 'merge' in stage:
                merge = stage['merge']
                with scope('merge'):
                    x = _normalise(ops.linear(merge['project'], ops.merge(x, merges[index])))
                    x = x * merge['affine']['scale'].reshape(1, 1, -1) + merge['affine']['bias'].reshape(1, 1, -1)
    with scope('head'):
        return ops.head(params['head'], ops.mean_over_time(x))


def _apply_layer(
    config: SpeechFormerConfig, layer: Params, x: jax.Array, positions: jax.Array | None, window: int | None
) -> jax.Array:
    """One layer; attention of all to all where there is no `window`."""
    with scope('sum'):
        residual = x * layer['scale'].reshape(1, 1, -1)
    with scope('attention'):
        y = x if positions is None else residual + positions[:, None]
        mixed = (
            ops.attention(layer, y, config.heads)
            if window is None
            else ops.windowed_attention(layer, y, config.heads, window)
        )
    with scope('mean'):
        mean = ops.linear(layer['mean'], x)
    with scope('attention'):
        out = ops.linear(layer['out'], jnp.concatenate([mixed, mean], axis=2))
    with scope('sum'):
        x = _normalise(residual + out)
    with scope('ffn'):
        ffn = ops.linear(layer['ffn_out'], jax.nn.relu(ops.linear(layer['ffn_in'], x)))
        return _normalise(x * layer['ffn_scale'].reshape(1, 1, -1) + ffn)


def _normalise(x: jax.Array) -> jax.Array:
    """Rows of mean 0, `[T, 1, C]`, divided by their length, epsilon included."""
    return ops.normalise(x, slot=absorb.slot(x.shape[-1]))


def widths(config: SpeechFormerConfig, frames: int, fast: bool) -> dict[str, int]:
    """See `deploy.widths`. The attention of the frames dominates the arena but adds little noise."""
    of_frames = {'attention': 8, 'attention/softmax': 16}
    return dict.fromkeys((*STAGES, 'head'), 16) | {
        f'{STAGES[0]}/{number}/{part}': bits for number in range(config.layers[0]) for part, bits in of_frames.items()
    }
