"""Scales and zero points: each rule of the table, and that what crosses from 8 to 16 bits is not rounded."""

from __future__ import annotations

import math

import jax
import numpy as np
import pytest

from helpers import TINY_MODELS, float32, needs_tflm
from jax_reparam import deploy, models
from jax_reparam.graph import flatbuffer
from jax_reparam.graph.graph import Graph, Node, Tensor
from jax_reparam.quantise import formats
from jax_reparam.quantise.formats import Format
from jax_reparam.quantise.quantise import Calibration, quantise
from jax_reparam.runtime import tflm

INT32 = 2**31 - 1


def tensor(size=8):
    return Tensor((1, size), 'float32')


def chosen(nodes, ranges, bits):
    """Formats of a graph of nodes, of its tensors' ranges in order; `bits` are one a node."""
    made = {output for node in nodes for output in node.outputs}
    source = next(t for node in nodes for t in node.reads if t not in made and t.constant is None)
    graph = Graph(nodes, [source], [nodes[-1].output])
    computed = [t for t in graph.used() if t.constant is None]
    spans = dict(zip(computed, ranges, strict=True))
    return formats.formats(graph, spans, dict(zip(nodes, bits, strict=True)))


@pytest.mark.parametrize('bits', [8, 16])
@pytest.mark.parametrize(('low', 'high'), [(-1, 3), (0, 5), (2, 7), (-9, -4), (0, 0), (-1e-9, 1e-9), (-1e6, 3.7)])
def test_a_range_just_fits_and_zero_stands_for_itself(low, high, bits):
    form = Format.of(low, high, bits)
    steps = form.encode(np.array([low, 0, high]))
    decoded = form.scale * (steps.astype(int) - form.zero_point)
    np.testing.assert_allclose(decoded, [low, 0, high], rtol=0, atol=0.51 * form.scale)
    assert decoded[1] == 0
    assert form.zero_point == 0 or bits == 8
    # No step is given away, but for -32768.
    if high > low:
        most = {8: 255, 16: 2 * 32767}[bits]
        span = max(high, 0) - min(low, 0) if bits == 8 else 2 * max(-low, high)
        assert span / most <= form.scale < span / most * (1 + 2**-11)
        assert float(form.scale * 2 ** -math.frexp(form.scale)[1] * 2**12).is_integer()


@pytest.mark.parametrize(('high', 'wider', 'zero'), [(0.88, 1.0, -8), (0.88, 1.125, 0), (0.7, 1.125, -22)])
def test_zero_stands_for_zero_where_steps_hardly_grow(high, wider, zero):
    assert Format.of(-1, high, 8, wider=wider).zero_point == pytest.approx(-zero, abs=1)


@pytest.mark.parametrize(
    ('op', 'bits', 'scale', 'zero'),
    [
        ('SOFTMAX', 8, 2**-8, -128),
        ('LOGISTIC', 8, 2**-8, -128),
        ('TANH', 8, 2**-7, 0),
        ('SOFTMAX', 16, 2**-15, 0),
        ('LOGISTIC', 16, 2**-15, 0),
        ('TANH', 16, 2**-15, 0),
    ],
)
def test_what_a_kernel_fixes_is_kept_through_what_moves_it(op, bits, scale, zero):
    one, two, three = tensor(), tensor(), tensor()
    nodes = [Node(op, [one], [two]), Node('RESHAPE', [two], [three])]
    found = chosen(nodes, [(-4, 5), (0.2, 0.7), (0.2, 0.7)], [bits, bits])
    assert found[two, bits] == found[three, bits] == Format(bits, scale, zero)
    assert found[one, bits] == Format.of(-4, 5, bits)


@pytest.mark.parametrize('bits', [8, 16])
@pytest.mark.parametrize('op', ['CONCATENATION', 'MAX_POOL_2D', 'PAD', 'RESHAPE', 'SLICE', 'TRANSPOSE'])
def test_what_has_to_have_one_format_has_that_of_all_ranges(op, bits):
    one, two, three, four = (tensor() for _ in range(4))
    shape = Tensor.of(np.array([1, 8], np.int32))
    nodes = [
        Node('ADD', [one, one], [two]),
        Node('ADD', [one, two], [three]),
        Node(op, [two, three] if op == 'CONCATENATION' else [two, shape], [four]),
    ]
    found = chosen(nodes, [(-1, 1), (-1, 6), (-3, 2), (-1, 6)], [bits] * 3)
    joined = (-3, 6) if op == 'CONCATENATION' else (-1, 6)
    assert found[two, bits] == found[four, bits] == Format.of(*joined, bits)
    assert found[three, bits] == Format.of(*(joined if op == 'CONCATENATION' else (-3, 2)), bits)


@pytest.mark.parametrize('op', ['ADD', 'MUL', 'SUB'])
@pytest.mark.parametrize('count', [1, 8])
def test_a_number_that_is_added_to_all_changes_no_step(op, count):
    one, two = tensor(), tensor()
    constant = Tensor.of(np.full((1, count), 0.5, np.float32))
    found = chosen([Node(op, [one, constant], [two])], [(-1, 1), (-1.5, 1)], [8])
    assert (found[one, 8] == found[two, 8]) == (op == 'ADD' and count == 1)


def test_what_does_not_fit_a_fixed_format_is_an_error():
    one, two, three, four = (tensor() for _ in range(4))
    ends = [Node('SOFTMAX', [one], [two]), Node('TANH', [one], [three]), Node('CONCATENATION', [two, three], [four])]
    with pytest.raises(ValueError, match='expected a format of Format'):
        chosen(ends, [(-1, 1), (0, 1), (-1, 1), (-1, 1)], [8, 8, 8])
    ends[1].op = 'ADD'
    with pytest.raises(ValueError, match='expected a format of Format'):
        chosen(ends, [(-1, 1), (0, 1), (0, 2), (0, 2)], [8, 8, 8])
    chosen(ends, [(-1, 1), (0, 1), (0, 0.5), (0, 1)], [8, 8, 8])


def test_what_is_made_in_16_bits_and_read_in_8_is_held_in_both():
    one, two, three = (tensor() for _ in range(3))
    nodes = [Node('ADD', [one, one], [two]), Node('ADD', [two, two], [three])]
    found = chosen(nodes, [(-1, 2), (-2, 4), (-4, 8)], [16, 8])
    assert [found[two, bits] for bits in (8, 16)] == [Format.of(-2, 4, 8), Format.of(-2, 4, 16)]
    assert (one, 8) not in found
    assert (three, 16) not in found


@pytest.mark.parametrize(
    ('ranges', 'kept'),
    [
        ([(-1, 1), (-2, 5), (-3, 9)], True),
        ([(-1, 1), (-2, 5), (-3, 850)], True),
        ([(-1, 1), (-2, 5), (-3, 950)], False),  # beyond 16 bits
    ],
)
def test_what_is_joined_in_16_bits_keeps_the_steps_of_what_is_cast_if_all_fits(ranges, kept):
    one, two, three, four = (tensor() for _ in range(4))
    nodes = [
        Node('ADD', [one, one], [two]),
        Node('ADD', [one, two], [three]),
        Node('CONCATENATION', [two, three], [four]),
    ]
    found = chosen(nodes, [*ranges, (-2, ranges[-1][1])], [8, 16, 16])
    assert found[two, 8] == Format.of(-2, 5, 8)
    joined = found[four, 16]
    assert found[two, 16] == found[three, 16] == joined
    assert joined == (Format(16, found[two, 8].scale) if kept else Format.of(-3, ranges[-1][1], 16))


def test_two_parts_of_8_bits_that_are_joined_in_16_have_the_format_of_the_whole():
    one, two, three, four = (tensor() for _ in range(4))
    nodes = [Node('ADD', [one, one], [two]), Node('ADD', [two, two], [three])]
    nodes.append(Node('CONCATENATION', [two, three], [four]))
    found = chosen(nodes, [(-1, 1), (-2, 5), (-3, 2), (-3, 5)], [8, 8, 16])
    assert [found[two, 8], found[three, 8]] == [Format.of(-2, 5, 8), Format.of(-3, 2, 8)]
    assert found[two, 16] == found[three, 16] == found[four, 16] == Format.of(-3, 5, 16)


@pytest.mark.parametrize('seed', range(50))
def test_from_8_to_16_bits_nothing_is_rounded(seed):
    """By CAST, which keeps integers, with a zero point of 0, else by QUANTIZE; steps hardly grow."""
    rng = np.random.default_rng(seed)
    one, two, three, four = (tensor() for _ in range(4))
    high = float(10 ** rng.uniform(-4, 4))
    low = -high * float(rng.uniform(0.7, 1.4) if seed % 2 else 10 ** rng.uniform(-4, 1))
    nodes = [
        Node('ADD', [one, one], [two]),
        Node('RESHAPE', [two], [three]),
        Node(('ADD', 'SOFTMAX')[seed // 2 % 2], [three], [four]),
    ]
    found = chosen(nodes, [(low / 2, high / 2), (low, high), (low, high), (0, 1)], [8, 8, 16])
    narrow, wide = found[three, 8], found[three, 16]
    assert narrow == found[two, 8]
    assert (wide.scale, wide.zero_point) == (narrow.scale, 0)
    steps = np.arange(-128, 128)
    real = narrow.scale * (steps - narrow.zero_point)
    np.testing.assert_array_equal(wide.encode(real), steps - narrow.zero_point)
    plain = Format.of(low, high, 8)
    if nodes[2].op == 'SOFTMAX':
        assert narrow == plain
    else:
        assert plain.scale <= narrow.scale <= formats.WIDER * plain.scale * (1 + 1e-6)


# TFLM's RSQRT of integers (lite/micro/kernels/elementwise.cc, lite/kernels/internal/common.h), step by step.


def high_product(a, b):
    """SaturatingRoundingDoublingHighMul, which rounds halves away from 0."""
    product = a * b
    return np.sign(product) * ((np.abs(product) + 2**30) >> 31)


def multiplied(x, multiplier, shift):
    """MultiplyByQuantizedMultiplier of what is not negative."""
    right = max(-shift, 0)
    return (high_product(x << max(shift, 0), multiplier) + (1 << right >> 1)) >> right


def inverse_root(value):
    """2^20 / sqrt(value), by five of Newton's steps."""
    if value == 1:
        return multiplied(1, INT32, 20)
    pairs = (31 - value.bit_length()) // 2 - 1
    x, half = 1 << 28, ((value << 2 * pairs >> 1) + 1) >> 1
    for _ in range(5):
        cube = np.clip(high_product(high_product(x, x), x) << 6, -INT32 - 1, INT32)
        x = int(np.clip((high_product((1 << 28) + (1 << 27), x) - high_product(half, cube)) << 3, -INT32 - 1, INT32))
    root, shift = int(high_product(x, 1518500250)), 11 - pairs
    return multiplied(1, root << max(-shift, 0), 20 - max(shift, 0))


INVERSE_ROOTS = np.array([0, *(inverse_root(value) for value in range(1, 2**15))], np.int64)


def rsqrt(source, output, dtype):
    """Of each integer from the zero point on, the multiplier computed in a type."""
    root, scale = np.sqrt(np.float32(source.scale).astype(dtype)), np.float32(output.scale).astype(dtype)
    mantissa, exponent = math.frexp(1 / float(root * scale))
    limit = 2 ** (source.bits - 1)
    values = np.arange(1, limit - source.zero_point)
    steps = multiplied(INVERSE_ROOTS[values], round(mantissa * 2**31), exponent - 20) + output.zero_point
    return np.array([limit - 1, *np.clip(steps, -limit, limit - 1)])


def rsqrt_case(seed, bits):
    """A graph with one RSQRT, whose input reaches from a share of its greatest value to that, and its formats."""
    rng = np.random.default_rng(seed)
    greatest = 10.0 ** rng.uniform(-3, 4)
    least = greatest * rng.uniform(0.02, 0.9)
    node = Node('RSQRT', [tensor()], [tensor()])
    found = chosen([node], [(least, greatest), (greatest**-0.5, least**-0.5)], [bits])
    return found[node.input(0), bits], found[node.output, bits], least**-0.5


@pytest.mark.parametrize('bits', [8, 16])
@pytest.mark.parametrize('seed', range(20))
def test_every_version_of_tflm_makes_the_same_of_rsqrt(seed, bits):
    """Whether it computes its multiplier in float32 or in float64: all that it may read is tried."""
    source, output, greatest = rsqrt_case(seed, bits)
    np.testing.assert_array_equal(rsqrt(source, output, np.float32), rsqrt(source, output, np.float64))
    plain = Format.of(0, greatest, bits)
    assert plain.scale <= output.scale < 1.0625 * plain.scale
    assert output.zero_point == plain.zero_point


@needs_tflm
@pytest.mark.parametrize('bits', [8, 16])
def test_so_does_the_tflm_at_hand(bits):
    source, output, _ = rsqrt_case(0, bits)
    integers = np.arange(source.zero_point, 2 ** (bits - 1))
    shape = (1, len(integers))
    ends = [form.tensor(Tensor(shape, 'float32')) for form in (source, output)]
    model = flatbuffer.write(Graph([Node('RSQRT', ends[:1], ends[1:], version=2)], ends[:1], ends[1:]))
    windows = (source.scale * (integers - source.zero_point)).astype(np.float32)[None]
    [logits] = tflm.run(model, windows).logits
    np.testing.assert_array_equal(ends[1].port.encode(logits), rsqrt(source, output, np.float32))


@pytest.mark.parametrize(
    ('name', 'sixteen'), [('conv_transformer', False), ('conformer', True), ('speech_former', False)]
)
def test_no_version_of_tflm_changes_a_model(name, sixteen):
    """Of every RSQRT of a whole model all that it may read; and products of scales are exact in float32."""
    config, windows = TINY_MODELS[name], np.random.default_rng(0).standard_normal((4, 64, 12)).astype(np.float32)
    variables = jax.jit(models.build(config, n_classes=3).init)(jax.random.key(0), windows[:1])
    calibration = Calibration(float32(deploy.build(config, variables, 64), windows.shape), windows)
    graph = quantise(calibration, {'': 16} if sixteen else deploy.widths(config, 64)).graph
    products = [node for node in graph.nodes if node.op in ('FULLY_CONNECTED', 'BATCH_MATMUL')]
    assert len(products) > 8
    for node in products:
        one, other = (node.input(place).scale for place in (0, 1))
        np.testing.assert_array_equal(one * other, one.astype(np.float64) * other)
    nodes = [node for node in graph.nodes if node.op == 'RSQRT']
    assert len(nodes) > 2
    for node in nodes:
        source, output = (
            Format(8 * np.dtype(tensor.dtype).itemsize, float(tensor.scale[0]), tensor.zero_point)
            for tensor in (node.input(0), node.output)
        )
        np.testing.assert_array_equal(rsqrt(source, output, np.float32), rsqrt(source, output, np.float64))


def test_scales_of_which_versions_disagree_are_many():
    """So a scale has to be looked for."""
    source, output, _ = rsqrt_case(0, 16)
    scales = [output.scale * (1 + step / 1000) for step in range(8)]
    both = [[rsqrt(source, Format(16, scale), dtype) for dtype in (np.float32, np.float64)] for scale in scales]
    assert any((one != other).any() for one, other in both)
