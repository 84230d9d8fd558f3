"""Prediction from an export: right, alone, and unmoved by bad clips."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest
import soundfile

from helpers import needs_tflm, run_without
from jax_reparam import evaluation, predict
from jax_reparam.errors import InputError
from jax_reparam.frontend import audio, features, windows
from jax_reparam.runtime import litert, tflm


@pytest.fixture
def clips(tmp_path):
    """A folder with a high and a low tone, the latter 1.5 s long, and a file that is none of them."""
    folder = tmp_path / 'clips'
    (folder / 'deeper').mkdir(parents=True)
    for name, pitch, seconds in (('high.wav', 1500, 0.5), ('deeper/low.FLAC', 300, 1.5)):
        time = np.arange(int(16000 * seconds)) / 16000
        sound = np.sin(2 * np.pi * pitch * time) + np.random.default_rng(0).standard_normal(len(time))
        soundfile.write(folder / name, sound / 8, 16000, format=name.split('.')[1].upper())
    (folder / 'notes.txt').write_text('not audio')
    (folder / '._high.wav').write_text('what macOS leaves beside high.wav')
    return folder


@pytest.mark.parametrize('form', ['int8', 'float32'])
def test_predicts_what_evaluation_scored(exported, data, form):
    recognizer = predict.Recognizer.load(exported.path, form)
    model = litert.load((exported.path / f'model_{form}.tflite').read_bytes())
    windows, clip = data.windows('test')
    expected = evaluation.decide(evaluation.softmax(model(windows)), clip)
    for index, row in zip(data.clips('test'), expected, strict=True):
        found = recognizer.predict(data.corpus.audio(index))
        np.testing.assert_allclose(found.probabilities, row, atol=1e-6)
        assert len(found.over_time) == len(found.starts) == (clip == list(data.clips('test')).index(index)).sum()


def test_json(exported, clips, capsys):
    assert predict.main([str(exported.path), str(clips), '--json', '--over-time']) == 0
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
    mean = np.mean([list(part['probabilities'].values()) for part in low['over_time']], axis=0)
    np.testing.assert_allclose(list(low['probabilities'].values()), mean, atol=1e-5)
    # A clip shorter than a window is one window, which ends where the clip does.
    assert [(part['start'], part['end']) for part in high['over_time']] == [(0, 0.5)]


def test_table(exported, clips, capsys):
    assert predict.main([str(exported.path), str(clips), '--over-time']) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ['decision', 'high', 'low']
    assert lines[1].split()[:2] == [str(clips / 'deeper' / 'low.FLAC'), 'low']
    assert lines[2].split()[:4] == ['0.0', '-', '0.6', 's']
    assert len({len(line) for line in lines}) == 1


def test_together_decides_once_for_each_path(exported, clips, capsys):
    recognizer = predict.Recognizer.load(exported.path)
    rows = [recognizer.predict(audio.read(clips / name)).probabilities for name in ('deeper/low.FLAC', 'high.wav')]
    paths = [str(clips), str(clips / 'high.wav')]
    assert predict.main([str(exported.path), *paths, '--together', '--json']) == 0
    both, one = json.loads(capsys.readouterr().out)['clips']
    assert [(entry['file'], entry['recordings']) for entry in (both, one)] == [(paths[0], 2), (paths[1], 1)]
    np.testing.assert_allclose(list(both['probabilities'].values()), np.mean(rows, axis=0), atol=1e-6)
    np.testing.assert_allclose(list(one['probabilities'].values()), rows[1], atol=1e-6)
    # A folder with nothing to hear is named, and the others are decided.
    (clips / 'empty').mkdir()
    assert predict.main([str(exported.path), str(clips / 'empty'), paths[1], '--together']) == 1
    out, err = capsys.readouterr()
    assert [line.split()[0] for line in out.splitlines()[1:]] == [paths[1]]
    assert err == f'error: {clips}/empty: expected WAV or FLAC files in it, found none\n'


@pytest.mark.parametrize(('join', 'turns', 'expected', 'used'), [
    ('mean', 0, [0.4, 0.6], 3),
    ('vote', 0, [0.6, 0.4], 3),
    ('mean', 2, [0.3, 0.7], 2),  # the longest two
])  # fmt: skip
def test_together_joins_as_the_protocol_says(exported, join, turns, expected, used):
    protocol = dataclasses.replace(exported.manifest.protocol, join=join, turns=turns)
    predictions = [
        predict.Prediction(np.array([p, 1 - p]), np.array([0.0]), np.array([seconds]), np.array([[p, 1 - p]]))
        for p, seconds in ((0.6, 1.0), (0.55, 3.0), (0.05, 2.0))
    ]
    row, count = predict.together(predictions, protocol)
    assert count == used
    np.testing.assert_allclose(row, expected, atol=1e-9)
    assert row.argmax() == np.argmax(expected)


def test_together_is_not_over_time(exported, clips, capsys):
    with pytest.raises(SystemExit, match='2'):
        predict.main([str(exported.path), str(clips), '--together', '--over-time'])
    assert 'expected no --over-time beside it' in capsys.readouterr().err


def test_bad_clips_are_named_and_the_others_done(exported, clips, tmp_path, capsys):
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'text.wav').write_text('this is no audio')
    soundfile.write(tmp_path / 'silence.wav', np.zeros(16000), 16000)
    bad = ['missing.wav', 'text.wav', 'silence.wav', 'empty']
    paths = [str(tmp_path / name) for name in bad]
    assert predict.main([str(exported.path), *paths[:2], str(clips), *paths[2:], '--json']) == 1
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert len(found['clips']) == 2
    assert len(found['errors']) == len(err.splitlines()) == len(bad)
    for path, line in zip(paths, err.splitlines(), strict=True):
        assert line.startswith(f'error: {path}: expected ')


def test_neither_tensorflow_nor_jax_is_imported(exported, clips):
    names = ('jax', 'jaxlib', 'flax', 'optax', 'orbax', 'tensorflow', 'tensorflow_datasets', 'grain', 'sklearn')
    assert 'low' in run_without('jax_reparam.predict', [str(exported.path), str(clips)], names)


@pytest.mark.parametrize(
    ('damage', 'message'),
    [
        (lambda folder: shutil.rmtree(folder), 'expected a folder that fold.py wrote, found no manifest.json'),
        (lambda folder: (folder / 'model_int8.tflite').unlink(), 'expected the model, found: No such file'),
        (lambda folder: (folder / 'model_int8.tflite').write_bytes(b'x'), 'expected the file that was verified'),
        (
            lambda folder: (folder / 'manifest.json').write_text('{"format": 1, "forms": {}}'),
            'manifest.json: model: expected a value, found none',
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
    soundfile.write(tmp_path / 'high.wav', 0.3 * np.sin(2 * np.pi * 1500 * time)[:, None].repeat(2, 1), 44100)
    recognizer = predict.Recognizer.load(exported.path)
    found = recognizer.predict(audio.read(tmp_path / 'high.wav'))
    assert recognizer.manifest.labels[found.probabilities.argmax()] == 'high'


@needs_tflm
def test_in_tflm(exported, clips, capsys):
    """The same decisions, by numbers that are TFLM's."""
    printed = []
    for more in ([], ['--tflm']):
        assert predict.main([str(exported.path), str(clips), '--json', '--form', 'int8', *more]) == 0
        printed.append(json.loads(capsys.readouterr().out)['clips'])
    for clip, device in zip(*printed, strict=True):
        assert device['probabilities'] == pytest.approx(clip['probabilities'], abs=0.05)
    samples = audio.read(clips / 'deeper' / 'low.FLAC')
    with predict.Recognizer.in_tflm(exported.path, 'int8') as recognizer:
        model = (exported.path / 'model_int8.tflite').read_bytes()
        inputs = recognizer.manifest.input
        frames = (features.log_mel(samples, inputs.frontend) - inputs.mean) / inputs.std
        cut = windows.split([frames], inputs.window)[0]
        expected = evaluation.softmax(tflm.run(model, cut).logits)
        np.testing.assert_array_equal(recognizer.predict(samples).over_time, expected)


def test_without_tflm_it_is_named(exported, clips, monkeypatch):
    monkeypatch.setattr(tflm, 'missing', lambda: 'not verified: not here')
    with pytest.raises(InputError, match=r'^--tflm: expected TFLM, found: not here$'):
        predict.main([str(exported.path), str(clips), '--tflm'])
