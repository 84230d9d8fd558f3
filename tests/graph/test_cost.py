"""The cost table: MACs as they are counted by hand and in the jaxpr, and prices that say where they come from."""

from __future__ import annotations

import collections
import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers import quantise
from jax_reparam import manifest
from jax_reparam.commands.summary import count_macs
from jax_reparam.export import card
from jax_reparam.graph import cost, flatbuffer, passes
from jax_reparam.graph.graph import Node, Tensor


def int8(function, *shape):
    return passes.optimise(quantise(function, np.random.default_rng(0).standard_normal((4, *shape)).astype(np.float32)))


def read(path):
    return flatbuffer.read(path.read_bytes())


@pytest.fixture(scope='module')
def convolutions():
    """[1, 8, 6] to [1, 3]: a convolution, a depthwise one, a linear layer and a softmax."""
    rng = np.random.default_rng(1)
    kernel, deep = (rng.standard_normal(shape).astype(np.float32) for shape in ((3, 3, 2, 5), (3, 1, 1, 5)))
    last = rng.standard_normal((5, 3)).astype(np.float32)
    numbers = ('NHWC', 'HWIO', 'NHWC')

    def apply(x):
        y = x.reshape(1, 8, 3, 2)
        y = jax.lax.conv_general_dilated(y, kernel, (1, 1), 'SAME', dimension_numbers=numbers)
        y = jax.lax.conv_general_dilated(y, deep, (2, 1), 'VALID', dimension_numbers=numbers, feature_group_count=5)
        return jax.nn.softmax(y[0, 0, :1] @ last)

    return int8(apply, 8, 6)


def test_macs_of_each_kind(convolutions):
    found = {row.op: row.macs for row in cost.of_graph(convolutions).ops if row.macs}
    assert found == {'CONV_2D': 8 * 3 * 5 * 3 * 3 * 2, 'DEPTHWISE_CONV_2D': 3 * 3 * 5 * 3, 'FULLY_CONNECTED': 5 * 3}


def test_macs_of_products_of_activations():
    def apply(x):
        a, b = x[:, :4], x[:, 4:]
        scores = jax.lax.dot_general(a, b, (((2,), (2,)), ((0,), (0,))))  # [1, 4, 2]
        return (scores.transpose(0, 2, 1) @ a).reshape(1, -1)  # [1, 2, 7]

    model = int8(apply, 6, 7)
    counted = count_macs(lambda _, x: apply(x), None, jnp.zeros((1, 6, 7)))
    assert cost.of_graph(model).macs == 4 * 2 * 7 + 2 * 4 * 7 == counted


@pytest.mark.parametrize(('shape', 'columns', 'kind'), [
    ((1, 5, 8), 3, 'FULLY_CONNECTED 1 x 1'),
    ((5, 8), 3, 'FULLY_CONNECTED'),
    ((1, 5, 6), 3, 'FULLY_CONNECTED'),
])  # fmt: skip
def test_a_linear_layer_of_three_dimensions_runs_as_a_convolution(shape, columns, kind):
    """Of CMSIS-NN: if it reads a multiple of four values."""
    kernel = np.ones((shape[-1], columns), np.float32)
    graph = int8(lambda x: x.reshape(shape) @ kernel, 5, shape[-1])
    assert [row.op for row in cost.of_graph(graph).ops if row.macs] == [kind]


def test_instructions_are_work_times_price(convolutions):
    price = cost.Price(2.0, 'CMSIS-NN', 'measured')
    prices = {'CONV_2D': price, 'SOFTMAX': cost.Price(10.0, 'CMSIS-NN', 'measured')}
    prices['FULLY_CONNECTED'] = cost.Price(1.2, 'CMSIS-NN', 'measured', per_output=7.0)
    found = cost.of_graph(convolutions, {'int8': prices})
    by_op = {row.op: row for row in found.ops}
    assert by_op['CONV_2D'].instructions == 2 * by_op['CONV_2D'].macs
    assert by_op['SOFTMAX'].instructions == 10 * 3
    assert by_op['DEPTHWISE_CONV_2D'].price == cost.OTHERS
    assert by_op['FULLY_CONNECTED'].instructions == 15 * 1.2 + 3 * 7
    assert found.instructions == sum(row.instructions for row in found.ops)
    assert sum(row.share for row in found.ops) == pytest.approx(1)
    assert [row.instructions for row in found.ops] == sorted((r.instructions for r in found.ops), reverse=True)


def test_a_sum_costs_what_it_reads():
    model = int8(lambda x: x.sum(axis=1), 6, 7)
    assert [(row.op, row.elements) for row in cost.of_graph(model).ops if row.op == 'SUM'] == [('SUM', 42)]


def test_an_input_that_is_spread_over_the_other_has_a_price_of_its_own():
    row = np.linspace(1, 2, 7, dtype=np.float32).reshape(1, 1, 7)
    model = int8(lambda x: (x * x * row).reshape(1, -1), 6, 7)
    prices = {'int8': {'MUL': cost.Price(2.0, 'CMSIS-NN', 'measured', spread=5.0)}}
    (found,) = (row for row in cost.of_graph(model, prices).ops if row.op == 'MUL')
    assert (found.nodes, found.elements, found.instructions) == (2, 2 * 42, 42 * 2 + 42 * 5)


def test_a_scalar_is_an_input_that_is_spread():
    graph = int8(lambda x: (x * jnp.full((1, 1, 1), 2.5)).reshape(1, -1), 6, 7)
    [node] = [node for node in graph.nodes if node.op == 'MUL']
    node.input(1).set(node.input(1).values.reshape(()))  # as the converter writes one
    (found,) = (row for row in cost.of_graph(graph).ops if row.op == 'MUL')
    assert found.instructions == round(42 * cost.INT8['MUL'].spread)


@pytest.mark.parametrize(('size', 'stride', 'priced'), [(1, 1, True), (1, 2, False), (3, 1, False)])
def test_a_convolution_of_single_pixels_has_a_price_of_its_own(size, stride, priced):
    """By weights too: the kernel sums them before the first pixel."""
    kernel = np.random.default_rng(1).standard_normal((size, size, 4, 6)).astype(np.float32)
    numbers = ('NHWC', 'HWIO', 'NHWC')
    apply = lambda x: jax.lax.conv_general_dilated(
        x.reshape(1, 8, 8, 4), kernel, (stride, stride), 'VALID', dimension_numbers=numbers
    ).reshape(1, -1)
    prices = {'CONV_2D': cost.Price(1.0, 'CMSIS-NN', 'measured')}
    prices['CONV_2D 1 x 1'] = cost.Price(2.0, 'CMSIS-NN', 'measured', per_output=3.0, per_weight=5.0)
    [row] = [row for row in cost.of_graph(int8(apply, 16, 16), {'int8': prices}).ops if row.macs]
    expected = 64 * 6 * 4 * 2 + 64 * 6 * 3 + 6 * 4 * 5 if priced else row.macs
    assert (row.op, row.instructions) == ('CONV_2D 1 x 1' if priced else 'CONV_2D', expected)


@pytest.mark.parametrize(
    ('op', 'inputs', 'output', 'options', 'units', 'outputs', 'rows'),
    [
        # Thirteen at a time four, and what is left over as dear as four.
        ('BATCH_MATMUL', [(2, 5, 13), (2, 7, 13)], (2, 5, 7), {'adjX': False}, 2 * 5 * 7 * 16, 70, 10),
        ('CONCATENATION', [(4, 3), (4, 2), (4, 1)], (4, 6), {'axis': -1}, 24, 0, 12),
        ('CONCATENATION', [(1, 3), (2, 3)], (3, 3), {'axis': 0}, 9, 0, 2),
        ('SLICE', [(8, 8), (2,)], (5, 3), {}, 15, 0, 5),
        ('CONV_2D', [(1, 6, 4, 2), (3, 2, 2, 2)], (1, 3, 2, 3), {'strideH': 2, 'strideW': 2}, 18 * 8, 18, 6),
        ('DEPTHWISE_CONV_2D', [(1, 6, 4, 3), (1, 5, 2, 3)], (1, 2, 3, 3), {}, 18 * 10, 0, 30),
        ('AVERAGE_POOL_2D', [(1, 6, 4, 3)], (1, 3, 2, 3), {}, 72, 0, 0),
        ('ADD', [(6, 4), (4,)], (6, 4), {}, 24, 0, 0),
    ],
)
def test_the_work_of_a_node(op, inputs, output, options, units, outputs, rows):
    tensors = [Tensor(shape, 'int8') for shape in (*inputs, output)]
    found = cost.work_of(Node(op, tensors[:-1], tensors[-1:], types.SimpleNamespace(**options)))
    assert (found.op, found.units, found.outputs, found.rows) == (op, units, outputs, rows)
    price = cost.Price(2.0, 'CMSIS-NN', 'measured', per_output=3.0, per_row=5.0)
    assert found.instructions(price) == 2 * units + 3 * outputs + 5 * rows


@pytest.mark.parametrize(
    ('dtype', 'kernel', 'own'), [('int8', (3, 3), True), ('int16', (3, 3), False), ('int8', (3, 5), False)]
)
def test_a_depthwise_convolution_of_3_x_3_has_a_kernel_of_its_own(dtype, kernel, own):
    tensors = [Tensor(shape, dtype) for shape in ((1, 6, 6, 4), (1, *kernel, 4), (1, 6, 6, 4))]
    assert cost.work_of(Node('DEPTHWISE_CONV_2D', tensors[:2], tensors[2:])).op.endswith(' 3 x 3') == own


def test_a_node_has_the_price_of_the_type_it_reads(exported):
    price = lambda instructions: {'SOFTMAX': cost.Price(instructions, 'CMSIS-NN', 'measured')}
    prices = {'int8': price(10.0), 'int16': price(3.0)}
    for form, dtype, instructions in (('int8', 'int8', 10), ('int16', 'int16', 3)):
        found = cost.of_graph(read(exported.path / f'model_{form}.tflite'), prices)
        (row,) = (row for row in found.ops if row.op == 'SOFTMAX')
        assert (row.dtype, row.instructions) == (dtype, instructions * row.elements)


def test_every_quantised_form_has_a_cost(exported):
    forms = exported.manifest.forms
    assert {name for name, form in forms.items() if form.cost} == set(manifest.QUANTISED)
    text = (exported.path / 'MODEL_CARD.md').read_text()
    for name in manifest.QUANTISED:
        found = cost.of_graph(read(exported.path / forms[name].file))
        assert forms[name].cost == found
        millions = f'{found.instructions / 1e6:.1f}'
        assert re.search(rf'^\| {name} \|[^|]*\|[^|]*\| {millions} \|', text, re.MULTILINE)
        (line,) = (line for line in card.summary(exported.path, exported.manifest) if f'model_{name}.tflite' in line)
        assert f'{millions} M instructions' in line


def test_how_much_is_assumed(exported):
    found = cost.of_graph(read(exported.path / 'model_int8.tflite'))
    nodes = collections.Counter()
    for row in found.ops:
        nodes[row.op.partition(' ')[0]] += row.nodes  # without its kernel
    assert nodes == exported.manifest.forms['int8'].ops
    assumed = sum(row.instructions for row in found.ops if row.price.source == 'assumed')
    assert found.assumed == pytest.approx(assumed / found.instructions)
    assert found.instructions_per_mac == found.instructions / found.macs


def test_table(exported):
    found = cost.of_graph(read(exported.path / 'model_int8.tflite'))
    lines = cost.table(found)
    assert len(lines) == len(found.ops) + 2
    assert lines[0].split()[:3] == ['operator', 'nodes', 'MACs']
    (line,) = (line for line in lines if line.startswith('FULLY_CONNECTED 1 x 1'))
    assert line.endswith(' + 41 an output measured')
    assert lines[-1].split()[:3] == ['all', str(sum(row.nodes for row in found.ops)), f'{found.macs:,}']


def test_a_float_model_is_refused(exported):
    with pytest.raises(ValueError, match=r'expected a model of int8 or int16, .* got float32'):
        cost.of_graph(read(exported.path / 'model_float32.tflite'))
