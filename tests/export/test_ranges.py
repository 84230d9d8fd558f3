"""Terms of a sum have their own ranges: a small one is as exact as a large one, and nothing else changes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_reparam.deploy import ops
from jax_reparam.export import biases, convert, flatbuffer, interpret, ranges

WIDTH = 16
WEIGHTS = np.random.default_rng(1).standard_normal((4, WIDTH, WIDTH)).astype(np.float32) / 4
ONES = np.ones((1, WIDTH), np.float32)


@pytest.fixture(scope='module')
def windows():
    return np.random.default_rng(0).standard_normal((24, 12, WIDTH)).astype(np.float32)


def stream(features, size=0.05, shift=0.0):
    """A residual stream with a small term, and a layer that reads the sum."""
    x = features[0] @ WEIGHTS[0] + ONES
    inner = jax.nn.relu(x @ WEIGHTS[1] + ONES) @ (size * WEIGHTS[2]) + shift * ONES
    return ((x + inner) @ WEIGHTS[3] + ONES).reshape(1, -1)


def made(function, windows):
    """(as the converter leaves it, with own ranges, the same in float32)"""
    float32 = convert.to_float32(function, (1, *windows.shape[1:]))
    plain = convert.quantise(function, windows)
    return plain, ranges.of_terms(plain, float32, windows), float32


def scales(model):
    """By operator's place, its output's scale and zero point."""
    content = flatbuffer.tree(model)
    ports = [flatbuffer.port(content.subgraphs[0].tensors[node.outputs[0]]) for node in content.subgraphs[0].operators]
    return list(zip(flatbuffer.operator_names(content), [(port.scale, port.zero_point) for port in ports], strict=True))


@pytest.mark.parametrize('shift', [0.0, -0.5])
def test_a_small_term_has_its_own_range(windows, shift):
    plain, own, _ = made(lambda features: stream(features, shift=shift), windows)
    before, after = scales(plain), scales(own)
    [changed] = [place for place, pair in enumerate(zip(before, after, strict=True)) if pair[0] != pair[1]]
    name, (scale, zero_point) = after[changed]
    assert name == 'FULLY_CONNECTED'
    assert before[changed + 1][0] == 'ADD'
    assert scale < before[changed][1][0] / 3
    # All that it holds in float32 fits, and 0 with it.
    inner = np.maximum((windows @ WEIGHTS[0] + 1) @ WEIGHTS[1] + 1, 0) @ (0.05 * WEIGHTS[2]) + shift
    np.testing.assert_allclose(scale * (-128 - zero_point), min(inner.min(), 0), atol=scale)
    np.testing.assert_allclose(scale * (127 - zero_point), max(inner.max(), 0), atol=scale)


def test_the_sum_comes_nearer(windows):
    plain, own, float32 = made(stream, windows)
    expected = np.concatenate([stream(window[None]) for window in windows])
    errors = [
        np.square(interpret.load(biases.corrected(model, float32, windows), reference=True)(windows) - expected).mean()
        for model in (plain, own)
    ]
    # Of the roundings along the way one is gone (0.876 here).
    assert errors[1] < 0.92 * errors[0]


def test_rows_of_length_1_have_their_own_range_before_their_scale(windows):
    """The converter gives two products, one behind the other, the range of the second."""

    def function(features):
        y = ops.unit(features[0] @ WEIGHTS[0] + ONES, 'rsqrt') * np.linspace(3, 5, WIDTH, dtype=np.float32)[None]
        return (y @ WEIGHTS[3] + ONES).reshape(1, -1)

    plain, own, _ = made(function, windows)
    before, after = scales(plain), scales(own)
    [changed] = [place for place, pair in enumerate(zip(before, after, strict=True)) if pair[0] != pair[1]]
    assert [name for name, _ in after[changed : changed + 2]] == ['MUL', 'MUL']
    assert before[changed][1] == before[changed + 1][1]
    # From -1 to 1 at most.
    assert after[changed][1][0] <= 2 / 255 < before[changed][1][0]


def test_a_layer_that_others_read_keeps_its_range(windows):
    """Of what is reshaped, too, steps have to be the same before and behind."""

    def function(features):
        x = features[0] @ WEIGHTS[0] + ONES
        inner = jax.nn.relu(x @ WEIGHTS[1] + ONES) @ (0.05 * WEIGHTS[2])
        both = jnp.concatenate([(x + inner) @ WEIGHTS[3] + ONES, inner.reshape(-1, WIDTH)[::-1]])
        return both.reshape(1, -1)

    plain, own, _ = made(function, windows)
    assert scales(own) == scales(plain)


def test_a_term_nearly_as_wide_as_the_sum_keeps_its_range(windows):
    """A constant that is added to it, in the same steps, is added exactly: so for the sum of a row's squares."""
    plain, own, _ = made(lambda features: stream(features, size=1.0), windows)
    assert scales(own) == scales(plain)
