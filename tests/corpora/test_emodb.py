"""EMO-DB: what its file names say, and what is refused."""

import pytest

from jax_reparam import corpora
from jax_reparam.corpora.emodb import LETTERS, Emodb
from jax_reparam.errors import InputError

# One name of every emotion, as the corpus has them.
NAMES = {
    '03a01Wa': ('anger', '03'),
    '08a02La': ('boredom', '08'),
    '09b01Eb': ('disgust', '09'),
    '10b10Ac': ('fear', '10'),
    '11a05Fd': ('happiness', '11'),
    '16b09Nb': ('neutral', '16'),
    '15a07Ta': ('sadness', '15'),
}


@pytest.fixture
def source(tmp_path, write_clip):
    for name in NAMES:
        write_clip(tmp_path / 'emodb' / 'wav' / f'{name}.wav')
    (tmp_path / 'emodb' / 'erkennung.txt').write_text('a table of the corpus\n')
    return tmp_path / 'emodb'


@pytest.mark.parametrize('inner', ['', 'wav'])
def test_names_give_label_and_speaker(source, inner):
    found = Emodb.find(str(source / inner))
    assert {clip.id: (clip.label, clip.speaker) for clip in found.clips} == NAMES
    assert [clip.id for clip in found.clips] == sorted(NAMES)
    assert found.labels == ('anger', 'boredom', 'disgust', 'fear', 'happiness', 'neutral', 'sadness')
    assert found.skipped == {}


def test_every_letter_is_its_german_word():
    german = {
        'Wut': 'anger',
        'Langeweile': 'boredom',
        'Ekel': 'disgust',
        'Angst': 'fear',
        'Freude': 'happiness',
        'Trauer': 'sadness',
        'Neutral': 'neutral',
    }
    assert {word[0]: label for word, label in german.items()} == LETTERS


def test_other_files_are_reported_or_passed_over(source, write_clip):
    write_clip(source / 'wav' / '03a01Xa.wav')
    write_clip(source / 'wav' / '3a01Fa.wav')
    write_clip(source / 'wav' / '03a01Wa.flac')
    (source / 'wav' / '._03a01Wa.wav').write_bytes(b'from a Macintosh')
    (source / 'wav' / 'notes.txt').write_text('passed over')
    found = Emodb.find(str(source))
    assert len(found.clips) == len(NAMES)
    assert dict(found.skipped) == {
        '03a01Xa.wav': 'not named speaker, text, emotion, version, as 03a01Fa is',
        '3a01Fa.wav': 'not named speaker, text, emotion, version, as 03a01Fa is',
        '03a01Wa.wav': 'a second file of this clip',
    }


def test_prepared_clips_hold_the_files_samples(tmp_path, source, write_clip):
    samples = write_clip(source / 'wav' / '14a01Fa.FLAC')
    corpus = corpora.prepare('emodb', source=source, data_dir=tmp_path / 'data', accept_mismatch=True, progress=False)
    clip = corpus.id.index('14a01Fa')
    assert (corpus.labels[corpus.label[clip]], corpus.speaker[clip]) == ('happiness', '14')
    assert corpus.audio(clip).tolist() == samples.tolist()


@pytest.mark.parametrize(
    ('make', 'found'),
    [
        (lambda top: None, 'found nothing there'),
        (lambda top: top.write_text('not a folder'), 'found a file'),
        (lambda top: top.mkdir(), 'found an empty folder'),
        (lambda top: (top / 'wav').mkdir(parents=True), 'found no clip named so in its folder wav'),
        (lambda top: (top / 'Actor_01').mkdir(parents=True), 'found no clip named so in it'),
    ],
)
def test_another_layout(tmp_path, make, found):
    make(tmp_path / 'x')
    with pytest.raises(InputError, match=r'x: expected .*SOURCE/wav/03a01Fa\.wav.*' + found):
        Emodb.find(str(tmp_path / 'x'))


def test_no_source():
    with pytest.raises(InputError, match=r'emodb: expected its folder as the source .* found none given'):
        Emodb.find('')
