""".tflite files: what is read is what was written, and a file that is none is refused."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ai_edge_litert import interpreter
from ai_edge_litert import schema_py_generated as schema

from helpers import float32, quantise
from jax_reparam.deploy import convert
from jax_reparam.graph import flatbuffer
from jax_reparam.graph.graph import Graph, Node, Tensor
from jax_reparam.runtime import litert

WEIGHTS = np.random.default_rng(0).standard_normal((8, 8)).astype(np.float32)


def attention(x):
    return jax.nn.softmax((x @ WEIGHTS) @ x.transpose(0, 2, 1))[:, 0] @ jnp.ones((12, 2))


def convolution(x):
    numbers = ('NHWC', 'HWIO', 'NHWC')
    y = jax.lax.conv_general_dilated(
        x[..., None], WEIGHTS.reshape(4, 4, 1, 4), (2, 2), 'SAME', dimension_numbers=numbers
    )
    return jnp.pad(jax.nn.relu(y), ((0, 0), (1, 0), (0, 0), (0, 0))).reshape(1, -1)


def linear(x):
    """Two layers of equal weights, a slice, a join, a sum."""
    y = jnp.concatenate([x[0] @ WEIGHTS + 1, x[0, ::2] @ WEIGHTS])
    return jax.nn.sigmoid(y).sum(axis=0, keepdims=True)


def windows(shape=(3, 12, 8)):
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


@pytest.fixture(scope='module', params=[attention, convolution, linear], ids=lambda function: function.__name__)
def function(request):
    return request.param


@pytest.fixture(scope='module')
def graphs(function):
    """A function in float32, int8 and int16."""
    return [float32(function, (1, 12, 8)), *(quantise(function, windows(), bits) for bits in (8, 16))]


def content(graph):
    """All that a graph is, its tensors by their places."""
    tensors = graph.used()
    places = {tensor: place for place, tensor in enumerate(tensors)} | {None: None}

    def values(array):
        return None if array is None else (array.dtype.name, array.shape, array.tobytes())

    def node(n):
        options = n.options and {name: np.asarray(value).tolist() for name, value in vars(n.options).items()}
        return n.op, [places[t] for t in n.inputs], [places[t] for t in n.outputs], options, n.custom, n.version

    def tensor(t):
        format_ = (values(t.scale), t.zero_point, t.axis) if t.scale is not None else None
        return t.shape, t.dtype, t.name, values(t.constant), format_

    ends = [[places[tensor] for tensor in some] for some in (graph.inputs, graph.outputs)]
    return [*map(node, graph.nodes)], [*map(tensor, tensors)], ends, graph.metadata


def drawn(rng):
    """A graph of nodes with gaps, custom ones, constants of all types, channels with scales, and notes."""
    tensors = [Tensor((1, 6), 'float32', name='features')]
    nodes = []
    for index in range(int(rng.integers(1, 9))):
        dtype = str(rng.choice(['float32', 'int8', 'int16', 'int32', 'int64']))
        shape = tuple(map(int, rng.integers(1, 4, int(rng.integers(0, 4)))))
        constant = Tensor.of(rng.integers(-100, 100, shape).astype(dtype))
        made = Tensor(shape, dtype, name=str(rng.choice(['', f'name {index}'])))
        for tensor in (constant, made) if shape and rng.integers(2) else ():
            axis = int(rng.integers(len(shape)))
            tensor.scale = rng.random(shape[axis] if rng.integers(2) else 1).astype(np.float32)
            tensor.zero_point, tensor.axis = int(rng.integers(-128, 128)), axis
        reads = [None if rng.integers(4) == 0 else tensors[int(rng.integers(len(tensors)))] for _ in range(3)]
        op = str(rng.choice(['ADD', 'FULLY_CONNECTED', 'CONV_2D', 'SLICE', 'RSQRT', 'Own']))
        if op == 'Own':
            nodes.append(Node(op, [*reads, constant], [made], custom=rng.bytes(int(rng.integers(1, 9)))))
        else:
            nodes.append(Node(op, [*reads, constant], [made], flatbuffer.options(op), version=int(rng.integers(1, 9))))
        tensors += [constant, made]
    tensors[-1].name = 'logits'
    notes = {f'note {index}': rng.bytes(int(rng.integers(1, 50))) for index in range(int(rng.integers(3)))}
    order = [tensors[index] for index in rng.permutation(len(tensors))]
    return Graph(nodes, [tensors[0]], [tensors[-1]], order, notes)


def kept(graph):
    """Whether a graph is read as it was written, and written again to the same bytes."""
    file = flatbuffer.write(graph)
    again = flatbuffer.read(file)
    return content(again) == content(graph) and flatbuffer.write(again) == file


@pytest.mark.parametrize('seed', range(30))
def test_what_is_written_is_read(seed):
    assert kept(drawn(np.random.default_rng(seed)))


def test_a_converted_graph_is_kept(graphs):
    assert all(map(kept, graphs))


def test_a_converter_s_file_computes_the_same_once_written(function):
    file = convert.to_float32(function, (1, 12, 8))
    graph = flatbuffer.read(file)
    assert (graph.inputs[0].name, graph.outputs[0].name) == ('features', 'logits')  # by its signature
    np.testing.assert_array_equal(litert.load(flatbuffer.write(graph))(windows()), litert.load(file)(windows()))


def test_equal_constants_lie_in_the_file_once_and_unused_ones_nowhere(graphs):
    for graph in graphs:
        file = flatbuffer.write(graph)
        data = [bytes(buffer.data) for buffer in raw(file).buffers if buffer.data is not None and len(buffer.data)]
        assert len(data) == len(set(data)) < len(graph.used())
        graph.tensors.append(Tensor.of(np.arange(1000.0)))
        assert flatbuffer.write(graph) == file


def test_input_and_output_are_named_in_the_signature(graphs):
    for graph in graphs:
        graph.inputs[0].name, graph.outputs[0].name = 'one', 'other'
        file = flatbuffer.write(graph)
        signatures = interpreter.Interpreter(model_content=file).get_signature_list()
        assert signatures == {flatbuffer.SIGNATURE: {'inputs': ['one'], 'outputs': ['other']}}
        again = flatbuffer.read(file)
        assert (again.inputs[0].name, again.outputs[0].name) == ('one', 'other')


def test_constants_lie_where_the_schema_wants_them(graphs):
    for graph in graphs:
        file = flatbuffer.write(graph)
        tree, whole = schema.Model.GetRootAsModel(file, 0), np.frombuffer(file, np.uint8)
        first = whole.__array_interface__['data'][0]
        constants = [tree.Buffers(i) for i in range(tree.BuffersLength()) if tree.Buffers(i).DataLength()]
        assert len(constants) > 1
        for constant in constants:
            at = constant.DataAsNumpy().__array_interface__['data'][0] - first
            assert at % flatbuffer.ALIGNMENT == 0


@pytest.mark.parametrize(
    ('file', 'found'),
    [(b'', "b''"), (b'RIFF\0\0\0\0WAVE', r"b'\x00\x00\x00\x00'"), (b'{"model": 1}', "b'del\"'")],
    ids=['empty', 'wav', 'json'],
)
def test_what_is_no_tflite_file_is_refused(file, found):
    with pytest.raises(ValueError, match=r"^expected a \.tflite file \(identifier b'TFL3'\), got b") as refused:
        flatbuffer.read(file)
    assert str(refused.value).endswith(found)


def test_a_damaged_file_is_read_or_refused_in_one_line():
    """Cut off anywhere, or with one byte changed."""
    whole = flatbuffer.write(drawn(np.random.default_rng(3)))
    rng = np.random.default_rng(0)
    cut = [whole[:length] for length in range(0, len(whole), 7)]
    changed = [bytearray(whole) for _ in range(300)]
    for file in changed:
        file[int(rng.integers(len(file)))] = int(rng.integers(256))
    messages = [refusal(file) for file in [*cut, *map(bytes, changed)]]
    assert all(message.startswith('expected ') and '\n' not in message for message in messages if message)
    assert sum(map(bool, messages)) > len(cut)


def refusal(file):
    """Why a file is not read; '' where it is."""
    try:
        flatbuffer.read(file)
    except ValueError as error:
        return str(error)
    return ''


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda content: content.subgraphs.append(content.subgraphs[0]), 'expected 1 graph in the .tflite file, got 2'),
        (
            lambda content: setattr(content.subgraphs[0], 'outputs', np.zeros(2, np.int32)),
            'expected 1 input and 1 output, got 1 and 2',
        ),
        (
            lambda content: setattr(content.operatorCodes[0], 'builtinCode', 9999),
            'expected a whole .tflite file, got a damaged one (9999)',
        ),
    ],
    ids=['graphs', 'outputs', 'operator'],
)
def test_a_file_of_another_kind_is_refused(change, message):
    content = raw(flatbuffer.write(drawn(np.random.default_rng(3))))
    change(content)
    builder = flatbuffer._Builder(1024)
    builder.Finish(content.Pack(builder), flatbuffer.IDENTIFIER)
    with pytest.raises(ValueError) as refused:  # noqa: PT011
        flatbuffer.read(bytes(builder.Output()))
    assert str(refused.value) == message


def raw(file):
    """The schema's own objects of a file."""
    return schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(file, 0))
