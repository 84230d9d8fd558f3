"""Bias correction of a quantised model: what rounding shifts a channel by on average goes into its bias.

Rounded weights err the same way on every token, and a mean over tokens does not average that away, as it does the
rounding of activations. So each linear layer and convolution, in the order of the graph, has its bias moved by the
difference of its channels' means to those of the float32 model (Nagel et al. 2019, Data-Free Quantization, section 4.2;
here the means are measured on calibration windows, with all earlier layers already corrected).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from jax_reparam import evaluation
from jax_reparam.graph import flatbuffer
from jax_reparam.runtime import observe

# Of the calibration windows: each layer runs over all of them. Fewer leave chance in the means of a head, which has one
# row a window.
WINDOWS = 32


def corrected(quantised: bytes, float32: bytes, windows: np.ndarray) -> bytes:
    """Corrects the biases of a quantised model to what its float32 graph makes of `windows`, `[W, frames, n_mels]`.

    At most `WINDOWS` of them are used, evenly spaced.

    Raises:
      ValueError: the two are not the same graph.
    """
    windows = evaluation.evenly(windows, WINDOWS)
    content, reference = flatbuffer.tree(quantised), flatbuffer.tree(float32)
    layers = observe.layers(content, reference)
    _part_biases(content, [node for _, node, _ in layers])
    zeros = _cast_zeros(content)
    for _, node, other in layers:
        _set_bias(content, node, flatbuffer.constant(reference, other.inputs[2]), zeros.get(int(node.inputs[0]), 0))
    pairs = [(node, int(other.outputs[0])) for _, node, other in layers]
    references = [reference for _, reference in pairs]
    expected = _means(observe.observe(float32, references, windows), references, len(windows))
    # Changed where they lie: packing the file anew for every layer would take longer than running it.
    model = bytearray(flatbuffer.pack(content))
    subgraph = content.subgraphs[0]
    places = {id(node): place for place, node in enumerate(subgraph.operators)}
    port = flatbuffer.port(subgraph.tensors[subgraph.inputs[0]])
    # What is final, for each window: no node runs more than twice.
    known = [{int(subgraph.inputs[0]): port.encode(window[None])} for window in windows]
    start = 0
    # Layers that read the same tensor do not change each other.
    for _, group in itertools.groupby(pairs, key=lambda pair: int(pair[0].inputs[0])):
        readers = list(group)
        first, behind = places[id(readers[0][0])], places[id(readers[-1][0])] + 1
        outputs = [int(node.outputs[0]) for node, _ in readers]
        later = {int(tensor) for node in subgraph.operators[first:] for tensor in node.inputs}
        live = [int(tensor) for node in subgraph.operators[start:first] for tensor in node.outputs if tensor in later]
        read = {int(tensor) for node in subgraph.operators[start:behind] for tensor in node.inputs}
        inputs = sorted(read & known[0].keys())
        runs = list(observe.run(flatbuffer.part(model, start, behind, inputs), known, [*outputs, *live]))
        ports = {tensor: flatbuffer.port(subgraph.tensors[tensor]) for tensor in outputs}
        real = ({tensor: port.decode(run[tensor], np.float64) for tensor, port in ports.items()} for run in runs)
        means = _means(real, outputs, len(windows))
        for node, tensor in readers:
            error = means[int(node.outputs[0])] - expected[tensor]
            steps = flatbuffer.constant(content, node.inputs[2])
            moved = steps - np.rint(error / flatbuffer.bias_scale(content, *node.inputs[:2]))
            buffer = flatbuffer.buffer(model, subgraph.tensors[node.inputs[2]].buffer)
            buffer[:] = _clipped(moved, steps.dtype).reshape(-1).view(np.uint8)
        known = [
            {tensor: value for tensor, value in (before | run).items() if tensor in later and tensor not in outputs}
            for before, run in zip(known, runs, strict=True)
        ]
        start = first
    return bytes(model)


def in_steps(content: Any, source: int, weights: int, values: np.ndarray, *, zero: int = 0) -> np.ndarray:
    """A bias `values` `[channels]` of a layer in the steps of its sums, int64.

    The layer reads the tensor `source` and `weights`, `[channels, ...]`. `zero` is what all integers of `source` are
    too large by, where they were cast from 8 bits.
    """
    kernel = flatbuffer.constant(content, weights).astype(np.int64)
    steps: np.ndarray = np.rint(values.astype(np.float64) / flatbuffer.bias_scale(content, source, weights))
    shifted: np.ndarray = steps.astype(np.int64) - zero * kernel.sum(axis=tuple(range(1, kernel.ndim)))
    return shifted


def _cast_zeros(content: Any) -> dict[int, int]:
    """By tensor that was cast from 8 bits, what stood for zero there."""
    tensors = content.subgraphs[0].tensors
    casts = [node for name, node in flatbuffer.named_nodes(content) if name == 'CAST']
    return {int(node.outputs[0]): flatbuffer.port(tensors[node.inputs[0]]).zero_point or 0 for node in casts}


def _means(runs: Iterable[Mapping[int, np.ndarray]], tensors: Sequence[int], count: int) -> dict[int, np.ndarray]:
    """The mean of each channel of tensors over some runs, by index: `[channels]` float64."""
    total: dict[int, Any] = dict.fromkeys(tensors, 0.0)
    for seen in runs:
        for tensor, values in seen.items():
            total[tensor] = total[tensor] + values.reshape(-1, values.shape[-1]).mean(axis=0, dtype=np.float64)
    return {tensor: values / count for tensor, values in total.items()}


def _part_biases(content: Any, nodes: Sequence[Any]) -> None:
    """Gives each node a bias of its own: equal constants may share a tensor."""
    seen = set()
    for node in nodes:
        index = int(node.inputs[2])
        if index in seen:
            index = flatbuffer.add_like(content, index)
            node.inputs = np.array([*node.inputs[:2], index, *node.inputs[3:]], np.int32)
        seen.add(index)


def _set_bias(content: Any, node: Any, bias: np.ndarray, zero: int) -> None:
    """Writes a node's bias in its own scale: the converter gives equal biases that of one of their layers."""
    source, weights, index = map(int, node.inputs[:3])
    quantization = content.subgraphs[0].tensors[index].quantization
    scale = flatbuffer.bias_scale(content, source, weights)
    quantization.scale = np.broadcast_to(scale, np.shape(quantization.scale)).astype(np.float32)
    steps = in_steps(content, source, weights, bias, zero=zero)
    flatbuffer.set_constant(content, index, _clipped(steps, flatbuffer.constant(content, index).dtype))


def _clipped(steps: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    """Within 32 bits, also where the type has 64: it does where activations have 16."""
    clipped: np.ndarray = np.clip(steps, -(2**31), 2**31 - 1)
    return clipped.astype(dtype)
