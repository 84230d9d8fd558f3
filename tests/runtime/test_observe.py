"""Graphs run in LiteRT: what is inside is what the same nodes make alone."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from helpers import float32, quantise
from jax_reparam.graph import flatbuffer
from jax_reparam.graph.graph import Graph, Node, Tensor
from jax_reparam.runtime import litert, observe

WEIGHTS = np.random.default_rng(0).standard_normal((8, 8)).astype(np.float32)


def function(x):
    y = jax.nn.softmax(x[0] @ WEIGHTS)
    return (jax.nn.sigmoid(y @ WEIGHTS + 1) * y).sum(0, keepdims=True)


@pytest.fixture
def windows(rng):
    return rng.standard_normal((3, 6, 8)).astype(np.float32)


@pytest.fixture(params=[None, 8, 16], ids=['float32', 'int8', 'int16'])
def graph(request, windows):
    whole = float32(function, windows.shape)
    return whole if request.param is None else quantise(function, windows, request.param)


def test_inputs_and_outputs_are_those_of_the_whole(graph, windows):
    ends = [*graph.inputs, *graph.outputs]
    before = flatbuffer.write(graph)
    expected = litert.load(before)(windows)  # by XNNPACK
    seen = list(observe.observe(graph, ends, windows))
    for values, window, logits in zip(seen, windows, expected, strict=True):
        assert list(values) == ends
        step = graph.input.scale or 0
        np.testing.assert_allclose(values[ends[0]][0], window, atol=1.01 * step / 2)
        np.testing.assert_allclose(values[ends[1]][0], logits, rtol=1e-5, atol=1.01 * (graph.output.scale or 0))
        assert values[ends[1]].dtype == np.float64
    np.testing.assert_array_equal(observe.logits(graph, windows), [values[ends[1]][0] for values in seen])
    assert flatbuffer.write(graph) == before


def test_some_nodes_alone_make_what_they_made(graph, windows):
    """Given what they read, which others made."""
    start = [node.op for node in graph.nodes].index('SOFTMAX')
    nodes = graph.nodes[start : start + 3]
    made = {tensor for node in nodes for tensor in node.outputs}
    given = [*dict.fromkeys(t for node in nodes for t in node.reads if t.constant is None and t not in made)]
    last = nodes[-1].output
    inputs = [{graph.inputs[0]: graph.input.encode(window[None])} for window in windows]
    expected = list(observe.run(graph, inputs, [*given, last]))
    assert not np.array_equal(expected[0][last], expected[1][last])
    part = dataclasses.replace(graph, nodes=nodes, inputs=given, outputs=[last])
    for one, other in zip(observe.run(part, expected, [last]), expected, strict=True):
        np.testing.assert_array_equal(one[last], other[last])


def test_an_rsqrt_of_16_bits_is_exact():
    """Of 0, which is infinite, too."""
    integers = np.arange(2**15, dtype=np.int16)[None]
    source, output = (Tensor(integers.shape, 'int16', np.float32([scale])) for scale in (0.01, 1e-4))
    graph = Graph([Node('RSQRT', [source], [output], version=2)], [source], [output])
    [seen] = observe.run(graph, [{source: integers}], [output])
    with np.errstate(divide='ignore'):
        expected = np.minimum(1 / np.sqrt(0.01 * integers) / 1e-4, 2**15 - 1)
    np.testing.assert_allclose(seen[output], expected, rtol=0, atol=0.51)
