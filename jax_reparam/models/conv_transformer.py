"""ConvTransformer: two strided convolutions, then a pre-norm Transformer encoder."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jax_reparam.config import ConvTransformerConfig, HRFConfig
from jax_reparam.layers import FeedForward, LayerNorm, SelfAttention, Transform, pool, sinusoids
from jax_reparam.models.ends import Head, Subsampling


class ConvTransformer(nn.Module):
    """Log-mel features to logits by ceil(T / 4) tokens."""

    config: ConvTransformerConfig
    hrf: HRFConfig
    n_classes: int

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None = None, *, train: bool = False) -> jax.Array:
        """Maps `[B, T, M]`, with `mask` `[B, T]`, to logits `[B, C]`."""
        config = self.config
        x, mask = Subsampling(config.channels, config.width, self.hrf, config.deltas, name='stem')(x, mask, train=train)
        x = x + jnp.asarray(sinusoids(np.arange(x.shape[1]), config.width), x.dtype)[None]
        x = nn.Dropout(config.dropout, deterministic=not train)(x)
        for index in range(config.layers):
            x = EncoderLayer(config, self.hrf, name=f'layer_{index}')(x, mask, train=train)
        x = pool(LayerNorm(name='norm')(x), mask, config.pooling)
        return Head((config.width,), self.n_classes, config.dropout, name='head')(x, train=train)


class EncoderLayer(nn.Module):
    """Pre-norm encoder layer: x + MHSA(LN(x)), then x + FFN(LN(x))."""

    config: ConvTransformerConfig
    hrf: HRFConfig

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None, *, train: bool) -> jax.Array:
        """Maps `[B, T, D]` to `[B, T, D]`."""
        config = self.config
        drop: Transform = nn.Dropout(config.dropout, deterministic=not train)
        attention = SelfAttention(config.heads, self.hrf, config.attention_dropout, name='attention')
        x = x + drop(attention(LayerNorm(name='attention_norm')(x), mask, train=train))
        ffn = FeedForward(config.ffn_width, self.hrf, config.dropout, name='ffn')
        return x + drop(ffn(LayerNorm(name='ffn_norm')(x), train=train))
