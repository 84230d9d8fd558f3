"""Conformer (Gulati et al. 2020): self-attention and convolution between two half feed-forward networks."""

from __future__ import annotations

import dataclasses
from typing import Literal

import flax.linen as nn
import jax

from jax_reparam.layers import (
    ACTIVATIONS,
    FeedForward,
    HRFConfig,
    HRFDense,
    LayerNorm,
    SelfAttention,
    batch_norm,
    hide,
    masked_mean,
)
from jax_reparam.models.ends import Head, Subsampling
from jax_reparam.models.sizes import check_sizes


@dataclasses.dataclass(frozen=True)
class ConformerConfig:
    """Sizes of a Conformer; the defaults are S.

    Attributes:
      channels: channels of both subsampling convolutions.
      width: token width D.
      layers: number of blocks L.
      heads: attention heads H; D is a multiple of it.
      ffn_width: inner width F of the feed-forward networks.
      kernel: frames that the depthwise convolution sees, odd.
      positions: `relative` (Transformer-XL), or `none` as in torchaudio's Conformer.
      activation: in the feed-forward networks and behind the depthwise convolution: `swish` (the paper), or `relu`,
        which costs no operator of its own on a device.
      dropout: rate behind each module, in the feed-forward networks and before the classifier, in training.
      attention_dropout: rate on the attention probabilities, in training.
    """

    channels: int = 16
    width: int = 64
    layers: int = 4
    heads: int = 4
    ffn_width: int = 256
    kernel: int = 15
    positions: Literal['relative', 'none'] = 'relative'
    activation: Literal['swish', 'relu'] = 'swish'
    dropout: float = 0.1
    attention_dropout: float = 0.1

    def __post_init__(self) -> None:
        check_sizes(self, 'channels', 'width', 'layers', 'heads', 'ffn_width', 'kernel')
        if self.kernel % 2 == 0:
            raise ValueError(f'model.kernel: expected an odd number, got {self.kernel}')
        for name, choices in (('positions', ('relative', 'none')), ('activation', ('swish', 'relu'))):
            if getattr(self, name) not in choices:
                raise ValueError(f'model.{name}: expected one of {choices}, got {getattr(self, name)!r}')


class Conformer(nn.Module):
    """Log-mel features to logits by ceil(T / 4) tokens.

    Attributes:
      config: sizes.
      hrf: the training form.
      n_classes: number of logits C.
    """

    config: ConformerConfig
    hrf: HRFConfig
    n_classes: int

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None = None, *, train: bool = False) -> jax.Array:
        """Maps `[B, T, M]`, with `mask` `[B, T]`, to logits `[B, C]`."""
        config = self.config
        x, mask = Subsampling(config.channels, config.width, self.hrf, name='stem')(x, mask, train=train)
        x = nn.Dropout(config.dropout, deterministic=not train)(x)
        for index in range(config.layers):
            x = Block(config, self.hrf, name=f'layer_{index}')(x, mask, train=train)
        x = masked_mean(x, mask)
        return Head((config.width,), self.n_classes, config.dropout, name='head')(x, train=train)


class Block(nn.Module):
    """x + FFN(x) / 2, x + MHSA(x), x + Conv(x), LN(x + FFN(x) / 2); every module normalises its input first."""

    config: ConformerConfig
    hrf: HRFConfig

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None, *, train: bool) -> jax.Array:
        """Maps `[B, T, D]` to `[B, T, D]`."""
        config = self.config
        drop = nn.Dropout(config.dropout, deterministic=not train)

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

    Both pointwise convolutions are linear layers, sites of kind `pointwise`. Frames that are not real are zero before
    the depthwise convolution and left out of the batch statistics.
    """

    config: ConformerConfig
    hrf: HRFConfig

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None, *, train: bool) -> jax.Array:
        """Maps `[B, T, D]` to `[B, T, D]`."""
        config, hrf = self.config, self.hrf.at('pointwise')
        x = nn.glu(HRFDense(2 * config.width, hrf, name='pointwise_in')(x))
        side = config.kernel // 2
        depthwise = nn.Conv(
            config.width,
            (config.kernel,),
            padding=[(side, side)],
            feature_group_count=config.width,
            name='depthwise',
        )
        x = batch_norm(depthwise(hide(x, mask)), mask, train=train, name='batch_norm')
        return HRFDense(config.width, hrf, name='pointwise_out')(ACTIVATIONS[config.activation](x))
