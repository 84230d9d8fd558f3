"""The changes of the field test: each does what its description says, and says so where it does not apply."""

import numpy as np
import pytest

from jax_reparam.field import changes as field

RATE = 16000
CHANGES = {change.name: change for change in field.CHANGES}
SILENCES = {silence.name: silence for silence in field.SILENCES}
NOISES = {'white-35': 35, 'white-20': 20, 'white-10': 10, 'pink-20': 20}
NOISES |= {'babble-20': 20, 'environment-20': 20, 'music-20': 20}
SKIPPED_WHEN_LOUD = {'level-30', 'level-40', 'level-50', 'gain+2'}


def voice(seed=0, rms=600.0, seconds=2.4):
    """Bursts of 0.4 s of a harmonic tone of exactly this RMS, and gaps of 0.2 s in which dither is all there is."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * RATE)) / RATE
    pitch = 50 * rng.integers(2, 6)
    tone = sum(np.sin(2 * np.pi * pitch * k * time + rng.uniform(0, 6)) / k for k in range(1, 30))
    speaking = time % 0.6 < 0.4
    tone *= rms / np.sqrt(np.mean(tone[speaking] ** 2))
    return np.rint(np.where(speaking, tone, rng.integers(-1, 2, len(time)))).astype(np.int16)


OTHERS = [voice(seed) for seed in range(1, 7)]


def changed(name, samples, seed=0, others=OTHERS):
    return CHANGES[name].apply(samples, np.random.default_rng(seed), others)


def decibels(ratio):
    return 20 * np.log10(ratio)


def rms(samples):
    return np.sqrt(np.mean(np.asarray(samples, np.float64) ** 2))


def power(samples, low, high):
    """Power from `low` to `high` Hz, in dB."""
    spectrum = np.abs(np.fft.rfft(samples.astype(np.float64))) ** 2
    hertz = np.fft.rfftfreq(len(samples), 1 / RATE)
    return 10 * np.log10(spectrum[(hertz >= low) & (hertz < high)].sum())


def white(rms=1000.0, seconds=4):
    return np.rint(np.random.default_rng(9).normal(0, rms, seconds * RATE)).astype(np.int16)


def test_names_are_unique_and_thresholds_are_those_published():
    assert len(CHANGES) == len(field.CHANGES)
    assert len(SILENCES) == len(field.SILENCES)
    limits = {name: (change.keep, change.uar_loss) for name, change in CHANGES.items()}
    small = {name for name, change in CHANGES.items() if change.group == 'small'} - {'clip-1'}
    assert len(small) == 11
    assert {limits[name] for name in small} == {(0.95, None)}
    assert {limits[f'{kind}-20'] for kind in ('white', 'babble', 'environment', 'music')} == {(0.90, 0.05)}
    assert limits['telephone'] == (0.50, 0.05)
    assert limits['tilt-down'] == limits['tilt-up'] == (0.80, 0.02)
    assert limits['room-0.3'] == limits['room-0.8'] == (0.80, None)
    assert limits['white-10'] == limits['pink-20'] == limits['clip-1'] == limits['level-20'] == (None, None)


@pytest.mark.parametrize('name', CHANGES)
def test_a_change_gives_int16_the_same_for_the_same_seed_and_leaves_the_recording_alone(name):
    samples = voice()
    before = samples.copy()
    result = changed(name, samples)
    assert result.dtype == np.int16
    assert result.ndim == 1
    # What reading takes off again.
    assert np.array_equal(result, samples) == (name == 'surround')
    np.testing.assert_array_equal(changed(name, samples), result)
    np.testing.assert_array_equal(samples, before)
    if CHANGES[name].group in ('noise', 'room') or name in ('tone', 'dither-around', 'white-35'):
        assert not np.array_equal(changed(name, samples, seed=1), result)
    if CHANGES[name].group != 'silence' and not name.startswith(('crop', 'zeros')):
        assert len(result) == len(samples)


@pytest.mark.parametrize('name', CHANGES)
def test_a_recording_at_full_scale_saturates_or_is_skipped(name):
    samples = np.rint(voice() * (32767 / np.abs(voice()).max())).astype(np.int16)
    result = changed(name, samples)
    assert (result is None) == (name in SKIPPED_WHEN_LOUD)
    if result is not None and name not in ('step', 'telephone', 'surround', 'highpass', 'lowpass'):
        shift = {'crop-begin': -1600, 'zeros-before': 1600, 'zeros-around': 32000, 'dither-around': 32000}.get(name, 0)
        inside = slice(1600 + max(shift, 0), 1600 + max(shift, 0) + 30000)
        original = samples[1600 - min(shift, 0) :][:30000]
        # A sample that wrapped around would turn the correlation down.
        assert np.corrcoef(result[inside], original)[0, 1] > (0.3 if CHANGES[name].group == 'room' else 0.7)


def test_the_active_part_is_measured():
    assert field.active_rms(voice(rms=1500)) == pytest.approx(1500, rel=0.01)
    padded = np.concatenate([np.zeros(48000, np.int16), voice(rms=1500)])
    assert field.active_rms(padded) == pytest.approx(1500, rel=0.01)
    assert field.active_rms(voice(rms=1500) + np.int16(3000)) == pytest.approx(1500, rel=0.02)
    assert field.active_rms(np.full(4000, 7, np.int16)) == 0
    assert field.active_rms(voice()[:100]) > 0
    # 19 dB below the loud part counts, 21 dB below does not.
    loud = 8000 * np.sin(2 * np.pi * 500 / RATE * np.arange(RATE))
    for quieter, expected in ((19, np.sqrt((1 + 10**-1.9) / 2)), (21, 1)):
        both = np.concatenate([loud, loud * 10 ** (-quieter / 20)])
        assert field.active_rms(both) == pytest.approx(8000 / np.sqrt(2) * expected, rel=1e-3)


@pytest.mark.parametrize('dbfs', [-20, -30, -40, -50])
def test_speech_is_set_to_the_level(dbfs):
    result = changed(f'level{dbfs}', voice())
    speaking = np.arange(len(result)) / RATE % 0.6 < 0.4
    assert decibels(rms(result[speaking]) / 32768) == pytest.approx(dbfs, abs=0.05)


def test_levels_that_would_clip_or_drown_are_skipped():
    # -26.8 dBFS, and a crest that leaves room up to about -14 dBFS.
    spiky = voice(rms=1500)
    spiky[100] = 20000
    assert changed('level-20', spiky) is None
    assert changed('level-30', spiky) is not None
    at = lambda dbfs: voice(rms=32768 * 10 ** (dbfs / 20))
    assert changed('level-50', at(-29.5)) is None
    assert changed('level-50', at(-30.5)) is not None
    assert changed('level-20', np.zeros(RATE, np.int16)) is None


def test_gains():
    samples = voice()
    np.testing.assert_array_equal(changed('gain+2', samples), np.rint(samples * 10**0.1))
    np.testing.assert_array_equal(changed('gain-2', samples), np.rint(samples * 10**-0.1))
    edge = np.array([26028, -26028] * 2000, np.int16)
    assert changed('gain+2', edge).max() == 32767
    assert changed('gain+2', edge + np.int16(1)) is None
    assert changed('gain+2', edge - np.int16(2)) is None
    half = len(samples) // 2
    step = changed('step', samples)
    np.testing.assert_array_equal(step[:half], samples[:half])
    np.testing.assert_array_equal(step[half:], np.rint(samples[half:] * 10**-0.5))


def test_dc_saturates():
    np.testing.assert_array_equal(changed('dc', np.array([-32768, 0, 32000], np.int16)), [-31130, 1638, 32767])


def test_mono_in_surround_is_the_voice_itself():
    np.testing.assert_array_equal(changed('surround', voice()), voice())


def test_ends():
    samples, zeros = voice(), np.zeros(1600)
    np.testing.assert_array_equal(changed('crop-begin', samples), samples[1600:])
    np.testing.assert_array_equal(changed('crop-end', samples), samples[:-1600])
    np.testing.assert_array_equal(changed('zeros-before', samples), np.append(zeros, samples))
    np.testing.assert_array_equal(changed('zeros-after', samples), np.append(samples, zeros))
    for name, steps in (('zeros-around', {0}), ('dither-around', {-1, 0, 1})):
        around = changed(name, samples)
        np.testing.assert_array_equal(around[32000:-32000], samples)
        assert set(np.unique(around[:32000])) == set(np.unique(around[-32000:])) == steps
    for name in ('crop-begin', 'crop-end'):
        assert changed(name, samples[:3199]) is None
        assert changed(name, samples[:1000]) is None
        assert len(changed(name, samples[:3200])) == 1600


@pytest.mark.parametrize(('name', 'share'), [('clip-0.3', 0.003), ('clip-1', 0.01)])
def test_a_share_of_samples_clips(name, share):
    samples = white()
    result = changed(name, samples)
    assert np.mean((result == 32767) | (result == -32768)) == pytest.approx(share, rel=0.1)
    inside = np.abs(result.astype(int)) < 32000
    gains = result[inside & (samples > 500)] / samples[inside & (samples > 500)]
    assert np.ptp(gains) < 0.01
    assert gains.min() > 1
    full = np.array([32767, -32768] * 2000, np.int16)
    np.testing.assert_array_equal(changed(name, full), full)


def test_tone_is_40_db_below_the_peak():
    samples = np.zeros(RATE, np.int16)
    samples[8000] = -20000
    for seed in range(5):
        tone = changed('tone', samples, seed) - samples
        assert np.abs(tone).max() == pytest.approx(200, abs=2)
        assert 5000 <= np.abs(np.fft.rfft(tone)).argmax() <= 7000


def test_filters():
    samples = white()
    at = lambda name, low, high: power(changed(name, samples), low, high) - power(samples, low, high)
    assert at('highpass', 48, 52) == pytest.approx(-3, abs=0.3)
    assert at('highpass', 11, 14) == pytest.approx(-12.3, abs=1.5)
    assert at('highpass', 500, 8000) == pytest.approx(0, abs=0.1)
    assert at('lowpass', 7490, 7510) == pytest.approx(-3, abs=0.3)
    assert at('lowpass', 0, 3000) == pytest.approx(0, abs=0.1)
    for name in ('highpass', 'lowpass', 'telephone', 'tilt-down'):
        # Nothing returns at the beginning of what happens at the end.
        late = np.zeros(RATE, np.int16)
        late[-20:] = 20000
        assert np.abs(changed(name, late)[:8000]).max() <= 2


def test_telephone_is_a_narrow_band_in_companded_steps():
    samples = white()
    at = lambda low, high: power(changed('telephone', samples), low, high) - power(samples, low, high)
    assert at(500, 3000) == pytest.approx(0, abs=0.2)
    assert at(295, 305) == pytest.approx(-3, abs=0.7)
    assert at(50, 150) < -15
    assert at(4000, 8000) < -30
    # mu-law of 8 bits has a signal-to-noise ratio of some 38 dB whatever the level.
    tone = np.sin(2 * np.pi * 1000 / RATE * np.arange(RATE))
    for amplitude in (300, 3000, 30000):
        result = changed('telephone', np.rint(amplitude * tone).astype(np.int16))
        snr = power(result, 999, 1002) - 10 * np.log10(10 ** (power(result, 0, 999) / 10) + 1)
        assert 33 < snr < 60


@pytest.mark.parametrize(('name', 'slope'), [('tilt-down', -3), ('tilt-up', 3)])
def test_tilt(name, slope):
    samples = white()
    result = changed(name, samples)
    bands = [power(result, low, 1.2 * low) - power(samples, low, 1.2 * low) for low in (100, 200, 800, 3200, 6400)]
    np.testing.assert_allclose(np.diff(bands), slope * np.array([1, 2, 2, 1]), atol=0.3)
    assert field.active_rms(result) == pytest.approx(field.active_rms(samples), rel=0.01)
    full = np.rint(voice() * (32767 / np.abs(voice()).max())).astype(np.int16)
    assert np.sum(np.abs(changed(name, full).astype(int)) >= 32767) < 10


@pytest.mark.parametrize(('name', 'rt60', 'direct'), [('room-0.3', 0.3, 5), ('room-0.8', 0.8, 0)])
def test_room(name, rt60, direct):
    click = np.zeros(2 * RATE, np.int16)
    click[400] = 32000
    result = changed(name, click).astype(np.float64)
    assert not result[:400].any()
    direct_energy, echo = result[400] ** 2, result[401:] ** 2
    assert 10 * np.log10(direct_energy / echo.sum()) == pytest.approx(direct, abs=0.2)
    length = round(rt60 * RATE / 3)
    thirds = [10 * np.log10(part.sum()) for part in (echo[:length], echo[length : 2 * length])]
    assert thirds[0] - thirds[1] == pytest.approx(20, abs=1)
    samples = voice()
    assert field.active_rms(changed(name, samples)) == pytest.approx(field.active_rms(samples), rel=0.02)


@pytest.mark.parametrize(('name', 'snr'), NOISES.items())
def test_noise_is_added_at_its_ratio_to_the_active_part(name, snr):
    for level in (500, 2000):
        samples = voice(rms=level)
        noise = changed(name, samples).astype(np.float64) - samples
        assert decibels(level / rms(noise)) == pytest.approx(snr, abs=0.1)
    assert changed(name, np.zeros(RATE, np.int16)) is None


def test_noises_have_their_colours():
    samples = voice(rms=4000, seconds=8)
    for name, slope in (('white-10', 0), ('pink-20', -3.01), ('environment-20', -6.02)):
        noise = changed(name, samples).astype(np.float64) - samples
        low, high = (power(noise, *band) - decibels(np.sqrt(band[1] - band[0])) for band in ((100, 200), (400, 800)))
        assert (high - low) / 2 == pytest.approx(slope, abs=0.4)
    # Differences of this noise are white, so that a block's RMS is the envelope.
    fan = np.diff(changed('environment-20', samples).astype(np.float64) - samples)
    envelope = np.sqrt(np.mean(fan[: 79 * 1600].reshape(-1, 1600) ** 2, axis=1))
    assert envelope.std() / envelope.mean() == pytest.approx(0.3 / np.sqrt(2), abs=0.04)
    music = changed('music-20', samples).astype(np.float64) - samples
    for chord in music[: 4 * 8000].reshape(4, 8000):
        spectrum = np.abs(np.fft.rfft(chord))
        # Harmonic tones: a few bins hold nearly all, and not below 220 Hz.
        assert np.sort(spectrum**2)[-100:].sum() > 0.9 * np.sum(spectrum**2)
        assert np.sum(spectrum[:95] ** 2) < 0.05 * np.sum(spectrum**2)


def test_babble_is_four_others_equally_loud():
    tones = [
        np.rint(a * np.sin(2 * np.pi * f / RATE * np.arange(RATE)))
        for f, a in zip((600, 900, 1300, 1700), (100, 1000, 5000, 20000), strict=True)
    ]
    others = [np.zeros(RATE, np.int16), *(tone.astype(np.int16) for tone in tones)]
    samples = voice(rms=4000)
    noise = changed('babble-20', samples, others=others).astype(np.float64) - samples
    heard = [power(noise, f - 20, f + 20) for f in (600, 900, 1300, 1700)]
    assert np.ptp(heard) < 0.5
    assert changed('babble-20', samples, others=others[:4]) is None
    assert changed('babble-20', samples, others=[]) is None


@pytest.mark.parametrize('name', SILENCES)
def test_silences(name):
    silence = SILENCES[name]
    samples = silence.make(np.random.default_rng(0))
    assert samples.dtype == np.int16
    assert samples.shape == (60 * RATE,)
    if name in ('zeros', 'dither'):
        assert set(np.unique(samples)) == ({0} if name == 'zeros' else {-1, 0, 1})
    elif name != 'onset':
        dbfs = -40 if name.startswith('hum') else int(name.lstrip('whitepnk'))
        assert decibels(rms(samples) / 32768) == pytest.approx(dbfs, abs=0.15)
    assert (silence.onset is None) == (name != 'onset')


def test_hum_hiss_and_onset():
    make = lambda name: SILENCES[name].make(np.random.default_rng(0)).astype(np.float64)
    hum, hiss, onset = make('hum')[:RATE], make('hum-hiss')[:RATE], make('onset')
    spectrum = np.abs(np.fft.rfft(hum))
    assert set(np.flatnonzero(spectrum > 0.05 * spectrum.max())) == set(range(50, 501, 50))
    assert decibels(rms(hiss - hum) / 32768) == pytest.approx(-55, abs=0.3)
    at = SILENCES['onset'].onset
    assert not onset[:at].any()
    assert decibels(rms(onset[at : at + 1000]) / 32768) == pytest.approx(-30, abs=0.5)
