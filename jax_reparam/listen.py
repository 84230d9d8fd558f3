"""Emotions of a stream, by the chain of a device: python -m jax_reparam.listen OUT [--file CLIP] [--json].

Hears the microphone, or a recording as if it came from one. TFLM makes the features of each frame once
(`frontend.tflite`), a ring keeps those of the last window, and TFLM runs the model whenever a window is full: what
`firmware/` does on a device. A line comes for each window. Neither TensorFlow nor JAX is imported.

Exit code 0: the recording has ended. 130: Ctrl-C, which is how listening to a microphone ends. 2: bad input, or
something that is missing here.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import queue
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from jax_reparam import manifest
from jax_reparam.errors import InputError, run
from jax_reparam.evaluation import softmax
from jax_reparam.frontend import audio, stream
from jax_reparam.frontend.inputs import Input
from jax_reparam.predict import decision
from jax_reparam.runtime import tflm
from jax_reparam.table import aligned

# Of samples that are taken together, from a microphone or a file.
CHUNK_SECONDS = 0.1
# Without a sample a microphone is given up after this.
SILENT_SECONDS = 10.0
SMOOTHING = 0.5


@dataclasses.dataclass(frozen=True)
class Heard:
    """The decision on one window of a stream.

    Attributes:
      start: where the window starts, in seconds.
      end: where it ends; not behind the end of the stream.
      probabilities: `[C]`, of the window alone.
      smoothed: `[C]`, with those of the windows before it.
    """

    start: float
    end: float
    probabilities: np.ndarray
    smoothed: np.ndarray


def decisions(
    chunks: Iterable[np.ndarray],
    inputs: Input,
    *,
    frame_features: Callable[[np.ndarray], np.ndarray],
    logits: Callable[[np.ndarray], np.ndarray],
    smoothing: float = 0.0,
) -> Iterator[Heard]:
    """Decides on each window of a stream as soon as it is full; at the stream's end on what is left.

    Args:
      chunks: the stream, `[N]` int16 with any N.
      inputs: how audio becomes the model's input.
      frame_features: standardised features `[M]` of a frame's samples `[frame]` int16.
      logits: `[C]` of a window `[frames, M]`.
      smoothing: weight of the smoothed probabilities so far, 0 to less than 1; the window's own have the rest.
    """
    windows, frontend = stream.Stream(inputs, frame_features), inputs.frontend
    heard, smoothed, seconds = 0, None, frontend.hop_ms / 1000

    def decide(window: stream.Window) -> Heard:
        nonlocal smoothed
        probabilities = softmax(logits(window.features)[None])[0]
        smoothed = probabilities if smoothed is None else smoothing * smoothed + (1 - smoothing) * probabilities
        end = min((window.start + inputs.window.frames) * seconds, heard / frontend.sample_rate)
        return Heard(window.start * seconds, end, probabilities, smoothed)

    for chunk in chunks:
        heard += len(chunk)
        yield from map(decide, windows.feed(chunk))
    yield from map(decide, windows.finish())


def recording(path: str, sample_rate: int, *, real_time: bool = False) -> Iterator[np.ndarray]:
    """The samples of a WAV or FLAC file in chunks, as fast as they are taken or as fast as they were spoken.

    Raises:
      InputError: no file with sound in it.
    """
    samples = audio.read(path, sample_rate)
    audio.check(samples, path, sample_rate)
    began, size = time.monotonic(), int(CHUNK_SECONDS * sample_rate)
    for at in range(0, len(samples), size):
        chunk = samples[at : at + size]
        if real_time:
            time.sleep(max(0.0, began + (at + len(chunk)) / sample_rate - time.monotonic()))
        yield chunk


def microphone(device: str | None, sample_rate: int) -> Iterator[np.ndarray]:
    """The samples of a microphone in chunks, without end; `device` is its number or a part of its name.

    Raises:
      InputError: no microphone, or nothing to record with.
    """
    try:
        import sounddevice
    except ImportError:
        raise InputError(
            "microphone: expected the package sounddevice (pip install 'jax-reparam[listen]'), found none"
        ) from None
    except OSError as error:  # it is there, the library that it wraps is not
        raise InputError(
            f'microphone: expected the PortAudio library that sounddevice wraps (Debian: libportaudio2), found: {error}'
        ) from None
    name = f'microphone {device or "(default)"}'
    arrived: queue.SimpleQueue[np.ndarray] = queue.SimpleQueue()

    def take(samples: Any, *_: Any) -> None:
        # PortAudio uses its memory again. Nothing is lost while the model runs: the queue has no end.
        arrived.put(np.frombuffer(samples, np.int16).copy())

    try:
        with sounddevice.RawInputStream(
            samplerate=sample_rate,
            blocksize=int(CHUNK_SECONDS * sample_rate),
            device=int(device) if device is not None and device.isdigit() else device,
            channels=1,
            dtype='int16',
            callback=take,
        ):
            while True:
                yield arrived.get(timeout=SILENT_SECONDS)
    except queue.Empty:
        raise InputError(f'{name}: expected samples, found none in {SILENT_SECONDS:g} s') from None
    except (sounddevice.PortAudioError, ValueError) as error:
        raise InputError(
            f'{name}: expected one that records {sample_rate:,} Hz mono, found: {error} '
            '(python -m sounddevice lists them)'
        ) from error


def as_json(labels: Sequence[str], heard: Heard) -> dict[str, Any]:
    """A window's line in the output of `--json`."""
    return {
        'start': round(heard.start, 3),
        'end': round(heard.end, 3),
        **decision(labels, heard.probabilities),
        'smoothed': decision(labels, heard.smoothed),
    }


def row(cells: Sequence[str], labels: Sequence[str]) -> str:
    """A line of text: seconds, the window's own label, the smoothed one, and a column for each class."""
    width = max(len('smoothed'), *map(len, labels))
    [line] = aligned([cells], left=(1, 2), widths=(16, width, width, *(max(5, len(label)) for label in labels)))
    return line


def as_row(labels: Sequence[str], heard: Heard) -> str:
    """A window's line of text, with the smoothed probabilities in percent."""
    own, smoothed = (labels[int(values.argmax())] for values in (heard.probabilities, heard.smoothed))
    numbers = [f'{100 * p:.1f}' for p in heard.smoothed]
    return row([f'{heard.start:.1f} - {heard.end:.1f} s', own, smoothed, *numbers], labels)


def smoothing(text: str) -> float:
    """An argument from 0 to less than 1, for `argparse`'s `type`."""
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f'expected 0 to less than 1, found {text}')
    return value


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    command = argparse.ArgumentParser(
        prog='python -m jax_reparam.listen', description='Emotions of a stream, by the chain of a device, in TFLM.'
    )
    command.add_argument('folder', metavar='OUT', help='folder that fold.py wrote')
    source = command.add_mutually_exclusive_group()
    source.add_argument('--file', metavar='CLIP', help='WAV or FLAC file to hear; default: the microphone')
    source.add_argument(
        '--device', metavar='N', help="the microphone's number or name; python -m sounddevice lists them"
    )
    command.add_argument('--real-time', action='store_true', help='hear the file as fast as it was spoken')
    command.add_argument('--form', choices=list(manifest.FORM_FILES), help='default: the one that OUT recommends')
    command.add_argument(
        '--smoothing',
        metavar='S',
        type=smoothing,
        default=SMOOTHING,
        help=f'smoothed = S x smoothed before + (1 - S) x window; default {SMOOTHING}, 0: none',
    )
    command.add_argument('--json', action='store_true', help='print a JSON object for each window instead of a row')
    return command


def main(argv: Sequence[str] | None = None) -> int:
    """Prints a line for each window, until the recording ends or Ctrl-C."""
    command = parser()
    args = command.parse_args(argv)
    if args.real_time and args.file is None:
        command.error('--real-time is for --file: a microphone always is')
    exported, form, model_file = manifest.open_form(args.folder, args.form)
    labels, inputs = exported.labels, exported.input
    rate = inputs.frontend.sample_rate
    heard = 0
    try:
        with tflm.started(frontend(args.folder, exported)) as front, tflm.started(model_file) as model:
            if args.file is None:
                chunks = microphone(args.device, rate)
            else:
                chunks = recording(args.file, rate, real_time=args.real_time)
            # Of a source that cannot be used nothing is said but the error.
            chunks = itertools.chain([next(chunks)], chunks)
            if not args.json:
                print(opening(form, inputs, args.smoothing), file=sys.stderr)
                print(row(['seconds', 'window', 'smoothed', *labels], labels), flush=True)
            for window in decisions(
                chunks, inputs, frame_features=front.run, logits=model.run, smoothing=args.smoothing
            ):
                heard += 1  # before its line: whoever saw the line can end this at once
                line = json.dumps(as_json(labels, window), ensure_ascii=False) if args.json else as_row(labels, window)
                print(line, flush=True)
    except tflm.TFLMError as error:
        raise InputError(f'{args.folder}: expected models that TFLM runs, found: {error}') from error
    except KeyboardInterrupt:
        print(f'ended by Ctrl-C, windows: {heard}', file=sys.stderr)
        return 130
    return 0


def frontend(folder: str, exported: manifest.Manifest) -> bytes:
    """The frontend's .tflite file.

    Raises:
      InputError: the folder has none, or TFLM cannot be run here.
    """
    tflm.need('listen')
    device = exported.device
    if device.frontend is None:
        raise InputError(f'{folder}: expected a frontend, found none: {device.reason or "it failed its check"}')
    return manifest.read_file(folder, device.frontend)


def opening(form: str, inputs: Input, smoothing: float) -> str:
    """What is running and when to expect lines, in one line."""
    window, seconds = inputs.window, inputs.frontend.hop_ms / 1000
    return (
        f'{form} in TFLM; a line after {window.frames * seconds:g} s and then every {window.hop * seconds:g} s; '
        f'smoothed = {smoothing:g} x smoothed before + {1 - smoothing:g} x window; Ctrl-C ends'
    )


if __name__ == '__main__':
    run(main)
