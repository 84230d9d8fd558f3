"""Emotions of recordings, by an exported model: python -m jax_reparam.predict OUT CLIP_OR_FOLDER ... [--json].

With --together each CLIP_OR_FOLDER gets one decision over all its recordings, as a model that decides by speaker (on
DAIC-WOZ: a participant) was scored.

Needs what `fold.py` wrote and no more: neither TensorFlow nor JAX is imported. LiteRT runs the model, or with --tflm
TFLM, as a device does; in int8 the two may differ by some steps. Exit code 0: every clip was decided. 1:
some were not (a line each on standard error). 2: OUT is not what it should be.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jax_reparam.errors import InputError, one_line, run
from jax_reparam.evaluation import decide, softmax
from jax_reparam.frontend import audio, audio_files, windows
from jax_reparam.manifest import FORM_FILES, Manifest, Protocol, open_form
from jax_reparam.runtime import litert, tflm
from jax_reparam.table import aligned


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The decision on one recording.

    Attributes:
      probabilities: `[C]`, the mean over its windows.
      starts: start of each window, `[W]`, in seconds.
      ends: end of each window, `[W]`, in seconds; not behind the end of the recording.
      over_time: probabilities of each window, `[W, C]`.
    """

    probabilities: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    over_time: np.ndarray


@dataclasses.dataclass(frozen=True)
class Recognizer:
    """A form of an exported model; `logits` maps windows `[W, frames, n_mels]` to logits `[W, C]`."""

    manifest: Manifest
    form: str
    logits: Callable[[np.ndarray], np.ndarray]

    @classmethod
    def load(cls, folder: str | Path, form: str | None = None) -> Recognizer:
        """Loads a form from a folder that `fold.py` wrote; None is the one that it recommends.

        Raises:
          InputError: no such folder or form, or a file that is not the one that was verified.
        """
        manifest, name, model = open_form(folder, form)
        return cls(manifest, name, litert.load(model))

    @classmethod
    @contextlib.contextmanager
    def in_tflm(cls, folder: str | Path, form: str | None = None) -> Iterator[Recognizer]:
        """The same, run by TFLM in a child process that ends with the block.

        Raises:
          InputError: see `load`; or TFLM is not there, or does not run the model.
        """
        manifest, name, model = open_form(folder, form)
        tflm.need('--tflm')
        try:
            with tflm.started(model) as session:
                yield cls(manifest, name, lambda cut: np.stack([session.run(window) for window in cut]))
        except tflm.TFLMError as error:
            raise InputError(f'{folder}: expected a model that TFLM runs, found: {error}') from error

    def predict(self, samples: np.ndarray) -> Prediction:
        """Decides on one recording, `[N]` int16 at the frontend's sample rate."""
        inputs = self.manifest.input
        frontend, window, frames = inputs.frontend, inputs.window, inputs.features(samples)
        starts = windows.starts(len(frames), window)
        # One at a time: all windows of a long recording take more memory than the recording.
        over_time = np.concatenate([softmax(self.logits(one)) for one, _ in windows.batches([frames], window, 1)])
        seconds = frontend.hop_ms / 1000
        ends = np.minimum((starts + window.frames) * seconds, len(samples) / frontend.sample_rate)
        return Prediction(decide(over_time)[0], starts * seconds, ends, over_time)


def together(predictions: Sequence[Prediction], protocol: Protocol) -> tuple[np.ndarray, int]:
    """One decision over all recordings of a speaker, as the model's protocol makes it.

    Returns:
      `[C]`, and the number of recordings that were used: the longest.
    """
    order = sorted(range(len(predictions)), key=lambda i: -float(predictions[i].ends[-1]))
    used = sorted(order[: protocol.turns or None])
    rows = np.stack([predictions[i].probabilities for i in used])
    return decide(rows, join=protocol.join)[0], len(used)


def recordings(paths: Sequence[str | Path]) -> Iterator[Path | InputError]:
    """The files that are meant: of a folder, the WAV and FLAC files below it (`audio_files.below`).

    A folder without any, or one that cannot be read, yields the error that says so.
    """
    for path in map(Path, paths):
        if not path.is_dir():
            yield path
            continue
        try:
            files = audio_files.below(path)
        except OSError as error:
            yield InputError(f'{path}: expected a folder that can be read, found: {error}')
            continue
        yield from files
        if not files:
            yield InputError(f'{path}: expected WAV or FLAC files in it, found none')


def as_json(name: str, labels: Sequence[str], prediction: Prediction, *, over_time: bool) -> dict[str, Any]:
    """One recording's entry in the output of `--json`."""
    entry: dict[str, Any] = {'file': name, **decision(labels, prediction.probabilities)}
    if over_time:
        entry['over_time'] = [
            {'start': round(float(start), 3), 'end': round(float(end), 3), **decision(labels, row)}
            for start, end, row in zip(prediction.starts, prediction.ends, prediction.over_time, strict=True)
        ]
    return entry


def decision(labels: Sequence[str], probabilities: np.ndarray) -> dict[str, Any]:
    """The most probable class and the probability of each, by name."""
    return {
        'label': labels[int(probabilities.argmax())],
        'probabilities': {label: round(float(p), 6) for label, p in zip(labels, probabilities, strict=True)},
    }


def table(entries: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> list[str]:
    """The entries as lines of text: decision, then the probability of each class in percent."""
    rows = [['', 'decision', *labels]]
    for entry in entries:
        rows.append(_row(entry['file'], entry))
        for part in entry.get('over_time', ()):
            rows.append(_row(f'  {part["start"]:.1f} - {part["end"]:.1f} s', part))
    return aligned(rows, left=(0, 1))


def _row(name: str, entry: Mapping[str, Any]) -> list[str]:
    return [name, entry['label'], *(f'{100 * p:.1f}' for p in entry['probabilities'].values())]


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    command = argparse.ArgumentParser(
        prog='python -m jax_reparam.predict', description='Emotions of recordings, by an exported model.'
    )
    command.add_argument('folder', metavar='OUT', help='folder that fold.py wrote')
    command.add_argument('paths', metavar='CLIP', nargs='+', help='WAV or FLAC file, or a folder of them')
    command.add_argument('--form', choices=list(FORM_FILES), help='default: the one that OUT recommends')
    command.add_argument('--json', action='store_true', help='print one JSON object instead of a table')
    command.add_argument(
        '--together', action='store_true', help='one decision for each CLIP: over all recordings of a folder'
    )
    command.add_argument('--tflm', action='store_true', help='run the model in TFLM, as a device does')
    command.add_argument('--over-time', action='store_true', help='also for each window, with its times in seconds')
    return command


def main(argv: Sequence[str] | None = None) -> int:
    """Decides on every recording; a bad one is named on standard error, and the others are done all the same."""
    command = parser()
    args = command.parse_args(argv)
    if args.together and args.over_time:
        command.error('--together is over all recordings: expected no --over-time beside it')
    if args.tflm:
        with Recognizer.in_tflm(args.folder, args.form) as recognizer:
            return _decide(recognizer, args)
    return _decide(Recognizer.load(args.folder, args.form), args)


def _decide(recognizer: Recognizer, args: argparse.Namespace) -> int:
    labels, rate = recognizer.manifest.labels, recognizer.manifest.input.frontend.sample_rate
    entries, errors = [], []
    for given in args.paths:
        predictions = []
        for path in recordings([given]):
            try:
                if isinstance(path, InputError):
                    raise path
                samples = audio.read(path, rate)
                audio.check(samples, str(path), rate)
            except InputError as error:
                errors.append({'error': one_line(error)})
                print(f'error: {one_line(error)}', file=sys.stderr)
                continue
            predictions.append(recognizer.predict(samples))
            if not args.together:
                entries.append(as_json(str(path), labels, predictions[-1], over_time=args.over_time))
        if args.together and predictions:
            row, used = together(predictions, recognizer.manifest.protocol)
            entries.append({'file': given, 'recordings': used, **decision(labels, row)})
    if args.json:
        content = {'form': recognizer.form, 'labels': labels, 'clips': entries, 'errors': errors}
        print(json.dumps(content, indent=2, ensure_ascii=False))
    elif entries:
        print('\n'.join(table(entries, labels)))
    return 1 if errors else 0


if __name__ == '__main__':
    run(main)
