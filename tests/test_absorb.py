"""Absorbing normalisations: the layers around them compute what they computed."""

from __future__ import annotations

import jax
import numpy as np

from jax_reparam import absorb


def normalised(x):
    d = x - x.mean(axis=-1, keepdims=True)
    return d / np.sqrt((d * d).mean(axis=-1, keepdims=True) + 1e-5)


def linear(layer, x):
    return x @ np.asarray(layer['kernel']) + np.asarray(layer['bias'])


def test_readers_take_scale_and_bias(rng):
    x = rng.standard_normal((5, 6))
    norm = {'scale': rng.standard_normal(6), 'bias': rng.standard_normal(6)}
    readers = {
        name: {'kernel': rng.standard_normal((6, width)), 'bias': rng.standard_normal(width)}
        for name, width in (('query', 4), ('value', 6))
    }
    with jax.enable_x64(True):
        left, moved = absorb.into_readers(norm, readers)
    np.testing.assert_array_equal(left['scale'], np.ones(6))
    np.testing.assert_array_equal(left['bias'], np.zeros(6))
    for name, layer in readers.items():
        expected = linear(layer, normalised(x) * norm['scale'] + norm['bias'])
        np.testing.assert_allclose(linear(moved[name], normalised(x)), expected, rtol=0, atol=1e-12)


def test_centred_writers_leave_the_normalisation_as_it_was(rng):
    x = rng.standard_normal((5, 4))
    writer = {'kernel': rng.standard_normal((4, 6)), 'bias': rng.standard_normal(6)}
    with jax.enable_x64(True):
        got = linear(absorb.centred(writer), x)
    np.testing.assert_allclose(got.mean(axis=-1), 0, rtol=0, atol=1e-12)
    np.testing.assert_allclose(normalised(got), normalised(linear(writer, x)), rtol=0, atol=1e-12)
    assert not np.allclose(got, linear(writer, x))
