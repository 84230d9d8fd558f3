"""Runs an exported form in LiteRT and in TFLM over test windows, and holds it against the trained model."""

from __future__ import annotations

import numpy as np

from jax_reparam.evaluation import Windows
from jax_reparam.graph import cost, flatbuffer
from jax_reparam.manifest import FORM_FILES, Form, Made, TFLMScore, file_of
from jax_reparam.progress import Progress
from jax_reparam.runtime import gates, litert, tflm


def verify(
    name: str, model: bytes, made: Made, reference: np.ndarray, windows: Windows, *, show_progress: bool = True
) -> tuple[Form, list[str]]:
    """Verifies one form in every runtime.

    A quantised form is made for TFLM, and TFLM decides; LiteRT, whose integer kernels round otherwise, decides where
    TFLM cannot be run. float32 is for both.

    Args:
      name: the form.
      model: its .tflite file.
      made: how it was made.
      reference: logits of the trained model on the windows, `[W, C]`.
      windows: what the model runs on.
      show_progress: report on standard error.

    Returns:
      The form's entry in the manifest, and why it fails, a line each; TFLM missing is no failure.
    """
    reference_uar = gates.uar(reference, windows)
    graph, missing, failures = flatbuffer.read(model), tflm.missing(), []
    in_litert = in_tflm = decisive = None
    try:
        decisive = litert.load(model)(windows.features)
        in_litert = gates.score(reference, decisive, windows)
    except ValueError as error:
        failures.append(f'{name} in LiteRT: {error}')
    else:
        if name == 'float32' or missing is not None:
            failures += gates.failures(name, 'LiteRT', in_litert, reference_uar)
    if missing is None:
        bar = Progress(len(windows.features), f'{name} in TFLM', unit='window', enabled=show_progress)
        try:
            outcome = tflm.run(model, windows.features, progress=bar.update)
        except tflm.TFLMError as error:
            failures.append(f'{name}: {error}')
        else:
            decisive = outcome.logits
            score = gates.score(reference, decisive, windows)
            in_tflm = TFLMScore(**vars(score), arena_bytes=outcome.arena_bytes)
            failures += gates.failures(name, 'TFLM', score, reference_uar)
        finally:
            bar.close()
    form = Form(
        **vars(file_of(FORM_FILES[name], model)),
        ops=graph.ops,
        input=graph.input,
        output=graph.output,
        cost=cost.of_graph(graph) if graph.input.dtype in cost.PRICES else None,
        litert=in_litert,
        tflm=in_tflm,
        tflm_reason=missing,
        confusion=None if decisive is None else gates.confusion(np.nan_to_num(decisive), windows),
        made=made,
    )
    return form, failures
