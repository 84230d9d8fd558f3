"""Runs a graph in LiteRT and looks at what is inside."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from jax_reparam import threads
from jax_reparam.graph import flatbuffer
from jax_reparam.graph.graph import Graph, Node, Tensor

# Interpreters that run at the same time, each with all its tensors in memory.
WORKERS = threads.cores(4)


def observe(graph: Graph, tensors: Sequence[Tensor], windows: np.ndarray) -> Iterator[dict[Tensor, np.ndarray]]:
    """Runs a graph over windows `[W, frames, n_mels]`; yields, for each, real values of some tensors, float64."""
    [source] = graph.inputs
    for steps in run(graph, ({source: graph.input.encode(window[None])} for window in windows), tensors):
        yield {tensor: tensor.port.decode(values, np.float64) for tensor, values in steps.items()}


def logits(graph: Graph, windows: np.ndarray) -> np.ndarray:
    """What a graph makes of windows `[W, frames, n_mels]`, `[W, C]` float64: as TFLM rounds, nearly."""
    [output] = graph.outputs
    return np.concatenate([seen[output] for seen in observe(graph, [output], windows)])


def run(
    graph: Graph, inputs: Iterable[Mapping[Tensor, np.ndarray]], tensors: Sequence[Tensor]
) -> Iterator[dict[Tensor, np.ndarray]]:
    """Runs a graph; yields, for each of `inputs` (what is no input is left out), what some of its tensors hold."""
    from ai_edge_litert import interpreter as litert

    # What a graph returns it keeps.
    returned = [tensor for tensor in dict.fromkeys(tensors) if tensor not in graph.inputs]
    nodes = [one for node in graph.nodes for one in _as_in_tflm(node)]
    model = flatbuffer.write(dataclasses.replace(graph, nodes=nodes, outputs=returned))
    # LiteRT's own kernels are TFLM's reference kernels, nearly to the bit.
    interpreter = litert.Interpreter(
        model_content=model, experimental_op_resolver_type=litert.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    )
    interpreter.allocate_tensors()
    sources = [detail['index'] for detail in interpreter.get_input_details()]
    results = [detail['index'] for detail in interpreter.get_output_details()]
    for values in inputs:
        for tensor, source in zip(graph.inputs, sources, strict=True):
            interpreter.set_tensor(source, values[tensor])
        interpreter.invoke()
        held = {tensor: interpreter.get_tensor(result) for tensor, result in zip(returned, results, strict=True)}
        yield {tensor: values[tensor] if tensor in graph.inputs else held[tensor] for tensor in tensors}


def _as_in_tflm(node: Node) -> list[Node]:
    """A node, or what computes a 16-bit RSQRT in float32: LiteRT's own is a table, up to 286 of 32,768 steps off."""
    if node.op != 'RSQRT' or node.output.dtype != 'int16':
        return [node]
    port = node.output.port
    largest = Tensor.of(port.decode(np.array([np.iinfo(port.dtype).max])))
    source, root, clipped = (Tensor(port.shape, 'float32') for _ in range(3))
    return [
        Node('DEQUANTIZE', [node.input(0)], [source]),
        Node('RSQRT', [source], [root]),
        Node('MINIMUM', [root, largest], [clipped]),  # of 0 it is infinite
        Node('QUANTIZE', [clipped], [node.output]),
    ]
