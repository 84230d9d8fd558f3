"""Prediction from an export: right, alone, and unmoved by bad clips."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil

import numpy as np
import pytest
import soundfile

from helpers import needs_tflm, run_without, syllables, windows_of
from jax_reparam import evaluation, manifest
from jax_reparam.commands import predict
from jax_reparam.errors import InputError
from jax_reparam.frontend import audio, speech, voice
from jax_reparam.frontend.voice import Profile
from jax_reparam.runtime import litert, tflm


@pytest.fixture
def clips(tmp_path):
    """A folder with a high and a low tone, the latter 1.5 s long, and a file that is none of them."""
    folder = tmp_path / 'clips'
    (folder / 'deeper').mkdir(parents=True)
    for name, pitch, seconds in (('high.wav', 1500, 0.5), ('deeper/low.FLAC', 300, 1.5)):
        time = np.arange(int(16000 * seconds)) / 16000
        sound = np.sin(2 * np.pi * pitch * time) + np.random.default_rng(0).standard_normal(len(time))
        sound *= 0.1 + 0.9 * np.abs(np.sin(2 * np.pi * 2 * time))
        soundfile.write(folder / name, sound / 8, 16000, format=name.split('.')[1].upper())
    (folder / 'notes.txt').write_text('not audio')
    (folder / '._high.wav').write_text('what macOS leaves beside high.wav')
    return folder


@pytest.mark.parametrize('form', ['int8', 'float32'])
def test_predicts_what_evaluation_scored(exported, data, form):
    recognizer = predict.Recognizer.load(exported.path, form)
    model = litert.load((exported.path / f'model_{form}.tflite').read_bytes())
    cut, clip = windows_of(data, 'test')
    expected = evaluation.decide(evaluation.softmax(model(cut)), clip, units=len(data.clips('test')))
    assert expected.any(axis=1).all()
    for index, row in zip(data.clips('test'), expected, strict=True):
        np.testing.assert_allclose(recognizer.predict(data.corpus.audio(index)).probabilities, row, atol=1e-6)


def test_json(exported, clips, capsys):
    assert predict.main(['--model', str(exported.path), str(clips), '--json', '--over-time']) == 0
    found = json.loads(capsys.readouterr().out)
    assert found['form'] == 'int8'
    assert [clip['file'] for clip in found['clips']] == [str(clips / 'deeper' / 'low.FLAC'), str(clips / 'high.wav')]
    low, high = found['clips']
    assert (low['label'], high['label']) == ('low', 'high')
    assert list(low['probabilities']) == ['high', 'low']
    assert sum(low['probabilities'].values()) == pytest.approx(1, abs=1e-5)
    # 0.64 s windows, 0.32 s apart, the last one ending with the clip's last frame.
    assert [part['start'] for part in low['over_time']] == pytest.approx([0, 0.32, 0.64, 0.84])
    assert [part['end'] for part in low['over_time']] == pytest.approx([0.64, 0.96, 1.28, 1.48])
    assert {part['label'] for part in low['over_time']} == {'low'}
    assert (low['speech'], low['too_quiet'], low['clipping'], found['learned_seconds']) == (True, False, False, 0)
    assert 0.5 < low['speech_share'] <= 1
    # A clip shorter than a window is one window, which ends where the clip does.
    assert [(part['start'], part['end']) for part in high['over_time']] == [(0, 0.5)]


def test_the_packaged_model_is_the_default_and_said(exported, clips, monkeypatch, capsys):
    monkeypatch.setattr(predict, 'PACKAGED', exported.path)
    assert predict.main([str(clips), '--json']) == 0
    out, err = capsys.readouterr()
    assert err == f'the packaged model {exported.path.name}: acted German speech; --model names another\n'
    assert predict.main(['--model', str(exported.path), str(clips), '--json']) == 0
    assert capsys.readouterr() == (out, '')


def test_table(exported, clips, capsys):
    assert predict.main(['--model', str(exported.path), str(clips), '--over-time']) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ['decision', 'high', 'low']
    assert lines[1].split()[:2] == [str(clips / 'deeper' / 'low.FLAC'), 'low']
    assert lines[2].split()[:4] == ['0.0', '-', '0.6', 's']
    assert len({len(line) for line in lines}) == 1


def test_together_decides_once_for_each_path(exported, clips, capsys):
    recognizer = predict.Recognizer.load(exported.path)
    rows = [recognizer.predict(audio.read(clips / name)).probabilities for name in ('deeper/low.FLAC', 'high.wav')]
    # One more in which nobody speaks is left out.
    soundfile.write(clips / 'silence.wav', np.zeros(64000), 16000)
    paths = [str(clips), str(clips / 'high.wav')]
    assert predict.main(['--model', str(exported.path), *paths, '--together', '--json']) == 0
    both, one = json.loads(capsys.readouterr().out)['clips']
    assert [(entry['file'], entry['recordings']) for entry in (both, one)] == [(paths[0], 2), (paths[1], 1)]
    np.testing.assert_allclose(list(both['probabilities'].values()), np.mean(rows, axis=0), atol=1e-6)
    np.testing.assert_allclose(list(one['probabilities'].values()), rows[1], atol=1e-6)
    # A folder with nothing to hear is named, and the others are decided.
    (clips / 'empty').mkdir()
    assert predict.main(['--model', str(exported.path), str(clips / 'empty'), paths[1], '--together']) == 1
    out, err = capsys.readouterr()
    assert [line.split()[0] for line in out.splitlines()[1:]] == [paths[1]]
    assert err == f'error: {clips}/empty: expected WAV, FLAC, MP3 or OGG files in it, found none\n'


@pytest.mark.parametrize(('join', 'turns', 'expected', 'used'), [
    ('mean', 0, [0.4, 0.6], 3),
    ('vote', 0, [0.6, 0.4], 3),
    ('mean', 2, [0.3, 0.7], 2),  # the longest two
])  # fmt: skip
def test_together_joins_as_the_protocol_says(exported, join, turns, expected, used):
    protocol = dataclasses.replace(exported.manifest.protocol, join=join, turns=turns)
    predictions = [
        predict.Prediction(np.array(row), seconds, 0.5, too_quiet=False, clipping=False)
        for row, seconds in (([0.6, 0.4], 1.0), ([0, 0], 9.0), ([0.55, 0.45], 3.0), ([0.05, 0.95], 2.0))
    ]
    row, count = predict.together(predictions, protocol)
    assert count == used
    np.testing.assert_allclose(row, expected, atol=1e-9)
    assert row.argmax() == np.argmax(expected)
    row, count = predict.together(predictions[1:2], protocol)
    assert (count, row.tolist()) == (0, [0, 0])


def test_together_is_not_over_time(exported, clips, capsys):
    with pytest.raises(SystemExit, match='2'):
        predict.main(['--model', str(exported.path), str(clips), '--together', '--over-time'])
    assert 'expected no --over-time beside it' in capsys.readouterr().err


def test_bad_clips_are_named_and_the_others_done(exported, clips, tmp_path, capsys):
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'text.wav').write_text('this is no audio')
    soundfile.write(tmp_path / 'short.wav', np.ones(1000), 16000)
    bad = ['missing.wav', 'text.wav', 'short.wav', 'empty']
    paths = [str(tmp_path / name) for name in bad]
    assert predict.main(['--model', str(exported.path), *paths[:2], str(clips), *paths[2:], '--json']) == 1
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert len(found['clips']) == 2
    assert len(found['errors']) == len(err.splitlines()) == len(bad)
    assert [entry['file'] for entry in found['errors']] == paths
    for path, line in zip(paths, err.splitlines(), strict=True):
        assert line.startswith(f'error: {path}: expected ')


def test_neither_tensorflow_nor_jax_is_imported(exported, clips):
    names = ('jax', 'jaxlib', 'flax', 'optax', 'orbax', 'tensorflow', 'tensorflow_datasets', 'grain', 'sklearn')
    assert 'low' in run_without('predict', ['--model', str(exported.path), str(clips)], names)


@pytest.mark.parametrize(
    ('damage', 'message'),
    [
        (lambda folder: shutil.rmtree(folder), 'expected a folder that fold.py wrote, found no manifest.json'),
        (lambda folder: (folder / 'model_int8.tflite').unlink(), 'expected a file of the model, found: No such file'),
        (lambda folder: (folder / 'model_int8.tflite').write_bytes(b'x'), 'expected the file that was verified'),
        (
            lambda folder: (folder / 'manifest.json').write_text('{"format": 1, "forms": {}}'),
            rf'manifest.json: expected format {manifest.FORMAT} \(export it anew with fold.py\), found 1',
        ),
    ],
)
def test_a_damaged_export_is_refused(exported, tmp_path, damage, message):
    shutil.copytree(exported.path, tmp_path / 'out')
    damage(tmp_path / 'out')
    with pytest.raises(InputError, match=message):
        predict.Recognizer.load(tmp_path / 'out')


def test_a_form_that_is_not_there_is_refused(exported, tmp_path):
    shutil.copytree(exported.path, tmp_path / 'out')
    content = json.loads((tmp_path / 'out' / 'manifest.json').read_text())
    del content['forms']['int8']
    content |= {'recommended': None, 'device': {'frontend': None, 'waveform': None, 'firmware': None}}
    (tmp_path / 'out' / 'manifest.json').write_text(json.dumps(content))
    with pytest.raises(InputError, match='expected form int8, found float32'):
        predict.Recognizer.load(tmp_path / 'out', 'int8')


def test_audio_of_another_rate_is_resampled(exported, clips, tmp_path):
    time = np.arange(44100) / 44100
    sound = np.sin(2 * np.pi * 1500 * time) + np.random.default_rng(0).standard_normal(44100)
    sound *= 0.1 + 0.9 * np.abs(np.sin(2 * np.pi * 2 * time))
    soundfile.write(tmp_path / 'high.wav', 0.1 * sound[:, None].repeat(2, 1), 44100)
    recognizer = predict.Recognizer.load(exported.path)
    found = recognizer.predict(audio.read(tmp_path / 'high.wav'))
    assert recognizer.manifest.labels[found.probabilities.argmax()] == 'high'


@needs_tflm
def test_in_tflm(exported, clips, capsys):
    """The same decisions, by numbers that are TFLM's."""
    printed = []
    for more in ([], ['--tflm']):
        assert predict.main(['--model', str(exported.path), str(clips), '--json', '--form', 'int8', *more]) == 0
        printed.append(json.loads(capsys.readouterr().out)['clips'])
    for clip, device in zip(*printed, strict=True):
        assert device['probabilities'] == pytest.approx(clip['probabilities'], abs=0.05)
    samples = audio.read(clips / 'deeper' / 'low.FLAC')
    with predict.Recognizer.in_tflm(exported.path, 'int8') as recognizer:
        model = (exported.path / 'model_int8.tflite').read_bytes()
        inputs = recognizer.manifest.input
        cut = np.stack([heard.features for heard in inputs.clip(inputs.codes(samples)) if heard.speech.there])
        expected = evaluation.softmax(tflm.run(model, cut).logits)
        np.testing.assert_array_equal(recognizer.predict(samples).probabilities, expected.mean(axis=0))


def test_without_tflm_it_is_named(exported, clips, monkeypatch):
    monkeypatch.setattr(tflm, 'missing', lambda: 'not verified: not here')
    with pytest.raises(InputError, match=r'^--tflm: expected TFLM, found: not here$'):
        predict.main(['--model', str(exported.path), str(clips), '--tflm'])


@pytest.fixture
def recognizer(inputs, exported):
    """One whose logits tell windows apart, and that fails where it is asked about silence."""

    def logits(cut):
        assert np.abs(cut).max() > 0.1
        return np.stack([0.5 * cut[:, :, :4].mean(axis=(1, 2)), 0.5 * cut[:, ::2, 4:].mean(axis=(1, 2))], axis=1)

    return predict.Recognizer(exported.manifest, 'float32', logits)


def around(samples, seconds):
    """With zeros before and after it."""
    return np.pad(samples, round(16000 * seconds))


@pytest.mark.parametrize('sound', [np.zeros(48000, np.int16), np.full(48000, 200, np.int16), None])
def test_nobody_speaks_is_a_result(exported, tmp_path, capsys, sound):
    """Zeros, nothing but DC, and noise: exit code 0, and no label."""
    if sound is None:
        sound = (500 * np.random.default_rng(0).standard_normal(48000)).astype(np.int16)
    soundfile.write(tmp_path / 'a.wav', sound, 16000)
    command = ['--model', str(exported.path), str(tmp_path / 'a.wav'), '--over-time']
    assert predict.main([*command, '--json']) == 0
    [found] = json.loads(capsys.readouterr().out)['clips']
    nothing = {'label': None, 'speech': False, 'probabilities': None}
    assert nothing.items() <= found.items()
    assert (found['speech_share'], found['too_quiet'], found['clipping']) == (0, False, False)
    assert len(found['over_time']) > 4
    assert all(nothing.items() <= part.items() for part in found['over_time'])
    assert predict.main(command) == 0
    assert all(line.endswith('no speech') for line in capsys.readouterr().out.splitlines()[1:])


def test_silence_around_changes_a_clip_s_decision_nowhere_and_is_seen_over_time(recognizer):
    samples = syllables(1.2)
    alone, within = recognizer.predict(samples), recognizer.predict(around(samples, 2), over_time=True)
    assert alone.speech
    # Two seconds are a whole number of frames.
    np.testing.assert_array_equal(within.probabilities, alone.probabilities)
    spoken = [part.probabilities.any() for part in within.over_time]
    assert not any(spoken[:3])
    assert any(spoken)
    assert not any(spoken[-3:])
    assert within.speech_share == pytest.approx(alone.speech_share * 1.2 / 5.2, rel=0.1)
    with_hole = recognizer.predict(np.concatenate([samples, np.zeros(32000, np.int16), samples]))
    assert with_hole.speech  # windows in which nobody speaks are left out of the mean


@pytest.mark.parametrize('gain', [0.05, 0.3])
def test_a_gain_changes_nothing(recognizer, gain):
    samples = syllables(1.5)
    expected = recognizer.predict(samples).probabilities
    found = recognizer.predict(np.rint(gain * samples).astype(np.int16)).probabilities
    # Rounding to 16 bits and to steps of 0.1 nat leaves 0.0004 at most.
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert np.ptp(expected) > 0.1


def test_flags(recognizer):
    samples = syllables(1.5)
    flags = lambda sound: (lambda found: (found.too_quiet, found.clipping))(recognizer.predict(sound))
    assert flags(samples) == (False, False)
    assert flags(np.rint(samples / 10**2.5).astype(np.int16)) == (True, False)
    assert flags(np.clip(samples.astype(int) * 20, -32768, 32767).astype(np.int16)) == (False, True)


def test_flags_and_share_are_of_all_the_recording(recognizer):
    """Whispers, and after them shouts, beside which whispers are no speech: windows of both take nothing back."""
    whisper = np.pad(np.rint(syllables(1.55) / 10**2.5), (0, 800)).astype(np.int16)  # to the end of a window
    shout = np.clip(syllables(1.6).astype(int) * 20, -32768, 32767).astype(np.int16)
    found, *alone = map(recognizer.predict, (np.concatenate([whisper, shout]), whisper, shout))
    assert [(each.too_quiet, each.clipping) for each in (found, *alone)] == [
        (False, True),
        (True, False),
        (False, True),
    ]
    # 0.001 apart; 0.07 where the last window's word counted.
    assert found.speech_share == pytest.approx(np.mean([each.speech_share for each in alone]), abs=0.005)


def test_a_voice_is_learned_from_its_recordings_and_from_nothing_else(recognizer, exported, inputs, tmp_path, capsys):
    voices = [syllables(2, seed, voice=(1, 0.1, 0.3)) for seed in range(3)]
    for name, samples in zip(('b', 'c', 'a'), voices, strict=True):
        soundfile.write(tmp_path / f'{name}.wav', samples, 16000)
    expected = Profile.empty(12)
    for samples in (voices[2], voices[0], voices[1]):
        expected = inputs.learned(inputs.codes(samples), expected)
    assert recognizer.learned_seconds == 0
    seconds = [recognizer.adapt(samples) for samples in (voices[2], voices[0], voices[1])]
    assert np.all(np.diff([0, *seconds]) > 0.5)
    assert recognizer.learned_seconds == seconds[-1] == expected.frames / 100
    np.testing.assert_array_equal(recognizer.profile.sums, expected.sums)
    # Predicting learns nothing, and takes off what is known.
    clip = syllables(1.5, 9, voice=(1, 0.1, 0.3))
    known = recognizer.predict(clip, over_time=True)
    assert recognizer.learned_seconds == seconds[-1]
    recognizer.profile = None
    plain = recognizer.predict(clip, over_time=True)
    for one, other in ((known, plain), *zip(known.over_time, plain.over_time, strict=True)):
        assert np.abs(one.probabilities - other.probabilities).max() > 0.01
    np.testing.assert_array_equal(recognizer.predict(clip, profile=expected).probabilities, known.probabilities)

    soundfile.write(tmp_path / 'clip.flac', clip, 16000)
    command = ['--model', str(exported.path), str(tmp_path / 'clip.flac'), '--json', '--form', 'float32']

    def printed(*more):
        assert predict.main([*command, *map(str, more)]) == 0
        found = json.loads(capsys.readouterr().out)
        return found['learned_seconds'], found['clips'][0]['probabilities']

    (tmp_path / 'clip.flac').rename(tmp_path / 'clip')  # not among the folder's recordings
    command[2] = str(tmp_path / 'clip')
    first = printed('--speaker', tmp_path, '--save-profile', tmp_path / 'p.bin')
    assert first[0] == pytest.approx(expected.frames / 100)
    assert printed('--profile', tmp_path / 'p.bin') == first
    assert printed()[1] != first[1]
    loaded = voice.load(tmp_path / 'p.bin', inputs)
    assert loaded.frames == expected.frames
    np.testing.assert_array_equal(loaded.sums, expected.sums)
    assert not (tmp_path / 'p.bin.tmp').exists()


def test_what_was_learned_of_one_clip_is_not_known_of_the_next(exported, tmp_path, capsys):
    for name, seed in (('a', 1), ('b', 2)):
        soundfile.write(tmp_path / f'{name}.wav', syllables(3, seed), 16000)
    read = lambda *names: [
        predict.main(['--model', str(exported.path), *(str(tmp_path / f'{name}.wav') for name in names), '--json'])
    ]
    read('a', 'b')
    both = json.loads(capsys.readouterr().out)['clips']
    read('b')
    [alone] = json.loads(capsys.readouterr().out)['clips']
    assert both[1] == alone


def test_a_recording_of_the_speaker_that_cannot_be_used_is_refused(exported, clips, tmp_path):
    with pytest.raises(InputError, match=r'nobody\.wav: expected a WAV, FLAC, MP3 or OGG file, found nothing there'):
        predict.main(['--model', str(exported.path), str(clips), '--speaker', str(tmp_path / 'nobody.wav')])


def test_where_no_profile_can_be_saved_is_said_before_anything_is_heard(exported, clips, tmp_path):
    command = ['--model', str(exported.path), str(clips), '--save-profile']
    with pytest.raises(InputError, match=r'^--save-profile: expected a voice to save'):
        predict.main([*command, str(tmp_path / 'p')])
    for path, found in (
        (tmp_path, 'a folder'),
        (tmp_path / 'no' / 'p', f'that nothing can be written to {tmp_path}/no'),
    ):
        with pytest.raises(InputError) as error:
            predict.main([*command, str(path), '--speaker', 'not read'])
        wanted = f'--save-profile {path}: expected a file in a folder that can be written, found {found}'
        assert str(error.value) == wanted


def test_decisions_are_printed_and_a_profile_of_nothing_is_not_saved(exported, clips, tmp_path, capsys):
    soundfile.write(tmp_path / 'silence.wav', np.zeros(16000), 16000)
    command = ['--model', str(exported.path), str(clips), '--speaker']
    assert predict.main([*command, str(tmp_path / 'silence.wav'), '--save-profile', str(tmp_path / 'p')]) == 1
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 3
    assert err.startswith('this model was not trained with histories: ')
    assert err.endswith(f'{tmp_path}/p: not saved: no speech was heard\n')
    assert not (tmp_path / 'p').exists()
    assert predict.main([*command, str(clips), '--save-profile', str(tmp_path / 'p')]) == 0
    assert re.search(r'^saved: \d\.\d+ s of speech$', capsys.readouterr().err, re.MULTILINE)


@pytest.mark.parametrize(('samples', 'found'), [
    (np.zeros(16000, np.int32), 'expected [N] int16, or float with a full scale of 1, found [16000] int32'),
    (np.zeros((16000, 2), np.int16), 'expected [N] int16, or float with a full scale of 1, found [16000, 2] int16'),
    ([0] * 16000, 'expected [N] int16, or float with a full scale of 1, found list'),
    (np.zeros(0, np.int16), 'expected audio, found 0 samples'),
    (np.full(16000, np.nan), 'expected finite samples, found 16,000 that are NaN or infinite'),
])  # fmt: skip
def test_what_are_no_samples_is_refused(recognizer, samples, found):
    for call in (recognizer.predict, recognizer.adapt):
        with pytest.raises(InputError) as error:
            call(samples)
        assert str(error.value) == f'samples: {found}'


def test_blocks_are_a_recording(recognizer, clips):
    for path in (clips / 'deeper' / 'low.FLAC', clips / 'high.wav'):
        whole = recognizer.predict(audio.read(path), over_time=True)
        parts = recognizer.predict(audio.blocks(path), over_time=True)
        assert (parts.seconds, parts.speech_share, len(parts.over_time)) == (
            whole.seconds, whole.speech_share, len(whole.over_time)
        )  # fmt: skip
        np.testing.assert_array_equal(parts.probabilities, whole.probabilities)
        recognizer.profile = None
        recognizer.adapt(audio.blocks(path))
        sums = recognizer.profile.sums
        recognizer.profile = None
        recognizer.adapt(audio.read(path))
        np.testing.assert_array_equal(recognizer.profile.sums, sums)
    with pytest.raises(InputError, match=r'samples: expected .* found float'):
        recognizer.predict(iter([0.5]))
    with pytest.raises(InputError, match=r'samples: expected audio, found 0 samples'):
        recognizer.predict(iter([]))
    with pytest.raises(InputError, match=r'rate: expected 16000 for blocks of samples, found 8000'):
        recognizer.predict(audio.blocks(path), 8000)


def test_a_long_recording_says_how_far_it_is(exported, clips, monkeypatch, capsys):
    command = ['--model', str(exported.path), str(clips), '--json', '--over-time']
    assert predict.main(command) == 0
    out, err = capsys.readouterr()
    assert not err
    monkeypatch.setattr(audio, 'LONG_SECONDS', 1.0)
    assert predict.main(command) == 0
    told = capsys.readouterr()
    assert told.out == out
    assert re.fullmatch(r'windows: 8/8, .*\n', told.err)


def test_speech_is_looked_for_once_in_a_window(recognizer, monkeypatch):
    seen, detect = [], speech.detect
    monkeypatch.setattr(
        speech, 'detect', lambda codes, *rest: seen.append(np.asarray(codes).tobytes()) or detect(codes, *rest)
    )
    found = recognizer.predict(syllables(3.0), over_time=True)
    whole = [row for row in seen if len(row) == 64 * 12]
    assert len(set(whole)) == len(whole) >= len(found.over_time)
