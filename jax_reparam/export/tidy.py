"""What a device wants of a converted file: the same graph, smaller, and in an order that needs less memory."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from jax_reparam.export import flatbuffer

# Partial orders kept at a time.
BEAM = 32


def tidy(model: bytes) -> bytes:
    """The same function in a file for devices.

    - No names of inner tensors, no notes of the converter's: it writes the module path of every operator it fused into
      a tensor's name, 5 % of S and 14 % of XS. The input is named `features`, the output `logits`.
    - Widths of paddings in 32 bits: TFLM reads the 64 bits that come out of jax2tf as twice as many numbers.
    - Nodes in the order, found by a beam search, in which the least lies in memory at a time. The converter's own order
      computes all that can be computed, and keeps it.

    Raises:
      ValueError: not a .tflite file with one graph, one input and one output.
    """
    content = flatbuffer.tree(model)
    _drop_names(content)
    _narrow_paddings(content)
    subgraph = content.subgraphs[0]
    nodes = [([int(i) for i in node.inputs if i >= 0], [int(i) for i in node.outputs]) for node in subgraph.operators]
    order = schedule(nodes, _sizes(content), keep={int(i) for i in subgraph.outputs})
    subgraph.operators = [subgraph.operators[index] for index in order]
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
    from ai_edge_litert.schema_py_generated import TensorType

    subgraph = content.subgraphs[0]
    for name, node in zip(flatbuffer.operator_names(content), subgraph.operators, strict=True):
        if name not in ('PAD', 'PADV2'):
            continue
        paddings = subgraph.tensors[node.inputs[1]]
        if paddings.type == TensorType.INT64:
            wide = np.asarray(content.buffers[paddings.buffer].data, np.uint8).view(np.int64)
            content.buffers[paddings.buffer].data = wide.astype(np.int32).view(np.uint8)
            paddings.type = TensorType.INT32


def _sizes(content: Any) -> dict[int, int]:
    """Bytes of each tensor that is computed, by index; constants lie in the file and cost no arena."""
    from ai_edge_litert.schema_py_generated import TensorType

    width = {TensorType.FLOAT32: 4, TensorType.INT32: 4, TensorType.INT64: 8, TensorType.INT16: 2}
    return {
        index: math.prod(int(size) for size in tensor.shape) * width.get(tensor.type, 1)
        for index, tensor in enumerate(content.subgraphs[0].tensors)
        if content.buffers[tensor.buffer].data is None or len(content.buffers[tensor.buffer].data) == 0
    }


def schedule(nodes: list[tuple[list[int], list[int]]], sizes: dict[int, int], keep: set[int]) -> list[int]:
    """An order of a graph's nodes in which the largest sum of living tensors is small.

    A tensor lives from the node that makes it to the last one that reads it. Deterministic; never worse than the order
    given.

    Args:
      nodes: (tensors read, tensors made) of each node, in an order that can be run.
      sizes: bytes of each tensor that counts.
      keep: tensors that live to the end.

    Returns:
      Indices of `nodes`.
    """
    maker = {tensor: index for index, (_, made) in enumerate(nodes) for tensor in made}
    reads = [{tensor for tensor in read if tensor in sizes} for read, _ in nodes]
    needs = [sum({1 << maker[tensor] for tensor in read if tensor in maker}) for read, _ in nodes]
    readers: dict[int, int] = {}
    for index, read in enumerate(reads):
        for tensor in read:
            readers[tensor] = readers.get(tensor, 0) | 1 << index
    made_bytes = [sum(sizes.get(tensor, 0) for tensor in made) for _, made in nodes]

    def step(done: int, live: int, index: int) -> tuple[int, int]:
        """Bytes that live while a node runs, and behind it."""
        done |= 1 << index
        during = live + made_bytes[index]
        freed = sum(sizes[tensor] for tensor in reads[index] if tensor not in keep and not readers[tensor] & ~done)
        freed += sum(sizes.get(tensor, 0) for tensor in nodes[index][1] if tensor not in keep and tensor not in readers)
        return during, during - freed

    start = sum(size for tensor, size in sizes.items() if tensor in readers and tensor not in maker)
    given_peak, live, done = start, start, 0
    for index in range(len(nodes)):
        during, live = step(done, live, index)
        given_peak, done = max(given_peak, during), done | 1 << index

    beam: dict[int, tuple[int, int, tuple[int, ...]]] = {0: (start, start, ())}
    for _ in nodes:
        following: dict[int, tuple[int, int, tuple[int, ...]]] = {}
        for done, (peak, live, order) in beam.items():
            for index in range(len(nodes)):
                if done >> index & 1 or needs[index] & ~done:
                    continue
                during, after = step(done, live, index)
                candidate = (max(peak, during), after, (*order, index))
                key = done | 1 << index
                if key not in following or candidate < following[key]:
                    following[key] = candidate
        beam = dict(sorted(following.items(), key=lambda item: item[1])[:BEAM])
    peak, _, order = min(beam.values())
    return list(order) if peak < given_peak else list(range(len(nodes)))
