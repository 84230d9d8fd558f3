"""IEMOCAP: evaluation files as they are, speakers, labels, and what is refused."""

import collections

import pytest

import trees
from jax_reparam import corpora
from jax_reparam.corpora.iemocap import PUBLISHED, Iemocap
from jax_reparam.errors import InputError


@pytest.fixture
def source(tmp_path):
    return trees.iemocap(tmp_path)


def test_four_classes_count_excitement_as_happiness(source):
    found = Iemocap.find(str(source))
    assert found.labels == ('ang', 'hap', 'neu', 'sad')
    assert collections.Counter(clip.label for clip in found.clips) == {'ang': 10, 'hap': 20, 'neu': 10, 'sad': 10}
    labels = {clip.id: clip.label for clip in found.clips}
    assert labels['Ses01F_impro01_F000'] == 'neu'
    assert labels['Ses01F_impro01_M000'] == 'ang'
    assert labels['Ses03M_impro01_F001'] == 'hap'
    assert labels['Ses03M_impro01_M001'] == 'hap'
    assert labels['Ses05F_script02_2_M002'] == 'sad'
    assert [clip.id for clip in found.clips] == sorted(labels)
    assert (found.skipped, found.conflicts) == ({}, {})
    assert found.notes == ('Turns with other labels, not used: fru 10, sur 10, xxx 10.',)


def test_all_labels_on_request(source):
    found = Iemocap.find(str(source), 'all')
    assert found.labels == ('ang', 'dis', 'exc', 'fea', 'fru', 'hap', 'neu', 'oth', 'sad', 'sur', 'xxx')
    for dialog in ('Ses01F', 'Ses04M'):
        labels = {clip.id: clip.label for clip in found.clips}
        assert all(labels[f'{dialog}_{turn}'] == label for turn, label, *_ in trees.IEMOCAP_TURNS)
    assert len(found.clips) == 80
    assert found.published is PUBLISHED['all']


def test_the_last_letter_says_who_speaks_and_the_first_who_wears_the_markers(source):
    clips = {clip.id: clip for clip in Iemocap.find(str(source), 'all').clips}
    for session in range(1, 6):
        for wearer in 'FM':
            for turn, _, start, end in trees.IEMOCAP_TURNS:
                clip = clips[f'Ses0{session}{wearer}_{turn}']
                assert clip.speaker == f'Ses0{session}{turn.rpartition("_")[2][0]}'
                assert clip.group == f'Ses0{session}'
                assert (clip.start, clip.end, clip.cut) == (start, end, False)
                assert clip.path.parent.name == clip.id.rpartition('_')[0]
    assert len({clip.speaker for clip in clips.values()}) == 10


@pytest.mark.parametrize('config', ['four', 'all'])
def test_the_published_counts_add_up(config):
    published = PUBLISHED[config]
    assert sum(published.labels.values()) == published.clips
    assert sum(published.groups.values()) in (0, published.clips)
    assert set(published.labels) == set(Iemocap.label_names(config))


def test_the_folder_above_the_release(source):
    assert len(Iemocap.find(str(source.parent)).clips) == 50


def test_turns_that_cannot_be_used_are_reported(source):
    evaluations = source / 'Session2' / 'dialog' / 'EmoEvaluation'
    path = evaluations / 'Ses02F_impro01.txt'
    path.write_text(path.read_text('latin-1') + '[40.1 - 41.0]\tSes02F_impro01_M009\tbor\t[2.5, 2.5, 2.5]\n')
    (evaluations / 'Ses02F_impro02.txt').write_text('[1.0 - 2.0]\tSes02F_impro01_F000\tang\t[2.5, 2.5, 2.5]\n')
    (source / 'Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_M000.wav').unlink()
    found = Iemocap.find(str(source))
    assert len(found.clips) == 48
    assert dict(found.skipped) == {
        'Ses01F_impro01_M000': 'no such file',
        'Ses02F_impro01_M009': "its label 'bor' is none of ang, dis, exc, fea, fru, hap, neu, oth, sad, sur, xxx",
    }
    assert dict(found.conflicts) == {'Ses02F_impro01_F000': 'evaluated as neu and as ang'}


@pytest.mark.parametrize(('config', 'count'), [('', 50), ('/all', 80)])
def test_prepared_with_its_sessions(tmp_path, source, config, count, monkeypatch):
    # Four of the eleven labels are not in the tree.
    monkeypatch.setattr('jax_reparam.corpora.iemocap.CODES', ('ang', 'exc', 'fru', 'hap', 'neu', 'sad', 'sur', 'xxx'))
    arguments = {'source': source, 'data_dir': tmp_path / 'data', 'accept_mismatch': True, 'progress': False}
    corpus = corpora.prepare(f'iemocap{config}', **arguments)
    assert (corpus.name, len(corpus)) == (f'iemocap{config}', count)
    assert set(corpus.group) == {f'Ses0{n}' for n in range(1, 6)}
    assert set(corpus.part) == {''}
    i = corpus.id.index('Ses02M_impro01_F001')
    assert corpus.labels[corpus.label[i]] == ('exc' if config else 'hap')
    assert corpus.speaker[i] == 'Ses02F'
    assert corpus.audio(i).tolist() == trees.sound(0.35, 2102).tolist()
    assert corpora.prepare(f'iemocap{config}', **arguments).directory == corpus.directory


def test_another_copy_stops_with_the_numbers(tmp_path, source):
    with pytest.raises(InputError) as error:
        corpora.prepare('iemocap', source=source, data_dir=tmp_path / 'data', progress=False)
    text = str(error.value)
    assert 'clips 50 (published 5,531), label ang 10 (published 1,103), label hap 20 (published 1,636)' in text
    assert 'group Ses03 10 (published 1,151)' in text
    assert '--accept-mismatch' in text
    assert '\n' not in text


@pytest.mark.parametrize(
    ('gone', 'found'),
    [
        ('', 'found no Session1 in it'),
        ('Session1/dialog/EmoEvaluation', 'found no Session1/dialog/EmoEvaluation in it'),
        ('Session2/sentences/wav', 'found no Session2/sentences/wav in it'),
    ],
)
def test_another_layout(tmp_path, gone, found):
    top = tmp_path / 'x'
    (top / 'other').mkdir(parents=True)
    for session in (1, 2) if gone else ():
        for path in ('dialog/EmoEvaluation', 'sentences/wav'):
            if f'Session{session}/{path}' != gone:
                (top / f'Session{session}' / path).mkdir(parents=True)
    expected = (
        r'x: expected IEMOCAP \(SOURCE/Session1/dialog/EmoEvaluation/Ses01F_impro01\.txt and SOURCE/Session1/sent'
    )
    with pytest.raises(InputError, match=f'{expected}.*{found}$'):
        Iemocap.find(str(top))
