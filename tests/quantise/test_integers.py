"""The integer graph: each node makes, of what it reads in integers, what the float32 node makes of these numbers."""

from __future__ import annotations

import contextlib
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers import TINY_MODELS, drawn_calibration
from helpers import quantise as quantise_function
from jax_reparam.graph.graph import Graph, Tensor
from jax_reparam.quantise import integers, widths
from jax_reparam.quantise.quantise import quantise
from jax_reparam.runtime import observe

WIDTH = 8


@pytest.fixture(scope='module')
def windows():
    return np.random.default_rng(0).standard_normal((8, 12, WIDTH)).astype(np.float32)


def real(tensor, values):
    """What integers stand for, float32; a kernel or a bias may have a scale for each channel."""
    if tensor.scale is None:
        return values
    scale = tensor.scale.astype(np.float64)
    if len(scale) > 1:
        scale = scale.reshape([-1 if axis == tensor.axis else 1 for axis in range(len(tensor.shape))])
    return ((values.astype(np.float64) - tensor.zero_point) * scale).astype(np.float32)


def off(made, windows):
    """By node of an integer graph, how many steps it lies from its float32 node, given the same numbers, at most."""
    pairs = [(node, made.origins[node]) for node in made.graph.nodes if node in made.origins]
    floats, outputs, sources = [], [], {}

    def source(place, tensor):
        if tensor.constant is not None:
            return Tensor.of(real(tensor, tensor.values))
        sources[place] = tensor, Tensor(tensor.shape, 'float32')
        return sources[place][1]

    for count, (node, origin) in enumerate(pairs):
        inputs = [source((count, place), tensor) for place, tensor in enumerate(node.reads)]
        outputs.append(Tensor(origin.output.shape, 'float32'))
        floats.append(dataclasses.replace(origin, inputs=inputs, outputs=outputs[-1:]))
    alone = Graph(floats, [tensor for _, tensor in sources.values()], outputs)
    readers = made.graph.readers()
    conversions = [node for node in made.graph.nodes if node not in made.origins]
    seen = [node.output for node, _ in pairs] + [tensor for tensor, _ in sources.values()]
    seen += [tensor for node in conversions for tensor in (*node.reads, node.output)]
    found = dict.fromkeys(made.graph.nodes, 0.0)
    first = made.graph.inputs[0]
    for held in observe.run(made.graph, ({first: first.port.encode(window[None])} for window in windows), seen):
        given = {other: real(tensor, held[tensor]) for tensor, other in sources.values()}
        [expected] = observe.run(alone, [given], outputs)
        for (node, _), output in zip(pairs, outputs, strict=True):
            scale, limits = node.output.scale[0], np.iinfo(node.output.dtype)
            with np.errstate(invalid='ignore'):
                steps = (expected[output] / scale + node.output.zero_point).clip(limits.min, limits.max)
            found[node] = max(found[node], float(np.abs(held[node.output] - steps).max()))
        for node in conversions:
            source, output = node.input(0), node.output
            values = held[source] if source.constant is None else source.values
            steps = real(source, values) / output.scale[0] + output.zero_point
            if {reader.op for reader in readers[output]} == {'SOFTMAX'}:  # it does not see what is added to all
                steps += source.zero_point
            limits = np.iinfo(output.dtype)
            steps = steps.clip(limits.min, limits.max)
            found[node] = max(found[node], float(np.abs(held[output] - steps).max()))
    return found


# Steps that LiteRT's kernels are off by at most, the last half of one is rounding; measured in all cases below.
KERNELS = {
    'int8': {None: 0.55},  # 0.531
    'int16': {
        None: 0.55,  # 0.539
        # Multipliers of 16 bits where sums have 64.
        'CONV_2D': 1.3,  # 0.78
        'FULLY_CONNECTED': 1.3,  # 0.73
        'DEPTHWISE_CONV_2D': 1.3,  # 1.17
        # 1.41; its multiplier has 15 bits, so it is up to 1 step of 32,767 off, and rounding half of one.
        'BATCH_MATMUL': 1.5,
        # Tables.
        'LOGISTIC': 1.4,  # 1.28
        'SOFTMAX': 32,  # 25.9 of 32,768
    },
}


def random_bits(graph, rng):
    """8 or 16 for each outermost scope of a graph: any mixture."""
    scopes = sorted({scope.split('/')[0] for node in graph.nodes for scope in widths.scopes(node.output.name)})
    for _ in range(100):
        bits = dict(zip(['', *scopes], rng.choice([8, 16], len(scopes) + 1).tolist(), strict=True))
        with contextlib.suppress(ValueError):  # parts of a fused operator may tie
            widths.assign(graph, bits)
            return bits
    raise AssertionError


@pytest.mark.parametrize('bits', ['8', '16', 'mixed', 'mixed anew'])
@pytest.mark.parametrize('name', TINY_MODELS)
def test_each_node_is_the_float32_node_in_whatever_bits(name, bits):
    seen, _, calibration = drawn_calibration(name)
    rng = np.random.default_rng(len(bits))
    table = {'': int(bits)} if bits.isdigit() else random_bits(calibration.graph, rng)
    made = quantise(calibration, table)
    for node, steps in off(made, seen[:4]).items():
        most = KERNELS[node.output.dtype]
        moves = node.op in widths.MOVES or node.op == 'CONCATENATION'
        assert steps <= (0.01 if moves else most.get(node.op, most[None])), node.op


def test_all_nodes_but_conversions_have_an_origin():
    _, _, calibration = drawn_calibration('conformer')
    made = quantise(calibration, random_bits(calibration.graph, np.random.default_rng(0)))
    conversions = [node for node in made.graph.nodes if node not in made.origins]
    assert conversions
    assert {node.op for node in conversions} <= {'CAST', 'QUANTIZE'}
    assert [made.origins[node] for node in made.graph.nodes if node in made.origins] == calibration.graph.nodes
    for node in conversions:
        source, output = node.input(0), node.output
        assert {source.dtype, output.dtype} == {'int8', 'int16'}
        # Where a CAST is exact there is one.
        equal = output.dtype == 'int16' and source.scale == output.scale and source.zero_point == 0
        assert node.op == 'CAST' or not equal


def test_biases_keep_within_32_bits():
    """TFLM adds 64-bit ones as they are, CMSIS-NN takes 32 bits of them."""
    steps = np.array([-1e12, -(2.0**31) - 0.4, 0.6, 2.0**31 + 7])
    for dtype in ('int32', 'int64'):
        bias = Tensor((4,), dtype)
        integers.set_bias(bias, steps)
        assert bias.values.dtype == dtype
        assert bias.values.tolist() == [-(2**31), -(2**31), 1, 2**31 - 1]


@pytest.mark.parametrize('rows', [1, integers.FEW // WIDTH, integers.FEW // WIDTH + 1])
def test_a_large_constant_of_16_bits_takes_one_byte_a_number(rows):
    values = np.random.default_rng(1).uniform(-1, 0.2, (rows, WIDTH)).astype(np.float32)
    windows = np.random.default_rng(0).standard_normal((4, rows, WIDTH)).astype(np.float32)
    graph = quantise_function(lambda x: (x[0] * values).reshape(1, -1), windows, 16)
    [constant] = [tensor for tensor in graph.used() if tensor.constant is not None and tensor.scale is not None]
    assert constant.zero_point == 0
    assert (constant.dtype, 'CAST' in graph.ops) == (('int16', False), ('int8', True))[rows * WIDTH > integers.FEW]
    np.testing.assert_allclose(real(constant, constant.values), values, atol=0.51 * constant.scale[0])


def test_a_large_constant_is_cast_anew_for_each_reader():
    """Cast once, it would lie in memory from the first to the last."""
    values = np.random.default_rng(1).uniform(-1, 1, (integers.FEW, WIDTH)).astype(np.float32)
    windows = np.random.default_rng(0).standard_normal((4, integers.FEW, WIDTH)).astype(np.float32)
    graph = quantise_function(lambda x: (jnp.tanh(x[0] * values) * values).reshape(1, -1), windows, 16)
    casts = [node for node in graph.nodes if node.op == 'CAST']
    assert [[node.op for node in graph.readers()[cast.output]] for cast in casts] == [['MUL'], ['MUL']]
    places = [graph.nodes.index(node) for node in casts]
    assert [graph.nodes[place + 1].reads[1] for place in places] == [cast.output for cast in casts]


@pytest.mark.parametrize('beside', [False, True])
def test_what_a_wide_softmax_reads_keeps_its_own_zero(windows, beside):
    """It does not see what is added to all; whatever else reads the same tensor does."""

    def function(x):
        with jax.named_scope('narrow'):
            y = x[0] * np.full((1, WIDTH), 0.5, np.float32) + np.ones((1, WIDTH), np.float32)
        with jax.named_scope('wide'):
            return (jax.nn.softmax(y) * (y if beside else 2.0)).reshape(1, -1)

    graph = quantise_function(function, windows, {'narrow': 8, 'wide': 16})
    [softmax] = [node for node in graph.nodes if node.op == 'SOFTMAX']
    cast = graph.makers()[softmax.input(0)]
    source = cast.input(0)
    assert cast.op == 'CAST'
    assert (source.dtype, softmax.input(0).dtype) == ('int8', 'int16')
    assert (softmax.input(0).scale, softmax.input(0).zero_point) == (source.scale, 0)
    if beside:
        [product] = [node for node in graph.nodes if node.op == 'MUL' and softmax.output in node.reads]
        [other] = [tensor for tensor in product.reads if tensor is not softmax.output]
        assert (other is softmax.input(0)) == (source.zero_point == 0)
    else:
        assert source.zero_point < -10
