"""M3ED: annotation with its dirt, missing clips, series and their lists."""

import collections
import json

import numpy as np
import pytest

import trees
from jax_reparam import corpora
from jax_reparam.corpora.m3ed import M3ed, seconds_of
from jax_reparam.errors import InputError


@pytest.fixture
def source(tmp_path):
    return trees.m3ed(tmp_path / 'm3ed')


def edit(source, change):
    """Changes the turns of the first dialogue of anjia."""
    path = source / 'annotation.json'
    content = json.loads(path.read_text(encoding='utf-8'))
    change(content['anjia']['anjia_1']['Dialog'])
    path.write_text(json.dumps(content), encoding='utf-8')


def test_labels_speakers_series_and_parts(source):
    found = M3ed.find(str(source))
    assert found.labels == ('Happy', 'Neutral', 'Sad', 'Disgust', 'Anger', 'Fear', 'Surprise')
    clips = {clip.id: clip for clip in found.clips}
    assert len(clips) == 5 * 7 - 2
    parts = {'anjia': 'train', 'fendou': 'train', 'qinaide': 'validation', 'xiaohuanxi': 'test', 'zhihuo': 'test'}
    for id_, clip in clips.items():
        series, _, n = id_.split('_')
        person = ('\u623f\u4f3c\u9526', '\u5f90\u6587\u660c')[(int(n) - 1) % 2]
        assert clip.label == trees.M3ED_LABELS[int(n) - 1]
        assert (clip.speaker, clip.group, clip.part) == (f'{series}_{person}', series, parts[series])
    assert [clip.id for clip in found.clips] == sorted(clips)


def test_missing_clips_are_reported(source):
    assert dict(M3ed.find(str(source)).skipped) == {
        'fendou_1_1': 'no such file: modality_speech/A_fendou_1_1.wav',
        'zhihuo_1_2': 'no such file: modality_speech/B_zhihuo_1_2.wav',
    }


def test_times_of_the_episode(source):
    clips = {clip.id: clip for clip in M3ed.find(str(source)).clips}
    assert (clips['anjia_1_1'].start, clips['anjia_1_1'].end) == (pytest.approx(0.04), pytest.approx(1.2))
    last = clips['qinaide_1_7']
    assert (last.start, last.end) == (pytest.approx(126.04), pytest.approx(127 + 142 / 25))
    assert not last.cut


@pytest.mark.parametrize(
    ('text', 'seconds'),
    [
        ('01:02:03:05', 3723.2),
        (' 00: 00:00:01', 0.04),
        ('00:00:01:142', 6.68),
        ('', None),
        ('1:2:3', None),
        (None, None),
    ],
)
def test_seconds(text, seconds):
    assert seconds_of(text) == (None if seconds is None else pytest.approx(seconds))


def test_a_time_that_cannot_be_is_not_believed(source):
    def change(turns):
        turns['anjia_1_2']['EndTime'] = '00:00:00:00'
        turns['anjia_1_3']['StartTime'] = 'no time'

    edit(source, change)
    found = M3ed.find(str(source))
    assert [(clip.start, clip.end) for clip in found.clips if clip.id in ('anjia_1_2', 'anjia_1_3')] == [(0, None)] * 2
    assert found.notes == ('Turns without a readable time, or that end before they start: 2 (their start is 0).',)


def test_turns_that_cannot_be_used_are_reported(source):
    def change(turns):
        turns['anjia_1_1']['EmoAnnotation']['final_main_emo'] = 'Bored'
        turns['anjia_1_2']['Speaker'] = 'C'

    edit(source, change)
    (source / 'splitInfo' / 'movie_list_val.txt').write_text('')
    found = M3ed.find(str(source))
    skipped = dict(found.skipped)
    assert skipped['anjia_1_1'] == "its label 'Bored' is none of Happy, Neutral, Sad, Disgust, Anger, Fear, Surprise"
    assert skipped['anjia_1_2'] == "its speaker 'C' has no name in SpeakerInfo"
    assert skipped['qinaide_1_1'] == 'its series qinaide is in no list of splitInfo'
    assert len(found.clips) == 33 - 2 - 7


def test_two_labels_for_one_turn(source):
    path = source / 'annotation.json'
    content = json.loads(path.read_text(encoding='utf-8'))
    turn = json.dumps(content['anjia']['anjia_1']['Dialog']['anjia_1_1'])
    text = json.dumps(content)
    assert turn in text
    # The same key twice, which a plain reader of JSON would let pass.
    path.write_text(text.replace(turn, f'{turn}, "anjia_1_1": {turn.replace("Happy", "Sad")}', 1), encoding='utf-8')
    found = M3ed.find(str(source))
    assert found.conflicts == {'anjia_1_1': 'annotated as Happy and as Sad'}
    assert 'anjia_1_1' not in {clip.id for clip in found.clips}


def test_a_series_in_two_lists(source):
    (source / 'splitInfo' / 'movie_list_test.txt').write_text('zhihuo\nanjia')
    with pytest.raises(InputError, match=r'movie_list_test\.txt: expected .* found anjia in that of train too'):
        M3ed.find(str(source))


def test_prepared_with_its_parts(tmp_path, source):
    arguments = {'source': source, 'data_dir': tmp_path / 'data', 'progress': False}
    with pytest.raises(InputError, match=r'groups of train 2 \(published 38\), groups of validation 1 \(published 7\)'):
        corpora.prepare('m3ed', **arguments)
    corpus = corpora.prepare('m3ed', **arguments, accept_mismatch=True)
    assert collections.Counter(corpus.part) == {'train': 13, 'validation': 7, 'test': 13}
    i = corpus.id.index('xiaohuanxi_1_4')
    assert corpus.audio(i).tolist() == trees.sound(0.35, 153).tolist()
    assert (corpus.labels[corpus.label[i]], corpus.group[i]) == ('Disgust', 'xiaohuanxi')


@pytest.mark.parametrize('gone', ['annotation.json', 'splitInfo/movie_list_val.txt'])
def test_another_layout(source, gone):
    (source / gone).unlink()
    with pytest.raises(
        InputError, match=rf'm3ed: expected M3ED \(SOURCE/annotation\.json, .*\), found no {gone} in it'
    ):
        M3ed.find(str(source))


@pytest.mark.parametrize('text', ['{', '[]', '{"anjia": 3}', '{}'])
def test_a_damaged_annotation(source, text):
    (source / 'annotation.json').write_text(text)
    with pytest.raises(InputError, match=r'annotation\.json: expected '):
        M3ed.find(str(source))


def test_a_list_that_is_no_text_is_named(source):
    (source / 'splitInfo' / 'movie_list_val.txt').write_bytes('幸福'.encode('gbk'))
    with pytest.raises(InputError, match=r'movie_list_val\.txt: expected a list of series in UTF-8'):
        M3ed.find(str(source))


def test_damaged_annotations_are_refused_or_read_and_nothing_else(source):
    """150 annotations in which a value is another kind, or bytes are: clips and reasons, or one line."""
    path = source / 'annotation.json'
    content = json.loads(path.read_text(encoding='utf-8'))
    whole = path.read_bytes()
    odd = [None, 1, 1e400, True, 'x\n', [], [1], {}, {'a': {}}, '\udcff']
    for seed in range(150):
        rng = np.random.default_rng(seed)
        if seed % 3:
            copy = json.loads(json.dumps(content))
            place = copy
            for _ in range(rng.integers(1, 8)):
                key = rng.choice(sorted(place))
                if not isinstance(place[key], dict) or not place[key] or rng.random() < 0.2:
                    break
                place = place[key]
            if rng.random() < 0.2 or key not in place:
                key = '\x1b[31m'
            place[key] = odd[rng.integers(len(odd))]
            path.write_text(json.dumps(copy))
        else:
            data = bytearray(whole)
            at = int(rng.integers(len(data)))
            data[at : at + int(rng.integers(4))] = rng.bytes(int(rng.integers(4)))
            path.write_bytes(data)
        try:
            found = M3ed.find(str(source))
        except InputError as error:
            assert str(error).startswith(f'{path}: '), seed  # noqa: PT017
        else:
            assert all(id_.isprintable() and why.isprintable() for id_, why in found.skipped.items()), seed


def test_an_annotation_of_brackets_is_refused(source):
    (source / 'annotation.json').write_text('[' * 100_000)
    with pytest.raises(InputError, match=r'annotation\.json: expected JSON, found '):
        M3ed.find(str(source))
