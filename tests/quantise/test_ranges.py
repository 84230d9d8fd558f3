"""Ranges are the true ones; terms of a sum have their own: a small one is as exact as a large one."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers import float32
from jax_reparam.quantise import ranges
from jax_reparam.quantise.quantise import Calibration, quantise
from jax_reparam.runtime import observe

# The first two features' difference, and the third.
KERNEL = np.array([[1, 0], [-1, 0], [0, 1]], np.float32)
WIDTH = 16
WEIGHTS = np.random.default_rng(1).standard_normal((4, WIDTH, WIDTH)).astype(np.float32) / 4
ONES = np.ones((1, WIDTH), np.float32)


def summed(features):
    return jnp.sum(features[0] @ KERNEL, axis=0, keepdims=True)


@pytest.fixture(scope='module')
def windows():
    return np.random.default_rng(0).standard_normal((24, 12, WIDTH)).astype(np.float32)


def stream(features):
    """A residual stream with a small term, and a layer that reads the sum."""
    x = features[0] @ WEIGHTS[0] + ONES
    inner = jax.nn.relu(x @ WEIGHTS[1] + ONES) @ (0.05 * WEIGHTS[2])
    return ((x + inner) @ WEIGHTS[3] + ONES).reshape(1, -1)


@pytest.mark.parametrize('count', [1, 3, 40])
def test_they_are_the_least_and_the_greatest_of_all_windows(count):
    """An average would forget what one window holds; several interpreters share the windows."""
    spread = np.random.default_rng(0).uniform(-1, 1, (count, 6, 3)).astype(np.float32)
    spread[count // 2, 2] = -6, -6, 0
    spread[count // 3, 3] = 4, -4, 0
    graph = float32(summed, spread.shape)
    found = ranges.measured(graph, spread)
    assert set(found) == {tensor for tensor in graph.used() if tensor.constant is None}
    product, logits = spread @ KERNEL, (spread @ KERNEL).sum(axis=1)
    [layer] = [node for node in graph.nodes if node.op == 'FULLY_CONNECTED']
    for tensor, values in ((graph.inputs[0], spread), (layer.output, product), (graph.outputs[0], logits)):
        assert found[tensor] == pytest.approx((values.min(), values.max()), abs=1e-5)


def test_a_small_term_has_its_own_range(windows):
    """With that of the sum, which TensorFlow's calibration gives it, the sum would be further off."""
    graph = float32(stream, windows.shape)
    [add] = [node for node in graph.nodes if node.op == 'ADD']
    calibrations = own, shared = [Calibration(graph, windows) for _ in range(2)]
    spans = {tensor: own.ranges[tensor][1] - own.ranges[tensor][0] for tensor in (*add.reads, add.output)}
    term = min(spans, key=spans.get)
    assert spans[term] < 0.2 * spans[add.output]
    shared.ranges = {**own.ranges, term: own.ranges[add.output]}
    expected = [seen[add.output] for seen in observe.observe(graph, [add.output], windows)]
    errors = []
    for calibration in calibrations:
        made = quantise(calibration, {'': 8})
        [output] = [node.output for node, origin in made.origins.items() if origin is add]
        seen = [values[output] for values in observe.observe(made.graph, [output], windows)]
        errors.append(np.square(np.subtract(seen, expected)).mean())
    # Of the roundings along the way one is gone (0.82 here).
    assert errors[0] < 0.92 * errors[1], errors[0] / errors[1]
