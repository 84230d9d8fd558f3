"""Nothing of the test fold reaches a model: for every protocol, over random corpora, and by poisoning the test fold."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import json

import jax
import numpy as np
import pytest
import soundfile

from helpers import QUICK, recipe, untimed
from jax_reparam import checkpoint, corpora
from jax_reparam.data import export_data, pipeline, protocols
from jax_reparam.errors import InputError
from jax_reparam.train import loop

from .test_protocols import corpus

PARTS = ('train', 'validation', 'test')
HOLDING_OUT = [name for name in protocols.NAMES if name != 'all']


def drawn(seed, *, speakers=24, groups=6):
    """A corpus with sessions of whole speakers, parts of whole sessions, one label a speaker, and uneven turns."""
    rng = np.random.default_rng(seed)
    names, group, part, label = [], [], [], []
    for s in range(speakers):
        g = s % groups
        for _ in range(rng.integers(1, 9)):
            names.append(f's{s:02d}')
            group.append(f'g{g}')
            part.append(PARTS[0 if g < 3 else g % 2 + 1])
            label.append(s // groups % 2)
    order = rng.permutation(len(names))
    made = corpus([names[i] for i in order], labels=('no', 'yes'), label=[label[i] for i in order])
    return dataclasses.replace(
        made,
        group=tuple(group[i] for i in order),
        part=tuple(part[i] for i in order),
        seconds=rng.choice([1.0, 2.0, 2.5, 4.0], len(names)),
    )


@pytest.mark.parametrize('name', [name for name in HOLDING_OUT if name != 'random'])
@pytest.mark.parametrize('seed', range(12))
def test_no_speaker_or_session_lies_on_two_sides(name, seed):
    corp = drawn(seed)
    apart = {'speaker', protocols.PROTOCOLS[name].apart}
    for fold in range(protocols.folds(corp, name)):
        split = protocols.split(corp, protocol=name, fold=fold, seed=seed)
        for what in apart:
            sides = [{getattr(corp, what)[i] for i in getattr(split, part)} for part in PARTS]
            assert all(sides)
            assert sum(map(len, sides)) == len(set.union(*sides))


@pytest.mark.parametrize('name', HOLDING_OUT)
@pytest.mark.parametrize('seed', range(6))
def test_labels_of_the_test_fold_move_no_clip(name, seed):
    """Neither who validates, nor which turns are used, depends on what is to be found out."""
    corp = drawn(seed)
    split = protocols.split(corp, protocol=name, seed=seed)
    label = corp.label.copy()
    label[split.test] = 1 - label[split.test]
    other = protocols.split(dataclasses.replace(corp, label=label), protocol=name, seed=seed)
    if name == 'random':  # draws the same share of each label, and says that speakers overlap
        return
    for part in PARTS:
        np.testing.assert_array_equal(getattr(split, part), getattr(other, part))


def test_every_participant_gives_the_same_number_of_longest_turns():
    corp = drawn(3)
    split = protocols.split(corp, protocol='interviews_dev', turns=3)
    used = np.concatenate([getattr(split, part) for part in PARTS])
    for speaker in {corp.speaker[i] for i in used}:
        own = [i for i in range(len(corp)) if corp.speaker[i] == speaker]
        chosen = [i for i in used if corp.speaker[i] == speaker]
        assert len(chosen) == min(3, len(own))
        assert sorted(corp.seconds[chosen]) == sorted(corp.seconds[own])[-len(chosen) :]
    assert {corp.part[i] for i in split.test} == {'validation'}
    assert {corp.part[i] for i in np.concatenate([split.train, split.validation])} == {'train'}
    assert {corp.label[i] for i in split.validation} == {0, 1}
    # The test part is another run, of the same model.
    other = protocols.split(corp, protocol='interviews_test', turns=3)
    assert (split.info['note'], other.info['note']) == (protocols.DEV, '')
    assert {corp.part[i] for i in other.test} == {'test'}
    np.testing.assert_array_equal(split.train, other.train)
    np.testing.assert_array_equal(split.validation, other.validation)
    assert (split.info['unit'], split.info['turns'], split.info['metric']) == ('speaker', 3, 'macro_f1')


def test_iemocap_holds_a_session_out_and_validates_on_the_next():
    speakers = [f'Ses{s:02d}{g}' for s in range(1, 6) for g in 'FM'] * 4
    corp = dataclasses.replace(corpus(speakers, name='iemocap/all'), group=tuple(s[:5] for s in speakers))
    splits = [protocols.split(corp, fold=fold) for fold in range(protocols.folds(corp))]
    assert [split.info['test_speakers'] for split in splits] == [[f'Ses0{s}F', f'Ses0{s}M'] for s in range(1, 6)]
    assert splits[4].info['validation_speakers'] == ['Ses01F', 'Ses01M']
    assert [split.info['note'] for split in splits] == [''] * 5
    # By speaker: who validates comes out of another session, and that the partner trains is said.
    one = protocols.split(corp, protocol='loso')
    assert one.info['folds'] == 10
    assert (one.info['test_speakers'], one.info['validation_speakers']) == (['Ses01F'], ['Ses02F'])
    assert one.info['note'] == protocols.GROUPS_OVERLAP


def test_a_corpus_that_cannot_be_held_apart_is_refused():
    corp = drawn(0)
    with pytest.raises(InputError, match="expected clips of its own part 'train' for protocol own_split, found none"):
        protocols.split(corpus(['a', 'b', 'c']), protocol='own_split')
    with pytest.raises(InputError, match='expected a session of every clip for protocol sessions'):
        protocols.split(corpus(['a', 'b', 'c']), protocol='sessions')
    train = next(i for i in range(len(corp)) if corp.part[i] == 'train')
    mixed = dataclasses.replace(corp, part=(*corp.part[:train], 'test', *corp.part[train + 1 :]))
    with pytest.raises(InputError, match='expected every group in one part for protocol own_split'):
        protocols.split(mixed, protocol='own_split')
    label = corp.label.copy()
    label[np.flatnonzero(np.array(corp.speaker) == 's00')[0]] ^= 1
    with pytest.raises(InputError, match=r'expected one label of speaker s00 for protocol .*, found no, yes'):
        protocols.split(dataclasses.replace(corp, label=label), protocol='interviews_dev')
    with pytest.raises(InputError, match='expected a protocol that decides by speaker, found loso'):
        protocols.split(corp, protocol='loso', turns=3)


def table(folder, *, poisoned=(), flip=True):
    """Ten speakers of noise, half of them low; the clips in `poisoned` have other audio and, with `flip`, labels."""
    folder.mkdir()
    with (folder / 'clips.csv').open('w') as file:
        rows = csv.writer(file)
        rows.writerow(['path', 'label', 'speaker'])
        for s in range(10):
            for clip in range(3):
                name = f'{s}_{clip}.wav'
                rng = np.random.default_rng([s, clip, name in poisoned])
                length = 9000 + 2000 * clip + 500 * s  # as long as it was: what is poisoned is what is heard
                sound = (1 + s % 2) * np.convolve(rng.standard_normal(length), np.ones(1 + 4 * (s % 2)), 'same')
                if name in poisoned:
                    sound = 5 * np.cumsum(sound) / length
                sound *= 0.05 + 0.95 * np.sin(2 * np.pi * 2 * np.arange(length) / 16000) ** 2  # or it is no speech
                soundfile.write(folder / name, (900 * sound).clip(-32768, 32767).astype(np.int16), 16000)
                rows.writerow([name, ('high', 'low')[(s % 2) ^ (flip and name in poisoned)], f's{s}'])
    return folder / 'clips.csv'


@pytest.fixture
def grouped(monkeypatch):
    """Corpora have two speakers a session, and the sessions are parts."""
    parts = {'g0': 'validation', 'g1': 'test'}
    prepare = corpora.prepare

    def prepared(*args, **kwargs):
        corp = prepare(*args, **kwargs)
        group = tuple(f'g{int(speaker[1]) // 2}' for speaker in corp.speaker)
        return dataclasses.replace(corp, group=group, part=tuple(parts.get(g, 'train') for g in group))

    monkeypatch.setattr(corpora, 'prepare', prepared)


def handed(data):
    """All that the data give to training and to export, the test part aside."""
    validation = export_data.of_part(data, 'validation', export_data.VALIDATION_WINDOWS)
    return {
        'statistics': (data.inputs.mean, data.inputs.std, data.inputs.voice_mean),
        'class weights': loop.balanced_weights(data.labels('train'), len(data.corpus.labels)),
        'training': list(itertools.islice(data.batches(size=4, seed=0, start=0), 8)),
        'choice of the checkpoint': (list(data.spoken(data.clips('validation'), 8)), data.truth('validation')),
        'choice of the form': (validation.features, validation.clip, validation.truth),
        'calibration': export_data.calibration(data, 5),
    }


def clean_and_poisoned(name, folder):
    """A recipe's data, and those of a source in which the test fold is another: (config, data) each."""
    found = []
    for run in ('clean', 'poisoned'):
        # The labels of `random` decide who is drawn.
        poisoned = {found[0][1].corpus.id[i] for i in found[0][1].split.test} if found else set()
        source = table(folder / run, poisoned=poisoned, flip=name != 'random')
        # Without a warm-up, whose first step moves nothing: the chosen checkpoint may be the first.
        short = {'steps': 3, 'eval_every': 1, 'batch_size': 4, 'warmup_steps': 0}
        changes = QUICK | {f'train__{key}': value for key, value in short.items()}
        config = recipe(source, folder / 'cache', data__protocol=name, voice__history=0.5, **changes)
        found.append((config, pipeline.load_data(config, show_progress=False)))
    (_, clean), (_, other) = found
    for clip in clean.split.test:
        assert not np.array_equal(clean.features[clip], other.features[clip])
    assert name == 'random' or (clean.labels('test') != other.labels('test')).all()
    return found


@pytest.mark.parametrize('name', HOLDING_OUT)
def test_a_poisoned_test_fold_reaches_nothing_that_training_or_export_takes(name, tmp_path, grouped):
    (_, clean), (_, other) = clean_and_poisoned(name, tmp_path)
    jax.tree.map(np.testing.assert_array_equal, handed(clean), handed(other))


def test_a_poisoned_test_fold_changes_nothing_of_the_model(tmp_path, grouped):
    found = []
    for run, (config, _) in zip(('clean', 'poisoned'), clean_and_poisoned('interviews_test', tmp_path), strict=True):
        loop.train(config, tmp_path / f'w_{run}', show_progress=False)
        lines = (tmp_path / f'w_{run}' / 'metrics.jsonl').read_text().splitlines()
        found.append((checkpoint.load(tmp_path / f'w_{run}'), [untimed(json.loads(line)) for line in lines]))
    (clean, log), (other, other_log) = found
    assert clean.step == other.step
    assert log == other_log
    assert clean.meta['input'] == other.meta['input']
    jax.tree.map(np.testing.assert_array_equal, clean.variables, other.variables)
