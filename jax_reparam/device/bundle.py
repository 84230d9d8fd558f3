"""What a device wants beside the model: frontend, waveform model, firmware, each verified before it is kept."""

from __future__ import annotations

import dataclasses
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
from jax_reparam.manifest import Device, Failed, Frontend, FrontendCheck, Waveform, WaveformCheck
from jax_reparam.runtime import gates, litert, tflm

# Largest difference of the frontend's log-mel from training's.
FRONTEND_TOLERANCE = 1e-5


def write(
    place: Path,
    *,
    logits: Callable[[jax.Array], jax.Array],
    form: str | None,
    labels: Sequence[str],
    inputs: Input,
    clips: Sequence[np.ndarray],
) -> tuple[Device, dict[str, Failed]]:
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
    failed: dict[str, Failed] = {}

    def keep(name: str, file: str, make: Callable[[], tuple[bytes, Any, str | None]]) -> dict[str, Any] | None:
        """Writes a model that is right; gives the fields of its entry."""
        try:
            model, found, reason = make()
        except (convert.ConversionError, tflm.TFLMError, ValueError) as error:
            model, found, reason = b'', None, str(error)
        if reason is not None:
            failed[name] = Failed(reasons=(f'{name}: {reason}',), found=found)
            return None
        (place / file).write_bytes(model)
        return {**vars(manifest.file_of(file, model)), **vars(found)}

    fields = keep('waveform', manifest.WAVEFORM, lambda: _waveform(logits, labels, inputs, clips))
    device = Device(frontend=None, waveform=Waveform(**fields) if fields else None, firmware=None)
    reason = tflm.missing()
    if reason is not None:
        return dataclasses.replace(device, reason=reason), failed
    fields = keep('frontend', manifest.FRONTEND, lambda: _frontend(labels, inputs, clips))
    if fields is not None:
        device = dataclasses.replace(device, frontend=Frontend(**fields))
    if fields is None or form is None:
        reason = 'firmware: expected a frontend and a quantised form that passed, found none'
        return dataclasses.replace(device, reason=reason), failed
    model, front = ((place / file).read_bytes() for file in (manifest.FORM_FILES[form], manifest.FRONTEND))
    try:
        built = firmware.write(place, form=form, model=model, frontend=front, labels=labels, inputs=inputs)
    except (registrations.OperatorError, tflm.TFLMError) as error:
        failed['firmware'] = Failed(reasons=(str(error),))
        return device, failed
    return dataclasses.replace(device, firmware=built), failed


def _frontend(
    labels: Sequence[str], inputs: Input, clips: Sequence[np.ndarray]
) -> tuple[bytes, FrontendCheck, str | None]:
    model = metadata.attach(frontend.build(inputs), labels, inputs)
    frames, arena = frontend.frames_in_tflm(model, clips, inputs)
    expected = np.concatenate([features.log_mel(clip, inputs.frontend) for clip in clips])
    found = float(np.abs(np.concatenate(frames) * inputs.std + inputs.mean - expected).max())
    check = FrontendCheck(frames=len(expected), max_abs_diff=found, arena_bytes=arena)
    if found <= FRONTEND_TOLERANCE:
        return model, check, None
    return model, check, f'expected log-mel within {FRONTEND_TOLERANCE:g} of training, found {found:.3g}'


def _waveform(
    logits: Callable[[jax.Array], jax.Array],
    labels: Sequence[str],
    inputs: Input,
    clips: Sequence[np.ndarray],
) -> tuple[bytes, WaveformCheck, str | None]:
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
    check = WaveformCheck(ops=graph.ops, samples=count, windows=len(pcm), max_abs_diff=difference)
    if difference <= gates.WAVEFORM_TOLERANCE:
        return model, check, None
    return model, check, f'expected probabilities within {gates.WAVEFORM_TOLERANCE:g} of JAX, found {difference:.3g}'
