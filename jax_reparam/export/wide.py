"""int8 with 16 bits where int8 is coarse or slow: both ends, softmaxes and sigmoids.

The front's tokens are loud and quiet, and the first normalisation makes all of them as loud: of 256 steps, few are left
for the quiet ones. The logits are what is decided by. Both ends are little work.

A softmax of int8 has 256 steps for weights that sum to 1 over a hundred frames, and TFLM and CMSIS-NN compute its
exponentials one by one; those of int16 they read from tables, in a tenth of the time (docs/verification.md). What it
costs is memory: weights are among the largest tensors that there are. Together these make most of int8's noise
(docs/export.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from jax_reparam.export import cost, flatbuffer, memory, twin
from jax_reparam.export.tidy import tidy

# Operators whose int16 kernels look up; they make what lies within 1 of 0, in steps of this size alone.
TABLES = ('SOFTMAX', 'LOGISTIC', 'TANH')
STEP = 2.0**-15
# These move values alone.
_MOVES = ('RESHAPE', 'TRANSPOSE')
_HEAD = ('FULLY_CONNECTED', *_MOVES)


def taken(quantised: bytes, float32: bytes, *, front: bool) -> bytes:
    """An int8 model with wide ends, and with tables if the time they save is worth the memory (`cost.PER_BYTE`)."""
    narrow, wide = (widened(quantised, float32, front=front, worth=worth) for worth in (math.inf, cost.PER_BYTE))
    if narrow == wide:
        return narrow
    price = {form: _price(tidy(form)) for form in (narrow, wide)}
    return min(price, key=price.__getitem__)


def _price(model: bytes) -> float:
    """Instructions a window, and what the arena is worth of them."""
    return cost.of_model(model).instructions + cost.PER_BYTE * memory.arena(flatbuffer.tree(model))


def widened(quantised: bytes, float32: bytes, *, front: bool, worth: float = 0) -> bytes:
    """Makes 16 bits of the 8 in the head and, as asked, in the front and in what is looked up then.

    The front is all from a linear layer, or the input, to the first normalisation that is written with RSQRT
    (`deploy.ops.norms`), the head the linear layers at the end, whose output then has 16 bits. Of softmaxes and
    sigmoids it is those that save time enough; a softmax with the product that reads it. Where 8 bits become 16,
    nothing is rounded.

    Args:
      quantised: an int8 model, as the converter leaves it.
      float32: the same graph in float32, of which biases are rounded anew.
      front: whether the front is written for it.
      worth: instructions that a softmax or sigmoid has to save for each byte that its nodes take; inf: none is wide.

    Raises:
      ValueError: the two are not the same graph.
    """
    content, reference = flatbuffer.tree(quantised), flatbuffer.tree(float32)
    subgraph, names = content.subgraphs[0], flatbuffer.operator_names(content)
    graph = _Graph(content, names)
    places = graph.head() | (graph.front() if front else set()) | graph.tables(worth)
    twins = {id(node): other for _, node, other in twin.pairs(content, reference)}
    # By int8 tensor its int16 twin, made by a node or by conversion.
    wide: dict[int, int] = {}
    nodes = []
    for place, (name, node) in enumerate(zip(names, subgraph.operators, strict=True)):
        if place not in places:  # it reads what was converted back
            nodes.append(node)
            continue
        inputs: list[int] = []
        for tensor, other in zip(map(int, node.inputs), map(int, twins[id(node)].inputs), strict=True):
            if name == 'FULLY_CONNECTED' and inputs:
                if len(inputs) == 2 and tensor >= 0:
                    tensor = _bias(content, tensor, inputs, flatbuffer.constant(reference, other))
            elif tensor not in wide and flatbuffer.port(subgraph.tensors[tensor]).dtype == 'int8':
                # A value is up to 255 steps from zero, of which 128 times as many fit.
                wide[tensor] = flatbuffer.add_int16(content, tensor, _scale(content, tensor) / 128)
                nodes.append(flatbuffer.node(content, 'QUANTIZE', [tensor], wide[tensor]))
            inputs.append(wide.get(tensor, tensor))
        output, behind = int(node.outputs[0]), graph.behind(place)
        if name in TABLES:
            scale = STEP
        elif name in _MOVES:
            scale = _scale(content, inputs[0])
        else:
            # With that its range fits around 0.
            zero = flatbuffer.port(subgraph.tensors[output]).zero_point or 0
            scale = _scale(content, output) * max(127 - zero, 128 + zero) / 32767
        wide[output] = flatbuffer.add_int16(content, output, scale)
        node.inputs, node.outputs = np.array(inputs, np.int32), np.array([wide[output]], np.int32)
        nodes.append(node)
        if not places.issuperset(behind):
            nodes.append(flatbuffer.node(content, 'QUANTIZE', [wide[output]], output))
    subgraph.operators = nodes
    subgraph.outputs = np.array([wide.get(int(tensor), int(tensor)) for tensor in subgraph.outputs], np.int32)
    return flatbuffer.pack(content)


class _Graph:
    """Finds the nodes of a part, by their places."""

    def __init__(self, content: Any, names: list[str]) -> None:
        self._content, self._names = content, names
        self._nodes, self._readers = content.subgraphs[0].operators, flatbuffer.readers(content)
        self._maker = {int(node.outputs[0]): place for place, node in enumerate(self._nodes)}

    def front(self) -> set[int]:
        """From the last linear layer before the first normalisation to its end; means are no such layers."""
        roots = set(sorted(self._named('RSQRT'))[:1])
        layers = {p for p in self._named('FULLY_CONNECTED') if self._made(p)[-1] > 1}
        everything = set(range(len(self._nodes)))
        before = _reached(roots, self._before, passed=everything - layers, taken=everything)
        return before | roots | {reader for root in roots for reader in self.behind(root)}

    def head(self) -> set[int]:
        """The last linear layer and those before it."""
        outputs = map(int, self._content.subgraphs[0].outputs)
        last = self._named('FULLY_CONNECTED') & {self._maker[tensor] for tensor in outputs}
        head = self._named(*_HEAD)
        return last | _reached(last, self._before, passed=head, taken=head)

    def tables(self, worth: float) -> set[int]:
        """Of softmaxes and sigmoids those that save enough, and products of a softmax's weights."""
        found = {place for place in self._named(*TABLES) if self._pays(place, worth)}
        products = self._named('BATCH_MATMUL')
        return found | {reader for place in found for reader in self.behind(place)} & products

    def _pays(self, place: int, worth: float) -> bool:
        name, node = self._names[place], self._nodes[place]
        port = flatbuffer.port(self._content.subgraphs[0].tensors[node.inputs[0]])
        if port.dtype != 'int8' or port.scale is None:
            return False
        wide = sum(cost.INT16[kind].instructions for kind in (name, 'QUANTIZE')) + cost.INT8['QUANTIZE'].instructions
        saved = math.prod(self._made(place)) * (cost.INT8[name].instructions - wide)
        takes = 2 * memory.PER_NODE + (memory.PER_SOFTMAX if name == 'SOFTMAX' else 0)
        return saved >= worth * takes

    def _named(self, *kinds: str) -> set[int]:
        return {place for place, name in enumerate(self._names) if name in kinds}

    def _made(self, place: int) -> tuple[int, ...]:
        return flatbuffer.shape(self._content, int(self._nodes[place].outputs[0]))

    def _before(self, place: int) -> list[int]:
        return [self._maker[tensor] for tensor in map(int, self._nodes[place].inputs) if tensor in self._maker]

    def behind(self, place: int) -> list[int]:
        return self._readers[int(self._nodes[place].outputs[0])]


def _reached(
    start: Iterable[int], follow: Callable[[int], list[int]], *, passed: set[int], taken: set[int]
) -> set[int]:
    """Of the nodes to which `follow` leads from some, and on from those in `passed`, those in `taken`."""
    found: set[int] = set()
    todo = list(start)
    while todo:
        new = set(follow(todo.pop())) - found
        found |= new & taken
        todo += new & passed
    return found


def _scale(content: Any, tensor: int) -> float:
    return float(content.subgraphs[0].tensors[tensor].quantization.scale[0])


def _bias(content: Any, tensor: int, inputs: list[int], values: np.ndarray) -> int:
    """A bias in 64 bits, as 16-bit kernels have it, by index; `inputs` are what its layer reads, and the weights."""
    made, scale = flatbuffer.add_like(content, tensor), flatbuffer.bias_scale(content, *inputs)
    content.subgraphs[0].tensors[made].quantization.scale = scale.astype(np.float32)
    flatbuffer.set_constant(content, made, np.rint(values / scale).astype(np.int64))
    return made
