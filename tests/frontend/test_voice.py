"""What is known of a voice: each frame of speech is learned once, and what is learned makes voices alike."""

from __future__ import annotations

import dataclasses
import json
import struct
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers import syllables
from jax_reparam.errors import InputError
from jax_reparam.frontend import features, speech, voice
from jax_reparam.frontend.features import FrontendConfig
from jax_reparam.frontend.inputs import Input
from jax_reparam.frontend.speech import Rule
from jax_reparam.frontend.voice import Profile, VoiceConfig
from jax_reparam.frontend.windows import WindowConfig

CONFIG = FrontendConfig()
RULE = Rule.of(CONFIG)
WINDOW = WindowConfig(100, 50)
MOST = 10_000
DULL, BRIGHT = (1, 1, 0.3), (1, 1, 3)


def codes_of(*sounds):
    return features.encode(features.log_mel(np.concatenate(sounds), CONFIG))


def silence(seconds):
    return np.zeros(round(16000 * seconds), np.int16)


def learned(codes, window=WINDOW, **arguments):
    return voice.of_recording(codes, window, RULE, **{'most': MOST, **arguments})


def expected(codes, window=WINDOW, most=MOST):
    """Frame by frame: each by the first window that holds it, if there is speech in that and the frame is of it."""
    taken, seen = [], 0
    starts = [*range(0, max(1, len(codes) - window.frames + 1), window.hop)]
    starts += [] if starts[-1] + window.frames >= len(codes) else [len(codes) - window.frames]
    for start in starts:
        cut = codes[start : start + window.frames]
        found = speech.detect(cut, len(cut), RULE)
        for frame in range(max(seen, start), start + len(cut)):
            if found.there and found.mask[frame - start]:
                taken.append(np.maximum(codes[frame] - found.level, -RULE.clamp))
        seen = start + len(cut)
    taken = taken[:most]
    return np.sum(taken, axis=0) if taken else np.zeros(64), len(taken)


@pytest.mark.parametrize('window', [(100, 50), (100, 100), (100, 30), (64, 1), (400, 200)])
def test_each_frame_of_speech_is_learned_once(window):
    codes = codes_of(syllables(2), silence(1.5), syllables(1.23, 1))
    config = WindowConfig(*window)
    profile = learned(codes, config)
    sums, frames = expected(codes, config)
    assert 0 < profile.frames == frames < len(codes)
    np.testing.assert_array_equal(profile.sums, 16 * sums)
    assert profile.sums.dtype == np.int32


def test_a_recording_shorter_than_a_window_is_learned_once_though_a_window_repeats_it():
    codes = codes_of(syllables(0.7))
    assert learned(codes).frames == speech.detect(codes, len(codes), RULE).mask.sum() < len(codes)


def test_nothing_is_learned_where_nobody_speaks(rng):
    noise = (3000 * rng.standard_normal(48000)).astype(np.int16)
    known = learned(codes_of(syllables(1)))
    for codes in (codes_of(noise), codes_of(silence(3)), codes_of(silence(0.01))):
        assert learned(codes).frames == 0
        np.testing.assert_array_equal(learned(codes).sums, np.zeros(64, np.int32))
        assert learned(codes, known=known) is known


def test_silence_around_speech_teaches_nothing():
    word = np.concatenate([silence(0.2), syllables(1), silence(0.2)])
    around = codes_of(silence(2), word, silence(2))
    profile, alone = learned(around, WindowConfig(540, 200)), learned(codes_of(word), WindowConfig(540, 200))
    assert profile.frames == alone.frames > 60
    np.testing.assert_array_equal(profile.sums, alone.sums)


@pytest.mark.parametrize('most', [1, 40, 137, 10_000])
def test_learning_ends_exactly_where_it_is_said(most):
    codes = codes_of(syllables(4))
    profile = learned(codes, most=most)
    sums, frames = expected(codes, most=most)
    assert profile.frames == frames == min(most, learned(codes).frames)
    np.testing.assert_array_equal(profile.sums, 16 * sums)
    if profile.frames == most:
        assert learned(codes, most=most, known=profile) is profile


def test_what_was_known_is_added_to():
    first, second = codes_of(syllables(1)), codes_of(syllables(2, 1))
    both = learned(second, known=(known := learned(first)))
    alone = learned(second)
    assert both.frames == known.frames + alone.frames
    np.testing.assert_array_equal(both.sums, known.sums + alone.sums)
    # And the one that was known is as it was.
    np.testing.assert_array_equal(known.sums, learned(first).sums)


def test_the_mean_is_that_of_what_was_learned():
    codes = codes_of(syllables(2))
    profile = learned(codes, WindowConfig(400, 200))
    found = speech.detect(codes, len(codes), RULE)
    np.testing.assert_allclose(
        profile.mean, np.maximum(codes[found.mask] - found.level, -RULE.clamp).mean(axis=0), rtol=1e-5, atol=1e-5
    )
    assert profile.mean.dtype == np.float32
    np.testing.assert_array_equal(Profile.empty(3).mean, np.zeros(3, np.float32))


def test_a_gain_teaches_the_same():
    codes = np.clip(codes_of(syllables(2)).astype(int), -60, 60)
    np.testing.assert_array_equal(learned(codes + 30).sums, learned(codes).sums)


def inputs(rng, **fields):
    mean, std, voice_mean = 30 * rng.standard_normal((3, 64)).astype(np.float32)
    return Input(CONFIG, WindowConfig(), mean, np.abs(std) + 1, voice_mean, VoiceConfig(**fields))


def test_no_history_is_exactly_as_it_was(rng):
    heard = inputs(rng, half_seconds=5.0)
    np.testing.assert_array_equal(heard.offset(), heard.mean)
    np.testing.assert_array_equal(heard.offset(Profile.empty(64)), heard.mean)
    codes = codes_of(syllables(1))
    np.testing.assert_array_equal(heard.hear(codes, Profile.empty(64)).features, heard.hear(codes).features)


def test_what_is_known_makes_a_voice_less_of_itself():
    """A bright speaker, heard by a model that was trained on dull ones, becomes less bright; and a dull one not."""
    train = learned(codes_of(syllables(4, voice=DULL)))
    zero = np.zeros(64, np.float32)
    heard = Input(CONFIG, WindowConfig(), zero, zero + 1, train.mean, VoiceConfig(half_seconds=0.5))
    high = lambda found: found.features[:, 45:].mean() - found.features[:, :15].mean()
    for colour, lower in ((BRIGHT, True), (DULL, False)):
        codes = codes_of(syllables(1, 1, voice=colour))
        known = learned(codes_of(syllables(4, 2, voice=colour)))
        before, after = high(heard.hear(codes)), high(heard.hear(codes, known))
        if lower:
            assert after < before - 4
        else:
            assert after == pytest.approx(before, abs=1.5)
    # With all of it known, the voice's mean is that of the training speakers.
    codes = codes_of(syllables(4, 3, voice=BRIGHT))
    known = learned(codes)
    sure = dataclasses.replace(known, sums=1000 * known.sums, frames=1000 * known.frames)
    np.testing.assert_allclose(known.mean - heard.offset(sure), train.mean, atol=0.05)


@pytest.mark.parametrize('hop_ms', [10, 20])
def test_the_share_grows_with_what_is_known(rng, hop_ms):
    frontend = dataclasses.replace(CONFIG, hop_ms=hop_ms)
    heard = dataclasses.replace(inputs(rng, half_seconds=5.0), frontend=frontend)
    n0 = 5000 // hop_ms
    assert heard.share(0) == 0
    assert heard.share(n0) == 0.5
    assert heard.share(3 * n0) == 0.75
    assert heard.most_frames == 60_000 // hop_ms


def test_the_share_is_none_before_its_time(rng):
    heard = inputs(rng, half_seconds=5.0, after_seconds=20.0)
    assert heard.share(1999) == 0
    assert heard.share(2000) == np.float32(0.8)
    profile = Profile(np.full(64, 1999 * 16, np.int32), 1999)
    np.testing.assert_array_equal(heard.offset(profile), heard.mean)


@pytest.mark.parametrize('after', [0.0, 0.29, 20.0])
@pytest.mark.parametrize('half', [0.001, 5.0, 7.77])
def test_jax_takes_the_same_share(rng, after, half):
    heard = inputs(rng, half_seconds=half, after_seconds=after)
    frames = np.array([0, 1, 28, 29, 30, 499, 500, 1999, 2000, 2001, 6000], np.int32)
    expected = np.array([heard.share(int(n)) for n in frames])
    got = jax.jit(jax.vmap(lambda n: heard.share(n, jnp)))(frames)
    assert expected.dtype == got.dtype == np.float32
    np.testing.assert_array_equal(got, expected)
    assert expected[0] == 0
    assert (expected > 0).tolist() == [n > 0 and n >= 100 * after for n in frames]


def test_the_offset_is_added_to_the_mean(rng):
    heard = inputs(rng, half_seconds=5.0)
    profile = Profile(rng.integers(-9000, 9000, 64).astype(np.int32), 500)
    expected = heard.mean + 0.5 * (profile.sums / (16 * 500) - heard.voice_mean)
    np.testing.assert_allclose(heard.offset(profile), expected, rtol=1e-5, atol=1e-5)
    assert heard.offset(profile).dtype == np.float32


def packed(digest, frames, sums):
    """What `voice.to_bytes` and the firmware write, written down once more."""
    body = bytes.fromhex(digest) + struct.pack(f'<{1 + len(sums)}i', frames, *sums)
    return body + struct.pack('<I', zlib.crc32(body))


def test_a_profile_is_written_and_read_as_it_was(rng, tmp_path):
    heard, path = inputs(rng), tmp_path / 'voice.bin'
    most = Profile(np.full(64, 5, np.int32), heard.most_frames)
    for profile in (learned(codes_of(syllables(2))), Profile.empty(64), most):
        voice.save(path, profile, heard)
        content = path.read_bytes()
        assert content == packed(heard.digest, profile.frames, profile.sums.tolist()) == voice.to_bytes(profile, heard)
        assert len(content) == 296
        found = voice.load(path, heard)
        assert found.frames == profile.frames
        assert found.sums.dtype == np.int32
        np.testing.assert_array_equal(found.sums, profile.sums)
    assert [each.name for each in tmp_path.iterdir()] == ['voice.bin']


SUMS, MODEL = [5] * 64, '@'
DAMAGE = 'expected the 296 bytes of a profile of a voice, found '


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (b'', f'{DAMAGE}an empty file'),
        (b'\0', f'{DAMAGE}1 bytes'),
        (b'{"digest": "0", "frames": 3}', f'{DAMAGE}28 bytes'),
        (lambda good: good[:-1], f'{DAMAGE}295 bytes'),
        (lambda good: good + b'\0', f'{DAMAGE}297 bytes'),
        (lambda good: good[:150] + b'\xff' * 146, f'{DAMAGE}a wrong CRC-32: it is damaged'),
        (lambda good: good[:150] + bytes(146), f'{DAMAGE}a wrong CRC-32: it is damaged'),
        (b'\xff' * 296, f'{DAMAGE}a wrong CRC-32: it is damaged'),
        (bytes(296), f'{DAMAGE}a wrong CRC-32: it is damaged'),
        (('0' * 64, 3, SUMS), 'expected a profile learned with this model (@), found 000000000000'),
        (('0' * 64, 3, SUMS[:12]), 'expected a profile learned with this model (@), found 000000000000'),
        ((MODEL, 3, SUMS[:12]), f'{DAMAGE}88 bytes'),
        ((MODEL, -1, SUMS), 'expected sums over at most 6000 frames of speech, found others'),
        ((MODEL, 6001, SUMS), 'expected sums over at most 6000 frames of speech, found others'),
        ((MODEL, 0, SUMS), 'expected sums over at most 6000 frames of speech, found others'),
        ((MODEL, 3, [*SUMS[:63], 4080 * 3 + 1]), 'expected sums over at most 6000 frames of speech, found others'),
        ((MODEL, 3, [-1280 * 3 - 1, *SUMS[:63]]), 'expected sums over at most 6000 frames of speech, found others'),
    ],
)
def test_a_profile_that_is_damaged_or_another_s_is_refused(rng, tmp_path, content, message):
    heard, path = inputs(rng), tmp_path / 'voice.bin'
    voice.save(path, Profile(np.full(64, 5, np.int32), 3), heard)
    if callable(content):
        content = content(path.read_bytes())
    if isinstance(content, tuple):
        digest, *numbers = content
        content = packed(digest.replace(MODEL, heard.digest), *numbers)
    path.write_bytes(content)
    with pytest.raises(InputError) as error:
        voice.load(path, heard)
    assert str(error.value) == f'{path}: {message.replace(MODEL, heard.digest[:12])}'


def test_any_bit_that_flips_is_seen(rng):
    heard = inputs(rng)
    good = voice.to_bytes(learned(codes_of(syllables(1))), heard)
    for bit in range(8 * len(good)):
        content = bytearray(good)
        content[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ValueError, match='a wrong CRC-32'):
            voice.from_bytes(bytes(content), heard)


def test_a_profile_is_of_one_model(rng, tmp_path):
    heard, path = inputs(rng), tmp_path / 'voice.bin'
    voice.save(path, Profile.empty(64), dataclasses.replace(heard, mean=heard.mean + np.float32(1)))
    with pytest.raises(InputError, match='expected a profile learned with this model'):
        voice.load(path, heard)
    # A digest is of what is written: reading it changes nothing.
    assert Input.from_json(json.loads(json.dumps(heard.as_json()))).digest == heard.digest


def test_a_place_without_a_profile_is_named_and_left_as_it_was(rng, tmp_path):
    heard = inputs(rng)
    for place, reading, writing in (
        (tmp_path, 'Is a directory', 'Is a directory'),
        (tmp_path / 'none' / 'voice.bin', 'No such file or directory', 'No such file or directory'),
    ):
        with pytest.raises(InputError, match=f'^{place}: expected the profile of a voice, found: {reading}$'):
            voice.load(place, heard)
        with pytest.raises(InputError, match=f'^{place}: expected a file that can be written, found: {writing}$'):
            voice.save(place, Profile.empty(64), heard)
    assert not list(tmp_path.iterdir())
    assert not tmp_path.with_name(f'{tmp_path.name}.tmp').exists()
