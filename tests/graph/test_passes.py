"""Tidied files: the same function, no names, paddings that TFLM reads, linear layers that read through reshapes."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers import attention, float32, in_litert, quantise
from jax_reparam.graph import arena, convolutions, flatbuffer, passes, tile
from jax_reparam.graph.graph import Graph, Node, Tensor
from jax_reparam.runtime import tflm


def in_tflm(graph, windows):
    return tflm.run(flatbuffer.write(graph), windows)


def test_names_and_notes_are_gone_and_nothing_else(rng):
    kernel = rng.standard_normal((4, 4)).astype(np.float32)
    windows = rng.standard_normal((3, 6, 4)).astype(np.float32)
    graph = float32(lambda x: jax.nn.softmax(jnp.tanh(x[0] @ kernel)).sum(0, keepdims=True), (1, 6, 4))
    assert graph.metadata
    bare = passes.optimise(graph)
    assert [tensor.name for tensor in bare.used() if tensor.name] == ['features', 'logits']
    assert list(bare.metadata) == [arena.NAME]
    assert len(flatbuffer.write(bare)) < len(flatbuffer.write(graph))
    assert (bare.ops, bare.input, bare.output) == (graph.ops, graph.input, graph.output)
    np.testing.assert_array_equal(in_litert(bare, windows), in_litert(graph, windows))
    assert flatbuffer.write(passes.optimise(bare)) == flatbuffer.write(bare)


def test_the_graph_that_is_given_stays(rng):
    """Each pass that changes something in place would change it."""
    graph = quantise(attention(rng), rng.standard_normal((3, 12, 16)).astype(np.float32), 16)
    before = flatbuffer.write(graph)
    assert flatbuffer.write(passes.optimise(graph, fast=True)) != before
    assert flatbuffer.write(graph) == before


@pytest.mark.slow
def test_paddings_are_what_tflm_reads(rng):
    """Out of jax2tf they have 64 bits, and TFLM refuses the model."""
    kernel = rng.standard_normal((4, 4)).astype(np.float32)
    function = lambda x: jnp.pad(x[0] @ kernel, ((1, 2), (0, 0)), constant_values=0.5).sum(0, keepdims=True)
    windows = rng.standard_normal((3, 6, 4)).astype(np.float32)
    graph = passes.optimise(float32(function, (1, 6, 4)))
    assert 'PADV2' in graph.ops
    expected = np.concatenate([function(window[None]) for window in windows])
    np.testing.assert_allclose(in_litert(graph, windows), expected, rtol=1e-5)
    if tflm.missing() is None:
        np.testing.assert_allclose(in_tflm(graph, windows).logits, expected, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize('bits', [None, 8], ids=['float32', '8'])
def test_linear_layers_read_through_reshapes(rng, bits):
    """A reshape that something else reads stays."""
    kernels = [rng.standard_normal(shape).astype(np.float32) for shape in ((4, 3), (4, 2))]

    def function(x):
        one, other = (jnp.transpose(y.reshape(2, 3, 4), (1, 0, 2)).reshape(6, 4) for y in (x[0], 2 * x[0]))
        return jnp.concatenate([y.reshape(1, -1) for y in (one @ kernels[0], other @ kernels[1], other + 1)], axis=1)

    windows = rng.standard_normal((3, 6, 4)).astype(np.float32)
    graph = float32(function, (1, 6, 4)) if bits is None else quantise(function, windows, bits)
    optimised, expected = passes.optimise(graph), in_litert(graph, windows)
    assert graph.ops['RESHAPE'] - optimised.ops['RESHAPE'] == 1
    np.testing.assert_array_equal(in_litert(optimised, windows), expected)
    if tflm.missing() is None:
        np.testing.assert_allclose(in_tflm(optimised, windows).logits, expected, atol=1e-5)


@pytest.mark.parametrize(('shape', 'left'), [((6, 2), 0), ((2, 3, 2), 1)])
def test_a_reshape_before_a_layer_that_makes_no_matrix_stays(shape, left):
    source, shown, made = (Tensor(one, 'float32') for one in ((3, 2, 4), (2, 3, 4), shape))
    kernel, options = Tensor.of(np.ones((2, 4), np.float32)), flatbuffer.options('FULLY_CONNECTED')
    layer = Node('FULLY_CONNECTED', [shown, kernel], [made], options)
    graph = Graph([convolutions.reshape(source, shown), layer], [source], [made])
    passes._read_through_reshapes(graph)
    assert graph.ops.get('RESHAPE', 0) == left


@pytest.mark.slow
def test_constants_of_products_lie_as_tflm_wants_them(rng):
    """Of others it keeps a copy, for as long as the model lives."""
    table = rng.standard_normal((2, 8, 500)).astype(np.float32)
    function = lambda x: jnp.einsum('thd,hdr->htr', x[0].reshape(4, 2, 8), table).sum(axis=(0, 1))[None]
    windows = rng.standard_normal((3, 4, 16)).astype(np.float32)
    graph = float32(function, (1, 4, 16))
    optimised = passes.optimise(graph)
    np.testing.assert_allclose(in_litert(optimised, windows), in_litert(graph, windows), rtol=1e-5, atol=1e-5)
    if tflm.missing() is None:
        assert in_tflm(graph, windows).arena_bytes - in_tflm(optimised, windows).arena_bytes >= table.nbytes


def turned(graph):
    """Of each product whether its right side lies as TFLM wants it."""
    return [node.options.adjY for node in graph.nodes if node.op == 'BATCH_MATMUL']


@pytest.mark.parametrize('bits', [8, {'': 8, 'softmax': 16}], ids=['8', '8 and 16'])
def test_what_several_products_read_is_turned_once(rng, bits):
    """Of two blocks of queries, keys and values are on the right of two products; wide ones behind a conversion."""
    windows = rng.standard_normal((3, 12, 16)).astype(np.float32)
    graph = quantise(attention(rng, blocks=2), windows, bits)
    optimised = passes.optimise(graph)
    assert turned(optimised) == [True] * 4 != turned(graph)
    assert optimised.ops['TRANSPOSE'] <= graph.ops['TRANSPOSE']
    np.testing.assert_array_equal(in_litert(optimised, windows), in_litert(graph, windows))


def test_what_others_read_too_is_not_turned(rng):
    kernel = rng.standard_normal((16, 16)).astype(np.float32)

    def function(x):
        y = (x[0] @ kernel).reshape(12, 2, 8).transpose(1, 2, 0)
        return jnp.concatenate([(x[0].reshape(2, 12, 8) @ y).reshape(1, -1), (y + 1).reshape(1, -1)], axis=1)

    windows = rng.standard_normal((3, 12, 16)).astype(np.float32)
    graph = quantise(function, windows)
    optimised = passes.optimise(graph)
    assert turned(optimised) == [False]
    np.testing.assert_array_equal(in_litert(optimised, windows), in_litert(graph, windows))


@pytest.mark.slow
@pytest.mark.parametrize(('bits', 'joined'), [(8, 0), (16, 5)])
def test_zeros_of_16_bits_are_joined(rng, bits, joined):
    """Before, behind, around, in the middle of a shape; not where calls would be many, nor along two axes."""

    def function(x):
        y = jax.nn.relu(x[0] @ kernel)
        ends = [((2, 1), (0, 0)), ((3, 0), (0, 0)), ((0, 3), (0, 0)), ((0, 0), (0, 5)), ((1, 1), (1, 1))]
        padded = [jnp.pad(y, end) for end in ends]
        padded += [jnp.pad(y.reshape(2, 6, 33), ((0, 0), (0, 2), (0, 0))), jnp.pad(y.reshape(36, 11), ((0, 0), (0, 3)))]
        return jnp.concatenate([end.reshape(1, -1) for end in padded], axis=1)

    kernel = rng.standard_normal((33, 33)).astype(np.float32)
    windows = rng.standard_normal((3, 12, 33)).astype(np.float32)
    graph = quantise(function, windows, bits)
    optimised = passes.optimise(graph)
    before, after = graph.ops, optimised.ops
    assert before['PAD'] == 7
    assert (after['PAD'], after['CONCATENATION'] - before['CONCATENATION']) == (7 - joined, joined)
    np.testing.assert_array_equal(in_litert(optimised, windows), in_litert(graph, windows))
    if tflm.missing() is None:
        step = 1.01 * optimised.output.scale  # the layer's rounding
        np.testing.assert_allclose(in_tflm(optimised, windows).logits, in_litert(graph, windows), atol=step)


def softmaxes(graph):
    """The shape of each."""
    return [node.output.shape for node in graph.nodes if node.op == 'SOFTMAX']


@pytest.mark.slow
@pytest.mark.parametrize(
    ('bits', 'frames', 'flat'),
    [(8, 100, True), (8, 12, False), (16, 100, False), ({'': 8, 'softmax': 16}, 100, False)],
    ids=['8 in parts', '8 whole', '16 in parts', '8 and 16 in parts'],
)
def test_a_softmax_of_8_bits_reads_a_matrix_where_its_rows_are_longer_than_the_second_axis(
    rng, monkeypatch, bits, frames, flat
):
    """ESP-NN would take memory for rows of 50 where they have 100: nothing fails, it writes beyond its memory.

    Views take no arena, but each is a node; not a bit of the output changes.
    """
    monkeypatch.setattr(tile, 'ATTENTION_PARTS', (2,))
    windows = rng.standard_normal((2, frames, 16)).astype(np.float32)
    graph = quantise(attention(rng), windows, bits)
    safe = passes.optimise(graph)
    monkeypatch.setattr(passes, '_flatten_softmaxes', lambda graph: None)
    plain = passes.optimise(graph)
    parts = {12: 1, 100: 2}[frames]
    assert softmaxes(plain) == [(2, frames // parts, frames)] * parts
    assert softmaxes(safe) == ([(2 * frames // parts, frames)] * parts if flat else softmaxes(plain))
    assert len(safe.nodes) - len(plain.nodes) == 2 * parts * flat
    np.testing.assert_array_equal(in_litert(safe, windows), in_litert(plain, windows))
    if tflm.missing() is None:
        made, expected = in_tflm(safe, windows), in_tflm(plain, windows)
        np.testing.assert_array_equal(made.logits, expected.logits)
        assert made.arena_bytes - expected.arena_bytes <= 2 * parts * flat * 160  # bytes of a node


def test_such_a_softmax_reads_a_matrix_whatever_is_around_it(rng):
    """Between reshapes, of which one is left on each side; as the graph's output."""
    function = lambda x: jax.nn.softmax(jnp.tanh(x).reshape(2, 3, 4)).reshape(4, 6)
    windows = rng.standard_normal((3, 6, 4)).astype(np.float32)
    graph = passes.optimise(quantise(function, windows))
    assert [node.op for node in graph.nodes] == ['TANH', 'RESHAPE', 'SOFTMAX', 'RESHAPE']
    assert graph.output.shape == (4, 6)
    last = passes.optimise(quantise(lambda x: jax.nn.softmax(jnp.tanh(x)), windows.reshape(3, 4, 6)))
    assert last.output.shape == (1, 4, 6)
    assert softmaxes(last) == [(4, 6)]


@pytest.mark.slow
def test_equal_constants_are_one_tensor(rng, monkeypatch):
    """TFLM keeps 24 bytes for each on this host, and rounds their sum up to 16."""
    windows = rng.standard_normal((2, 100, 16)).astype(np.float32)
    graph = quantise(attention(rng), windows)
    shared = passes.optimise(graph)
    monkeypatch.setattr(passes, '_share_constants', lambda graph: None)
    apart = passes.optimise(graph)
    held = [[tensor for tensor in form.used() if tensor.constant is not None] for form in (shared, apart)]
    content = [{(t.port, t.axis, t.values.tobytes()) for t in tensors} for tensors in held]
    assert content[0] == content[1]
    assert len(content[0]) == len(held[0]) < len(held[1])
    np.testing.assert_array_equal(in_litert(shared, windows), in_litert(apart, windows))
    if tflm.missing() is None:
        saved = in_tflm(apart, windows).arena_bytes - in_tflm(shared, windows).arena_bytes
        assert saved > 24 * (len(held[1]) - len(held[0])) - 16


def test_constants_that_differ_in_anything_stay_apart():
    one = Tensor((2, 2), 'int8', np.float32([0.5]), constant=np.eye(2, dtype=np.int8))
    changes = [
        {'scale': np.float32([0.25])},
        {'scale': None},
        {'zero_point': 1},
        {'axis': 1},
        {'dtype': 'uint8', 'constant': np.eye(2, dtype=np.uint8)},
        {'shape': (4,), 'constant': np.eye(2, dtype=np.int8).reshape(4)},
        {'constant': np.zeros((2, 2), np.int8)},
    ]
    constants = [one, *(dataclasses.replace(one, **change) for change in changes), dataclasses.replace(one)]
    source = Tensor((2, 2), 'int8')
    graph = Graph([Node('ADD', [source, tensor], [Tensor((2, 2), 'int8')]) for tensor in constants], [source], [])
    passes._share_constants(graph)
    assert [node.inputs[1] for node in graph.nodes] == [*constants[:-1], one]
