"""What an export reads of the corpus that a model was trained on: windows to make it of, and to verify it on."""

from __future__ import annotations

import dataclasses
import json

import numpy as np

from jax_reparam.checkpoint import Trained
from jax_reparam.data import pipeline
from jax_reparam.errors import InputError
from jax_reparam.evaluation import Windows
from jax_reparam.field.recordings import Recordings
from jax_reparam.frontend import windows
from jax_reparam.frontend.inputs import Input

# The whole of a small corpus: speakers to come would else leave the ranges more often.
CALIBRATION_WINDOWS = 512
# Enough to tell ways of quantising apart, few enough to wait for.
VALIDATION_WINDOWS = 128
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


def export_data(trained: Trained, limit: int | None = None, *, show_progress: bool = True) -> ExportData:
    """Reads what an export of a trained model needs.

    Args:
      trained: the model.
      limit: at most this many test windows; None takes all.
      show_progress: report on standard error.

    Raises:
      InputError: see `load_data`.
    """
    data = load_data(trained, show_progress=show_progress)
    calibration_windows, places = calibration(data)
    clips = data.clips('test')
    return ExportData(
        inputs=data.inputs,
        calibration=calibration_windows,
        places=places,
        validation=of_part(data, 'validation', VALIDATION_WINDOWS),
        test=of_part(data, 'test', limit),
        of_clips=len(clips),
        recordings=tuple(data.corpus.audio(clip) for clip in clips[:RECORDINGS]),
        field=_in_the_field(data),
    )


def _in_the_field(data: pipeline.Data) -> Recordings:
    """Test clips of at most `FIELD_WINDOWS` windows, at least one, drawn with a fixed seed."""
    order = np.random.default_rng(SEED).permutation(data.clips('test'))
    windows = np.cumsum(_windows(data, order))
    clips = np.sort(order[: max(1, int(np.searchsorted(windows, FIELD_WINDOWS, side='right')))])
    speaker = [data.corpus.speaker[clip] for clip in clips]
    return Recordings([data.corpus.audio(clip) for clip in clips], data.corpus.label[clips], data.inputs, speaker)


def load_data(trained: Trained, *, show_progress: bool = True) -> pipeline.Data:
    """The corpus a model was trained on, split as it was, with the checkpoint's statistics.

    Raises:
      InputError: the corpus is missing, or its split is not that of the training.
    """
    data = pipeline.load_data(trained.recipe, show_progress=show_progress)
    if tuple(data.corpus.labels) != trained.labels or json.loads(json.dumps(data.split.info)) != trained.meta['split']:
        # Its test clips might be among those the model has learnt.
        raise InputError(
            f'{trained.path}: expected the corpus and split that it was trained on, found another '
            f'{data.corpus.name} (key {data.corpus.key[:12]}, trained on {trained.meta["corpus"]["key"][:12]})'
        )
    return dataclasses.replace(data, inputs=trained.inputs)


def of_part(data: pipeline.Data, part: pipeline.Part, limit: int | None) -> Windows:
    """A part's windows: all of them, or at most `limit`, of units drawn with a fixed seed.

    Only whole units (clips, or speakers, as the protocol decides) are drawn, since a decision is theirs; at least one
    is.
    """
    clips, truth = data.clips(part), data.truth(part)
    unit = data.units(part)[1]
    counts = _windows(data, clips)
    if limit is not None and limit < counts.sum():
        order = np.random.default_rng(SEED).permutation(len(truth))
        total = np.cumsum(np.bincount(unit, weights=counts)[order])
        chosen = np.sort(order[: max(1, int(np.searchsorted(total, limit, side='right')))])
        kept = np.isin(unit, chosen)
        clips, unit, truth = clips[kept], np.searchsorted(chosen, unit[kept]), truth[chosen]
    [(features, clip)] = data.spoken(clips)
    protocol = data.split.protocol
    return Windows(features, clip, truth, None if protocol.unit == 'clip' else unit, protocol.join)


def _windows(data: pipeline.Data, clips: np.ndarray) -> np.ndarray:
    """The number of windows of each clip."""
    return np.array([len(windows.starts(int(length), data.inputs.window)) for length in data.features.lengths[clips]])


def calibration(
    data: pipeline.Data, count: int = CALIBRATION_WINDOWS
) -> tuple[np.ndarray, tuple[tuple[str, int], ...]]:
    """Training windows drawn with a fixed seed.

    What is known of the speakers is drawn as in training.

    Returns:
      Features `[W, frames, n_mels]`, W <= `count`, and for each window its clip's id and its first frame in the clip's
      active span.
    """
    inputs, rng = data.inputs, np.random.default_rng(SEED)
    places = [
        (int(clip), int(start))
        for clip in data.clips('train')
        for start in windows.starts(int(data.features.lengths[clip]), inputs.window)
    ]
    drawn = np.sort(rng.permutation(len(places))[:count])
    features = []
    for clip, start in (chosen := [places[index] for index in drawn]):
        codes = data.features[clip][start : start + inputs.window.frames]
        features.append(inputs.hear(codes, data.draw_history(clip, rng)).features)
    return np.stack(features), tuple((data.corpus.id[clip], start) for clip, start in chosen)
