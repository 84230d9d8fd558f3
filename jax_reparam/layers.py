"""Linen layers that the architectures share: HRFDense, attention, FFN, convolutions and pooling under masks.

Every layer takes `mask` `[B, T]`, True at real frames, or None where every frame is real.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jax_reparam import reparam
from jax_reparam.config import PLAIN, HRFConfig, Pooling

Initializer = Callable[..., jax.Array]
Transform = Callable[[jax.Array], jax.Array]

lecun_normal = nn.initializers.lecun_normal()

EPSILON = reparam.EPSILON
# Layer normalisation over the last axis, `scale` and `bias` `[D]` (Ba et al. 2016). Flax's own epsilon is 1e-6, and its
# fast variance (mean of squares less square of the mean) cancels.
LayerNorm: Callable[..., Transform] = functools.partial(nn.LayerNorm, epsilon=EPSILON, use_fast_variance=False)


def _delta_filters() -> np.ndarray:
    slope = np.arange(-2, 3) / np.sqrt(10)
    twice = np.convolve(slope, slope)
    return np.stack([np.eye(9)[4], np.pad(slope, 2), twice / np.sqrt(np.square(twice).sum())])


# A frame itself, its slope by regression over five frames (the delta of Furui 1986) and the slope's slope, `[3, 9]`:
# weights of the frames t - 4 to t + 4, in rows of length 1, so that noise is as large in all three.
DELTAS = _delta_filters()


class HRFDense(nn.Module):
    """A linear layer, trained as a product of two (High-Rank Factorization) and folded by `reparam.dehrf`.

    The factors are one parameter, `hrf`, that is a dictionary: `kernel_u` `[D, E]`, `bias_u` `[E]`, `kernel_v`
    `[E, F]`, `bias_v` `[F]`. With `hrf.expansion` 0 the layer is `nn.Dense`, with `kernel` `[D, F]` and `bias` `[F]`,
    from the same random key: under `hrf.init = 'orthonormal'` both begin as the same function.

    Attributes:
      features: output width F.
      hrf: the training form; see `HRFConfig`.
      use_bias: whether the layer (and each factor) has a bias.
      kernel_init: initializer of the plain kernel; the factors' product begins with its variance, or as its very
        values.
      dtype: of the computation; None takes the inputs' and parameters'.
      param_dtype: of the parameters.
      precision: of the matrix products.
      bias_init: initializer of the bias (in training form of `bias_v`; `bias_u` begins at 0).
      promote_dtype: as in `nn.Dense`.
      dot_general: as in `nn.Dense`, of each matrix product with the inputs; None is JAX's.
      dot_general_cls: as in `nn.Dense`: makes `dot_general`.

    A `kernel_init` of `nn.with_partitioning` names the axes of U `[names[0], None]` and of V `[None, names[1]]`.

    Raises:
      ValueError: E < min(D, F); the product would have a lower rank than the layer it stands for.
    """

    features: int
    hrf: HRFConfig = HRFConfig()
    use_bias: bool = True
    kernel_init: Initializer = lecun_normal
    dtype: Any = None
    param_dtype: Any = jnp.float32
    precision: jax.lax.PrecisionLike = None
    bias_init: Initializer = nn.initializers.zeros_init()
    promote_dtype: Callable[..., Any] = nn.dtypes.promote_dtype
    dot_general: Callable[..., Any] | None = None
    dot_general_cls: Any = None

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Maps `[..., D]` to `[..., F]`."""
        if self.hrf.expansion == 0:
            kernel = self.param('kernel', self.kernel_init, (inputs.shape[-1], self.features), self.param_dtype)
            bias = self.param('bias', self.bias_init, (self.features,), self.param_dtype) if self.use_bias else None
            return self._linear(inputs, kernel, bias)
        factors = self.param(reparam.SITE, self._init_factors, inputs.shape[-1])
        if self.hrf.forward == 'composed':
            folded = reparam.compose(factors, precision=self.precision)
            return self._linear(inputs, folded['kernel'], folded.get('bias'))
        hidden = self._linear(inputs, factors['kernel_u'], factors.get('bias_u'))
        return self._linear(hidden, factors['kernel_v'], factors.get('bias_v'))

    def _linear(self, inputs: jax.Array, kernel: jax.Array, bias: jax.Array | None) -> jax.Array:
        inputs, kernel, bias = self.promote_dtype(inputs, kernel, bias, dtype=self.dtype)
        dot_general = self.dot_general if self.dot_general_cls is None else self.dot_general_cls()
        outputs: jax.Array
        if dot_general is not None:
            axes = (((inputs.ndim - 1,), (0,)), ((), ()))
            outputs = dot_general(inputs, kernel, axes, precision=self.precision)
        else:
            outputs = jnp.matmul(inputs, kernel, precision=self.precision)
        return outputs if bias is None else outputs + bias.reshape((1,) * (outputs.ndim - 1) + (-1,))

    def _init_factors(self, key: jax.Array, width: int) -> dict[str, jax.Array]:
        inner = round(self.hrf.expansion * width)
        if inner < min(width, self.features):
            raise ValueError(
                f'{"/".join(self.path)}: expected E >= min(D, F) = {min(width, self.features)}, '
                f'got E = {inner} (hrf.expansion {self.hrf.expansion}, D {width}, F {self.features})'
            )
        drawn: Any = None
        if self.hrf.init == 'orthonormal':
            drawn = self.kernel_init(key, (width, self.features), self.param_dtype)
            u, v = reparam.factorise(nn.unbox(drawn), inner, jax.random.fold_in(key, 1))
        else:
            key_u, key_v, key_plain = jax.random.split(key, 3)
            u = lecun_normal(key_u, (width, inner), self.param_dtype)
            # The product of two LeCun draws has variance 1/D. Of another rule (Xavier, zeros) one draw tells it.
            gain = 1.0
            if self.kernel_init is not lecun_normal:
                drawn = self.kernel_init(key_plain, (width, self.features), self.param_dtype)
                gain = width**0.5 * nn.unbox(drawn).std()
            v = gain * lecun_normal(key_v, (inner, self.features), self.param_dtype)
        factors: dict[str, Any] = {'kernel_u': u, 'kernel_v': v}
        if isinstance(drawn, nn.Partitioned):
            rows, columns = drawn.names
            factors = {
                'kernel_u': drawn.replace(value=u, names=(rows, None)),
                'kernel_v': drawn.replace(value=v, names=(None, columns)),
            }
        if self.use_bias:
            factors |= {
                'bias_u': jnp.zeros((inner,), self.param_dtype),
                'bias_v': self.bias_init(jax.random.fold_in(key, 2), (self.features,), self.param_dtype),
            }
        return factors


class SelfAttention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017): q, k, v and output projections `[D, D]` with biases.

    With relative positions the logit of query i and key j is ((q_i + u) k_j + (q_i + v) r_{i-j}) / sqrt(d) (Dai et al.
    2019, Transformer-XL, section 3.3): `position` `[D, D]` projects the sinusoids of i - j to r, and `content_bias` and
    `position_bias` `[H, d]` are u and v.

    Attributes:
      heads: number of heads H; D must be a multiple of it.
      hrf: the training form; the four projections are sites of kind `attention`.
      dropout: rate on the attention probabilities, in training.
      relative: whether there are relative positions.
    """

    heads: int
    hrf: HRFConfig = PLAIN
    dropout: float = 0.0
    relative: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None, *, train: bool) -> jax.Array:
        """Maps `[B, T, D]` to `[B, T, D]`; no token looks at a masked one."""
        batch, time, width = x.shape
        if width % self.heads:
            raise ValueError(f'attention: expected a width that is a multiple of {self.heads} heads, got {width}')
        depth = width // self.heads
        hrf = self.hrf.at('attention')
        q, k, v = (
            HRFDense(width, hrf, name=name)(x).reshape(batch, time, self.heads, depth)
            for name in ('query', 'key', 'value')
        )
        if self.relative:
            u, w = (
                self.param(name, nn.initializers.zeros_init(), (self.heads, depth), jnp.float32)[None, None]
                for name in ('content_bias', 'position_bias')
            )
            distances = jnp.asarray(sinusoids(np.arange(time - 1, -time, -1), width), x.dtype)
            r = HRFDense(width, PLAIN, use_bias=False, name='position')(distances).reshape(-1, self.heads, depth)
            logits = jnp.einsum('bqhd,bkhd->bhqk', q + u, k)
            logits += relative_shift(jnp.einsum('bqhd,rhd->bhqr', q + w, r))
        else:
            logits = jnp.einsum('bqhd,bkhd->bhqk', q, k)
        weights = masked_softmax(logits * depth**-0.5, mask)
        weights = nn.Dropout(self.dropout, deterministic=not train)(weights)
        mixed = jnp.einsum('bhqk,bkhd->bqhd', weights, v).reshape(batch, time, width)
        return HRFDense(width, hrf, name='out')(mixed)


class FeedForward(nn.Module):
    """Position-wise feed-forward network D -> F -> D; its linear layers are sites of kind `ffn_in` and `ffn_out`.

    Attributes:
      width: inner width F.
      hrf: the training form.
      dropout: rate after the activation, in training.
      activation: `relu`, or `swish`.
      kernel_init: initializer of both plain kernels.
    """

    width: int
    hrf: HRFConfig
    dropout: float = 0.0
    activation: Literal['relu', 'swish'] = 'relu'
    kernel_init: Initializer = lecun_normal

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps `[B, T, D]` to `[B, T, D]`."""
        hidden = HRFDense(self.width, self.hrf.at('ffn_in'), kernel_init=self.kernel_init, name='ffn_in')(x)
        hidden = nn.Dropout(self.dropout, deterministic=not train)(ACTIVATIONS[self.activation](hidden))
        return HRFDense(x.shape[-1], self.hrf.at('ffn_out'), kernel_init=self.kernel_init, name='ffn_out')(hidden)


ACTIVATIONS: dict[str, Transform] = {'relu': nn.relu, 'swish': nn.swish}


def sinusoids(positions: np.ndarray, width: int) -> np.ndarray:
    """Sinusoids of positions `[P]` (Vaswani et al. 2017, section 3.5), `[P, width]` float64."""
    rates = np.exp(-np.log(10000.0) * np.arange(0, width, 2) / width)
    angles = np.asarray(positions)[:, None] * rates[None, :]
    table = np.zeros((len(positions), width))
    table[:, 0::2] = np.sin(angles)
    table[:, 1::2] = np.cos(angles)[:, : width // 2]
    return table


def relative_shift(x: jax.Array) -> jax.Array:
    """From scores by distance to scores by key: `[..., Q, T + Q - 1]` to `[..., Q, T]`.

    Column c is the score of the distance Q - 1 - c, so key j of row i, at i - j, lies in column Q - 1 - i + j. Read as
    one line, the rows that are wanted start T + Q - 2 values apart: reshapes and slices alone, nothing is computed.
    """
    queries, distances = x.shape[-2:]
    time, stride = distances + 1 - queries, distances - 1
    if queries == 1:
        return x
    line = x.reshape(*x.shape[:-2], queries * distances)
    line = line[..., queries - 1 : queries - 1 + queries * stride]
    return line.reshape(*x.shape[:-1], stride)[..., :time]


def masked_softmax(logits: jax.Array, mask: jax.Array | None) -> jax.Array:
    """Softmax of `[B, H, Q, T]` over the keys that are real: a masked one gets exactly 0."""
    if mask is not None:
        logits = jnp.where(mask[:, None, None, :], logits, jnp.finfo(logits.dtype).min)
    return nn.softmax(logits)


def masked_mean(x: jax.Array, mask: jax.Array | None) -> jax.Array:
    """The mean over real frames, `[B, T, D]` to `[B, D]`; zeros where a clip has none."""
    if mask is None:
        return jnp.mean(x, axis=1)
    weights = mask[:, :, None].astype(x.dtype)
    return jnp.sum(x * weights, axis=1) / jnp.maximum(jnp.sum(weights, axis=1), 1)


def pool(x: jax.Array, mask: jax.Array | None, pooling: Pooling) -> jax.Array:
    """What the classifier reads of the real frames: their mean, `[B, D]`, or mean and deviation, `[B, 2 D]`.

    The standard deviation is sqrt(variance + epsilon), whose gradient is finite everywhere (statistics pooling, Snyder
    et al. 2018).
    """
    mean = masked_mean(x, mask)
    if pooling == 'mean':
        return mean
    variance = masked_mean(jnp.square(x - mean[:, None]), mask)
    return jnp.concatenate([mean, jnp.sqrt(variance + EPSILON)], axis=-1)


def deltas(x: jax.Array) -> jax.Array:
    """A spectrogram with its first and second derivatives over time, `[B, T, M]` to `[B, T, M, 3]` (`DELTAS`).

    There is silence (zeros) before and behind.
    """
    reach = len(DELTAS[0]) // 2
    padded = jnp.pad(x, ((0, 0), (reach, reach), (0, 0)))
    taps = [padded[:, tap : tap + x.shape[1]] for tap in range(2 * reach + 1)]
    channels = [sum(float(weight) * tap for weight, tap in zip(row, taps, strict=True) if weight) for row in DELTAS]
    return jnp.stack(channels, axis=-1)


def hide(x: jax.Array, mask: jax.Array | None) -> jax.Array:
    """Zeros at frames that are not real: `[B, T, D]`, before what mixes neighbours."""
    return x if mask is None else x * mask[:, :, None]


def batch_norm(
    x: jax.Array, mask: jax.Array | None, *, train: bool, name: str, scale_init: Initializer = nn.initializers.ones
) -> jax.Array:
    """Batch normalisation `[B, T, ..., C]` whose statistics are those of the real frames; for compact methods."""
    norm = nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=EPSILON, scale_init=scale_init, name=name)
    y: jax.Array = norm(x, mask=None if mask is None else mask.reshape(mask.shape + (1,) * (x.ndim - 2)))
    return y


def depthwise(x: jax.Array, kernel: jax.Array, strides: Any, padding: Sequence[tuple[int, int]], **_: Any) -> jax.Array:
    """`lax.conv_general_dilated` over time, without strides, of one channel a group.

    XLA has no fast grouped convolution for CPUs.

    Args:
      x: `[B, T, C]`.
      kernel: `[k, 1, C]`.
      strides: of 1.
      padding: of T; may be negative.

    Returns:
      `[B, T', C]`.

    Raises:
      ValueError: other strides.
    """
    if set(strides) != {1}:
        raise ValueError(f'depthwise: expected strides of 1, found {strides}')
    x = jax.lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), (*padding[0], 0), (0, 0, 0)])
    y: jax.Array = sum_of_taps(x, kernel)
    return y


@jax.jit  # so it has a name in a jaxpr, by which `commands.summary` counts its products
def sum_of_taps(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """A product for each tap of `kernel` `[k, 1, C]`: `[B, T, C]` to `[B, T - k + 1, C]`."""
    time = x.shape[1] - len(kernel) + 1
    return sum((x[:, tap : tap + time] * row for tap, row in enumerate(kernel[:, None])), start=jnp.zeros((), x.dtype))


class ConvShape(NamedTuple):
    """What `nn.Conv` calls `features`, `kernel_size`, `strides`, `padding` and `feature_group_count` (1, or all C)."""

    features: int
    window: tuple[int, ...]
    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    groups: int = 1


def conv_norm(
    shape: ConvShape, x: jax.Array, mask: jax.Array | None, hrf: HRFConfig, *, train: bool, names: tuple[str, str]
) -> jax.Array:
    """A convolution and its batch normalisation, one after the other or trained as branches; for compact methods.

    Args:
      shape: of the convolution.
      x: `[B, T, ..., C]`, zero at frames that are not real.
      mask: `[B, T']`, of the outputs.
      hrf: the training form; with `expansion` 0 the plain one.
      train: normalise by the statistics of the batch.
      names: of the convolution and of the normalisation in the plain model; the former is the site's, too.

    Returns:
      `[B, T', ..., F]`.
    """
    if hrf.expansion:
        return Branches(shape, hrf, names[1], name=names[0])(x, mask, train=train)
    features, window, strides, padding, groups = shape
    convolve = depthwise if groups > 1 else None
    conv = nn.Conv(
        features,
        window,
        strides,
        padding=padding,
        feature_group_count=groups,
        conv_general_dilated=convolve,
        name=names[0],
    )
    return batch_norm(conv(x), mask, train=train, name=names[1])


class Branches(nn.Module):
    """A sum of convolutions with a batch normalisation in each, which `reparam.dehrf` folds into one convolution.

    Of `hrf.branches` B the first is the plain convolution (with B = 1, the control, there is no other), the second a
    1 x 1 convolution, the third the identity if strides are 1 and C = F; all others are convolutions as the first. The
    second and third read what the centre of the window reads.

    The kernels are one parameter, `hrf`: `kernels` `[copies, *window, C / groups, F]` and, if B > 1, `kernel_point`
    `[1, ..., 1, C / groups, F]`. One normalisation of B F channels holds scales, biases and statistics of the branches,
    one branch after the other: copies, 1 x 1, identity.

    The first kernel is drawn as the plain layer's, from the same random key. With `hrf.init` 'orthonormal' the scales
    of all other branches begin at 0, so that the sum begins as the function of the plain layer; with 'lecun' all scales
    begin at 1 / sqrt(B), so that it has the plain layer's variance.

    Attributes:
      shape: of the plain convolution.
      hrf: the training form.
      norm: name of the normalisation.
    """

    shape: ConvShape
    hrf: HRFConfig
    norm: str

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None, *, train: bool) -> jax.Array:
        """Maps `[B, T, ..., C]` to `[B, T', ..., F]`."""
        features, window, strides, padding, _ = self.shape
        x, count = jnp.asarray(x), self.hrf.branches
        identity = count > 2 and set(strides) == {1} and x.shape[-1] == features
        kernels = self.param(reparam.SITE, self._init_kernels, x.shape[-1], count - (count > 1) - identity)
        branches = [self.convolve(x, kernel, padding) for kernel in kernels['kernels']]
        # Padded so, one tap reads what the centre of a window reads: less padding, or, where negative, less input.
        ends = [(low - (k - 1) // 2, high - k // 2) for (low, high), k in zip(padding, window, strict=True)]
        if count > 1:
            branches.append(self.convolve(x, kernels['kernel_point'], ends))
        if identity:
            branches.append(
                jax.lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *((*end, 0) for end in ends), (0, 0, 0)])
            )
        y = jnp.concatenate(branches, axis=-1)
        y = batch_norm(y, mask, train=train, name=self.norm, scale_init=self._init_scale)
        return y.reshape(*y.shape[:-1], count, features).sum(axis=-2)

    def convolve(self, x: jax.Array, kernel: jax.Array, padding: Sequence[tuple[int, int]]) -> jax.Array:
        """One branch, channels last as `nn.Conv` has them; padding may be negative."""
        last, (_, _, strides, _, groups) = x.ndim - 1, self.shape
        image = (0, last, *range(1, last))
        axes = jax.lax.ConvDimensionNumbers(image, (last, last - 1, *range(last - 1)), image)
        x, kernel = nn.dtypes.promote_dtype(x, kernel, dtype=None)
        convolve: Callable[..., jax.Array] = depthwise if groups > 1 else jax.lax.conv_general_dilated
        return convolve(x, kernel, strides, padding, dimension_numbers=axes)

    def _init_kernels(self, key: jax.Array, width: int, copies: int) -> dict[str, jax.Array]:
        features, window, _, _, groups = self.shape

        def draw(index: int, window: tuple[int, ...]) -> jax.Array:
            own = jax.random.fold_in(key, index) if index else key
            return lecun_normal(own, (*window, width // groups, features), jnp.float32)

        kernels = {'kernels': jnp.stack([draw(index, window) for index in range(copies)])}
        if self.hrf.branches > 1:
            kernels['kernel_point'] = draw(copies, (1,) * len(window))
        return kernels

    def _init_scale(self, key: jax.Array, shape: tuple[int], dtype: Any) -> jax.Array:
        if self.hrf.init == 'orthonormal':
            return (jnp.arange(shape[0]) < self.shape.features).astype(dtype)
        return jnp.full(shape, self.hrf.branches**-0.5, dtype)
