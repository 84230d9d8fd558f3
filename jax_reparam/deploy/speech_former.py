"""SpeechFormer as it is exported.

Its layers are post-norm: what is added to the residual is a normalisation's output with scale and bias, so the stream
has no basis in which it stays of mean 0. Means are taken off by a product with a constant column, and epsilon is added
where a row is divided by its length.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jax_reparam import absorb
from jax_reparam.deploy import ops
from jax_reparam.models.speech_former import STAGES, SpeechFormerConfig, frame_positions, spans

Tree = Any


def prepare(config: SpeechFormerConfig, variables: Tree, frames: int) -> Tree:
    """See `deploy.prepare`. Biases of normalisations go where their sums are formed; q, k and v are three layers."""
    params = variables['params']
    width = len(params['frame_norm']['scale'])
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
            ready['merge'] = {'norm': norm, 'project': params[f'{stage}_merge']['project']}
            # The merge's own normalisation and the next stage's follow each other.
            ready['merge']['affine'] = _root(params[f'{stage}_merge']['norm'])
        stages.append(ready)
    head = params['head']
    return {
        'positions': jnp.asarray(frame_positions(frames, width), params['frame_norm']['scale'].dtype),
        'stages': stages,
        'head': {**head, 'hidden_0': absorb.read_affine(norm, head['hidden_0'])},
    }


def _root(norm: Tree) -> Tree:
    """A normalisation's scale and bias, for rows that were divided by their length instead of their deviation."""
    return {'scale': len(norm['scale']) ** 0.5 * norm['scale'], 'bias': norm['bias']}


def _layer(config: SpeechFormerConfig, norm: Tree, layer: Tree, stage: str) -> Tree:
    """One layer behind the normalisation `norm`; in the frame stage attention reads scaled rows and positions."""
    packed = layer['attention']['qkv']
    depth = len(norm['scale']) // config.heads
    read = {'scale': jnp.ones_like(norm['scale']), 'bias': norm['bias']} if stage == 'frame' else norm
    kernels, biases = jnp.split(packed['kernel'], 3, axis=-1), jnp.split(packed['bias'], 3)
    query, key, value = (
        absorb.read_affine(read, {'kernel': kernel, 'bias': bias}) for kernel, bias in zip(kernels, biases, strict=True)
    )
    middle = _root(layer['attention_norm'])
    out, ffn_out = layer['attention']['out'], layer['ffn']['ffn_out']
    if stage == STAGES[-1]:  # elsewhere the zeros behind the ends take a share of the weights
        value, out = absorb.without_value_bias(value, out)
    return {
        'scale': norm['scale'],
        'query': absorb.scaled(query, depth**-0.5),
        'key': key,
        'value': value,
        'out': {**out, 'bias': out['bias'] + norm['bias']},
        'ffn_scale': middle['scale'],
        'ffn_in': absorb.read_affine(middle, layer['ffn']['ffn_in']),
        'ffn_out': {**ffn_out, 'bias': ffn_out['bias'] + middle['bias']},
    }


def apply(config: SpeechFormerConfig, params: Tree, features: jax.Array, norm: ops.Norm) -> jax.Array:
    """See `deploy.apply`."""
    windows, merges = spans(config.hop_ms)
    x = features[0, :, : params['positions'].shape[-1]]
    first, norm = ops.norms(norm)
    for index, stage in enumerate(params['stages']):
        x = _standardise(x, norm if index else first)
        for layer in stage['layers']:
            residual = x * layer['scale'].reshape(1, -1)
            y = residual + params['positions'] if index == 0 else x
            if index < len(windows):
                mixed = ops.windowed_attention(layer, y, config.heads, windows[index])
            else:
                mixed = ops.attention(layer, y, config.heads)
            x = _standardise(residual + ops.linear(layer['out'], mixed), norm)
            ffn = ops.linear(layer['ffn_out'], jax.nn.relu(ops.linear(layer['ffn_in'], x)))
            x = _standardise(x * layer['ffn_scale'].reshape(1, -1) + ffn, norm)
        if 'merge' in stage:
            merge = stage['merge']
            x = ops.merge(_affine(merge['norm'], x), merges[index])
            x = _affine(merge['affine'], _standardise(ops.linear(merge['project'], x), norm))
    return ops.head(params['head'], ops.mean_over_time(x))


def _affine(norm: Tree, x: jax.Array) -> jax.Array:
    return x * norm['scale'].reshape(1, -1) + norm['bias'].reshape(1, -1)


def _standardise(x: jax.Array, norm: ops.Unit) -> jax.Array:
    """`[T, C]`: mean taken off and divided by the length, epsilon included, over the last axis."""
    width = x.shape[-1]
    x = x - x @ jnp.full((width, 1), 1 / width, x.dtype)
    return ops.unit(x, norm, slot=absorb.slot(width))
