"""DAIC-WOZ: participants' turns at their times, known faults, split tables as they are."""

import collections

import numpy as np
import pytest

import trees
from jax_reparam import corpora
from jax_reparam.corpora.daic_woz import DaicWoz
from jax_reparam.errors import InputError
from jax_reparam.frontend import audio


@pytest.fixture
def source(tmp_path):
    return trees.daic_woz(tmp_path / 'daic')


def of(found, participant):
    return [clip for clip in found.clips if clip.speaker == str(participant)]


def everyone():
    return [(participant, part, *row) for part, rows in trees.DAIC_TABLES.items() for participant, *row in rows]


def test_only_the_participants_usable_turns_at_their_times(source):
    found = DaicWoz.find(str(source))
    assert {clip.speaker for clip in found.clips} == {str(participant) for participant, *_ in everyone()}
    for participant, *_ in everyone():
        times = [(clip.start, clip.end) for clip in of(found, participant)]
        # Written with six decimals.
        np.testing.assert_allclose(times, trees.daic_times(participant), atol=1e-6)
        assert all(clip.cut for clip in of(found, participant))
    assert [clip.id for clip in found.clips] == sorted(clip.id for clip in found.clips)
    assert of(found, 318)[0].start == pytest.approx(8.25 + 34.319917, abs=1e-6)


def test_the_score_decides_also_where_the_binary_is_wrong(source):
    found = DaicWoz.find(str(source))
    parts = {'train': 'train', 'dev': 'validation', 'test': 'test'}
    for participant, part, score, _ in everyone():
        clips = of(found, participant)
        assert {clip.label for clip in clips} == {'depressed' if score >= 10 else 'not depressed'}
        assert {clip.part for clip in clips} == {parts[part]}
    assert {clip.label for clip in of(found, 409)} == {'depressed'}
    assert found.labels == ('not depressed', 'depressed')


def test_turns_that_are_not_used_say_why(source):
    skipped = dict(DaicWoz.find(str(source)).skipped)
    reasons = [reason for id_, reason in skipped.items() if id_.startswith('303_')]
    assert sorted(reasons) == [
        'ends at 26.000000 s and starts at 27.000000 s',
        'no speech of the interview: <sync>',
        'no speech of the interview: i live in scrubbed_entry',
    ]
    for participant, window in {373: '395 to 428', 444: '286 to 387'}.items():
        inside = [reason for id_, reason in skipped.items() if id_.startswith(str(participant)) and 'inter' in reason]
        assert inside.count(f'in the interruption of the session from {window} s') == 3


def test_another_contradiction_is_a_conflict(source):
    path = source / 'train_split_Depression_AVEC2017.csv'
    path.write_text(path.read_text().replace('303,0,0', '303,1,0'))
    found = DaicWoz.find(str(source))
    assert found.conflicts == {'303': 'a score of 0, and 1 as PHQ8_Binary'}
    assert of(found, 303) == []


def test_sessions_that_are_excluded_or_not_there(source):
    path = source / 'train_split_Depression_AVEC2017.csv'
    path.write_text(path.read_text() + '342,0,3,1,0\n490,0,3,1,0\n491,,,1,0\n')
    skipped = dict(DaicWoz.find(str(source)).skipped)
    assert skipped['342'] == 'a session that the release excludes'
    assert skipped['490'] == 'no such file: 490_P/490_TRANSCRIPT.csv'
    assert skipped['491'] == 'no score in train_split_Depression_AVEC2017.csv'


def test_without_scores_the_test_participants_are_left_out(source):
    (source / 'full_test_split.csv').unlink()
    found = DaicWoz.find(str(source))
    assert {clip.part for clip in found.clips} == {'train', 'validation'}
    assert found.notes == ('Its test participants have no labels without full_test_split.csv, and are left out.',)
    assert found.published.part_speakers == {'train': 107, 'validation': 35}


def test_a_participant_in_two_tables(source):
    path = source / 'dev_split_Depression_AVEC2017.csv'
    path.write_text(path.read_text() + '303,0,0,1,0\n')
    with pytest.raises(InputError, match=r'dev_split.*\.csv: expected a participant in one table, found 303 in two'):
        DaicWoz.find(str(source))


def test_a_transcript_without_the_interviewer_must_be_a_known_one(source):
    path = source / '303_P' / '303_TRANSCRIPT.csv'
    path.write_text('\n'.join(line for line in path.read_text().splitlines() if 'Ellie' not in line))
    with pytest.raises(InputError, match=r'303_TRANSCRIPT\.csv: expected turns of Ellie too'):
        DaicWoz.find(str(source))


def test_turns_are_cut_without_reading_the_rest(tmp_path, source, monkeypatch):
    def whole(*_):
        raise AssertionError('a whole recording is decoded')

    monkeypatch.setattr(audio, 'decode', whole)
    arguments = {'source': source, 'data_dir': tmp_path / 'data', 'accept_mismatch': True, 'progress': False}
    corpus = corpora.prepare('daic_woz', **arguments)
    assert collections.Counter(corpus.speaker)['373'] == 5
    for participant, *_ in everyone():
        recording = trees.daic_recording(participant)
        clips = [i for i, speaker in enumerate(corpus.speaker) if speaker == str(participant)]
        for i, (start, stop) in zip(clips, trees.daic_times(participant), strict=True):
            expected = recording[round(16000 * start) : round(16000 * stop)]
            # The transcript's six decimals may round to the neighbouring sample.
            assert abs(len(corpus.audio(i)) - len(expected)) <= 1
            np.testing.assert_array_equal(corpus.audio(i)[:100], expected[:100])
    assert corpus.mismatches == (
        'speakers of train 5 (published 107)',
        'speakers of validation 3 (published 35)',
        'speakers of test 2 (published 47)',
    )


def test_a_turn_that_ends_after_its_recording(tmp_path, source):
    path = source / '303_P' / '303_TRANSCRIPT.csv'
    path.write_text(path.read_text() + '69.5\t75.0\tParticipant\tbye\n80.0\t81.0\tParticipant\tbye\n')
    corpus = corpora.prepare(
        'daic_woz', source=source, data_dir=tmp_path / 'data', accept_mismatch=True, progress=False
    )
    (last,) = (i for i, id_ in enumerate(corpus.id) if id_.startswith('303_') and corpus.seconds[i] == 0.5)
    assert corpus.audio(last).tolist() == trees.daic_recording(303)[-8000:].tolist()
    assert 'expected audio from 80.000 s on, found 70.000 s of it in all' in dict(corpus.skipped).values()


def test_each_recording_is_hashed_once(source, monkeypatch):
    from jax_reparam.corpora import builder

    hashed = []
    inner = builder._hash_file
    monkeypatch.setattr(builder, '_hash_file', lambda path: hashed.append(path) or inner(path))
    clips = DaicWoz.find(str(source)).clips
    digests = dict(zip((clip.id for clip in clips), DaicWoz.fingerprints(clips), strict=True))
    assert len(hashed) == len(set(hashed)) == 10
    assert len(set(digests.values())) == 10


@pytest.mark.parametrize('gone', ['train', 'dev', 'test'])
def test_another_layout(source, gone):
    (source / f'{gone}_split_Depression_AVEC2017.csv').unlink()
    with pytest.raises(InputError, match=rf'daic: expected DAIC-WOZ \(.*300_AUDIO\.wav.*\), found no {gone}_split_'):
        DaicWoz.find(str(source))


@pytest.mark.parametrize(
    ('old', 'new', 'message'),
    [
        (b',13,', b',inf,', 'expected numbers in line'),
        (b',13,', b',1e400,', 'expected numbers in line'),
        (b',13,', b',nan,', 'expected numbers in line'),
        (b',13,', b',ten,', 'expected numbers in line'),
        (b',13,', b',\xff,', 'expected a table in UTF-8'),
        (b',13,', b',1,3,', 'expected 3 cells'),
        (b',13,', b',' + b'1' * 200_000 + b',', 'field larger than field limit'),
        (b'articipant_ID', b'erson', "found no 'Participant_ID'"),
    ],
)
def test_a_damaged_table_is_named(source, old, new, message):
    path = source / 'train_split_Depression_AVEC2017.csv'
    data = path.read_bytes()
    at = data.index(b'\n')
    if b'articipant' not in old:
        data = data[: at + 1] + b'301,13,\n'.replace(old, new) + data[at + 1 :]
        data = data.replace(data[:at], b'Participant_ID,PHQ8_Score,Gender', 1)
    else:
        data = data.replace(old, new)
    path.write_bytes(data)
    with pytest.raises(InputError, match=rf'{path}: .*{message}'):
        DaicWoz.find(str(source))


@pytest.mark.parametrize('time', ['nan', 'inf', '1e999', '-inf', ''])
def test_times_that_are_no_numbers_are_left_out(source, time):
    (path,) = source.glob('303_P/303_TRANSCRIPT.csv')
    text = path.read_text() + f'{time}\t99\tParticipant\tyes\n'
    path.write_text(text)
    skipped = DaicWoz.find(str(source)).skipped
    assert any(f'expected two times, found {time!r} and ' in reason for reason in skipped.values())
