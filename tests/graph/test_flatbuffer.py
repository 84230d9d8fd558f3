"""Reading .tflite files."""

from __future__ import annotations

import numpy as np
import pytest

from helpers import windows_of
from jax_reparam.graph import flatbuffer
from jax_reparam.graph.flatbuffer import Port
from jax_reparam.runtime import observe


@pytest.fixture(scope='module')
def model(exported):
    return (exported.path / 'model_int8.tflite').read_bytes()


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


def test_graph_counts_operators(model, config):
    graph = flatbuffer.graph(model)
    assert graph.ops['SOFTMAX'] == config.model.layers
    assert list(graph.ops.values()) == sorted(graph.ops.values(), reverse=True)
    assert graph.input.shape == (1, 64, 12)
    assert graph.output.shape == (1, 2)


@pytest.mark.parametrize(
    ('damage', 'message'),
    [
        (lambda model: b'RIFF' + model[4:8].replace(b'TFL3', b'WAVE') + model[8:], "identifier b'TFL3'"),
        (lambda model: b'', "identifier b'TFL3'"),
        (lambda model: model[:200], 'damaged'),
    ],
    ids=['not tflite', 'empty', 'truncated'],
)
def test_what_is_no_model_is_refused(model, damage, message):
    with pytest.raises(ValueError, match=message):
        flatbuffer.graph(damage(model))


def test_some_nodes_alone_make_what_they_made(model, data):
    from ai_edge_litert import schema_py_generated as schema

    whole = flatbuffer.tree(model)
    nodes, source = whole.subgraphs[0].operators, int(whole.subgraphs[0].inputs[0])
    windows = windows_of(data, 'test')[0][:2]
    features = [
        {source: flatbuffer.port(whole.subgraphs[0].tensors[source]).encode(window[None])} for window in windows
    ]
    names = flatbuffer.operator_names(whole)
    start = names.index('SOFTMAX')
    made = {int(tensor) for node in nodes[:start] for tensor in node.outputs}
    inputs = sorted(made & {int(tensor) for node in nodes[start : start + 4] for tensor in node.inputs})
    last = int(nodes[start + 3].outputs[0])
    expected = list(observe.run(model, features, [*inputs, last]))
    part = flatbuffer.part(model, start, start + 4, inputs)
    assert schema.Model.GetRootAsModel(part, 0).Subgraphs(0).OperatorsLength() == 4
    found = list(observe.run(part, expected, [last]))
    assert not np.array_equal(expected[0][last], expected[1][last])
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one[last], other[last])


def test_a_constant_is_changed_where_it_lies(model):
    whole = flatbuffer.tree(model)
    bias = whole.subgraphs[0].tensors[whole.subgraphs[0].operators[-1].inputs[2]].buffer
    file = bytearray(model)
    flatbuffer.buffer(file, bias)[:] = 7
    changed = flatbuffer.tree(file)
    assert set(changed.buffers[bias].data) == {7}
    assert len(file) == len(model)
    changed.buffers[bias].data = whole.buffers[bias].data
    assert flatbuffer.pack(changed) == flatbuffer.pack(whole)


def test_constants_lie_where_the_schema_wants_them(model):
    from ai_edge_litert import schema_py_generated as schema

    tree, whole = schema.Model.GetRootAsModel(model, 0), np.frombuffer(model, np.uint8)
    first = whole.__array_interface__['data'][0]
    constants = [tree.Buffers(i) for i in range(tree.BuffersLength()) if tree.Buffers(i).DataLength()]
    assert len(constants) > 10
    for constant in constants:
        assert (constant.DataAsNumpy().__array_interface__['data'][0] - first) % flatbuffer.BUFFER_ALIGNMENT == 0
