"""Runs one model in TFLM: the body of the child process that `tflm.started` starts.

    python -m jax_reparam.runtime.tflm_child MODEL.tflite ARENA_BYTES

Standard input takes tensors and standard output gives them, as the bytes of their own types: `READY` when the model is
loaded, then an output for each input, until the input ends. TFLM's messages and its record of the arena go to standard
error. TFLM ends the process on some models, which is why it has one of its own.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np

READY = b'+'


def main(model_path: str, arena_bytes: str) -> None:
    """Answers each input `[1, ...]` with the model's output, until there is none."""
    from tflite_micro.python.tflite_micro import runtime

    # Nothing that a library prints may come between the answers.
    with os.fdopen(os.dup(1), 'wb') as answers:
        os.dup2(2, 1)
        interpreter = runtime.Interpreter.from_bytes(Path(model_path).read_bytes(), arena_size=int(arena_bytes))
        interpreter.print_allocations()
        answers.write(READY)
        answers.flush()
        details = interpreter.get_input_details(0)
        shape, dtype = tuple(details['shape']), np.dtype(details['dtype'])
        while data := sys.stdin.buffer.read(int(np.prod(shape)) * dtype.itemsize):
            interpreter.set_input(np.frombuffer(data, dtype).reshape(shape), 0)
            interpreter.invoke()
            answers.write(interpreter.get_output(0).tobytes())
            answers.flush()


if __name__ == '__main__':
    try:
        main(*sys.argv[1:])
    except Exception as error:  # the parent wants one line, not a traceback
        sys.exit(f'{type(error).__name__}: {error}')
