"""Ports between real values and integers, and what a graph says of its nodes and tensors."""

from __future__ import annotations

import numpy as np
import pytest

from jax_reparam.graph import flatbuffer
from jax_reparam.graph.graph import Graph, Node, Port, Tensor


def test_a_port_rounds_to_the_nearest_step_and_clips():
    port = Port(shape=(1, 4), dtype='int8', scale=0.5, zero_point=-3)
    values = np.array([[0.0, 0.76, -1000.0, 1000.0]], np.float32)
    encoded = port.encode(values)
    assert encoded.dtype == np.int8
    assert encoded.tolist() == [[-3, -1, -128, 127]]
    np.testing.assert_allclose(port.decode(encoded), [[0.0, 1.0, -62.5, 65.0]])


def test_a_float_port_changes_nothing(rng):
    port = Port(shape=(1, 4), dtype='float32', scale=None, zero_point=None)
    values = rng.standard_normal((1, 4)).astype(np.float32)
    np.testing.assert_array_equal(port.decode(port.encode(values)), values)


@pytest.fixture
def graph():
    """`[1, 4]` to `[1, 4]`: a product with itself, a sum with a constant, and a tensor that nobody uses."""
    source, squared, result = (Tensor((1, 4), 'float32', name=name) for name in ('features', 'squared', 'logits'))
    ones = Tensor.of(np.ones((1, 4), np.float32))
    nodes = [
        Node('MUL', [source, source], [squared], flatbuffer.options('MUL')),
        Node('ADD', [squared, ones], [result], flatbuffer.options('ADD')),
    ]
    return Graph(nodes, [source], [result], [ones, Tensor((7,), 'float32'), source], {'note': b'text'})


def test_who_reads_and_who_makes(graph):
    product, total = graph.nodes
    assert graph.readers()[graph.inputs[0]] == [product, product]
    assert graph.makers() == {product.output: product, total.output: total}
    assert graph.ops == {'ADD': 1, 'MUL': 1}


def test_tensors_in_use_come_in_the_order_of_the_file(graph):
    assert [tensor.name for tensor in graph.used()] == ['', 'features', 'squared', 'logits']


def test_a_copy_has_nodes_and_tensors_of_its_own(graph):
    before = flatbuffer.write(graph)
    other = graph.copy()
    assert flatbuffer.write(other) == before
    for tensor in other.used():
        tensor.shape, tensor.name = (2, 2), 'other'
    for node in other.nodes:
        node.options.fusedActivationFunction = 1
        node.inputs.append(None)
    other.metadata.clear()
    other.replace(other.nodes[0], [])
    assert flatbuffer.write(graph) == before
