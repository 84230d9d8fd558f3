"""What a device wants beside the model: frontend, waveform model, firmware, each verified before it is kept."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jax_reparam import evaluation, manifest
from jax_reparam.deploy import convert
from jax_reparam.device import firmware, frontend, metadata, registrations, waveform
from jax_reparam.frontend import features, windows
from jax_reparam.frontend.inputs import Input
from jax_reparam.graph import flatbuffer
from jax_reparam.runtime import gates, litert, tflm

# Largest difference of the frontend's log-mel from training's.
FRONTEND_TOLERANCE = 1e-5
# Of test clips that the two are verified on.
CLIPS = 4


def write(
    place: Path,
    *,
    logits: Callable[[jax.Array], jax.Array],
    form: str | None,
    labels: Sequence[str],
    inputs: Input,
    clips: Sequence[np.ndarray],
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Writes `frontend.tflite`, `model_waveform_float32.tflite` and `firmware/`.

    Args:
      place: the exported folder, with the model of `form` in it.
      logits: the folded model, standardised features `[1, T, M]` to logits `[1, C]`.
      form: the one of `manifest.QUANTISED` that the firmware is built around; None: there is none.
      labels: class names in the order of the logits.
      inputs: how audio becomes the models' input.
      clips: `[N]` int16 recordings to verify on.

    Returns:
      The manifest's `device`, and what failed, by name, as in the manifest's `failed`. Where TFLM is missing, the
      frontend and the firmware are not written and `device` says why.
    """
    entry: dict[str, Any] = {'frontend': None, 'waveform': None, 'firmware': None}
    failed: dict[str, Any] = {}

    def keep(name: str, file: str, make: Callable[[], tuple[bytes, dict[str, Any], str | None]]) -> bytes | None:
        try:
            model, facts, reason = make()
        except (convert.ConversionError, tflm.TFLMError, ValueError) as error:
            model, facts, reason = b'', {}, str(error)
        if reason is not None:
            failed[name] = {**facts, 'reasons': [f'{name}: {reason}']}
            return None
        (place / file).write_bytes(model)
        digest = hashlib.sha256(model).hexdigest()
        entry[name] = {'file': file, 'bytes': len(model), 'sha256': digest, **facts}
        return model

    clips = clips[:CLIPS]
    keep('waveform', waveform.FILE, lambda: _waveform(logits, labels, inputs, clips))
    reason = tflm.missing()
    if reason is not None:
        return {**entry, 'reason': reason}, failed
    front = keep('frontend', frontend.FILE, lambda: _frontend(labels, inputs, clips))
    if front is None or form is None:
        return {**entry, 'reason': 'firmware: expected a frontend and a quantised form that passed, found none'}, failed
    model = (place / manifest.FORM_FILES[form]).read_bytes()
    try:
        entry['firmware'] = firmware.write(place, form=form, model=model, frontend=front, labels=labels, inputs=inputs)
    except (registrations.UnknownOperator, tflm.TFLMError) as error:
        failed['firmware'] = {'reasons': [str(error)]}
    return entry, failed


def _frontend(
    labels: Sequence[str], inputs: Input, clips: Sequence[np.ndarray]
) -> tuple[bytes, dict[str, Any], str | None]:
    model = metadata.attach(frontend.build(inputs), labels, inputs)
    frames, arena = frontend.frames_in_tflm(model, clips, inputs)
    expected = np.concatenate([features.log_mel(clip, inputs.frontend) for clip in clips])
    found = float(np.abs(np.concatenate(frames) * inputs.std + inputs.mean - expected).max())
    facts = {'frames': len(expected), 'max_abs_diff': found, 'arena_bytes': arena}
    if found <= FRONTEND_TOLERANCE:
        return model, facts, None
    return model, facts, f'expected log-mel within {FRONTEND_TOLERANCE:g} of training, found {found:.3g}'


def _waveform(
    logits: Callable[[jax.Array], jax.Array],
    labels: Sequence[str],
    inputs: Input,
    clips: Sequence[np.ndarray],
) -> tuple[bytes, dict[str, Any], str | None]:
    model = metadata.attach(waveform.build(logits, inputs), labels, inputs)
    count = waveform.samples(inputs)
    pcm = np.stack([windows.cut(clip, 0, count) for clip in clips])
    found = litert.load(model)(pcm.astype(np.float32) / 32768)
    standardised = map(inputs.features, pcm)
    apply = jax.jit(logits)
    with jax.default_matmul_precision('highest'):
        expected = evaluation.softmax(np.concatenate([np.asarray(apply(clip[None])) for clip in standardised]))
    difference = float(np.abs(found - expected).max())
    graph = flatbuffer.graph(model)
    facts = {'ops': graph.ops, 'samples': count, 'windows': len(pcm), 'max_abs_diff': difference}
    if difference <= gates.WAVEFORM_TOLERANCE:
        return model, facts, None
    return model, facts, f'expected probabilities within {gates.WAVEFORM_TOLERANCE:g} of JAX, found {difference:.3g}'
