"""Emotions of a stream, by the chain of a device: jax-reparam listen [--model OUT] [--file CLIP] [--json].

Hears the microphone, or a recording as if it came from one. The frontend makes the features of each frame once, a ring
keeps those of the last window, and the model runs whenever a window is full: what `firmware/` does on a device.
LiteRT runs the model and NumPy the frontend, or with --tflm TFLM both. A line comes for each window; where nobody
speaks in it (for 0.25 s), it says so and no model runs.
With --learn, the default of a model that was trained for it, the average of the voice is learned meanwhile: first a
window is decided, then it is learned. Neither TensorFlow nor JAX is imported.

Exit code 0: the recording has ended. 1: it has, and there was no speech for --save-profile. 130: Ctrl-C, which is how
listening to a microphone ends. 2: bad input, or something that is missing here.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import queue
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
import soxr

from jax_reparam import manifest
from jax_reparam.commands.predict import (
    FLAGS,
    NO_SPEECH,
    add_model_arguments,
    add_voice_arguments,
    decision,
    known_voice,
    model_folder,
    save_voice,
)
from jax_reparam.errors import InputError, need
from jax_reparam.frontend import audio, features
from jax_reparam.frontend.inputs import Input
from jax_reparam.frontend.voice import Profile
from jax_reparam.recognizer import Decision, Recognizer, Stream
from jax_reparam.runtime import tflm
from jax_reparam.table import aligned

# Of samples that are taken together, from a microphone or a file.
CHUNK_SECONDS = 0.1
# Without a sample a microphone is given up after this.
SILENT_SECONDS = 10.0
# So far behind a microphone, what has come meanwhile is dropped: more would be memory without end, and old news.
BEHIND_SECONDS = 10.0
SMOOTHING = 0.5
# The codes `[M]` int8 of a frame's samples `[frame]` int16.
FrameCodes: TypeAlias = Callable[[np.ndarray], np.ndarray]


def recording(path: str, sample_rate: int, *, real_time: bool = False) -> Iterator[np.ndarray]:
    """The samples of an audio file in chunks, as fast as they are taken or as fast as they were spoken.

    Raises:
      InputError: no file that can be heard.
    """
    samples = audio.read(path, sample_rate)
    began, size = time.monotonic(), int(CHUNK_SECONDS * sample_rate)
    for at in range(0, len(samples), size):
        chunk = samples[at : at + size]
        if real_time:
            time.sleep(max(0.0, began + (at + len(chunk)) / sample_rate - time.monotonic()))
        yield chunk


def microphone(device: str | None, sample_rate: int) -> Iterator[np.ndarray]:
    """The samples of a microphone in chunks, without end; `device` is its number or a part of its name.

    One that does not record at `sample_rate` is recorded at its own rate, and resampled. Who takes the chunks too
    slowly is told how far behind it is, and goes on at the present: times count what is heard.

    Raises:
      InputError: no microphone, or nothing to record with.
    """
    need('microphone', 'listen')
    try:
        import sounddevice
    except OSError as error:  # it is there, the library that it wraps is not
        raise InputError(
            f'microphone: expected the PortAudio library that sounddevice wraps (Debian: libportaudio2), found: {error}'
        ) from None
    name = f'microphone {device or "(default)"}'
    arrived: queue.Queue[np.ndarray] = queue.Queue(round(BEHIND_SECONDS / CHUNK_SECONDS))
    lost = overflows = 0  # chunks that found no place; times that PortAudio lost samples

    def take(samples: Any, _: Any, __: Any, status: Any) -> None:
        nonlocal lost, overflows
        overflows += bool(status and status.input_overflow)
        try:
            arrived.put_nowait(np.frombuffer(samples, np.int16).copy())  # PortAudio uses its memory again
        except queue.Full:
            lost += 1

    number = int(device) if device is not None and device.isdigit() else device

    def opened(rate: int) -> Any:
        return sounddevice.RawInputStream(
            samplerate=rate,
            blocksize=int(CHUNK_SECONDS * rate),
            device=number,
            channels=1,
            dtype='int16',
            callback=take,
        )

    try:
        rate = sample_rate
        try:
            stream = opened(rate)
        except sounddevice.PortAudioError:
            rate = round(sounddevice.query_devices(number, 'input')['default_samplerate'])
            if rate == sample_rate:
                raise
            stream = opened(rate)
        resampler = None if rate == sample_rate else soxr.ResampleStream(rate, sample_rate, 1, dtype='int16')
        with stream:
            told = 0
            while True:
                if overflows > told:
                    told = overflows
                    print(f'{name}: samples were lost before they came here, {told} times so far', file=sys.stderr)
                if arrived.full():
                    with contextlib.suppress(queue.Empty):
                        while True:
                            arrived.get_nowait()
                            lost += 1
                    print(
                        f'{name}: {lost * CHUNK_SECONDS:.1f} s behind: dropped, it goes on at the present',
                        file=sys.stderr,
                    )
                    lost = 0
                chunk = arrived.get(timeout=SILENT_SECONDS)
                yield chunk if resampler is None else resampler.resample_chunk(chunk)
    except queue.Empty:
        raise InputError(f'{name}: expected samples, found none in {SILENT_SECONDS:g} s') from None
    except (sounddevice.PortAudioError, ValueError) as error:
        raise InputError(
            f'{name}: expected one that records {sample_rate:,} Hz mono, found: {error} '
            '(python -m sounddevice lists them)'
        ) from error


def as_json(labels: Sequence[str], heard: Decision, inputs: Input) -> dict[str, Any]:
    """A window's line in the output of `--json`; `smoothed` is null before the first speech."""
    return {
        'start': round(heard.start, 3),
        'end': round(heard.end, 3),
        **decision(labels, heard.probabilities),
        'smoothed': decision(labels, heard.smoothed) if heard.smoothed.any() else None,
        'speech_share': round(heard.speech_share, 3),
        'too_quiet': heard.too_quiet,
        'clipping': heard.clipping,
        'learned_seconds': round(inputs.seconds(heard.profile.frames), 2),
    }


def row(cells: Sequence[str], labels: Sequence[str]) -> str:
    """A line of text: seconds, the window's own label, the smoothed one, a column for each class, and flags."""
    width = max(len(NO_SPEECH), *map(len, labels))
    widths = (16, width, width, *(max(5, len(label)) for label in labels), 0)
    [line] = aligned([cells], left=(1, 2, len(widths) - 1), widths=widths)
    return line


def as_row(labels: Sequence[str], heard: Decision) -> str:
    """A window's line of text, with the smoothed probabilities in percent."""
    own, smoothed = (
        labels[int(values.argmax())] if values.any() else NO_SPEECH for values in (heard.probabilities, heard.smoothed)
    )
    numbers = [f'{100 * p:.1f}' if heard.smoothed.any() else '' for p in heard.smoothed]
    flags = ', '.join(flag.replace('_', ' ') for flag in FLAGS if getattr(heard, flag))
    return row([f'{heard.start:.1f} - {heard.end:.1f} s', own, smoothed, *numbers, flags], labels)


def smoothing(text: str) -> float:
    """An argument from 0 to less than 1, for `argparse`'s `type`."""
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f'expected 0 to less than 1, found {text}')
    return value


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    command = argparse.ArgumentParser(
        prog='jax-reparam listen', description='Emotions of a stream, by the chain of a device.'
    )
    add_model_arguments(command)
    source = command.add_mutually_exclusive_group()
    source.add_argument('--file', metavar='CLIP', help=f'{audio.READABLE} file to hear; default: the microphone')
    source.add_argument(
        '--device', metavar='N', help="the microphone's number or name; python -m sounddevice lists them"
    )
    command.add_argument('--real-time', action='store_true', help='hear the file as fast as it was spoken')
    command.add_argument(
        '--smoothing',
        metavar='S',
        type=smoothing,
        default=SMOOTHING,
        help=f'smoothed = S x smoothed before + (1 - S) x window; default {SMOOTHING}, 0: none',
    )
    command.add_argument('--json', action='store_true', help='print a JSON object for each window instead of a row')
    command.add_argument(
        '--learn',
        action=argparse.BooleanOptionalAction,
        help='learn the average of the voice while it is heard; default: if the model was trained for it',
    )
    add_voice_arguments(command)
    return command


def main(argv: Sequence[str] | None = None) -> int:
    """Prints a line for each window, until the recording ends or Ctrl-C."""
    command = parser()
    args = command.parse_args(argv)
    if args.real_time and args.file is None:
        command.error('--real-time is for --file: a microphone always is')
    folder = model_folder(args)
    with contextlib.ExitStack() as stack:
        frame_codes = None
        if args.tflm:
            recognizer = stack.enter_context(Recognizer.in_tflm(folder, args.form))
            frame_codes = stack.enter_context(in_tflm(folder, recognizer.manifest))
        else:
            recognizer = Recognizer.load(folder, args.form)
        return _listen(recognizer, args, frame_codes)


def _listen(recognizer: Recognizer, args: argparse.Namespace, frame_codes: FrameCodes | None) -> int:
    labels, inputs = recognizer.manifest.labels, recognizer.manifest.input
    rate = inputs.frontend.sample_rate
    learn = inputs.voice.history > 0 if args.learn is None else args.learn
    recognizer.profile = known_voice(inputs, args, learn=learn)
    stream = Stream(recognizer, smoothing=args.smoothing, learn=learn, frame_codes=frame_codes)
    heard, code, saved = 0, 0, True
    try:
        if args.file is None:
            chunks = microphone(args.device, rate)
        else:
            chunks = recording(args.file, rate, real_time=args.real_time)
        # Of a source that cannot be used nothing is said but the error.
        chunks = itertools.chain([next(chunks)], chunks)
        if not args.json:
            runtime = 'TFLM' if args.tflm else 'LiteRT'
            print(
                opening(f'{recognizer.form} in {runtime}', inputs, args.smoothing, stream.profile, learn=learn),
                file=sys.stderr,
            )
            print(row(['seconds', 'window', 'smoothed', *labels, ''], labels), flush=True)
        for decision in itertools.chain(itertools.chain.from_iterable(map(stream.feed, chunks)), stream.finish()):
            heard += 1  # before its line: whoever saw the line can end this at once
            found = as_json(labels, decision, inputs)
            print(json.dumps(found, ensure_ascii=False) if args.json else as_row(labels, decision), flush=True)
    except KeyboardInterrupt:
        print(f'ended by Ctrl-C, windows: {heard}', file=sys.stderr)
        code = 130
    finally:
        # Not of a source that could not be used.
        if heard:
            if learn:
                print(f'learned: {inputs.seconds(stream.profile.frames):g} s of speech', file=sys.stderr)
            saved = save_voice(args.save_profile, stream.profile, inputs)
    return code or int(not saved)


@contextlib.contextmanager
def in_tflm(folder: str, exported: manifest.Manifest) -> Iterator[FrameCodes]:
    """Has TFLM make the codes of a frame, by the frontend of an exported model.

    Raises:
      InputError: the folder has none, or TFLM does not run it.
    """
    device = exported.device
    if device.frontend is None:
        raise InputError(f'{folder}: expected a frontend, found none: {device.reason or "it failed its check"}')
    try:
        with tflm.started(manifest.read_file(folder, device.frontend)) as session:
            yield lambda samples: features.encode(session.run(features.frames(samples, exported.input.frontend)[0]))
    except tflm.TFLMError as error:
        raise InputError(f'{folder}: expected models that TFLM runs, found: {error}') from error


def opening(runs: str, inputs: Input, smoothing: float, profile: Profile, *, learn: bool) -> str:
    """What is running and when to expect lines, in one line."""
    window, seconds = inputs.window, inputs.frontend.hop_ms / 1000
    return (
        f'{runs}; a line after {window.frames * seconds:g} s and then every {window.hop * seconds:g} s; '
        f'smoothed = {smoothing:g} x smoothed before + {1 - smoothing:g} x window; '
        f'of the voice {inputs.seconds(profile.frames):g} s are known, {"more" if learn else "nothing"} is learned; '
        'Ctrl-C ends'
    )
