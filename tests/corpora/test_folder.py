"""A folder or a table of the user's own clips."""

import os
import sys

import pytest
import soundfile

import trees
from jax_reparam import corpora
from jax_reparam.corpora.folder import Folder
from jax_reparam.corpora.found import Found, doubts
from jax_reparam.errors import InputError


def listed(found):
    return {clip.id: (clip.label, clip.speaker) for clip in found.clips}


def test_folders_give_label_and_speaker(tmp_path, write_clip):
    write_clip(tmp_path / 'joy' / 'ann' / 'x.wav')
    write_clip(tmp_path / 'anger' / 'bob' / 'session 1' / 'x.flac')
    write_clip(tmp_path / 'anger' / 'ann' / 'Ü.WAV')
    (tmp_path / 'anger' / 'ann' / 'notes.txt').write_text('passed over')
    (tmp_path / 'README.txt').write_text('passed over')
    (tmp_path / '.git').mkdir()
    found = Folder.find(str(tmp_path))
    assert listed(found) == {
        'anger/ann/Ü.WAV': ('anger', 'ann'),
        'anger/bob/session 1/x.flac': ('anger', 'bob'),
        'joy/ann/x.wav': ('joy', 'ann'),
    }
    assert [clip.id for clip in found.clips] == sorted(listed(found))
    assert found.labels == ('anger', 'joy')
    assert found.skipped == {}


@pytest.mark.skipif(sys.platform != 'linux', reason='other systems take no such name')
def test_a_name_that_is_not_utf8_is_reported(tmp_path, write_clip):
    for label in ('anger', 'joy'):
        write_clip(tmp_path / label / 'ann' / 'x.wav')
    (tmp_path / 'joy' / 'ann' / os.fsdecode(b'fr\xf6hlich.wav')).touch()
    found = Folder.find(str(tmp_path))
    assert len(found.clips) == 2
    assert found.skipped == {'joy/ann/fr?hlich.wav': 'its name is not UTF-8'}


def test_clips_without_the_folder_of_a_speaker_are_reported(tmp_path, write_clip):
    write_clip(tmp_path / 'joy' / 'ann' / 'x.wav')
    write_clip(tmp_path / 'anger' / 'ann' / 'x.wav')
    write_clip(tmp_path / 'anger' / 'x.wav')
    found = Folder.find(str(tmp_path))
    assert len(found.clips) == 2
    assert found.skipped == {'anger/x.wav': 'not in the folder of a speaker (SOURCE/LABEL/SPEAKER/clip.wav)'}


@pytest.mark.parametrize(('delimiter', 'start'), [(',', ''), (';', '\ufeff'), ('\t', '')])
def test_tables(tmp_path, write_clip, delimiter, start):
    write_clip(tmp_path / 'clips' / 'a, b.wav')
    write_clip(tmp_path / 'c.wav')
    write_clip(tmp_path / 'elsewhere' / 'd.flac')
    rows = [
        ['speaker', ' path', 'age', 'label'],
        ['ann', '"clips/a, b.wav"', '33', 'joy'],
        [' bob', 'c.wav', '', ' anger '],
        ['ann', str(tmp_path / 'elsewhere' / 'd.flac'), '', 'joy'],
    ]
    table = tmp_path / 'clips.csv'
    table.write_text(start + '\r\n'.join(delimiter.join(row) for row in rows), encoding='utf-8')
    found = Folder.find(str(table))
    assert listed(found) == {
        'clips/a, b.wav': ('joy', 'ann'),
        'c.wav': ('anger', 'bob'),
        str(tmp_path / 'elsewhere' / 'd.flac'): ('joy', 'ann'),
    }
    assert [clip.id for clip in found.clips] == sorted(listed(found))
    assert found.labels == ('anger', 'joy')


def test_rows_that_cannot_be_used_are_reported(tmp_path, write_clip):
    write_clip(tmp_path / 'a.wav')
    write_clip(tmp_path / 'b.wav')
    write_clip(tmp_path / 'c.wav')
    table = tmp_path / 'clips.csv'
    table.write_text(
        'path,label,speaker\na.wav,joy,ann\nb.wav,anger,bob\nc.wav,joy,\ngone.wav,joy,ann\na.wav,joy,bob\n,joy,ann\nx,,\n'
    )
    found = Folder.find(str(table))
    assert listed(found) == {'a.wav': ('joy', 'ann'), 'b.wav': ('anger', 'bob')}
    assert dict(found.skipped) == {
        'c.wav': 'path, label or speaker is empty',
        'gone.wav': 'no such file',
        'a.wav (line 6)': 'listed before, as joy of ann',
        'line 7': 'path, label or speaker is empty',
        'x': 'path, label or speaker is empty',
    }


def test_a_file_listed_under_two_labels_is_left_out(tmp_path, write_clip):
    for name in 'abc':
        write_clip(tmp_path / f'{name}.wav')
    table = tmp_path / 'clips.csv'
    table.write_text('path,label,speaker\na.wav,joy,ann\nb.wav,anger,bob\nc.wav,joy,ann\na.wav,anger,ann\n')
    found = Folder.find(str(table))
    assert listed(found) == {'b.wav': ('anger', 'bob'), 'c.wav': ('joy', 'ann')}
    assert found.conflicts == {'a.wav': 'listed as joy, and as anger in line 5'}
    assert found.skipped == {}


@pytest.mark.parametrize('column', ['path', 'label', 'speaker'])
def test_a_table_without_a_column(tmp_path, column):
    columns = [name for name in ('path', 'label', 'speaker') if name != column]
    (tmp_path / 'clips.csv').write_text(','.join(columns) + '\n1,2\n')
    with pytest.raises(
        InputError, match=rf"clips\.csv: expected the columns .* no '{column}' in {', '.join(columns)}$"
    ):
        Folder.find(str(tmp_path / 'clips.csv'))


def test_a_table_of_files_that_are_gone(tmp_path):
    (tmp_path / 'clips.csv').write_text('path,label,speaker\na.wav,joy,ann\nb.wav,anger,ann\n')
    with pytest.raises(InputError, match=r"none of 'anger'; skipped 2, first a\.wav \(no such file\)"):
        corpora.prepare('folder', source=tmp_path / 'clips.csv', data_dir=tmp_path / 'data', progress=False)


def test_one_label_is_nothing_to_learn(make_folder):
    with pytest.raises(InputError, match='expected at least 2 labels, found joy'):
        Folder.find(str(make_folder(labels=('joy',))))


@pytest.mark.parametrize('source', ['', 'gone'])
def test_no_source(tmp_path, source):
    with pytest.raises(InputError, match=r'expected .*folder.*SOURCE/LABEL/SPEAKER/clip\.wav, or a table of path'):
        Folder.find(source and str(tmp_path / source))


def test_a_label_without_clips_is_named(make_folder, tmp_path):
    source = make_folder()
    (source / 'fear').mkdir()
    with pytest.raises(InputError, match=r"source: expected usable clips of every label, found none of 'fear'$"):
        corpora.prepare('folder', source=source, data_dir=tmp_path / 'data', progress=False)


def test_a_label_whose_clips_are_all_bad_is_named(make_folder, tmp_path):
    source = make_folder()
    for path in source.glob('joy/*/*.wav'):
        path.write_text('no audio')
    with pytest.raises(
        InputError, match=r"found none of 'joy'; skipped 6, first joy/ann/0\.wav \(expected WAV, FLAC, MP3 or OGG"
    ):
        corpora.prepare('folder', source=source, data_dir=tmp_path / 'data', progress=False)
    assert not list(tmp_path.glob('data/*/folder/*'))


BAD_LABELS = (
    *('<script>alert(1)</script>', 'a\nb', 'a\rb', '\x1b[31mred', 'what??/', 'a\u2028b', 'a\u202eb', '\x00', 'a\x7f'),
    *('a"b', 'a\\b', 'a`b`', 'a|b', '[a](http://b)', '*a*', '{a}', '$a$', 'a' * 81, '\ud800'),
)


@pytest.mark.parametrize('label', BAD_LABELS, ids=ascii)
def test_labels_that_cannot_stand_everywhere_are_refused(label):
    with pytest.raises(InputError, match=r'^label: expected 1 to 80 letters') as error:
        Found(('anger', label), ())
    assert str(error.value).isprintable()


@pytest.mark.parametrize(
    'label',
    [
        'a',
        'Ärger',
        '喜び',
        '😀',
        '\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645',
        'R&D?',
        "don't know (10 %)",
        'x_y-z/1',
    ],
)
def test_labels_that_can(label):
    assert Found(('anger', label), ()).labels == ('anger', label)


def test_a_speaker_with_control_characters_is_refused(make_folder):
    source = make_folder(speakers=('ann', 'bo\nb'))
    with pytest.raises(InputError, match=r"^speaker: expected a name without control characters, found 'bo\\\\nb'$"):
        Folder.find(str(source))


@pytest.mark.parametrize(
    ('labels', 'doubt'),
    [
        (('anger', 'joy', 'fear'), None),
        (('anger', 'NaN'), 'labels that look like missing values: NaN'),
        (('N/A', 'anger', 'none'), 'labels that look like missing values: N/A, none'),
        (('Anger', 'anger', 'joy'), 'labels that are written alike: Anger, anger'),
        (('very happy', 'very_happy', 'joy'), 'labels that are written alike: very happy, very_happy'),
        (
            ('A\u0308rger', 'joy', '\u00c4rger'),
            'labels that are written alike: A\u0308rger (A\\u0308rger), \u00c4rger (\\xc4rger)',
        ),
    ],
)
def test_labels_that_are_probably_a_mistake(labels, doubt):
    assert doubts(labels, map(str, range(9))) == ((doubt,) if doubt else ())


def test_doubts_are_said_every_time_and_stand_in_the_report(make_folder, tmp_path, capsys):
    source = make_folder(labels=('Anger', 'anger'))
    for _ in range(2):
        corpus = corpora.prepare('folder', source=source, data_dir=tmp_path / 'data')
        line = capsys.readouterr().err.splitlines()[-1]
        assert '2 labels (Anger, anger); warning: labels that are written alike: Anger, anger' in line
    assert '**To check:** labels that are written alike: Anger, anger.' in corpus.report.read_text()


def test_speakers_where_labels_should_be(make_folder):
    source = make_folder(labels=('ann', 'bob', 'cleo', 'dan'), speakers=('anger', 'joy'))
    (doubt,) = Folder.find(str(source)).doubts
    assert doubt == '4 labels and 2 speakers (anger, joy): are they the wrong way round?'


def test_parts_where_labels_should_be(make_folder, tmp_path, write_clip):
    source = make_folder(labels=('train', 'Test'), speakers=('anger', 'joy'))
    with pytest.raises(InputError, match=r'found parts of a corpus: Test, train; move the clips'):
        Folder.find(str(source))


def test_what_a_mac_leaves_in_archives_is_no_label(make_folder):
    source = make_folder()
    (source / '__MACOSX' / 'joy' / 'ann').mkdir(parents=True)
    (source / '__MACOSX' / 'joy' / 'ann' / '._0.wav').touch()
    assert Folder.find(str(source)).labels == ('anger', 'joy')


def test_all_that_is_left_out_is_told(make_folder, tmp_path):
    """Audio is tried, whatever its format; of other files the kinds are counted."""
    source = make_folder()
    folder = source / 'joy' / 'ann'
    soundfile.write(folder / 'a.mp3', trees.sound(0.35, 1), 16000, format='MP3')
    (folder / 'b.m4a').write_bytes(b'\0\0\0\x20ftypM4A ')
    (folder / 'c.txt').touch()
    (folder / 'LICENSE').touch()
    corpus = corpora.prepare('folder', source=source, data_dir=tmp_path / 'data', progress=False)
    assert 'joy/ann/a.mp3' in corpus.id
    ((id_, reason),) = corpus.skipped
    assert id_ == 'joy/ann/b.m4a'
    assert reason.startswith('expected WAV, FLAC, MP3 or OGG audio, found ')
    assert 'Files that are not named as audio, passed over: 1 .txt, 1 no suffix.' in corpus.report.read_text()
