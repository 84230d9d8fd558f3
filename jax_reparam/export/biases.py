"""Bias correction of an int8 model: what rounding shifts a channel by on average goes into its bias.

Rounded weights err the same way on every token, and a mean over tokens does not average that away, as it does the
rounding of activations. So each linear layer and convolution, in the order of the graph, has its bias moved by the
difference of its channels' means to those of the float32 model (Nagel et al. 2019, Data-Free Quantization, section 4.2;
here the means are measured on calibration windows, with all earlier layers already corrected).
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from jax_reparam.export import flatbuffer

# Of the calibration windows: each layer runs the model over all of them.
WINDOWS = 32
_BIASED = ('FULLY_CONNECTED', 'CONV_2D', 'DEPTHWISE_CONV_2D')


def corrected(int8: bytes, float32: bytes, windows: np.ndarray) -> bytes:
    """Corrects the biases of an int8 model.

    Args:
      int8: the .tflite file.
      float32: the same graph in float32.
      windows: standardised features, `[W, frames, n_mels]`; at most `WINDOWS` of them are used, evenly spaced.

    Raises:
      ValueError: the two are not the same graph.
    """
    windows = windows[:: -(-len(windows) // WINDOWS)]
    content, reference = flatbuffer.tree(int8), flatbuffer.tree(float32)
    pairs = _pairs(content, reference)
    _part_biases(content, [node for node, _ in pairs])
    expected = _means(float32, [tensor for _, tensor in pairs], windows)
    # Layers that read the same tensor do not change each other.
    for _, group in itertools.groupby(pairs, key=lambda pair: int(pair[0].inputs[0])):
        layers = list(group)
        found = _means(flatbuffer.pack(content), [int(node.outputs[0]) for node, _ in layers], windows)
        for node, tensor in layers:
            _move_bias(content, node, found[int(node.outputs[0])] - expected[tensor])
    return flatbuffer.pack(content)


def _pairs(content: Any, reference: Any) -> list[tuple[Any, int]]:
    """Each int8 node that has a bias, with the float32 tensor that it should make."""
    named = [
        [
            (name, node)
            for name, node in zip(flatbuffer.operator_names(tree), tree.subgraphs[0].operators, strict=True)
            if name != 'QUANTIZE'
        ]
        for tree in (content, reference)
    ]
    names = [[name for name, _ in nodes] for nodes in named]
    if names[0] != names[1]:
        raise ValueError(f'expected the operators of the float32 graph, got others: {len(names[0])}, {len(names[1])}')
    return [
        (node, int(twin.outputs[0]))
        for (name, node), (_, twin) in zip(*named, strict=True)
        if name in _BIASED and len(node.inputs) > 2 and node.inputs[2] >= 0
    ]


def _means(model: bytes, tensors: Sequence[int], windows: np.ndarray) -> dict[int, np.ndarray]:
    """The mean of each channel of tensors, by index: `[channels]` float64."""
    from ai_edge_litert import interpreter as litert

    # LiteRT's own kernels are TFLM's reference kernels, nearly to the bit.
    interpreter = litert.Interpreter(
        model_content=model,
        experimental_op_resolver_type=litert.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        experimental_preserve_all_tensors=True,
    )
    interpreter.allocate_tensors()
    source = interpreter.get_input_details()[0]['index']
    port = flatbuffer.graph(model).input
    total: dict[int, Any] = dict.fromkeys(tensors, 0.0)
    scales = {detail['index']: detail['quantization'] for detail in interpreter.get_tensor_details()}
    for window in windows:
        interpreter.set_tensor(source, port.encode(window[None]))
        interpreter.invoke()
        for tensor in tensors:
            values = interpreter.get_tensor(tensor)
            total[tensor] = total[tensor] + values.reshape(-1, values.shape[-1]).mean(axis=0, dtype=np.float64)
    means = {}
    for tensor in tensors:
        scale, zero_point = scales[tensor]
        mean = total[tensor] / len(windows)
        means[tensor] = (mean - zero_point) * scale if scale else mean
    return means


def _part_biases(content: Any, nodes: Sequence[Any]) -> None:
    """Gives each node a bias of its own: equal constants may share a tensor or a buffer."""
    subgraph = content.subgraphs[0]
    tensors, buffers = set(), set()
    for node in nodes:
        index = int(node.inputs[2])
        tensor = subgraph.tensors[index]
        if index in tensors or tensor.buffer in buffers:
            content.buffers.append(copy.copy(content.buffers[tensor.buffer]))
            tensor = copy.copy(tensor)
            tensor.buffer, index = len(content.buffers) - 1, len(subgraph.tensors)
            subgraph.tensors.append(tensor)
            node.inputs = np.array([*node.inputs[:2], index, *node.inputs[3:]], np.int32)
        tensors.add(index)
        buffers.add(tensor.buffer)


def _move_bias(content: Any, node: Any, error: np.ndarray) -> None:
    """Takes `error` `[channels]` off a node's int32 bias, whose scale is the input's times the weights'."""
    subgraph = content.subgraphs[0]
    source, kernel, bias = (subgraph.tensors[index] for index in node.inputs[:3])
    scale = np.float64(source.quantization.scale[0]) * np.asarray(kernel.quantization.scale, np.float64)
    buffer = content.buffers[bias.buffer]
    steps = np.asarray(buffer.data, np.uint8).view(np.int32) - np.rint(error / scale)
    buffer.data = np.clip(steps, -(2**31), 2**31 - 1).astype(np.int32).view(np.uint8)
