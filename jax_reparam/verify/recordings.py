"""Labelled recordings of the user as windows for verification. Imports neither TensorFlow nor JAX."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jax_reparam.errors import InputError
from jax_reparam.evaluation import Windows
from jax_reparam.frontend import audio, audio_files, features, windows
from jax_reparam.frontend.inputs import Input
from jax_reparam.progress import Progress

COLUMNS = ('path', 'label')


def listed(source: str | Path, labels: Sequence[str]) -> list[tuple[Path, int]]:
    """The clips of a folder or table, with the class of each.

    Args:
      source: a folder `LABEL/.../clip.wav`, or a table with the columns path and label, as the corpus `folder` takes
        it, less its speakers.
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
        raise InputError(f'{source}: expected WAV or FLAC files, found none')
    for file, label in clips:
        if label not in labels:
            raise InputError(f'{file}: expected a label of the model ({", ".join(labels)}), found {label!r}')
    return [(file, list(labels).index(label)) for file, label in clips]


@dataclasses.dataclass(frozen=True)
class Recordings:
    """Labelled recordings, and how they become a model's windows.

    Attributes:
      samples: of each, `[N]` int16 at the frontend's sample rate.
      truth: the class of each, `[n]`.
      inputs: the manifest's `input`.
    """

    samples: Sequence[np.ndarray]
    truth: np.ndarray
    inputs: Input

    def windows(self, frames: Sequence[np.ndarray] | None = None) -> Windows:
        """All windows: of `frames`, standardised features `[T, n_mels]` of each recording; None takes training's."""
        features, clip = windows.split(frames or map(self.inputs.features, self.samples), self.inputs.window)
        return Windows(features.astype(np.float32), clip, self.truth)

    def pcm(self, length: int) -> np.ndarray:
        """The samples of the same windows, `[W, length]` int16; of a recording that is too short, repeated."""
        frontend, cut = self.inputs.frontend, []
        for samples in self.samples:
            count = features.frame_count(len(samples), frontend)
            starts = windows.starts(count, self.inputs.window) * frontend.hop_length
            cut += [windows.cut(samples, start, length) for start in starts]
        return np.stack(cut)


def load(clips: Sequence[tuple[Path, int]], inputs: Input, *, show_progress: bool = True) -> Recordings:
    """Reads the clips that `listed` gave.

    Raises:
      InputError: a clip that cannot be used; a score over the others would not be that of the list.
    """
    recordings, rate = [], inputs.frontend.sample_rate
    bar = Progress(len(clips), 'reading clips', unit='clip', enabled=show_progress)
    try:
        for path, _ in clips:
            samples = audio.read(path, rate)
            audio.check(samples, str(path), rate)
            recordings.append(samples)
            bar.update()
    finally:
        bar.close()
    return Recordings(recordings, np.array([label for _, label in clips]), inputs)


def _in_folder(top: Path) -> list[tuple[Path, str]]:
    files = audio_files.below(top)
    for file in files:
        if file.parent == top:
            raise InputError(f'{file}: expected it in a folder of its label, {top}/LABEL/{file.name}')
    return [(file, file.relative_to(top).parts[0]) for file in files]


def _in_table(table: Path) -> list[tuple[Path, str]]:
    clips = []
    for line, (path, label) in audio_files.rows(table, COLUMNS):
        if not (path and label):
            raise InputError(f'{table}: line {line}: expected path and label, found {path or "no path"!r}')
        clips.append((table.parent / path, label))
    return clips
