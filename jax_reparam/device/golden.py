"""Golden vectors: a made signal, and what TFLM's Python interpreter makes of it, for checking a port to a device."""

from __future__ import annotations

import dataclasses

import numpy as np

from jax_reparam.device import frontend
from jax_reparam.frontend import windows
from jax_reparam.frontend.inputs import Input
from jax_reparam.graph import flatbuffer
from jax_reparam.runtime import tflm

SECONDS = 0.75


@dataclasses.dataclass(frozen=True)
class Golden:
    """What goes in and what must come out.

    Attributes:
      pcm: `[N]` int16.
      features: of its frames, `[T, M]` in the model's input type.
      logits: over the frames repeated to one window, `[C]` in the model's output type.
      repeats: how often the PCM is fed for the stream.
      starts: first frame of each window of that stream, `[W]`.
      stream_logits: of those windows, `[W, C]`.
    """

    pcm: np.ndarray
    features: np.ndarray
    logits: np.ndarray
    repeats: int
    starts: np.ndarray
    stream_logits: np.ndarray


def signal(sample_rate: int, seconds: float = SECONDS) -> np.ndarray:
    """A chirp, a hummed vowel and noise, `[N]` int16: made by a formula, so that it holds nobody's voice.

    A vowel is harmonics of a falling pitch under three formants. Loud and quiet parts, both ends of the spectrum.
    """
    time = np.arange(int(sample_rate * seconds)) / sample_rate
    chirp = np.sin(2 * np.pi * (100 * time + 0.5 * (0.45 * sample_rate - 100) / seconds * time**2))
    pitch = 180 - 60 * time / seconds
    phase = 2 * np.pi * np.cumsum(pitch) / sample_rate
    vowel = sum(
        np.sin(k * phase) * sum(np.exp(-(((k * pitch - formant) / 120) ** 2)) for formant in (700, 1200, 2600))
        for k in range(1, 20)
    )
    noise = np.random.default_rng(0).uniform(-1, 1, len(time))
    loudness = np.exp(-4 * (time / seconds - 0.4) ** 2)
    mixed = loudness * (0.25 * chirp + 0.3 * vowel + 0.02 * noise)
    pcm: np.ndarray = np.rint(20000 * mixed / np.abs(mixed).max()).astype(np.int16)
    return pcm


def make(model: bytes, front: bytes, inputs: Input) -> Golden:
    """Runs the made signal through both models in TFLM.

    Raises:
      tflm.TFLMError: TFLM could not run one of them.
    """
    graph = flatbuffer.graph(model)
    # Shorter than a window, so that it is also heard repeated.
    window = inputs.window.frames * inputs.frontend.hop_ms / 1000
    pcm = signal(inputs.frontend.sample_rate, min(SECONDS, 0.8 * window))
    whole = inputs.window.frames * inputs.frontend.hop_length
    # Two windows and a part of a hop: the ring goes round, and the last window is one that the end moves back.
    repeats = -(-(whole + inputs.window.hop * inputs.frontend.hop_length) // len(pcm)) + 1

    once, stream = (frontend.frames(samples, inputs) for samples in (pcm, np.tile(pcm, repeats)))
    features, stream_features = np.split(tflm.run(front, np.concatenate([once, stream])).logits, [len(once)])
    repeated = windows.cut(features, 0, inputs.window.frames)
    heard = np.stack([repeated, *windows.split([stream_features], inputs.window)[0]])
    logits = graph.output.encode(tflm.run(model, heard).logits)
    starts = windows.starts(len(stream), inputs.window)
    return Golden(pcm, graph.input.encode(features), logits[0], repeats, starts, logits[1:])
