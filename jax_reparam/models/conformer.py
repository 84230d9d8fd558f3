"""Conformer (Gulati et al. 2020): self-attention and convolution between two half feed-forward networks."""

from __future__ import annotations

import flax.linen as nn
import jax

from jax_reparam.config import ConformerConfig, HRFConfig
from jax_reparam.layers import (
    ACTIVATIONS,
    ConvShape,
    FeedForward,
    HRFDense,
    LayerNorm,
    SelfAttention,
    Transform,
    conv_norm,
    hide,
    pool,
)
from jax_reparam.models.ends import Head, Subsampling


class Conformer(nn.Module):
    """Log-mel features to logits by ceil(T / 4) tokens."""

    config: ConformerConfig
    hrf: HRFConfig
    n_classes: int

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None = None, *, train: bool = False) -> jax.Array:
        """Maps `[B, T, M]`, with `mask` `[B, T]`, to logits `[B, C]`."""
        config = self.config
        x, mask = Subsampling(config.channels, config.width, self.hrf, config.deltas, name='stem')(x, mask, train=train)
        x = nn.Dropout(config.dropout, deterministic=not train)(x)
        for index in range(config.layers):
            x = Block(config, self.hrf, name=f'layer_{index}')(x, mask, train=train)
        x = pool(x, mask, config.pooling)
        return Head((config.width,), self.n_classes, config.dropout, name='head')(x, train=train)


class Block(nn.Module):
    """x + FFN(x) / 2, x + MHSA(x), x + Conv(x), LN(x + FFN(x) / 2); every module normalises its input first."""

    config: ConformerConfig
    hrf: HRFConfig

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None, *, train: bool) -> jax.Array:
        """Maps `[B, T, D]` to `[B, T, D]`."""
        config = self.config
        drop: Transform = nn.Dropout(config.dropout, deterministic=not train)

        def ffn(index: int, x: jax.Array) -> jax.Array:
            module = FeedForward(config.ffn_width, self.hrf, config.dropout, config.activation, name=f'ffn_{index}')
            return drop(module(LayerNorm(name=f'ffn_{index}_norm')(x), train=train))

        relative = config.positions == 'relative'
        attention = SelfAttention(config.heads, self.hrf, config.attention_dropout, relative, name='attention')
        x = x + 0.5 * ffn(0, x)
        x = x + drop(attention(LayerNorm(name='attention_norm')(x), mask, train=train))
        x = x + drop(Convolution(config, self.hrf, name='conv')(LayerNorm(name='conv_norm')(x), mask, train=train))
        return LayerNorm(name='norm')(x + 0.5 * ffn(1, x))


class Convolution(nn.Module):
    """The convolution module: D -> 2 D, GLU, depthwise convolution over time, BatchNorm, activation, D -> D.

    Both pointwise convolutions are linear layers, sites of kind `pointwise`; the depthwise one is a site of kind
    `convolution`. Frames that are not real are zero before it and left out of the batch statistics.
    """

    config: ConformerConfig
    hrf: HRFConfig

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None, *, train: bool) -> jax.Array:
        """Maps `[B, T, D]` to `[B, T, D]`."""
        config, hrf = self.config, self.hrf.at('pointwise')
        x = nn.glu(HRFDense(2 * config.width, hrf, name='pointwise_in')(x))
        side = config.kernel // 2
        shape = ConvShape(config.width, (config.kernel,), (1,), ((side, side),), groups=config.width)
        form, names = self.hrf.at('convolution'), ('depthwise', 'batch_norm')
        x = conv_norm(shape, hide(x, mask), mask, form, train=train, names=names)
        return HRFDense(config.width, hrf, name='pointwise_out')(ACTIVATIONS[config.activation](x))
