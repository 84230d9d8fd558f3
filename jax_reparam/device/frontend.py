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
from jax_reparam.frontend.features import FrontendConfig, filters
from jax_reparam.graph import flatbuffer
from jax_reparam.graph.graph import Graph, Node, Tensor
from jax_reparam.runtime import tflm

# Bands that one FULLY_CONNECTED computes. Larger groups are more bytes and less arena.
BANDS_IN_GROUP = 8
# TFLM's CONCATENATION takes no more inputs.
MOST_GROUPS = 10


def build(config: FrontendConfig) -> bytes:
    """Makes the frontend, `[1, frame]` float32 to `[1, M]` float32."""
    arrays, samples = filters(config), config.frame_length
    mel = arrays.mel
    bins, group = 2 * mel.shape[1], max(BANDS_IN_GROUP, -(-config.n_mels // MOST_GROUPS))
    nodes: list[Node] = []

    def node(op: str, inputs: Sequence[Any], size: int, custom: bytes | None = None, **fields: Any) -> Tensor:
        """Adds an operator that makes `[1, size]` float32 of tensors and arrays."""
        output = Tensor((1, size), 'float32')
        read = [Tensor.of(value) if isinstance(value, np.ndarray) else value for value in inputs]
        options = flatbuffer.options(op, **fields) if custom is None else None
        nodes.append(Node(op, [*read], [output], options, custom))
        return output

    pcm = Tensor((1, samples), 'float32', name='frame')
    # A power of two: taking it into the window rounds nothing.
    frame = node('MUL', [pcm, arrays.window[None] / np.float32(32768)], samples)
    spectrum = node('SignalRfft', [frame], bins, _rfft_options(config.n_fft))
    squares = node('MUL', [spectrum, spectrum], bins)
    groups = []
    for start in range(0, config.n_mels, group):
        rows = mel[start : start + group]
        used = np.flatnonzero(rows.any(axis=0))
        first, last = (int(used[0]), int(used[-1])) if len(used) else (0, 0)
        width = 2 * (last + 1 - first)
        place = [np.array(pair, np.int32) for pair in ([0, 2 * first], [1, width])]
        part = node('SLICE', [squares, *place], width)
        weights = np.repeat(rows[:, first : last + 1], 2, axis=1)
        groups.append(node('FULLY_CONNECTED', [part, weights, np.full(len(rows), config.floor, np.float32)], len(rows)))
    power = node('CONCATENATION', groups, config.n_mels, axis=1)
    log_mel = node('LOG', [power], config.n_mels)
    log_mel.name = 'log_mel'
    return flatbuffer.write(Graph(nodes, [pcm], [log_mel]))


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
