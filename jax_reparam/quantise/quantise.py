"""From a float32 graph to integers, in one direction: ranges, bits, formats, weights, integers, bias correction."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping

import numpy as np

from jax_reparam.graph.graph import Graph, Node, Tensor
from jax_reparam.quantise import bias_correction, formats, gptq, integers, ranges, widths


@dataclasses.dataclass
class Calibration:
    """What calibration windows say of a float32 graph; all forms share it, and all is measured once.

    Attributes:
      graph: the float32 graph.
      windows: standardised features, `[W, frames, n_mels]`.
    """

    graph: Graph
    windows: np.ndarray

    @functools.cached_property
    def ranges(self) -> ranges.Ranges:
        """Of each tensor."""
        return ranges.measured(self.graph, self.windows)

    @functools.cached_property
    def covariances(self) -> gptq.Covariances:
        """Of what each layer reads."""
        return gptq.covariances(self.graph, self.windows)

    @functools.cached_property
    def means(self) -> bias_correction.Means:
        """Of what each layer makes."""
        return bias_correction.expected(self.graph, self.windows)

    @functools.cached_property
    def kernels(self) -> dict[Node, Tensor]:
        """Of each layer, in int8: the same in 8 and in 16 bits, since it is the float32 input that counts."""
        return {layer: gptq.rounded(layer, self.covariances) for layer in gptq.layers(self.graph)}


@dataclasses.dataclass(frozen=True)
class Quantised:
    """An integer graph.

    Attributes:
      graph: it, as it was written; `passes.optimise` makes it ready for a device.
      float32: what it was made of.
      origins: by its nodes but conversions those of `float32`.
    """

    graph: Graph
    float32: Graph
    origins: Mapping[Node, Node]


def quantise(calibration: Calibration, bits: Mapping[str, int]) -> Quantised:
    """Quantises a float32 graph.

    Args:
      calibration: the graph, and windows that set ranges, rounding and biases.
      bits: 8 or 16 by scope (`deploy.widths`); `{'': 8}` is 8 bits throughout.

    Raises:
      ValueError: a node without such a scope, or one that cannot be written in these bits.
    """
    graph = calibration.graph
    of_nodes = widths.assign(graph, bits)
    of_tensors = formats.formats(graph, calibration.ranges, of_nodes)
    # Biases are corrected in place.
    integer, origins = integers.lowered(graph, of_nodes, of_tensors, calibration.kernels)
    bias_correction.correct(integer, origins, calibration.means, calibration.windows)
    return Quantised(integer, graph, origins)
