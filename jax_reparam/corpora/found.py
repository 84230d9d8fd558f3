"""What a builder finds in a source before any audio is opened, and how the audio of a clip is then read."""

from __future__ import annotations

import dataclasses
from collections.abc import Container, Iterable, Mapping
from typing import Literal

import numpy as np
from etils import epath

from jax_reparam.frontend import audio

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

    Attributes:
      labels: the classes in order.
      clips: the clips, ascending by id.
      skipped: id and reason of what is no clip of the corpus.
      conflicts: id and reason of clips that the source labels in two ways; none of them is among `clips`.
      notes: what else the report should say, a sentence each.
      published: the counts to compare with; None where there are none.
    """

    labels: tuple[str, ...]
    clips: tuple[Clip, ...]
    skipped: Mapping[str, str] = dataclasses.field(default_factory=dict)
    conflicts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    published: Published | None = None


def by_id(clips: Iterable[Clip], without: Container[str] = ()) -> tuple[Clip, ...]:
    """The clips in the order of their ids, as `Found` has them, without those whose ids are in `without`."""
    return tuple(sorted((clip for clip in clips if clip.id not in without), key=lambda clip: clip.id))


def decode(clip: Clip) -> np.ndarray | audio.AudioError:
    """The audio of a clip, `[N]` int16; the error for one that cannot be read."""
    assert clip.path is not None
    try:
        if clip.cut:
            with clip.path.open('rb') as file:
                return audio.decode_cut(file, clip.id, clip.start, clip.end)
        return audio.decode(clip.path.read_bytes(), clip.id)
    except audio.AudioError as error:
        return error
    except OSError as error:
        return audio.AudioError(f'{clip.id}: expected a readable file, found: {error.strerror}')
