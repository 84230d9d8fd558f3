"""Operators as convolutions, for which CMSIS-NN has faster kernels: the same result in fewer instructions.

- A linear layer is a convolution of single pixels, which are computed two rows and two outputs at a time. The kernels
  for FULLY_CONNECTED take one row at a time, and load each weight anew for every row. The price is memory: TFLM keeps
  a multiplier and a shift for each output of a convolution, 8 bytes.
- A depthwise convolution of one channel is a convolution. Of 16-bit depthwise convolutions TFLM gives all to a kernel
  without SIMD.

The integers are the same, in 16 bits to a step: TFLM multiplies the scales of a linear layer in float32, those of a
convolution in float64. What is saved on a Cortex-M4F is in docs/verification.md.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from ai_edge_litert.schema_py_generated import Padding

from jax_reparam.graph import cost, flatbuffer

# In 8 bits the kernel sums each layer's weights first: of fewer rows it makes too little.
LEAST_ROWS = 8
# Of an output, over all rows: some 0.6 instructions times as many are saved, for its 8 bytes of memory. The second is
# for forms that are made for small memories.
LEAST_MACS, LEAST_MACS_SMALL = (round(8 * worth / 0.6) for worth in (cost.PER_BYTE_FAST, cost.PER_BYTE))
# CMSIS-NN before 2024 has no fast kernel for 16 bits and more inputs.
LARGEST_DEPTH = 511


def of_one_channel(content: Any) -> None:
    """Makes a CONV_2D of each DEPTHWISE_CONV_2D of one 16-bit channel; changes `content`, from `flatbuffer.tree`."""
    subgraph = content.subgraphs[0]
    for place, (name, node) in enumerate(flatbuffer.named_nodes(content)):
        source = int(node.inputs[0])
        wide = flatbuffer.dtype(content, source) == 'int16'
        if name != 'DEPTHWISE_CONV_2D' or not wide or flatbuffer.shape(content, source)[-1] != 1:
            continue
        values = np.swapaxes(flatbuffer.constant(content, node.inputs[1]), 0, 3)
        kernel = flatbuffer.add_like(content, int(node.inputs[1]), values.shape)
        flatbuffer.set_constant(content, kernel, values)
        subgraph.tensors[kernel].quantization.quantizedDimension = 0
        subgraph.operators[place] = _convolution(
            content, node, [source, kernel, *node.inputs[2:]], int(node.outputs[0])
        )


def of_rows(content: Any, least_macs: int) -> None:
    """Makes a CONV_2D of each quantised FULLY_CONNECTED for which it pays; changes `content`, from `flatbuffer.tree`.

    Its matrix `[T, D]` is seen as an image `[1, 1, T, D]`; `least_macs` (T times D) are what makes it pay.
    """
    subgraph = content.subgraphs[0]
    images: dict[tuple[int, tuple[int, ...]], int] = {}
    nodes: list[Any] = []
    for name, node in flatbuffer.named_nodes(content):
        if name != 'FULLY_CONNECTED' or not _pays(content, node, least_macs):
            nodes.append(node)
            continue
        source, weights, output = map(int, (*node.inputs[:2], node.outputs[0]))
        rows, (outputs, depth) = math.prod(flatbuffer.shape(content, output)[:-1]), flatbuffer.shape(content, weights)
        image = (1, 1, rows, depth)
        if (source, image) not in images:  # several layers may read it
            images[source, image] = flatbuffer.add_like(content, source, image)
            nodes.append(_reshape(content, source, images[source, image]))
        convolved = flatbuffer.add_like(content, output, (1, 1, rows, outputs))
        kernel = flatbuffer.add_like(content, weights, (outputs, 1, 1, depth))
        nodes += [
            _convolution(content, node, [images[source, image], kernel, _bias(content, node)], convolved),
            _reshape(content, convolved, output),
        ]
    subgraph.operators = nodes
    _join_reshapes(content)


def _pays(content: Any, node: Any, least_macs: int) -> bool:
    source, weights = (flatbuffer.dtype(content, index) for index in node.inputs[:2])
    if weights != 'int8' or not flatbuffer.is_constant(content, int(node.inputs[1])):
        return False
    *rows, outputs = flatbuffer.shape(content, int(node.outputs[0]))
    depth = flatbuffer.shape(content, int(node.inputs[1]))[1]
    enough = math.prod(rows) >= LEAST_ROWS and math.prod(rows) * depth >= least_macs
    # The last of an odd number of outputs is computed without SIMD.
    return enough and outputs % 2 == 0 and (source == 'int8' or (source == 'int16' and depth <= LARGEST_DEPTH))


def _convolution(content: Any, node: Any, inputs: Sequence[int], output: int) -> Any:
    """A convolution in a node's place: of its strides and activation."""
    options = {'padding': Padding.VALID, 'strideW': 1, 'strideH': 1} | vars(node.builtinOptions)
    fields = ('padding', 'strideW', 'strideH', 'dilationWFactor', 'dilationHFactor', 'fusedActivationFunction')
    shared = {name: options[name] for name in fields if name in options}
    return flatbuffer.node(content, 'CONV_2D', inputs, output, **shared)


def _reshape(content: Any, source: int, output: int) -> Any:
    shape = flatbuffer.add_constant(content, np.array(flatbuffer.shape(content, output), np.int32))
    return flatbuffer.node(content, 'RESHAPE', [source, shape], output)


def _bias(content: Any, layer: Any) -> int:
    """The index of a linear layer's bias; of zeros where it has none, since LiteRT's convolutions need one."""
    if len(layer.inputs) > 2 and layer.inputs[2] >= 0:
        return int(layer.inputs[2])
    tensors = content.subgraphs[0].tensors
    source, weights = map(int, layer.inputs[:2])
    dtype = {'int8': np.int32, 'int16': np.int64}[flatbuffer.dtype(content, source)]
    zeros = flatbuffer.add_constant(content, np.zeros(tensors[weights].shape[0], dtype))
    bias = flatbuffer.add_like(content, zeros)
    tensors[bias].quantization = copy.deepcopy(tensors[weights].quantization)
    tensors[bias].quantization.scale = flatbuffer.bias_scale(content, source, weights).astype(np.float32)
    return bias


def _join_reshapes(content: Any) -> None:
    """Of reshapes that follow each other, the first is passed over; so is one that changes nothing."""
    subgraph = content.subgraphs[0]
    # By tensor, what it shows in another shape; and what it equals.
    shown: dict[int, int] = {}
    same: dict[int, int] = {}
    nodes = []
    for name, node in flatbuffer.named_nodes(content):
        node.inputs = np.array([same.get(int(tensor), int(tensor)) for tensor in node.inputs], np.int32)
        if name == 'RESHAPE':
            source, output = int(node.inputs[0]), int(node.outputs[0])
            node.inputs[0] = shown[output] = shown.get(source, source)
            shapes = [flatbuffer.shape(content, tensor) for tensor in (shown[output], output)]
            if shapes[0] == shapes[1] and output not in subgraph.outputs:
                same[output] = shown[output]
                continue
        nodes.append(node)
    read = {int(tensor) for node in nodes for tensor in node.inputs} | {int(tensor) for tensor in subgraph.outputs}
    subgraph.operators = [node for node in nodes if int(node.outputs[0]) in read or int(node.outputs[0]) not in shown]
