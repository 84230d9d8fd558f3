"""What an export reads of a corpus: the one of the training, with its statistics; windows drawn once and for all."""

from __future__ import annotations

import dataclasses
import re
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from helpers import recipe, save, tones, windows_of
from jax_reparam import checkpoint
from jax_reparam.commands import fold as command
from jax_reparam.data import export_data
from jax_reparam.errors import InputError
from jax_reparam.frontend import speech
from jax_reparam.frontend.voice import VoiceConfig
from jax_reparam.train import loop


def test_all_test_windows(data):
    found = export_data.of_part(data, 'test', None)
    features, clip = windows_of(data, 'test')
    np.testing.assert_array_equal(found.features, features)
    np.testing.assert_array_equal(found.clip, clip)
    np.testing.assert_array_equal(found.truth, data.labels('test'))


@pytest.mark.parametrize('limit', [1, 5, 9])
def test_at_most_so_many_windows_of_whole_clips(data, limit):
    features, clip = windows_of(data, 'test')
    found = export_data.of_part(data, 'test', limit)
    assert len(found.features) <= limit or len(found.truth) == 1
    assert len(found.clip) == len(found.features)
    assert sorted(set(found.clip.tolist())) == list(range(len(found.truth)))
    # Each clip is whole, and carries its own label.
    originals = [int(clip[np.flatnonzero((features == window).all((1, 2)))[0]]) for window in found.features]
    for drawn, original in zip(found.clip, originals, strict=True):
        assert found.truth[drawn] == data.labels('test')[original]
        assert (found.clip == drawn).sum() == (clip == original).sum()


def test_calibration_draws_the_same_training_windows_each_time(data):
    features, places = export_data.calibration(data, 7)
    again, places_again = export_data.calibration(data, 7)
    np.testing.assert_array_equal(features, again)
    assert places == places_again
    assert len(set(places)) == len(places) == 7
    ids = {data.corpus.id[clip]: int(clip) for clip in data.clips('train')}
    for window, (clip, start) in zip(features, places, strict=True):
        expected = data.inputs.hear(data.features[ids[clip]][start : start + data.inputs.window.frames]).features
        np.testing.assert_array_equal(window, expected)


@pytest.mark.parametrize('history', [0.5, 1.0])
def test_some_calibration_windows_are_of_a_speaker_who_is_known(data, history):
    inputs = dataclasses.replace(data.inputs, voice=VoiceConfig(history=history))
    features, places = export_data.calibration(dataclasses.replace(data, inputs=inputs), 18)
    without, places_without = export_data.calibration(data, 18)
    assert places == places_without
    known = [not np.array_equal(a, b) for a, b in zip(features, without, strict=True)]
    assert all(known) == (history == 1)
    assert any(known)


def test_calibration_takes_all_where_there_are_fewer(data):
    features, _ = export_data.calibration(data, 10_000)
    assert len(features) == len(windows_of(data, 'train')[0])


def test_all_that_an_export_reads(workdir, data):
    trained = checkpoint.load(workdir)
    found = export_data.export_data(trained, 9, show_progress=False)
    calibration, places = export_data.calibration(data)
    np.testing.assert_array_equal(found.calibration, calibration)
    assert found.places == places
    np.testing.assert_array_equal(found.test.features, export_data.of_part(data, 'test', 9).features)
    np.testing.assert_array_equal(found.validation.features, windows_of(data, 'validation')[0])
    assert found.of_clips == len(data.clips('test')) > len(found.test.truth)
    for recording, clip in zip(found.recordings, data.clips('test')[: export_data.RECORDINGS], strict=True):
        np.testing.assert_array_equal(recording, data.corpus.audio(clip))
    # The field test's are clips of the test part, whole.
    clips = data.clips('test').tolist()
    test = [data.corpus.audio(clip) for clip in clips]
    of = [next(i for i, own in enumerate(test) if np.array_equal(own, one)) for one in found.field.samples]
    assert len(set(of)) == len(of) > 1
    np.testing.assert_array_equal(found.field.truth, data.corpus.label[[clips[i] for i in of]])
    assert list(found.field.speaker) == [data.corpus.speaker[clips[i]] for i in of]
    assert len(windows_of(data, 'test')[0]) <= export_data.FIELD_WINDOWS or len(of) < len(clips)
    clip, start = places[0]
    audio = data.corpus.audio(data.corpus.id.index(clip))
    active = speech.active(found.inputs.codes(audio), found.inputs.rule)
    window = found.inputs.hear(active[start : start + found.inputs.window.frames]).features
    np.testing.assert_array_equal(window, found.calibration[0])


def test_another_corpus_is_refused(tmp_path, config, variables, data):
    other = recipe(tones(tmp_path / 'source', speakers=4), tmp_path / 'cache')
    save(tmp_path / 'w', other, variables, data)
    with pytest.raises(InputError, match='expected the corpus and split that it was trained on, found another'):
        export_data.export_data(checkpoint.load(tmp_path / 'w'), show_progress=False)


def test_the_checkpoints_statistics_are_used(tmp_path, config, variables, data):
    """They travel with the model: those of today's corpus may differ."""
    inputs = dataclasses.replace(data.inputs, mean=data.inputs.mean + 1, std=data.inputs.std * 2)
    save(tmp_path / 'w', config, variables, dataclasses.replace(data, inputs=inputs))
    found = export_data.export_data(checkpoint.load(tmp_path / 'w'), show_progress=False)
    for name in ('mean', 'std', 'voice_mean'):
        np.testing.assert_array_equal(getattr(found.inputs, name), getattr(inputs, name))
    expected = (windows_of(data, 'test')[0] - 1 / data.inputs.std) / 2
    np.testing.assert_allclose(found.test.features, expected, atol=1e-5)


def same(a, b):
    """Whether two `ExportData` are the same, to the bit."""
    flat = jax.tree.map(np.asarray, [part_arrays(a), part_arrays(b)])
    jax.tree.map(np.testing.assert_array_equal, *flat)


def part_arrays(one):
    windows = [[w.features, w.clip, w.truth, w.unit if w.unit is not None else 0] for w in (one.validation, one.test)]
    field = [list(one.field.samples), one.field.truth, list(one.field.speaker)]
    places = [[clip for clip, _ in one.places], [start for _, start in one.places]]
    return [one.calibration, places, windows, one.validation.join, one.of_clips, list(one.recordings), field]


@pytest.mark.parametrize('limit', [None, 1, 9])
def test_what_a_checkpoint_carries_is_what_the_corpus_gives(workdir, limit):
    trained = checkpoint.load(workdir)
    found = export_data.Kept.from_arrays(trained.export()).export_data(trained.inputs, limit)
    same(found, export_data.export_data(trained, limit, show_progress=False))


@pytest.mark.parametrize(('join', 'history'), [('vote', 0.5), ('mean', 1.0)])
def test_speakers_and_known_voices_travel_too(data, join, history):
    protocol = dataclasses.replace(data.split.protocol, unit='speaker', join=join)
    inputs = dataclasses.replace(data.inputs, voice=VoiceConfig(history=history))
    data = dataclasses.replace(data, inputs=inputs, split=dataclasses.replace(data.split, protocol=protocol))
    # One label a speaker, as such a protocol has it.
    label = np.array([int(speaker > 'b') for speaker in data.corpus.speaker])
    data = dataclasses.replace(data, corpus=dataclasses.replace(data.corpus, label=label))
    kept = export_data.Kept.of(data)
    assert kept.test.unit is not None
    assert kept.test.join == join
    assert any(profile.frames for profile in kept.known)
    same(export_data.Kept.from_arrays(kept.arrays()).export_data(inputs), kept.export_data(inputs))


@pytest.mark.parametrize('limit', [1, 9])
def test_a_checkpoint_carries_some_test_windows(data, limit):
    kept = export_data.Kept.of(data, limit)
    found = export_data.Kept.from_arrays(kept.arrays()).export_data(data.inputs)
    np.testing.assert_array_equal(found.test.features, export_data.of_part(data, 'test', limit).features)
    assert found.of_clips == len(data.clips('test')) > len(found.test.truth)


def test_without_its_corpus_a_model_is_exported_by_what_the_checkpoint_carries(workdir, tmp_path, capsys):
    trained = checkpoint.load(workdir)
    elsewhere = trained.recipe.with_changes({'data.source': str(tmp_path / 'nowhere')})
    moved = dataclasses.replace(trained, recipe=elsewhere)
    found = export_data.export_data(moved, show_progress=False)
    assert re.fullmatch(
        r'no corpus at hand \(.*nowhere.*\): verified on what the checkpoint carries of it, 6 of 6 test clips\n',
        capsys.readouterr().err,
    )
    same(found, export_data.export_data(trained, show_progress=False))
    # Its place can be named.
    same(export_data.export_data(moved, source=trained.recipe.data.source, show_progress=False), found)
    with pytest.raises(InputError, match='nowhere2'):
        export_data.export_data(trained, source=str(tmp_path / 'nowhere2'), show_progress=False)


def test_a_checkpoint_that_carries_nothing_needs_the_corpus(tmp_path, config, variables, data):
    save(tmp_path / 'w', config.with_changes({'data.source': str(tmp_path / 'nowhere')}), variables, data)
    with pytest.raises(InputError, match='nowhere'):
        export_data.export_data(checkpoint.load(tmp_path / 'w'), show_progress=False)


def test_what_a_checkpoint_carries_may_be_deleted_but_not_be_damaged(workdir, tmp_path):
    shutil.copytree(workdir, tmp_path / 'w')
    export = checkpoint.load(tmp_path / 'w').path / 'export'
    biggest = max((path for path in export.rglob('d/*') if path.is_file()), key=lambda path: path.stat().st_size)
    content = bytearray(biggest.read_bytes())
    content[len(content) // 2] ^= 1
    biggest.write_bytes(content)
    with pytest.raises(InputError, match='expected a whole checkpoint, found a damaged one'):
        checkpoint.load(tmp_path / 'w').export()
    shutil.rmtree(export)
    assert checkpoint.load(tmp_path / 'w').export() is None
    assert checkpoint.damaged(tmp_path / 'w' / 'checkpoints') == {}


@pytest.mark.slow
def test_without_its_corpus_a_model_becomes_the_same_files_byte_for_byte(tmp_path, capsys):
    source = tones(tmp_path / 'source')
    recipe_ = recipe(source, tmp_path / 'cache', train__steps=30, train__eval_every=30, train__average=0.0)
    loop.train(recipe_, tmp_path / 'w', show_progress=False)
    command.main([str(tmp_path / 'w'), str(tmp_path / 'with'), '--quiet'])
    assert 'no corpus at hand' not in capsys.readouterr().err
    source.rename(tmp_path / 'elsewhere')
    command.main([str(tmp_path / 'w'), str(tmp_path / 'without'), '--quiet'])
    assert f'no corpus at hand ({source}: expected' in capsys.readouterr().err
    files = {path.relative_to(tmp_path / 'with') for path in (tmp_path / 'with').rglob('*.tflite')}
    assert {Path('model_float32.tflite'), Path('model_int8.tflite')} <= files
    assert files == {path.relative_to(tmp_path / 'without') for path in (tmp_path / 'without').rglob('*.tflite')}
    for path in files:
        assert (tmp_path / 'with' / path).read_bytes() == (tmp_path / 'without' / path).read_bytes(), path
