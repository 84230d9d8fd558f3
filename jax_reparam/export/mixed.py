"""int8 with 16 bits where int8 is dear or coarse: from a softmax's scores to what its weights mix, and sigmoids.

TFLM and CMSIS-NN compute exponentials of int8 one by one, and of int16 from tables, in a tenth of the time
(docs/verification.md). And int8 gives a softmax 256 steps for weights that sum to 1 over a hundred frames: its tensors
have the lowest SNR in the LAYERS.md of a ConvTransformer. The products around it are as fast in 16 bits. What it costs
is memory: scores and weights are the largest tensors that there are.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from jax_reparam.export import flatbuffer, twin

# These may lie between a softmax and the products before and behind it; all but the first two move values alone.
_BETWEEN = ('ADD', 'CONCATENATION', 'PAD', 'RESHAPE', 'SLICE', 'STRIDED_SLICE', 'TRANSPOSE')
_MOVES = _BETWEEN[2:]
# Their int16 kernels have a fixed scale, for what lies between 0 and 1.
_UNIT = ('LOGISTIC', 'SOFTMAX')


def widened(quantised: bytes, float32: bytes) -> bytes:
    """Makes 16 bits of the 8 around each softmax, from product to product, and in sigmoids.

    Ranges stay those of the int8 tensors, around 0.

    Args:
      quantised: an int8 model, as the converter leaves it.
      float32: the same graph in float32, of which constants are rounded anew.

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
        inputs = []
        for tensor, other in zip(map(int, node.inputs), twins[id(node)].inputs, strict=True):
            if flatbuffer.is_constant(content, tensor):
                tensor = _constant(content, tensor, flatbuffer.constant(reference, int(other)))
            elif tensor not in wide:
                wide[tensor] = _int16(content, tensor, _scale(content, tensor))
                nodes.append(flatbuffer.node(content, 'QUANTIZE', [tensor], wide[tensor]))
            inputs.append(wide.get(tensor, tensor))
        output = int(node.outputs[0])
        if name in _UNIT:
            scale = 2.0**-15
        elif name in _MOVES:
            scale = float(subgraph.tensors[inputs[0]].quantization.scale[0])
        else:
            scale = _scale(content, output)
        wide[output] = _int16(content, output, scale)
        node.inputs, node.outputs = np.array(inputs, np.int32), np.array([wide[output]], np.int32)
        nodes.append(node)
        if output in subgraph.outputs or not places.issuperset(readers[output]):
            nodes.append(flatbuffer.node(content, 'QUANTIZE', [wide[output]], output))
    subgraph.operators = nodes
    return flatbuffer.pack(content)


def _places(content: Any, names: list[str]) -> set[int]:
    """The nodes that compute in 16 bits."""
    nodes, readers = content.subgraphs[0].operators, flatbuffer.readers(content)
    maker = {int(node.outputs[0]): place for place, node in enumerate(nodes)}
    upwards = lambda node: [maker[tensor] for tensor in map(int, node.inputs) if tensor in maker]
    downwards = lambda node: readers[int(node.outputs[0])]
    found = {place for place, name in enumerate(names) if name in _UNIT}
    for follow in (upwards, downwards):
        todo = [place for place, name in enumerate(names) if name == 'SOFTMAX']
        while todo:
            for place in follow(nodes[todo.pop()]):
                if names[place] in _BETWEEN and place not in found:
                    todo.append(place)
                if names[place] in (*_BETWEEN, 'BATCH_MATMUL'):
                    found.add(place)
    return found


def _scale(content: Any, tensor: int) -> float:
    """One step of 16 bits with which an int8 tensor's range fits around 0."""
    port = flatbuffer.port(content.subgraphs[0].tensors[tensor])
    assert port.scale is not None
    assert port.zero_point is not None
    return port.scale * max(127 - port.zero_point, 128 + port.zero_point) / 32767


def _int16(content: Any, tensor: int, scale: float) -> int:
    """The index of a new tensor like another one, in 16 bits."""
    from ai_edge_litert.schema_py_generated import TensorType

    index = flatbuffer.add_like(content, tensor)
    made = content.subgraphs[0].tensors[index]
    made.type, made.buffer = TensorType.INT16, 0
    made.quantization.scale, made.quantization.zeroPoint = np.array([scale], np.float32), np.array([0])
    return index


def _constant(content: Any, tensor: int, values: np.ndarray) -> int:
    """The index of a constant's int16 twin; of the constant itself where it is a shape or the like."""
    if flatbuffer.constant(content, tensor).dtype != np.int8:
        return tensor
    scale = float(np.abs(values).max()) / 32767 or 1.0
    made = _int16(content, tensor, scale)
    flatbuffer.set_constant(content, made, np.rint(values / scale).astype(np.int16))
    return made
