"""What a device wants beside the model: frontend, waveform model, firmware, each verified before it is kept."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import jax
import numpy as np

from jax_reparam import evaluation, manifest
from jax_reparam.deploy import convert
from jax_reparam.device import firmware, frontend, metadata, registrations, waveform
from jax_reparam.frontend import features
from jax_reparam.frontend.inputs import Input
from jax_reparam.graph import flatbuffer
from jax_reparam.manifest import Device, Failed, Frontend, FrontendCheck, Waveform, WaveformCheck
from jax_reparam.runtime import gates, litert, tflm

_Make: TypeAlias = Callable[[], tuple[bytes, FrontendCheck | WaveformCheck]]
# Largest difference of the frontend's log-mel from training's, in nats; TFLM's Fourier transform rounds otherwise than
# NumPy's. Measured on EMO-DB: 5.6e-4, and 1 code in 100,000 differs. Half a step of int8's input is some 0.03 nat,
# eight steps of int16's 0.0018.
FRONTEND_TOLERANCE = 1.5e-3


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

    def keep(name: str, file: str, make: _Make, quantity: str, tolerance: float, truth: str) -> dict[str, Any] | None:
        """Writes a model that is right; gives the fields of its entry."""
        check = None
        try:
            model, check = make()
            if not check.max_abs_diff <= tolerance:
                difference = check.max_abs_diff
                raise ValueError(f'expected {quantity} within {tolerance:g} of {truth}, found {difference:.3g}')
        except (convert.ConversionError, tflm.TFLMError, ValueError) as error:
            failed[name] = Failed(reasons=(f'{name}: {error}',), found=check)
            return None
        (place / file).write_bytes(model)
        return {**vars(manifest.file_of(file, model)), **vars(check)}

    make: _Make = lambda: _waveform(logits, labels, inputs, clips)
    fields = keep('waveform', manifest.WAVEFORM, make, 'probabilities', gates.WAVEFORM_TOLERANCE, 'JAX')
    device = Device(frontend=None, waveform=Waveform(**fields) if fields else None, firmware=None)
    reason = tflm.missing()
    if reason is not None:
        return dataclasses.replace(device, reason=reason), failed
    make = lambda: _frontend(labels, inputs, clips)
    fields = keep('frontend', manifest.FRONTEND, make, 'log-mel', FRONTEND_TOLERANCE, 'training')
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


def _frontend(labels: Sequence[str], inputs: Input, clips: Sequence[np.ndarray]) -> tuple[bytes, FrontendCheck]:
    model = metadata.attach(frontend.build(inputs.frontend), labels, inputs)
    frames, arena = frontend.frames_in_tflm(model, clips, inputs.frontend)
    found, expected = (
        np.concatenate(frames),
        np.concatenate([features.log_mel(clip, inputs.frontend) for clip in clips]),
    )
    return model, FrontendCheck(
        frames=len(expected),
        max_abs_diff=float(np.abs(found - expected).max()),
        differing_codes=float((features.encode(found) != features.encode(expected)).mean()),
        arena_bytes=arena,
    )


def _waveform(
    logits: Callable[[jax.Array], jax.Array], labels: Sequence[str], inputs: Input, clips: Sequence[np.ndarray]
) -> tuple[bytes, WaveformCheck]:
    model = metadata.attach(waveform.build(logits, inputs), labels, inputs)
    count = waveform.samples(inputs)
    pcm = np.stack([waveform.pcm(clip, inputs) for clip in clips])
    probabilities = litert.load(model)(pcm)
    heard = [inputs.hear(inputs.codes(np.rint(32768 * samples).astype(np.int16))) for samples in pcm]
    apply = jax.jit(logits)
    with jax.default_matmul_precision('highest'):
        expected = evaluation.softmax(np.concatenate([apply(window.features[None]) for window in heard]))
    expected *= np.array([[window.speech.there] for window in heard])
    difference = float(np.abs(probabilities - expected).max())
    ops = flatbuffer.read(model).ops
    return model, WaveformCheck(ops=ops, samples=count, windows=len(pcm), max_abs_diff=difference)
