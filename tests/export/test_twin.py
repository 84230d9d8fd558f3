"""What is watched in a graph: the windows that span the ranges of its tensors."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from jax_reparam.export import convert, flatbuffer, twin


def function(x):
    """One inner tensor is greatest where the features, and the logits, are neither least nor greatest."""
    difference = x[0, :, :1] - x[0, :, 1:2]
    return (jax.nn.relu(difference) * 0.01 + x[0, :, 2:]).sum(axis=0, keepdims=True)


@pytest.fixture(scope='module')
def windows():
    windows = np.random.default_rng(0).uniform(-1, 1, (40, 6, 3)).astype(np.float32)
    windows[7] = 5  # the features' greatest, and the logits'
    windows[11, 2, 2] = -6  # the features' least
    windows[19, 3] = 4, -4, 0  # the difference's greatest
    windows[31] = -2, -2, -1.5  # the logits' least
    return windows


def test_they_are_all_that_is_needed(windows):
    float32 = convert.to_float32(function, (1, 6, 3))
    found = twin.extremes(float32, windows)
    assert {7, 11, 19, 31} <= set(found)
    assert (np.diff(found) > 0).all()
    assert len(found) <= 8
    assert convert.quantise(function, windows[found]) == convert.quantise(function, windows)


@pytest.mark.parametrize('window', [7, 11, 19, 31])
def test_none_can_be_left_out(windows, window):
    found = twin.extremes(convert.to_float32(function, (1, 6, 3)), windows)
    fewer = convert.quantise(function, windows[found[found != window]])
    scales = [
        [tensor.quantization.scale for tensor in flatbuffer.tree(model).subgraphs[0].tensors]
        for model in (fewer, convert.quantise(function, windows[found]))
    ]
    assert str(scales[0]) != str(scales[1])
