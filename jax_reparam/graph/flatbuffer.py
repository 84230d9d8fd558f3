"""What a .tflite file holds: operators, input and output."""

from __future__ import annotations

import collections
import copy
import dataclasses
import functools
import struct
from collections.abc import Sequence
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from jax_reparam.schema import Positive, Size

IDENTIFIER = b'TFL3'
# Of the constants' buffers in the file, as the schema asks (force_align).
BUFFER_ALIGNMENT = 16
# Operators that give the values of another tensor in another type.
CONVERSIONS = ('QUANTIZE', 'CAST')
# Fields of the schema's table SubGraph.
_INPUTS, _OPERATORS = 6, 10


@dataclasses.dataclass(frozen=True)
class Port:
    """The one input or output tensor of a graph.

    Attributes:
      shape: its shape, batch included.
      dtype: `float32`, `int8` or `int16`.
      scale: real value of one step; None where the tensor is float.
      zero_point: the integer that stands for 0.0; None where the tensor is float.
    """

    shape: tuple[Size, ...]
    dtype: str
    scale: Positive | None
    zero_point: int | None

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Real values to what the tensor holds: rounded to the nearest step and clipped, or as they are."""
        if self.scale is None or self.zero_point is None:
            return values.astype(self.dtype)
        limits = np.iinfo(self.dtype)
        steps: np.ndarray = np.rint(values / np.float32(self.scale)) + self.zero_point
        return steps.clip(limits.min, limits.max).astype(self.dtype)

    def decode(self, values: np.ndarray, dtype: type[np.floating] = np.float32) -> np.ndarray:
        """What the tensor holds to real values, float32, or float64 for sums over many."""
        real: np.ndarray = values.astype(dtype)
        if self.scale is not None and self.zero_point is not None:
            real = (real - self.zero_point) * dtype(self.scale)
        return real


@dataclasses.dataclass(frozen=True)
class Graph:
    """The facts about one .tflite file.

    Attributes:
      ops: number of nodes by operator name, most frequent first.
      input: the features' tensor, `[1, frames, n_mels]`.
      output: the logits' tensor, `[1, C]`.
    """

    ops: dict[str, int]
    input: Port
    output: Port


@functools.lru_cache(maxsize=8)
def graph(model: bytes) -> Graph:
    """Reads the graph of a .tflite file.

    Raises:
      ValueError: not a .tflite file, or one that has not one graph with one input and one output.
    """
    content = tree(model)
    subgraph = content.subgraphs[0]
    counts = collections.Counter(operator_names(content))
    return Graph(
        ops=dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))),
        input=port(subgraph.tensors[subgraph.inputs[0]]),
        output=port(subgraph.tensors[subgraph.outputs[0]]),
    )


def tree(model: bytes) -> Any:
    """The file as the schema's nested objects (`ModelT`), to be changed and given to `pack`.

    Raises:
      ValueError: see `graph`.
    """
    if model[4:8] != IDENTIFIER:
        raise ValueError(f'expected a .tflite file (identifier {IDENTIFIER!r}), got {bytes(model[4:8])!r}')
    try:
        content = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(model, 0))
    except (struct.error, IndexError, TypeError, ValueError) as error:
        raise ValueError(f'expected a whole .tflite file, got a damaged one ({error})') from error
    if len(content.subgraphs) != 1:
        raise ValueError(f'expected 1 graph in the .tflite file, got {len(content.subgraphs)}')
    subgraph = content.subgraphs[0]
    if len(subgraph.inputs) != 1 or len(subgraph.outputs) != 1:
        raise ValueError(f'expected 1 input and 1 output, got {len(subgraph.inputs)} and {len(subgraph.outputs)}')
    return content


class _Builder(flatbuffers.Builder):  # type: ignore[misc, unused-ignore]
    """Puts constants where the schema wants them, which Python's own builder does not."""

    def CreateNumpyVector(self, array: np.ndarray) -> Any:  # noqa: N802
        if array.dtype != np.uint8:
            return super().CreateNumpyVector(array)
        # Of all byte vectors, only buffers matter; a device reads int32 biases in place.
        self.StartVector(1, array.size, BUFFER_ALIGNMENT)
        self.head -= array.size
        self.Bytes[self.head : self.head + array.size] = array.tobytes()
        self.vectorNumElems = array.size
        return self.EndVector()


def pack(content: Any) -> bytes:
    """The file of what `tree` gave, its constants aligned as the schema asks."""
    builder = _Builder(1024)
    builder.Finish(content.Pack(builder), IDENTIFIER)
    return bytes(builder.Output())


def part(model: bytes | bytearray, start: int, end: int, inputs: Sequence[int]) -> bytes:
    """The file with the nodes from `start` to before `end` alone.

    `inputs` are the tensors that these read and others made; they become the graph's inputs. Its output stays, and
    holds nothing where the node that makes it is left out.
    """
    table = schema.Model.GetRootAsModel(model, 0).Subgraphs(0)._tab
    nodes, field = table.Vector(table.Offset(_OPERATORS)), table.Pos + table.Offset(_INPUTS)
    content = bytearray(model)
    content += bytes(-len(content) % 4)
    # Offsets count from where they lie; the number of entries lies before the first.
    struct.pack_into('<I', content, field, len(content) - field)
    content += struct.pack(f'<I{len(inputs)}i', len(inputs), *inputs)
    struct.pack_into('<I', content, nodes - 4, end - start)
    for place in range(end - start):
        [offset] = struct.unpack_from('<I', model, nodes + 4 * (start + place))
        struct.pack_into('<I', content, nodes + 4 * place, offset + 4 * start)
    return bytes(content)


def buffer(model: bytearray, index: int) -> np.ndarray:
    """The bytes of a buffer, where they lie in the file: what is written to them is written to it."""
    data: np.ndarray = schema.Model.GetRootAsModel(model, 0).Buffers(index).DataAsNumpy()
    return data


def operator_names(content: Any) -> list[str]:
    """The name of each node's operator, in the order of the nodes."""
    codes = [max(code.builtinCode, code.deprecatedBuiltinCode) for code in content.operatorCodes]
    return [_names('BuiltinOperator')[codes[node.opcodeIndex]] for node in content.subgraphs[0].operators]


def named_nodes(content: Any) -> list[tuple[str, Any]]:
    """The nodes of a tree in their order, each with its operator's name."""
    return list(zip(operator_names(content), content.subgraphs[0].operators, strict=True))


def type_name(kind: int) -> str:
    """The name of a tensor's type, `float32` or `int8`, by its number in the schema."""
    return _names('TensorType')[kind].lower()


def is_constant(content: Any, index: int) -> bool:
    """Whether a tensor of a tree lies in the file."""
    data = content.buffers[content.subgraphs[0].tensors[index].buffer].data
    return data is not None and len(data) > 0


def dtype(content: Any, index: int) -> str:
    """The name of a tensor's type, `float32` or `int8`."""
    return type_name(content.subgraphs[0].tensors[index].type)


def constant(content: Any, index: int) -> np.ndarray:
    """A constant tensor of a tree, in its shape and type; a view of its buffer."""
    tensor = content.subgraphs[0].tensors[index]
    data: np.ndarray = np.asarray(content.buffers[tensor.buffer].data, np.uint8)
    return data.view(type_name(tensor.type)).reshape(shape(content, index))


def set_constant(content: Any, index: int, values: np.ndarray) -> None:
    """Gives a constant tensor of a tree other values, with their shape and type; equal ones may share a buffer."""
    tensors = content.subgraphs[0].tensors
    tensor = tensors[index]
    if not tensor.buffer or sum(other.buffer == tensor.buffer for other in tensors) > 1:
        tensor.buffer = len(content.buffers)
        content.buffers.append(schema.BufferT())
    tensor.shape, tensor.type = np.array(values.shape, np.int32), getattr(schema.TensorType, values.dtype.name.upper())
    content.buffers[tensor.buffer].data = np.ascontiguousarray(values).reshape(-1).view(np.uint8)


def add_constant(content: Any, values: np.ndarray) -> int:
    """The index of a constant tensor in a tree, which is added where there is no equal one."""
    tensors = content.subgraphs[0].tensors
    for index, tensor in enumerate(tensors):
        same_type = type_name(tensor.type) == values.dtype.name and is_constant(content, index)
        if same_type and np.array_equal(constant(content, index), values):
            return index
    tensors.append(schema.TensorT())
    set_constant(content, len(tensors) - 1, values)
    return len(tensors) - 1


def add_like(content: Any, index: int, shape: Sequence[int] | None = None) -> int:
    """The index of a new tensor in a tree that is like another one, in another shape if given; they share a buffer."""
    tensors = content.subgraphs[0].tensors
    tensor = copy.deepcopy(tensors[index])
    if shape is not None:
        tensor.shape, tensor.shapeSignature = np.array(shape, np.int32), None
    tensors.append(tensor)
    return len(tensors) - 1


def add_int16(content: Any, index: int, scale: float) -> int:
    """The index of a new tensor in a tree that is like another one, but in 16 bits around 0, and without content."""
    added = add_like(content, index)
    tensor = content.subgraphs[0].tensors[added]
    tensor.type, tensor.buffer = schema.TensorType.INT16, 0
    tensor.quantization.scale, tensor.quantization.zeroPoint = np.array([scale], np.float32), np.array([0])
    return added


def bias_scale(content: Any, source: int, weights: int) -> np.ndarray:
    """The scale of a layer's bias, `[1]` or one a channel, float64: its input's times its weights'."""
    one, each = (content.subgraphs[0].tensors[index].quantization.scale for index in (source, weights))
    return np.float64(one[0]) * np.asarray(each, np.float64)


def node(content: Any, name: str, inputs: Sequence[int], output: int, **options: Any) -> Any:
    """A node of a builtin operator of the first version, for a tree's `operators`; `options` are its fields there."""
    operator = _node(content, getattr(schema.BuiltinOperator, name), None, inputs, output)
    kind = f'{name.title().replace("_", "")}Options'
    if hasattr(schema.BuiltinOptions, kind):
        operator.builtinOptionsType = getattr(schema.BuiltinOptions, kind)
        operator.builtinOptions = getattr(schema, f'{kind}T')()
        for field, value in options.items():
            setattr(operator.builtinOptions, field, value)
    return operator


def custom_node(content: Any, name: str, inputs: Sequence[int], output: int, options: bytes) -> Any:
    """The same of a custom operator."""
    operator = _node(content, schema.BuiltinOperator.CUSTOM, name, inputs, output)
    operator.customOptions = np.frombuffer(options, np.uint8)
    return operator


def _node(content: Any, number: int, custom: str | None, inputs: Sequence[int], output: int) -> Any:
    codes = [(max(c.builtinCode, c.deprecatedBuiltinCode), c.customCode) for c in content.operatorCodes]
    if (number, custom) not in codes:
        content.operatorCodes.append(schema.OperatorCodeT(min(number, 127), custom, builtinCode=number))
        codes.append((number, custom))
    return schema.OperatorT(codes.index((number, custom)), np.array(inputs, np.int32), np.array([output], np.int32))


def readers(content: Any) -> dict[int, list[int]]:
    """By tensor the places of the nodes that read it, once for each time that they do."""
    by_tensor: dict[int, list[int]] = collections.defaultdict(list)
    for place, node in enumerate(content.subgraphs[0].operators):
        for tensor in node.inputs:
            by_tensor[int(tensor)].append(place)
    return by_tensor


def shape(content: Any, index: int) -> tuple[int, ...]:
    """The shape of a tensor of a tree."""
    sizes = content.subgraphs[0].tensors[index].shape
    return () if sizes is None else tuple(int(size) for size in sizes)


def note(content: Any, name: str) -> np.ndarray | None:
    """The bytes of a tree's metadata under a name; None where there are none."""
    for other in content.metadata or []:
        if other.name in (name, name.encode()):
            return np.asarray(content.buffers[other.buffer].data, np.uint8)
    return None


def set_note(content: Any, name: str, data: np.ndarray) -> None:
    """Puts bytes into a tree's metadata, in place of those that were there under that name."""
    others = [other for other in content.metadata or [] if other.name not in (name, name.encode())]
    content.metadata = [*others, schema.MetadataT(name, len(content.buffers))]
    content.buffers.append(schema.BufferT(data))


def port(tensor: Any) -> Port:
    """Shape, type and scale of one tensor of `tree`; the first scale, where there is one a channel."""
    sizes, kind = tuple(int(size) for size in tensor.shape), type_name(tensor.type)
    scales = None if tensor.quantization is None else tensor.quantization.scale
    if scales is None or len(scales) == 0:
        return Port(sizes, kind, scale=None, zero_point=None)
    return Port(sizes, kind, scale=float(scales[0]), zero_point=int(tensor.quantization.zeroPoint[0]))


@functools.cache
def _names(enumeration: str) -> dict[int, str]:
    members = vars(getattr(schema, enumeration))
    return {value: name for name, value in members.items() if isinstance(value, int)}
