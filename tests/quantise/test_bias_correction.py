"""Bias correction: channels' means come to those of the float32 model, nothing else changes."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from helpers import float32
from jax_reparam.quantise import bias_correction
from jax_reparam.quantise.quantise import Calibration, quantise
from jax_reparam.runtime import observe


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


@pytest.fixture(scope='module', params=[8, 16])
def graphs(request, function, windows):
    """(quantised without correction, with it)"""
    calibration, bits = Calibration(float32(function, windows.shape), windows), {'': request.param}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bias_correction, 'correct', lambda *_: None)
        plain = quantise(calibration, bits).graph
    return plain, quantise(calibration, bits).graph


def test_the_mean_error_vanishes(function, windows, graphs):
    expected = np.concatenate([function(window[None]) for window in windows])
    errors = [observe.logits(graph, windows) - expected for graph in graphs]
    before, after = (np.abs(error.mean(axis=0)).max() for error in errors)
    assert before > 2 * after
    assert np.square(errors[1]).sum() < np.square(errors[0]).sum()


def test_the_graph_and_all_other_constants_stay(graphs):
    changed = 0
    for one, other in zip(*(graph.nodes for graph in graphs), strict=True):
        assert one.op == other.op
        for place, (a, b) in enumerate(zip(one.reads, other.reads, strict=True)):
            assert a.port == b.port
            if a.constant is not None and not np.array_equal(a.values, b.values):
                assert place == 2
                changed += 1
    assert changed == 3
