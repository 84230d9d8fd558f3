"""The self-check of a preparation: which clips can be trusted, published counts, and the report that says so."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from jax_reparam.corpora.found import Clip, Found, Published
from jax_reparam.errors import InputError
from jax_reparam.frontend import audio

# Clips below this are kept, and listed.
SHORT_SECONDS = 0.3
# A recording that ran into its limits stays there; a single loud sample does not.
CLIPPED_LEVEL, CLIPPED_RUN = 32440, 3

# Upper ends of the bins of the histogram of durations, in seconds.
_BINS = (0.3, 0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 20.0, float('inf'))
_BAR = 40
_LISTED = 20


class MismatchError(InputError):
    """A copy differs from the published counts; `report` is the whole self-check."""

    def __init__(self, message: str, report: str) -> None:
        super().__init__(message)
        self.report = report


@dataclasses.dataclass(frozen=True)
class Measured:
    """What the check knows of a clip's audio without keeping it.

    Attributes:
      digest: of the samples; '' where there are none.
      seconds: length.
      clipped: whether the recording ran into its limits.
      error: why the clip cannot be used; '' where it can.
      decoded: False where the file holds no audio that could be read.
    """

    digest: str = ''
    seconds: float = 0.0
    clipped: bool = False
    error: str = ''
    decoded: bool = True


@dataclasses.dataclass(frozen=True)
class Review:
    """What is used of a source, and what is odd about the rest.

    Attributes:
      kept: positions in `Found.clips` of the clips that are used, ascending.
      skipped: id and reason of everything else, ascending.
      conflicts: id and reason of clips with two labels; they are among `skipped`.
      across: id and reason of copies of another speaker's clip; they are among `skipped`.
      short: ids of used clips under `SHORT_SECONDS`.
      clipped: ids of used clips that ran into the limits of the recording.
      silent: ids of clips without sound; they are among `skipped`.
      counts: rows (what, published or None, in this copy, used).
      mismatches: a phrase for each published count that this copy does not have.
    """

    kept: tuple[int, ...]
    skipped: Mapping[str, str]
    conflicts: Mapping[str, str]
    across: Mapping[str, str]
    short: tuple[str, ...]
    clipped: tuple[str, ...]
    silent: tuple[str, ...]
    counts: tuple[tuple[str, int | None, int, int], ...]
    mismatches: tuple[str, ...]


def measure(samples: np.ndarray | audio.AudioError, name: str) -> Measured:
    """Measures the audio of a clip, `[N]` int16, or says why there is none; `name` is cut off the reason."""
    if isinstance(samples, audio.AudioError):
        return Measured(error=str(samples).removeprefix(f'{name}: '), decoded=False)
    try:
        audio.check(samples, name, sound=True)
        error = ''
    except audio.AudioError as problem:
        error = str(problem).removeprefix(f'{name}: ')
    at_limit = (samples >= CLIPPED_LEVEL) | (samples <= -CLIPPED_LEVEL)
    runs = np.convolve(at_limit, np.ones(CLIPPED_RUN, np.int64)) if at_limit.any() else np.zeros(1)
    return Measured(
        digest=hashlib.sha256(samples.tobytes()).hexdigest(),
        seconds=len(samples) / audio.SAMPLE_RATE,
        clipped=bool(runs.max() >= CLIPPED_RUN),
        error=error,
    )


def review(found: Found, measured: Sequence[Measured]) -> Review:
    """Decides which clips are used, and compares the copy with the published counts.

    Of clips with the same audio the first is used; where their labels differ none is, because nothing says which label
    is right. The counts of a copy are those of all clips whose audio could be read, copies and silence included: so
    were the published ones made.

    Args:
      found: what the source holds.
      measured: one entry for each of `found.clips`.
    """
    same: dict[str, list[int]] = collections.defaultdict(list)
    skipped, conflicts, across = dict(found.skipped), dict(found.conflicts), {}
    for i, (clip, sound) in enumerate(zip(found.clips, measured, strict=True)):
        if sound.error:
            skipped[clip.id] = sound.error
        else:
            same[sound.digest].append(i)
    kept = []
    for positions in same.values():
        clips = [found.clips[i] for i in positions]
        if len({clip.label for clip in clips}) > 1:
            for clip in clips:
                other = next(c for c in clips if c.label != clip.label)
                conflicts[clip.id] = f'labelled {clip.label}, and the same audio is {other.label} as {other.id}'
            continue
        kept.append(positions[0])
        for clip in clips[1:]:
            reason = f'the same audio as {clips[0].id}'
            if clip.speaker != clips[0].speaker:
                reason += f', though of another speaker ({clip.speaker}, {clips[0].speaker})'
                across[clip.id] = reason
            skipped[clip.id] = reason
    kept.sort()
    skipped |= conflicts
    used = [(found.clips[i], measured[i]) for i in kept]
    there = [clip for clip, sound in zip(found.clips, measured, strict=True) if sound.decoded]
    counts = tuple(_counts(found, there, [clip for clip, _ in used]))
    return Review(
        kept=tuple(kept),
        skipped=dict(sorted(skipped.items())),
        conflicts=dict(sorted(conflicts.items())),
        across=dict(sorted(across.items())),
        short=tuple(clip.id for clip, sound in used if sound.seconds < SHORT_SECONDS),
        clipped=tuple(clip.id for clip, sound in used if sound.clipped),
        silent=tuple(i for i, reason in sorted(skipped.items()) if reason.endswith('found silence')),
        counts=counts,
        mismatches=tuple(
            f'{what} {here:,} (published {published:,})'
            for what, published, here, _ in counts
            if published is not None and published != here
        ),
    )


def _counts(found: Found, there: Sequence[Clip], used: Sequence[Clip]) -> Iterable[tuple[str, int | None, int, int]]:
    """Rows of the table of counts: what, published, in this copy, used."""
    published = found.published or Published()

    yield 'clips', published.clips, len(there), len(used)
    speakers, used_speakers = (len({clip.speaker for clip in clips}) for clips in (there, used))
    yield 'speakers', published.speakers, speakers, used_speakers
    parts = [part for part in ('train', 'validation', 'test') if any(clip.part == part for clip in there)]
    groups = sorted({clip.group for clip in there if clip.group})
    # A row for each value of the first field, which counts the different values of the second.
    tables: list[tuple[str, Mapping[str, int], Sequence[str], tuple[str, str]]] = [
        ('label', published.labels, found.labels, ('label', 'id')),
        ('group', published.groups, groups, ('group', 'id')),
        ('part', published.parts, parts, ('part', 'id')),
        ('speakers of', published.part_speakers, parts, ('part', 'speaker')),
    ]
    if groups:
        tables.append(('groups of', published.part_groups, parts, ('part', 'group')))
    for what, counts, names, fields in tables:
        pairs = operator.attrgetter(*fields)
        in_copy, in_use = (collections.Counter(name for name, _ in set(map(pairs, clips))) for clips in (there, used))
        for name in dict.fromkeys([*names, *counts]):
            # A published table names all there is: what it does not name was published with none.
            yield f'{what} {name}', counts.get(name, 0 if counts else None), in_copy[name], in_use[name]


def mismatch(source: str, name: str, mismatches: Sequence[str]) -> str:
    """The error for a copy that differs from the published counts."""
    return (
        f'{source}: expected {name} with the counts it was published with, found {", ".join(mismatches)}; '
        'if you mean to use this copy: prepare --accept-mismatch, or train.py --config.data.accept_mismatch'
    )


def report(name: str, found: Found, measured: Sequence[Measured], result: Review) -> str:
    """Writes the self-check as Markdown; the same source gives the same text."""
    seconds = [measured[i].seconds for i in result.kept]
    lines = [f'# {name}: {len(seconds):,} clips, {sum(seconds) / 3600:.2f} h', '']
    if result.mismatches:
        lines += ['**This copy differs from the published one:** ' + '; '.join(result.mismatches) + '.', '']
    elif found.published is not None:
        lines += ['This copy has the counts that the corpus was published with.', '']
    else:
        lines += ['There are no published counts to compare this copy with.', '']
    lines += [f'**To check:** {_cell(doubt)}.\n' for doubt in found.doubts]
    lines += [f'{_cell(note)}\n' for note in found.notes]
    lines += _section('Two labels for one clip, left out', result.conflicts)
    lines += _section('The same audio under two speakers, the first kept', result.across)
    lines += ['## Counts', '', '| | published | in this copy | used |', '|---|---:|---:|---:|']
    for what, published, here, used in result.counts:
        differs = published is not None and published != here
        row = ['' if published is None else f'{published:,}', f'**{here:,}**' if differs else f'{here:,}', f'{used:,}']
        lines.append(f'| {_cell(what)} | ' + ' | '.join(row) + ' |')
    lines += ['', '## Durations', '', *_histogram(seconds), '']
    lines += _section(f'Used though under {SHORT_SECONDS} s', result.short)
    lines += _section('Used though clipped (three samples in a row at the limit of the recording)', result.clipped)
    lines += _section('Left out, silent', result.silent)
    lines += _section('Left out', result.skipped, 'all in skipped.tsv')
    return '\n'.join(lines).rstrip() + '\n'


def summary(result: Review) -> dict[str, Any]:
    """Counts of what the report warns of, for one line of text."""
    return {
        'with two labels': len(result.conflicts),
        'copied from another speaker': len(result.across),
        f'under {SHORT_SECONDS} s': len(result.short),
        'clipped': len(result.clipped),
    }


def _histogram(seconds: Sequence[float]) -> list[str]:
    if not seconds:
        return ['No clip is used.']
    lengths = np.asarray(seconds)
    low, middle, high = lengths.min(), np.median(lengths), lengths.max()
    counts, _ = np.histogram(lengths, [0.0, *_BINS])
    lines = [f'Shortest {low:.2f} s, median {middle:.2f} s, longest {high:.2f} s.', '', '```']
    for start, end, count in zip((0.0, *_BINS), _BINS, counts, strict=False):
        span = f'{start:4.1f} - {end:4.1f} s' if np.isfinite(end) else f'{start:4.1f} s and up'
        lines.append(f'{span:>13} {count:>7,} {"#" * round(_BAR * count / counts.max())}'.rstrip())
    return [*lines, '```']


def _section(title: str, clips: Sequence[str] | Mapping[str, str], rest: str = '') -> list[str]:
    """Lists ids, or ids and reasons, as far as there is room; `rest` says where the others are."""
    items = [f'{i}: {reason}' for i, reason in clips.items()] if isinstance(clips, Mapping) else clips
    lines = [f'## {title}: {len(items):,}', '', *(f'- {_cell(item)}' for item in items[:_LISTED])]
    if len(items) > _LISTED:
        lines.append(f'- ... and {len(items) - _LISTED:,} more' + (f', {rest}' if rest else ''))
    return [*lines, ''] if items else lines


def _cell(text: str) -> str:
    """The text as it can stand in Markdown."""
    return text.replace('|', '\\|').replace('\n', ' ')
