"""Bias correction of a quantised model: what rounding shifts a channel by on average goes into its bias.

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

from jax_reparam.export import flatbuffer, twin

# Of the calibration windows: each layer runs the model over all of them.
WINDOWS = 8


def corrected(quantised: bytes, float32: bytes, windows: np.ndarray) -> bytes:
    """Corrects the biases of a quantised model.

    Args:
      quantised: the .tflite file.
      float32: the same graph in float32.
      windows: standardised features, `[W, frames, n_mels]`; at most `WINDOWS` of them are used, evenly spaced.

    Raises:
      ValueError: the two are not the same graph.
    """
    windows = windows[:: -(-len(windows) // WINDOWS)]
    content, reference = flatbuffer.tree(quantised), flatbuffer.tree(float32)
    layers = twin.layers(content, reference)
    _part_biases(content, [node for node, _ in layers])
    for node, other in layers:
        _set_bias(content, node, flatbuffer.constant(reference, other.inputs[2]))
    pairs = [(node, int(other.outputs[0])) for node, other in layers]
    expected = _means(float32, [tensor for _, tensor in pairs], windows)
    # Changed where they lie: packing the file anew for every layer would take longer than running it.
    model = bytearray(flatbuffer.pack(content))
    places = {id(node): place for place, node in enumerate(content.subgraphs[0].operators)}
    # Layers that read the same tensor do not change each other.
    for _, group in itertools.groupby(pairs, key=lambda pair: int(pair[0].inputs[0])):
        readers = list(group)
        behind = 1 + max(places[id(node)] for node, _ in readers)
        found = _means(flatbuffer.first(model, behind), [int(node.outputs[0]) for node, _ in readers], windows)
        for node, tensor in readers:
            steps = _moved(content, node, found[int(node.outputs[0])] - expected[tensor])
            buffer = content.subgraphs[0].tensors[node.inputs[2]].buffer
            flatbuffer.buffer(model, buffer)[:] = steps.reshape(-1).view(np.uint8)
    return bytes(model)


def _means(model: bytes, tensors: Sequence[int], windows: np.ndarray) -> dict[int, np.ndarray]:
    """The mean of each channel of tensors, by index: `[channels]` float64."""
    total: dict[int, Any] = dict.fromkeys(tensors, 0.0)
    for seen in twin.observe(model, tensors, windows):
        for tensor, values in seen.items():
            total[tensor] = total[tensor] + values.reshape(-1, values.shape[-1]).mean(axis=0, dtype=np.float64)
    return {tensor: values / len(windows) for tensor, values in total.items()}


def _part_biases(content: Any, nodes: Sequence[Any]) -> None:
    """Gives each node a bias of its own: equal constants may share a tensor."""
    subgraph = content.subgraphs[0]
    seen = set()
    for node in nodes:
        index = int(node.inputs[2])
        if index in seen:
            subgraph.tensors.append(copy.deepcopy(subgraph.tensors[index]))
            index = len(subgraph.tensors) - 1
            node.inputs = np.array([*node.inputs[:2], index, *node.inputs[3:]], np.int32)
        seen.add(index)


def _set_bias(content: Any, node: Any, bias: np.ndarray) -> None:
    """Writes a node's bias in its own scale: the converter gives equal biases that of one of their layers."""
    tensor, scale = content.subgraphs[0].tensors[node.inputs[2]], _bias_scale(content, node)
    tensor.quantization.scale = np.broadcast_to(scale, np.shape(tensor.quantization.scale)).astype(np.float32)
    dtype = flatbuffer.constant(content, node.inputs[2]).dtype
    flatbuffer.set_constant(content, node.inputs[2], _clipped(np.rint(bias.astype(np.float64) / scale), dtype))


def _moved(content: Any, node: Any, error: np.ndarray) -> np.ndarray:
    """A node's bias less `error` `[channels]`."""
    steps = flatbuffer.constant(content, node.inputs[2])
    return _clipped(steps - np.rint(error / _bias_scale(content, node)), steps.dtype)


def _clipped(steps: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    """Within 32 bits, also where the type has 64: it does where activations have 16."""
    return np.clip(steps, -(2**31), 2**31 - 1).astype(dtype)


def _bias_scale(content: Any, node: Any) -> np.ndarray:
    """A bias's scale is the input's times the weights'."""
    source, kernel = (content.subgraphs[0].tensors[index] for index in node.inputs[:2])
    return np.float64(source.quantization.scale[0]) * np.asarray(kernel.quantization.scale, np.float64)
