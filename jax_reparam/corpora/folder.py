"""Any corpus: a folder of labels and speakers, or a table of paths."""

from __future__ import annotations

import collections
import dataclasses

from etils import epath

from jax_reparam.corpora.builder import Clip, Found, SpeechBuilder, by_id, folder_of
from jax_reparam.corpora.found import doubts
from jax_reparam.errors import InputError
from jax_reparam.frontend import audio, audio_files

LAYOUT = 'SOURCE/LABEL/SPEAKER/clip.wav'
COLUMNS = ('path', 'label', 'speaker')
# Folders of what a corpus was split into: SOURCE/train/LABEL/SPEAKER/clip.wav.
_PARTS = {'train', 'training', 'validation', 'valid', 'val', 'dev', 'development', 'eval', 'test', 'testing'}


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
        if {label.lower() for label in found.labels} <= _PARTS:
            raise InputError(
                f'{source}: expected labels ({LAYOUT}), found parts of a corpus: {", ".join(found.labels)}; '
                f'move the clips of all parts together, or list them in a table of {", ".join(COLUMNS)}'
            )
        return dataclasses.replace(found, doubts=doubts(found.labels, (clip.speaker for clip in found.clips)))


def _find_in_folder(source: str) -> Found:
    top = folder_of(source, 'folder', f'{LAYOUT}, or a table of {", ".join(COLUMNS)}')
    labels = [path for path in audio_files.listing(top) if path.is_dir()]
    clips = []
    skipped: dict[str, str] = {}
    others: collections.Counter[str] = collections.Counter()
    for label in labels:
        for path in audio_files.files_below(label):
            id_ = path.relative_to(top).as_posix()
            if path.suffix.lower() not in audio.SUFFIXES:
                others[audio_files.shown(path.suffix.lower()) or 'no suffix'] += 1
            elif (text := id_.encode(errors='replace').decode()) != id_:
                skipped[text] = 'its name is not UTF-8'
            elif path.parent == label:
                skipped[id_] = f'not in the folder of a speaker ({LAYOUT})'
            else:
                clips.append(Clip(id_, label.name, path.relative_to(label).parts[0], path))
    kinds = ', '.join(f'{count:,} {suffix}' for suffix, count in sorted(others.items()))
    notes = (f'Files that are not named as audio, passed over: {kinds}.',) if kinds else ()
    return Found(tuple(label.name for label in labels), by_id(clips), skipped, notes=notes)


def _find_in_table(table: epath.Path) -> Found:
    labels = set()
    clips: dict[str, Clip] = {}
    skipped: dict[str, str] = {}
    conflicts: dict[str, str] = {}
    for line, (id_, label, speaker) in audio_files.rows(table, COLUMNS):
        if label:
            labels.add(label)
        path = table.parent / id_
        if not (id_ and label and speaker):
            skipped[id_ or f'line {line}'] = 'path, label or speaker is empty'
        elif id_ in clips and label != clips[id_].label:
            conflicts[id_] = f'listed as {clips[id_].label}, and as {label} in line {line}'
        elif id_ in clips:
            skipped[f'{id_} (line {line})'] = f'listed before, as {clips[id_].label} of {clips[id_].speaker}'
        elif not path.is_file():
            skipped[id_] = 'no such file'
        else:
            clips[id_] = Clip(id_, label, speaker, path)
    return Found(tuple(sorted(labels)), by_id(clips.values(), without=conflicts), skipped, conflicts)
