"""model_waveform_float32.tflite: PCM of one window in, probabilities out, in one LiteRT graph.

Speech and its level are found in the graph, by the text that training runs (`speech.normalise`). A recording that is
shorter than a window is filled up with zeros: silence around speech changes next to nothing. It has no history: no
voice is learned or known.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jax_reparam.deploy import convert
from jax_reparam.frontend import features, speech
from jax_reparam.frontend.features import FrontendConfig, filters
from jax_reparam.frontend.inputs import Input
from jax_reparam.graph import flatbuffer


def samples(inputs: Input) -> int:
    """Samples of one window: those that its frames cover."""
    config = inputs.frontend
    return (inputs.window.frames - 1) * config.hop_length + config.frame_length


def pcm(recording: np.ndarray, inputs: Input) -> np.ndarray:
    """The first window of a recording, `[N]` int16, as the model takes it: `[samples]` float32 in [-1, 1]."""
    count = samples(inputs)
    cut = np.pad(recording[:count], (0, max(0, count - len(recording))))
    return cut.astype(np.float32) / np.float32(32768)


def log_mel(pcm: jax.Array, config: FrontendConfig) -> jax.Array:
    """`features.log_mel` in JAX: `[N]` float32 in [-1, 1], N = (T - 1) * hop + frame, to `[T, M]` float32."""
    frame, hop = config.frame_length, config.hop_length
    count = 1 + (len(pcm) - frame) // hop
    # Frames as slices of equal parts, which overlap by whole parts: no gather.
    part = math.gcd(frame, hop)
    parts = pcm[: len(pcm) // part * part].reshape(-1, part)
    stride = hop // part
    pieces = [parts[k : k + (count - 1) * stride + 1 : stride] for k in range(frame // part)]
    # In steps of int16 sums are exact, whatever their order.
    frames = jnp.concatenate(pieces, axis=1) * np.float32(32768)
    frames = frames - frames.sum(axis=1, keepdims=True) / np.float32(frame)
    spectrum = jnp.fft.rfft(frames * (filters(config).window / np.float32(32768))[None], n=config.n_fft)
    power = jnp.real(spectrum) ** 2 + jnp.imag(spectrum) ** 2
    return jnp.log(power @ filters(config).mel.T + np.float32(config.floor))


def encode(log_mel: jax.Array) -> jax.Array:
    """`features.encode` in JAX, but as int32, which converts to fewer kinds of operators."""
    steps = jnp.rint(log_mel * np.float32(1 / features.STEP)) + np.float32(features.ZERO)
    return jnp.clip(steps, -128, 127).astype(jnp.int32)


def build(logits: Callable[[jax.Array], jax.Array], inputs: Input) -> bytes:
    """Makes the file.

    Args:
      logits: standardised features `[1, T, M]` to logits `[1, C]`, with its parameters inside.
      inputs: how audio becomes features.

    Returns:
      The .tflite file: `pcm` `[1, N]` float32 in [-1, 1] to `probabilities` `[1, C]`, all 0 where nobody speaks.

    Raises:
      convert.ConversionError: the converter refused the graph.
    """

    def function(pcm: jax.Array) -> jax.Array:
        codes = encode(log_mel(pcm[0], inputs.frontend))
        off, found = speech.normalise(codes, inputs.window.frames, inputs.rule, jnp)
        features = (off - inputs.mean[None]) / inputs.std[None]
        probabilities: jax.Array = jax.nn.softmax(logits(features[None])) * found.there
        return probabilities

    graph = flatbuffer.read(convert.to_float32(function, (1, samples(inputs))))
    graph.inputs[0].name, graph.outputs[0].name = 'pcm', 'probabilities'
    return flatbuffer.write(graph)
