"""Emotions of recordings, by an exported model: jax-reparam predict [--model OUT] CLIP_OR_FOLDER ... [--json].

A recording in which nobody speaks, or for less than 0.25 s, has no label: that is a result. --speaker names recordings
of the same voice, without labels, from which its average is learned first; nothing is learned of the recordings that
are decided.

With --together each CLIP_OR_FOLDER gets one decision over all its recordings, as a model that decides by speaker (on
DAIC-WOZ: a participant) was scored.

Needs what `fold.py` wrote and no more: neither TensorFlow nor JAX is imported. LiteRT runs the model, or with --tflm
TFLM, as a device does; in int8 the two may differ by some steps. Exit code 0: every clip was decided. 1: some were not
(a line each on standard error), or there was no speech for --save-profile. 2: OUT is not what it should be.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jax_reparam.errors import InputError, one_line
from jax_reparam.frontend import audio, audio_files, voice
from jax_reparam.frontend.inputs import Input
from jax_reparam.frontend.voice import Profile
from jax_reparam.manifest import FORM_FILES, PACKAGED
from jax_reparam.recognizer import Prediction, Recognizer, together
from jax_reparam.table import aligned

# What a table says instead of a label, and the flags of a recording or window in JSON.
NO_SPEECH, FLAGS = 'no speech', ('too_quiet', 'clipping')


def recordings(paths: Sequence[str | Path]) -> Iterator[Path | InputError]:
    """The files that are meant: of a folder, the audio files below it (`audio_files.below`).

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
            yield InputError(f'{path}: expected {audio.READABLE} files in it, found none')


def as_json(name: str, labels: Sequence[str], prediction: Prediction, *, over_time: bool) -> dict[str, Any]:
    """One recording's entry in the output of `--json`."""
    entry: dict[str, Any] = {
        'file': name,
        **decision(labels, prediction.probabilities),
        'speech_share': round(prediction.speech_share, 3),
        'too_quiet': prediction.too_quiet,
        'clipping': prediction.clipping,
    }
    if over_time:
        entry['over_time'] = [
            {'start': round(part.start, 3), 'end': round(part.end, 3), **decision(labels, part.probabilities)}
            for part in prediction.over_time
        ]
    return entry


def decision(labels: Sequence[str], probabilities: np.ndarray) -> dict[str, Any]:
    """The most probable class and the probability of each, by name; null where nobody speaks (zeros)."""
    if not probabilities.any():
        return {'label': None, 'speech': False, 'probabilities': None}
    return {
        'label': labels[int(probabilities.argmax())],
        'speech': True,
        'probabilities': {label: round(float(p), 6) for label, p in zip(labels, probabilities, strict=True)},
    }


def table(entries: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> list[str]:
    """The entries as lines of text: decision, then the probability of each class in percent, then flags."""
    rows = [['', 'decision', *labels, '']]
    for entry in entries:
        rows.append(_row(entry['file'], entry, labels))
        for part in entry.get('over_time', ()):
            rows.append(_row(f'  {part["start"]:.1f} - {part["end"]:.1f} s', part, labels))
    return aligned(rows, left=(0, 1, 2 + len(labels)))


def _row(name: str, entry: Mapping[str, Any], labels: Sequence[str]) -> list[str]:
    flags = ', '.join(flag.replace('_', ' ') for flag in FLAGS if entry.get(flag))
    if not entry['speech']:
        return [name, NO_SPEECH, *('' for _ in labels), flags]
    return [name, entry['label'], *(f'{100 * p:.1f}' for p in entry['probabilities'].values()), flags]


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    command = argparse.ArgumentParser(
        prog='jax-reparam predict', description='Emotions of recordings, by an exported model.'
    )
    add_model_arguments(command)
    command.add_argument('paths', metavar='CLIP', nargs='+', help=f'{audio.READABLE} file, or a folder of them')
    command.add_argument('--json', action='store_true', help='print one JSON object instead of a table')
    command.add_argument(
        '--together', action='store_true', help='one decision for each CLIP: over all recordings of a folder'
    )
    command.add_argument('--over-time', action='store_true', help='also for each window, with its times in seconds')
    add_voice_arguments(command)
    return command


def add_model_arguments(command: argparse.ArgumentParser) -> None:
    """Adds which model runs, and what runs it."""
    command.add_argument('--model', metavar='OUT', help='folder that fold.py wrote (default: the packaged model)')
    command.add_argument('--form', choices=list(FORM_FILES), help='default: the one that OUT recommends')
    command.add_argument('--tflm', action='store_true', help='run it in TFLM, as a device does (default: LiteRT)')


def model_folder(args: argparse.Namespace) -> str:
    """The folder of --model; where none is named, that of the packaged model, and standard error says so."""
    if args.model is not None:
        return str(args.model)
    print(f'the packaged model {PACKAGED.name}: acted German speech; --model names another', file=sys.stderr)
    return str(PACKAGED)


def add_voice_arguments(command: argparse.ArgumentParser) -> None:
    """Adds what `known_voice` reads."""
    command.add_argument(
        '--speaker',
        metavar='CLIP',
        action='append',
        default=[],
        help="recording of the speaker's voice, or a folder of them, to learn its average from (may be repeated); "
        '1 s of speech, as it is counted here, is 2 to 2.5 s of fluent talk',
    )
    command.add_argument(
        '--profile', metavar='FILE', help='what --save-profile or a device wrote: known before anything is heard'
    )
    command.add_argument('--save-profile', metavar='FILE', help='write what is known of the voice in the end')


def known_voice(inputs: Input, args: argparse.Namespace, *, learn: bool = False) -> Profile | None:
    """What the arguments tell of a voice; None: nothing. `learn`: more is learned while it is heard.

    Raises:
      InputError: a profile or recording that cannot be used, or --save-profile where nothing can be saved.
    """
    rate, any_voice = inputs.frontend.sample_rate, bool(learn or args.speaker or args.profile)
    if args.save_profile is not None:
        path = Path(args.save_profile)
        if not any_voice:
            raise InputError(
                '--save-profile: expected a voice to save (--speaker or --profile; in listen --learn), found none'
            )
        if path.is_dir() or not os.access(path.parent, os.W_OK | os.X_OK):
            found = 'a folder' if path.is_dir() else f'that nothing can be written to {path.parent}'
            raise InputError(f'--save-profile {path}: expected a file in a folder that can be written, found {found}')
    if any_voice and not inputs.voice.history:
        print(
            'this model was not trained with histories: verify --field says what knowing a voice is worth',
            file=sys.stderr,
        )
    profile = None if args.profile is None else voice.load(args.profile, inputs)
    for clip in recordings(args.speaker):
        if isinstance(clip, InputError):
            raise clip
        recording = inputs.recording(audio.blocks(clip, rate, show_progress=True))
        profile = inputs.learned(recording.codes, profile)
    return profile


def save_voice(path: str | None, profile: Profile | None, inputs: Input) -> bool:
    """Writes the profile of --save-profile and says so; without speech nothing is written, and the result is False."""
    if path is None:
        return True
    if profile is None or not profile.frames:
        print(f'{path}: not saved: no speech was heard', file=sys.stderr)
        return False
    voice.save(path, profile, inputs)
    print(f'saved: {inputs.seconds(profile.frames):g} s of speech', file=sys.stderr)
    return True


def main(argv: Sequence[str] | None = None) -> int:
    """Decides on every recording; a bad one is named on standard error, and the others are done all the same."""
    command = parser()
    args = command.parse_args(argv)
    if args.together and args.over_time:
        command.error('--together is over all recordings: expected no --over-time beside it')
    folder = model_folder(args)
    if args.tflm:
        with Recognizer.in_tflm(folder, args.form) as recognizer:
            return _decide(recognizer, args)
    return _decide(Recognizer.load(folder, args.form), args)


def _decide(recognizer: Recognizer, args: argparse.Namespace) -> int:
    inputs, labels = recognizer.manifest.input, recognizer.manifest.labels
    rate = inputs.frontend.sample_rate
    recognizer.profile = known_voice(inputs, args)
    entries, errors = [], []
    for given in args.paths:
        predictions = []
        for path in recordings([given]):
            try:
                if isinstance(path, InputError):
                    raise path
                blocks = audio.blocks(path, rate, show_progress=True)
                prediction = recognizer.predict(blocks, over_time=args.over_time, show_progress=True)
            except InputError as error:
                errors.append({'file': given if isinstance(path, InputError) else str(path), 'error': one_line(error)})
                print(f'error: {one_line(error)}', file=sys.stderr)
                continue
            predictions.append(prediction)
            if not args.together:
                entries.append(as_json(str(path), labels, prediction, over_time=args.over_time))
        if args.together and predictions:
            row, used = together(predictions, recognizer.manifest.protocol)
            entries.append({'file': given, 'recordings': used, **decision(labels, row)})
    learned = round(recognizer.learned_seconds, 2)
    if args.json:
        content = {
            'form': recognizer.form,
            'labels': labels,
            'learned_seconds': learned,
            'clips': entries,
            'errors': errors,
        }
        print(json.dumps(content, indent=2, ensure_ascii=False))
    elif entries:
        if recognizer.profile is not None:
            print(f'learned: {learned:g} s of speech', file=sys.stderr)
        print('\n'.join(table(entries, labels)))
    saved = save_voice(args.save_profile, recognizer.profile, inputs)
    return 1 if errors or not saved else 0
