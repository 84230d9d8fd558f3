"""Runs an exported model with LiteRT, as a phone would. Imports neither TensorFlow nor JAX."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from jax_reparam.graph import flatbuffer
from jax_reparam.system import captured_stderr


def load(model: bytes) -> Callable[[np.ndarray], np.ndarray]:
    """Makes a function of an exported model.

    XNNPACK runs it, which is LiteRT's default and what applications get. In int8 it may differ from LiteRT's own
    kernels (`observe`) by a step here and there.

    Returns:
      A function from standardised log-mel windows `[W, frames, n_mels]` to logits `[W, C]`, both float32 whatever the
      form.

    Raises:
      ValueError: not a .tflite file that LiteRT can run.
    """
    from ai_edge_litert import interpreter as litert

    graph = flatbuffer.read(model)
    try:
        with captured_stderr():
            interpreter = litert.Interpreter(model_content=model, num_threads=1)
            interpreter.allocate_tensors()
    except RuntimeError as error:
        raise ValueError(f'LiteRT cannot load the model: {error}') from error
    source, sink = interpreter.get_input_details()[0]['index'], interpreter.get_output_details()[0]['index']

    def run(windows: np.ndarray) -> np.ndarray:
        expected = graph.input.shape[1:]
        if windows.shape[1:] != expected:
            raise ValueError(f'windows: expected [W, {expected[0]}, {expected[1]}], got {list(windows.shape)}')
        logits = np.empty((len(windows), graph.output.shape[-1]), np.float32)
        for index, window in enumerate(windows):
            interpreter.set_tensor(source, graph.input.encode(window[None]))
            interpreter.invoke()
            logits[index] = graph.output.decode(interpreter.get_tensor(sink))[0]
        return logits

    return run
