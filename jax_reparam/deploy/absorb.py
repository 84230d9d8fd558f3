"""Exact folds beyond HRF: normalisations and scales into the layers around them, so that less is left to quantise.

A layer normalisation is y = n(x) * scale + bias, n(x) = d / sqrt(mean(d^2) + epsilon), d = x - mean(x), with means over
the last axis.

Where all that is added up to x comes from linear layers and constants, and only layer normalisations read x, the
residual stream may be kept in another basis (Ashkboos et al. 2024, SliceGPT, section 3, turn LayerNorm into RMSNorm
so). Vectors of mean 0 have D - 1 coordinates z in an orthonormal basis B `[D, D - 1]`: d = B z, and |d| = |z|. The last
of the D places is then free to hold the constant sqrt(D * epsilon), and the normalisation is the division by a
Euclidean length (`ops.normalise`):

    n(x) = sqrt(D) B z / |[z, sqrt(D * epsilon)]|

Whoever writes to the stream takes B (`write`), whoever reads it takes sqrt(D) B, scale and bias (`read`) into its own
kernel and bias.

Pure functions on parameter dictionaries, as `reparam`. All layers have `kernel` `[..., in, out]` and `bias` `[out]`,
all normalisations `scale` and `bias` of the width that they normalise.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from jax_reparam.layers import DELTAS, EPSILON

Array = jax.Array
Layer = Mapping[str, Array]

_HIGHEST = jax.lax.Precision.HIGHEST


def basis(width: int) -> np.ndarray:
    """An orthonormal basis of the vectors of mean 0, `[D, D - 1]` float64: a Householder reflection's first columns."""
    v = np.full(width, -(width**-0.5))
    v[-1] += 1
    return (np.eye(width) - (2 / (v @ v)) * np.outer(v, v))[:, :-1] if width > 1 else np.zeros((1, 0))


def slot(width: int) -> float:
    """What the last place of a stream holds, sqrt(D * epsilon): it stands for the normalisation's epsilon."""
    return float((width * EPSILON) ** 0.5)


def write(layer: Layer, *, first: bool = False) -> dict[str, Array]:
    """A layer that writes to the stream: `[F, D]` to `[F, D]` in the stream's basis, its mean taken off.

    Args:
      layer: `kernel` `[F, D]` and `bias` `[D]`, or `[T, D]` where it differs by token.
      first: whether it begins a stream, and so fills the last place; what is added to it later leaves that alone.
    """
    width = layer['kernel'].shape[-1]
    matrix = jnp.pad(jnp.asarray(basis(width), layer['kernel'].dtype), ((0, 0), (0, 1)))
    bias = jnp.matmul(layer['bias'], matrix, precision=_HIGHEST)
    return {
        'kernel': jnp.matmul(layer['kernel'], matrix, precision=_HIGHEST),
        'bias': bias.at[..., -1].set(slot(width)) if first else bias,
    }


def read(norm: Layer, layer: Layer) -> dict[str, Array]:
    """A layer `[D, F]` that reads a normalisation of the stream, given the stream divided by its length."""
    width = len(norm['scale'])
    matrix = jnp.pad(jnp.asarray(width**0.5 * basis(width), layer['kernel'].dtype), ((0, 0), (0, 1)))
    affine = read_affine(norm, layer)
    return {'kernel': jnp.matmul(matrix.T, affine['kernel'], precision=_HIGHEST), 'bias': affine['bias']}


def read_affine(norm: Layer, layer: Layer) -> dict[str, Array]:
    """A layer that reads y = n * scale + bias, given n: both go into its `kernel` `[D, F]` and `bias` `[F]`."""
    return {
        'kernel': norm['scale'][:, None] * layer['kernel'],
        'bias': layer['bias'] + jnp.matmul(norm['bias'], layer['kernel'], precision=_HIGHEST),
    }


def pooling(norm: Layer, layer: Layer, tokens: int) -> tuple[dict[str, Array] | None, dict[str, Array]]:
    """Who reads a normalisation of the stream behind all layers, given the stream divided by its length.

    Args:
      norm: the normalisation, of width D.
      layer: the first one of the classifier; it reads a mean, `[D, F]`, or mean and deviation, `[2 D, F]`.
      tokens: T.

    Returns:
      The layer `[D, D]` whose outputs' deviation is read (`ops.pool`), None where there is none, and the classifier's.
    """
    width = len(norm['scale'])
    of_mean = read(norm, {**layer, 'kernel': layer['kernel'][:width]})
    if len(layer['kernel']) == width:
        return None, of_mean
    # A deviation knows no bias.
    zero = jnp.zeros(width, layer['kernel'].dtype)
    reader = read({**norm, 'bias': zero}, {'kernel': tokens**-0.5 * jnp.diag(zero + 1), 'bias': zero})
    return reader, {**of_mean, 'kernel': jnp.concatenate([of_mean['kernel'], layer['kernel'][width:]])}


def scaled(layer: Layer, factor: float) -> dict[str, Array]:
    """A layer whose outputs are `factor` times as large: attention's 1 / sqrt(d), Conformer's half steps."""
    return {name: factor * leaf for name, leaf in layer.items()}


def split(layer: Layer, count: int) -> list[dict[str, Array]]:
    """The layers that a packed one computes side by side: `kernel` `[D, count * F]` and `bias` likewise."""
    kernels, biases = jnp.split(layer['kernel'], count, axis=-1), jnp.split(layer['bias'], count)
    return [{'kernel': kernel, 'bias': bias} for kernel, bias in zip(kernels, biases, strict=True)]


def centred(layer: Layer) -> dict[str, Array]:
    """A layer whose outputs have their mean taken off, a token's over all F: `kernel` `[D, F]`, `bias` `[F]`."""
    return {name: leaf - leaf.mean(axis=-1, keepdims=True) for name, leaf in layer.items()}


def less(layer: Layer, weight: float | Array) -> dict[str, Array]:
    """A layer with one more input, `[D, F]` to `[D + 1, F]`, of which `weight` times is taken off every output."""
    return {**layer, 'kernel': jnp.pad(layer['kernel'], ((0, 1), (0, 0))).at[-1].set(-weight)}


def without_value_bias(value: Layer, out: Layer) -> tuple[dict[str, Array], dict[str, Array]]:
    """Attention's value and output projections, the first one's bias moved into the second one's.

    Exact where a query's weights add up to 1. Where int8 rounds many small weights they do not quite, and what is lost
    is then a share of smaller values.
    """
    moved = jnp.matmul(value['bias'], out['kernel'], precision=_HIGHEST)
    return {**value, 'bias': jnp.zeros_like(value['bias'])}, {**out, 'bias': out['bias'] + moved}


def with_deltas(layer: Layer) -> dict[str, Array]:
    """A convolution that reads a spectrogram and its derivatives (`layers.deltas`) as one that reads the spectrogram.

    `kernel` `[k, l, 3, C]` to `[k + 8, l, 1, C]`, which begins 4 frames earlier.
    """
    taps, filters = len(layer['kernel']), jnp.asarray(DELTAS, layer['kernel'].dtype)
    shifted = [jnp.pad(filters, ((0, 0), (tap, taps - 1 - tap))) for tap in range(taps)]
    kernel = jnp.einsum('kdt,kldc->tlc', jnp.stack(shifted), layer['kernel'], precision=_HIGHEST)
    return {**layer, 'kernel': kernel[:, :, None]}


def with_batch_norm(layer: Layer, norm: Layer, statistics: Layer) -> dict[str, Array]:
    """A convolution `[..., C]` followed by a batch normalisation at inference (of running `mean` and `var`), as one."""
    gain = norm['scale'] / jnp.sqrt(statistics['var'] + EPSILON)
    kernel = layer['kernel'] * gain.reshape((1,) * (layer['kernel'].ndim - 1) + (-1,))
    return {'kernel': kernel, 'bias': (layer['bias'] - statistics['mean']) * gain + norm['bias']}
