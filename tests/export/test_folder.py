"""The output folder: nothing is lost, whatever happens."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from jax_reparam.errors import InputError
from jax_reparam.export import folder


def ours(path, text='old'):
    """A folder that fold.py might have written."""
    path.mkdir()
    (path / 'manifest.json').write_text('{"format": 3}')
    (path / 'labels.txt').write_text(text)
    return path


def names(path):
    return sorted(child.name for child in path.iterdir())


def fill(out, text='new'):
    with folder.replaced(out) as place:
        (place / 'manifest.json').write_text('{"format": 3}')
        (place / 'labels.txt').write_text(text)


def test_a_new_folder_appears_with_its_parents(tmp_path):
    fill(tmp_path / 'a' / 'out')
    assert (tmp_path / 'a' / 'out' / 'labels.txt').read_text() == 'new'
    assert names(tmp_path / 'a') == ['out']


def test_an_empty_folder_is_taken(tmp_path):
    (tmp_path / 'out').mkdir()
    fill(tmp_path / 'out')
    assert (tmp_path / 'out' / 'labels.txt').read_text() == 'new'


def test_our_own_is_replaced_as_a_whole(tmp_path):
    out = ours(tmp_path / 'out')
    (out / 'model_int8.tflite').write_text('of the run before')
    fill(out)
    assert names(out) == ['labels.txt', 'manifest.json']
    assert names(tmp_path) == ['out']


def test_a_link_stays_a_link(tmp_path):
    ours(tmp_path / 'real')
    (tmp_path / 'link').symlink_to('real')
    fill(tmp_path / 'link')
    assert (tmp_path / 'link').is_symlink()
    assert (tmp_path / 'real' / 'labels.txt').read_text() == 'new'


@pytest.mark.parametrize('name', ['notes.txt', 'model.tflite', '.hidden'])
@pytest.mark.parametrize('beside', [True, False])
def test_what_is_not_ours_is_refused(tmp_path, name, beside):
    out = ours(tmp_path / 'out') if beside else tmp_path / 'out'
    out.mkdir(exist_ok=True)
    (out / name).write_text('precious')
    with pytest.raises(InputError, match=f"expected a new or empty folder, .* found '{name}' in it"):
        fill(out)
    assert (out / name).read_text() == 'precious'


@pytest.mark.parametrize('found', [6, 0, -1, '1', None, [1]])
def test_a_manifest_of_a_format_that_is_none_of_ours_is_refused(tmp_path, found):
    out = ours(tmp_path / 'out')
    (out / 'manifest.json').write_text(json.dumps({'format': found}))
    with pytest.raises(InputError, match=r'manifest\.json: expected format 5 \(export it anew with fold\.py\), found'):
        fill(out)
    assert (out / 'labels.txt').read_text() == 'old'


def test_an_export_of_an_older_format_is_replaced(tmp_path):
    """Its users are told to export anew."""
    out = ours(tmp_path / 'out')
    (out / 'manifest.json').write_text('{"format": 1}')
    fill(out)
    assert (out / 'labels.txt').read_text() == 'new'


def test_a_file_is_refused(tmp_path):
    (tmp_path / 'out').write_text('')
    with pytest.raises(InputError, match='expected a folder, found a file'):
        fill(tmp_path / 'out')


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(InputError, match='expected a folder that can be written, found: '):
        fill(tmp_path / 'file' / 'out')


def test_no_permission(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, 'mkdir', refuse)
    with pytest.raises(InputError, match='out: expected a folder that can be written, found: Permission denied'):
        fill(tmp_path / 'out')


def test_a_failure_leaves_the_old_folder(tmp_path):
    out = ours(tmp_path / 'out')

    def fill_the_disk(place):
        (place / 'labels.txt').write_text('half')
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match='No space left'), folder.replaced(out) as place:
        fill_the_disk(place)
    assert (out / 'labels.txt').read_text() == 'old'
    assert names(tmp_path) == ['out']


def test_a_failed_rename_puts_the_old_folder_back(tmp_path, monkeypatch):
    out = ours(tmp_path / 'out')
    real = Path.rename

    def rename(self, target):
        if self.name == 'new':
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(self, target)

    monkeypatch.setattr(Path, 'rename', rename)
    with pytest.raises(OSError, match='Input/output error'):
        fill(out)
    assert (out / 'labels.txt').read_text() == 'old'
    assert names(tmp_path) == ['out']


@pytest.mark.parametrize('name', ['out', 'o[u]t', 'o*t', 'o\\t', '-out'])
def test_leftovers_of_a_killed_run_are_put_right(tmp_path, name):
    work = tmp_path / f'.{name}.fold'
    work.mkdir()
    ours(work / 'old')  # killed between its two renames
    (work / 'new').mkdir()
    (work / 'lock').write_text('process 1 on another machine')  # a process of this number runs in every container
    with folder.replaced(tmp_path / name) as place:
        assert list(place.iterdir()) == []
        assert not (tmp_path / name).exists() or (tmp_path / name / 'labels.txt').read_text() == 'old'
        ours(place / 'x').rename(place / 'checkpoint')
    assert names(tmp_path) == [name]
    assert names(tmp_path / name) == ['checkpoint']


def test_what_a_killed_run_had_moved_away_is_back_when_the_next_one_fails(tmp_path):
    (tmp_path / '.out.fold').mkdir()
    ours(tmp_path / '.out.fold' / 'old')
    with pytest.raises(KeyError), folder.replaced(tmp_path / 'out'):
        raise KeyError
    assert (tmp_path / 'out' / 'labels.txt').read_text() == 'old'
    assert names(tmp_path) == ['out']


@pytest.mark.parametrize('other', ['model.v2', 'model.1', 'model.fold', '.model', 'mode'])
def test_folders_of_like_names_are_left_alone(tmp_path, other):
    with folder.replaced(tmp_path / other) as place:
        ours(place / 'x').rename(place / 'checkpoint')
        before = sorted(tmp_path.rglob('*'))
        fill(tmp_path / 'model')
        assert [path for path in before if not path.exists()] == []
    assert names(tmp_path) == sorted([other, 'model'])


def test_of_two_the_second_is_told_who_writes(tmp_path):
    with folder.replaced(tmp_path / 'out') as place:
        with pytest.raises(InputError, match=rf'out: .* nobody else writes, found process {os.getpid()} on .* writing'):
            fill(tmp_path / 'out')
        (place / 'labels.txt').write_text('of the first')
    assert (tmp_path / 'out' / 'labels.txt').read_text() == 'of the first'
    assert names(tmp_path) == ['out']


def test_a_full_disk_is_named(tmp_path):
    with pytest.raises(OSError, match=r"No space left on device: '.*/out'"), folder.replaced(tmp_path / 'out'):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
