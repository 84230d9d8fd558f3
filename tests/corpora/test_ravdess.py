"""RAVDESS: what its file names say, and what is refused."""

import numpy as np
import pytest
import soundfile

from jax_reparam import corpora
from jax_reparam.corpora.ravdess import Ravdess
from jax_reparam.errors import InputError

EMOTIONS = ('neutral', 'calm', 'happy', 'sad', 'angry', 'fearful', 'disgust', 'surprised')


def name(emotion, actor, repetition=1):
    return f'03-01-{emotion:02d}-01-02-{repetition:02d}-{actor:02d}'


@pytest.fixture
def source(tmp_path, write_clip):
    for actor in (1, 10, 24):
        for emotion in range(1, 9):
            write_clip(tmp_path / 'ravdess' / f'Actor_{actor:02d}' / f'{name(emotion, actor)}.wav')
    return tmp_path / 'ravdess'


def test_names_give_label_and_speaker(source):
    found = Ravdess.find(str(source))
    assert found.labels == EMOTIONS
    expected = {name(e, a): (EMOTIONS[e - 1], f'{a:02d}') for e in range(1, 9) for a in (1, 10, 24)}
    assert {clip.id: (clip.label, clip.speaker) for clip in found.clips} == expected
    assert [clip.id for clip in found.clips] == sorted(expected)
    assert found.skipped == {}


def test_the_third_number_is_the_emotion_and_the_seventh_the_actor(tmp_path, write_clip):
    write_clip(tmp_path / 'Actor_08' / '03-01-06-02-01-02-08.flac')
    (clip,) = Ravdess.find(str(tmp_path)).clips
    assert (clip.label, clip.speaker) == ('fearful', '08')


def test_other_files_are_reported_or_passed_over(source, write_clip):
    others = {
        'Actor_01/03-02-05-01-01-01-01.wav': 'not speech alone (its name begins with 03-01)',
        'Actor_01/01-01-05-01-01-01-01.wav': 'not speech alone (its name begins with 03-01)',
        'Actor_01/03-01-09-01-01-01-01.wav': 'not named by seven numbers, as 03-01-05-01-02-01-01 is',
        'Actor_10/03-01-05-01-01-01-01.wav': 'its name says actor 01',
        f'Actor_10/{name(5, 10)}.wav': 'a second file of this clip',
    }
    write_clip(source / 'Actor_10' / f'{name(5, 10)}.flac')
    for path in others:
        write_clip(source / path)
    (source / 'Actor_01' / f'._{name(5, 1)}.wav').write_bytes(b'from a Macintosh')
    write_clip(source / 'Actor_25' / f'{name(5, 25)}.wav')
    found = Ravdess.find(str(source))
    assert len(found.clips) == 24
    assert dict(found.skipped) == others


def test_the_clip_that_is_there_twice_is_kept_once(tmp_path, source):
    first, second = (source / 'Actor_10' / f'{name(3, 10, n)}.wav' for n in (1, 2))
    second.write_bytes(first.read_bytes())
    corpus = corpora.prepare('ravdess', source=source, data_dir=tmp_path / 'data', accept_mismatch=True, progress=False)
    assert len(corpus) == 24
    assert first.stem in corpus.id
    assert corpus.skipped == ((second.stem, f'the same audio as {first.stem}'),)


def test_stereo_48_khz(tmp_path, source):
    path = source / 'Actor_01' / f'{name(2, 1)}.wav'
    wave = 0.3 * np.sin(2 * np.pi * 300 * np.arange(24000) / 48000)
    soundfile.write(path, np.stack([wave, wave / 2], axis=1), 48000)
    corpus = corpora.prepare('ravdess', source=source, data_dir=tmp_path / 'data', accept_mismatch=True, progress=False)
    samples = corpus.audio(corpus.id.index(path.stem))
    assert len(samples) == 8000
    assert abs(samples).max() == pytest.approx(0.225 * 32768, rel=0.01)


@pytest.mark.parametrize(
    ('folder', 'found'), [('wav', 'found no folder Actor_01'), ('Actor_02', 'found no clip named so in Actor_02')]
)
def test_another_layout(tmp_path, folder, found):
    (tmp_path / 'x' / folder).mkdir(parents=True)
    with pytest.raises(InputError, match=r'x: expected .*SOURCE/Actor_01/03-01-05-01-02-01-01\.wav.*' + found):
        Ravdess.find(str(tmp_path / 'x'))
