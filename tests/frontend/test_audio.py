"""Decoding of what people have on their disks, and the refusal of what is no audio."""

import errno
import io
import os
import struct

import numpy as np
import pytest
import soundfile
import soxr

from jax_reparam.errors import InputError
from jax_reparam.frontend import audio


def noise(seconds=0.5, sample_rate=16000, channels=1):
    shape = (round(seconds * sample_rate), channels) if channels > 1 else round(seconds * sample_rate)
    return np.random.default_rng(1).integers(-20000, 20000, shape).astype(np.int16)


def tone(sample_rate, seconds=0.5, hertz=440.0):
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * sample_rate)) / sample_rate)


def wav(samples, sample_rate=16000, subtype='PCM_16', kind='WAV'):
    file = io.BytesIO()
    soundfile.write(file, samples, sample_rate, format=kind, subtype=subtype)
    return file.getvalue()


def chunk(name, body):
    return name + struct.pack('<I', len(body)) + body + b'\0' * (len(body) % 2)


def refused(path):
    """The message of the error that `read` raises for a file: one line that begins with its name."""
    with pytest.raises(audio.AudioError) as error:
        audio.read(path)
    message = str(error.value)
    assert message.startswith(f'{path}: expected ')
    assert '\n' not in message
    return message


@pytest.mark.parametrize('kind', ['WAV', 'FLAC', 'WAVEX', 'RF64'])
def test_16_bit_mono_comes_back_bit_for_bit(tmp_path, kind):
    samples = noise()
    samples[:4] = [-32768, 32767, -1, 1]
    soundfile.write(tmp_path / 'a.wav', samples, 16000, format=kind, subtype='PCM_16')
    result = audio.read(tmp_path / 'a.wav')
    assert result.dtype == np.int16
    np.testing.assert_array_equal(result, samples)


def test_channels_are_averaged(tmp_path):
    samples = noise(channels=3)
    soundfile.write(tmp_path / 'a.wav', samples, 16000)
    expected = np.rint(samples.astype(np.float64).mean(axis=1))
    np.testing.assert_allclose(audio.read(tmp_path / 'a.wav'), expected, atol=0.51)


@pytest.mark.parametrize('kind', ['int16', 'float32'])
@pytest.mark.parametrize('sample_rate', [16000, 48000])
def test_silent_channels_are_left_out_of_the_mean(kind, sample_rate):
    """A voice in 5.1 is as loud as alone; two of six channels are averaged; it may begin and end in the middle."""
    voice = noise(20000 / sample_rate, sample_rate)
    voice[:9000], voice[15000:] = 0, 0
    scale = 1 if kind == 'int16' else np.float32(1 / 32768)
    channels = np.zeros((len(voice), 6), kind)
    channels[:, 2] = voice * scale
    mix = lambda samples: audio.mono([samples[:8000], samples[8000:16000], samples[16000:]], sample_rate, 'a')
    alone = mix(channels[:, 2:3])
    # The sixth of a sample is rounded in float32 before the resampler, where there is one: 4 of 6,667 are a step off.
    np.testing.assert_allclose(mix(channels), alone, atol=0 if sample_rate == 16000 else 1, rtol=0)
    channels[:, 4] = channels[:, 2]
    np.testing.assert_allclose(mix(channels), alone, atol=0 if sample_rate == 16000 else 1, rtol=0)
    assert not mix(np.zeros((16000, 6), kind)).any()


@pytest.mark.parametrize(('sample_rate', 'channels'), [(16000, 1), (16000, 2), (44100, 1), (48000, 3)])
@pytest.mark.parametrize('subtype', ['PCM_16', 'FLOAT'])
def test_pieces_are_one_recording(tmp_path, sample_rate, channels, subtype):
    """What is read in pieces is what mixing and resampling at once give, bit for bit."""
    samples = noise(300000 / sample_rate, sample_rate, channels).reshape(-1, channels)
    soundfile.write(tmp_path / 'a.wav', samples / 32768, sample_rate, subtype=subtype)
    mixed = (samples.astype(np.float32) / 32768).mean(axis=1)
    expected = mixed if sample_rate == 16000 else soxr.resample(mixed, sample_rate, 16000)
    np.testing.assert_array_equal(audio.read(tmp_path / 'a.wav'), np.rint(expected * 32768).clip(-32768, 32767))


@pytest.mark.parametrize('sample_rate', [8000, 11025, 22050, 44100, 48000, 96000])
def test_other_rates_are_resampled(tmp_path, sample_rate):
    soundfile.write(tmp_path / 'a.flac', tone(sample_rate), sample_rate)
    result = audio.read(tmp_path / 'a.flac') / 32768
    assert abs(len(result) - 8000) <= 1
    middle = slice(800, 7200)  # the resampler rings at the edges
    np.testing.assert_allclose(result[middle], tone(16000)[middle], atol=2e-3)


def test_target_rate_is_the_callers(tmp_path):
    soundfile.write(tmp_path / 'a.wav', tone(16000), 16000)
    assert len(audio.read(tmp_path / 'a.wav', 8000)) == 4000


@pytest.mark.parametrize(
    ('subtype', 'step'), [('PCM_U8', 1 / 128), ('PCM_24', 1e-4), ('FLOAT', 1e-4), ('DOUBLE', 1e-4)]
)
def test_sample_formats(tmp_path, subtype, step):
    soundfile.write(tmp_path / 'a.wav', tone(16000), 16000, subtype=subtype)
    np.testing.assert_allclose(audio.read(tmp_path / 'a.wav') / 32768, tone(16000), atol=step)


def test_floats_beyond_full_scale_are_clipped_not_wrapped(tmp_path):
    soundfile.write(tmp_path / 'a.wav', np.linspace(-2, 2, 8001), 16000, subtype='FLOAT')
    result = audio.read(tmp_path / 'a.wav')
    assert (result[0], result[4000], result[-1]) == (-32768, 0, 32767)
    assert np.all(np.diff(result.astype(int)) >= 0)


@pytest.mark.parametrize(('peak', 'good'), [(1.0, True), (15.9, True), (17.0, False), (32768.0, False), (1e30, False)])
def test_floats_at_the_scale_of_integers_are_refused(peak, good):
    data = wav(peak * np.sin(np.arange(16000)), subtype='FLOAT')
    if good:
        assert audio.decode(data, 'a').max() == 32767
    else:
        with pytest.raises(audio.AudioError, match=r'^a: expected float samples with a full scale of 1, found up to '):
            audio.decode(data, 'a')


@pytest.mark.parametrize('subtype', ['PCM_16', 'FLOAT'])
@pytest.mark.parametrize('sample_rate', [16000, 44100])
def test_the_loudest_channel_is_taken_where_the_mean_would_lose_it(subtype, sample_rate):
    """A voice whose other channel is upside down, and one in 5.1 whose other channels hiss."""
    rng = np.random.default_rng(2)
    voice = noise(150000 / sample_rate, sample_rate) / 32768
    upside_down = np.stack([voice, -0.9 * voice], axis=1)
    surround = 1e-3 * rng.standard_normal((len(voice), 6))
    surround[:, 1] = voice
    alone = audio.decode(wav(voice, sample_rate, subtype), 'a')
    for channels in (upside_down, surround):
        np.testing.assert_array_equal(audio.decode(wav(channels, sample_rate, subtype), 'a'), alone)
    cut = audio.decode_cut(io.BytesIO(wav(upside_down, sample_rate, subtype)), 'a', 0.5, 0.7)
    np.testing.assert_array_equal(cut, audio.decode_cut(io.BytesIO(wav(voice, sample_rate, subtype)), 'a', 0.5, 0.7))
    # 6 dB are no more than an average costs where two rooms, or a voice and noise, are heard.
    one_sided = np.stack([voice, 0.1 * rng.standard_normal(len(voice))], axis=1)
    mean = audio.decode(wav(one_sided.mean(axis=1), sample_rate, 'FLOAT'), 'a')
    np.testing.assert_allclose(audio.decode(wav(one_sided, sample_rate, 'FLOAT'), 'a'), mean, atol=1)


def test_chunks_before_and_after_the_samples_are_not_sound(tmp_path):
    samples = noise()
    form = struct.pack('<HHIIHH', 1, 1, 16000, 32000, 2, 16)
    body = b'WAVE' + chunk(b'fmt ', form) + chunk(b'FLLR', b'\x7f' * 4044) + chunk(b'odd ', b'abc')
    body += chunk(b'data', samples.tobytes()) + chunk(b'_PMX', b'<x/>' * 900)
    data = chunk(b'RIFF', body)
    (tmp_path / 'a.wav').write_bytes(data)
    np.testing.assert_array_equal(audio.read(tmp_path / 'a.wav'), samples)
    (tmp_path / 'a.wav').write_bytes(data[: data.index(b'_PMX') - 10])
    assert 'found 10 bytes too few' in refused(tmp_path / 'a.wav')


def that_promises(length, kind='WAV', behind=b''):
    """A WAV file of `noise` whose header gives another number of bytes, or an RF64 one."""
    data = bytearray(wav(noise(), kind=kind) + behind)
    if kind == 'RF64':
        assert data[12:16] == b'ds64'
        struct.pack_into('<Q', data, 28, length)
    else:
        assert data[36:40] == b'data'
        struct.pack_into('<I', data, 40, length)
    return bytes(data)


@pytest.mark.parametrize('length', [0, 0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000])
def test_a_wav_that_was_written_to_a_pipe_or_not_closed_has_no_length(length):
    np.testing.assert_array_equal(audio.decode(that_promises(length), 'a'), noise())


@pytest.mark.parametrize('kind', ['WAV', 'RF64'])
@pytest.mark.parametrize('length', [1, 2, 8000, 14000, 16002, 100_000])
def test_a_wav_whose_header_lies_is_refused(kind, length):
    """What its header does not tell of is not dropped silently, nor is what it tells of taken for there."""
    with pytest.raises(audio.AudioError, match=r'^a: expected the .*that its header promises, found [\d,]+ '):
        audio.decode(that_promises(length, kind), 'a')


@pytest.mark.parametrize('behind', [b'\0' * 100, b'TAG' + b' ' * 125, chunk(b'LIST', b'INFO' * 2000)])
def test_what_programs_leave_behind_the_samples_is_no_sound(behind):
    np.testing.assert_array_equal(audio.decode(that_promises(16000, behind=behind), 'a'), noise())


def test_a_header_without_a_length_before_other_chunks_means_no_samples():
    data = bytearray(wav(noise()[:0]) + chunk(b'LIST', b'INFO' * 20))
    with pytest.raises(audio.AudioError, match='found 0 samples'):
        audio.decode(bytes(data), 'a')


def flac_that_promises(samples):
    data = bytearray(wav(noise(), kind='FLAC'))
    # STREAMINFO: the 36 bits of the number of samples end at byte 26 of the file.
    data[21:26] = bytes([data[21] & 0xF0]) + struct.pack('>I', samples)
    return data


def test_a_flac_that_was_written_to_a_pipe_has_no_length(tmp_path):
    (tmp_path / 'a.flac').write_bytes(flac_that_promises(8000))
    np.testing.assert_array_equal(audio.read(tmp_path / 'a.flac'), noise())
    (tmp_path / 'a.flac').write_bytes(flac_that_promises(0))
    assert 'found a stream' in refused(tmp_path / 'a.flac')


@pytest.mark.parametrize('promised', [8001, 4_000_000_000])
def test_flac_with_fewer_samples_than_promised(tmp_path, promised):
    (tmp_path / 'a.flac').write_bytes(flac_that_promises(promised))
    refused(tmp_path / 'a.flac')


def test_missing_file(tmp_path):
    assert 'found nothing there' in refused(tmp_path / 'a.wav')


def test_folder_instead_of_a_file(tmp_path):
    assert 'directory' in refused(tmp_path)


def test_what_may_never_end_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / 'a.wav')
    (tmp_path / 'zero.wav').symlink_to('/dev/zero')
    for name in ('a.wav', 'zero.wav'):
        assert refused(tmp_path / name).endswith('found: a pipe or a device')


def test_a_name_that_cannot_be(tmp_path):
    assert 'null byte' in refused(f'{tmp_path}/a\0.wav')


def test_damaged_bytes_are_refused_or_read_and_nothing_else():
    """200 files with bytes replaced, cut off or put in: `decode` gives samples or says in a line what is wrong."""
    kinds = [('WAV', 'PCM_16'), ('WAV', 'FLOAT'), ('RF64', 'PCM_16'), ('FLAC', 'PCM_16'), ('OGG', 'VORBIS')]
    whole = [wav(tone(16000, 0.2), subtype=subtype, kind=kind) for kind, subtype in kinds]
    for seed in range(200):
        rng = np.random.default_rng(seed)
        data = bytearray(whole[seed % len(whole)])
        for _ in range(rng.integers(1, 6)):
            # Headers are short, and most can go wrong there.
            at = int(rng.integers(len(data) if rng.random() < 0.3 else 60)) % len(data)
            match rng.integers(3):
                case 0:
                    data[at] = rng.integers(256)
                case 1:
                    data = data[: max(at, 1)]
                case 2:
                    data[at:at] = rng.bytes(int(rng.integers(1, 9)))
        try:
            samples = audio.decode(bytes(data), 'a')
        except audio.AudioError as error:
            assert str(error).startswith('a: expected '), seed  # noqa: PT017
            assert str(error).isprintable(), seed  # noqa: PT017
        else:
            assert samples.dtype == np.int16
            assert len(samples) > 0


@pytest.mark.parametrize('text', [b'', b'hello\n', 'Grüße\n'.encode('utf-16'), b'ID3 notes', b'RIFF'])
def test_text_named_wav(tmp_path, text):
    (tmp_path / 'a.wav').write_bytes(text)
    message = refused(tmp_path / 'a.wav')
    assert 'expected WAV, FLAC, MP3 or OGG audio' in message
    assert ('found an empty file' in message) == (text == b'')


@pytest.mark.parametrize(('kind', 'subtype'), [('MP3', None), ('OGG', 'VORBIS'), ('OGG', 'OPUS')])
def test_compressed_audio_is_read(kind, subtype):
    voice = tone(48000, 2) * np.hanning(96000)
    data = wav(voice, 48000, subtype, kind)
    result = audio.decode(data, 'a') / 32768
    expected = soxr.resample(voice, 48000, 16000)
    assert abs(len(result) - 32000) <= 1
    assert np.linalg.norm(result[:31999] - expected[:31999]) < 0.05 * np.linalg.norm(expected)
    with pytest.raises(audio.AudioError):
        audio.decode(data[: len(data) // 2], 'a')


def mp3(samples, sample_rate=16000):
    file = io.BytesIO()
    channels = samples.shape[1] if samples.ndim > 1 else 1
    kind = {'format': 'MP3', 'bitrate_mode': 'VARIABLE', 'compression_level': 0.2}
    with soundfile.SoundFile(file, 'w', sample_rate, channels, **kind) as sound:
        sound.write(samples)
    return file.getvalue()


def loud_and_quiet(loud_first):
    """White noise beside a quiet tone, 3 s each, of which the first takes ten times the bits."""
    rng, at = np.random.default_rng(0), np.arange(48000)
    parts = [0.3 * rng.standard_normal(48000), 0.001 * np.sin(at / 20)]
    return np.concatenate(parts if loud_first else parts[::-1])


ID3V2 = b'ID3\x03\x00\x00\x00\x00\x02\x00' + bytes(256)


@pytest.mark.parametrize('around', [(b'', b''), (ID3V2, b'TAG' + b' ' * 125)], ids=['bare', 'with ID3'])
@pytest.mark.parametrize('loud_first', [True, False])
def test_an_mp3_that_does_not_say_its_length_is_read_to_its_end(capfd, loud_first, around):
    """Of variable bit rate without its first frame, which has a Xing tag; libsndfile guesses another length."""
    data = mp3(samples := loud_and_quiet(loud_first))
    whole = audio.decode(around[0] + data + around[1], 'a')
    assert len(whole) == len(samples)
    assert capfd.readouterr().err == ''  # its decoder's doubts
    bare = around[0] + data[data.index(data[:2], 30) :] + around[1]
    with soundfile.SoundFile(io.BytesIO(bare)) as sound:
        assert abs(sound.frames - len(samples)) > 10_000
    found = audio.decode(bare, 'a')
    # With the silence that the encoder puts around, 1,105 samples of it before: the tag says how much it is.
    assert 0 <= len(found) - len(whole) < 3 * 1152
    np.testing.assert_allclose(found[1105:][4000:90000], whole[4000:90000], atol=2)


@pytest.mark.parametrize('sample_rate', [16000, 44100])
def test_the_loudest_channel_of_an_mp3_is_that_of_its_first_reading(tmp_path, sample_rate):
    """After a step back in the file libsndfile gives other samples."""
    voice = tone(sample_rate, 3) * np.random.default_rng(0).uniform(0.1, 1, 3 * sample_rate)
    (tmp_path / 'a.mp3').write_bytes(mp3(np.stack([voice, -0.9 * voice], axis=1), sample_rate))
    alone = soundfile.read(tmp_path / 'a.mp3', dtype='float32')[0][:, 0]
    expected = audio.mono([alone[:, None]], sample_rate, 'a')
    np.testing.assert_allclose(audio.read(tmp_path / 'a.mp3'), expected, atol=0 if sample_rate == 16000 else 1)


@pytest.mark.parametrize('kind', ['WAV', 'FLAC', 'MP3'])
@pytest.mark.parametrize('good', [-1, 0, 2000])
def test_a_disk_that_fails_is_said_in_one_line(capfd, kind, good):
    class Failing(io.BytesIO):
        def read(self, size=-1):
            if self.tell() > good:
                raise OSError(errno.EIO, 'Input/output error')
            return super().read(size)

    with pytest.raises(audio.AudioError, match=r'^a: expected a readable .* file, found: Input/output error$'):
        audio.decode_cut(Failing(wav(noise(10), subtype=None, kind=kind)), 'a', 0.0, None)
    assert capfd.readouterr().err == ''


@pytest.mark.parametrize('channels', [1, 2])
def test_a_file_is_read_in_blocks(tmp_path, channels):
    """The second begins after the first was given; all of them are the file."""
    soundfile.write(tmp_path / 'a.wav', noise(20, channels=channels), 16000)
    blocks = audio.blocks(tmp_path / 'a.wav')
    first = next(blocks)
    assert len(first) <= 1 << 16
    np.testing.assert_array_equal(np.concatenate([first, *blocks]), audio.read(tmp_path / 'a.wav'))


@pytest.mark.parametrize(('long', 'said'), [(120.0, True), (121.0, False)])
def test_a_long_file_says_how_far_it_is_read(tmp_path, monkeypatch, capsys, long, said):
    monkeypatch.setattr(audio, 'LONG_SECONDS', long)
    soundfile.write(tmp_path / 'a.wav', np.zeros(16000 * 125, np.int16), 16000)
    for show_progress in (True, False):
        assert sum(map(len, audio.blocks(tmp_path / 'a.wav', show_progress=show_progress))) == 16000 * 125
        err = capsys.readouterr().err
        assert err.startswith(f'{tmp_path}/a.wav: reading: 2/2, ') if said and show_progress else not err


@pytest.mark.parametrize('samples', [1, 1599])
def test_what_is_too_short_to_be_heard_is_refused(tmp_path, samples):
    soundfile.write(tmp_path / 'a.wav', noise()[:samples], 16000)
    assert 'expected at least 0.1 s, found 0.' in refused(tmp_path / 'a.wav')


def test_another_audio_format_is_named(tmp_path):
    soundfile.write(tmp_path / 'a.wav', noise(), 16000, format='AIFF')
    assert 'AIFF' in refused(tmp_path / 'a.wav')


@pytest.mark.parametrize('lost', [1, 2, 1000, 15999])
def test_truncated_wav(tmp_path, lost):
    (tmp_path / 'a.wav').write_bytes(wav(noise())[:-lost])
    assert f'{lost:,} bytes too few' in refused(tmp_path / 'a.wav')


@pytest.mark.parametrize('kept', [20, 44])
def test_wav_cut_within_or_after_its_header(tmp_path, kept):
    (tmp_path / 'a.wav').write_bytes(wav(noise())[:kept])
    refused(tmp_path / 'a.wav')


@pytest.mark.parametrize('share', [0.01, 0.5, 0.98])
def test_truncated_flac(tmp_path, share):
    data = wav(noise(seconds=3), kind='FLAC')
    (tmp_path / 'a.flac').write_bytes(data[: round(share * len(data))])
    refused(tmp_path / 'a.flac')


@pytest.mark.parametrize('kind', ['WAV', 'FLAC'])
def test_no_samples(tmp_path, kind):
    (tmp_path / 'a.wav').write_bytes(wav(noise()[:0], kind=kind))
    refused(tmp_path / 'a.wav')


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize('subtype', ['FLOAT', 'DOUBLE'])
def test_samples_that_are_no_numbers(tmp_path, value, subtype):
    samples = tone(16000)
    samples[[5, 70]] = value
    soundfile.write(tmp_path / 'a.wav', samples, 16000, subtype=subtype)
    assert 'found 2 that are NaN or infinite' in refused(tmp_path / 'a.wav')


@pytest.mark.parametrize('sample_rate', [1, 100, 2_000_000])
def test_a_sample_rate_that_cannot_be(tmp_path, sample_rate):
    (tmp_path / 'a.wav').write_bytes(wav(noise(), sample_rate))
    assert f'found {sample_rate:,}' in refused(tmp_path / 'a.wav')


def test_decode_names_the_clip_as_told():
    with pytest.raises(audio.AudioError, match=r'^clip 7: expected'):
        audio.decode(b'text', 'clip 7')


def test_check_accepts_quiet_speech():
    audio.check((noise(0.1) // 4000).astype(np.int16), 'a')


@pytest.mark.parametrize(
    ('samples', 'found'),
    [
        (np.zeros(0, np.int16), '0 samples'),
        (noise(0.0999), '0.100 s'),
        (np.zeros(16000, np.int16), 'silence'),
        (np.full(16000, -300, np.int16), 'silence'),
        (np.tile(np.array([-1, 0, 1], np.int16), 6000), 'silence'),
    ],
)
def test_check_refuses_what_holds_no_sound(samples, found):
    with pytest.raises(audio.AudioError, match=f'^a: expected .* found {found}'):
        audio.check(samples, 'a', sound=True)
    if found == 'silence':
        # Nobody speaks: that is a result.
        audio.check(samples, 'a')


def test_check_counts_seconds_at_the_rate_given():
    audio.check(noise(0.05), 'a', sample_rate=8000)
    with pytest.raises(InputError, match='at least'):
        audio.check(noise(0.15), 'a', sample_rate=48000)


@pytest.mark.parametrize('kind', [np.float32, np.float64])
@pytest.mark.parametrize('sample_rate', [8000, 16000, 44100])
def test_an_array_becomes_what_a_file_of_it_does(tmp_path, kind, sample_rate):
    sound = (0.5 * np.sin(np.arange(sample_rate) / 9)).astype(kind)
    soundfile.write(tmp_path / 'a.wav', sound, sample_rate, 'FLOAT')
    np.testing.assert_array_equal(audio.samples_of(sound, sample_rate, 'it'), audio.read(tmp_path / 'a.wav'))
    pcm = np.rint(32767 * sound).astype(np.int16)
    soundfile.write(tmp_path / 'b.wav', pcm, sample_rate, 'PCM_16')
    np.testing.assert_array_equal(audio.samples_of(pcm, sample_rate, 'it'), audio.read(tmp_path / 'b.wav'))
    assert audio.samples_of(pcm, None, 'it') is pcm


@pytest.mark.parametrize(('array', 'rate', 'message'), [
    (np.zeros((2, 100), np.int16), None, r'it: expected \[N\] int16, or float .*, found \[2, 100\] int16'),
    (np.zeros(100, np.uint8), None, r'found \[100\] uint8'),
    (b'123', None, 'found bytes'),
    (np.zeros(0), 8000, 'expected audio, found 0 samples'),
    (np.array([0, np.inf]), None, 'expected finite samples, found 1'),
    (np.array([0.0, 32768.0]), None, 'expected float samples with a full scale of 1, found up to 32768'),
    (np.zeros(100), 0, 'expected a sample rate of 1,000 to 768,000 Hz, found 0'),
])  # fmt: skip
def test_an_array_that_is_no_recording(array, rate, message):
    with pytest.raises(InputError, match=message):
        audio.samples_of(array, rate, 'it')
