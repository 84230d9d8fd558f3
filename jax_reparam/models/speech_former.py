"""SpeechFormer (Chen et al. 2022, arXiv 2203.03812): four stages, from frames to the utterance, merging in between.

Windows and merges follow from the hop between frames. Two points differ from the published code, on purpose: positions
are the sinusoids that the paper names (the code overwrites them with frozen random values), and a `mask` says where a
clip ends, so that what is padded behind it cannot move its logits.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jax_reparam.config import POSITIONS, HRFConfig, SpeechFormerConfig
from jax_reparam.layers import FeedForward, HRFDense, LayerNorm, hide, masked_mean, masked_softmax, sinusoids
from jax_reparam.models.ends import Head

STAGES = ('frame', 'phoneme', 'word', 'utterance')
# What a query sees, and what is merged into one token behind the stage, in milliseconds; the last stage sees all.
ATTENTION_MS = (50, 400, 2000)
MERGE_MS = (50, 250, 1000)

xavier_uniform = nn.initializers.xavier_uniform()


def spans(hop_ms: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Windows and merges of the first three stages, in tokens: (5, 9, 9) and (5, 5, 4) with a hop of 10 ms.

    Each is its span over the length of a token, at least 1; an even window is made odd by one more.
    """
    windows, merges = [], []
    token = float(hop_ms)
    for attention, merged in zip(ATTENTION_MS, MERGE_MS, strict=True):
        window = max(1, round(attention / token))
        windows.append(window + 1 - window % 2)
        merges.append(max(1, round(merged / token)))
        token *= merges[-1]
    return tuple(windows), tuple(merges)


def frame_positions(time: int, width: int) -> np.ndarray:
    """The position table `[T, C]`.

    Raises:
      ValueError: more frames than it has.
    """
    if time > POSITIONS:
        raise ValueError(f'speech_former: expected at most {POSITIONS} frames (its position table), got {time}')
    return sinusoids(np.arange(time), width)


class SpeechFormer(nn.Module):
    """Log-mel features to logits."""

    config: SpeechFormerConfig
    hrf: HRFConfig
    n_classes: int

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None = None, *, train: bool = False) -> jax.Array:
        """Maps `[B, T, M]`, with `mask` `[B, T]`, to logits; 1 <= T <= 2000.

        Raises:
          ValueError: fewer mel bands than heads, or more frames than positions.
        """
        config = self.config
        width = x.shape[-1] - x.shape[-1] % config.heads
        if not width:
            raise ValueError(f'speech_former: expected at least {config.heads} mel bands (heads), got {x.shape[-1]}')
        positions = jnp.asarray(frame_positions(x.shape[1], width), x.dtype)[None]
        x = x[..., :width]
        windows, merges = spans(config.hop_ms)
        for index, stage in enumerate(STAGES):
            window = windows[index] if index < len(windows) else None
            x = LayerNorm(name=f'{stage}_norm')(x)
            for layer in range(config.layers[index]):
                module = Layer(config, self.hrf, window, name=f'{stage}_{layer}')
                x = module(x, mask, positions if index == 0 else None, train=train)
            if index < len(merges):
                x, mask = Merge(merges[index], config.expand[index], self.hrf, name=f'{stage}_merge')(x, mask)
        x = masked_mean(x, mask)
        width = x.shape[-1]
        return Head((width // 2, width // 4), self.n_classes, config.head_dropout, name='head')(x, train=train)


class Layer(nn.Module):
    """Post-norm layer: x = LN(x + MSA(x + P)), x = LN(x + FFN(x)), with F = C / 2; P in the frame stage only."""

    config: SpeechFormerConfig
    hrf: HRFConfig
    window: int | None

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None, positions: jax.Array | None, *, train: bool) -> jax.Array:
        """Maps `[B, T, C]` to `[B, T, C]`."""
        config = self.config
        drop = nn.Dropout(config.dropout, deterministic=not train)
        attention = PackedAttention(config.heads, self.hrf, self.window, config.attention_dropout, name='attention')
        y = x if positions is None else x + positions
        x = LayerNorm(name='attention_norm')(x + drop(attention(y, mask, train=train)))
        ffn = FeedForward(x.shape[-1] // 2, self.hrf, config.dropout, kernel_init=xavier_uniform, name='ffn')
        return LayerNorm(name='ffn_norm')(x + drop(ffn(x, train=train)))


class PackedAttention(nn.Module):
    """Multi-head self-attention with one linear layer C -> 3 C for q, k and v, over a window or over all tokens.

    Attributes:
      heads: number of heads H.
      hrf: the training form; both linear layers are sites of kind `attention`.
      window: tokens that a query sees, odd, itself in the middle; None for all. Behind either end of the clip keys and
        values are zeros and are not masked: such a slot has logit 0 and value 0.
      dropout: rate on the attention probabilities, in training.
    """

    heads: int
    hrf: HRFConfig
    window: int | None
    dropout: float

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None, *, train: bool) -> jax.Array:
        """Maps `[B, T, C]` to `[B, T, C]`."""
        batch, time, width = x.shape
        hrf = self.hrf.at('attention')
        packed = HRFDense(3 * width, hrf, kernel_init=xavier_uniform, name='qkv')(x)
        depth = width // self.heads
        q, k, v = (a.reshape(batch, time, self.heads, depth) for a in jnp.split(packed, 3, axis=-1))
        q = q * depth**-0.5
        drop = nn.Dropout(self.dropout, deterministic=not train)
        if self.window is None:
            weights = drop(masked_softmax(jnp.einsum('bqhd,bkhd->bhqk', q, k), mask))
            mixed = jnp.einsum('bhqk,bkhd->bqhd', weights, v)
        else:
            # Behind the clip a window sees what it sees behind the last frame: zeros.
            k, v = (a if mask is None else a * mask[:, :, None, None] for a in (k, v))
            mixed = windowed_attention(q, k, v, self.window, drop)
        return HRFDense(width, hrf, kernel_init=xavier_uniform, name='out')(mixed.reshape(batch, time, width))


def windowed_attention(
    q: jax.Array, k: jax.Array, v: jax.Array, window: int, drop: Callable[[jax.Array], jax.Array]
) -> jax.Array:
    """Attention of each query to the `window` tokens around it, in O(T w) time and memory.

    Args:
      q: queries, scaled, `[B, T, H, d]` like keys, values and what is returned.
      k: keys.
      v: values.
      window: odd.
      drop: dropout of the probabilities `[B, T, H, w]`.
    """
    time, half = q.shape[1], window // 2
    ends = ((0, 0), (half, half), (0, 0), (0, 0))
    k, v = jnp.pad(k, ends), jnp.pad(v, ends)

    def seen(a: jax.Array, offset: int) -> jax.Array:
        return jax.lax.slice_in_dim(a, offset, offset + time, axis=1)

    # One offset at a time: no window is ever copied.
    logits = [jnp.einsum('bthd,bthd->bth', q, seen(k, offset)) for offset in range(window)]
    weights = drop(nn.softmax(jnp.stack(logits, axis=-1)))
    mixed = jnp.zeros_like(v[:, :time])
    for offset in range(window):
        mixed += jnp.einsum('bth,bthd->bthd', weights[..., offset], seen(v, offset))
    return mixed


class Merge(nn.Module):
    """Mean over groups of tokens, the last one filled up with zeros; then a linear layer and layer normalisation.

    Attributes:
      group: tokens in a group, m.
      expand: C' / C.
      hrf: the training form; the linear layer is a site of kind `pointwise`.
    """

    group: int
    expand: int
    hrf: HRFConfig

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None) -> tuple[jax.Array, jax.Array | None]:
        """Maps `[B, T, C]` and `[B, T]` to `[B, ceil(T / m), C']` and the mask of groups that hold a real frame."""
        batch, time, width = x.shape
        groups = math.ceil(time / self.group)
        x = jnp.pad(hide(x, mask), ((0, 0), (0, groups * self.group - time), (0, 0)))
        x = x.reshape(batch, groups, self.group, width).mean(axis=2)
        project = HRFDense(width * self.expand, self.hrf.at('pointwise'), kernel_init=xavier_uniform, name='project')
        return LayerNorm(name='norm')(project(x)), None if mask is None else mask[:, :: self.group]
