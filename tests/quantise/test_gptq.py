"""Weights rounded together: the output comes nearer to that of the float32 model, nothing but weights changes."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from helpers import quantise
from jax_reparam.deploy import convert
from jax_reparam.graph import flatbuffer
from jax_reparam.quantise import bias_correction, gptq
from jax_reparam.runtime import litert


@pytest.fixture(scope='module')
def windows():
    """Spectrograms whose neighbours are alike."""
    steps = np.random.default_rng(0).standard_normal((gptq.WINDOWS + 8, 12, 16))
    return steps.cumsum(axis=1).cumsum(axis=2).astype(np.float32) / 8


def convolution(features, kernel, groups=1, channels=1):
    """Strided, of uneven sides: an axis taken for another shows."""
    x = features.reshape(1, 12, -1, channels)
    numbers = ('NHWC', 'HWIO', 'NHWC')
    return jax.lax.conv_general_dilated(
        x, kernel, (2, 1), 'SAME', dimension_numbers=numbers, feature_group_count=groups
    )


KERNELS = {'CONV_2D': (3, 5, 2, 4), 'DEPTHWISE_CONV_2D': (5, 3, 1, 12), 'FULLY_CONNECTED': (16, 8)}


@pytest.fixture(params=sorted(KERNELS))
def layer(request):
    """(operator, features to what one layer of it makes of them)"""
    kernel = np.random.default_rng(1).standard_normal(KERNELS[request.param]).astype(np.float32)
    bias = np.random.default_rng(2).standard_normal(kernel.shape[-1]).astype(np.float32)

    def function(features):
        if request.param == 'FULLY_CONNECTED':
            y = features[0] @ kernel
        elif request.param == 'CONV_2D':
            y = convolution(features, kernel, channels=2)
        else:  # four channels of the image, each with three filters
            y = convolution(features, kernel, groups=4, channels=4)
        return (y + bias.reshape(*[1] * (y.ndim - 1), -1)).reshape(1, -1)

    return request.param, function


def rounded(model, float32, windows):
    return gptq.rounded(model, float32, gptq.covariances(float32, windows))


def spread(function, model, windows):
    """How far outputs lie from the function's, but for what `bias_correction` takes off: root of the mean square."""
    expected = np.concatenate([function(window[None]) for window in windows])
    error = litert.load(model, reference=True)(windows) - expected
    return np.sqrt(np.square(error - error.mean(axis=0)).mean())


def test_the_output_comes_nearer(layer, windows):
    """With 16-bit activations, whose own rounding counts for little; on windows that were not rounded for."""
    operator, function = layer
    seen, others = windows[: gptq.WINDOWS], windows[gptq.WINDOWS :]
    float32 = convert.to_float32(function, (1, *windows.shape[1:]))
    assert operator in flatbuffer.graph(float32).ops
    plain = quantise(function, windows, 'int16')
    models = [bias_correction.corrected(model, float32, seen) for model in (plain, rounded(plain, float32, seen))]
    before, after = (spread(function, model, others) for model in models)
    assert after < before / (1.5 if operator == 'FULLY_CONNECTED' else 2)


def test_what_never_varies_does_not_count(windows):
    """`bias_correction` takes it off."""
    kernel = np.random.default_rng(1).standard_normal(KERNELS['FULLY_CONNECTED']).astype(np.float32)
    function = lambda features: features[0] @ kernel + np.ones((1, 8), np.float32)
    model, float32 = quantise(function, windows), convert.to_float32(function, (1, *windows.shape[1:]))
    trees = [flatbuffer.tree(rounded(model, float32, some)) for some in (windows, windows + 10)]
    weights = [flatbuffer.constant(tree, tree.subgraphs[0].operators[-1].inputs[1]) for tree in trees]
    np.testing.assert_array_equal(*weights)


@pytest.mark.parametrize('activations', ['int8', 'int16'])
def test_nothing_but_weights_changes(layer, windows, activations):
    _, function = layer
    model = quantise(function, windows, activations)
    found = rounded(model, convert.to_float32(function, (1, *windows.shape[1:])), windows)
    before, after = (flatbuffer.tree(file) for file in (model, found))
    assert flatbuffer.operator_names(before) == flatbuffer.operator_names(after)
    weights = {int(node.inputs[1]) for node in before.subgraphs[0].operators if len(node.inputs) == 3}
    changed = set()
    for index, (old, new) in enumerate(zip(before.subgraphs[0].tensors, after.subgraphs[0].tensors, strict=True)):
        if not flatbuffer.is_constant(before, index):
            assert flatbuffer.port(old) == flatbuffer.port(new)
        elif not np.array_equal(flatbuffer.constant(before, index), flatbuffer.constant(after, index)):
            changed.add(index)
            assert np.shape(old.quantization.scale) == np.shape(new.quantization.scale)
            assert np.abs(flatbuffer.constant(after, index).astype(int)).max() <= 127
    assert changed == weights


def test_inputs_that_do_not_go_together_leave_nothing_to_make_up_for(rng):
    rows, variances = rng.standard_normal((2, 3, 6)), rng.uniform(1, 2, (2, 6))
    scale = np.array([np.abs(rows).max() / 127])
    steps, scales = gptq.nearest(rows, np.stack([np.diag(some) for some in variances]), scale)
    np.testing.assert_array_equal(steps, np.rint(rows / scale))
    np.testing.assert_array_equal(scales, scale)


def test_no_other_steps_are_much_nearer(rng):
    """Of three weights with one scale, all steps around can be tried."""
    mixing = rng.standard_normal((3, 3))
    covariance, rows = (mixing @ mixing.T)[None], rng.standard_normal((1, 20, 3))
    scale = np.array([np.abs(rows).max() / 127])
    steps, _ = gptq.nearest(rows, covariance, scale)

    def error(steps):
        off = rows - steps * scale
        return np.einsum('grk,gkl,grl->gr', off, covariance, off)

    around = [np.rint(rows / scale) + np.array(moves) for moves in np.ndindex(7, 7, 7)]
    least = np.min([error(steps - 3) for steps in around], axis=0)
    plain = error(np.rint(rows / scale))
    assert error(steps).sum() < 0.5 * (least.sum() + plain.sum())


def test_each_channel_takes_the_best_of_its_scales(rng):
    rows, covariance = rng.standard_normal((2, 5, 9)), np.eye(9) + np.ones((2, 9, 9))
    smallest = np.abs(rows).max(axis=2).reshape(-1) / 127
    steps, scales = gptq.nearest(rows, covariance, smallest)
    assert scales.shape == smallest.shape
    assert (scales >= smallest).all()
    assert (scales <= smallest * gptq.SCALES[-1]).all()
    assert len(set(scales / smallest)) > 2
    off = rows - steps * scales.reshape(2, 5, 1)
    assert np.abs(off).max() < 3 * scales.max()
    plain = rows - np.rint(rows / smallest.reshape(2, 5, 1)) * smallest.reshape(2, 5, 1)
    found, before = (np.einsum('grk,gkl,grl->gr', some, covariance, some) for some in (off, plain))
    assert (found <= before).all()
    assert found.sum() < 0.6 * before.sum()


def test_an_input_that_is_always_the_same_and_a_channel_of_zeros(rng):
    rows, covariance = rng.standard_normal((1, 2, 4)), np.zeros((1, 4, 4))
    rows[0, 1] = 0
    steps, _ = gptq.nearest(rows, covariance, np.array([0.05, 0.05]))
    assert np.isfinite(steps).all()
    assert not steps[0, 1].any()


def test_another_graph_is_refused(windows):
    function, other = (lambda x: x.sum(axis=1)), (lambda x: x @ np.ones((16, 2), np.float32))
    model = quantise(function, windows)
    with pytest.raises(ValueError, match='expected the operators of the float32 graph'):
        rounded(model, convert.to_float32(other, (1, *windows.shape[1:])), windows)
