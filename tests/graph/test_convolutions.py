"""Operators as convolutions: the same integers, where that pays, and nowhere else."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers import float32, quantise
from jax_reparam.deploy import ops
from jax_reparam.graph import convolutions, cost, flatbuffer, passes
from jax_reparam.runtime import litert, observe, tflm

TIME, WIDTH = 12, 8
RNG = np.random.default_rng(0)
KERNELS = [
    RNG.standard_normal(shape).astype(np.float32) / 2 for shape in ((WIDTH, WIDTH), (WIDTH, 2 * WIDTH), (WIDTH, 4))
]
BIAS = RNG.standard_normal((1, WIDTH)).astype(np.float32)


@pytest.fixture(autouse=True)
def small_layers_count(monkeypatch):
    """These are all of fewer multiplications than pay for the memory."""
    monkeypatch.setattr(convolutions, 'LEAST_MACS', 0)


def windows(*shape):
    return np.random.default_rng(1).standard_normal((6, *shape)).astype(np.float32)


def pooled(y):
    return y.mean(0, keepdims=True)


def residual(x):
    y = jax.nn.relu(x[0] @ KERNELS[0] + BIAS)
    y = y + x[0] @ KERNELS[0].T  # no bias
    y = ops.normalise(y[:, None])[:, 0]
    return pooled(y @ KERNELS[2] + jax.nn.sigmoid(y @ KERNELS[2]))


def heads(x):
    y = (x[0] @ KERNELS[0] + BIAS).reshape(TIME, 2, 4).transpose(1, 0, 2)
    y = jax.nn.softmax(y).transpose(1, 0, 2).reshape(TIME, WIDTH)
    return pooled((y @ KERNELS[1] + 1)[:, 2:6])


def moved(x):
    y = x[0] @ KERNELS[0] + BIAS
    y = jnp.concatenate([y[2:7], y[:5]], axis=1)
    y = jnp.pad(y, ((0, 1), (1, 0)))
    return pooled(y) + (y.T @ jnp.full((6, 1), 1 / 6)).T


def behind_a_convolution(x):
    y = jax.lax.conv_general_dilated(
        x[..., None],
        KERNELS[0][:3, :4].reshape(3, 1, 1, 4),
        (1, 1),
        'SAME',
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )
    return pooled(jax.nn.relu(y + 0.1).reshape(TIME, WIDTH * 4) @ np.tile(KERNELS[0], (4, 1)) + BIAS)


FUNCTIONS = {
    f.__name__: (f, layers) for f, layers in ((residual, 3), (heads, 2), (moved, 1), (behind_a_convolution, 1))
}


@pytest.fixture(scope='module', params=itertools.product(FUNCTIONS, (8, 16)), ids=str)
def case(request):
    """(a quantised graph, how many of its linear layers have rows enough)"""
    name, bits = request.param
    function, layers = FUNCTIONS[name]
    return quantise(function, windows(TIME, WIDTH), bits), layers


def both(graph):
    """What is made for small memories, with few convolutions here, and with all."""
    return [passes.optimise(graph, fast=fast) for fast in (False, True)]


def count(graph, op):
    return graph.ops.get(op, 0)


@pytest.mark.slow
def test_the_same_integers(case):
    """In 16 bits to a step: TFLite multiplies the scales of a linear layer in float32, of a convolution in float64."""
    plain, fast = both(case[0])
    x, port = windows(TIME, WIDTH), plain.output
    assert fast.output == port
    steps = 0 if port.dtype == 'int8' else 1
    files = [flatbuffer.write(graph) for graph in (fast, plain)]
    runs = [
        [litert.load(file)(x) for file in files],
        [observe.logits(graph, x) for graph in (fast, plain)],
        *([[tflm.run(file, x).logits for file in files]] if tflm.missing() is None else []),
    ]
    for found, expected in runs:
        np.testing.assert_allclose(found, expected, rtol=0, atol=(steps + 0.01) * port.scale)


def test_layers_with_rows_enough_are_convolutions(case):
    graph, layers = case
    plain, fast = both(graph)
    assert count(plain, 'FULLY_CONNECTED') - count(fast, 'FULLY_CONNECTED') == layers
    assert count(fast, 'CONV_2D') - count(plain, 'CONV_2D') == layers
    rows = {row.op: row for row in cost.of_graph(fast).ops}
    assert rows['CONV_2D 1 x 1'].nodes == layers
    assert cost.of_graph(fast).macs == cost.of_graph(plain).macs


@pytest.mark.parametrize(
    ('rows', 'outputs', 'made'),
    [(convolutions.LEAST_ROWS, 4, 1), (convolutions.LEAST_ROWS - 1, 4, 0), (convolutions.LEAST_ROWS, 3, 0)],
    ids=['enough', 'few rows', 'odd outputs'],
)
def test_which_layers(rows, outputs, made):
    graph = quantise(lambda x: pooled(x[0] @ KERNELS[0][:, :outputs] + 1), windows(rows, WIDTH))
    assert count(passes.optimise(graph, fast=True), 'CONV_2D') == made


@pytest.mark.parametrize(('rows', 'made'), [(13, 1), (12, 0)])
@pytest.mark.parametrize('bits', [8, 16])
@pytest.mark.parametrize(('fast', 'least'), [(True, 'LEAST_MACS'), (False, 'LEAST_MACS_SMALL')])
def test_an_output_of_few_multiplications_is_not_worth_its_memory(monkeypatch, fast, least, bits, rows, made):
    monkeypatch.setattr(convolutions, least, 13 * WIDTH)
    graph = quantise(lambda x: pooled(x[0] @ KERNELS[0] + 1), windows(rows, WIDTH), bits)
    assert count(passes.optimise(graph, fast=fast), 'CONV_2D') == made


def test_float32_stays():
    graph = float32(lambda x: pooled(x[0] @ KERNELS[0] + BIAS), (1, TIME, WIDTH))
    plain, fast = map(flatbuffer.write, both(graph))
    assert plain == fast


@pytest.mark.parametrize(('bits', 'made'), [(8, 1), (16, 0)])
def test_many_inputs_in_16_bits(bits, made):
    """CMSIS-NN before 2024 has no fast kernel for them."""
    kernel = np.full((convolutions.LARGEST_DEPTH + 1, 4), 0.01, np.float32)
    graph = quantise(lambda x: pooled(x[0] @ kernel + 1), windows(TIME, len(kernel)), bits)
    assert count(passes.optimise(graph, fast=True), 'CONV_2D') == made


def test_weights_that_two_layers_share_stay_for_the_other():
    function = lambda x: pooled(x[0] @ KERNELS[0]) + pooled(x[0])[:, :WIDTH] @ KERNELS[0]
    graph, x = quantise(function, windows(TIME, WIDTH)), windows(TIME, WIDTH)
    plain, fast = both(graph)
    np.testing.assert_array_equal(*(observe.logits(one, x) for one in (fast, plain)))
    assert count(fast, 'CONV_2D') == count(fast, 'FULLY_CONNECTED') == 1


def test_reshapes_between_layers_are_gone():
    function = lambda x: pooled(jax.nn.relu(x[0] @ KERNELS[1] + 1) @ KERNELS[1].T + BIAS)
    fast = passes.optimise(quantise(function, windows(TIME, WIDTH)), fast=True)
    assert [node.op for node in fast.nodes][:4] == ['RESHAPE', 'CONV_2D', 'CONV_2D', 'RESHAPE']


@pytest.mark.slow
@pytest.mark.parametrize('bits', [None, 8, 16])
def test_a_depthwise_convolution_of_one_channel_in_16_bits(bits):
    """As the stem's first; in other types its own kernel is as good, or better."""

    def function(x):
        kernel = KERNELS[1][:3, :12].reshape(3, 3, 1, 4)
        numbers = ('NHWC', 'HWIO', 'NHWC')
        padding = ((0, 1), (0, 1))
        y = jax.lax.conv_general_dilated(x[..., None], kernel, (2, 2), padding, dimension_numbers=numbers)
        return jax.nn.relu(y + BIAS[:, :4].reshape(1, 1, 1, 4)).reshape(1, -1)

    x = windows(TIME, WIDTH)
    graph = quantise(function, x, bits) if bits else float32(function, x.shape)
    optimised = passes.optimise(graph)
    assert count(graph, 'DEPTHWISE_CONV_2D') == 1
    assert count(optimised, 'CONV_2D') == (bits == 16)
    assert count(optimised, 'DEPTHWISE_CONV_2D') == (bits != 16)
    expected = observe.logits(graph, x)
    np.testing.assert_array_equal(observe.logits(optimised, x), expected)
    if tflm.missing() is None and bits:
        np.testing.assert_allclose(tflm.run(flatbuffer.write(optimised), x).logits, expected, rtol=1e-6)
