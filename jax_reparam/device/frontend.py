"""frontend.tflite: one frame of samples to one frame of log-mel, inside TFLM.

The graph is `features.log_mel` for one frame, with TFLM's own Fourier transform:

    frame [1, frame] float32, steps of int16, its mean off (`features.frames`) -> MUL window / 32768 -> SignalRfft
    -> MUL with itself -> SLICE, FULLY_CONNECTED a group of bands -> CONCATENATION -> LOG -> log-mel [1, M] float32

The mean is taken off outside, where a sum of integers is exact and costs little. TFLM's transform rounds otherwise than
NumPy's; `bundle` says how far the two are apart. `features.encode` gives the device's codes.

The mel matrix is banded, so each group of neighbouring bands reads its own slice of the spectrum: fewer bytes and
products than one matrix, and the same sums. Squares of real and imaginary parts lie beside one another and
take every column twice, which saves adding them. LiteRT does not know SignalRfft; this file is for TFLM.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from jax_reparam.frontend import features
from jax_reparam.frontend.features import FrontendConfig, mel_matrix, window
from jax_reparam.graph import flatbuffer
from jax_reparam.runtime import tflm

# Bands that one FULLY_CONNECTED computes. Larger groups are more bytes and less arena.
BANDS_IN_GROUP = 8
# TFLM's CONCATENATION takes no more inputs.
MOST_GROUPS = 10


def build(config: FrontendConfig) -> bytes:
    """Makes the frontend, `[1, frame]` float32 to `[1, M]` float32."""
    graph, mel, samples = _Graph(), mel_matrix(config), config.frame_length
    bins, group = 2 * mel.shape[1], max(BANDS_IN_GROUP, -(-config.n_mels // MOST_GROUPS))
    pcm = graph.tensor([1, samples])
    # A power of two: taking it into the window rounds nothing.
    scaled_window = graph.constant(window(config)[None] / np.float32(32768))
    frame = graph.node('MUL', [pcm, scaled_window], [1, samples])
    spectrum = graph.custom('SignalRfft', [frame], [1, bins], _rfft_options(config.n_fft))
    squares = graph.node('MUL', [spectrum, spectrum], [1, bins])
    groups = []
    for start in range(0, config.n_mels, group):
        rows = mel[start : start + group]
        used = np.flatnonzero(rows.any(axis=0))
        first, last = (int(used[0]), int(used[-1])) if len(used) else (0, 0)
        width = 2 * (last + 1 - first)
        place = [graph.constant(np.array(pair, np.int32)) for pair in ([0, 2 * first], [1, width])]
        part = graph.node('SLICE', [squares, *place], [1, width])
        weights = graph.constant(np.repeat(rows[:, first : last + 1], 2, axis=1))
        floor = graph.constant(np.full(len(rows), config.floor, np.float32))
        groups.append(graph.node('FULLY_CONNECTED', [part, weights, floor], [1, len(rows)]))
    shape = [1, config.n_mels]
    power = graph.node('CONCATENATION', groups, shape, axis=1)
    return graph.pack(pcm, graph.node('LOG', [power], shape))


def frames_in_tflm(
    model: bytes, recordings: Sequence[np.ndarray], config: FrontendConfig
) -> tuple[list[np.ndarray], int]:
    """Runs a frontend in TFLM over whole recordings, `[N]` int16 each.

    Returns:
      Log-mel of each, `[T, M]` float32, and the arena in bytes.

    Raises:
      TFLMError: TFLM could not run it.
    """
    cut = [features.frames(samples, config) for samples in recordings]
    outcome = tflm.run(model, np.concatenate(cut))
    return np.split(outcome.logits, np.cumsum([len(one) for one in cut])[:-1]), outcome.arena_bytes


def _rfft_options(length: int) -> bytes:
    """SignalRfft's options as a flexbuffer; TFLM reads them by place, in the order of their names."""
    from ai_edge_litert.schema_py_generated import TensorType
    from flatbuffers import flexbuffers

    builder = flexbuffers.Builder()
    with builder.Map():
        builder.Int('T', TensorType.FLOAT32)
        builder.Int('fft_length', length)
    return bytes(builder.Finish())


class _Graph:
    """A .tflite file while it is written: the schema's objects, one node after the other."""

    def __init__(self) -> None:
        from ai_edge_litert import schema_py_generated as schema

        self._schema = schema
        self._model, self._subgraph = schema.ModelT(), schema.SubGraphT()
        self._model.version, self._model.subgraphs = 3, [self._subgraph]
        self._model.buffers, self._model.operatorCodes = [schema.BufferT()], []  # buffer 0 stands for "none"
        self._subgraph.tensors, self._subgraph.operators = [], []

    def tensor(self, shape: Sequence[int]) -> int:
        """The index of a new float32 tensor."""
        tensor = self._schema.TensorT()
        tensor.shape, tensor.buffer = np.array(shape, np.int32), 0
        self._subgraph.tensors.append(tensor)
        return len(self._subgraph.tensors) - 1

    def constant(self, values: np.ndarray) -> int:
        """Adds a constant; returns its tensor's index."""
        index = self.tensor(values.shape)
        flatbuffer.set_constant(self._model, index, values)
        return index

    def node(self, operator: str, inputs: list[int], shape: list[int], **options: Any) -> int:
        """Adds a node of a builtin operator with one float32 output; returns the output's index."""
        output = self.tensor(shape)
        self._subgraph.operators.append(flatbuffer.node(self._model, operator, inputs, output, **options))
        return output

    def custom(self, name: str, inputs: list[int], shape: list[int], options: bytes) -> int:
        """Adds a node of a custom operator with one float32 output; returns the output's index."""
        output = self.tensor(shape)
        self._subgraph.operators.append(flatbuffer.custom_node(self._model, name, inputs, output, options))
        return output

    def pack(self, source: int, sink: int) -> bytes:
        """The file, with one input and one output."""
        self._subgraph.inputs, self._subgraph.outputs = np.array([source], np.int32), np.array([sink], np.int32)
        self._subgraph.tensors[source].name, self._subgraph.tensors[sink].name = 'frame', 'log_mel'
        return flatbuffer.pack(self._model)
