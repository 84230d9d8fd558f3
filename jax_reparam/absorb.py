"""Exact folds beyond HRF: normalisation into the linear layers around it, so that fewer nodes are left to quantise.

A layer normalisation is y = n(x - mean(x)) * scale + bias, with n(d) = d / sqrt(mean(d^2) + epsilon) and means over the
last axis.

- Whoever reads y linearly can take scale and bias into its own kernel and bias (`into_readers`).
- Where all that is added up to x comes from linear layers and constants, and only layer normalisations read x, each
  of them may take its own mean over the last axis off beforehand (`centred`): x then has mean 0, and n(x) is left.
  (Ashkboos et al. 2024, SliceGPT, section 3, turn LayerNorm into RMSNorm so.)

Pure functions on parameter dictionaries, as `reparam`.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp

Array = jax.Array
Layer = Mapping[str, Array]

_HIGHEST = jax.lax.Precision.HIGHEST


def into_readers(norm: Layer, readers: Mapping[str, Layer]) -> tuple[dict[str, Array], dict[str, dict[str, Array]]]:
    """Moves a normalisation's scale and bias into all layers that read it.

    Args:
      norm: `scale` `[D]` and `bias` `[D]`.
      readers: every linear layer that reads the normalisation's output, each with `kernel` `[D, F]` and `bias` `[F]`.

    Returns:
      The normalisation with scale 1 and bias 0, and the readers, which then compute what they computed.
    """
    scale, bias = norm['scale'], norm['bias']
    moved = {
        name: {
            'kernel': scale[:, None] * layer['kernel'],
            'bias': layer['bias'] + jnp.matmul(bias, layer['kernel'], precision=_HIGHEST),
        }
        for name, layer in readers.items()
    }
    return {'scale': jnp.ones_like(scale), 'bias': jnp.zeros_like(bias)}, moved


def centred(writer: Layer) -> dict[str, Array]:
    """A linear layer (`kernel` `[F, D]`, `bias` `[D]`) whose outputs have their mean over the last axis taken off."""
    return {name: leaf - jnp.mean(leaf, axis=-1, keepdims=True) for name, leaf in writer.items()}
