"""Reads and writes .tflite files. Nothing else knows how they are laid out."""

from __future__ import annotations

import contextlib
import functools
import struct
from collections.abc import Iterator
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from jax_reparam.graph.graph import Graph, Node, Tensor

IDENTIFIER = b'TFL3'
# Of constants in the file, as the schema asks (force_align).
ALIGNMENT = 16
SIGNATURE = 'serving_default'
# A convolution without padding.
VALID = schema.Padding.VALID


def read(model: bytes) -> Graph:
    """The graph of a .tflite file. Its input and output are named as in the file's signature, if there is one.

    Raises:
      ValueError: not a .tflite file, or one that has not one graph with one input and one output.
    """
    if model[4:8] != IDENTIFIER:
        raise ValueError(f'expected a .tflite file (identifier {IDENTIFIER!r}), got {bytes(model[4:8])!r}')
    with _damage_named():
        content = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(model, 0))
        graphs = len(content.subgraphs)
    if graphs != 1:
        raise ValueError(f'expected 1 graph in the .tflite file, got {graphs}')
    with _damage_named():
        graph = _graph(content)
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise ValueError(f'expected 1 input and 1 output, got {len(graph.inputs)} and {len(graph.outputs)}')
    return graph


@contextlib.contextmanager
def _damage_named() -> Iterator[None]:
    """Makes one error of the many kinds that a damaged file raises in a block."""
    try:
        yield
    except (struct.error, IndexError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f'expected a whole .tflite file, got a damaged one ({error})') from error


def _graph(content: Any) -> Graph:
    [subgraph] = content.subgraphs
    buffers = [b'' if buffer.data is None else bytes(buffer.data) for buffer in content.buffers]
    tensors = [_tensor(tensor, buffers[tensor.buffer]) for tensor in subgraph.tensors]
    for signature in content.signatureDefs or []:
        for entry in (*signature.inputs, *signature.outputs):
            if 0 <= entry.tensorIndex < len(tensors):
                tensors[entry.tensorIndex].name = _text(entry.name)
    operators = [
        (
            _names('BuiltinOperator')[max(code.builtinCode, code.deprecatedBuiltinCode)],
            _text(code.customCode),
            code.version,
        )
        for code in content.operatorCodes
    ]
    nodes = []
    for operator in subgraph.operators:
        name, custom, version = operators[operator.opcodeIndex]
        inputs = [None if index < 0 else tensors[index] for index in operator.inputs]
        outputs = [tensors[index] for index in operator.outputs]
        if name == 'CUSTOM':
            nodes.append(Node(custom, inputs, outputs, custom=bytes(operator.customOptions)))
        else:
            nodes.append(Node(name, inputs, outputs, operator.builtinOptions, version=version))
    return Graph(
        nodes,
        [tensors[index] for index in subgraph.inputs],
        [tensors[index] for index in subgraph.outputs],
        tensors,
        {_text(note.name): buffers[note.buffer] for note in content.metadata or []},
    )


def _tensor(tensor: Any, data: bytes) -> Tensor:
    shape = () if tensor.shape is None else tuple(int(size) for size in tensor.shape)
    dtype, entry = _names('TensorType')[tensor.type].lower(), tensor.quantization
    read = Tensor(shape, dtype, name=_text(tensor.name))
    if entry is not None and entry.scale is not None and len(entry.scale):
        read.scale = np.array(entry.scale, np.float32)
        read.zero_point, read.axis = int(entry.zeroPoint[0]), entry.quantizedDimension
    if data:
        read.constant = np.frombuffer(data, dtype).reshape(shape)
    return read


def write(graph: Graph) -> bytes:
    """The .tflite file of a graph; equal constants lie in it once, at places that a device can read in place."""
    tensors = graph.used()
    index = {tensor: place for place, tensor in enumerate(tensors)}
    content, subgraph = schema.ModelT(), schema.SubGraphT()
    content.version, content.description, content.subgraphs = 3, 'jax_reparam', [subgraph]
    content.buffers, content.operatorCodes = [schema.BufferT()], []  # buffer 0 stands for "none"
    buffers: dict[bytes, int] = {b'': 0}

    def buffer(data: bytes) -> int:
        if data not in buffers:
            buffers[data] = len(content.buffers)
            content.buffers.append(schema.BufferT(np.frombuffer(data, np.uint8)))
        return buffers[data]

    subgraph.name, subgraph.tensors, subgraph.operators = 'main', [], []
    for tensor in tensors:
        entry = schema.TensorT(np.array(tensor.shape, np.int32), hasRank=True, name=tensor.name or None)
        entry.type = getattr(schema.TensorType, tensor.dtype.upper())
        entry.buffer = buffer(b'' if tensor.constant is None else np.ascontiguousarray(tensor.constant).tobytes())
        if tensor.scale is not None:
            zeros = np.full(len(tensor.scale), tensor.zero_point, np.int64)
            entry.quantization = schema.QuantizationParametersT(
                scale=np.asarray(tensor.scale, np.float32), zeroPoint=zeros, quantizedDimension=tensor.axis
            )
        subgraph.tensors.append(entry)
    codes: dict[tuple[str, bool, int], int] = {}
    for node in graph.nodes:
        key = node.op, node.custom is not None, node.version
        if key not in codes:
            codes[key] = len(codes)
            number = schema.BuiltinOperator.CUSTOM if key[1] else getattr(schema.BuiltinOperator, node.op)
            content.operatorCodes.append(
                schema.OperatorCodeT(min(number, 127), node.op if key[1] else None, node.version, number)
            )
        operator = schema.OperatorT(
            codes[key],
            np.array([-1 if tensor is None else index[tensor] for tensor in node.inputs], np.int32),
            np.array([index[tensor] for tensor in node.outputs], np.int32),
        )
        if node.custom is not None:
            operator.customOptions = np.frombuffer(node.custom, np.uint8)
        elif node.options is not None:
            operator.builtinOptions = node.options
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, type(node.options).__name__.removesuffix('T'))
        subgraph.operators.append(operator)
    subgraph.inputs, subgraph.outputs = (
        np.array([index[tensor] for tensor in ends], np.int32) for ends in (graph.inputs, graph.outputs)
    )
    if all(tensor.name for tensor in (*graph.inputs, *graph.outputs)):
        inputs, outputs = (
            [schema.TensorMapT(tensor.name, index[tensor]) for tensor in ends] for ends in (graph.inputs, graph.outputs)
        )
        content.signatureDefs = [schema.SignatureDefT(inputs, outputs, SIGNATURE, 0)]
    content.metadata = [schema.MetadataT(name, buffer(data)) for name, data in graph.metadata.items()] or None
    builder = _Builder(1024)
    builder.Finish(content.Pack(builder), IDENTIFIER)
    return bytes(builder.Output())


class _Builder(flatbuffers.Builder):  # type: ignore[misc, unused-ignore]
    """Puts constants where the schema wants them, which Python's own builder does not."""

    def CreateNumpyVector(self, array: np.ndarray) -> Any:  # noqa: N802
        if array.dtype != np.uint8:
            return super().CreateNumpyVector(array)
        # Of all byte vectors, only buffers matter; a device reads int32 biases in place.
        self.StartVector(1, array.size, ALIGNMENT)
        self.head -= array.size
        self.Bytes[self.head : self.head + array.size] = array.tobytes()
        self.vectorNumElems = array.size
        return self.EndVector()


def options(op: str, **fields: Any) -> Any:
    """The schema's table of an operator's options, with these fields; None where the operator has none."""
    kind = f'{op.title().replace("_", "")}Options'
    if not hasattr(schema.BuiltinOptions, kind):
        return None
    return getattr(schema, f'{kind}T')(**fields)


def _text(value: str | bytes | None) -> str:
    return value.decode() if isinstance(value, bytes) else value or ''


@functools.cache
def _names(enumeration: str) -> dict[int, str]:
    members = vars(getattr(schema, enumeration))
    return {value: name for name, value in members.items() if isinstance(value, int)}
