"""`jax-reparam verify`: every form there is, one table, and an exit code that tells the truth."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
import shutil
import sys

import jax
import numpy as np
import pytest
import soundfile

from helpers import needs_tflm, recipe, tones, windows_of
from jax_reparam import checkpoint, manifest, scores
from jax_reparam.commands import verify
from jax_reparam.data import export_data
from jax_reparam.device import frontend
from jax_reparam.errors import InputError, run
from jax_reparam.evaluation import softmax
from jax_reparam.export import folding
from jax_reparam.field import changes, recordings, robustness
from jax_reparam.graph import flatbuffer
from jax_reparam.runtime import litert
from jax_reparam.train import loop

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """(recipe, training folder)"""
    root = tmp_path_factory.mktemp('verify')
    changes = {'train__steps': 30, 'train__eval_every': 30, 'train__average': 0.0}
    config = recipe(tones(root / 'clips'), root / 'cache', **changes)
    loop.train(config, root / 'w', show_progress=False)
    return root / 'clips', root / 'w'


@pytest.fixture(scope='module')
def out(trained, tmp_path_factory):
    path = tmp_path_factory.mktemp('out') / 'out'
    assert folding.fold_and_export(trained[1], path, show_progress=False).failures == []
    return path


@pytest.fixture(scope='module')
def table_of_clips(trained, tmp_path_factory):
    """Four clips, in a table of their paths."""
    path = tmp_path_factory.mktemp('table') / 'clips.csv'
    files = [trained[0] / label / 's0' / f'{n}.wav' for label in ('high', 'low') for n in range(2)]
    path.write_text('path;label\n' + ''.join(f'{file};{file.parts[-3]}\n' for file in files))
    return path


@pytest.fixture
def broken(out, tmp_path):
    """The export with an int8 and a waveform file, and their digests, whose logits are those of other classes."""
    path = tmp_path / 'broken'
    shutil.copytree(out, path)
    content = manifest.read(path)
    for entry in (content['forms']['int8'], content['device']['waveform']):
        swap_classes(path / entry['file'])
        entry['sha256'] = hashlib.sha256((path / entry['file']).read_bytes()).hexdigest()
    (path / manifest.FILE).write_text(json.dumps(content))
    return path


def swap_classes(file):
    graph = flatbuffer.read(file.read_bytes())
    last = next(node for node in reversed(graph.nodes) if node.op == 'FULLY_CONNECTED')
    for tensor in last.inputs[1:3]:
        tensor.set(tensor.values[::-1])
    file.write_bytes(flatbuffer.write(graph))


@needs_tflm
def test_every_form_in_one_table(out, trained, table_of_clips, capsys):
    command = [str(out), '--clips', str(table_of_clips), '--checkpoint', str(trained[1]), '--json']
    assert verify.main([*command, '--fail-under', 'agreement=0.9', 'snr=10']) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found['reference'], found['clips'], found['failures']) == ('training', 4, [])
    assert [(row['form'], row['runtime']) for row in found['rows']] == [
        ('training', 'JAX'),
        ('folded', 'JAX'),
        ('deploy', 'JAX'),
        ('float32', 'LiteRT'),
        ('float32', 'TFLM'),
        ('int8', 'LiteRT'),
        ('int8', 'TFLM'),
        ('int16', 'LiteRT'),
        ('int16', 'TFLM'),
        ('frontend, int8', 'TFLM'),
        ('waveform', 'LiteRT'),
    ]
    rows = {(row['form'], row['runtime']): row for row in found['rows']}
    assert rows['training', 'JAX']['score']['snr_db'] is None
    assert 15 < rows['int8', 'TFLM']['score']['snr_db'] < 80 < rows['float32', 'TFLM']['score']['snr_db']
    int8 = rows['int8', 'TFLM']
    exported = manifest.load(out)
    form = exported.forms['int8']
    assert (int8['bytes'], int8['arena']) == (form.bytes, form.tflm.arena_bytes)
    assert int8['score'].keys() == {'argmax_agreement', 'differing', 'snr_db', 'uar', 'max_abs_diff'}
    assert int8['ops'] == sum(form.ops.values())
    assert int8['milliseconds'] is None
    assert rows['int8', 'LiteRT']['milliseconds'] > 0
    chain, front = rows['frontend, int8', 'TFLM'], exported.device.frontend
    assert chain['bytes'] == int8['bytes'] + front.bytes
    assert chain['arena'] == int8['arena'] + front.arena_bytes
    assert chain['ops'] > int8['ops']
    # Features differ by rounding alone: a step of int8 here and there.
    assert chain['score']['snr_db'] == pytest.approx(int8['score']['snr_db'], abs=3)
    waveform = rows['waveform', 'LiteRT']
    assert waveform['bytes'] == exported.device.waveform.bytes
    assert waveform['milliseconds'] > 0
    assert waveform['score']['argmax_agreement'] == 1
    assert waveform['score']['snr_db'] > 80


@needs_tflm
def test_a_frontend_that_is_not_training_s_fails_behind_it(out, table_of_clips, tmp_path, capsys):
    path = tmp_path / 'other'
    shutil.copytree(out, path)
    content = manifest.read(path)
    inputs = manifest.load(path).input
    # Of other bands.
    (path / 'frontend.tflite').write_bytes(frontend.build(dataclasses.replace(inputs.frontend, fmax=4000.0)))
    command = [str(path), '--clips', str(table_of_clips)]
    with pytest.raises(InputError, match=r'frontend\.tflite: expected the file that was verified'):
        verify.main(command)
    entry = manifest.file_of('frontend.tflite', (path / 'frontend.tflite').read_bytes())
    content['device']['frontend'] |= {'bytes': entry.bytes, 'sha256': entry.sha256}
    (path / manifest.FILE).write_text(json.dumps(content))
    assert verify.main(command) == 1
    assert 'failed: frontend, int8 in TFLM: expected the same decision' in capsys.readouterr().err


def test_the_waveform_model_is_the_model_on_the_samples_of_windows(out, trained):
    inputs, entry = manifest.load(out).input, manifest.load(out).device.waveform
    files = sorted((trained[0] / 'low' / 's1').glob('*.wav'))
    labelled = recordings.load([recordings.Clip(file, 1) for file in files], inputs, show_progress=False)
    pcm, windows = labelled.pcm(entry.samples)
    assert pcm.shape == (len(windows.features), entry.samples)
    expected = litert.load((out / 'model_float32.tflite').read_bytes())(windows.features)
    found = litert.load((out / entry.file).read_bytes())(pcm.astype(np.float32) / 32768)
    np.testing.assert_allclose(found, softmax(expected), atol=1e-4)


def test_a_folder_of_labels_and_without_the_training(out, trained, capsys):
    assert verify.main([str(out), '--clips', str(trained[0])]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith('30 clips, ')
    assert lines[0].endswith('against folded')
    assert lines[1].split()[:2] == ['form', 'runtime']
    assert [line.split()[0] for line in lines[2:4]] == ['folded', 'deploy']


def test_without_jax_the_reference_is_float32(out, table_of_clips, capsys, monkeypatch):
    """A base install, which has no jax, verifies what LiteRT runs."""
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None if name == 'jax' else real(name))
    assert verify.main([str(out), '--clips', str(table_of_clips)]) == 0
    printed, said = capsys.readouterr()
    assert printed.splitlines()[0].endswith('against float32')
    assert f'{out}/checkpoint is not scored: no jax; ' in said


def test_a_failing_gate_exits_with_1(broken, table_of_clips, capsys, monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['verify', str(broken), '--clips', str(table_of_clips)])
    with pytest.raises(SystemExit) as stopped:
        run(verify.main)
    assert stopped.value.code == 1
    err = capsys.readouterr().err
    assert 'failed: int8 in TFLM: expected the same decision in at least' in err
    assert (
        'failed: waveform in LiteRT: expected probabilities within 0.0001 of float32 in all but 1 windows, found '
        in err
    )


def test_a_limit_that_is_not_reached_exits_with_1(out, table_of_clips, capsys):
    command = [str(out), '--clips', str(table_of_clips), '--fail-under']
    assert verify.main([*command, 'snr=90']) == 1
    assert 'failed: int8 in LiteRT: expected snr of at least 90 (--fail-under), found ' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('limits', 'names'),
    [({'uar': 0.5}, []), ({'uar': 0.51}, ['uar']), ({'agreement': 0.91, 'snr': 21.0}, ['agreement', 'snr'])],
)
def test_limits(limits, names):
    found = manifest.Score(argmax_agreement=0.9, differing=1, snr_db=20.0, uar=0.5, max_abs_diff=0.1)
    row = scores.Row('int8', 'TFLM', found)
    assert [line.split('expected ')[1].split()[0] for line in scores.below(row, limits)] == names


@pytest.mark.parametrize(('largest', 'fails'), [(0.0, False), (None, True)])
def test_no_snr_is_the_best_where_nothing_differs_and_the_worst_where_nothing_is_finite(largest, fails):
    found = manifest.Score(argmax_agreement=1.0, differing=0, snr_db=None, uar=0.5, max_abs_diff=largest)
    row = scores.Row('int8', 'TFLM', found)
    assert bool(scores.below(row, {'snr': 30})) == fails


@pytest.mark.parametrize('text', ['agreement', 'agreement=99', 'wa=0.5', 'uar=x', 'snr='])
def test_a_limit_that_is_none_is_bad_input(out, text, capsys):
    with pytest.raises(SystemExit) as stopped:
        verify.main([str(out), '--clips', 'x', '--fail-under', text])
    assert stopped.value.code == 2
    assert '--fail-under: ' in capsys.readouterr().err


def test_another_checkpoint_is_refused(out, trained, table_of_clips, tmp_path):
    found = checkpoint.load(trained[1])
    other = checkpoint.Checkpoints(tmp_path / 'w' / checkpoint.FOLDER)
    own = found.meta['input']
    meta = {**found.meta, 'input': {**own, 'voice_mean': [value + 1 for value in own['voice_mean']]}}
    variables = jax.tree.map(np.asarray, found.variables)
    other.save(found.step, variables=variables, state={'step': jax.numpy.asarray(1)}, meta=meta, score=0.5, error=0.1)
    other.close()
    with pytest.raises(InputError, match='expected the checkpoint that was exported'):
        verify.main([str(out), '--clips', str(table_of_clips), '--checkpoint', str(tmp_path / 'w')])


@pytest.mark.parametrize(
    ('files', 'message'),
    [
        ({}, 'expected WAV, FLAC, MP3 or OGG files, found none'),
        ({'joy/1.wav': 1.0}, r"joy/1\.wav: expected a label of the model \(high, low\), found 'joy'"),
        ({'1.wav': 1.0}, 'expected it in a folder of its label'),
        ({'low/1.wav': 0.0}, r'clips: expected speech in at least one clip, found none'),
    ],
)
def test_bad_clips_are_refused(out, tmp_path, files, message):
    for name, level in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        soundfile.write(tmp_path / name, level * np.random.default_rng(0).uniform(-0.5, 0.5, 8000), 16000)
    with pytest.raises(InputError, match=message):
        verify.main([str(out), '--clips', str(tmp_path)])


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('path,speaker\na.wav,x\n', r"expected the columns path, label, found no 'label' in path, speaker"),
        (json.dumps({'text': ['x'] * 1000}), 'line 1: expected a row of a table, found: '),
        ('Path,LABEL,Speaker\na.wav,joy,x\n', r"expected a label of the model \(high, low\), found 'joy'"),
        ('path,label\na.wav,\n', 'line 2: expected path and label'),
        ('path,label\na.wav,low\n', r'a\.wav: expected'),
    ],
)
def test_bad_tables_are_refused(out, tmp_path, text, message):
    (tmp_path / 'clips.csv').write_text(text)
    with pytest.raises(InputError, match=message):
        verify.main([str(out), '--clips', str(tmp_path / 'clips.csv')])


def test_clips_become_the_windows_of_training(out, trained):
    inputs = manifest.load(out).input
    data = export_data.load_data(checkpoint.load(trained[1]), show_progress=False)
    file = trained[0] / data.corpus.id[int(data.clips('test')[0])]
    labelled = recordings.load([recordings.Clip(file, 1)], inputs, show_progress=False)
    found = labelled.windows()
    features, clip = windows_of(data, 'test')
    np.testing.assert_array_equal(found.features, features[clip == 0])
    assert (found.clip.tolist(), found.truth.tolist()) == ([0] * len(found.features), [1])
    # A device's codes are cut where the training's say: one that hears no speech has the same windows, of other values.
    other = labelled.windows([np.zeros_like(labelled.codes[0])])
    assert other.features.shape == found.features.shape
    assert not np.allclose(other.features, found.features)


def silence_and(files, tmp_path):
    """A table of these files and of two recordings in which nobody speaks."""
    soundfile.write(tmp_path / 'silence.wav', np.zeros(16000), 16000)
    noise = 0.01 * np.random.default_rng(0).standard_normal(16000)
    soundfile.write(tmp_path / 'noise.wav', noise, 16000)
    rows = [(file, file.parts[-3], file.parts[-2]) for file in files]
    rows += [(tmp_path / 'silence.wav', 'low', 'x'), (tmp_path / 'noise.wav', 'low', 'x')]
    path = tmp_path / 'clips.csv'
    path.write_text('path,label,Speaker\n' + ''.join(f'{file},{label},{speaker}\n' for file, label, speaker in rows))
    return path


def test_clips_without_speech_count_as_wrong_and_are_counted(out, trained, tmp_path, capsys):
    files = sorted((trained[0] / 'low' / 's0').glob('*.wav'))[:2] + sorted((trained[0] / 'high' / 's0').glob('*.wav'))
    uar = []
    for path in (silence_and(files, tmp_path), trained[0]):
        listed = recordings.listed(path, ('high', 'low'))
        chosen = listed if path != trained[0] else [clip for clip in listed if clip.path in files]
        labelled = recordings.load(chosen, manifest.load(out).input, show_progress=False)
        result = scores.score(out, manifest.load(out), labelled, show_progress=False)
        row = next(row for row in result.rows if row.form == 'float32')
        uar.append(row.score.uar)
        assert (result.clips, result.no_speech) == (len(chosen), len(chosen) - 5)
        capsys.readouterr()
    # Half of the clips of one of two classes.
    assert uar[1] == 1
    assert uar[0] == 0.75


@needs_tflm
def test_the_field_test_is_a_table_and_json_and_no_gate(out, trained, tmp_path, capsys, monkeypatch):
    kinds = {'level-30', 'zeros-around', 'white-10'}
    some = tuple(change for change in changes.CHANGES if change.name in kinds)
    monkeypatch.setattr(robustness.run, '__kwdefaults__', {**robustness.run.__kwdefaults__, 'changes': some})
    monkeypatch.setattr(robustness.silences, '__defaults__', (changes.SILENCES[:2],))
    files = [file for label in ('low', 'high') for file in sorted((trained[0] / label).glob('s[01]/[01].wav'))]
    command = [str(out), '--clips', str(silence_and(files, tmp_path)), '--field']
    assert verify.main([*command, '--json', '--field-tflm', '3', '--form', 'int16']) == 0
    found = json.loads(capsys.readouterr().out)['field']
    rows = {(row['change'], row['model']): row for row in found['changes']}
    assert list(rows) == [
        (name, form)
        for name in ('level-30', 'zeros-around', 'white-10')
        for form in ('int16', 'float32', 'int16 in TFLM')
    ]
    assert rows['zeros-around', 'int16']['kept'] == 1
    assert rows['zeros-around', 'int16']['no_speech'] == 2
    assert rows['zeros-around', 'int16 in TFLM']['clips'] == 3
    assert rows['zeros-around', 'int16 in TFLM']['as_first'] >= 2 / 3
    # Silence has no level.
    assert (rows['level-30', 'int16']['clips'], rows['level-30', 'int16']['skipped']) == (9, 1)
    assert [row['called_speech'] for row in found['silences']] == [0, 0]
    assert {row['history'] for row in found['voice']} == {'random'}
    assert verify.main([*command, '--fail-under', 'kept=1.0']) == int(rows['white-10', 'float32']['kept'] < 1)
    out_, err = capsys.readouterr()
    assert 'zeros-around' in out_
    assert 'voice known from' in out_
    assert 'field test: ' in err
    assert 'not tested' not in err
    assert 'no voices table' not in err


def test_what_the_field_test_could_not_test_is_said(out, table_of_clips, capsys, monkeypatch):
    never = tuple(dataclasses.replace(one, apply=lambda *_: None) for one in changes.CHANGES[:2])
    monkeypatch.setattr(robustness.run, '__kwdefaults__', {**robustness.run.__kwdefaults__, 'changes': never})
    monkeypatch.setattr(robustness.silences, '__defaults__', (changes.SILENCES[:1],))
    assert verify.main([str(out), '--clips', str(table_of_clips), '--field', '--fail-under', 'kept=0.9']) == 0
    err = capsys.readouterr().err
    assert 'not tested: level-20, level-30 applied to none of the clips\n' in err
    assert 'no voices table: no column speaker\n' in err


def test_what_the_field_test_lacks_is_said_before_clips_are_read(out, tmp_path, monkeypatch):
    path = tmp_path / 'out'
    shutil.copytree(out, path)
    content = manifest.read(path)
    del content['forms']['int16']
    (path / manifest.FILE).write_text(json.dumps(content))
    command = [str(path), '--clips', str(tmp_path / 'no clips'), '--field']
    with pytest.raises(InputError, match='expected form int16, found '):
        verify.main([*command, '--form', 'int16'])
    monkeypatch.setattr(scores.tflm, 'missing', lambda: 'not verified: not here')
    with pytest.raises(InputError, match=r'^--field-tflm: expected TFLM, found: not here$'):
        verify.main([*command, '--field-tflm', '2'])


def test_what_is_of_the_field_test_needs_it(out, capsys):
    for more in (['--form', 'int8'], ['--field-tflm', '2'], ['--fail-under', 'kept=0.9']):
        with pytest.raises(SystemExit, match='2'):
            verify.main([str(out), '--clips', 'x', *more])
        assert 'is of the field test: expected --field' in capsys.readouterr().err
