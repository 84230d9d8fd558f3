"""Ranges are the true ones, of each tensor by itself."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from helpers import float32
from jax_reparam.quantise import ranges

# The first two features' difference, and the third.
KERNEL = np.array([[1, 0], [-1, 0], [0, 1]], np.float32)


def summed(features):
    return jnp.sum(features[0] @ KERNEL, axis=0, keepdims=True)


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
