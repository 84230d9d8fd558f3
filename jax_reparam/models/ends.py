"""Both ends of a model: the convolutions before the encoder, and the classifier behind it."""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from jax_reparam.config import PLAIN, HRFConfig
from jax_reparam.layers import ConvShape, HRFDense, conv_norm, deltas


class Subsampling(nn.Module):
    """Two convolutions 3x3 of stride 2, with BatchNorm and ReLU, and a linear layer: a quarter of the frames.

    Attributes:
      channels: of both convolutions.
      width: token width D.
      hrf: the training form; the convolutions are sites of kind `convolution`, the linear layer of `pointwise`.
      deltas: whether the first convolution reads the frames' derivatives, too.
    """

    channels: int
    width: int
    hrf: HRFConfig
    deltas: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None, *, train: bool) -> tuple[jax.Array, jax.Array | None]:
        """Maps `[B, T, M]` and `[B, T]` to tokens `[B, ceil(T / 4), D]` and their mask.

        Token t of a convolution reads frames 2t, 2t + 1 and 2t + 2 whatever T is, with zeros behind the clip. ('SAME'
        moves by one frame with the parity of T, so that a clip's tokens would depend on how far it is padded.) A token
        is real if its first frame is.
        """
        x = x[..., None]
        for index in range(2):
            if mask is not None:
                x = x * mask[:, :, None, None]
                mask = mask[:, ::2]
            padding = tuple((0, 1 + size % 2) for size in x.shape[1:3])
            if index == 0 and self.deltas:
                # Padded before, since a derivative is not zero after the clip: with the convolution it is one filter.
                x, padding = deltas(jnp.pad(x[..., 0], ((0, 0), padding[0], (0, 0)))), ((0, 0), padding[1])
            shape = ConvShape(self.channels, (3, 3), (2, 2), padding)
            names = (f'conv_{index}', f'conv_norm_{index}')
            x = nn.relu(conv_norm(shape, x, mask, self.hrf.at('convolution'), train=train, names=names))
        flat = x.reshape(*x.shape[:2], -1)
        return HRFDense(self.width, self.hrf.at('pointwise'), name='project')(flat), mask


class Head(nn.Module):
    """The classifier: linear layers with ReLU and dropout between.

    Attributes:
      widths: of the hidden layers.
      n_classes: number of logits C.
      dropout: rate behind each hidden layer, in training.
    """

    widths: Sequence[int]
    n_classes: int
    dropout: float

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps `[B, D]` to logits `[B, C]`."""
        for index, width in enumerate(self.widths):
            x = nn.relu(HRFDense(width, PLAIN, name=f'hidden_{index}')(x))
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return HRFDense(self.n_classes, PLAIN, name='classifier')(x)
