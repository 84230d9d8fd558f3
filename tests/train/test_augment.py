"""Augmentation: each kind does what it says and nothing else, all depends on the key, and off is off."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers import syllables
from jax_reparam.config import AugmentConfig
from jax_reparam.frontend import features, speech
from jax_reparam.frontend.features import FrontendConfig
from jax_reparam.frontend.inputs import Input
from jax_reparam.frontend.voice import Profile, VoiceConfig
from jax_reparam.frontend.windows import WindowConfig
from jax_reparam.train import augment
from jax_reparam.train.augment import field, spec_augment
from jax_reparam.train.loop import varied

OFF = AugmentConfig(freq_masks=0, time_masks=0, field=0)
FRONTEND = FrontendConfig()
CENTRES = features.filters(FRONTEND).centres
# All windows are from elsewhere, where nothing is else.
FIELD = dataclasses.replace(OFF, field=1.0, level_db=0, equaliser_db=0, tilt_db=0, noise=0)
ALWAYS = 1.0
ALL = dataclasses.replace(
    FIELD, stretch=0.2, warp=0.1, level_db=20, equaliser_db=9, tilt_db=9, noise=0.5, room=0.5, telephone=0.3
)
DB = np.log(10)  # steps in a dB


@functools.cache
def compiled(config):
    return jax.jit(functools.partial(field, config=config, frontend=FRONTEND))


@pytest.fixture(autouse=True)
def forget():
    """A test may have changed what `field` draws."""
    yield
    compiled.cache_clear()


def run(config, codes, frames=None, key=0):
    """`field`'s codes, frames and colours as NumPy arrays."""
    frames = np.full(len(codes), codes.shape[1], np.int32) if frames is None else np.asarray(frames, np.int32)
    return jax.tree.map(np.asarray, compiled(config)(jax.random.key(key), codes, frames))


def loud(rng, windows=32, frames=100):
    """Codes far above the floor and below the top."""
    return rng.integers(20, 80, (windows, frames, 64)).astype(np.int8)


def power(codes):
    return np.exp((codes.astype(np.float64) - features.ZERO) * features.STEP) - 1e-9


@pytest.mark.parametrize('off', [OFF, FIELD])
def test_off_changes_nothing(off):
    codes = np.arange(-128, 128).astype(np.int8).reshape(1, 4, 64)
    got, frames, colour = run(off, np.repeat(codes, 3, axis=0), [4, 2, 1])
    assert frames.tolist() == [4, 2, 1]
    for window, n in zip(got, frames, strict=True):
        np.testing.assert_array_equal(window[:n], codes[0, :n])
    assert (colour == 0).all()
    x = np.random.default_rng(0).standard_normal((3, 20, 8)).astype(np.float32)
    np.testing.assert_array_equal(spec_augment(jax.random.key(0), x, off), x)


def test_all_depends_on_the_key_and_windows_differ(rng):
    codes = np.repeat(loud(rng, 1), 16, axis=0)
    first, again, other = run(ALL, codes), run(ALL, codes), run(ALL, codes, key=1)
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(first[0], other[0])
    assert len({window.tobytes() for window in first[0]}) == 16
    assert len({colour.tobytes() for colour in first[2]}) == 16


def test_the_share_that_is_not_from_elsewhere_is_as_it_was(rng):
    codes = loud(rng, 100)
    config = dataclasses.replace(FIELD, field=0.3, level_db=20, equaliser_db=9, tilt_db=9, noise=1, room=1, telephone=1)
    got, _, colour = run(config, codes)
    same = (got == codes).all(axis=(1, 2))
    assert 55 <= same.sum() <= 85
    np.testing.assert_array_equal((colour == 0).all(axis=1), same)


def test_what_comes_out_are_codes(rng):
    codes = rng.integers(-128, 128, (16, 80, 64)).astype(np.int8)
    frames = rng.integers(1, 81, 16)
    got, after, colour = run(ALL, codes, frames)
    assert got.dtype == colour.dtype == np.float32
    np.testing.assert_array_equal(got, np.rint(got).clip(-128, 127))
    assert ((after >= 1) & (after <= 80)).all()


@pytest.mark.parametrize('stretch', [0.0, 0.2])
def test_what_comes_after_the_real_frames_is_never_read(rng, stretch):
    """Not as babble either."""
    config = dataclasses.replace(ALL, stretch=stretch, noise=ALWAYS)
    codes = rng.integers(-128, 128, (16, 80, 64)).astype(np.int8)
    frames = rng.integers(1, 80, 16)
    other = codes.copy()
    for window, n in zip(other, frames, strict=True):
        window[n:] = rng.integers(-128, 128, window[n:].shape)
    for a, b in zip(run(config, codes, frames), run(config, other, frames), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(('name', 'axis'), [('stretch', 1), ('warp', 2)])
def test_stretch_and_warp_change_the_rate_of_their_axis(name, axis):
    ramp = np.arange(64)
    codes = np.broadcast_to(ramp[None, :, None] if axis == 1 else ramp[None, None, :], (64, 64, 64)).astype(np.int8)
    got, frames, _ = run(dataclasses.replace(OFF, **{name: 0.2}), codes)
    rates = np.take(got, 30, axis=axis).mean(axis=-1) / 30
    assert rates.min() == pytest.approx(0.8, abs=0.03)
    assert rates.max() == pytest.approx(1.2, abs=0.04)
    if axis == 2:
        assert (frames == 64).all()
    else:
        # Up to the last frame that was there, and to the end of the window.
        np.testing.assert_allclose(frames, np.minimum(64, np.floor(63 / rates) + 1), atol=2)
        assert frames.min() < 55
        assert frames.max() == 64


def test_a_stretched_clip_is_all_of_the_clip():
    codes = np.broadcast_to(np.arange(40)[None, :, None], (64, 40, 64)).astype(np.int8)
    codes = np.pad(codes, ((0, 0), (0, 40), (0, 0)), constant_values=-128)
    got, frames, _ = run(dataclasses.replace(OFF, stretch=0.2), codes, np.full(64, 40))
    assert frames.min() < 35 < 45 < frames.max()
    for window, n in zip(got, frames, strict=True):
        assert window[0, 0] == 0
        assert 38 <= window[n - 1, 0] <= 39
        assert (np.diff(window[:n, 0]) >= 0).all()


def test_a_level_moves_all_codes_by_one_number_and_nothing_else(rng):
    codes = loud(rng)
    got, _, colour = run(dataclasses.replace(FIELD, level_db=15), codes)
    moved = got - codes
    assert (moved == moved[:, :1, :1]).all()
    assert moved.min() >= -35
    assert len(set(moved[:, 0, 0])) > 10
    np.testing.assert_array_equal(moved[:, 0], np.rint(colour))
    # So what a model is given stays as it is, to the bit.
    spoken = np.clip(features.encode(features.log_mel(syllables(1), FRONTEND)), 0, 127)[None].repeat(8, axis=0)
    quiet, frames, _ = run(dataclasses.replace(FIELD, level_db=15), spoken)
    rule = speech.Rule.of(FRONTEND)
    expected, found = speech.normalise(spoken[0], len(spoken[0]), rule)
    assert found.there
    for window, n in zip(quiet, frames, strict=True):
        np.testing.assert_array_equal(speech.normalise(window, n, rule)[0], expected)


def test_what_is_far_down_reaches_the_floor():
    codes = np.full((8, 20, 64), -100, np.int8)
    got, _, _ = run(dataclasses.replace(FIELD, level_db=100), codes)
    assert got.min() == -128


def test_an_equaliser_is_smooth_and_bounded(rng):
    codes = loud(rng, 64)
    got, _, colour = run(dataclasses.replace(FIELD, equaliser_db=6), codes)
    np.testing.assert_allclose(got - codes, np.broadcast_to(colour[:, None], got.shape), atol=0.51)
    assert 4 * DB < np.abs(colour).max() <= 6 * DB
    assert np.abs(colour.mean()) < DB  # it adds as often as it takes
    # From knot to knot, nine bands, a straight line.
    assert (np.abs(np.diff(colour, 2, axis=1)) < 1e-3).mean() > 0.75
    assert np.abs(np.diff(colour, axis=1)).max() <= 12 * DB / 9 + 1e-3


def test_a_tilt_is_a_straight_line_over_octaves(rng):
    codes = loud(rng, 64)
    got, _, colour = run(dataclasses.replace(FIELD, tilt_db=2), codes)
    expected = codes + colour[:, None]
    within = np.abs(expected) < 120
    np.testing.assert_allclose(got[within], expected[within], atol=0.51)
    slopes = colour / np.log2(CENTRES / 1000)
    np.testing.assert_allclose(slopes, np.broadcast_to(slopes.mean(axis=1, keepdims=True), slopes.shape), atol=1e-2)
    assert slopes.min() < -1.5 * DB
    assert 1.5 * DB < slopes.max() <= 2 * DB + 1e-2


def test_a_telephone_leaves_what_is_within_its_band(rng):
    _, _, colour = run(dataclasses.replace(FIELD, telephone=ALWAYS), loud(rng, 64))
    within = (CENTRES > 400) & (CENTRES < 3000)
    assert (colour[:, within] == 0).all()
    assert colour[:, CENTRES < 75].max() < -20 * DB
    assert colour[:, CENTRES > 7500].max() < -20 * DB
    assert colour.min() >= -60 * DB - 1e-3
    _, _, sometimes = run(dataclasses.replace(FIELD, telephone=0.3), loud(rng, 100))
    assert 15 <= (sometimes != 0).any(axis=1).sum() <= 45


def test_a_room_prolongs_what_ends():
    codes = np.full((32, 150, 64), -128, np.int8)
    codes[:, 20] = 60
    got, _, _ = run(dataclasses.replace(FIELD, room=ALWAYS), codes)
    assert (got[:, :20] == -128).all()
    assert (got[:, 20] >= 60).all()
    db = got[:, 21:81, 0] / DB
    slopes = (db[:, 0] - db[:, 15]) / 15
    # 60 dB in 0.2 to 1 s, a frame being 10 ms.
    assert 0.55 < slopes.min() < 0.8
    assert 2 < slopes.max() < 3.1
    assert (np.diff(got[:, 20:], axis=1) <= 0).all()
    # The reverberant sound has the energy that is drawn, 3 dB above the direct one to 12 below.
    tail = (power(got[:, 21:, 0]).sum(axis=1) + power(got[:, 20, 0]) - power(codes[:, 20, 0])) / power(codes[:, 20, 0])
    assert -12.5 < 10 * np.log10(tail.min()) < -9
    assert 0 < 10 * np.log10(tail.max()) < 3.5
    some, _, _ = run(dataclasses.replace(FIELD, room=0.3), np.repeat(codes[:1], 100, axis=0))
    assert 15 <= (some != codes[:1]).any(axis=(1, 2)).sum() <= 45


@pytest.mark.parametrize('snr', [3.0, 10.0])
def test_noise_lies_as_far_below_as_is_drawn(rng, monkeypatch, snr):
    monkeypatch.setattr(augment, '_SNR_DB', (snr, snr))
    codes, frames = loud(rng, 24), np.full(24, 60)
    got, _, colour = run(dataclasses.replace(FIELD, noise=ALWAYS), codes, frames)
    widths = np.gradient(CENTRES)
    signal = (power(codes[:, :60]) @ widths).sum(axis=1)
    added = ((power(got[:, :60]) - power(codes[:, :60])) @ widths).sum(axis=1)
    # Its loudness over the frames drawn is not that of all of it.
    np.testing.assert_allclose(10 * np.log10(signal / added), snr, atol=1.2)
    assert (colour == 0).all()
    quieter, _, _ = run(dataclasses.replace(FIELD, noise=0.3), np.repeat(codes, 4, axis=0))
    assert 15 <= (quieter != np.repeat(codes, 4, axis=0)).any(axis=(1, 2)).sum() <= 45


def test_babble_is_what_other_windows_say(rng, monkeypatch):
    """Window k alone has sound in the bands from 10 k on: where one is heard in another, it is babble."""
    bank = np.zeros_like(augment.noises(FRONTEND, 50))
    monkeypatch.setattr(augment, 'noises', lambda *_: bank)
    codes = np.full((6, 50, 64), -128, np.int8)
    for k in range(6):
        codes[k, :, 10 * k : 10 * k + 10] = rng.integers(40, 60, (50, 10))
    heard = np.zeros((6, 6), int)
    for key in range(12):
        got, _, _ = run(dataclasses.replace(FIELD, noise=ALWAYS), codes, key=key)
        for k in range(6):
            heard[k] += [(got[k, :, 10 * j : 10 * j + 10] > -100).all() for j in range(6)]  # a tone is in one band
    assert (np.diag(heard) == 12).all()
    others = np.array([[(k - j) % 6 in (1, 2) for j in range(6)] for k in range(6)])
    assert (heard[~others & ~np.eye(6, dtype=bool)] == 0).all()
    # A kind of five, three others of which are silent here.
    assert 4 < heard[others].sum() / 2 < 30
    pairs = heard[others].reshape(6, 2)
    np.testing.assert_array_equal(pairs[:, 0], pairs[:, 1])


def test_a_tone_is_in_one_band(rng, monkeypatch):
    monkeypatch.setattr(augment, 'noises', lambda *_: np.zeros((3, 180, 64), np.float32))
    codes = np.full((24, 60, 64), -128, np.int8)
    codes[:, :, 30] = 50
    got, _, _ = run(dataclasses.replace(FIELD, noise=ALWAYS), codes[:1].repeat(24, axis=0))
    bands = [set(np.flatnonzero((one > -128).any(axis=0))) - {30} for one in got]
    assert {len(one) for one in bands} == {0, 1}
    assert len(set.union(*bands)) > 1


def test_noises_are_three_colours_of_one_loudness():
    bank = augment.noises(FRONTEND, 100)
    assert bank.shape == (3, 300, 64)
    np.testing.assert_allclose((bank @ np.gradient(CENTRES)).mean(axis=1), 1, rtol=1e-5)
    white, pink, brown = np.log(bank.mean(axis=1)) / np.log(10) * 10
    slope = lambda db: np.polyfit(np.log2(CENTRES[10:]), db[10:], 1)[0]
    assert slope(white) == pytest.approx(0, abs=0.5)
    assert slope(pink) == pytest.approx(-3, abs=0.5)
    assert slope(brown) == pytest.approx(-6, abs=0.5)


def coloured(rng, config, *, known, window=100):
    """What a model is given of speech, with a history of the same voice, and what it is given of it as it was.

    All frames have one spectrum, so that no colour moves what counts as speech.
    """
    energy = 30 + 25 * np.sin(np.arange(window) / 7)[:, None]
    shape = rng.integers(-8, 9, 64)
    codes = np.rint(energy + shape[None]).astype(np.int8)
    zero = np.zeros(64, np.float32)
    inputs = Input(FRONTEND, WindowConfig(window, 50), zero, zero + 1, zero + 3, VoiceConfig(0.5, half_seconds=0.01))
    off, found = speech.normalise(codes, window, inputs.rule)
    assert found.there
    batch = {
        'codes': codes[None].repeat(8, axis=0),
        'frames': np.full(8, window, np.int32),
        'voice': off.mean(axis=0)[None].repeat(8, axis=0),
        'voice_frames': np.full(8, known, np.int32),
    }
    step = jax.jit(functools.partial(varied, config=config, inputs=inputs))
    return np.asarray(step(jax.random.key(0), batch)), batch, inputs


MICROPHONE = dataclasses.replace(FIELD, equaliser_db=9, tilt_db=1, level_db=9)


def test_a_microphone_that_also_recorded_the_history_is_not_heard(rng):
    state = rng.bit_generator.state
    got, _, _ = coloured(rng, MICROPHONE, known=1_000_000_000)
    rng.bit_generator.state = state
    expected, _, _ = coloured(rng, OFF, known=1_000_000_000)
    # A code is rounded, and so is a level, which is also a mean of rounded codes (measured: 0.568).
    assert np.abs(got - expected).max() <= 0.5 + 1 / 16 + 0.01


def test_a_microphone_is_heard_where_nobody_is_known(rng):
    state = rng.bit_generator.state
    got, _, _ = coloured(rng, MICROPHONE, known=0)
    rng.bit_generator.state = state
    expected, batch, inputs = coloured(rng, OFF, known=0)
    assert np.abs(got - expected).max() > 5
    np.testing.assert_array_equal(expected[0], inputs.hear(batch['codes'][0]).features)


def test_a_history_over_the_telephone_is_no_lower_than_the_clamp(rng):
    got, _, _ = coloured(rng, dataclasses.replace(FIELD, telephone=ALWAYS), known=10_000_000)
    # A frame and its voice, both at most `clamp` below: all of what is left is within it.
    assert got.max() < 50


def test_a_batch_is_what_evaluation_gives_a_model(rng):
    """Without augmentation, training's arithmetic in JAX is that of `Input.hear`, history and all."""
    _, batch, inputs = coloured(rng, OFF, known=37)
    mean, std, voice_mean = rng.standard_normal((3, 64)).astype(np.float32)
    inputs = dataclasses.replace(inputs, mean=mean, std=np.abs(std) + 1, voice_mean=voice_mean)
    inputs = dataclasses.replace(inputs, voice=VoiceConfig(0.5, half_seconds=5.0))
    profile = Profile(np.rint(16 * 37 * batch['voice'][0]).astype(np.int32), 37)
    batch['voice'] = profile.mean[None].repeat(8, axis=0)
    batch['frames'] = np.arange(60, 100, 5, dtype=np.int32)
    got = jax.jit(functools.partial(varied, config=OFF, inputs=inputs))(jax.random.key(0), batch)
    for window, codes, n in zip(got, batch['codes'], batch['frames'], strict=True):
        np.testing.assert_allclose(window, inputs.hear(codes[:n], profile).features, rtol=1e-5, atol=1e-5)


def test_masks_are_whole_bands_and_frames_within_their_widths():
    x = np.ones((64, 30, 16), np.float32)
    mask = lambda key: np.asarray(spec_augment(jax.random.key(key), jnp.asarray(x), AugmentConfig(1, 4, 1, 6)))
    got = mask(0)
    bands, frames = (got == 0).all(axis=1).sum(axis=1), (got == 0).all(axis=2).sum(axis=1)
    assert bands.max() == 4
    assert bands.min() == 0
    assert frames.max() == 6
    assert set(np.unique(got)) == {0.0, 1.0}
    for window, b, f in zip(got, bands, frames, strict=True):
        assert (window == 0).sum() == 30 * b + 16 * f - b * f
    # Windows of a batch, and steps, differ.
    assert len({window.tobytes() for window in got}) >= 55
    assert not np.array_equal(got, mask(1))
    np.testing.assert_array_equal(got, mask(0))


def test_mixup_mixes_windows_and_targets_alike(rng):
    x, targets = jnp.asarray(rng.standard_normal((512, 3, 2))), jnp.eye(512)
    mixed, shares = augment.mixup(jax.random.key(3), (x, targets), 0.4)
    own = np.diagonal(shares)
    assert own.min() >= 0.5
    np.testing.assert_allclose(np.sum(shares, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(mixed, np.einsum('ij,jkl->ikl', shares, x), atol=1e-5)
    np.testing.assert_allclose(np.diagonal(np.roll(shares, 1, axis=1)), 1 - own, atol=1e-6)
    # Beta(0.4, 0.4) has variance 1 / (4 (2 * 0.4 + 1)).
    assert np.mean((2 * own - 1) ** 2) == pytest.approx(1 / 1.8, rel=0.15)
