"""Absorbing normalisations: the layers around them compute what they computed."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from jax_reparam.deploy import absorb
from jax_reparam.layers import EPSILON


def normalised(x):
    d = x - x.mean(axis=-1, keepdims=True)
    return d / np.sqrt((d * d).mean(axis=-1, keepdims=True) + EPSILON)


def linear(layer, x):
    return x @ np.asarray(layer['kernel']) + np.asarray(layer['bias'])


def layer_of(rng, width_in, width_out):
    return {'kernel': rng.standard_normal((width_in, width_out)), 'bias': rng.standard_normal(width_out)}


def norm_of(rng, width):
    return {'scale': rng.standard_normal(width), 'bias': rng.standard_normal(width)}


@pytest.mark.parametrize('width', [1, 2, 7, 64])
def test_basis_is_orthonormal_and_of_mean_0(width):
    basis = absorb.basis(width)
    assert basis.shape == (width, width - 1)
    np.testing.assert_allclose(basis.T @ basis, np.eye(width - 1), rtol=0, atol=1e-14)
    np.testing.assert_allclose(basis.sum(axis=0), 0, rtol=0, atol=1e-13)


@pytest.mark.parametrize('size', [1.0, 1e-3])
def test_a_stream_written_normalised_and_read_is_what_it_was(rng, size):
    """Two writers, the second added to the first; values as small as epsilon's root show that epsilon counts."""
    x, y = rng.standard_normal((5, 4)), rng.standard_normal((5, 3))
    first, second = layer_of(rng, 4, 6), layer_of(rng, 3, 6)
    first, second = ({name: size * leaf for name, leaf in layer.items()} for layer in (first, second))
    norm, reader = norm_of(rng, 6), layer_of(rng, 6, 2)
    stream = linear(first, x) + linear(second, y)
    expected = linear(reader, normalised(stream) * norm['scale'] + norm['bias'])
    with jax.enable_x64(True):
        got = linear(absorb.write(first, first=True), x) + linear(absorb.write(second), y)
        ready = absorb.read(norm, reader)
    np.testing.assert_allclose(got[:, -1], np.sqrt(6 * EPSILON), rtol=1e-12)
    got = got / np.linalg.norm(got, axis=-1, keepdims=True)
    np.testing.assert_allclose(linear(ready, got), expected, rtol=0, atol=1e-12)


def test_a_bias_may_differ_by_token(rng):
    x, writer = (
        rng.standard_normal((5, 4)),
        {'kernel': rng.standard_normal((4, 6)), 'bias': rng.standard_normal((5, 6))},
    )
    with jax.enable_x64(True):
        together = linear(absorb.write(writer, first=True), x)
        for token in range(5):
            alone = absorb.write({**writer, 'bias': writer['bias'][token]}, first=True)
            np.testing.assert_allclose(together[token], linear(alone, x[token]), rtol=0, atol=1e-12)


def test_scale_and_bias_go_into_a_reader(rng):
    x, norm, reader = rng.standard_normal((5, 6)), norm_of(rng, 6), layer_of(rng, 6, 3)
    with jax.enable_x64(True):
        got = linear(absorb.read_affine(norm, reader), x)
    np.testing.assert_allclose(got, linear(reader, x * norm['scale'] + norm['bias']), rtol=0, atol=1e-12)


def test_scaled_outputs(rng):
    x, layer = rng.standard_normal((5, 4)), layer_of(rng, 4, 3)
    np.testing.assert_allclose(linear(absorb.scaled(layer, 0.25), x), linear(layer, x) / 4, rtol=0, atol=1e-15)


def test_a_value_bias_goes_through_attention(rng):
    x, value, out = rng.standard_normal((5, 6)), layer_of(rng, 6, 6), layer_of(rng, 6, 4)
    weights = rng.uniform(size=(5, 5))
    weights /= weights.sum(axis=-1, keepdims=True)
    expected = linear(out, weights @ linear(value, x))
    with jax.enable_x64(True):
        value, out = absorb.without_value_bias(value, out)
    np.testing.assert_array_equal(value['bias'], 0)
    np.testing.assert_allclose(linear(out, weights @ linear(value, x)), expected, rtol=0, atol=1e-12)


def test_the_mean_of_a_sum_is_an_input_of_what_is_added(rng):
    """residual + layer(x), its mean taken off, where the layer is given the residual's mean, 3 times as large."""
    x, residual, layer = rng.standard_normal((5, 4)), rng.standard_normal((5, 6)), layer_of(rng, 4, 6)
    expected = residual + linear(layer, x)
    expected -= expected.mean(axis=-1, keepdims=True)
    with jax.enable_x64(True):
        ready = absorb.less(absorb.centred(layer), 1 / 3)
    got = residual + linear(ready, np.concatenate([x, 3 * residual.mean(axis=-1, keepdims=True)], axis=-1))
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12)


def test_batch_norm_goes_into_the_convolution(rng):
    x, kernel = rng.standard_normal((20, 9)), rng.standard_normal((3, 3, 1, 4))
    layer = {'kernel': kernel, 'bias': rng.standard_normal(4)}
    norm, statistics = norm_of(rng, 4), {'mean': rng.standard_normal(4), 'var': rng.uniform(0.1, 2, 4)}
    y = x @ kernel.reshape(9, 4) + layer['bias']
    expected = (y - statistics['mean']) / np.sqrt(statistics['var'] + EPSILON) * norm['scale'] + norm['bias']
    with jax.enable_x64(True):
        got = absorb.with_batch_norm(layer, norm, statistics)
    assert got['kernel'].shape == kernel.shape
    got = {'kernel': np.asarray(got['kernel']).reshape(9, 4), 'bias': got['bias']}
    np.testing.assert_allclose(linear(got, x), expected, rtol=0, atol=1e-12)
