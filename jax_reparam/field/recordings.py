"""Labelled recordings of the user as windows for verification. Imports neither TensorFlow nor JAX."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jax_reparam import threads
from jax_reparam.errors import InputError
from jax_reparam.evaluation import Windows
from jax_reparam.frontend import audio, audio_files, features, speech, windows
from jax_reparam.frontend.inputs import Heard, Input
from jax_reparam.progress import Progress

COLUMNS, SPEAKER = ('path', 'label'), 'speaker'


@dataclasses.dataclass(frozen=True)
class Clip:
    """A recording on disk, its class, and who speaks ('': nobody says)."""

    path: Path
    label: int
    speaker: str = ''


def listed(source: str | Path, labels: Sequence[str]) -> list[Clip]:
    """The clips of a folder or table, with the class of each.

    Args:
      source: a folder `LABEL/.../clip.wav`, or a table with the columns path and label, as the corpus `folder` takes
        it; it may have the column speaker, too.
      labels: the model's, in the order of its logits.

    Raises:
      InputError: nothing there, no clip in it, or a label that the model does not know.
    """
    path = Path(source)
    if path.is_dir():
        clips = _in_folder(path)
    elif path.is_file():
        clips = _in_table(path)
    else:
        raise InputError(f'{source}: expected a folder LABEL/clip.wav or a table of path, label, found nothing')
    if not clips:
        raise InputError(f'{source}: expected {audio.READABLE} files, found none')
    for file, label, _ in clips:
        if label not in labels:
            raise InputError(f'{file}: expected a label of the model ({", ".join(labels)}), found {label!r}')
    return [Clip(file, list(labels).index(label), speaker) for file, label, speaker in clips]


@dataclasses.dataclass(frozen=True)
class Recordings:
    """Labelled recordings, and how they become a model's windows.

    Attributes:
      samples: of each, `[N]` int16 at the frontend's sample rate.
      truth: the class of each, `[n]`.
      inputs: the manifest's `input`.
      speaker: of each, '' where nobody says; None: of none.
    """

    samples: Sequence[np.ndarray]
    truth: np.ndarray
    inputs: Input
    speaker: Sequence[str] | None = None

    @functools.cached_property
    def codes(self) -> list[np.ndarray]:
        """Of each, `[T, M]` int8."""
        self.inputs.rule  # noqa: B018  (its filters once, before the threads)
        return list(threads.in_order(self.inputs.codes, self.samples, threads.cores(len(self.samples))))

    def windows(self, codes: Sequence[np.ndarray] | None = None) -> Windows:
        """The windows of the clips' active spans in which somebody speaks.

        Args:
          codes: of each recording, `[T, M]` int8, as a device makes them; where speech is, the training's codes say all
            the same, so that the windows are the same. None: the training's.

        Raises:
          InputError: nobody speaks in any.
        """
        found, inputs = [], self.inputs
        for clip, own in enumerate(self.codes):
            span = speech.active_span(own, inputs.rule)
            heard = list(inputs.windows(own[span]))
            given = heard if codes is None else inputs.windows(codes[clip][span])
            found += [(one, clip) for one, by in zip(given, heard, strict=True) if by.speech.there]
        return self._windows(found)

    def pcm(self, length: int) -> tuple[np.ndarray, Windows]:
        """The recordings cut into windows of samples as a stream is, without those in which nobody speaks.

        Args:
          length: samples of a window; a recording that is too short is followed by zeros.

        Returns:
          `[W, length]` int16, and the windows that these samples are to the model.

        Raises:
          InputError: nobody speaks in any.
        """
        frontend, cut, found = self.inputs.frontend, [], []
        for clip, samples in enumerate(self.samples):
            count = features.frame_count(len(samples), frontend)
            for start in windows.starts(count, self.inputs.window) * frontend.hop_length:
                window = np.pad(given := samples[start : start + length], (0, length - len(given)))
                heard = self.inputs.hear(self.inputs.codes(window))
                if heard.speech.there:
                    cut.append(window)
                    found.append((heard, clip))
        made = self._windows(found)
        return np.stack(cut), made

    def _windows(self, found: Sequence[tuple[Heard, int]]) -> Windows:
        spoken = ((heard.features, clip) for heard, clip in found)
        return Windows(*next(windows.batches(spoken, None)), self.truth)


def load(clips: Sequence[Clip], inputs: Input, *, show_progress: bool = True) -> Recordings:
    """Reads the clips that `listed` gave.

    Raises:
      InputError: a clip that cannot be used; a score over the others would not be that of the list.
    """
    recordings, rate = [], inputs.frontend.sample_rate
    bar = Progress(len(clips), 'reading clips', unit='clip', enabled=show_progress)
    try:
        for clip in clips:
            recordings.append(audio.read(clip.path, rate))
            bar.update()
    finally:
        bar.close()
    truth, speaker = np.array([clip.label for clip in clips]), [clip.speaker for clip in clips]
    return Recordings(recordings, truth, inputs, speaker if any(speaker) else None)


def _in_folder(top: Path) -> list[tuple[Path, str, str]]:
    files = audio_files.below(top)
    for file in files:
        if file.parent == top:
            raise InputError(f'{file}: expected it in a folder of its label, {top}/LABEL/{file.name}')
    return [(file, file.relative_to(top).parts[0], '') for file in files]


def _in_table(table: Path) -> list[tuple[Path, str, str]]:
    clips = []
    for line, (path, label, speaker) in audio_files.rows(table, COLUMNS, optional=(SPEAKER,)):
        if not (path and label):
            raise InputError(f'{table}: line {line}: expected path and label, found {path or "no path"!r}')
        clips.append((table.parent / path, label, speaker))
    return clips
