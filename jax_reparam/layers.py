"""Linen layers that the architectures share: HRFDense, attention, normalisation and pooling under masks.

Every layer takes `mask` `[B, T]`, True at real frames, or None where every frame is real.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jax_reparam import reparam

Initializer = Callable[..., jax.Array]

lecun_normal = nn.initializers.lecun_normal()

# Where attention may not look. -1e9 would take the whole int8 range of the logits; exp(-30) is 1e-13 all the same.
MASKED_LOGIT = -30.0
EPSILON = 1e-5


@dataclasses.dataclass(frozen=True)
class HRFConfig:
    """How the linear layers at HRF sites are trained.

    Attributes:
      expansion: E / D, the width of the extra linear layer over its input's; 0 trains the plain layer.
      forward: `composed` multiplies the factors first and applies one layer (the price of a plain layer), `two_step`
        applies one after the other. Values and gradients are equal to rounding.
      init: `lecun` draws both factors by fan-in; `orthonormal` starts as the very function of the plain layer
        of the same seed.
      decay: weight decay at the sites: `none`, on both `factors`, or on their `product`. Read by the optimizer.
    """

    expansion: float = 4.0
    forward: Literal['composed', 'two_step'] = 'composed'
    init: Literal['lecun', 'orthonormal'] = 'lecun'
    decay: Literal['none', 'factors', 'product'] = 'none'

    def __post_init__(self) -> None:
        for name, choices in (
            ('forward', ('composed', 'two_step')),
            ('init', ('lecun', 'orthonormal')),
            ('decay', ('none', 'factors', 'product')),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(f'hrf.{name}: expected one of {choices}, got {getattr(self, name)!r}')
        if self.expansion < 0:
            raise ValueError(f'hrf.expansion: expected 0 (plain) or more, got {self.expansion}')


PLAIN = HRFConfig(expansion=0)


class HRFDense(nn.Module):
    """A linear layer, trained as a product of two (High-Rank Factorization) and folded by `reparam.dehrf`.

    The factors are one parameter, `hrf`, that is a dictionary: `kernel_u` `[D, E]`, `bias_u` `[E]`, `kernel_v`
    `[E, F]`, `bias_v` `[F]`. With `hrf.expansion` 0 the layer is `nn.Dense`, with `kernel` `[D, F]` and `bias` `[F]`,
    from the same random key: under `hrf.init = 'orthonormal'` both begin as the same function.

    Attributes:
      features: output width F.
      hrf: the training form; see `HRFConfig`.
      use_bias: whether the layer (and each factor) has a bias.
      kernel_init: initializer of the kernel, and of both factors under `init = 'lecun'`. It must draw by fan-in for the
        product to keep the plain kernel's variance (docs/method.md).
      dtype: of the computation; None takes the inputs' and parameters'.
      param_dtype: of the parameters.
      precision: of the matrix products.

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

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Maps `[..., D]` to `[..., F]`."""
        if self.hrf.expansion == 0:
            layer: Mapping[str, jax.Array] = {
                'kernel': self.param('kernel', self.kernel_init, (inputs.shape[-1], self.features), self.param_dtype)
            }
            if self.use_bias:
                bias = self.param('bias', nn.initializers.zeros_init(), (self.features,), self.param_dtype)
                layer = {**layer, 'bias': bias}
            return self._linear(inputs, layer)
        factors = self.param(reparam.SITE, self._init_factors, inputs.shape[-1])
        if self.hrf.forward == 'composed':
            return self._linear(inputs, reparam.compose(factors, precision=self.precision))
        inner = {'kernel': factors['kernel_u'], 'bias': factors.get('bias_u')}
        outer = {'kernel': factors['kernel_v'], 'bias': factors.get('bias_v')}
        return self._linear(self._linear(inputs, inner), outer)

    def _linear(self, inputs: jax.Array, layer: Mapping[str, jax.Array | None]) -> jax.Array:
        inputs, kernel, bias = nn.dtypes.promote_dtype(inputs, layer['kernel'], layer.get('bias'), dtype=self.dtype)
        outputs = jnp.matmul(inputs, kernel, precision=self.precision)
        return outputs if bias is None else outputs + jnp.reshape(bias, (1,) * (outputs.ndim - 1) + (-1,))

    def _init_factors(self, key: jax.Array, width: int) -> dict[str, jax.Array]:
        inner = round(self.hrf.expansion * width)
        if inner < min(width, self.features):
            raise ValueError(
                f'{"/".join(self.path)}: expected E >= min(D, F) = {min(width, self.features)}, '
                f'got E = {inner} (hrf.expansion {self.hrf.expansion}, D {width}, F {self.features})'
            )
        if self.hrf.init == 'orthonormal':
            u, v = _orthonormal_factors(key, self.kernel_init, width, inner, self.features, self.param_dtype)
        else:
            key_u, key_v = jax.random.split(key)
            u = self.kernel_init(key_u, (width, inner), self.param_dtype)
            v = self.kernel_init(key_v, (inner, self.features), self.param_dtype)
        factors = {'kernel_u': u, 'kernel_v': v}
        if self.use_bias:
            factors |= {
                'bias_u': jnp.zeros((inner,), self.param_dtype),
                'bias_v': jnp.zeros((self.features,), self.param_dtype),
            }
        return factors


def _orthonormal_factors(
    key: jax.Array, kernel_init: Initializer, d: int, e: int, f: int, dtype: Any
) -> tuple[jax.Array, jax.Array]:
    """Factors U `[D, E]` and V `[E, F]` whose product is the plain layer's start `kernel_init(key, [D, F])`.

    U has orthonormal rows and V = U^T W where E >= D; else V has orthonormal columns and U = W V^T (E >= F then).
    """
    kernel = kernel_init(key, (d, f), dtype)
    basis = nn.initializers.orthogonal()
    key = jax.random.fold_in(key, 1)
    matmul = lambda a, b: jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
    if e >= d:
        u = basis(key, (d, e), dtype)
        return u, matmul(u.T, kernel)
    v = basis(key, (e, f), dtype)
    return matmul(kernel, v.T), v


class LayerNorm(nn.Module):
    """Layer normalisation over the last axis, with `scale` and `bias` `[D]` (Ba et al. 2016).

    Attributes:
      deploy: the form that exports well, for inputs whose mean over the last axis is 0 (`absorb.centred`). The mean
        of the squares is a product with a constant column of 1/D: one node, which 16-bit activations do not saturate.
      epsilon: added to the variance.
    """

    deploy: bool = False
    epsilon: float = EPSILON

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[..., D]` to `[..., D]`."""
        width = x.shape[-1]
        scale = self.param('scale', nn.initializers.ones_init(), (width,), jnp.float32)
        bias = self.param('bias', nn.initializers.zeros_init(), (width,), jnp.float32)
        if self.deploy:
            variance = (x * x) @ jnp.asarray(np.full((width, 1), 1 / width, x.dtype))
        else:
            x = x - jnp.mean(x, axis=-1, keepdims=True)
            variance = jnp.mean(x * x, axis=-1, keepdims=True)
        x = x * jax.lax.rsqrt(variance + self.epsilon)
        shape = (1,) * (x.ndim - 1) + (width,)
        return x * scale.reshape(shape) + bias.reshape(shape)


class SelfAttention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017): q, k, v and output projections `[D, D]` with biases.

    Attributes:
      heads: number of heads H; D must be a multiple of it.
      dropout: rate on the attention probabilities, in training.
      deploy: the form that exports well; the same function.
    """

    heads: int
    dropout: float = 0.0
    deploy: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None, *, train: bool) -> jax.Array:
        """Maps `[B, T, D]` to `[B, T, D]`; no token looks at a masked one."""
        batch, time, width = x.shape
        if width % self.heads:
            raise ValueError(f'attention: expected a width that is a multiple of {self.heads} heads, got {width}')
        depth = width // self.heads
        q, k, v = (HRFDense(width, PLAIN, name=name)(x) for name in ('query', 'key', 'value'))
        q = q * depth**-0.5
        if self.deploy:
            # Rank 3: the batch of one takes no axis of its own. Both products run over the last axes of both operands,
            # or TFLM keeps a transposed copy of the right one for as long as the model lives.
            q, k = (a.reshape(time, self.heads, depth).transpose(1, 0, 2) for a in (q, k))
            v = v.reshape(time, self.heads, depth).transpose(1, 2, 0)
            weights = nn.softmax(_rows_by_rows(q, k))
            mixed = _rows_by_rows(weights, v).transpose(1, 0, 2).reshape(1, time, width)
        else:
            q, k, v = (a.reshape(batch, time, self.heads, depth) for a in (q, k, v))
            logits = jnp.einsum('bqhd,bkhd->bhqk', q, k)
            if mask is not None:
                logits = jnp.where(mask[:, None, None, :], logits, MASKED_LOGIT)
            weights = nn.Dropout(self.dropout, deterministic=not train)(nn.softmax(logits))
            mixed = jnp.einsum('bhqk,bkhd->bqhd', weights, v).reshape(batch, time, width)
        return HRFDense(width, PLAIN, name='out')(mixed)


def _rows_by_rows(a: jax.Array, b: jax.Array) -> jax.Array:
    """Products of all rows of `a` `[H, T, K]` with all rows of `b` `[H, U, K]`, as `[H, T, U]`."""
    return jax.lax.dot_general(a, b, (((2,), (2,)), ((0,), (0,))))


class FeedForward(nn.Module):
    """Position-wise feed-forward network D -> F -> D with ReLU; its first linear layer is the HRF site.

    Attributes:
      width: inner width F.
      hrf: the training form of the first linear layer.
      dropout: rate after the activation, in training.
    """

    width: int
    hrf: HRFConfig
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps `[B, T, D]` to `[B, T, D]`."""
        hidden = nn.relu(HRFDense(self.width, self.hrf, name='ffn_in')(x))
        hidden = nn.Dropout(self.dropout, deterministic=not train)(hidden)
        return HRFDense(x.shape[-1], PLAIN, name='ffn_out')(hidden)


def sinusoids(length: int, width: int) -> np.ndarray:
    """Absolute sinusoidal positions (Vaswani et al. 2017, section 3.5), `[length, width]` float32."""
    rates = np.exp(-np.log(10000.0) * np.arange(0, width, 2) / width)
    angles = np.arange(length)[:, None] * rates[None, :]
    table = np.zeros((length, width), np.float32)
    table[:, 0::2] = np.sin(angles)
    table[:, 1::2] = np.cos(angles)[:, : width // 2]
    return table


def masked_mean(x: jax.Array, mask: jax.Array | None, *, deploy: bool = False) -> jax.Array:
    """The mean over real frames, `[B, T, D]` to `[B, D]`; zeros where a clip has none.

    In the deploy form (no mask, B = 1) a product with a constant column of 1/T: one node, where a sum takes two and
    saturates with 16-bit activations.
    """
    if deploy:
        column = jnp.asarray(np.full((x.shape[1], 1), 1 / x.shape[1], x.dtype))
        return (x[0].T @ column).reshape(1, -1)
    if mask is None:
        return jnp.mean(x, axis=1)
    weights = mask[:, :, None].astype(x.dtype)
    return jnp.sum(x * weights, axis=1) / jnp.maximum(jnp.sum(weights, axis=1), 1)


def halve_mask(mask: jax.Array | None) -> jax.Array | None:
    """The mask behind a stride of 2, `[B, T]` to `[B, ceil(T / 2)]`: a token is real if its first frame is."""
    return None if mask is None else mask[:, ::2]
