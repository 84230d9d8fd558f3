"""Augmentation of training windows, under jit: what rooms and microphones do, then SpecAugment.

`field` varies features as they were recorded, in the power of their bands, before the level is taken off: so a drawn
microphone also moves the floor and what counts as speech. `spec_augment` masks what the model is then given
(Park et al. 2019). Every window draws its own values, which depend on (seed, step) alone.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from jax_reparam.config import AugmentConfig
from jax_reparam.frontend import features
from jax_reparam.frontend.features import STEP, ZERO, FrontendConfig

# Points on the mel axis at which an equaliser is drawn.
_KNOTS = 8
# dB of the signal over the noise, drawn between them.
_SNR_DB = (5.0, 40.0)
# Hz at which a tilt changes nothing.
_TILT_ABOUT = 1000.0
# Reverberation times in seconds, and dB of the direct sound over the reverberant one.
_RT60, _DIRECT_DB = (0.2, 1.0), (-3.0, 12.0)
# Lower and upper edge of a telephone's band in Hz, and dB per octave beyond them.
_LOW, _HIGH, _SLOPE_DB = (150.0, 400.0), (3000.0, 4000.0), (24.0, 72.0)
_DB = np.log(10) / 10  # nats


def field(
    key: jax.Array, codes: jax.Array, frames: jax.Array, config: AugmentConfig, frontend: FrontendConfig
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Varies a batch as other rooms, microphones and tempos would have given it.

    Args:
      key: of all that is drawn.
      codes: `[B, T, M]` (`features.encode`).
      frames: `[B]`, how many of each window are real.
      config: how strongly.
      frontend: of the features.

    Returns:
      Codes `[B, T, M]` float32, and `[B]` frames; and in steps, `[B, M]`, what the microphone adds to all of a
      recording, so that it can be added to what is known of the voice.
    """
    keys = jax.random.split(key, (4, len(codes)))
    x = (codes.astype(jnp.float32) - ZERO) * STEP
    x, frames = jax.vmap(functools.partial(_tempo, config=config))(keys[0], x, frames)
    if not config.field:
        return _codes(x), frames, jnp.zeros((len(codes), frontend.n_mels))
    elsewhere = jax.vmap(lambda key: jax.random.bernoulli(key, config.field))(keys[3])
    power = jnp.maximum(jnp.exp(x) - frontend.floor, 0)
    colour = jax.vmap(functools.partial(_colour, config=config, frontend=frontend))(keys[1])
    colour = jnp.where(elsewhere[:, None], colour, 0)
    power = power * jnp.exp(colour)[:, None]
    # Babble is what others of the batch say, two at a time.
    unit = power / jnp.maximum((power @ _widths(frontend)).mean(axis=-1), 1e-12)[:, None, None]
    others = (jnp.roll(unit, 1, axis=0) + jnp.roll(unit, 2, axis=0)) / 2
    there = jax.vmap(functools.partial(_room_and_noise, config=config, frontend=frontend))(
        keys[2], power, others, frames
    )
    power = jnp.where(elsewhere[:, None, None], there, power)
    return _codes(jnp.log(power + frontend.floor)), frames, colour / STEP


def _codes(x: jax.Array) -> jax.Array:
    """`features.encode`, as float32."""
    return jnp.clip(jnp.rint(x / STEP) + ZERO, -128, 127)


def spec_augment(key: jax.Array, x: jax.Array, config: AugmentConfig) -> jax.Array:
    """Masks windows `[B, T, M]` with 0, the mean of the training speakers."""
    keys = jax.random.split(key, x.shape[0])
    return jax.vmap(lambda k, window: _masked(k, window, config))(keys, x)


def _tempo(key: jax.Array, x: jax.Array, frames: jax.Array, config: AugmentConfig) -> tuple[jax.Array, jax.Array]:
    stretch, warp = jax.random.split(key)
    if config.stretch:
        rate = 1 + _between(stretch, -config.stretch, config.stretch)
        x = _resample(x, rate, frames - 1)
        frames = jnp.clip(jnp.floor((frames - 1) / rate).astype(jnp.int32) + 1, 1, len(x))
    if config.warp:
        x = _resample(x.T, 1 + _between(warp, -config.warp, config.warp), x.shape[1] - 1).T
    # Repeated where nothing is: what comes after the real frames is others' babble, too.
    return x[jnp.arange(len(x)) % frames], frames


def _colour(key: jax.Array, config: AugmentConfig, frontend: FrontendConfig) -> jax.Array:
    """Level, equaliser, tilt and telephone of one recording, `[M]` in nats of power."""
    level, knots, strength, tilt, phone, low, high, slope = jax.random.split(key, 8)
    place = jnp.linspace(0, _KNOTS - 1, frontend.n_mels)
    drawn = _between(knots, -config.equaliser_db, config.equaliser_db, (_KNOTS,))
    db = _between(strength, 0, 1) * jnp.interp(place, jnp.arange(_KNOTS), drawn)
    octaves = jnp.log2(features.filters(frontend).centres.astype(np.float32))
    db += _between(tilt, -config.tilt_db, config.tilt_db) * (octaves - math.log2(_TILT_ABOUT))
    db -= _between(level, 0, config.level_db)
    if config.telephone:
        beyond = jnp.maximum(jnp.log2(_between(low, *_LOW)) - octaves, octaves - jnp.log2(_between(high, *_HIGH)))
        cut = jnp.minimum(_between(slope, *_SLOPE_DB) * jnp.maximum(beyond, 0), 60)
        db -= jnp.where(jax.random.bernoulli(phone, config.telephone), cut, 0)
    nats: jax.Array = db * _DB
    return nats


def _room_and_noise(
    key: jax.Array,
    power: jax.Array,
    others: jax.Array,
    frames: jax.Array,
    config: AugmentConfig,
    frontend: FrontendConfig,
) -> jax.Array:
    """One window `[T, M]` in a room, with noise or the others' babble."""
    in_room, decay, direct, noisy, kind, start, snr = jax.random.split(key, 7)
    if config.room:
        # Energy falls by 60 dB in the reverberation time: a moving sum, doubled in length eight times.
        factor = 10 ** (-6 * frontend.hop_ms / 1000 / _between(decay, *_RT60))
        tail = power
        for shift in (2**k for k in range(8)):
            tail = tail + factor**shift * jnp.pad(tail, ((shift, 0), (0, 0)))[: len(tail)]
        tail = tail * (1 - factor) * 10 ** (-_between(direct, *_DIRECT_DB) / 10)
        power = jnp.where(jax.random.bernoulli(in_room, config.room), power + tail, power)
    if config.noise:
        bank = noises(frontend, len(power))
        # One of the bank, others, or a tone in one band.
        drawn = jax.random.randint(kind, (), 0, len(bank) + 2)
        begin = jax.random.randint(start, (), 0, bank.shape[1] - len(power) + 1)
        noise = jax.lax.dynamic_slice(jnp.asarray(bank), (drawn % len(bank), begin, 0), (1, *power.shape))[0]
        noise = jnp.where(drawn == len(bank), others, noise)
        tone = jax.nn.one_hot(begin % power.shape[1], power.shape[1]) / _widths(frontend)
        noise = jnp.where(drawn == len(bank) + 1, tone[None], noise)
        real = jnp.arange(len(power)) < frames
        total = jnp.where(real, power @ _widths(frontend), 0).sum() / frames
        loudness = total * 10 ** (-_between(snr, *_SNR_DB) / 10)
        power = jnp.where(jax.random.bernoulli(noisy, config.noise), power + loudness * noise, power)
    return power


@functools.lru_cache(maxsize=4)
def noises(frontend: FrontendConfig, frames: int) -> np.ndarray:
    """The power of white, pink and brown noise in mel bands, `[3, 3 * frames, M]`, 1 in all on average."""
    rng, rows = np.random.default_rng(0), []
    samples = 3 * frames * frontend.hop_length + frontend.frame_length - frontend.hop_length
    for exponent in (0.0, 0.5, 1.0):
        spectrum = np.fft.rfft(rng.standard_normal(samples))
        spectrum /= np.maximum(np.arange(len(spectrum)), 20 * samples / frontend.sample_rate) ** exponent
        wave = np.fft.irfft(spectrum, samples)
        pcm = np.rint(wave * 3000 / wave.std()).astype(np.int16)
        power = np.exp(features.log_mel(pcm, frontend)) - frontend.floor
        rows.append(power / (power @ _widths(frontend)).mean())
    return np.stack(rows).astype(np.float32)


def _widths(frontend: FrontendConfig) -> np.ndarray:
    """Hz of each band, `[M]`: bands are normalised by it, so their power sums to a signal's with these weights."""
    widths: np.ndarray = np.gradient(features.filters(frontend).centres).astype(np.float32)
    return widths


def _masked(key: jax.Array, x: jax.Array, config: AugmentConfig) -> jax.Array:
    time, freq = jax.random.split(key)
    for k in jax.random.split(time, config.time_masks):
        x = x * _keep(k, x.shape[0], config.time_mask_frames)[:, None]
    for k in jax.random.split(freq, config.freq_masks):
        x = x * _keep(k, x.shape[1], config.freq_mask_bands)[None, :]
    return x


def _between(key: jax.Array, low: float, high: float, shape: tuple[int, ...] = ()) -> jax.Array:
    return jax.random.uniform(key, shape, minval=low, maxval=high)


def _resample(x: jax.Array, rate: jax.Array, last: jax.Array | int) -> jax.Array:
    """Reads `x` `[N, K]` along its first axis at 0, rate, 2 rate, ...; row `last` stands in past the end."""
    position = jnp.minimum(jnp.arange(x.shape[0]) * rate, last)
    low = jnp.floor(position).astype(jnp.int32)
    high = jnp.minimum(low + 1, last)
    share = (position - low)[:, None]
    return x[low] * (1 - share) + x[high] * share


def _keep(key: jax.Array, length: int, widest: int) -> jax.Array:
    """`[length]`: 0 over a stretch of random place and width up to `widest`, 1 elsewhere."""
    key_width, key_start = jax.random.split(key)
    width = jax.random.randint(key_width, (), 0, min(widest, length) + 1)
    start = jax.random.randint(key_start, (), 0, length - width + 1)
    index = jnp.arange(length)
    return 1.0 - ((index >= start) & (index < start + width))


def mixup(key: jax.Array, arrays: tuple[jax.Array, ...], alpha: float) -> tuple[jax.Array, ...]:
    """Mixes each row of a batch with the row before it, whose share is at most a half.

    The order of a batch is random, so that the row before is any other.

    Args:
      key: of the shares.
      arrays: `[B, ...]`, all mixed by the same shares: windows and targets.
      alpha: of the Beta distribution, more than 0.
    """
    share = jax.random.beta(key, alpha, alpha, (len(arrays[0]),))
    share = jnp.maximum(share, 1 - share)

    def mix(rows: jax.Array) -> jax.Array:
        own = share.reshape(-1, *(1,) * (rows.ndim - 1))
        return own * rows + (1 - own) * jnp.roll(rows, 1, axis=0)

    return tuple(map(mix, arrays))
