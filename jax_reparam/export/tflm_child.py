"""Runs one model over windows in TFLM: the body of the child process that `tflm.run` starts.

    python -m jax_reparam.export.tflm_child MODEL.tflite INPUTS.npy OUTPUTS.npy

Prints a line after each window; TFLM's own messages and its record of the arena go to standard error. TFLM
ends the process on some models, which is why it has one of its own.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

# What the model needs of it is what counts. TFLM's default grows with the file, and is too small for a small model with
# long windows.
ARENA_BYTES = 64 * 2**20


def main(model_path: str, inputs_path: str, outputs_path: str) -> None:
    """Runs the model over inputs `[W, ...]` and saves the outputs `[W, C]`, both in the tensors' own types."""
    from tflite_micro.python.tflite_micro import runtime

    interpreter = runtime.Interpreter.from_bytes(Path(model_path).read_bytes(), arena_size=ARENA_BYTES)
    outputs = []
    for window in np.load(inputs_path):
        interpreter.set_input(window[None], 0)
        interpreter.invoke()
        outputs.append(interpreter.get_output(0)[0].copy())
        print('done', flush=True)
    np.save(outputs_path, np.stack(outputs))
    interpreter.print_allocations()


if __name__ == '__main__':
    try:
        main(*sys.argv[1:])
    except Exception as error:  # the parent wants one line, not a traceback
        sys.exit(f'{type(error).__name__}: {error}')
