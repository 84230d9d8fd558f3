"""Linen layers that the architectures share: HRFDense, attention, feed-forward network, pooling under masks.

Every layer takes `mask` `[B, T]`, True at real frames, or None where every frame is real.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jax_reparam import reparam
from jax_reparam.config import PLAIN, HRFConfig

Initializer = Callable[..., jax.Array]
Transform = Callable[[jax.Array], jax.Array]

lecun_normal = nn.initializers.lecun_normal()

EPSILON = 1e-5
# Layer normalisation over the last axis, `scale` and `bias` `[D]` (Ba et al. 2016). Flax's own epsilon is 1e-6, and its
# fast variance (mean of squares less square of the mean) cancels.
LayerNorm: Callable[..., Transform] = functools.partial(nn.LayerNorm, epsilon=EPSILON, use_fast_variance=False)


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


def hide(x: jax.Array, mask: jax.Array | None) -> jax.Array:
    """Zeros at frames that are not real: `[B, T, D]`, before what mixes neighbours."""
    return x if mask is None else x * mask[:, :, None]


def batch_norm(x: jax.Array, mask: jax.Array | None, *, train: bool, name: str) -> jax.Array:
    """Batch normalisation `[B, T, ..., C]` whose statistics are those of the real frames; for compact methods."""
    norm = nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=EPSILON, name=name)
    y: jax.Array = norm(x, mask=None if mask is None else mask.reshape(mask.shape + (1,) * (x.ndim - 2)))
    return y
