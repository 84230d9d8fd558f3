"""Golden vectors: a made signal, and what TFLM's Python interpreter makes of it, for checking a port to a device."""

from __future__ import annotations

import dataclasses

import numpy as np

from jax_reparam.frontend import stream
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
    return np.rint(20000 * mixed / np.abs(mixed).max()).astype(np.int16)


def make(model: bytes, frontend: bytes, inputs: Input) -> Golden:
    """Runs the made signal through both models in TFLM.

    Raises:
      tflm.TFLMError: TFLM could not run one of them.
    """
    port, sink = flatbuffer.graph(model).input, flatbuffer.graph(model).output
    # Shorter than a window, so that it is also heard repeated.
    window = inputs.window.frames * inputs.frontend.hop_ms / 1000
    pcm = signal(inputs.frontend.sample_rate, min(SECONDS, 0.8 * window))
    whole = inputs.window.frames * inputs.frontend.hop_length
    # Two windows and a part of a hop: the ring goes round, and the last window is one that the end moves back.
    repeats = -(-(whole + inputs.window.hop * inputs.frontend.hop_length) // len(pcm)) + 1

    cutter = stream.Stream(inputs, lambda samples: samples)
    frames = [window.features for part in range(repeats) for window in cutter.feed(pcm)]
    frames += [window.features for window in cutter.finish()]
    once = stream.Stream(inputs, lambda samples: samples)
    short = [*once.feed(pcm), *once.finish()]
    windows = np.stack([short[-1].features, *frames])
    flat = windows.reshape(-1, inputs.frontend.frame_length)
    distinct, inverse = np.unique(flat, axis=0, return_inverse=True)
    features = tflm.run(frontend, distinct).logits[inverse.reshape(-1)]
    features = features.reshape(*windows.shape[:2], inputs.frontend.n_mels)
    logits = sink.encode(tflm.run(model, features).logits)

    counter = stream.Stream(inputs, lambda samples: samples[:1])
    starts = [window.start for part in range(repeats) for window in counter.feed(pcm)]
    starts += [window.start for window in counter.finish()]
    return Golden(pcm, port.encode(features[0][: short[-1].frames]), logits[0], repeats, np.array(starts), logits[1:])
