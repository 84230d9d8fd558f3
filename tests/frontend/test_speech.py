"""What is speech, and a window without its level: one definition for NumPy and JAX, exact, whatever surrounds it."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers import syllables
from jax_reparam.frontend import features, speech
from jax_reparam.frontend.features import FrontendConfig
from jax_reparam.frontend.speech import Rule
from jax_reparam.frontend.windows import WindowConfig

CONFIG = FrontendConfig()
RULE = Rule.of(CONFIG)
FRONTENDS = {
    'default': CONFIG,
    '12 mels': FrontendConfig(n_mels=12),
    'hop of 20 ms': FrontendConfig(hop_ms=20, n_mels=40),
    '1 mel': FrontendConfig(n_mels=1),
}


def codes_of(samples, config=CONFIG):
    return features.encode(features.log_mel(samples.astype(np.int16), config))


def padded(codes, frames, value=0):
    return np.pad(codes, ((0, frames - len(codes)), (0, 0)), constant_values=value)


def silence(seconds):
    return np.zeros(round(16000 * seconds), np.int16)


@functools.cache
def spoken(seconds=2.0, seed=0):
    """Codes of speech at about -20 dBFS."""
    return codes_of(syllables(seconds, seed))


@functools.cache
def in_jax(rule):
    normalise = functools.partial(speech.normalise, rule=rule, xp=jnp)
    return jax.jit(normalise), jax.jit(jax.vmap(normalise))


def sample(config, seed):
    """Windows of many kinds, and how much of each is real: speech, noise, silence, one frame, all codes equal."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal(32000)
    sounds = [
        syllables(2, seed),
        syllables(0.4, seed + 1, loud=0.01),
        np.concatenate([silence(0.5), syllables(0.7, seed), silence(0.3)]),
        syllables(2, seed) + 900 * noise,
        3000 * noise,
        silence(1.3),
    ]
    windows = [codes_of(sound, config) for sound in sounds]
    wild = rng.integers(-128, 128, (150, config.n_mels)).astype(np.int8)
    swings = (wild // 8 + rng.integers(-100, 100, (150, 1))).clip(-128, 127).astype(np.int8)
    same = np.full((150, config.n_mels), 17, np.int8)
    windows += [wild, swings, same, swings[:1], swings[:2], np.full((150, config.n_mels), -128, np.int8)]
    return np.stack([padded(one, 200, rng.integers(-128, 128)) for one in windows]), np.array([*map(len, windows)])


@pytest.mark.parametrize('name', FRONTENDS)
def test_numpy_and_jax_agree_to_the_bit(name):
    config = FRONTENDS[name]
    rule = Rule.of(config)
    one, many = in_jax(rule)
    windows, frames = sample(config, 3)
    at_once = many(windows, frames)
    told = []
    for i, (window, n) in enumerate(zip(windows, frames, strict=True)):
        expected, found = speech.normalise(window, n, rule)
        assert expected.dtype == np.float32
        told.append(bool(found.there))
        alone = one(window, n)
        for got, got_found in (alone, jax.tree.map(lambda leaf, i=i: leaf[i], at_once)):
            np.testing.assert_array_equal(got, expected)
            assert got.dtype == jnp.float32
            for key, value in found._asdict().items():
                np.testing.assert_array_equal(getattr(got_found, key), value, err_msg=key)
    assert len(set(told)) == 2


def test_frames_that_are_a_constant_give_the_same():
    windows, frames = sample(CONFIG, 4)
    for window, n in [*zip(windows, frames.tolist(), strict=True)][::5]:
        got, _ = jax.jit(lambda window, n=n: speech.normalise(window, n, RULE, jnp))(window)
        np.testing.assert_array_equal(got, speech.normalise(window, n, RULE)[0])


@pytest.mark.parametrize('name', FRONTENDS)
def test_a_gain_of_whole_steps_changes_nothing(name):
    """Speech that is far enough from both ends of int8, with a level that moves by the same number."""
    config = FRONTENDS[name]
    rule = Rule.of(config)
    codes = np.clip(codes_of(syllables(2), config).astype(int), -60, 60)
    expected, found = speech.normalise(codes, len(codes), rule)
    assert found.there
    for gain in (-60, -7, 1, 40):
        got, moved = speech.normalise(codes + gain, len(codes), rule)
        np.testing.assert_array_equal(got, expected)
        assert moved.level == found.level + gain
        np.testing.assert_array_equal(moved.mask, found.mask)


@pytest.mark.parametrize('fill', [-128, 0, 127])
def test_what_comes_after_the_real_frames_never_matters(fill):
    windows, frames = sample(CONFIG, 5)
    for window, n in zip(windows, frames, strict=True):
        expected, found = speech.normalise(window, n, RULE)
        other = padded(window[:n], len(window), fill)
        got, got_found = speech.normalise(other, n, RULE)
        np.testing.assert_array_equal(got, expected)
        np.testing.assert_array_equal(got_found.mask, found.mask)
        assert not got_found.mask[n:].any()
        cut, _ = speech.normalise(window[:n], n, RULE)
        np.testing.assert_array_equal(got[:n], cut)


@pytest.mark.parametrize(('before', 'behind'), [(0.0, 2.0), (2.0, 0.0), (0.16, 0.48), (0.8, 0.8), (0.0, 0.1)])
def test_silence_around_speech_changes_nothing(before, behind):
    """In whole hops, so that frames are the same; their first and last may hold some of both."""
    sound = np.concatenate([silence(0.2), syllables(2), silence(0.2)])
    frames = 700
    expected, found = speech.normalise(padded(codes_of(sound), frames), len(codes_of(sound)), RULE)
    around = codes_of(np.concatenate([silence(before), sound, silence(behind)]))
    got, got_found = speech.normalise(padded(around, frames), len(around), RULE)
    assert found.there
    assert got_found.level == found.level
    assert got_found.frames == found.frames
    assert got_found.first == found.first + round(100 * before)
    np.testing.assert_array_equal(got, expected)


def pink(rng, samples):
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    wave = np.fft.irfft(spectrum / np.sqrt(np.maximum(np.arange(len(spectrum)), 1)), samples)
    return wave / wave.std()


def hum(frequency, samples, harmonics=3):
    time = np.arange(samples) / 16000
    return sum(np.sin(2 * np.pi * frequency * k * time) / k for k in range(1, harmonics + 1))


NO_SPEECH = {
    'zeros': lambda rng, n: np.zeros(n),
    'dither': lambda rng, n: rng.integers(-1, 2, n),
    'white, -70 dBFS': lambda rng, n: 10**-3.5 * 32768 * rng.standard_normal(n),
    'white, -20 dBFS': lambda rng, n: 3277 * rng.standard_normal(n),
    'pink, -70 dBFS': lambda rng, n: 10**-3.5 * 32768 * pink(rng, n),
    'pink, -20 dBFS': lambda rng, n: 3277 * pink(rng, n),
    **{
        f'hum of {frequency} Hz, {name}': functools.partial(
            lambda rng, n, frequency, level: level * hum(frequency, n), frequency=frequency, level=level
        )
        for frequency in (50, 55, 60)
        for name, level in (('quiet', 30), ('loud', 6000))
    },
    'hum with hiss': lambda rng, n: 2000 * hum(50, n) + 100 * rng.standard_normal(n),
    'a tone': lambda rng, n: 3000 * np.sin(2 * np.pi * 440 * np.arange(n) / 16000),
}


@pytest.mark.parametrize('name', NO_SPEECH)
@pytest.mark.parametrize('seed', [0, 1, 2])
def test_what_is_no_speech(name, seed):
    samples = NO_SPEECH[name](np.random.default_rng(seed), 64400)
    codes = codes_of(np.rint(samples))
    normalised, found = speech.normalise(codes, len(codes), RULE)
    assert not found.there
    # Then all of the window is what the level is taken of, and nothing of it is cut.
    assert found.mask.all()
    assert (found.first, found.frames) == (0, len(codes))
    assert np.isfinite(normalised).all()


@pytest.mark.parametrize('percent', [10, 25, 50, 75, 90, 98])
@pytest.mark.parametrize('level', [30, 3000])
def test_noise_that_begins_is_no_speech(rng, percent, level):
    samples = np.rint(level * rng.standard_normal(64400))
    samples[: len(samples) * percent // 100] = 0
    codes = codes_of(samples)
    assert not speech.detect(codes, len(codes), RULE).there


@pytest.mark.parametrize(('seconds', 'there'), [(0.1, False), (0.2, False), (0.5, True), (1.0, True)])
def test_a_burst_has_to_last(seconds, there):
    # Of the loudest part of a syllable's swell on.
    burst = syllables(2)[4000 : 4000 + round(16000 * seconds)]
    codes = codes_of(np.concatenate([silence(1.5), burst, silence(2.5 - seconds)]))
    found = speech.detect(codes, len(codes), RULE)
    assert found.there == there
    if there:
        assert abs(found.first - 150) <= 2


def ramp(energies, config=CONFIG):
    """A window whose frames have these codes in all bands."""
    return np.repeat(np.asarray(energies, np.int8)[:, None], config.n_mels, axis=1)


def test_speech_has_to_last_as_long_as_the_rule_says():
    # Quiet at 0, speech at 40 and 60 (a step is 0.43 dB); 26 frames of it.
    for frames, there in ((RULE.shortest - 1, False), (RULE.shortest, True)):
        energies = np.zeros(200, int)
        energies[80 : 80 + frames] = np.where(np.arange(frames) % 2, 40, 60)
        found = speech.detect(ramp(energies), 200, RULE)
        assert found.there == there
        assert found.mask.sum() == (frames if there else 200)


@pytest.mark.parametrize(('low', 'there'), [(60, False), (54, False), (52, True)])
def test_speech_has_to_vary(low, there):
    """By 3 dB, 7 steps."""
    energies = np.zeros(200, int)
    energies[50:150] = np.where(np.arange(100) % 2, low, 60)
    assert speech.detect(ramp(energies), 200, RULE).there == there


@pytest.mark.parametrize(('quiet', 'there'), [(60, False), (49, False), (48, True)])
def test_the_background_has_to_lie_below(quiet, there):
    """By 5 dB, 11.5 steps."""
    energies = np.full(200, quiet)
    energies[50:150] = 60
    found = speech.detect(ramp(energies), 200, dataclasses.replace(RULE, spread=0))
    assert found.there == there
    assert found.mask.sum() == (100 if there else 200)


@pytest.mark.parametrize(('loud', 'there'), [(40, False), (60, True)])
def test_speech_is_more_than_a_twentieth_of_a_window(loud, there):
    """Of a long one that is more than the shortest speech; less does not move the 95th percentile."""
    energies = np.zeros(1000, int)
    energies[:loud] = np.where(np.arange(loud) % 2, 40, 60)
    assert loud > RULE.shortest
    assert speech.detect(ramp(energies), 1000, RULE).there == there


def test_speech_lies_within_17_db_of_the_loud_part():
    energies = np.full(300, -100)
    energies[100:200] = 60
    energies[90:100] = 60 - 39  # 16.9 dB
    energies[200:210] = 60 - 40  # 17.4 dB
    energies[150:160] = 30
    found = speech.detect(ramp(energies), 300, RULE)
    assert found.there
    assert (found.first, found.first + found.frames) == (90, 200)
    assert found.mask.sum() == 110


def test_the_loud_part_is_that_of_the_active_span():
    """2 s of speech whose loud part is short, and much silence: the 95th percentile of all would be another."""
    energies = np.full(1000, -100)
    energies[400:500] = np.where(np.arange(100) % 2, 0, 20)
    energies[440:450] = 58  # a tenth of the speech, a hundredth of the window
    found = speech.detect(ramp(energies), 1000, RULE)
    alone = speech.detect(ramp(energies[395:505]), 110, RULE)
    assert found.there
    assert alone.there
    # What is 58 steps (25 dB) below the loud tenth is no speech.
    assert found.mask.sum() == alone.mask.sum() == 55
    assert found.level == alone.level


def test_the_active_span_s_first_and_last_frame_count():
    """Six of its hundred frames are loud; of five less the 95th percentile would be another."""
    energies = np.full(200, -100)
    energies[50:150] = np.where(np.arange(100) % 2, 20, 0)
    energies[[50, 60, 70, 80, 90, 149]] = 58
    assert speech.detect(ramp(energies), 200, RULE).mask.sum() == 55


@pytest.mark.parametrize(('level', 'quiet'), [(-49, True), (-48, False)])
def test_speech_below_the_quietest_level_is_too_quiet(level, quiet):
    energies = np.full(200, -110)
    energies[50:150] = level + np.where(np.arange(100) % 2, 8, -8)
    found = speech.detect(ramp(energies), 200, RULE)
    assert found.level == level
    assert speech.too_quiet(found, RULE) == quiet


@pytest.mark.parametrize(('frame', 'count', 'clips'), [(60, 8, False), (60, 9, True), (10, 400, False)])
def test_the_samples_of_speech_alone_clip(frame, count, clips):
    """One in 2,000 of the 400 in each of 40 frames may be at full scale."""
    energies = np.zeros(200, int)
    energies[50:90] = np.where(np.arange(40) % 2, 40, 60)
    found = speech.detect(ramp(energies), 200, RULE)
    assert found.mask.sum() == 40
    assert speech.clipping(found, count * (np.arange(200) == frame), CONFIG) == clips


@pytest.mark.parametrize('seed', range(5))
def test_percentiles_are_those_of_sorted_energies(seed):
    """The speech that `detect` finds is the one that its definition, written out with `np.sort`, says."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(60, 200))
    codes = ramp(np.clip(np.cumsum(rng.integers(-9, 10, n)), -120, 120))
    codes = np.clip(codes + rng.integers(-4, 5, codes.shape), -128, 127).astype(np.int8)
    energy = np.sort(sums := codes[:, slice(*RULE.bands)].sum(axis=1, dtype=int))
    at = lambda values, percent: np.sort(values)[(len(values) - 1) * percent // 100]
    quiet, loud = at(energy, 5), at(energy, 95)
    first = np.flatnonzero(sums >= max(quiet + RULE.rise, loud - RULE.below))
    span = sums[first[0] : first[-1] + 1]
    mask = sums >= max(quiet + RULE.rise, at(span, 95) - RULE.below)
    varies = at(sums[mask], 95) - at(sums[mask], 5)
    there = loud - quiet >= RULE.rise and varies >= RULE.spread and mask.sum() >= RULE.shortest
    found = speech.detect(codes, n, RULE)
    assert found.there == there
    np.testing.assert_array_equal(found.mask, mask if there else np.ones(n, bool))


def test_the_level_is_the_mean_of_speech_in_sixteenths():
    codes = spoken()
    found = speech.detect(codes, len(codes), RULE)
    mean = codes[found.mask][:, slice(*RULE.level_bands)].mean(dtype=np.float64)
    assert abs(found.level - mean) <= 1 / 32 + 1e-5
    assert 16 * found.level == round(16 * float(found.level))


def test_a_window_is_its_active_span_repeated():
    codes = padded(codes_of(np.concatenate([silence(0.3), syllables(1), silence(0.3)])), 400)
    got, found = speech.normalise(codes, 160, RULE)
    assert found.there
    assert 60 < found.frames < 120
    assert found.mask[found.first]
    assert found.mask[found.first + found.frames - 1]
    assert not found.mask[: found.first].any()
    assert not found.mask[found.first + found.frames :].any()
    span = codes[found.first : found.first + found.frames] - found.level
    expected = np.maximum(span, -80)[np.arange(400) % found.frames]
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize(('nats', 'steps'), [(8.0, 80), (6.0, 60)])
def test_nothing_is_further_below_the_level_than_the_clamp(nats, steps):
    codes = spoken().copy()
    codes[100:110] = -128
    rule = speech.Rule.of(dataclasses.replace(CONFIG, clamp_nats=nats))
    got, found = speech.normalise(codes, len(codes), rule)
    assert found.level > -40
    assert got.min() == -rule.clamp == -steps
    np.testing.assert_array_equal(speech.level_off(np.int8([-128, 0]), np.float32(3.5), rule), [-steps, -3.5])
    assert speech.quietest(rule) == steps - 128


@pytest.mark.parametrize('value', [-128, 0, 127])
@pytest.mark.parametrize('frames', [1, 2, 50])
def test_a_window_without_any_change_is_all_zero(value, frames):
    codes = np.full((frames, 64), value, np.int8)
    got, found = speech.normalise(codes, frames, RULE)
    assert not found.there
    assert found.level == value
    np.testing.assert_array_equal(got, np.zeros((frames, 64)))


def test_a_window_may_be_shorter_than_the_rule_asks():
    codes = spoken()[: RULE.shortest - 1]
    assert not speech.detect(codes, len(codes), RULE).there


def test_active_finds_a_word_in_a_minute_of_silence():
    word = syllables(0.6)
    codes = codes_of(np.concatenate([silence(40), word, silence(20)]))
    active = speech.active(codes, RULE)
    assert 40 <= len(active) <= 62
    expected = speech.active(codes_of(np.concatenate([silence(1), word, silence(1)])), RULE)
    np.testing.assert_array_equal(active, expected)


def test_active_holds_all_from_the_first_word_to_the_last():
    word = syllables(0.6)
    codes = codes_of(np.concatenate([silence(3), word, silence(9), word, silence(3)]))
    assert 9.9 * 100 < len(speech.active(codes, RULE)) <= 10.22 * 100


@pytest.mark.parametrize('name', ['zeros', 'white, -20 dBFS'])
def test_a_clip_without_speech_stays_whole(rng, name):
    codes = codes_of(np.rint(NO_SPEECH[name](rng, 200000)))
    assert speech.active_span(codes, RULE) == slice(0, len(codes))


def test_windows_of_a_recording_are_those_of_a_stream():
    codes = codes_of(np.concatenate([syllables(2), silence(3), syllables(0.5)]))
    window = WindowConfig(200, 100)
    found = list(speech.windows_of(codes, window, RULE))
    assert [start for start, _ in found] == [0, 100, 200, 300, len(codes) - 200]
    assert [bool(one.there) for _, one in found] == [True, True, False, False, True]
    for start, one in found:
        np.testing.assert_array_equal(one.mask, speech.detect(codes[start : start + 200], 200, RULE).mask)
    [(start, one)] = speech.windows_of(codes[:50], window, RULE)
    assert (start, len(one.mask)) == (0, 50)


def test_the_rule_follows_the_frontend():
    assert RULE.scan == WindowConfig(400, 200)
    assert RULE.shortest == 25
    assert Rule.of(FRONTENDS['hop of 20 ms']).shortest == 12
    centres = features.filters(CONFIG).centres
    for (low, high), (first, after) in ((speech.BAND, RULE.bands), (speech.LEVEL_BAND, RULE.level_bands)):
        inside = [i for i, centre in enumerate(centres) if low <= centre <= high]
        assert [first, after - 1] == [inside[0], inside[-1]]
    # 10 dB are ln(10) nats, 23 steps, in each of the bands.
    bands = RULE.bands[1] - RULE.bands[0]
    assert RULE.rise == round(bands * 23.02585 * speech.RISE_DB / 10)
    assert Rule.of(FRONTENDS['1 mel']).bands == (0, 1)
