"""Runs an exported model in TensorFlow Lite for Microcontrollers (TFLM), in a child process.

The PyPI package `tflite-micro` is TFLM's own interpreter with its reference kernels; its outputs are those of a
Cortex-M, bit for bit. On some models it ends the process, so it never runs in ours.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import pathlib
import platform
import re
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable

import numpy as np

from jax_reparam.export import flatbuffer

PACKAGE = 'tflite_micro'
CHILD = 'jax_reparam.export.tflm_child'


class TFLMError(RuntimeError):
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


def run(
    model: bytes, windows: np.ndarray, *, progress: Callable[[], None] = lambda: None, timeout: float = 60.0
) -> Outcome:
    """Runs a model over windows.

    Args:
      model: the .tflite file.
      windows: standardised log-mel features, `[W, frames, n_mels]` float32; W >= 1.
      progress: called after each window.
      timeout: seconds without a finished window after which the child is ended.

    Raises:
      TFLMError: TFLM refused the model, ended its process, or did not come back.
    """
    graph = flatbuffer.graph(model)
    with tempfile.TemporaryDirectory(prefix='tflm-') as name:
        folder = pathlib.Path(name)
        (folder / 'model.tflite').write_bytes(model)
        np.save(folder / 'inputs.npy', graph.input.encode(windows))
        messages = _child(folder, progress, timeout)
        outputs = np.load(folder / 'outputs.npy')
    arena = re.search(r'Arena allocation total (\d+) bytes', messages)
    if arena is None:
        raise TFLMError(f'TFLM did not report its arena: {_summary(messages)}')
    return Outcome(logits=graph.output.decode(outputs), arena_bytes=int(arena.group(1)))


def _child(folder: pathlib.Path, progress: Callable[[], None], timeout: float) -> str:
    """Runs the child to its end and returns what it wrote to standard error."""
    files = [str(folder / name) for name in ('model.tflite', 'inputs.npy', 'outputs.npy')]
    package = str(pathlib.Path(__file__).resolve().parents[2])
    path = os.pathsep.join([package, *filter(None, [os.environ.get('PYTHONPATH')])])
    # Messages go to a file: a pipe that nobody reads would fill up and stop the child.
    with (folder / 'messages').open('w+b') as messages:
        child = subprocess.Popen(
            [sys.executable, '-m', CHILD, *files],
            stdout=subprocess.PIPE,
            stderr=messages,
            env={**os.environ, 'PYTHONPATH': path},
        )
        try:
            _follow(child, progress, timeout)
            code = child.wait()
        finally:
            child.kill()
            child.wait()
        messages.seek(0)
        text = messages.read().decode(errors='replace')
    if code < 0:
        raise TFLMError(f'TFLM ended its process with {signal.Signals(-code).name}. {_summary(text)}'.strip())
    if code:
        raise TFLMError(f'TFLM failed: {_summary(text)}')
    return text


def _follow(child: subprocess.Popen[bytes], progress: Callable[[], None], timeout: float) -> None:
    """Reads the child's output, a line a window, until it closes it."""
    assert child.stdout is not None
    with child.stdout as lines:
        while True:
            if not select.select([lines], [], [], timeout)[0]:
                raise TFLMError(f'TFLM finished no window in {timeout:g} s')
            chunk = os.read(lines.fileno(), 65536)
            if not chunk:
                return
            for _ in range(chunk.count(b'\n')):
                progress()


def _summary(messages: str) -> str:
    """TFLM's messages as one line, without its record of the arena."""
    lines = (line.strip() for line in messages.splitlines())
    return '; '.join(line for line in lines if line and not line.startswith('[Recording'))[:400]
