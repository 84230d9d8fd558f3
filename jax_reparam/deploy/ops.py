"""What the deploy forms are made of: pure functions for one window, in shapes that convert to few, exact operators.

Activations are `[T, 1, D]`. Of rank 2, a product of two activations becomes a FULLY_CONNECTED with weights that are not
constant, which fails with 16-bit activations: a normalisation multiplies rows with themselves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from jax_reparam.layers import EPSILON, relative_shift

Array = jax.Array
Layer = Mapping[str, Array]


def gated(x: Array, gate: Array) -> Array:
    """`x` times the sigmoid of `gate`."""
    with jax.named_scope('gate'):
        return x * jax.nn.sigmoid(gate)


# Those of `layers`; what is jitted there would lose its scope on the way to the exported graph.
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {'relu': jax.nn.relu, 'swish': lambda x: gated(x, x)}


def linear(layer: Layer, x: Array) -> Array:
    """The layer `x kernel + bias`, `[T, ..., D]` to `[T, ..., F]`; a bias may differ by token, `[T, F]`."""
    y = x @ layer['kernel']
    return y + layer['bias'].reshape(-1, *y.shape[1:-1], y.shape[-1])


def normalise(x: Array, *, slot: float = 0.0) -> Array:
    """`[T, 1, D]` with every row divided by its Euclidean length, to which `slot` counts as one more element.

    It converts to operators that any runtime has in 8 and in 16 bits: a product of each row with itself, which sums
    squares in 32 bits, RSQRT, and a multiplication, whose output has a scale of its own.
    """
    return x * jax.lax.rsqrt(_rows_by_rows(x, x) + slot**2)


def mean_over_time(x: Array) -> Array:
    """`[T, 1, D]` to `[1, D]`: an AVERAGE_POOL_2D, whose sum has 32 bits; MEAN has no fast kernel.

    A product with a constant column would need the transpose of `x`, which TFLM has in 16 bits only since March 2025.
    """
    mean: Array = nn.avg_pool(x.reshape(1, *x.shape), (len(x), 1))
    return mean.reshape(1, -1)


def deviation_over_time(x: Array) -> Array:
    """`[T, 1, D]`, divided by sqrt(T), to `[1, D]`: the standard deviation of each channel, epsilon included.

    So the variance is a sum of squares, in 32 bits, and the root is a product with RSQRT: as in `normalise`, every
    runtime has these operators in 8 and in 16 bits, where it has no SQRT.
    """
    columns = x.transpose(2, 1, 0)
    # ADD, not SUB, as in SpeechFormer.
    rows = columns + columns @ jnp.full((len(x), 1), -1 / len(x), x.dtype)
    variance = _rows_by_rows(rows, rows) + EPSILON
    return (variance * jax.lax.rsqrt(variance)).reshape(1, -1)


def pool(reader: Layer | None, x: Array) -> Array:
    """What the classifier reads of a normalised stream `[T, 1, D]`: its mean, and with a `reader` its deviation too."""
    mean = mean_over_time(x)
    return mean if reader is None else jnp.concatenate([mean, deviation_over_time(linear(reader, x))], axis=1)


def head(layers: Mapping[str, Layer], x: Array) -> Array:
    """The classifier `hidden_0`, ..., `classifier` with ReLU between, `[1, D]` to `[1, C]`."""
    for index in range(len(layers) - 1):
        x = jax.nn.relu(linear(layers[f'hidden_{index}'], x))
    return linear(layers['classifier'], x)


def subsample(convolutions: Mapping[str, Layer], features: Array) -> Array:
    """The two strided convolutions with ReLU, features `[1, T, M]` to `[ceil(T / 4), 1, channels * ceil(M / 4)]`."""
    x = features[..., None]
    for index in range(2):
        layer = convolutions[f'conv_{index}']
        before = [(size - 3) // 2 for size in layer['kernel'].shape[:2]]  # more than 3 where deltas are in it
        ends = [(side, side + 1 + size % 2) for side, size in zip(before, x.shape[1:3], strict=True)]
        x = _convolve(x, layer['kernel'], strides=(2, 2), padding=ends)
        x = jax.nn.relu(x + layer['bias'].reshape(1, 1, 1, -1))
    return x.reshape(x.shape[1], 1, -1)


def depthwise(layer: Layer, x: Array) -> Array:
    """Depthwise convolution over time with zeros around, `kernel` `[k, 1, D]`, `[T, 1, D]` to `[T, 1, D]`."""
    side = layer['kernel'].shape[0] // 2
    y = _convolve(x[None], layer['kernel'][:, None], padding=[(side, side), (0, 0)], groups=x.shape[-1])
    return (y + layer['bias'].reshape(1, 1, 1, -1))[0]


def merge(x: Array, group: int) -> Array:
    """Mean over groups of m tokens, zeros behind the last: `[T, 1, C]` to `[ceil(T / m), 1, C]`.

    It is a depthwise convolution. The groups lie side by side as columns, so that it has no stride: Ethos-U takes
    strides up to 3.
    """
    time, _, width = x.shape
    x = jnp.pad(x, ((0, -time % group), (0, 0), (0, 0))).reshape(1, -1, group, width)
    kernel = jnp.full((1, group, 1, width), 1 / group, x.dtype)
    return _convolve(x, kernel, groups=width)[0]


def _convolve(
    x: Array,
    kernel: Array,
    *,
    strides: tuple[int, int] = (1, 1),
    padding: list[tuple[int, int]] | Literal['VALID'] = 'VALID',
    groups: int = 1,
) -> Array:
    numbers = ('NHWC', 'HWIO', 'NHWC')
    return jax.lax.conv_general_dilated(
        x, kernel, strides, padding, dimension_numbers=numbers, feature_group_count=groups
    )


def attention(layer: Mapping[str, Any], x: Array, heads: int, *, blocks: int = 1) -> Array:
    """Attention of all tokens to all, up to the output projection.

    Args:
      layer: `query` (scaled), `key` and `value`, from `[T, 1, D]` to H times their own depth; with relative positions
        also `positions`, `[H, 2T - 1, depth of a query]`: what stands for the distances T - 1 to 1 - T.
      x: `[T, 1, D]`, as what is returned.
      heads: H.
      blocks: into how many blocks the queries are split, one after the other: the scores of one block are all that lies
        in memory at a time, and it meets only those distances that its queries have to a token.
    """
    time = len(x)
    if time == 1:  # nothing to choose from; the converter would spell out the softmax of one score, with an int8 EXP
        return linear(layer['value'], x)
    q, k, v = (linear(layer[name], x).reshape(time, heads, -1) for name in ('query', 'key', 'value'))
    q, k, v = q.transpose(1, 0, 2), k.transpose(1, 0, 2), v.transpose(1, 2, 0)
    size = math.ceil(time / blocks)
    mixed = []
    for start in range(0, time, size):
        block = q[:, start : start + size]
        count = block.shape[1]
        scores = _rows_by_rows(block, k)
        if 'positions' in layer:
            first = time - start - count  # the distance of the block's last query to the first token
            positions = layer['positions'][:, first : first + time + count - 1]
            scores += relative_shift(_rows_by_rows(block, positions))
        # Of what is joined before it is transposed the converter would make one product for all blocks.
        with jax.named_scope('softmax'):
            block = _rows_by_rows(jax.nn.softmax(scores), v)
        mixed.append(block.transpose(1, 0, 2).reshape(count, 1, -1))
    return jnp.concatenate(mixed)


def windowed_attention(layer: Mapping[str, Layer], x: Array, heads: int, window: int) -> Array:
    """Attention of each token to the `window` around it; behind both ends keys and values are zeros, not masked.

    Queries go in blocks, each with the keys that it can see: those of its own block, and of the next. These are slices
    of whole blocks, which take no memory (`graph.arena`), so that scores are two products. The scores of the window
    are cut out of a block's by reshapes and slices, and put back by their inverse: nothing is masked, the softmax is as
    long as the window, and not a value is quantised anew.

    Args:
      layer: `query` (scaled), `key` and `value`, `[C, C]` each.
      x: `[T, 1, C]`, as what is returned, which the output projection reads.
      heads: H.
      window: odd.
    """
    if window == 1:
        return linear(layer['value'], x)
    q, k, v = (linear(layer[name], x[:, 0]) for name in ('query', 'key', 'value'))
    time, width = q.shape
    half = window // 2
    # Values are copied (1 + 2 half / block) times, scores hold (block + 2 half) values a query.
    block = max(2 * half, 4)
    count = math.ceil(time / block)
    seen = block + 2 * half
    q = jnp.pad(q, ((0, count * block - time), (0, 0))).reshape(count, block, heads, -1)
    q = q.transpose(0, 2, 1, 3).reshape(count * heads, block, -1)
    k, v = (jnp.pad(a, ((half, (count + 1) * block - half - time), (0, 0))) for a in (k, v))
    k, v = (a.reshape(count + 1, block, heads, -1) for a in (k, v))
    own, behind = _blocks_seen(k.transpose(0, 2, 1, 3), 2 * half, axis=2)
    scores = jnp.concatenate([_rows_by_rows(q, own), _rows_by_rows(q, behind)], axis=2)
    with jax.named_scope('softmax'):
        weights = jax.nn.softmax(band(scores, window))
    v = jnp.concatenate(_blocks_seen(v.transpose(0, 2, 3, 1), 2 * half, axis=3), axis=2)
    mixed = _rows_by_rows(from_band(weights, seen), v).reshape(count, heads, block, -1)
    return mixed.transpose(0, 2, 1, 3).reshape(count * block, 1, width)[:time]


def _blocks_seen(x: Array, more: int, axis: int) -> tuple[Array, Array]:
    """Of `[count + 1, heads, ...]`, a block's tokens along `axis`: each block, and of the next the first `more`.

    Both `[count * heads, ...]`.
    """
    parts = x[:-1], jax.lax.slice_in_dim(x[1:], 0, more, axis=axis)
    own, behind = (part.reshape(-1, *part.shape[2:]) for part in parts)
    return own, behind


def band(scores: Array, window: int) -> Array:
    """Row i's columns i to i + w - 1, of `[N, Q, Q + w - 1]`, as `[N, Q, w]`: one more column shifts rows."""
    count, queries, seen = scores.shape
    line = jnp.pad(scores.reshape(count, queries * seen), ((0, 0), (0, queries)))
    return line.reshape(count, queries, seen + 1)[:, :, :window]


def from_band(weights: Array, seen: int) -> Array:
    """The inverse of `band`: `[N, Q, w]` to `[N, Q, Q + w - 1]`, zeros where a row had none."""
    count, queries, window = weights.shape
    line = jnp.pad(weights, ((0, 0), (0, 0), (0, seen + 1 - window))).reshape(count, queries * (seen + 1))
    return line[:, : queries * seen].reshape(count, queries, seen)


def _rows_by_rows(a: Array, b: Array) -> Array:
    """Products of all rows of `a` `[N, Q, K]` with all rows of `b` `[N, R, K]`, as `[N, Q, R]`.

    Both run over the last axis, or TFLM keeps a transposed copy of the right operand for as long as the model lives.
    """
    return jax.lax.dot_general(a, b, (((2,), (2,)), ((0,), (0,))))


def widths(layers: int, *, softmax: int, sums: int) -> dict[str, int]:
    """`deploy.widths` of a stem, a front, `layers` with attention, and a head.

    The front makes quiet tokens as loud as the others, and their rounding with them; the head decides. A normalisation
    costs next to nothing in 16 bits. The int16 kernels of `softmax` and of gates look up what the int8 kernels compute.
    `sums` are those of the residual stream: 3 dB less noise, for a second byte beside all that lives in memory.
    """
    parts = {'front': 16, 'norm': 16, 'sum': sums, 'attention/softmax': softmax, 'conv/gate': 16, 'ffn/gate': 16}
    in_layers = {f'layers/{index}/{part}': bits for index in range(layers) for part, bits in parts.items()}
    return {'stem': 8, 'front': 16, 'layers': 8, 'norm': 16, 'head': 16} | in_layers
