"""ConvTransformer as it is exported."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import named_scope as scope

from jax_reparam.config import ConvTransformerConfig
from jax_reparam.deploy import absorb, ops
from jax_reparam.layers import sinusoids
from jax_reparam.reparam import Params


def prepare(config: ConvTransformerConfig, variables: Params, frames: int) -> Params:
    """See `deploy.prepare`. Biases and positions of the projection become one constant `[T', D]`."""
    params = variables['params']
    positions = sinusoids(np.arange(math.ceil(frames / 4)), config.width)
    project = params['stem']['project']
    placed = {**project, 'bias': project['bias'][None] + jnp.asarray(positions, project['bias'].dtype)}
    head = params['head']
    reader, hidden = absorb.pooling(params['norm'], head['hidden_0'], len(positions))
    return {
        'stem': {**convolutions(variables, deltas=config.deltas), 'project': absorb.write(placed, first=True)},
        'layers': [_layer(config, params[f'layer_{index}']) for index in range(config.layers)],
        'pool': reader,
        'head': {**head, 'hidden_0': hidden},
    }


def convolutions(variables: Params, *, deltas: bool) -> Params:
    """The stem's convolutions, each with the batch normalisation behind it, the first with the `deltas` before it."""
    stem, statistics = variables['params']['stem'], variables['batch_stats']['stem']
    layers = {
        f'conv_{i}': absorb.with_batch_norm(stem[f'conv_{i}'], stem[f'conv_norm_{i}'], statistics[f'conv_norm_{i}'])
        for i in range(2)
    }
    return layers | {'conv_0': absorb.with_deltas(layers['conv_0'])} if deltas else layers


def attention(norm: Params, layers: Params, heads: int) -> Params:
    """The projections of an attention, whose input is a normalisation of the stream, and which is added to it."""
    scale = (len(norm['scale']) // heads) ** -0.5
    value, out = absorb.without_value_bias(absorb.read(norm, layers['value']), layers['out'])
    return {
        'query': absorb.read(norm, absorb.scaled(layers['query'], scale)),
        'key': absorb.read(norm, layers['key']),
        'value': value,
        'out': absorb.write(out),
    }


def _layer(config: ConvTransformerConfig, layer: Params) -> Params:
    return {
        **attention(layer['attention_norm'], layer['attention'], config.heads),
        'ffn_in': absorb.read(layer['ffn_norm'], layer['ffn']['ffn_in']),
        'ffn_out': absorb.write(layer['ffn']['ffn_out']),
    }


def apply(config: ConvTransformerConfig, params: Params, features: jax.Array) -> jax.Array:
    """See `deploy.apply`."""
    with scope('stem'):
        x = ops.subsample(params['stem'], features)
    with scope('front'):
        x = ops.linear(params['stem']['project'], x)
    for index, layer in enumerate(params['layers']):
        with scope('layers'), scope(str(index)):
            with scope('norm') if index else scope('front'):
                y = ops.normalise(x)
            with scope('attention'):
                y = ops.linear(layer['out'], ops.attention(layer, y, config.heads))
            with scope('sum'):
                x = x + y
            with scope('norm'):
                y = ops.normalise(x)
            with scope('ffn'):
                y = ops.linear(layer['ffn_out'], jax.nn.relu(ops.linear(layer['ffn_in'], y)))
            with scope('sum'):
                x = x + y
    with scope('norm'):
        x = ops.normalise(x)
    with scope('head'):
        return ops.head(params['head'], ops.pool(params['pool'], x))


def widths(config: ConvTransformerConfig, frames: int, fast: bool) -> dict[str, int]:
    """See `deploy.widths`.

    The weights of one layer lie in memory at a time, so each layer more makes wide ones cheaper: in two layers (XS) the
    time that they save is not worth their arena, in four (S) it is.
    """
    wide = 16 if fast or config.layers > 2 else 8
    return ops.widths(config.layers, softmax=wide, sums=wide)
