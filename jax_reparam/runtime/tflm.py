"""Runs an exported model in TensorFlow Lite for Microcontrollers (TFLM), in a child process.

The PyPI package `tflite-micro` is TFLM's own interpreter with its reference kernels; its outputs are those of a
Cortex-M, bit for bit. On some models it ends the process, so it never runs in ours.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import math
import os
import pathlib
import platform
import re
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import IO

import numpy as np

from jax_reparam import threads
from jax_reparam.errors import Error, InputError
from jax_reparam.graph import flatbuffer
from jax_reparam.graph.graph import Graph
from jax_reparam.runtime.tflm_child import READY

PACKAGE = 'tflite_micro'
CHILD = 'jax_reparam.runtime.tflm_child'
# What the model needs of it is what counts. TFLM's default grows with the file, and is too small for a small model with
# long windows.
ARENA_BYTES = 64 * 2**20
# Seconds without an answer after which a child is given up.
TIMEOUT = 60.0
# For fewer it does not pay to start another.
WINDOWS_A_CHILD = 32


class TFLMError(Error):
    """TFLM could not load or run a model; the message is one line with what TFLM said last."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What TFLM made of a model.

    Attributes:
      logits: `[W, C]` float32.
      arena_bytes: tensor arena in use, measured on this 64-bit host; a 32-bit device needs less.
    """

    logits: np.ndarray
    arena_bytes: int


def missing() -> str | None:
    """Why TFLM cannot be run here, in one line; None where it can."""
    if importlib.util.find_spec(PACKAGE) is not None:
        return None
    return (
        f'not verified: the package tflite-micro is not installed ({sys.platform}, {platform.machine()}; '
        'it has wheels for Linux on x86-64 only)'
    )


def need(name: str) -> None:
    """Raises InputError that begins with `name` where TFLM cannot be run."""
    if reason := missing():
        raise InputError(f'{name}: expected TFLM, found: {reason.removeprefix("not verified: ")}')


class Session:
    """A model in a child process that stays until the session ends (`started`); for `arena_bytes` see `Outcome`."""

    def __init__(self, child: subprocess.Popen[bytes], messages: IO[bytes], graph: Graph):
        self._child, self._messages, self._graph = child, messages, graph
        self._output_bytes = math.prod(graph.output.shape) * np.dtype(graph.output.dtype).itemsize
        self._receive(len(READY))
        said = self._said()
        arena = re.search(r'Arena allocation total (\d+) bytes', said)
        if arena is None:
            raise TFLMError(f'TFLM did not report its arena: {_summary(said)}')
        self.arena_bytes = int(arena.group(1))

    def run(self, window: np.ndarray) -> np.ndarray:
        """Runs the model once, from its input without the batch to its output without the batch, both float32.

        That is from standardised log-mel features `[frames, n_mels]` to logits `[C]`; of the frontend from the samples
        of a frame, `[frame]`.

        Raises:
          ValueError: an input of another shape.
          TFLMError: TFLM ended its process, or did not come back.
        """
        expected = self._graph.input.shape[1:]
        if window.shape != expected:
            raise ValueError(f'window: expected {list(expected)}, got {list(window.shape)}')
        self._send(self._graph.input.encode(window).tobytes())
        output = np.frombuffer(self._receive(self._output_bytes), self._graph.output.dtype)
        return self._graph.output.decode(output).reshape(self._graph.output.shape[1:])

    def _send(self, data: bytes) -> None:
        assert self._child.stdin is not None
        while data:
            if not select.select([], [self._child.stdin], [], TIMEOUT)[1]:
                raise TFLMError(f'TFLM took no input in {TIMEOUT:g} s')
            try:
                # A pipe that is ready takes this many bytes at once, and would make us wait for more of them.
                sent = os.write(self._child.stdin.fileno(), data[: select.PIPE_BUF])
            except BrokenPipeError:
                raise self._ended() from None
            data = data[sent:]

    def _receive(self, count: int) -> bytes:
        assert self._child.stdout is not None
        data = b''
        while len(data) < count:
            if not select.select([self._child.stdout], [], [], TIMEOUT)[0]:
                raise TFLMError(f'TFLM gave no output in {TIMEOUT:g} s')
            part = os.read(self._child.stdout.fileno(), count - len(data))
            if not part:
                raise self._ended()
            data += part
        return data

    def _said(self) -> str:
        self._messages.seek(0)
        return self._messages.read().decode(errors='replace')

    def _ended(self) -> TFLMError:
        code, said = self._child.wait(), _summary(self._said())
        if code < 0:
            return TFLMError(f'TFLM ended its process with {signal.Signals(-code).name}. {said}'.strip())
        return TFLMError(f'TFLM failed: {said}')


@contextlib.contextmanager
def started(model: bytes, *, arena_bytes: int = ARENA_BYTES) -> Iterator[Session]:
    """Starts a child process with a model in it, and ends it with the block.

    The model may take `arena_bytes` of tensor arena.

    Raises:
      TFLMError: TFLM refused the model, ended its process, or did not come back.
    """
    graph = flatbuffer.read(model)
    package = str(pathlib.Path(__file__).resolve().parents[2])
    path = os.pathsep.join([package, *filter(None, [os.environ.get('PYTHONPATH')])])
    # Messages go to a file: a pipe that nobody reads would fill up and stop the child.
    with tempfile.NamedTemporaryFile(suffix='.tflite') as file, tempfile.TemporaryFile() as messages:
        file.write(model)
        file.flush()
        with subprocess.Popen(
            [sys.executable, '-m', CHILD, file.name, str(arena_bytes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=messages,
            bufsize=0,
            env={**os.environ, 'PYTHONPATH': path},
            start_new_session=True,  # Ctrl-C is for us, who end the child
        ) as child:
            try:
                yield Session(child, messages, graph)
            finally:
                child.kill()


def run(model: bytes, windows: np.ndarray, *, progress: Callable[[], None] = lambda: None) -> Outcome:
    """Runs a model over windows, many of them in several child processes; `progress` is called after each window.

    Windows are standardised log-mel features, `[W, frames, n_mels]` float32; W >= 1.

    Raises:
      TFLMError: TFLM refused the model, ended its process, or did not come back.
    """
    logits = []
    with contextlib.ExitStack() as stack:
        children = threads.cores(min(4, math.ceil(len(windows) / WINDOWS_A_CHILD)))
        sessions = [stack.enter_context(started(model)) for _ in range(children)]
        for row in threads.in_order_by(sessions, Session.run, windows):
            logits.append(row)
            progress()
    return Outcome(np.stack(logits), sessions[0].arena_bytes)


def fits(model: bytes, arena_bytes: int) -> bool:
    """Whether TFLM loads a model into an arena of that size on this host.

    It may need more than `Session.arena_bytes`: while it plans, the plan lies there too.
    """
    with contextlib.suppress(TFLMError), started(model, arena_bytes=arena_bytes):
        return True
    return False


def _summary(messages: str) -> str:
    """TFLM's messages as one line, without its record of the arena."""
    lines = (line.strip() for line in messages.splitlines())
    return '; '.join(line for line in lines if line and not line.startswith('[Recording'))[:400]
