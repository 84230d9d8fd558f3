"""M3ED: dialogues of 56 Chinese television series, seven emotions."""

from __future__ import annotations

import collections
import json
import re
from collections.abc import Iterator
from typing import Any

from etils import epath

from jax_reparam.corpora.builder import Clip, Found, Part, Published, SpeechBuilder, by_id, first_missing, folder_of
from jax_reparam.errors import InputError, one_line

# In the order of the authors' numbers.
LABELS = ('Happy', 'Neutral', 'Sad', 'Disgust', 'Anger', 'Fear', 'Surprise')
PARTS: dict[Part, str] = {'train': 'train', 'validation': 'val', 'test': 'test'}
PUBLISHED = Published(part_groups={'train': 38, 'validation': 7, 'test': 11})
LAYOUT = (
    'SOURCE/annotation.json, SOURCE/splitInfo/movie_list_train.txt, _val.txt and _test.txt, '
    'SOURCE/modality_speech/A_anjia_1_1.wav'
)

# Frames a second of Chinese television. Some of the annotated frame numbers are beyond it (up to 142); they count on.
_FRAME_RATE = 25
_TIME = re.compile(r'\s*(\d+)\s*:\s*(\d+)\s*:\s*(\d+)\s*:\s*(\d+)\s*', re.ASCII)


class M3ed(SpeechBuilder):
    """Builds the speech of M3ED from a folder with its annotation, its lists of series and its clips.

    The label is `final_main_emo`; a speaker is a role of one series; the group is the series. Start and end are those
    of the turn in its episode, as far as they can be read; the release's clips are cut already.
    """

    LABELS = LABELS
    DESCRIPTION = 'Turns of dialogues in 56 Chinese television series, each labelled by three annotators.'
    HOMEPAGE = 'https://github.com/AIM3-RUC/RUCM3ED'
    CITATION = """@inproceedings{zhao2022m3ed,
  author = {Zhao, Jinming and Zhang, Tenggan and Hu, Jingwen and Liu, Yuchen and Jin, Qin and Wang, Xinchao and Li,
    Haizhou},
  title = {{M3ED}: Multi-modal Multi-scene Multi-label Emotional Dialogue Database},
  booktitle = {ACL},
  year = {2022},
}"""
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        'Ask for M3ED as its homepage says and lay it out so: MANUAL_DIR/annotation.json, '
        'MANUAL_DIR/splitInfo/movie_list_train.txt, movie_list_val.txt and movie_list_test.txt, '
        'MANUAL_DIR/modality_speech/A_anjia_1_1.wav, ...'
    )

    @classmethod
    def find(cls, source: str, config: str = '') -> Found:
        """Lists the clips that the annotation names; those whose file is missing are skipped."""
        top = folder_of(source, cls.name, LAYOUT)
        lists = [f'splitInfo/movie_list_{name}.txt' for name in PARTS.values()]
        first_missing(top, 'M3ED', ['annotation.json', *lists, 'modality_speech'], LAYOUT)
        parts = _parts(top)
        clips: dict[str, Clip] = {}
        labels: dict[str, str] = {}
        skipped: dict[str, str] = {}
        conflicts: dict[str, str] = {}
        untimed = 0
        for series, id_, turn, emotion, roles in _turns(top / 'annotation.json'):
            role = str(turn.get('Speaker', '')).strip()
            name = f'{role}_{id_}'
            label = str(emotion.get('final_main_emo', '')).strip()
            path = top / 'modality_speech' / f'{name}.wav'
            person = str(roles.get(role, {}).get('Name', '')).strip()
            if label != labels.setdefault(id_, label):
                conflicts[id_] = f'annotated as {labels[id_]} and as {label}'
            elif id_ in conflicts:
                continue
            elif label not in LABELS:
                skipped[id_] = f'its label {label!r} is none of {", ".join(LABELS)}'
            elif not person:
                skipped[id_] = f'its speaker {role!r} has no name in SpeakerInfo'
            elif series not in parts:
                skipped[id_] = f'its series {series} is in no list of splitInfo'
            elif not path.is_file():
                skipped[id_] = f'no such file: modality_speech/{name}.wav'
            else:
                start, end = (seconds_of(turn.get(key)) for key in ('StartTime', 'EndTime'))
                if start is None or end is None or end <= start:
                    untimed += 1
                    start, end = 0.0, None
                clips[id_] = Clip(id_, label, f'{series}_{person}', path, series, parts[series], start, end)
        if not labels:
            raise InputError(f'{top}/annotation.json: expected series, dialogues and turns, found no turn')
        note = f'Turns without a readable time, or that end before they start: {untimed:,} (their start is 0).'
        notes = (note,) if untimed else ()
        return Found(LABELS, by_id(clips.values(), without=conflicts), skipped, conflicts, notes, PUBLISHED)


def seconds_of(time: Any) -> float | None:
    """Seconds of a time HH:MM:SS:FF; None where it is none."""
    match = _TIME.fullmatch(str(time))
    if not match:
        return None
    hours, minutes, seconds, frames = map(int, match.groups())
    return 3600.0 * hours + 60.0 * minutes + seconds + frames / _FRAME_RATE


def _parts(top: epath.Path) -> dict[str, Part]:
    """The part of each series; no series may be in two."""
    parts: dict[str, Part] = {}
    for part, name in PARTS.items():
        path = top / 'splitInfo' / f'movie_list_{name}.txt'
        try:
            names = path.read_text(encoding='utf-8-sig').split()
        except UnicodeDecodeError:
            raise InputError(f'{path}: expected a list of series in UTF-8, found another encoding') from None
        for series in names:
            if parts.setdefault(series, part) != part:
                raise InputError(
                    f'{path}: expected a series in one list, found {series} in that of {parts[series]} too'
                )
    return parts


def _turns(path: epath.Path) -> Iterator[tuple[str, str, dict[str, Any], dict[str, Any], dict[str, Any]]]:
    """The turns of the annotation: series, name, entry, its emotions, and roles of the dialogue."""

    def entries(value: Any, what: str) -> list[tuple[str, Any]]:
        if not isinstance(value, collections.UserList):
            raise InputError(f'{path}: expected {what} as an object, found {type(value).__name__}')
        return list(value)

    try:
        # An object is the list of its pairs: of two equal keys a dictionary would keep the last and say nothing, so two
        # labels for one turn would not show.
        content = json.loads(path.read_bytes().decode('utf-8-sig'), object_pairs_hook=collections.UserList)
    except (ValueError, RecursionError) as error:
        raise InputError(f'{path}: expected JSON, found {one_line(error)[:200]}') from None
    nothing: collections.UserList[tuple[str, Any]] = collections.UserList()
    for series, dialogues in entries(content, 'series'):
        for dialogue, value in entries(dialogues, f'the dialogues of {series}'):
            fields = dict(entries(value, dialogue))
            speakers = entries(fields.get('SpeakerInfo', nothing), dialogue)
            roles = {role: dict(entries(who, role)) for role, who in speakers}
            for id_, turn_entries in entries(fields.get('Dialog', nothing), f'the turns of {dialogue}'):
                turn = dict(entries(turn_entries, id_))
                yield series, id_, turn, dict(entries(turn.get('EmoAnnotation', nothing), id_)), roles
