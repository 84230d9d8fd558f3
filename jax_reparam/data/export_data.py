"""What an export needs of the corpus that a model was trained on: windows to make it of, and to verify it on.

Every checkpoint carries it (`Kept`), so that a model can be exported where its corpus is not.
"""

from __future__ import annotations

import dataclasses
import io
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import soundfile

from jax_reparam.checkpoint import Trained
from jax_reparam.data import pipeline
from jax_reparam.errors import InputError, one_line
from jax_reparam.evaluation import Windows
from jax_reparam.field.recordings import Recordings
from jax_reparam.frontend import windows
from jax_reparam.frontend.audio import SAMPLE_RATE
from jax_reparam.frontend.inputs import Input
from jax_reparam.frontend.voice import Profile

# The whole of a small corpus: speakers to come would else leave the ranges more often.
CALIBRATION_WINDOWS = 512
# Enough to tell ways of quantising apart, few enough to wait for.
VALIDATION_WINDOWS = 128
# Test windows that a checkpoint carries, at most; and training windows that a model without test clips is verified on.
TEST_WINDOWS = 512
# Test clips that the files for a device are verified on.
RECORDINGS = 4
# Windows of test clips that the model card's field test has, at most.
FIELD_WINDOWS = 128
SEED = 0


@dataclasses.dataclass(frozen=True)
class ExportData:
    """All that an export reads of a corpus.

    Attributes:
      inputs: how audio becomes the model's input, with the statistics of training.
      calibration: training windows that set the ranges, `[W, frames, n_mels]`.
      places: for each of them its clip's id and its first frame.
      validation: on which the ways of quantising are compared.
      test: on which every form is verified.
      of_clips: number of test clips, of which `test` has some or all.
      recordings: the first test clips, `[N]` int16.
      field: some of the test clips, for the field test.
    """

    inputs: Input
    calibration: np.ndarray
    places: tuple[tuple[str, int], ...]
    validation: Windows
    test: Windows
    of_clips: int
    recordings: tuple[np.ndarray, ...]
    field: Recordings


class OtherCorpusError(InputError):
    """A corpus is not the one that a model was trained on, or is split in another way."""


@dataclasses.dataclass(frozen=True)
class Spans:
    """Clips of a part of the corpus.

    Attributes:
      codes: the active span of each, `[T, M]` int8.
      truth: the class of each unit, `[u]`.
      unit: the unit of each clip, `[n]`, 0 to u - 1; None: each clip is one.
      join: how the clips of a unit make a decision.
      held_out: whether they did not train.
    """

    codes: Sequence[np.ndarray]
    truth: np.ndarray
    unit: np.ndarray | None
    join: str
    held_out: bool = True

    def windows(self, inputs: Input) -> Windows:
        """The windows in which somebody speaks.

        Raises:
          InputError: nobody speaks in any.
        """
        spoken = (
            (heard.features, clip)
            for clip, codes in enumerate(self.codes)
            for heard in inputs.windows(codes)
            if heard.speech.there
        )
        return Windows(*next(windows.batches(spoken, None)), self.truth, self.unit, self.join, self.held_out)


@dataclasses.dataclass(frozen=True)
class Kept:
    """What a checkpoint carries, of which `ExportData` is made.

    Attributes:
      calibration: the codes of each window, `[n, M]` int8, n up to a window's frames.
      known: of the speaker of each window.
      places: see `ExportData`, and `of_clips`.
      validation: clips of the validation part.
      test: clips of the test part, all or some.
      recordings: the first test clips, `[N]` int16.
      field: some test clips, `[N]` int16, and of each the class and the speaker.
    """

    calibration: Sequence[np.ndarray]
    known: Sequence[Profile]
    places: tuple[tuple[str, int], ...]
    validation: Spans
    test: Spans
    of_clips: int
    recordings: Sequence[np.ndarray]
    field: Sequence[np.ndarray]
    field_truth: np.ndarray
    field_speaker: Sequence[str]

    @classmethod
    def of(cls, data: pipeline.Data, limit: int | None = TEST_WINDOWS) -> Kept:
        """Reads it of a corpus, with at most `limit` test windows; where no clip tests, with training windows."""
        drawn = list(_calibration(data, CALIBRATION_WINDOWS))
        test: pipeline.Part = 'test' if data.held_out else 'train'
        if not data.held_out:
            limit = min(limit or TEST_WINDOWS, TEST_WINDOWS)
        clips, field = data.clips(test), _in_the_field(data, test)
        return cls(
            calibration=[codes for codes, _, _ in drawn],
            known=[profile for _, profile, _ in drawn],
            places=tuple(place for _, _, place in drawn),
            validation=_spans(data, 'validation' if data.held_out else 'train', VALIDATION_WINDOWS),
            test=_spans(data, test, limit),
            of_clips=len(clips),
            recordings=[data.corpus.audio(clip) for clip in clips[:RECORDINGS]],
            field=[data.corpus.audio(clip) for clip in field],
            field_truth=data.corpus.label[field],
            field_speaker=[data.corpus.speaker[clip] for clip in field],
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """As arrays, for a checkpoint; sound as FLAC, which loses nothing."""
        about = {
            'places': self.places,
            'of_clips': self.of_clips,
            'join': self.test.join,
            'held_out': self.test.held_out,
            'field_speaker': list(self.field_speaker),
            'recordings': len(self.recordings),
        }
        sound = io.BytesIO()
        sounds = [*self.recordings, *self.field]
        soundfile.write(sound, np.concatenate(sounds), SAMPLE_RATE, 'PCM_16', format='FLAC')
        arrays: dict[str, np.ndarray] = {
            'about': np.frombuffer(json.dumps(about).encode(), np.uint8),
            'sound': np.frombuffer(sound.getvalue(), np.uint8),
            'sound_lengths': np.array([len(one) for one in sounds], np.int64),
            'field_truth': np.asarray(self.field_truth, np.int64),
            **_joined('calibration', self.calibration),
            'known_sums': np.stack([one.sums for one in self.known]),
            'known_frames': np.array([one.frames for one in self.known], np.int64),
        }
        for name, spans in (('validation', self.validation), ('test', self.test)):
            arrays |= _joined(name, spans.codes)
            arrays[f'{name}_truth'] = np.asarray(spans.truth, np.int64)
            if spans.unit is not None:
                arrays[f'{name}_unit'] = np.asarray(spans.unit, np.int64)
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Kept:
        """Reads what `arrays` gave."""
        about = json.loads(arrays['about'].tobytes())
        samples, _ = soundfile.read(io.BytesIO(arrays['sound'].tobytes()), dtype='int16')
        sounds = _cut(samples, arrays['sound_lengths'])
        spans = {
            name: Spans(
                _parts(name, arrays),
                arrays[f'{name}_truth'],
                arrays.get(f'{name}_unit'),
                about['join'],
                about.get('held_out', True),
            )
            for name in ('validation', 'test')
        }
        known = zip(arrays['known_sums'], arrays['known_frames'], strict=True)
        return cls(
            calibration=_parts('calibration', arrays),
            known=[Profile(sums, int(frames)) for sums, frames in known],
            places=tuple((clip, start) for clip, start in about['places']),
            **spans,
            of_clips=about['of_clips'],
            recordings=sounds[: about['recordings']],
            field=sounds[about['recordings'] :],
            field_truth=arrays['field_truth'],
            field_speaker=about['field_speaker'],
        )

    def export_data(self, inputs: Input, limit: int | None = None) -> ExportData:
        """What an export reads; at most `limit` test windows."""
        heard = zip(self.calibration, self.known, strict=True)
        return ExportData(
            inputs=inputs,
            calibration=np.stack([inputs.hear(codes, profile).features for codes, profile in heard]),
            places=self.places,
            validation=self.validation.windows(inputs),
            test=_limited(self.test, limit, inputs).windows(inputs),
            of_clips=self.of_clips,
            recordings=tuple(self.recordings),
            field=Recordings(self.field, self.field_truth, inputs, self.field_speaker),
        )


def export_data(
    trained: Trained, limit: int | None = None, *, source: str | None = None, show_progress: bool = True
) -> ExportData:
    """Reads what an export of a trained model needs: of its corpus, or where that is not at hand, of its checkpoint.

    Both give the same windows to make a model of; the checkpoint has at most `TEST_WINDOWS` to verify it on.

    Args:
      trained: the model.
      limit: at most this many test windows; None takes all.
      source: where the corpus lies now; None: where it lay when the model was trained.
      show_progress: report on standard error.

    Raises:
      InputError: see `load_data`; the corpus is not at hand, and the checkpoint carries nothing.
    """
    try:
        kept = Kept.of(load_data(trained, source=source, show_progress=show_progress), limit)
    except OtherCorpusError:
        raise
    except InputError as error:
        carried = trained.export() if source is None else None
        if carried is None:
            raise
        kept = Kept.from_arrays(carried)
        print(
            f'no corpus at hand ({one_line(error)}): verified on what the checkpoint carries of it, '
            f'{len(kept.test.codes)} of {kept.of_clips} {"test" if kept.test.held_out else "training"} clips',
            file=sys.stderr,
        )
    return kept.export_data(trained.inputs, limit)


def _in_the_field(data: pipeline.Data, part: pipeline.Part) -> np.ndarray:
    """Clips of a part, of at most `FIELD_WINDOWS` windows, at least one, drawn with a fixed seed."""
    order = np.random.default_rng(SEED).permutation(data.clips(part))
    windows = np.cumsum(_counts(data.features.lengths[order], data.inputs))
    return np.sort(order[: max(1, int(np.searchsorted(windows, FIELD_WINDOWS, side='right')))])


def load_data(trained: Trained, *, source: str | None = None, show_progress: bool = True) -> pipeline.Data:
    """The corpus a model was trained on, split as it was, with the checkpoint's statistics.

    Raises:
      InputError: the corpus is missing.
      OtherCorpusError: it, or its split, is not that of the training.
    """
    recipe = trained.recipe if source is None else trained.recipe.with_changes({'data.source': source})
    return as_trained(trained, pipeline.load_data(recipe, show_progress=show_progress))


def as_trained(trained: Trained, data: pipeline.Data) -> pipeline.Data:
    """The data with the checkpoint's statistics: on another machine their last bit may differ.

    Raises:
      OtherCorpusError: the corpus, or its split, is not that of the training.
    """
    own, found = (
        (tuple(labels), key, json.loads(json.dumps(split)))
        for labels, key, split in (
            (trained.labels, trained.meta['corpus']['key'], trained.meta['split']),
            (data.corpus.labels, data.corpus.key, data.split.info),
        )
    )
    if own != found:
        # Its test clips might be among those the model has learnt.
        raise OtherCorpusError(
            f'{trained.path}: expected the corpus and split that it was trained on, found another '
            f'{data.corpus.name} (key {data.corpus.key[:12]}, trained on {trained.meta["corpus"]["key"][:12]})'
        )
    return dataclasses.replace(data, inputs=trained.inputs)


def of_part(data: pipeline.Data, part: pipeline.Part, limit: int | None) -> Windows:
    """A part's windows: all of them, or at most `limit`, of units drawn with a fixed seed.

    Only whole units (clips, or speakers, as the protocol decides) are drawn, since a decision is theirs; at least one
    is.
    """
    return _spans(data, part, limit).windows(data.inputs)


def _spans(data: pipeline.Data, part: pipeline.Part, limit: int | None) -> Spans:
    protocol, clips = data.split.protocol, data.clips(part)
    unit = None if protocol.unit == 'clip' else data.units(part)[1]
    held_out = part != 'train'
    return _limited(Spans(_Codes(data, clips), data.truth(part), unit, protocol.join, held_out), limit, data.inputs)


class _Codes(Sequence[np.ndarray]):
    """Active spans of clips, read when they are asked for."""

    def __init__(self, data: pipeline.Data, clips: np.ndarray) -> None:
        self.data, self.clips = data, clips

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: Any) -> Any:
        return self.data.features[self.clips[index]]


def _limited(spans: Spans, limit: int | None, inputs: Input) -> Spans:
    """The spans of some whole units, of at most `limit` windows, or of one unit; None: all."""
    counts = _counts(np.array([len(codes) for codes in spans.codes]), inputs)
    if limit is None or limit >= counts.sum():
        return spans
    unit = np.arange(len(counts)) if spans.unit is None else spans.unit
    order = np.random.default_rng(SEED).permutation(len(spans.truth))
    total = np.cumsum(np.bincount(unit, weights=counts)[order])
    chosen = np.sort(order[: max(1, int(np.searchsorted(total, limit, side='right')))])
    kept = np.flatnonzero(np.isin(unit, chosen))
    of = None if spans.unit is None else np.searchsorted(chosen, unit[kept])
    codes = [spans.codes[int(clip)] for clip in kept]
    return dataclasses.replace(spans, codes=codes, truth=spans.truth[chosen], unit=of)


def _counts(lengths: np.ndarray, inputs: Input) -> np.ndarray:
    """The number of windows of clips with spans of these lengths."""
    return np.array([len(windows.starts(int(length), inputs.window)) for length in lengths])


def calibration(
    data: pipeline.Data, count: int = CALIBRATION_WINDOWS
) -> tuple[np.ndarray, tuple[tuple[str, int], ...]]:
    """Training windows drawn with a fixed seed.

    What is known of the speakers is drawn as in training.

    Returns:
      Features `[W, frames, n_mels]`, W <= `count`, and for each window its clip's id and its first frame in the clip's
      active span.
    """
    drawn = list(_calibration(data, count))
    features = [data.inputs.hear(codes, profile).features for codes, profile, _ in drawn]
    return np.stack(features), tuple(place for _, _, place in drawn)


def _calibration(data: pipeline.Data, count: int) -> Iterator[tuple[np.ndarray, Profile, tuple[str, int]]]:
    inputs, rng = data.inputs, np.random.default_rng(SEED)
    places = [
        (int(clip), int(start))
        for clip in data.clips('train')
        for start in windows.starts(int(data.features.lengths[clip]), inputs.window)
    ]
    for index in np.sort(rng.permutation(len(places))[:count]):
        clip, start = places[index]
        codes = data.features[clip][start : start + inputs.window.frames]
        yield codes, data.draw_history(clip, rng), (data.corpus.id[clip], start)


def _joined(name: str, parts: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    parts = list(parts)
    return {name: np.concatenate(parts), f'{name}_lengths': np.array([len(part) for part in parts], np.int64)}


def _parts(name: str, arrays: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    return _cut(arrays[name], arrays[f'{name}_lengths'])


def _cut(joined: np.ndarray, lengths: np.ndarray) -> list[np.ndarray]:
    return np.split(joined, np.cumsum(lengths)[:-1])
