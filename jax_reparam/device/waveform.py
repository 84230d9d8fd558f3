"""model_waveform_float32.tflite: PCM of one window in, probabilities out, in one LiteRT graph."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jax_reparam.deploy import convert
from jax_reparam.frontend.features import FrontendConfig, mel_matrix, window
from jax_reparam.frontend.inputs import Input
from jax_reparam.graph import flatbuffer


def samples(inputs: Input) -> int:
    """Samples of one window: those that its frames cover."""
    config = inputs.frontend
    return (inputs.window.frames - 1) * config.hop_length + config.frame_length


def log_mel(pcm: jax.Array, config: FrontendConfig) -> jax.Array:
    """`features.log_mel` in JAX: `[N]` float32 in [-1, 1], N = (T - 1) * hop + frame, to `[T, M]` float32."""
    frame, hop = config.frame_length, config.hop_length
    count = 1 + (len(pcm) - frame) // hop
    # Frames as slices of equal parts, which overlap by whole parts: no gather.
    part = math.gcd(frame, hop)
    parts = pcm[: len(pcm) // part * part].reshape(-1, part)
    stride = hop // part
    pieces = [parts[k : k + (count - 1) * stride + 1 : stride] for k in range(frame // part)]
    frames = jnp.concatenate(pieces, axis=1) * window(config)[None]
    spectrum = jnp.fft.rfft(frames, n=config.n_fft)
    power = jnp.real(spectrum) ** 2 + jnp.imag(spectrum) ** 2
    return jnp.log(power @ mel_matrix(config).T + np.float32(config.floor))


def build(logits: Callable[[jax.Array], jax.Array], inputs: Input) -> bytes:
    """Makes the file.

    Args:
      logits: standardised features `[1, T, M]` to logits `[1, C]`, with its parameters inside.
      inputs: how audio becomes features.

    Returns:
      The .tflite file: `pcm` `[1, N]` float32 in [-1, 1] to `probabilities` `[1, C]`.

    Raises:
      convert.ConversionError: the converter refused the graph.
    """

    def function(pcm: jax.Array) -> jax.Array:
        features = (log_mel(pcm[0], inputs.frontend) - inputs.mean[None]) / inputs.std[None]
        return jax.nn.softmax(logits(features[None]))

    content = flatbuffer.tree(convert.to_float32(function, (1, samples(inputs))))
    subgraph = content.subgraphs[0]
    subgraph.tensors[subgraph.inputs[0]].name = 'pcm'
    subgraph.tensors[subgraph.outputs[0]].name = 'probabilities'
    return flatbuffer.pack(content)
