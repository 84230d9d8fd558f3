"""Operators as convolutions, for which CMSIS-NN has faster kernels: the same result in fewer instructions.

- A linear layer is a convolution of single pixels, which are computed two rows and two outputs at a time. The kernels
  for FULLY_CONNECTED take one row at a time, and load each weight anew for every row. The price is memory: TFLM keeps
  a multiplier and a shift for each output of a convolution, 8 bytes.
- A depthwise convolution of one channel is a convolution. Of 16-bit depthwise convolutions TFLM gives all to a kernel
  without SIMD.

The integers are the same, in 16 bits to a step: TFLM multiplies the scales of a linear layer in float32, those of a
convolution in float64. What is saved on a Cortex-M4F is in docs/results.md.
"""

from __future__ import annotations

import math

import numpy as np

from jax_reparam.graph import cost, flatbuffer
from jax_reparam.graph.graph import Graph, Node, Tensor

# In 8 bits the kernel sums each layer's weights first: of fewer rows it makes too little.
LEAST_ROWS = 8
# Of an output, over all rows: some 0.6 instructions times as many are saved, for its 8 bytes of memory. The second is
# for forms that are made for small memories.
LEAST_MACS, LEAST_MACS_SMALL = (round(8 * worth / 0.6) for worth in (cost.PER_BYTE_FAST, cost.PER_BYTE))
# CMSIS-NN before 2024 has no fast kernel for 16 bits and more inputs.
LARGEST_DEPTH = 511


def of_one_channel(graph: Graph) -> None:
    """Makes a CONV_2D of each DEPTHWISE_CONV_2D of one 16-bit channel; changes `graph`."""
    for node in list(graph.nodes):
        if node.op != 'DEPTHWISE_CONV_2D' or node.input(0).dtype != 'int16' or node.input(0).shape[-1] != 1:
            continue
        kernel = node.input(1)
        values = np.swapaxes(kernel.values, 0, 3)
        turned = kernel.like(shape=values.shape, constant=values, axis=0)
        graph.replace(node, [_convolution(node, [node.inputs[0], turned, *node.inputs[2:]], node.output)])


def of_rows(graph: Graph, least_macs: int) -> None:
    """Makes a CONV_2D of each quantised FULLY_CONNECTED for which it pays; changes `graph`.

    Its matrix `[T, D]` is seen as an image `[1, 1, T, D]`; `least_macs` (T times D) are what makes it pay.
    """
    images: dict[tuple[Tensor, tuple[int, ...]], Tensor] = {}
    nodes: list[Node] = []
    for node in graph.nodes:
        if node.op != 'FULLY_CONNECTED' or not _pays(node, least_macs):
            nodes.append(node)
            continue
        source, weights, output = node.input(0), node.input(1), node.output
        rows, (outputs, depth) = math.prod(output.shape[:-1]), weights.shape
        image = (1, 1, rows, depth)
        if (source, image) not in images:  # several layers may read it
            images[source, image] = source.like(shape=image)
            nodes.append(reshape(source, images[source, image]))
        convolved = output.like(shape=(1, 1, rows, outputs))
        shape = (outputs, 1, 1, depth)
        kernel = weights.like(shape=shape, constant=weights.values.reshape(shape))
        inputs: list[Tensor | None] = [images[source, image], kernel, _bias(node)]
        nodes += [_convolution(node, inputs, convolved), reshape(convolved, output)]
    graph.nodes = nodes


def reshape(source: Tensor, output: Tensor) -> Node:
    """Shows a tensor in the shape of another one."""
    shape = Tensor.of(np.array(output.shape, np.int32))
    return Node('RESHAPE', [source, shape], [output], flatbuffer.options('RESHAPE'))


def _pays(node: Node, least_macs: int) -> bool:
    source, weights = node.input(0), node.input(1)
    if weights.dtype != 'int8' or weights.constant is None:
        return False
    *rows, outputs = node.output.shape
    depth = weights.shape[1]
    enough = math.prod(rows) >= LEAST_ROWS and math.prod(rows) * depth >= least_macs
    # The last of an odd number of outputs is computed without SIMD.
    fits = source.dtype == 'int8' or (source.dtype == 'int16' and depth <= LARGEST_DEPTH)
    return enough and outputs % 2 == 0 and fits


def _convolution(node: Node, inputs: list[Tensor | None], output: Tensor) -> Node:
    """A convolution in a node's place: of its strides and activation; a linear layer has none to pad."""
    given = {'padding': flatbuffer.VALID, 'strideW': 1, 'strideH': 1} | vars(node.options)
    fields = ('padding', 'strideW', 'strideH', 'dilationWFactor', 'dilationHFactor', 'fusedActivationFunction')
    options = flatbuffer.options('CONV_2D', **{name: given[name] for name in fields if name in given})
    return Node('CONV_2D', inputs, [output], options)


def _bias(layer: Node) -> Tensor:
    """A linear layer's bias; zeros where it has none, since LiteRT's convolutions need one."""
    if layer.bias is not None:
        return layer.bias
    source, weights = layer.input(0), layer.input(1)
    assert source.scale is not None
    assert weights.scale is not None
    scale = (np.float64(source.scale[0]) * weights.scale).astype(np.float32)
    zeros = np.zeros(weights.shape[0], {'int8': np.int32, 'int16': np.int64}[source.dtype])
    return Tensor(zeros.shape, zeros.dtype.name, scale, constant=zeros)
