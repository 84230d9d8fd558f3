"""ConvTransformer: two strided convolutions, then a pre-norm Transformer encoder with HRF in its FFNs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jax_reparam import absorb
from jax_reparam.layers import (
    EPSILON,
    PLAIN,
    FeedForward,
    HRFConfig,
    HRFDense,
    LayerNorm,
    SelfAttention,
    halve_mask,
    masked_mean,
    sinusoids,
)


@dataclasses.dataclass(frozen=True)
class ConvTransformerConfig:
    """Sizes of a ConvTransformer; the defaults are S.

    Attributes:
      channels: channels of both convolutions.
      width: token width D.
      layers: number of encoder layers L.
      heads: attention heads H; D is a multiple of it.
      ffn_width: inner width F of the feed-forward networks.
      dropout: rate in the residual branches, the feed-forward networks and before the classifier, in training.
      attention_dropout: rate on the attention probabilities, in training.
    """

    channels: int = 16
    width: int = 96
    layers: int = 4
    heads: int = 4
    ffn_width: int = 384
    dropout: float = 0.1
    attention_dropout: float = 0.1

    def __post_init__(self) -> None:
        for name in ('channels', 'width', 'layers', 'heads', 'ffn_width'):
            if getattr(self, name) < 1:
                raise ValueError(f'model.{name}: expected at least 1, got {getattr(self, name)}')
        if self.width % self.heads:
            raise ValueError(f'model.width: expected a multiple of {self.heads} heads, got {self.width}')


class ConvTransformer(nn.Module):
    """Log-mel features to logits; HRF sites are the first linear layers of the feed-forward networks.

    Attributes:
      config: sizes.
      hrf: the training form at the sites.
      n_classes: number of logits C.
      deploy: the form that is exported, of the parameters that `to_deploy` makes; B = 1, no mask.
    """

    config: ConvTransformerConfig
    hrf: HRFConfig
    n_classes: int
    deploy: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None = None, *, train: bool = False) -> jax.Array:
        """Maps `[B, T, M]`, with `mask` `[B, T]`, to logits `[B, C]`, by ceil(T / 4) tokens."""
        config = self.config
        if self.deploy and (mask is not None or train or x.shape[0] != 1):
            raise ValueError(f'deploy form: expected B = 1, no mask, no training, got {x.shape}')
        x = x[..., None]
        for index in range(2):
            x, mask = self._subsample(x, mask, index, train=train)
        batch, time = x.shape[:2]
        x = HRFDense(config.width, PLAIN, name='project')(x.reshape(batch, time, -1))
        positions = sinusoids(time, config.width)
        if self.deploy:
            positions = positions - positions.mean(axis=-1, keepdims=True, dtype=np.float64)
        x = x + jnp.asarray(positions, x.dtype)[None]
        x = self._drop(x, train)
        for index in range(config.layers):
            x = EncoderLayer(config, self.hrf, self.deploy, name=f'layer_{index}')(x, mask, train=train)
        x = LayerNorm(self.deploy, name='norm')(x)
        x = masked_mean(x, mask, deploy=self.deploy)
        x = nn.relu(HRFDense(config.width, PLAIN, name='hidden')(x))
        return HRFDense(self.n_classes, PLAIN, name='classifier')(self._drop(x, train))

    @staticmethod
    def to_deploy(variables: Mapping[str, Any]) -> dict[str, Any]:
        """The variables of the deploy form: the plain model's tree, with its normalisations absorbed.

        Only layer normalisations read the residual stream, so its writers are centred; each normalisation's scale and
        bias go into the linear layers that read it (of the last one, through the mean over time).

        Args:
          variables: the plain model's `params` and `batch_stats`.
        """
        params = dict(variables['params'])
        params['project'] = absorb.centred(params['project'])
        params['norm'], readers = absorb.into_readers(params['norm'], {'hidden': params['hidden']})
        params |= readers
        for name in [name for name in params if name.startswith('layer_')]:
            layer = params[name]
            attention, ffn = layer['attention'], layer['ffn']
            projections = {key: attention[key] for key in ('query', 'key', 'value')}
            attention_norm, projections = absorb.into_readers(layer['attention_norm'], projections)
            ffn_norm, ffn_in = absorb.into_readers(layer['ffn_norm'], {'ffn_in': ffn['ffn_in']})
            params[name] = {
                'attention_norm': attention_norm,
                'attention': {**projections, 'out': absorb.centred(attention['out'])},
                'ffn_norm': ffn_norm,
                'ffn': {**ffn_in, 'ffn_out': absorb.centred(ffn['ffn_out'])},
            }
        return {**variables, 'params': params}

    def _subsample(
        self, x: jax.Array, mask: jax.Array | None, index: int, *, train: bool
    ) -> tuple[jax.Array, jax.Array | None]:
        """Convolution 3x3 of stride 2, BatchNorm, ReLU: `[B, T, M, C]` to `[B, ceil(T / 2), ceil(M / 2), C']`.

        Token t reads frames 2t, 2t + 1 and 2t + 2 whatever T is, with zeros behind the clip. ('SAME' moves by one frame
        with the parity of T, so that a clip's tokens would depend on how far it is padded.)
        """
        if mask is not None:
            x = x * mask[:, :, None, None]
        ends = [(0, 1 + size % 2) for size in x.shape[1:3]]
        x = nn.Conv(self.config.channels, (3, 3), (2, 2), padding=ends, name=f'conv_{index}')(x)
        mask = halve_mask(mask)
        norm = nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=EPSILON, name=f'conv_norm_{index}')
        x = norm(x, mask=None if mask is None else mask[:, :, None, None])
        return nn.relu(x), mask

    def _drop(self, x: jax.Array, train: bool) -> jax.Array:
        return nn.Dropout(self.config.dropout, deterministic=not train)(x)


class EncoderLayer(nn.Module):
    """Pre-norm encoder layer: x + MHSA(LN(x)), then x + FFN(LN(x))."""

    config: ConvTransformerConfig
    hrf: HRFConfig
    deploy: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None, *, train: bool) -> jax.Array:
        """Maps `[B, T, D]` to `[B, T, D]`."""
        config = self.config
        drop = nn.Dropout(config.dropout, deterministic=not train)
        normed = LayerNorm(self.deploy, name='attention_norm')(x)
        attention = SelfAttention(config.heads, config.attention_dropout, self.deploy, name='attention')
        x = x + drop(attention(normed, mask, train=train))
        normed = LayerNorm(self.deploy, name='ffn_norm')(x)
        return x + drop(FeedForward(config.ffn_width, self.hrf, config.dropout, name='ffn')(normed, train=train))
