"""A quantised model beside its float32 graph: the nodes that belong together, and what runs through them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jax_reparam import threads
from jax_reparam.graph import flatbuffer

LINEAR = ('FULLY_CONNECTED', 'CONV_2D', 'DEPTHWISE_CONV_2D')

# Interpreters that run at the same time, each with all its tensors in memory.
WORKERS = threads.cores(4)


def pairs(quantised: Any, float32: Any) -> list[tuple[str, Any, Any]]:
    """Each node but conversions with that of the float32 graph, and their operator's name, in the order of the graph.

    Both are from `flatbuffer.tree`.

    Raises:
      ValueError: the two are not the same graph.
    """
    named, kinds = [], []
    for tree in (quantised, float32):
        nodes = [pair for pair in flatbuffer.named_nodes(tree) if pair[0] not in flatbuffer.CONVERSIONS]
        named.append(nodes)
        kinds.append([(name, flatbuffer.shape(tree, int(node.outputs[0]))) for name, node in nodes])
    if kinds[0] != kinds[1]:
        raise ValueError(f'expected the operators of the float32 graph, got others: {len(kinds[0])}, {len(kinds[1])}')
    return [(name, node, reference) for (name, node), (_, reference) in zip(*named, strict=True)]


def layers(quantised: Any, float32: Any) -> list[tuple[str, Any, Any]]:
    """Of `pairs` the linear layers and convolutions with a bias, also before they were quantised."""
    return [
        (name, node, reference)
        for name, node, reference in pairs(quantised, float32)
        if name in LINEAR and all(len(one.inputs) > 2 and one.inputs[2] >= 0 for one in (node, reference))
    ]


def observe(model: bytes, tensors: Sequence[int], windows: np.ndarray) -> Iterator[dict[int, np.ndarray]]:
    """Runs a model over windows `[W, frames, n_mels]`; yields, for each, real values of some tensors, by index."""
    subgraph = flatbuffer.tree(model).subgraphs[0]
    source = int(subgraph.inputs[0])
    ports = {tensor: flatbuffer.port(subgraph.tensors[tensor]) for tensor in {source, *tensors}}
    for steps in run(model, ({source: ports[source].encode(window[None])} for window in windows), tensors):
        yield {tensor: ports[tensor].decode(values, np.float64) for tensor, values in steps.items()}


def run(
    model: bytes, inputs: Iterable[Mapping[int, np.ndarray]], tensors: Sequence[int]
) -> Iterator[dict[int, np.ndarray]]:
    """Runs a model; yields, for each of `inputs` (by index; what is no input is left out), what some tensors hold."""
    from ai_edge_litert import interpreter as litert

    # LiteRT's own kernels are TFLM's reference kernels, nearly to the bit.
    interpreter = litert.Interpreter(
        model_content=model,
        experimental_op_resolver_type=litert.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        experimental_preserve_all_tensors=True,
    )
    interpreter.allocate_tensors()
    sources = [detail['index'] for detail in interpreter.get_input_details()]
    for values in inputs:
        for source in sources:
            interpreter.set_tensor(source, values[source])
        interpreter.invoke()
        yield {tensor: interpreter.get_tensor(tensor) for tensor in tensors}
