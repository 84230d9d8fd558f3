"""What a device wants of a converted model: the same graph, smaller, and in an order that needs less memory."""

from __future__ import annotations

import math

import numpy as np

from jax_reparam.graph import arena, convolutions, flatbuffer, tile
from jax_reparam.graph.graph import CONVERSIONS, Graph, Node, Tensor

# Values of 16 bits that a copy has to move at a time to be worth a call.
LEAST_COPIED = 32


def optimise(graph: Graph, *, fast: bool = False) -> Graph:
    """The same function as a graph for devices.

    - No names of inner tensors, no notes of the converter's: it writes the module path of every operator it fused into
      a tensor's name. The input is named `features`, the output `logits`.
    - Widths of paddings in 32 bits: TFLM reads the 64 bits that come out of jax2tf as twice as many numbers.
    - No RESHAPE before a FULLY_CONNECTED that makes a matrix: it reads rows of its own width, whatever the shape.
    - What stands on the right of a product as TFLM multiplies by it: else it keeps a transposed copy in its arena.
    - Zeros, which lie in the file once, joined in place of a PAD of 16 bits: TFLM's kernel for that is slow (`cost`).
    - Parts in place of a whole where much memory can be saved (`tile`), convolutions where these are faster
      (`convolutions`): with `fast` more of them, since they take a little more memory.
    - SOFTMAX of 8 bits of a matrix, between views, where its own shape is not safe: ESP-NN's buffer has the second size
      of a shape, and has to hold a row.
    - Equal constants as one tensor: each has 24 bytes of the arena.
    - Nodes in the order, and tensors at the places, that need the least memory (`arena`).
    """
    graph = graph.copy()
    _drop_names(graph)
    _narrow_paddings(graph)
    _transpose_right(graph)
    _read_through_reshapes(graph)
    _join_zeros(graph)
    convolutions.of_one_channel(graph)
    graph = tile.tile(graph)
    convolutions.of_rows(graph, convolutions.LEAST_MACS if fast else convolutions.LEAST_MACS_SMALL)
    _flatten_softmaxes(graph)
    _join_reshapes(graph)
    _share_constants(graph)
    arena.arrange(graph)
    return graph


def _drop_names(graph: Graph) -> None:
    for tensor in graph.used():
        tensor.name = ''
    graph.inputs[0].name, graph.outputs[0].name = 'features', 'logits'
    graph.metadata.clear()


def _narrow_paddings(graph: Graph) -> None:
    for node in graph.nodes:
        if node.op in ('PAD', 'PADV2') and node.input(1).dtype == 'int64':
            node.input(1).set(node.input(1).values.astype(np.int32))


def _transpose_right(graph: Graph) -> None:
    readers, makers = graph.readers(), graph.makers()
    for right, products in readers.items():
        if any(node.op != 'BATCH_MATMUL' or node.options.adjY or right is node.inputs[0] for node in products):
            continue
        chain, maker = [right], makers.get(right)
        while maker is not None and maker.op in CONVERSIONS:
            chain.append(maker.input(0))
            maker = makers.get(chain[-1])
        if any(len(readers[tensor]) > 1 for tensor in chain[1:]):
            continue
        if chain[-1].constant is not None:
            source = chain.pop()
            source.set(np.swapaxes(source.values, -1, -2))
        elif maker is not None and maker.op == 'TRANSPOSE':
            *outer, last, inner = maker.input(1).values
            maker.inputs[1] = Tensor.of(np.array([*outer, inner, last], np.int32))
        else:
            continue
        for tensor in chain:
            *outer, last, inner = tensor.shape
            tensor.shape = (*outer, inner, last)
        for node in products:
            node.options.adjY = True


def _read_through_reshapes(graph: Graph) -> None:
    readers = graph.readers()
    for node in list(graph.nodes):
        layers = readers[node.output] if node.op == 'RESHAPE' and node.output not in graph.outputs else []
        if layers and all(layer.op == 'FULLY_CONNECTED' and len(layer.output.shape) == 2 for layer in layers):
            for layer in layers:
                layer.inputs[0], layer.options.keepNumDims = node.input(0), False
            graph.replace(node, [])


def _join_zeros(graph: Graph) -> None:
    for node in list(graph.nodes):
        if node.op != 'PAD' or node.input(0).dtype != 'int16':
            continue
        source, paddings = node.input(0), node.input(1).values
        axes = np.flatnonzero(paddings.any(axis=1)).tolist()
        if len(axes) != 1 or math.prod(source.shape[axes[0] :]) < LEAST_COPIED:
            continue
        [axis] = axes
        ends = [(*source.shape[:axis], int(count), *source.shape[axis + 1 :]) for count in paddings[axis]]
        # A constant with the scale of what it is joined to.
        front, behind = ([source.like(shape=e, constant=np.zeros(e, np.int16))] if e[axis] else [] for e in ends)
        joined = Node('CONCATENATION', [*front, source, *behind], [node.output])
        joined.options = flatbuffer.options('CONCATENATION', axis=axis)
        graph.replace(node, [joined])


def _flatten_softmaxes(graph: Graph) -> None:
    for node in list(graph.nodes):
        source, output = node.input(0), node.output
        if node.op != 'SOFTMAX' or source.dtype != 'int8' or source.shape[1] >= source.shape[-1]:
            continue
        shape = math.prod(source.shape[:-1]), source.shape[-1]
        node.inputs[0], node.outputs[0] = source.like(shape=shape), output.like(shape=shape)
        graph.replace(
            node, [convolutions.reshape(source, node.input(0)), node, convolutions.reshape(node.output, output)]
        )


def _join_reshapes(graph: Graph) -> None:
    """Of reshapes that follow each other, the first is passed over; so is one that changes nothing."""
    # By tensor, what it shows in another shape; and what it equals.
    shown: dict[Tensor, Tensor] = {}
    same: dict[Tensor | None, Tensor] = {}
    nodes = []
    for node in graph.nodes:
        node.inputs = [same.get(tensor, tensor) for tensor in node.inputs]
        if node.op == 'RESHAPE':
            source = node.input(0)
            node.inputs[0] = shown[node.output] = shown.get(source, source)
            if shown[node.output].shape == node.output.shape and node.output not in graph.outputs:
                same[node.output] = shown[node.output]
                continue
        nodes.append(node)
    read = {tensor for node in nodes for tensor in node.reads} | set(graph.outputs)
    graph.nodes = [node for node in nodes if node.output in read or node.output not in shown]


def _share_constants(graph: Graph) -> None:
    first: dict[tuple[object, ...], Tensor] = {}

    def shared(tensor: Tensor | None) -> Tensor | None:
        if tensor is None or tensor.constant is None:
            return tensor
        scale = None if tensor.scale is None else tensor.scale.tobytes()
        key = tensor.dtype, tensor.shape, tensor.constant.tobytes(), scale, tensor.zero_point, tensor.axis
        return first.setdefault(key, tensor)

    for node in graph.nodes:
        node.inputs = [shared(tensor) for tensor in node.inputs]
