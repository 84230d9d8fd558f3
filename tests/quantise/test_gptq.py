"""Weights rounded together: the output comes nearer to that of the float32 model, nothing but weights changes."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from helpers import float32
from jax_reparam.quantise import gptq
from jax_reparam.quantise.quantise import Calibration, quantise
from jax_reparam.runtime import observe


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


def plainly(layer, inputs):
    """`gptq.rounded`, but each weight to its nearest step."""
    views = {view: np.broadcast_to(np.eye(some.shape[-1]), some.shape) for view, some in inputs.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gptq, 'SCALES', gptq.SCALES[:1])
        return gptq.rounded(layer, views)


def spread(function, graph, windows):
    """How far outputs lie from the function's, but for what `bias_correction` takes off: root of the mean square."""
    expected = np.concatenate([function(window[None]) for window in windows])
    error = observe.logits(graph, windows) - expected
    return np.sqrt(np.square(error - error.mean(axis=0)).mean())


def test_the_output_comes_nearer(layer, windows):
    """With 16-bit activations, whose own rounding counts for little; on windows that were not rounded for."""
    operator, function = layer
    seen, others = windows[: gptq.WINDOWS], windows[gptq.WINDOWS :]
    graph = float32(function, windows.shape)
    assert operator in graph.ops
    [node], inputs = gptq.layers(graph), gptq.covariances(graph, seen)
    errors = []
    for rounded in (plainly, gptq.rounded):
        calibration = Calibration(graph, windows)
        calibration.kernels = {node: rounded(node, inputs)}
        errors.append(spread(function, quantise(calibration, {'': 16}).graph, others))
    before, after = errors
    assert after < before / (1.5 if operator == 'FULLY_CONNECTED' else 2)


def test_what_never_varies_does_not_count(windows):
    """`bias_correction` takes it off."""
    kernel = np.random.default_rng(1).standard_normal(KERNELS['FULLY_CONNECTED']).astype(np.float32)
    graph = float32(lambda features: features[0] @ kernel + np.ones((1, 8), np.float32), windows.shape)
    [layer] = gptq.layers(graph)
    steps = [gptq.rounded(layer, gptq.covariances(graph, some)).values for some in (windows, windows + 10)]
    np.testing.assert_array_equal(*steps)


def test_a_kernel_in_int8(layer, windows):
    """One scale a channel, but of linear layers: it lies where the kernel has its channels."""
    operator, function = layer
    graph = float32(function, windows.shape)
    [node] = gptq.layers(graph)
    made, kernel = gptq.rounded(node, gptq.covariances(graph, windows)), node.input(1)
    assert (made.dtype, made.shape, made.values.shape) == ('int8', kernel.shape, kernel.shape)
    assert np.abs(made.values.astype(int)).max() <= 127
    axis, channels = {'CONV_2D': (0, 4), 'DEPTHWISE_CONV_2D': (3, 12), 'FULLY_CONNECTED': (0, 1)}[operator]
    assert (made.axis, made.scale.shape, made.scale.dtype) == (axis, (channels,), np.float32)
    scale = made.scale.reshape([-1 if place == axis else 1 for place in range(len(kernel.shape))])
    # Steps are moved by the errors of those before, by a few at most.
    assert np.abs(made.values * scale - kernel.values).max() < 4 * made.scale.max()
    assert kernel.dtype == 'float32'


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
