"""int8 with 16 bits where int8 is dear or coarse: softmaxes and sigmoids, what the front makes, and the head.

TFLM and CMSIS-NN compute exponentials of int8 one by one, and of int16 from tables, in a tenth of the time
(docs/verification.md). And int8 gives a softmax 256 steps for weights that sum to 1 over a hundred frames. The products
around it are as fast in 16 bits. What it costs is memory: scores and weights are the largest tensors that there are.

The front's tokens are loud and quiet, and the first normalisation makes all of them as loud: of 256 steps, few are left
for the quiet ones. The logits are what is decided by. Both ends are little work; with the softmaxes they make most of
int8's noise (docs/export.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from jax_reparam.export import flatbuffer, tables, twin

# These may lie between a softmax and the products before and behind it; all but the first two move values alone.
_BETWEEN = ('ADD', 'CONCATENATION', 'PAD', 'RESHAPE', 'SLICE', 'STRIDED_SLICE', 'TRANSPOSE')
_MOVES = _BETWEEN[2:]
# Their int16 kernels have a fixed scale, for what lies between 0 and 1.
_UNIT = ('LOGISTIC', 'SOFTMAX')
_HEAD = ('FULLY_CONNECTED', 'RESHAPE', 'TRANSPOSE')


def widened(quantised: bytes, float32: bytes) -> bytes:
    """Makes 16 bits of the 8 in the front, in the head, in sigmoids, and around each softmax from product to product.

    The front is all from a linear layer, or the input, to the first normalisation that is written with RSQRT
    (`deploy.ops.norms`), the head the linear layers at the end, whose output then has 16 bits. Ranges stay those of the
    int8 tensors, around 0.

    Args:
      quantised: an int8 model, as the converter leaves it.
      float32: the same graph in float32, of which constants are rounded anew; but for the weights of linear layers.

    Raises:
      ValueError: the two are not the same graph.
    """
    content, reference = flatbuffer.tree(quantised), flatbuffer.tree(float32)
    subgraph, names = content.subgraphs[0], flatbuffer.operator_names(content)
    places, readers = _places(content, names), flatbuffer.readers(content)
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
            if tensor >= 0 and flatbuffer.is_constant(content, tensor):
                if name != 'FULLY_CONNECTED':
                    tensor = _constant(content, tensor, flatbuffer.constant(reference, other))
                elif len(inputs) == 2:
                    tensor = _bias(content, tensor, inputs, flatbuffer.constant(reference, other))
            elif tensor >= 0 and tensor not in wide:
                wide[tensor] = flatbuffer.add_int16(content, tensor, _scale(content, tensor))
                nodes.append(flatbuffer.node(content, 'QUANTIZE', [tensor], wide[tensor]))
            inputs.append(wide.get(tensor, tensor))
        output = int(node.outputs[0])
        if name in _UNIT:
            scale = tables.STEP
        elif name in _MOVES:
            scale = float(subgraph.tensors[inputs[0]].quantization.scale[0])
        else:
            scale = _scale(content, output)
        wide[output] = flatbuffer.add_int16(content, output, scale)
        node.inputs, node.outputs = np.array(inputs, np.int32), np.array([wide[output]], np.int32)
        nodes.append(node)
        if not places.issuperset(readers[output]):
            nodes.append(flatbuffer.node(content, 'QUANTIZE', [wide[output]], output))
    subgraph.operators = nodes
    subgraph.outputs = np.array([wide.get(int(tensor), int(tensor)) for tensor in subgraph.outputs], np.int32)
    return flatbuffer.pack(content)


def _places(content: Any, names: list[str]) -> set[int]:
    """The nodes that compute in 16 bits."""
    subgraph, readers = content.subgraphs[0], flatbuffer.readers(content)
    nodes = subgraph.operators
    maker = {int(node.outputs[0]): place for place, node in enumerate(nodes)}
    before = lambda place: [maker[tensor] for tensor in map(int, nodes[place].inputs) if tensor in maker]
    behind = lambda place: readers[int(nodes[place].outputs[0])]
    named = lambda *kinds: {place for place, name in enumerate(names) if name in kinds}
    everything, softmaxes, roots = set(range(len(nodes))), named('SOFTMAX'), set(sorted(named('RSQRT'))[:1])
    between, products, layers = named(*_BETWEEN), named('BATCH_MATMUL'), named('FULLY_CONNECTED')
    # A mean is a layer of one output.
    sums = {place for place in layers if flatbuffer.shape(content, int(nodes[place].outputs[0]))[-1] == 1}
    found = named(*_UNIT) | roots | {reader for root in roots for reader in behind(root)}
    for follow in (before, behind):
        found |= _reached(softmaxes, follow, passed=between, taken=between | products)
    found |= _reached(roots, before, passed=everything - (layers - sums), taken=everything)
    last = layers & {maker[int(tensor)] for tensor in subgraph.outputs}
    head = named(*_HEAD)
    return found | last | _reached(last, before, passed=head, taken=head)


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
    """One step of 16 bits with which an int8 tensor's range fits around 0."""
    port = flatbuffer.port(content.subgraphs[0].tensors[tensor])
    assert port.scale is not None
    assert port.zero_point is not None
    return port.scale * max(127 - port.zero_point, 128 + port.zero_point) / 32767


def _constant(content: Any, tensor: int, values: np.ndarray) -> int:
    """The index of a constant's int16 twin; of the constant itself where it is a shape or the like."""
    if flatbuffer.constant(content, tensor).dtype != np.int8:
        return tensor
    scale = float(np.abs(values).max()) / 32767 or 1.0
    made = flatbuffer.add_int16(content, tensor, scale)
    flatbuffer.set_constant(content, made, np.rint(values / scale).astype(np.int16))
    return made


def _bias(content: Any, tensor: int, inputs: list[int], values: np.ndarray) -> int:
    """A bias in 64 bits, as 16-bit kernels have it, by index; `inputs` are what its layer reads, and the weights."""
    made, scale = flatbuffer.add_like(content, tensor), flatbuffer.bias_scale(content, *inputs)
    content.subgraphs[0].tensors[made].quantization.scale = scale.astype(np.float32)
    flatbuffer.set_constant(content, made, np.rint(values / scale).astype(np.int64))
    return made
