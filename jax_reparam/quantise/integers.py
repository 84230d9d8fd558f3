"""Writes a graph in integers: each node in its bits, conversions where bits change, constants and biases in steps."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Mapping

import numpy as np

from jax_reparam.graph.graph import Graph, Node, Tensor
from jax_reparam.quantise.formats import SHIFT_FREE, Format, Held

# Numbers of a 16-bit constant for which a node that casts them takes more memory than a second byte.
FEW = 256


def lowered(
    graph: Graph, bits: Mapping[Node, int], formats: Mapping[Held, Format], kernels: Mapping[Node, Tensor]
) -> tuple[Graph, dict[Node, Node]]:
    """Makes the integer graph.

    Args:
      graph: the float32 graph.
      bits: of its nodes.
      formats: of its tensors.
      kernels: of its layers, in int8.

    Returns:
      The graph, and by each of its nodes but conversions the float32 node that it is.
    """
    lowering = _Lowering(formats)
    for node in graph.nodes:
        lowering.add(node, bits[node], kernels.get(node))
    [source], [output] = graph.inputs, graph.outputs
    width = max(width for tensor, width in lowering.held if tensor is source)
    last = bits[graph.makers()[output]]
    inputs, outputs = [lowering.held[source, width]], [lowering.held[output, last]]
    return Graph(lowering.nodes, inputs, outputs), lowering.origins


class _Lowering:
    """An integer graph while it is written, node by node."""

    def __init__(self, formats: Mapping[Held, Format]) -> None:
        self._formats = formats
        self.nodes: list[Node] = []
        self.origins: dict[Node, Node] = {}
        self.held: dict[Held, Tensor] = {}

    def add(self, node: Node, bits: int, kernel: Tensor | None) -> None:
        """Writes one node, and before it what converts what it reads."""
        if kernel is not None:
            source = self._read(node.input(0), bits, node.op)
            bias = [] if node.bias is None else [_bias(node, source, kernel)]
            inputs: list[Tensor | None] = [source, kernel, *bias]
        else:
            inputs = [self._read(tensor, bits, node.op) for tensor in node.reads]
        outputs = [self._held(tensor, bits) for tensor in node.outputs]
        options = copy.copy(node.options)
        if node.op in ('ADD', 'SUB'):
            options.potScaleInt16 = False
        written = dataclasses.replace(node, inputs=inputs, outputs=outputs, options=options)
        self.nodes.append(written)
        self.origins[written] = node

    def _held(self, tensor: Tensor, bits: int) -> Tensor:
        """A tensor as it is held in some bits."""
        key = tensor, bits
        if key not in self.held:
            self.held[key] = self._formats[key].tensor(tensor)
        return self.held[key]

    def _read(self, tensor: Tensor, bits: int, op: str) -> Tensor:
        """A tensor that a node of some bits reads; converted, if it is made in others."""
        if tensor.constant is not None:
            # What is cast for a product would lie in memory beside scores and all.
            few = math.inf if op == 'BATCH_MATMUL' else FEW
            return self._constant(tensor, bits, cast=bits == 16 and tensor.values.size > few)
        shift_free = op in SHIFT_FREE
        source = self.held.get((tensor, 24 - bits))
        if (tensor, bits) in self.held or source is None:
            return self._held(tensor, bits)
        assert source.scale is not None
        if bits == 16 and source.zero_point and shift_free:
            # All integers are off by the zero point, which its reader does not see.
            converted = Format(16, float(source.scale[0])).tensor(tensor)
        else:
            converted = self._held(tensor, bits)
        cast = bits == 16 and (shift_free or source.zero_point == 0) and converted.port.scale == source.port.scale
        self.nodes.append(Node('CAST' if cast else 'QUANTIZE', [source], [converted]))
        return converted

    def _constant(self, tensor: Tensor, bits: int, *, cast: bool) -> Tensor:
        if tensor.dtype != 'float32':  # a shape, an axis
            return tensor
        low, high = float(tensor.values.min()), float(tensor.values.max())
        form = Format.of(low, high, 8 if cast else bits, wider=math.inf if cast else 1.0)
        made = form.tensor(tensor, tensor.values)
        if cast:
            # Anew for each reader: cast once, it would lie in memory from the first to the last.
            narrow, made = made, Format(16, form.scale).tensor(tensor.like())
            self.nodes.append(Node('CAST', [narrow], [made]))
        return made


def bias_scale(source: Tensor, kernel: Tensor) -> np.ndarray:
    """The scale of a layer's sums, and so of its bias, `[1]` or one a channel, float64."""
    assert source.scale is not None
    assert kernel.scale is not None
    return np.float64(source.scale[0]) * kernel.scale.astype(np.float64)


def set_bias(bias: Tensor, steps: np.ndarray) -> None:
    """Gives a bias steps `[channels]`, rounded, within 32 bits, also where the type has 64: it does in 16 bits."""
    bias.constant = np.clip(np.rint(steps), -(2**31), 2**31 - 1).astype(bias.dtype)


def _bias(node: Node, source: Tensor, kernel: Tensor) -> Tensor:
    assert node.bias is not None
    scale = bias_scale(source, kernel)
    dtype = {'int8': 'int32', 'int16': 'int64'}[source.dtype]
    made = dataclasses.replace(node.bias, dtype=dtype, scale=scale.astype(np.float32), zero_point=0, axis=0)
    set_bias(made, node.bias.values.astype(np.float64) / scale)
    return made
