"""Any corpus: a folder of labels and speakers, or a table of paths."""

from __future__ import annotations

import csv
import io

from etils import epath

from jax_reparam.corpora.builder import Clip, Found, SpeechBuilder, folder_of, listing
from jax_reparam.errors import InputError
from jax_reparam.frontend import audio

LAYOUT = 'SOURCE/LABEL/SPEAKER/clip.wav'
COLUMNS = ('path', 'label', 'speaker')


class Folder(SpeechBuilder):
    """Builds a corpus from a folder `LABEL/SPEAKER/clip.wav`, or from a table with the columns path, label, speaker.

    Every folder at the top is a label; a speaker is the same person under every label, and may have further folders
    within. A table is UTF-8 with a line of column names, separated by commas, semicolons or tabs; its paths are
    relative to the table, and further columns are ignored. A file that it lists under two labels is left out. Labels
    are numbered in alphabetical order.
    """

    DESCRIPTION = 'Clips of a folder or table of the user.'

    @classmethod
    def find(cls, source: str, config: str = '') -> Found:
        """Lists the clips; their ids are the paths below the source."""
        path = epath.Path(source).expanduser()
        found = _find_in_table(path) if source and path.is_file() else _find_in_folder(source)
        if len(found.labels) < 2:
            raise InputError(f'{source}: expected at least 2 labels, found {", ".join(found.labels) or "none"}')
        return found


def _find_in_folder(source: str) -> Found:
    top = folder_of(source, 'folder', f'{LAYOUT}, or a table of {", ".join(COLUMNS)}')
    labels = [path for path in listing(top) if path.is_dir()]
    clips = []
    skipped = []
    for label in labels:
        for path in _files(label):
            id_ = path.relative_to(top).as_posix()
            if (text := id_.encode(errors='replace').decode()) != id_:
                skipped.append((text, 'its name is not UTF-8'))
            elif path.parent == label:
                skipped.append((id_, f'not in the folder of a speaker ({LAYOUT})'))
            else:
                clips.append(Clip(id_, label.name, path.relative_to(label).parts[0], path))
    return Found(tuple(label.name for label in labels), tuple(sorted(clips, key=lambda clip: clip.id)), tuple(skipped))


def _files(folder: epath.Path) -> list[epath.Path]:
    """The audio files below a folder, at any depth."""
    files = []
    for path in listing(folder):
        if path.is_dir():
            files += _files(path)
        elif path.suffix.lower() in audio.SUFFIXES:
            files.append(path)
    return files


def _find_in_table(table: epath.Path) -> Found:
    try:
        text = table.read_bytes().decode('utf-8-sig')
    except UnicodeDecodeError:
        raise InputError(f'{table}: expected a table in UTF-8, found another encoding') from None
    header = text.split('\n', 1)[0]
    rows = csv.DictReader(io.StringIO(text, newline=''), delimiter=max(',;\t', key=header.count), skipinitialspace=True)
    columns = rows.fieldnames or []
    for column in COLUMNS:
        if column not in columns:
            there = ', '.join(columns) or 'it'
            raise InputError(f'{table}: expected the columns {", ".join(COLUMNS)}, found no {column!r} in {there}')
    labels = set()
    clips: dict[str, Clip] = {}
    skipped = []
    conflicts: dict[str, str] = {}
    for row in rows:
        id_, label, speaker = ((row[column] or '').strip() for column in COLUMNS)
        if label:
            labels.add(label)
        path = table.parent / id_
        if not (id_ and label and speaker):
            skipped.append((id_ or f'line {rows.line_num}', 'path, label or speaker is empty'))
        elif id_ in clips and label != clips[id_].label:
            conflicts[id_] = f'listed as {clips[id_].label}, and as {label} in line {rows.line_num}'
        elif id_ in clips:
            skipped.append(
                (f'{id_} (line {rows.line_num})', f'listed before, as {clips[id_].label} of {clips[id_].speaker}')
            )
        elif not path.is_file():
            skipped.append((id_, 'no such file'))
        else:
            clips[id_] = Clip(id_, label, speaker, path)
    return Found(
        tuple(sorted(labels)),
        tuple(clips[id_] for id_ in sorted(clips) if id_ not in conflicts),
        tuple(skipped),
        tuple(conflicts.items()),
    )
