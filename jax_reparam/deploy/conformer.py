"""Conformer as it is exported."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import named_scope as scope

from jax_reparam.config import ConformerConfig
from jax_reparam.deploy import absorb, conv_transformer, ops
from jax_reparam.layers import sinusoids
from jax_reparam.reparam import Params


def prepare(config: ConformerConfig, variables: Params, frames: int) -> Params:
    """See `deploy.prepare`. A block's last normalisation becomes one linear layer into the next block's stream."""
    params, statistics = variables['params'], variables['batch_stats']
    tokens = math.ceil(frames / 4)
    names = [f'layer_{index}' for index in range(config.layers)]
    blocks = [_block(config, params[name], statistics[name], tokens) for name in names]
    identity = {'kernel': jnp.eye(config.width), 'bias': jnp.zeros(config.width)}
    for name, block in zip(names[:-1], blocks, strict=False):
        block['relay'] = absorb.read(params[name]['norm'], absorb.write(identity, first=True))
    head = params['head']
    reader, hidden = absorb.pooling(params[names[-1]]['norm'], head['hidden_0'], tokens)
    return {
        'stem': {
            **conv_transformer.convolutions(variables, deltas=config.deltas),
            'project': absorb.write(params['stem']['project'], first=True),
        },
        'blocks': blocks,
        'pool': reader,
        'head': {**head, 'hidden_0': hidden},
    }


def _block(config: ConformerConfig, block: Params, statistics: Params, tokens: int) -> Params:
    conv = block['conv']
    value, gate = absorb.split(conv['pointwise_in'], 2)
    return {
        'ffn_0': _ffn(block['ffn_0_norm'], block['ffn_0']),
        'attention': _attention(config, block['attention_norm'], block['attention'], tokens),
        'conv': {
            'value': absorb.read(block['conv_norm'], value),
            'gate': absorb.read(block['conv_norm'], gate),
            'depthwise': absorb.with_batch_norm(
                conv['depthwise'], conv['batch_norm'], statistics['conv']['batch_norm']
            ),
            'out': absorb.write(conv['pointwise_out']),
        },
        'ffn_1': _ffn(block['ffn_1_norm'], block['ffn_1']),
    }


def _ffn(norm: Params, ffn: Params) -> Params:
    return {'in': absorb.read(norm, ffn['ffn_in']), 'out': absorb.write(absorb.scaled(ffn['ffn_out'], 0.5))}


def _attention(config: ConformerConfig, norm: Params, attention: Params, tokens: int) -> Params:
    if config.positions == 'none':
        return conv_transformer.attention(norm, attention, config.heads)
    query = {**attention['query'], 'bias': attention['query']['bias'] + attention['content_bias'].reshape(-1)}
    ready = conv_transformer.attention(norm, {**attention, 'query': query}, config.heads)
    return {**ready, **_positions(attention, ready, tokens)}


def _positions(attention: Params, ready: Params, tokens: int) -> Params:
    """The table of relative positions, and queries and keys that meet it; queries have the content bias."""
    u, v = attention['content_bias'], attention['position_bias']
    heads, depth = u.shape
    kernel = attention['position']['kernel']
    distances = jnp.asarray(sinusoids(np.arange(tokens - 1, -tokens, -1), len(kernel)), kernel.dtype)
    table = jnp.matmul(distances, kernel, precision=jax.lax.Precision.HIGHEST)
    table = table.reshape(-1, heads, depth).transpose(1, 0, 2)
    # (q + v) r = (q + u) r + (v - u) r: a constant at the end of each query meets the second term, and keys have a zero
    # there. So one query serves both products. The constant is the least for which the table's range stays as it is.
    term = jnp.einsum('hpd,hd->hp', table, (v - u) * depth**-0.5, precision=jax.lax.Precision.HIGHEST)
    constant = jnp.abs(term).max(axis=-1) / jnp.abs(table).max()
    constant = jnp.where(constant > 0, constant, 1)
    return {
        'query': _one_more(ready['query'], constant),
        'key': _one_more(ready['key'], jnp.zeros_like(constant)),
        'positions': jnp.concatenate([table, (term / constant[:, None])[..., None]], axis=-1),
    }


def _one_more(layer: Params, constants: jax.Array) -> Params:
    """A projection `[D, H d]` with one output more for each head, a constant of `[H]`: `[D, H (d + 1)]`."""
    heads = len(constants)
    kernel, bias = (leaf.reshape(*leaf.shape[:-1], heads, -1) for leaf in (layer['kernel'], layer['bias']))
    kernel = jnp.pad(kernel, ((0, 0), (0, 0), (0, 1))).reshape(len(kernel), -1)
    return {'kernel': kernel, 'bias': jnp.concatenate([bias, constants[:, None]], axis=-1).reshape(-1)}


def apply(config: ConformerConfig, params: Params, features: jax.Array) -> jax.Array:
    """See `deploy.apply`."""
    activation = ops.ACTIVATIONS[config.activation]
    # Scores by distance are more than scores by key, and lie in memory twice: half of the queries at a time.
    blocks = 2 if config.positions == 'relative' else 1

    def normalised(x: jax.Array, name: str = 'norm') -> jax.Array:
        with scope(name):
            return ops.normalise(x)

    def added(x: jax.Array, y: jax.Array) -> jax.Array:
        with scope('sum'):
            return x + y

    def ffn(layer: Params, y: jax.Array) -> jax.Array:
        with scope('ffn'):
            return ops.linear(layer['out'], activation(ops.linear(layer['in'], y)))

    with scope('stem'):
        x = ops.subsample(params['stem'], features)
    with scope('front'):
        x = ops.linear(params['stem']['project'], x)
    for index, block in enumerate(params['blocks']):
        attention, conv = block['attention'], block['conv']
        with scope('layers'), scope(str(index)):
            x = added(x, ffn(block['ffn_0'], normalised(x, 'norm' if index else 'front')))
            y = normalised(x)
            with scope('attention'):
                y = ops.linear(attention['out'], ops.attention(attention, y, config.heads, blocks=blocks))
            x = added(x, y)
            y = normalised(x)
            with scope('conv'):
                y = ops.gated(ops.linear(conv['value'], y), ops.linear(conv['gate'], y))
                y = ops.linear(conv['out'], activation(ops.depthwise(conv['depthwise'], y)))
            x = added(x, y)
            x = normalised(added(x, ffn(block['ffn_1'], normalised(x))))
            if 'relay' in block:
                with scope('sum'):
                    x = ops.linear(block['relay'], x)
    with scope('head'):
        return ops.head(params['head'], ops.pool(params['pool'], x))


def widths(config: ConformerConfig, frames: int, fast: bool) -> dict[str, int]:
    """See `deploy.widths`. Half of the queries lie in memory at a time, so wide weights pay from the first layer on.

    Wide sums take 4 % more arena in two narrow layers (XS), and 12 % in S.
    """
    return ops.widths(config.layers, softmax=16, sums=16 if config.layers <= 2 else 8)
