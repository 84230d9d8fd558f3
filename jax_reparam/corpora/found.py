"""What a builder finds in a source before any audio is opened, and how the audio of a clip is then read."""

from __future__ import annotations

import collections
import dataclasses
import re
import unicodedata
from collections.abc import Container, Iterable, Mapping
from typing import Literal

import numpy as np
from etils import epath

from jax_reparam.errors import InputError
from jax_reparam.frontend import audio
from jax_reparam.frontend.audio_files import printable, shown

# Of ASCII; the rest means something to Markdown, HTML or C++. All that can be printed beyond ASCII may be used.
_IN_LABELS = re.compile(r"[-A-Za-z0-9 _.,:;+/()'&!?=%@#~]*")
# What spreadsheets and tables write where they have no value.
_NO_VALUE = ('nan', 'na', 'n/a', '#n/a', 'none', 'null', 'nil', 'undefined', 'missing', '-', '--', '?', '.')
_LONGEST_LABEL = 80

Part = Literal['', 'train', 'validation', 'test']


@dataclasses.dataclass(frozen=True)
class Clip:
    """A clip as its source names it.

    Attributes:
      id: unique name.
      label: its class.
      speaker: who speaks.
      path: its file; None where the corpus makes the audio itself.
      group: the recording session or series it comes from; '' where the corpus has none.
      part: 'train', 'validation' or 'test' where the corpus itself says so; '' where not.
      start: where it begins in the recording that it is a cut of, in seconds.
      end: where it ends there, in seconds; None: `start` and the length of its audio say so.
      cut: whether `path` is that recording, from which the clip must be cut; False where it is the clip alone.
    """

    id: str
    label: str
    speaker: str
    path: epath.Path | None = None
    group: str = ''
    part: Part = ''
    start: float = 0.0
    end: float | None = None
    cut: bool = False


@dataclasses.dataclass(frozen=True)
class Published:
    """Counts that a corpus was published with; what is left out is not compared.

    Attributes:
      clips: number of clips.
      speakers: number of speakers.
      labels: clips of each label.
      groups: clips of each session or series.
      parts: clips of each part.
      part_speakers: speakers of each part.
      part_groups: series of each part.
    """

    clips: int | None = None
    speakers: int | None = None
    labels: Mapping[str, int] = dataclasses.field(default_factory=dict)
    groups: Mapping[str, int] = dataclasses.field(default_factory=dict)
    parts: Mapping[str, int] = dataclasses.field(default_factory=dict)
    part_speakers: Mapping[str, int] = dataclasses.field(default_factory=dict)
    part_groups: Mapping[str, int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Found:
    """What a source holds, by its names and tables alone.

    It is the border for names: those of clips, and reasons, are made to fit on a line of text, and a label or speaker
    that does not is refused.

    Attributes:
      labels: the classes in order.
      clips: the clips, ascending by id.
      skipped: id and reason of what is no clip of the corpus.
      conflicts: id and reason of clips that the source labels in two ways; none of them is among `clips`.
      notes: what else the report should say, a sentence each.
      published: the counts to compare with; None where there are none.
      doubts: what is probably a mistake in the source, a phrase each; said at every preparation.

    Raises:
      InputError: a label or speaker that labels.txt, a model card, a terminal or C++ would not show as it is.
    """

    labels: tuple[str, ...]
    clips: tuple[Clip, ...]
    skipped: Mapping[str, str] = dataclasses.field(default_factory=dict)
    conflicts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    published: Published | None = None
    doubts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for label in self.labels:
            _check_label(label)
        for speaker in {clip.speaker for clip in self.clips}:
            if not printable(speaker):
                raise InputError(f'speaker: expected a name without control characters, found {shown(speaker)!r}')
        clips = (clip if printable(clip.id) else dataclasses.replace(clip, id=shown(clip.id)) for clip in self.clips)
        object.__setattr__(self, 'clips', by_id(clips))
        for field in ('skipped', 'conflicts'):
            reasons = {shown(id_): shown(reason) for id_, reason in getattr(self, field).items()}
            object.__setattr__(self, field, reasons)


def doubts(labels: Iterable[str], speakers: Iterable[str]) -> tuple[str, ...]:
    """Phrases for names that are probably no classes, or one class written in two ways."""
    labels, speakers = list(labels), set(speakers)
    found = []
    if empty := [label for label in labels if label.lower() in _NO_VALUE]:
        found.append(f'labels that look like missing values: {", ".join(empty)}')
    alike: dict[str, list[str]] = collections.defaultdict(list)
    for label in labels:
        alike[re.sub(r'[\s_-]+', '', unicodedata.normalize('NFKC', label).casefold()) or label].append(label)
    for same in alike.values():
        if len(same) > 1:
            written = [
                label if label.isascii() else f'{label} ({label.encode("unicode_escape").decode()})' for label in same
            ]
            found.append(f'labels that are written alike: {", ".join(written)}')
    if len(labels) > 2 and len(labels) >= len(speakers):
        found.append(
            f'{len(labels)} labels and {len(speakers)} speakers '
            f'({", ".join(sorted(speakers)[:6])}{", ..." if len(speakers) > 6 else ""}): are they the wrong way round?'
        )
    return tuple(found)


def _check_label(label: str) -> None:
    """Refuses a name that cannot stand everywhere as it is."""
    ascii_ = ''.join(char for char in label if char.isascii())
    wrong = [char for char in ascii_ if not _IN_LABELS.fullmatch(char)]
    # Two question marks begin a trigraph of C++14.
    if wrong or '??' in label or not printable(label) or label != label.strip() or not 0 < len(label) <= _LONGEST_LABEL:
        raise InputError(
            f'label: expected 1 to {_LONGEST_LABEL} letters, digits, spaces and of other characters '
            f"-_.,:;+/()'&!?=%@#~ (but not ??), found {shown(label)[:100]!r}"
        )


def by_id(clips: Iterable[Clip], without: Container[str] = ()) -> tuple[Clip, ...]:
    """The clips in the order of their ids, as `Found` has them, without those whose ids are in `without`."""
    return tuple(sorted((clip for clip in clips if clip.id not in without), key=lambda clip: clip.id))


def decode(clip: Clip) -> np.ndarray | audio.AudioError:
    """The audio of a clip, `[N]` int16; the error for one that cannot be read."""
    assert clip.path is not None
    try:
        with audio.open_file(clip.path) as file:
            if clip.cut:
                return audio.decode_cut(file, clip.id, clip.start, clip.end)
            return audio.decode(file.read(), clip.id)
    except audio.AudioError as error:
        return error
    except OSError as error:
        return audio.AudioError(f'{clip.id}: expected a readable file, found: {error.strerror}')
