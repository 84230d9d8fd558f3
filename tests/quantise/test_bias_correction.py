"""Bias correction: channels' means come to those of the float32 model, nothing else changes."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from helpers import quantise
from jax_reparam.deploy import convert
from jax_reparam.graph import flatbuffer
from jax_reparam.quantise import bias_correction
from jax_reparam.runtime import litert


@pytest.fixture(scope='module')
def windows():
    return np.random.default_rng(0).uniform(0, 3, (bias_correction.WINDOWS, 6, 8)).astype(np.float32)


@pytest.fixture(scope='module')
def function():
    """Three layers whose kernels have one entry far larger than the rest, so that the rest is rounded badly."""
    rng = np.random.default_rng(1)

    def kernel(width_in, width_out):
        values = rng.standard_normal((width_in, width_out)).astype(np.float32) / width_in
        values[0, 0] = 1
        return values

    kernels, bias = [kernel(8, 16), kernel(16, 16), kernel(16, 3)], rng.standard_normal(16).astype(np.float32)

    def apply(x):
        for width in kernels[:2]:
            x = jax.nn.relu(x[0] @ width + bias.reshape(1, -1))[None]
        return x.mean(axis=1) @ kernels[2] + bias[:3].reshape(1, -1)

    return apply


@pytest.fixture(scope='module', params=['int8', 'int16'])
def forms(request, function, windows):
    """(quantised without correction, with it)"""
    plain = quantise(function, windows, request.param)
    return plain, bias_correction.corrected(plain, convert.to_float32(function, (1, *windows.shape[1:])), windows)


def test_the_mean_error_vanishes(function, windows, forms):
    expected = np.concatenate([function(window[None]) for window in windows])
    errors = [litert.load(model, reference=True)(windows) - expected for model in forms]
    before, after = (np.abs(error.mean(axis=0)).max() for error in errors)
    assert before > 2 * after
    assert np.square(errors[1]).sum() < np.square(errors[0]).sum()


def test_the_graph_and_all_other_constants_stay(forms):
    plain, corrected = (flatbuffer.tree(model) for model in forms)
    assert flatbuffer.operator_names(plain) == flatbuffer.operator_names(corrected)
    for one, other in zip(plain.subgraphs[0].operators, corrected.subgraphs[0].operators, strict=True):
        for position, (a, b) in enumerate(zip(one.inputs, other.inputs, strict=True)):
            data = [tree.buffers[tree.subgraphs[0].tensors[t].buffer].data for tree, t in ((plain, a), (corrected, b))]
            if position != 2:
                assert data[0] is None or bytes(data[0]) == bytes(data[1])


def test_another_graph_is_refused(forms, windows):
    other = convert.to_float32(lambda x: x.mean(axis=1), (1, 6, 8))
    with pytest.raises(ValueError, match='expected the operators of the float32 graph'):
        bias_correction.corrected(forms[0], other, windows)
