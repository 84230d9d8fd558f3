"""Ranges are the true ones, window by window; terms of a sum have their own: a small one is as exact as a large one."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers import quantise
from jax_reparam.deploy import convert, ops
from jax_reparam.graph import flatbuffer
from jax_reparam.quantise import bias_correction, ranges
from jax_reparam.runtime import litert

# The first two features' difference, and the third.
KERNEL = np.array([[1, 0], [-1, 0], [0, 1]], np.float32)
# Those that hold what no other holds, `spread` says what.
NEEDED = (7, 11, 19, 23, 31)

WIDTH = 16
WEIGHTS = np.random.default_rng(1).standard_normal((4, WIDTH, WIDTH)).astype(np.float32) / 4
ONES = np.ones((1, WIDTH), np.float32)


def summed(features):
    return jnp.sum(features[0] @ KERNEL, axis=0, keepdims=True)


@pytest.fixture(scope='module')
def spread():
    windows = np.random.default_rng(0).uniform(-1, 1, (40, 6, 3)).astype(np.float32)
    windows[7] = 5  # the features' greatest, and the logits'
    windows[11, 2] = -6, -6, 0  # the features' least, which shows nowhere else
    windows[19, 3] = 4, -4, 0  # the product's greatest
    windows[23, 3] = -4, 4, 0  # and least
    windows[31] = -2, -2, -1.5  # the logits' least
    return windows


@pytest.fixture(scope='module')
def seen(spread):
    return ranges.measured(convert.to_float32(summed, (1, 6, 3)), spread)


@pytest.fixture(scope='module')
def windows():
    return np.random.default_rng(0).standard_normal((24, 12, WIDTH)).astype(np.float32)


def stream(features, size=0.05, shift=0.0):
    """A residual stream with a small term, and a layer that reads the sum."""
    x = features[0] @ WEIGHTS[0] + ONES
    inner = jax.nn.relu(x @ WEIGHTS[1] + ONES) @ (size * WEIGHTS[2]) + shift * ONES
    return ((x + inner) @ WEIGHTS[3] + ONES).reshape(1, -1)


def ports(model):
    """By operator's place, its name and its output."""
    content = flatbuffer.tree(model)
    found = [flatbuffer.port(content.subgraphs[0].tensors[node.outputs[0]]) for node in content.subgraphs[0].operators]
    return list(zip(flatbuffer.operator_names(content), found, strict=True))


def before(model, name):
    """The output of the linear layer in front of the one operator of a name."""
    found = ports(model)
    [place] = [place for place, (other, _) in enumerate(found) if other == name]
    return next(port for other, port in found[:place][::-1] if other == 'FULLY_CONNECTED')


def test_each_window_is_measured(spread, seen):
    product, logits = spread @ KERNEL, (spread @ KERNEL).sum(axis=1)
    for extreme, name in (('min', 'least'), ('max', 'greatest')):
        expected = [getattr(values, extreme)(axis=tuple(range(1, values.ndim))) for values in (spread, product, logits)]
        found = getattr(seen, name)
        assert len(found) == len(spread)
        for values in expected:
            assert np.isclose(found, values[:, None], atol=1e-5).all(axis=0).any()
        np.testing.assert_array_equal(getattr(seen.of_every(8), name), found[::8])


def test_the_windows_that_span_them_are_all_that_is_needed(spread, seen):
    found = seen.extremes()
    assert set(NEEDED) <= set(found)
    assert (np.diff(found) > 0).all()
    assert len(found) <= 8
    for activations in ('int8', 'int16'):
        assert quantise(summed, spread[found], activations) == quantise(summed, spread, activations)


@pytest.mark.parametrize('window', NEEDED)
def test_none_of_them_can_be_left_out(spread, seen, window):
    found = seen.extremes()
    fewer, all_of_them = (quantise(summed, spread[some]) for some in (found[found != window], found))
    assert ports(fewer) != ports(all_of_them) or flatbuffer.graph(fewer).input != flatbuffer.graph(all_of_them).input


@pytest.mark.parametrize('shift', [0.0, -0.5])
def test_a_small_term_has_its_own_range(windows, shift):
    port = before(quantise(lambda features: stream(features, shift=shift), windows), 'ADD')
    inner = np.maximum((windows @ WEIGHTS[0] + 1) @ WEIGHTS[1] + 1, 0) @ (0.05 * WEIGHTS[2]) + shift
    # All that it holds in float32 fits, and 0 with it.
    expected = [min(inner.min(), 0), max(inner.max(), 0)]
    np.testing.assert_allclose(port.decode(np.array([-128, 127])), expected, atol=port.scale)


def test_with_the_range_of_the_sum_it_would_be_further_off(windows):
    float32 = convert.to_float32(stream, (1, *windows.shape[1:]))
    own = ranges.measured(float32, windows)
    names = [name for name, _ in ports(float32)]
    adds = names.index('ADD')
    term, total = (
        own.tensors.index(int(flatbuffer.tree(float32).subgraphs[0].operators[place].outputs[0]))
        for place in (adds - 1, adds)
    )
    least, greatest = own.least.copy(), own.greatest.copy()
    least[:, term], greatest[:, term] = least[:, total], greatest[:, total]
    expected = np.concatenate([stream(window[None]) for window in windows])
    errors = []
    for some in (own, dataclasses.replace(own, least=least, greatest=greatest)):
        model = bias_correction.corrected(convert.to_int8(ranges.noted(float32, some)), float32, windows)
        errors.append(np.square(litert.load(model, reference=True)(windows) - expected).mean())
    # Of the roundings along the way one is gone (0.876 here).
    assert errors[0] < 0.92 * errors[1]


def test_rows_of_length_1_have_their_own_range_before_their_scale(windows):
    def function(features):
        y = ops.normalise(features[0] @ WEIGHTS[0] + ONES, 'rsqrt') * np.linspace(3, 5, WIDTH, dtype=np.float32)[None]
        return (y @ WEIGHTS[3] + ONES).reshape(1, -1)

    first, second = (port for name, port in ports(quantise(function, windows)) if name == 'MUL')
    # From -1 to 1 at most.
    assert first.scale <= 2 / 255
    assert second.scale > 2 * first.scale


@pytest.mark.parametrize(
    ('added', 'equal'), [(np.full((1, 1, 1), 0.25), True), (np.linspace(-1, 1, 6)[None, None], False)]
)
def test_a_number_that_is_added_changes_no_step(windows, added, equal):
    def function(features):
        x = (features[0] @ WEIGHTS[0] + ONES).reshape(2, 6, WIDTH)
        return (jax.nn.softmax(x @ jnp.swapaxes(x, 1, 2) + np.float32(added)) @ x).reshape(1, -1)

    content = flatbuffer.tree(quantise(function, windows))
    add = content.subgraphs[0].operators[flatbuffer.operator_names(content).index('ADD')]
    source, total = (flatbuffer.port(content.subgraphs[0].tensors[end[0]]) for end in (add.inputs, add.outputs))
    assert (source.scale == total.scale and source.zero_point == total.zero_point) == equal


def test_what_is_joined_has_one_range(windows):
    """As its kernel wants it, also where a part is a term of a sum."""

    def function(features):
        x = features[0] @ WEIGHTS[0] + ONES
        inner = jax.nn.relu(x @ WEIGHTS[1] + ONES) @ (0.05 * WEIGHTS[2])
        both = jnp.concatenate([(x + inner) @ WEIGHTS[3] + ONES, inner.reshape(-1, WIDTH)[::-1]])
        return both.reshape(1, -1)

    content = flatbuffer.tree(quantise(function, windows))
    join = content.subgraphs[0].operators[flatbuffer.operator_names(content).index('CONCATENATION')]
    scales = {flatbuffer.port(content.subgraphs[0].tensors[tensor]).scale for tensor in (*join.inputs, *join.outputs)}
    assert len(scales) == 1
