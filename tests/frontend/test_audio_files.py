"""Folders and tables of the user: what is listed, in which order, and what is said of a bad table."""

from __future__ import annotations

import re
from pathlib import Path

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
        'b/.x/4.wav',
    ]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / 'b' / 'folder.wav').mkdir()
    files = audio_files.below(kind(tmp_path))
    assert [file.relative_to(tmp_path).as_posix() for file in files] == ['a.flac', 'b/10.FLAC', 'b/2.wav', 'b/a/1.Wav']
    assert all(isinstance(file, kind) for file in files)


@pytest.mark.parametrize(('delimiter', 'start'), [(',', ''), (';', '\ufeff'), ('\t', '')])
def test_rows_of_a_table(tmp_path, delimiter, start):
    lines = [['label', ' path', 'age'], [' joy ', '"a, b;\tc\nd.wav"', '33'], ['anger'], ['', 'e.wav', '', 'more']]
    (tmp_path / 'clips.csv').write_text(start + '\r\n'.join(map(delimiter.join, lines)), encoding='utf-8', newline='')
    expected = [(3, ['a, b;\tc\nd.wav', 'joy']), (4, ['', 'anger']), (5, ['e.wav', ''])]
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


def test_links_to_folders_are_followed_but_not_in_circles_and_broken_ones_are_named(tmp_path):
    for name in ('in/a.wav', 'elsewhere/b.wav'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / 'in/linked').symlink_to(tmp_path / 'elsewhere')
    (tmp_path / 'elsewhere/circle').symlink_to(tmp_path / 'in')
    (tmp_path / 'in/broken.wav').symlink_to(tmp_path / 'nothing')
    names = [path.relative_to(tmp_path).as_posix() for path in audio_files.below(tmp_path / 'in')]
    assert names == ['in/a.wav', 'in/broken.wav', 'in/linked/b.wav']
