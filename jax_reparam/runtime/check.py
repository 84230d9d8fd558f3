"""Runs an exported form in LiteRT and in TFLM over test windows, and holds it against the trained model."""

from __future__ import annotations

from typing import Any

import numpy as np

from jax_reparam import manifest
from jax_reparam.evaluation import Windows
from jax_reparam.graph import cost, flatbuffer
from jax_reparam.progress import Progress
from jax_reparam.runtime import gates, litert, tflm


def verify(
    name: str, model: bytes, reference: np.ndarray, windows: Windows, *, show_progress: bool = True
) -> tuple[dict[str, Any], list[str]]:
    """Verifies one form in every runtime.

    A quantised form is made for TFLM, and TFLM decides; LiteRT, whose integer kernels round otherwise, decides where
    TFLM cannot be run. float32 is for both.

    Args:
      name: the form.
      model: its .tflite file.
      reference: logits of the trained model, `[W, C]`.
      windows: what the model runs on.
      show_progress: report on standard error.

    Returns:
      The form's entry in the manifest, and why it fails, a line each. TFLM missing is no failure: `tflm` is None then,
      and `tflm_reason` says why.
    """
    reference_uar = gates.uar(reference, windows)
    entry = manifest.form(name, model, flatbuffer.graph(model))
    if entry['input']['dtype'] in cost.PRICES:
        entry['cost'] = cost.of_model(model).as_json()
    failures = []
    reason = tflm.missing()

    try:
        result = gates.score(reference, litert.load(model)(windows.features), windows)
    except ValueError as error:
        entry['litert'] = None
        failures.append(f'{name} in LiteRT: {error}')
    else:
        entry['litert'] = result.as_json()
        if name == 'float32' or reason is not None:
            failures += gates.failures(name, 'LiteRT', result, reference_uar)

    entry['tflm'] = None
    if reason is not None:
        entry['tflm_reason'] = reason
        return entry, failures
    bar = Progress(len(windows.features), f'{name} in TFLM', unit='window', enabled=show_progress)
    try:
        outcome = tflm.run(model, windows.features, progress=bar.update)
    except tflm.TFLMError as error:
        failures.append(f'{name}: {error}')
        return entry, failures
    finally:
        bar.close()
    result = gates.score(reference, outcome.logits, windows)
    entry['tflm'] = {**result.as_json(), 'arena_bytes': outcome.arena_bytes}
    return entry, failures + gates.failures(name, 'TFLM', result, reference_uar)
