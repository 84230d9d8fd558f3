"""Folders and tables of the user: what is listed, in which order, and what is said of a bad table."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest
from etils import epath

from jax_reparam.errors import InputError
from jax_reparam.frontend import audio_files


@pytest.mark.parametrize('kind', [Path, epath.Path])
def test_audio_below_a_folder_by_name_and_without_hidden_files(tmp_path, kind):
    names = [
        'b/2.wav',
        'b/10.FLAC',
        'b/a/1.Wav',
        'a.flac',
        'c.mp3',
        'notes.txt',
        '._a.flac',
        '.git/3.wav',
        '__MACOSX/b/5.wav',
        'b/.x/4.wav',
    ]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / 'b' / 'folder.wav').mkdir()
    files = audio_files.below(kind(tmp_path))
    names = ['a.flac', 'b/10.FLAC', 'b/2.wav', 'b/a/1.Wav', 'c.mp3']
    assert [file.relative_to(tmp_path).as_posix() for file in files] == names
    assert all(isinstance(file, kind) for file in files)


@pytest.mark.parametrize(('delimiter', 'start'), [(',', ''), (';', '\ufeff'), ('\t', '')])
def test_rows_of_a_table(tmp_path, delimiter, start):
    lines = [
        ['label', ' path', 'said', '', ''],
        [' joy ', '"a, b;c.wav"', '"one\n\ttwo"', '', ''],
        [],
        ['anger', '', ''],
        ['', '"e.wav"', '"a ""b"""', '', '', ''],
        ['', '', '', '', ''],
    ]
    (tmp_path / 'clips.csv').write_text(start + '\r\n'.join(map(delimiter.join, lines)), encoding='utf-8', newline='')
    expected = [(3, ['a, b;c.wav', 'joy']), (5, ['', 'anger']), (6, ['e.wav', '']), (7, ['', ''])]
    assert list(audio_files.rows(tmp_path / 'clips.csv', ('path', 'label'))) == expected


@pytest.mark.parametrize(('content', 'message'), [
    (b'', "expected the columns path, label, found no 'path' in it"),
    (b'path,name\n', "expected the columns path, label, found no 'label' in path, name"),
    ('path,label\na.wav,Ärger\n'.encode('latin-1'), 'expected a table in UTF-8, found another encoding'),
    (b'path,label\na.wav,joy\n"b.wav,' + b'x' * 2**17, 'line 3: expected a row of a table, found: field larger than'),
])  # fmt: skip
def test_a_table_that_is_none_is_refused(tmp_path, content, message):
    (tmp_path / 'clips.csv').write_bytes(content)
    with pytest.raises(InputError, match=f'^{tmp_path}/clips.csv: {re.escape(message)}'):
        list(audio_files.rows(tmp_path / 'clips.csv', ('path', 'label')))


FINE = 'path,label,speaker\n' + ''.join(f'{n}.wav,joy,ann\n' for n in range(90))


@pytest.mark.parametrize(('old', 'new', 'message'), [
    ('5.wav,joy', '5.wav,well, you know,joy', 'line 7: expected 3 cells (path, label, speaker), found 5; a comma'),
    ('5.wav,joy', '5.wav', 'line 7: expected 3 cells (path, label, speaker), found 2; a comma within a cell needs'),
    ('5.wav,joy', '"5.wav,joy', 'line 91: expected a row of a table, found: unexpected end of data'),
    ('5.wav,joy', '"5".wav,joy', "line 7: expected a row of a table, found: ',' expected after "),
    ('5.wav,joy', '5.wav,"jo\ny"', 'line 8: expected one line of text as label, found jo\\ny'),
    ('5.wav,joy', '5.wav,j\x1b[31moy', 'line 7: expected one line of text as label, found j\\x1b[31moy'),
    ('5.wav,joy', '5\0.wav,joy', 'line 7: expected one line of text as path, found 5\\x00.wav'),
    ('speaker', 'speaker,Label', "expected the columns path, label, speaker, found 2 columns 'label' in path, label, "),
    ('5.wav,joy', 'x' * 200_000, 'line 7: expected a row of a table, found: field larger than field limit'),
])  # fmt: skip
def test_rows_that_would_shift_are_refused(tmp_path, old, new, message):
    (tmp_path / 'clips.csv').write_text(FINE)
    columns = ('path', 'label', 'speaker')
    assert len(list(audio_files.rows(tmp_path / 'clips.csv', columns))) == 90
    (tmp_path / 'clips.csv').write_text(FINE.replace(old, new, 1), newline='')
    with pytest.raises(InputError) as error:
        list(audio_files.rows(tmp_path / 'clips.csv', columns))
    assert str(error.value).startswith(f'{tmp_path}/clips.csv: {message}')


def test_damaged_tables_give_rows_as_they_were_or_an_error(tmp_path):
    """300 tables with bytes replaced, cut off, doubled or put in: no row has its words in other columns."""
    whole = FINE.replace('joy', '"joy, or so"').encode()
    marks = b',;\t\n\r" \0\x1b\xff\xc3'
    for seed in range(300):
        rng = np.random.default_rng(seed)
        data = bytearray(whole)
        for _ in range(rng.integers(1, 4)):
            at = int(rng.integers(19, len(data)))
            match rng.integers(4):
                case 0:
                    data[at] = rng.choice(list(marks))
                case 1:
                    data[at:at] = rng.bytes(2)
                case 2:
                    del data[at : at + int(rng.integers(1, 40))]
                case 3:
                    data[at:at] = data[at : at + int(rng.integers(1, 40))]
        (tmp_path / 'clips.csv').write_bytes(data)
        try:
            for _, (path, label, speaker) in audio_files.rows(tmp_path / 'clips.csv', ('path', 'label', 'speaker')):
                assert all(map(str.isprintable, (path, label, speaker))), seed
                # What is damaged within a cell is another word; a cell that begins as another column's does is not.
                assert not path.startswith(('joy, o', 'ann')), seed
                assert not speaker.startswith('joy, o'), seed
        except InputError as error:
            assert str(error).startswith(f'{tmp_path}/clips.csv: '), seed  # noqa: PT017
            assert str(error).isprintable(), seed  # noqa: PT017


def test_published_tables_may_lack_the_ends_of_rows(tmp_path):
    (tmp_path / 'clips.csv').write_bytes(b'a\tb\tc\n1\t"2\n1\t2\x07\t\xff\n1\t2\t3\t4\n')
    rows = audio_files.rows(tmp_path / 'clips.csv', ('a', 'b', 'c'), plain=True)
    assert next(rows) == (2, ['1', '"2', ''])
    assert next(rows) == (3, ['1', '2\\x07', '\ufffd'])
    with pytest.raises(InputError, match=r'line 4: expected 3 cells \(a, b, c\), found 4; a tab within a cell'):
        next(rows)


@pytest.mark.parametrize('kind', ['device', 'pipe'])
def test_a_table_is_a_file(tmp_path, kind):
    table = Path('/dev/zero') if kind == 'device' else tmp_path / 'clips.csv'
    if kind == 'pipe':
        os.mkfifo(table)
    with pytest.raises(OSError, match='a pipe or a device'):
        next(audio_files.rows(table, ('path',)))


def test_names_are_shown_on_one_line():
    assert audio_files.shown('Ärger über 😀, a\u200cb') == 'Ärger über 😀, a\u200cb'
    assert audio_files.shown('a\n\x1b[31m\udcff\u202e\u2028') == 'a\\n\\x1b[31m\\udcff\\u202e\\u2028'


def test_links_between_folders_list_every_file_once(tmp_path):
    """Ten folders that each link to all others, and to themselves: along paths, millions of files."""
    for here in range(10):
        folder = tmp_path / f'{here}'
        folder.mkdir()
        (folder / 'a.wav').touch()
        for there in range(10):
            (folder / f'to {there}').symlink_to(f'../{there}')
        (folder / 'itself').symlink_to('.')
    names = [path.relative_to(tmp_path).as_posix() for path in audio_files.below(tmp_path)]
    assert names == [f'{n}/a.wav' for n in range(10)]


def test_a_folder_is_itself_before_it_is_a_link(tmp_path):
    (tmp_path / 'b').mkdir()
    (tmp_path / 'b' / '1.wav').touch()
    (tmp_path / 'a').symlink_to('b')
    assert audio_files.below(tmp_path) == [tmp_path / 'b' / '1.wav']


def test_links_to_folders_are_followed_but_not_in_circles_and_broken_ones_are_named(tmp_path):
    for name in ('in/a.wav', 'elsewhere/b.wav'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / 'in/linked').symlink_to(tmp_path / 'elsewhere')
    (tmp_path / 'elsewhere/circle').symlink_to(tmp_path / 'in')
    (tmp_path / 'in/broken.wav').symlink_to(tmp_path / 'nothing')
    names = [path.relative_to(tmp_path).as_posix() for path in audio_files.below(tmp_path / 'in')]
    assert names == ['in/a.wav', 'in/broken.wav', 'in/linked/b.wav']
