"""What a device wants of a converted file: the same graph, smaller, and in an order that needs less memory."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from jax_reparam.graph import arena, convolutions, flatbuffer, tile

# Operators that make each element of the one at the same place in what they read.
ELEMENTWISE = {'LOGISTIC', 'MUL', 'RELU', 'TANH', *flatbuffer.CONVERSIONS}
# Values of 16 bits that a copy has to move at a time to be worth a call.
LEAST_COPIED = 32


def optimise(model: bytes, *, fast: bool = False) -> bytes:
    """The same function in a file for devices.

    - No names of inner tensors, no notes of the converter's: it writes the module path of every operator it fused into
      a tensor's name. The input is named `features`, the output `logits`.
    - Widths of paddings in 32 bits: TFLM reads the 64 bits that come out of jax2tf as twice as many numbers.
    - No RESHAPE before a FULLY_CONNECTED, which reads rows of its own width, whatever the shape.
    - What stands on the right of a product as TFLM multiplies by it: else it keeps a transposed copy in its arena.
    - Zeros, which lie in the file once, joined in place of a PAD of 16 bits: TFLM's kernel for that is slow (`cost`).
    - Parts in place of a whole where much memory can be saved (`tile`), convolutions where these are faster
      (`convolutions`): with `fast` more of them, since they take a little more memory.
    - Nodes in the order, and tensors at the places, that need the least memory (`arena`).

    Raises:
      ValueError: not a .tflite file with one graph, one input and one output.
    """
    content = flatbuffer.tree(model)
    _drop_names(content)
    _narrow_paddings(content)
    _transpose_right(content)
    _read_through_reshapes(content)
    _join_zeros(content)
    convolutions.of_one_channel(content)
    content = tile.tile(content)
    convolutions.of_rows(content, convolutions.LEAST_MACS if fast else convolutions.LEAST_MACS_SMALL)
    _drop_unused(content)
    arena.arrange(content)
    return flatbuffer.pack(content)


def _drop_names(content: Any) -> None:
    subgraph = content.subgraphs[0]
    for tensor in subgraph.tensors:
        tensor.name = None
    subgraph.tensors[subgraph.inputs[0]].name = 'features'
    subgraph.tensors[subgraph.outputs[0]].name = 'logits'
    for note in content.metadata or []:
        content.buffers[note.buffer].data = None
    content.metadata = None


def _narrow_paddings(content: Any) -> None:
    for name, node in flatbuffer.named_nodes(content):
        if name in ('PAD', 'PADV2'):
            paddings = flatbuffer.constant(content, node.inputs[1])
            if paddings.dtype == np.int64:
                flatbuffer.set_constant(content, node.inputs[1], paddings.astype(np.int32))


def _transpose_right(content: Any) -> None:
    subgraph, names, readers = content.subgraphs[0], flatbuffer.operator_names(content), flatbuffer.readers(content)
    nodes = subgraph.operators
    maker = {int(node.outputs[0]): (name, node) for name, node in flatbuffer.named_nodes(content)}
    for right, places in list(readers.items()):
        products = [nodes[place] for place in places]
        if any(names[place] != 'BATCH_MATMUL' for place in places) or any(
            node.builtinOptions.adjY or right == node.inputs[0] for node in products
        ):
            continue
        if flatbuffer.is_constant(content, right):
            flatbuffer.set_constant(content, right, np.swapaxes(flatbuffer.constant(content, right), -1, -2))
        else:
            chain = [right]
            name, node = maker.get(right, ('', None))
            while name in flatbuffer.CONVERSIONS:
                chain.append(int(node.inputs[0]))
                name, node = maker.get(chain[-1], ('', None))
            if name != 'TRANSPOSE' or any(len(readers[tensor]) > 1 for tensor in chain[1:]):
                continue
            *outer, last, inner = flatbuffer.constant(content, node.inputs[1])
            turned = flatbuffer.add_constant(content, np.array([*outer, inner, last], np.int32))
            node.inputs = np.array([node.inputs[0], turned], np.int32)
            for tensor in map(subgraph.tensors.__getitem__, chain):
                *outer, last, inner = tensor.shape
                tensor.shape, tensor.shapeSignature = np.array([*outer, inner, last], np.int32), None
        for node in products:
            node.builtinOptions.adjY = True


def _read_through_reshapes(content: Any) -> None:
    subgraph = content.subgraphs[0]
    tensors, names, readers = subgraph.tensors, flatbuffer.operator_names(content), flatbuffer.readers(content)

    def reshaped(tensor: int) -> tuple[set[int], set[int]] | None:
        """What is elementwise of a tensor, itself included, and the layers that read these, if no other node does."""
        same, layers, todo = {tensor}, set(), [tensor]
        while todo:
            for index in readers[todo.pop()]:
                node, output = subgraph.operators[index], int(subgraph.operators[index].outputs[0])
                if names[index] in ELEMENTWISE and same.issuperset(map(int, node.inputs)) and output not in same:
                    same.add(output)
                    todo.append(output)
                elif names[index] == 'FULLY_CONNECTED' and len(tensors[output].shape) == 2:
                    layers.add(index)
                elif output not in same:
                    return None
        return None if same.intersection(map(int, subgraph.outputs)) else (same, layers)

    gone = set()
    for index, (name, node) in enumerate(zip(names, subgraph.operators, strict=True)):
        read_through = reshaped(int(node.outputs[0])) if name == 'RESHAPE' else None
        if read_through is None:
            continue
        same, layers = read_through
        for tensor in same:
            tensors[tensor].shape, tensors[tensor].shapeSignature = tensors[node.inputs[0]].shape, None
            for reader in readers[tensor]:
                inputs = np.asarray(subgraph.operators[reader].inputs)
                subgraph.operators[reader].inputs = np.where(inputs == node.outputs[0], node.inputs[0], inputs)
        for layer in layers:
            subgraph.operators[layer].builtinOptions.keepNumDims = False
        gone.add(index)
    subgraph.operators = [node for index, node in enumerate(subgraph.operators) if index not in gone]


def _join_zeros(content: Any) -> None:
    subgraph = content.subgraphs[0]
    buffers: dict[int, int] = {}

    def zeros(source: int, shape: list[int]) -> int:
        """A constant with the scale of what it is joined to; as many zeros lie in the file once."""
        constant, size = flatbuffer.add_like(content, source, shape), math.prod(shape)
        if size in buffers:
            subgraph.tensors[constant].buffer = buffers[size]
        else:
            flatbuffer.set_constant(content, constant, np.zeros(shape, np.int16))
            buffers[size] = subgraph.tensors[constant].buffer
        return constant

    for place, (name, node) in enumerate(flatbuffer.named_nodes(content)):
        source = int(node.inputs[0])
        if name != 'PAD' or flatbuffer.dtype(content, source) != 'int16':
            continue
        paddings, shape = flatbuffer.constant(content, node.inputs[1]), flatbuffer.shape(content, source)
        axes = np.flatnonzero(paddings.any(axis=1)).tolist()
        if len(axes) != 1 or math.prod(shape[axes[0] :]) < LEAST_COPIED:
            continue
        [axis] = axes
        ends = ([*shape[:axis], int(count), *shape[axis + 1 :]] for count in paddings[axis])
        front, behind = ([zeros(source, end)] if end[axis] else [] for end in ends)
        subgraph.operators[place] = flatbuffer.node(
            content, 'CONCATENATION', [*front, source, *behind], int(node.outputs[0]), axis=axis
        )


def _drop_unused(content: Any) -> None:
    """Tensors, buffers and operators that nothing uses any more: TFLM keeps a record of every tensor in its arena."""
    subgraph = content.subgraphs[0]
    lists = [subgraph.inputs, subgraph.outputs]
    for node in subgraph.operators:
        lists += [node.inputs, node.outputs]
    used = sorted({int(tensor) for tensors in lists for tensor in tensors if tensor >= 0})
    number = {tensor: index for index, tensor in enumerate(used)} | {-1: -1}

    def renumber(tensors: Iterable[int]) -> np.ndarray:
        return np.array([number[int(tensor)] for tensor in tensors], np.int32)

    for node in subgraph.operators:
        node.inputs, node.outputs = renumber(node.inputs), renumber(node.outputs)
    subgraph.inputs, subgraph.outputs = renumber(subgraph.inputs), renumber(subgraph.outputs)
    subgraph.tensors = [subgraph.tensors[tensor] for tensor in used]
    buffers = sorted({0} | {tensor.buffer for tensor in subgraph.tensors})
    for tensor in subgraph.tensors:
        tensor.buffer = buffers.index(tensor.buffer)
    content.buffers = [content.buffers[buffer] for buffer in buffers]
    codes = sorted({node.opcodeIndex for node in subgraph.operators})
    for node in subgraph.operators:
        node.opcodeIndex = codes.index(node.opcodeIndex)
    content.operatorCodes = [content.operatorCodes[code] for code in codes]
