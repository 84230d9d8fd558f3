"""Speaks sentences through eSpeak NG, one fresh child process per sentence.

eSpeak NG keeps state between utterances (its noise generator, the pitch of the last clause), so the same sentence
sounds different after another one. Here a small process loads the library once and forks for every sentence: each
child starts from the same memory and gives the same samples, whatever was spoken before it.

`synth.py` runs this file as a script, in a process of its own, because forking a process in which JAX has threads may
deadlock. It therefore imports nothing but the standard library, and never this package. The library is eSpeak NG's own
(GPL-3.0-or-later, from the package espeakng-loader), loaded at run time; nothing of it is part of this package.

The script takes the path of the library and that of its data. Every line of standard input is a request, a JSON object
with `text`, `language`, `voice` (the lines of an eSpeak voice variant) and `rate` (words per minute). Every answer on
standard output is a line, a JSON object, then as many bytes of int16 samples as its `bytes` says, or `error` instead.
The first answer comes unasked and holds `version`.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any, BinaryIO

# The values of speak_lib.h that are used here.
_AUDIO_OUTPUT_SYNCHRONOUS = 2
_INITIALIZE_DONT_EXIT = 0x8000
_PARAMETER_RATE = 1
_POSITION_CHARACTER = 1
_CHARS_UTF8 = 1

_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)


class Engine:
    """The library, initialised over a data folder in which voice variants can be written.

    Attributes:
      sample_rate: samples per second of what `speak` returns.
      version: the library's version.
    """

    def __init__(self, library: str, data: str, folder: str) -> None:
        # eSpeak looks variants up by name inside its data folder, which may be read-only and is not ours to change:
        # this one holds links to the real entries and a folder of variants of its own.
        root = Path(folder, 'espeak-ng-data')
        self._variant = root / 'voices' / '!v' / 'clip'
        self._variant.parent.mkdir(parents=True)
        for entry in Path(data).iterdir():
            if entry.name != 'voices':
                (root / entry.name).symlink_to(entry)
        self._library = ctypes.CDLL(library)
        self._library.espeak_Info.restype = ctypes.c_char_p
        self.sample_rate: int = self._library.espeak_Initialize(
            _AUDIO_OUTPUT_SYNCHRONOUS, 0, os.fsencode(folder), _INITIALIZE_DONT_EXIT
        )
        if self.sample_rate <= 0:
            raise RuntimeError(f'{data}: expected the data of eSpeak NG, espeak_Initialize returned {self.sample_rate}')
        self.version: str = self._library.espeak_Info(None).decode()

    def speak(self, text: str, language: str, voice: str, rate: int) -> bytes:
        """Returns int16 samples; what they are depends on what this process spoke before."""
        self._variant.write_text(voice, encoding='utf-8')
        samples = bytearray()

        def collect(wave: int | None, count: int, _: int | None) -> int:
            if wave and count > 0:
                samples.extend(ctypes.string_at(wave, 2 * count))
            return 0

        callback = _CALLBACK(collect)
        self._library.espeak_SetSynthCallback(callback)
        if self._library.espeak_SetVoiceByName(f'{language}+clip'.encode()):
            raise RuntimeError(f'there is no voice {language!r}')
        self._library.espeak_SetParameter(_PARAMETER_RATE, rate, 0)
        # One of eSpeak's two generators of noise is seeded with the time of day; the other is the C library's.
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(1))
        encoded = text.encode()
        status = self._library.espeak_Synth(
            encoded, ctypes.c_size_t(len(encoded) + 1), 0, _POSITION_CHARACTER, 0, _CHARS_UTF8, None, None
        )
        if status:
            raise RuntimeError(f'espeak_Synth returned {status}')
        return bytes(samples)


def _speak_in_child(engine: Engine, request: dict[str, Any]) -> bytes:
    """Speaks in a forked child, which inherits an engine that has not spoken yet."""
    receiver, sender = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(receiver)
            try:
                answer, status = engine.speak(**request), 0
            except Exception as error:
                answer = f'{type(error).__name__}: {error}'.encode()
            with os.fdopen(sender, 'wb') as pipe:
                pipe.write(answer)
        finally:
            os._exit(status)  # Whatever happens, the child must not go on into the parent's loop.
    os.close(sender)
    with os.fdopen(receiver, 'rb') as pipe:
        answer = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status < 0:
        raise RuntimeError(f'the process that spoke was killed by signal {-status}')
    if status:
        raise RuntimeError(answer.decode() or f'the process that spoke ended with code {status}')
    return answer


def _answer(output: BinaryIO, samples: bytes = b'', **header: object) -> None:
    output.write(json.dumps({**header, 'bytes': len(samples)}).encode() + b'\n' + samples)
    output.flush()


def main(library: str, data: str) -> None:
    """Answers requests until standard input ends."""
    # Ctrl-C reaches every process of the terminal; this one ends when its standard input does.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # eSpeak NG may print to descriptor 1, which carries the answers: give it standard error instead.
    output = os.fdopen(os.dup(1), 'wb')
    os.dup2(2, 1)
    with tempfile.TemporaryDirectory(prefix='espeak-') as folder:
        engine = Engine(library, data, folder)
        _answer(output, version=engine.version, sample_rate=engine.sample_rate)
        for line in sys.stdin.buffer:
            try:
                samples = _speak_in_child(engine, json.loads(line))
            except RuntimeError as error:
                _answer(output, error=str(error))
            else:
                _answer(output, samples)


if __name__ == '__main__':
    main(*sys.argv[1:])
