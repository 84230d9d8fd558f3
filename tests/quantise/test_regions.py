"""Parts of a graph that may have 16 bits: where they begin and end. What they are used for: test_wide.py."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers import quantise
from jax_reparam.deploy import ops
from jax_reparam.graph import flatbuffer
from jax_reparam.quantise.regions import Regions

WIDTH, TIME, HEADS = 8, 24, 2


def layer(seed):
    rng = np.random.default_rng(seed)
    return {'kernel': rng.standard_normal((WIDTH, WIDTH)).astype(np.float32) / 3, 'bias': np.ones(WIDTH, np.float32)}


LAYER = {name: layer(seed) for seed, name in enumerate(('query', 'key', 'value'))}


@pytest.fixture(scope='module')
def windows():
    return np.random.default_rng(0).standard_normal((12, TIME, WIDTH)).astype(np.float32)


def normalised(x, norm='rsqrt'):
    return ops.normalise(ops.linear(LAYER['key'], x[0]), norm)


def merged(x, behind='rsqrt'):
    """A layer and a normalisation, a merge of tokens, attention with a residual, a merge, a mean and a layer."""
    x = ops.merge(normalised(x), 4)
    x = ops.normalise(x + ops.attention(LAYER, x, HEADS), behind)
    return ops.linear(LAYER['query'], ops.mean_over_time(ops.merge(x, 3)))


def found(function, windows):
    content = flatbuffer.tree(quantise(function, windows))
    return Regions(content), flatbuffer.operator_names(content)


def test_a_tail_begins_behind_a_merge(windows):
    """Of the second merge all that follows is the head."""
    regions, names = found(merged, windows)
    assert regions.tails() == [names.index('DEPTHWISE_CONV_2D') + 1]


@pytest.mark.parametrize(
    'function',
    [
        # No 16-bit kernel.
        lambda x: merged(x, behind='l2'),
        # What was there before passes beside what was merged.
        lambda x: (merged(x) + ops.linear(LAYER['query'], x[0])[:1]).reshape(1, -1),
        # Not fewer values.
        lambda x: ops.merge(jnp.tile(normalised(x), 2), 2).reshape(1, -1),
        # No normalisation before.
        lambda x: jax.nn.softmax(ops.merge(ops.linear(LAYER['key'], x[0]), 4)).reshape(1, -1),
    ],
    ids=['kernel', 'beside', 'as many', 'front'],
)
def test_no_tail_begins_elsewhere(windows, function):
    assert found(function, windows)[0].tails() == []


def test_of_attention_the_residual_is_left_and_the_sum(windows):
    scale = np.random.default_rng(6).uniform(0.5, 2, (1, WIDTH)).astype(np.float32)

    def function(x):
        x = normalised(x)
        return (x * scale + ops.attention(LAYER, x * scale + LAYER['key']['kernel'][:1], HEADS)).reshape(1, -1)

    regions, names = found(function, windows)
    # Both read one product: what begins as that of the scale, and ends as the sum.
    start = max(place for place, name in enumerate(names) if name == 'MUL')
    positions, end = (place for place, name in enumerate(names) if name == 'ADD')
    assert start < positions
    assert regions.but_attention() == {*range(start + 1), *range(end, len(names))}


def test_without_attention_nothing_is_left_out(windows):
    regions, names = found(lambda x: ops.linear(LAYER['value'], normalised(x)).reshape(1, -1), windows)
    assert regions.but_attention() == set(range(len(names)))
