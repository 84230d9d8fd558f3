"""A quantised model beside its float32 twin: the nodes that belong together, and what runs through them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from jax_reparam.export import flatbuffer

LINEAR = ('FULLY_CONNECTED', 'CONV_2D', 'DEPTHWISE_CONV_2D')


def layers(quantised: Any, float32: Any) -> list[tuple[Any, Any]]:
    """Pairs of nodes, linear layers and convolutions with a bias, in the order of the graph.

    Args:
      quantised: what `flatbuffer.tree` gave.
      float32: the same graph in float32, in the same order.

    Raises:
      ValueError: the two are not the same graph.
    """
    named = [
        [
            (name, node)
            for name, node in zip(flatbuffer.operator_names(tree), tree.subgraphs[0].operators, strict=True)
            if name != 'QUANTIZE'
        ]
        for tree in (quantised, float32)
    ]
    names = [[name for name, _ in nodes] for nodes in named]
    if names[0] != names[1]:
        raise ValueError(f'expected the operators of the float32 graph, got others: {len(names[0])}, {len(names[1])}')
    return [
        (node, twin)
        for (name, node), (_, twin) in zip(*named, strict=True)
        if name in LINEAR and len(node.inputs) > 2 and node.inputs[2] >= 0
    ]


def observe(model: bytes, tensors: Sequence[int], windows: np.ndarray) -> Iterator[dict[int, np.ndarray]]:
    """Runs a model over windows `[W, frames, n_mels]`; yields, for each, the real values of some tensors by index."""
    from ai_edge_litert import interpreter as litert

    # LiteRT's own kernels are TFLM's reference kernels, nearly to the bit.
    interpreter = litert.Interpreter(
        model_content=model,
        experimental_op_resolver_type=litert.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        experimental_preserve_all_tensors=True,
    )
    interpreter.allocate_tensors()
    source, port = interpreter.get_input_details()[0]['index'], _input(interpreter)
    scales = {detail['index']: detail['quantization'] for detail in interpreter.get_tensor_details()}
    for window in windows:
        interpreter.set_tensor(source, port.encode(window[None]))
        interpreter.invoke()
        yield {tensor: _real(interpreter.get_tensor(tensor), *scales[tensor]) for tensor in tensors}


def _input(interpreter: Any) -> flatbuffer.Port:
    """The input as LiteRT sees it: reading the file takes longer than running it."""
    detail = interpreter.get_input_details()[0]
    scale, zero_point = detail['quantization']
    shape, dtype = tuple(int(size) for size in detail['shape']), np.dtype(detail['dtype']).name
    return flatbuffer.Port(shape, dtype, scale, zero_point) if scale else flatbuffer.Port(shape, dtype)


def _real(values: np.ndarray, scale: float, zero_point: int) -> np.ndarray:
    return (values.astype(np.float64) - zero_point) * scale if scale else values
