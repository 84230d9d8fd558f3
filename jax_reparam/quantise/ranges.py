"""The range of each tensor of a model: its true minimum and maximum over calibration windows.

Every tensor gets its own, also a term of a sum and a factor of a product, to which TensorFlow's calibration gives the
range of the result. What a block adds to its stream may be a small part of it, as each half-step FFN of a Conformer
is: of the sum's 256 steps it would use a few, and its rounding would be as large as that of the sum. Kernels take a
scale for each input, so it costs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np

from jax_reparam import threads
from jax_reparam.graph.graph import Graph, Tensor
from jax_reparam.runtime import observe

# By tensor its least and its greatest value.
Ranges: TypeAlias = Mapping[Tensor, tuple[float, float]]


def measured(graph: Graph, windows: np.ndarray) -> Ranges:
    """Runs a float32 graph over windows `[W, frames, n_mels]`: the range of all that is given or computed."""
    tensors = [tensor for tensor in graph.used() if tensor.constant is None]

    def spans(part: np.ndarray) -> np.ndarray:
        seen = observe.observe(graph, tensors, part)
        return np.array([[(values.min(), values.max()) for values in each.values()] for each in seen])

    parts = np.array_split(windows, min(len(windows), observe.WORKERS))
    with threads.pool(len(parts)) as executor:
        least, greatest = np.moveaxis(np.concatenate(list(executor.map(spans, parts))), 2, 0)
    return dict(zip(tensors, zip(least.min(axis=0).tolist(), greatest.max(axis=0).tolist(), strict=True), strict=True))
