"""Who trains, who chooses and who tests."""

import collections
import json
from pathlib import Path

import numpy as np
import pytest

from jax_reparam.corpora import Corpus
from jax_reparam.data import protocols
from jax_reparam.errors import InputError


def corpus(speakers, name='folder', labels=('anger', 'joy', 'neutral'), label=None):
    """A corpus with one clip an entry of `speakers`, whose labels take turns; nothing of it is on the disk."""
    n = len(speakers)
    if label is None:
        so_far = collections.Counter()
        label = [(so_far.update([speaker]), so_far[speaker] - 1)[1] % len(labels) for speaker in speakers]
    return Corpus(
        name=name,
        labels=tuple(labels),
        label=np.asarray(label, np.int64),
        speaker=tuple(speakers),
        id=tuple(f'{i:05d}' for i in range(n)),
        group=('',) * n,
        part=('',) * n,
        seconds=np.ones(n),
        key='',
        directory=Path(),
    )


def dealt(speakers, clips, seed=0):
    """A corpus in which the clips of the speakers are mixed."""
    names = [f'{s:02d}' for s in range(1, speakers + 1) for _ in range(clips)]
    np.random.default_rng(seed).shuffle(names)
    return corpus(names)


def every_fold(corp, protocol=''):
    return [protocols.split(corp, protocol=protocol, fold=fold) for fold in range(protocols.folds(corp, protocol))]


def parts(split):
    return {'train': split.train, 'validation': split.validation, 'test': split.test}


def check_partition(split, n):
    """Every clip is in exactly one of the three sets; none is empty; indices ascend."""
    assert sorted(np.concatenate(list(parts(split).values())).tolist()) == list(range(n))
    for indices in parts(split).values():
        assert indices.dtype == np.int64
        assert len(indices)
        assert np.all(np.diff(indices) > 0)


@pytest.mark.parametrize(('name', 'decision'), [
    ('folder', ('clip', 'mean', 0, 'uar')),
    ('daic_woz', ('speaker', 'mean', 2, 'macro_f1')),
])  # fmt: skip
def test_all_trains_on_every_clip_and_decides_as_the_corpus_does(name, decision):
    speakers = ['a', 'a', 'a', 'b', 'b']
    corp = corpus(speakers, name=name, label=[0, 0, 0, 1, 1])
    assert protocols.folds(corp, 'all') == 1
    split = protocols.split(corp, protocol='all', turns=2 if name == 'daic_woz' else 0)
    assert split.train.tolist() == ([0, 1, 3, 4] if name == 'daic_woz' else [0, 1, 2, 3, 4])
    assert len(split.validation) == len(split.test) == 0
    assert tuple(split.info[key] for key in ('unit', 'join', 'turns', 'metric')) == decision
    assert split.info['train_speakers'] == ['a', 'b']
    # What is missing is said of the clips that train, and of no part that is empty.
    assert split.info['note'] == f'{protocols.NOTHING_HELD_OUT}; no training clip of neutral'


def check_info(split, corp):
    for key, indices in parts(split).items():
        assert split.info[f'{key}_speakers'] == sorted({corp.speaker[i] for i in indices})
        counted = collections.Counter(corp.labels[corp.label[i]] for i in indices)
        assert split.info['counts'][key] == {label: counted[label] for label in corp.labels}
    assert json.loads(json.dumps(split.info)) == split.info


@pytest.mark.parametrize('protocol', ['loso', 'speakers5'])
@pytest.mark.parametrize('speakers', [*range(3, 13), 24, 31])
def test_speakers_are_apart_in_every_fold(speakers, protocol):
    corp = dealt(speakers, clips=1 + speakers % 3, seed=speakers)
    names = set(corp.speaker)
    splits = every_fold(corp, protocol)
    tested = [speaker for split in splits for speaker in split.info['test_speakers']]
    assert sorted(tested) == sorted(names)
    for fold, split in enumerate(splits):
        check_partition(split, len(corp))
        check_info(split, corp)
        sets = [{corp.speaker[i] for i in indices} for indices in parts(split).values()]
        assert sum(map(len, sets)) == len(names) == len(set.union(*sets))
        assert (split.info['name'], split.info['fold'], split.info['folds']) == (protocol, fold, len(splits))
    if protocol == 'loso':
        validated = [speaker for split in splits for speaker in split.info['validation_speakers']]
        assert sorted(validated) == sorted(names)


@pytest.mark.parametrize('seed', range(20))
def test_random_takes_the_same_share_of_every_label(seed):
    rng = np.random.default_rng(seed)
    labels = [0, 1, 2] * 3 + rng.integers(0, 3, rng.integers(0, 400)).tolist()
    corp = corpus([f'{i % 4}' for i in range(len(labels))], label=labels)
    split = protocols.split(corp, protocol='random', seed=seed)
    check_partition(split, len(corp))
    check_info(split, corp)
    for c in range(3):
        n = labels.count(c)
        for indices in (split.validation, split.test):
            assert abs(int(np.sum(corp.label[indices] == c)) - 0.15 * n) <= max(0.5, 1 - 0.15 * n)


def test_random_is_drawn_by_its_seed():
    corp = dealt(6, 30)
    one, same, other = (protocols.split(corp, protocol='random', seed=seed) for seed in (1, 1, 2))
    for key in parts(one):
        np.testing.assert_array_equal(parts(one)[key], parts(same)[key])
        assert set(parts(one)[key]) != set(parts(other)[key])
    assert one.info['seed'] == 1
    assert set(one.train) & set(other.test)


def test_results_of_random_splits_are_marked():
    corp = dealt(6, 30)
    split = protocols.split(corp, protocol='random')
    assert split.info['note'] == 'speakers overlap'
    assert set(split.info['train_speakers']) & set(split.info['test_speakers'])
    assert all(split.info['note'] == '' for p in ('loso', 'speakers5') for split in every_fold(corp, p))


def test_emodb_leaves_one_speaker_out():
    speakers = ['03', '08', '09', '10', '11', '12', '13', '14', '15', '16']
    splits = every_fold(corpus(speakers * 9, name='emodb'))
    assert [split.info['name'] for split in splits] == ['loso'] * 10
    assert [split.info['test_speakers'] for split in splits] == [[s] for s in speakers]
    assert [split.info['validation_speakers'] for split in splits] == [[s] for s in [*speakers[1:], '03']]


@pytest.mark.parametrize('name', ['ravdess', 'synth', 'folder'])
def test_others_have_five_folds_of_speakers(name):
    actors = [f'{n:02d}' for n in range(1, 25)]
    splits = every_fold(corpus(actors * 8, name=name))
    assert [split.info['name'] for split in splits] == ['speakers5'] * 5
    assert splits[0].info['test_speakers'] == ['01', '06', '11', '16', '21']
    assert splits[0].info['validation_speakers'] == ['02', '07']
    assert splits[4].info['test_speakers'] == ['05', '10', '15', '20']
    assert splits[4].info['validation_speakers'] == ['01', '06']


def test_folds_of_ravdess_hold_men_and_women():
    actors = [f'{n:02d}' for n in range(1, 25)]
    for split in every_fold(corpus(actors * 8, name='ravdess')):
        for key in ('train', 'validation', 'test'):
            men = [int(actor) % 2 for actor in split.info[f'{key}_speakers']]
            assert abs(2 * sum(men) - len(men)) <= 1, (key, men)


@pytest.mark.parametrize(('speakers', 'keep'), [(3, 1), (4, 1), (5, 1), (9, 1), (10, 2), (24, 2)])
def test_few_speakers_validate(speakers, keep):
    for split in every_fold(dealt(speakers, 3), 'speakers5'):
        assert len(split.info['validation_speakers']) == keep


def test_fewer_than_five_speakers_have_a_fold_each():
    assert [protocols.folds(dealt(n, 2), 'speakers5') for n in (3, 4, 5, 6)] == [3, 4, 5, 5]
    assert protocols.folds(dealt(6, 2), 'random') == 1


def test_seeds_do_not_move_the_folds_of_speakers():
    corp = dealt(12, 3)
    for protocol in ('loso', 'speakers5'):
        one, other = (protocols.split(corp, protocol=protocol, fold=1, seed=seed) for seed in (0, 1))
        np.testing.assert_array_equal(one.test, other.test)
        np.testing.assert_array_equal(one.train, other.train)


def test_a_label_that_nobody_trains_is_noted():
    corp = corpus(['a', 'b', 'c'] * 4, labels=('x', 'y'), label=[0, 0, 1] + [0] * 9)
    notes = [split.info['note'] for split in every_fold(corp, 'loso')]
    assert notes == [
        'no validation clip of y; no test clip of y',
        'no training clip of y; no test clip of y',
        'no training clip of y; no validation clip of y',
    ]


@pytest.mark.parametrize('protocol', ['speakers5', 'loso'])
@pytest.mark.parametrize('patients', range(3, 16, 2))
@pytest.mark.parametrize('sorted_', [True, False])
def test_patients_and_controls_both_choose(patients, protocol, sorted_):
    """Speakers who each have one label: validation has both, training too, and with enough of them the test part."""
    people = 20
    label = np.arange(people) >= patients
    if not sorted_:
        np.random.default_rng(patients).shuffle(label)
    speakers = [f'{n:02d}' for n in range(people)]
    corp = corpus(speakers * 3, labels=('patient', 'control'), label=np.tile(label, 3))
    splits = every_fold(corp, protocol)
    for split in splits:
        check_partition(split, len(corp))
        counts = split.info['counts']
        assert min(counts['validation'].values()) > 0
        assert min(counts['train'].values()) > 0
        missing = [name for name, clips in counts['test'].items() if not clips]
        assert split.info['note'] == (f'no test clip of {", ".join(missing)}' if missing else '')
        if protocol == 'speakers5' and patients >= 5:
            assert not missing
    assert sorted(speaker for split in splits for speaker in split.info['test_speakers']) == sorted(set(speakers))


def test_validation_never_takes_the_last_training_speaker_of_a_label():
    """Of three labels with two speakers each, one tests and one trains."""
    speakers = [f'{label}{n}' for label in 'abc' for n in range(2)]
    corp = corpus(speakers * 2, label=[0, 0, 1, 1, 2, 2] * 2)
    for split in every_fold(corp, 'loso'):
        assert min(split.info['counts']['train'].values()) > 0


@pytest.mark.parametrize('protocol', ['', 'loso', 'speakers5'])
@pytest.mark.parametrize(('speakers', 'found'), [(['ann'], r'1 \(ann\)'), (['ann', 'bob'], r'2 \(ann, bob\)')])
def test_too_few_speakers(protocol, speakers, found):
    corp = corpus(speakers * 12)
    with pytest.raises(InputError, match=rf'^folder: expected at least 3 speakers .* found {found}; protocol random'):
        protocols.split(corp, protocol=protocol)
    assert protocols.split(corp, protocol='random').info['note'] == 'speakers overlap'


def test_too_few_clips_for_a_random_split():
    with pytest.raises(InputError, match=r"at least 3 clips of 'y' .* found 2"):
        protocols.split(corpus(['a'] * 9, labels=('x', 'y'), label=[0] * 7 + [1] * 2), protocol='random')


@pytest.mark.parametrize(
    ('protocol', 'fold', 'last'), [('loso', 6, 5), ('speakers5', 5, 4), ('random', 1, 0), ('loso', -1, 5)]
)
def test_a_fold_that_is_not_there(protocol, fold, last):
    with pytest.raises(InputError, match=rf'^fold: expected 0 to {last} .* found {fold}$'):
        protocols.split(dealt(6, 3), protocol=protocol, fold=fold)


@pytest.mark.parametrize('call', [protocols.folds, lambda corp, protocol: protocols.split(corp, protocol=protocol)])
def test_an_unknown_protocol(call):
    with pytest.raises(
        InputError, match=r"^protocol: expected one of loso, speakers5, random, .*, found 'losso'; did you mean 'loso'"
    ):
        call(dealt(6, 3), 'losso')
