"""What is watched in a graph: the windows that span the ranges of its tensors."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from jax_reparam.export import convert, flatbuffer, twin

# The first two features' difference, and the third.
KERNEL = np.array([[1, 0], [-1, 0], [0, 1]], np.float32)
# Those that hold what no other holds, `windows` says what.
NEEDED = (7, 11, 19, 23, 31)


def function(x):
    return jnp.sum(x[0] @ KERNEL, axis=0, keepdims=True)


@pytest.fixture(scope='module')
def windows():
    windows = np.random.default_rng(0).uniform(-1, 1, (40, 6, 3)).astype(np.float32)
    windows[7] = 5  # the features' greatest, and the logits'
    windows[11, 2] = -6, -6, 0  # the features' least, which shows nowhere else
    windows[19, 3] = 4, -4, 0  # the product's greatest
    windows[23, 3] = -4, 4, 0  # and least
    windows[31] = -2, -2, -1.5  # the logits' least
    return windows


def test_they_are_all_that_is_needed(windows):
    float32 = convert.to_float32(function, (1, 6, 3))
    found = twin.extremes(float32, windows)
    assert set(NEEDED) <= set(found)
    assert (np.diff(found) > 0).all()
    assert len(found) <= 8
    assert convert.quantise(function, windows[found]) == convert.quantise(function, windows)


@pytest.mark.parametrize('window', NEEDED)
def test_none_can_be_left_out(windows, window):
    found = twin.extremes(convert.to_float32(function, (1, 6, 3)), windows)
    fewer = convert.quantise(function, windows[found[found != window]])
    scales = [
        [tensor.quantization.scale for tensor in flatbuffer.tree(model).subgraphs[0].tensors]
        for model in (fewer, convert.quantise(function, windows[found]))
    ]
    assert str(scales[0]) != str(scales[1])
