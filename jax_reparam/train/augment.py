"""Augmentation of standardised features in training, under jit: SpecAugment (Park et al. 2019), stretch and warp."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jax_reparam.config import AugmentConfig


def augment(key: jax.Array, x: jax.Array, config: AugmentConfig) -> jax.Array:
    """Varies a batch of windows `[B, T, M]`; masked cells become 0, the mean of the training speakers."""
    keys = jax.random.split(key, x.shape[0])
    return jax.vmap(lambda k, window: _augment_one(k, window, config))(keys, x)


def _augment_one(key: jax.Array, x: jax.Array, config: AugmentConfig) -> jax.Array:
    stretch, warp, time, freq = jax.random.split(key, 4)
    if config.stretch:
        x = _resample(x, 1 + _symmetric(stretch, config.stretch))
    if config.warp:
        x = _resample(x.T, 1 + _symmetric(warp, config.warp)).T
    for k in jax.random.split(time, config.time_masks):
        x = x * _keep(k, x.shape[0], config.time_mask_frames)[:, None]
    for k in jax.random.split(freq, config.freq_masks):
        x = x * _keep(k, x.shape[1], config.freq_mask_bands)[None, :]
    return x


def _symmetric(key: jax.Array, largest: float) -> jax.Array:
    return jax.random.uniform(key, minval=-largest, maxval=largest)


def _resample(x: jax.Array, rate: jax.Array) -> jax.Array:
    """Reads `x` `[N, K]` along its first axis at 0, rate, 2 rate, ...; the last row stands in past the end."""
    position = jnp.minimum(jnp.arange(x.shape[0]) * rate, x.shape[0] - 1)
    low = jnp.floor(position).astype(jnp.int32)
    high = jnp.minimum(low + 1, x.shape[0] - 1)
    share = (position - low)[:, None]
    return x[low] * (1 - share) + x[high] * share


def _keep(key: jax.Array, length: int, widest: int) -> jax.Array:
    """`[length]`: 0 over a stretch of random place and width up to `widest`, 1 elsewhere."""
    key_width, key_start = jax.random.split(key)
    width = jax.random.randint(key_width, (), 0, min(widest, length) + 1)
    start = jax.random.randint(key_start, (), 0, length - width + 1)
    index = jnp.arange(length)
    return 1.0 - ((index >= start) & (index < start + width))
