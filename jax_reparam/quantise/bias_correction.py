"""Bias correction of a quantised model: what rounding shifts a channel by on average goes into its bias.

Rounded weights err the same way on every token, and a mean over tokens does not average that away, as it does the
rounding of activations. So each linear layer and convolution, in the order of the graph, has its bias moved by the
difference of its channels' means to those of the float32 model (Nagel et al. 2019, Data-Free Quantization, section 4.2;
here the means are measured on calibration windows, with all earlier layers already corrected).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from jax_reparam import evaluation
from jax_reparam.graph.graph import Graph, Node, Tensor
from jax_reparam.quantise import gptq
from jax_reparam.quantise.integers import bias_scale, set_bias
from jax_reparam.runtime import observe

# Of the calibration windows: each layer runs over all of them. Fewer leave chance in the means of a head, which has one
# row a window.
WINDOWS = 32

# By tensor the mean of each channel, `[channels]` float64.
Means: TypeAlias = Mapping[Tensor, np.ndarray]


def expected(float32: Graph, windows: np.ndarray) -> Means:
    """What the layers of a float32 graph make on `windows`, `[W, frames, n_mels]`; at most `WINDOWS` of them."""
    windows = evaluation.evenly(windows, WINDOWS)
    outputs = [node.output for node in gptq.layers(float32)]
    return _means(observe.observe(float32, outputs, windows), outputs, len(windows))


def correct(graph: Graph, origins: Mapping[Node, Node], wanted: Means, windows: np.ndarray) -> None:
    """Moves the biases of an integer graph; changes their constants.

    Args:
      graph: the integer graph.
      origins: by its nodes those of the float32 graph (`integers.lowered`).
      wanted: `expected` of that one.
      windows: `[W, frames, n_mels]`; at most `WINDOWS` of them are used, evenly spaced.
    """
    windows = evaluation.evenly(windows, WINDOWS)
    layers = [node for node in gptq.layers(graph) if node.bias is not None]
    places = {node: place for place, node in enumerate(graph.nodes)}
    # What is final, for each window: no node runs more than twice.
    known = [{graph.inputs[0]: graph.input.encode(window[None])} for window in windows]
    start = 0
    # Layers that read the same tensor do not change each other.
    for _, group in itertools.groupby(layers, key=lambda node: node.input(0)):
        readers = list(group)
        first, behind = places[readers[0]], places[readers[-1]] + 1
        outputs = [node.output for node in readers]
        later = {tensor for node in graph.nodes[first:] for tensor in node.reads}
        live = [tensor for node in graph.nodes[start:first] for tensor in node.outputs if tensor in later]
        nodes = graph.nodes[start:behind]
        read = {tensor for node in nodes for tensor in node.reads}
        part = Graph(nodes, [tensor for tensor in known[0] if tensor in read], outputs)
        runs = list(observe.run(part, known, [*outputs, *live]))
        real = ({tensor: tensor.port.decode(run[tensor], np.float64) for tensor in outputs} for run in runs)
        means = _means(real, outputs, len(windows))
        for node in readers:
            assert node.bias is not None
            error = means[node.output] - wanted[origins[node].output]
            set_bias(node.bias, node.bias.values - np.rint(error / bias_scale(node.input(0), node.input(1))))
        known = [
            {tensor: value for tensor, value in (before | run).items() if tensor in later and tensor not in outputs}
            for before, run in zip(known, runs, strict=True)
        ]
        start = first


def _means(runs: Iterable[Mapping[Tensor, np.ndarray]], tensors: Sequence[Tensor], count: int) -> Means:
    """The mean of each channel of tensors over some runs."""
    total: dict[Tensor, Any] = dict.fromkeys(tensors, 0.0)
    for seen in runs:
        for tensor, values in seen.items():
            total[tensor] = total[tensor] + values.reshape(-1, values.shape[-1]).mean(axis=0, dtype=np.float64)
    return {tensor: values / count for tensor, values in total.items()}
