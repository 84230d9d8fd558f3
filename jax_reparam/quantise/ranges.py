"""The range of each tensor of a model: its true minimum and maximum over calibration windows.

Every tensor gets its own, also a term of a sum and a factor of a product, to which TensorFlow's calibration gives the
range of the result. What a block adds to its stream may be a small part of it, as each half-step FFN of a Conformer
is: of the sum's 256 steps it would use a few, and its rounding would be as large as that of the sum. Kernels take a
scale for each input, so it costs nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from ai_edge_litert.schema_py_generated import QuantizationParametersT

from jax_reparam import threads
from jax_reparam.graph import flatbuffer
from jax_reparam.runtime import observe

# What these make holds all values that they read, and no other.
SAME_VALUES = ('RESHAPE', 'TRANSPOSE', 'EXPAND_DIMS')


@dataclasses.dataclass(frozen=True)
class Ranges:
    """What the tensors of a model hold, window by window.

    Attributes:
      tensors: indices of all that are given or computed, but for those that only show another one's values.
      least, greatest: of each, `[W, tensors]`.
    """

    tensors: tuple[int, ...]
    least: np.ndarray
    greatest: np.ndarray

    def of_every(self, step: int) -> Ranges:
        """The same of every `step`-th window."""
        return Ranges(self.tensors, self.least[::step], self.greatest[::step])

    def extremes(self) -> np.ndarray:
        """The windows in which some tensor is least or greatest, in rising order: they span the same ranges as all."""
        return np.union1d(self.least.argmin(axis=0), self.greatest.argmax(axis=0))


def measured(float32: bytes, windows: np.ndarray) -> Ranges:
    """Runs a float32 .tflite file over windows `[W, frames, n_mels]`."""
    content = flatbuffer.tree(float32)
    subgraph = content.subgraphs[0]
    named = flatbuffer.named_nodes(content)
    tensors = (int(subgraph.inputs[0]), *(int(node.outputs[0]) for name, node in named if name not in SAME_VALUES))

    def spans(part: np.ndarray) -> np.ndarray:
        seen = observe.observe(float32, tensors, part)
        return np.array([[(values.min(), values.max()) for values in each.values()] for each in seen])

    parts = np.array_split(windows, min(len(windows), observe.WORKERS))
    with threads.pool(len(parts)) as executor:
        least, greatest = np.moveaxis(np.concatenate(list(executor.map(spans, parts))), 2, 0)
    return Ranges(tensors, least, greatest)


def noted(float32: bytes, ranges: Ranges) -> bytes:
    """The file with the range of each tensor in it, as TensorFlow's calibration notes them."""
    content = flatbuffer.tree(float32)
    tensors = content.subgraphs[0].tensors
    least, greatest = ranges.least.min(axis=0), ranges.greatest.max(axis=0)
    spans = dict(zip(ranges.tensors, zip(least, greatest, strict=True), strict=True))
    for name, node in flatbuffer.named_nodes(content):
        known, output = [int(tensor) for tensor in node.inputs if int(tensor) in spans], int(node.outputs[0])
        if name in SAME_VALUES and known:
            spans[output] = spans[known[0]]
        elif name == 'ADD' and len(known) == 1 and _one_number(content, node.inputs):
            # As the epsilon of a normalisation: in equal steps, and a number is exact in its own, nothing is rounded.
            both = np.array([spans[output], spans[known[0]]])
            spans[output] = spans[known[0]] = (both[:, 0].min(), both[:, 1].max())
    for tensor, span in spans.items():
        tensors[tensor].quantization = entry = QuantizationParametersT()
        entry.min, entry.max = (np.array([value], np.float32) for value in span)
    return flatbuffer.pack(content)


def _one_number(content: Any, tensors: Sequence[int]) -> bool:
    return any(flatbuffer.is_constant(content, i) and flatbuffer.constant(content, i).size == 1 for i in tensors)
