"""Every form of a model on the same recordings, one row each. Imports JAX only where there is a checkpoint to run."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jax_reparam import schema
from jax_reparam.device import frontend
from jax_reparam.errors import InputError, absent, install
from jax_reparam.evaluation import Windows, softmax
from jax_reparam.field.recordings import Recordings
from jax_reparam.frontend import features
from jax_reparam.graph import flatbuffer
from jax_reparam.manifest import CHECKPOINT, Frontend, Manifest, Score, Waveform, read_file
from jax_reparam.runtime import gates, litert, tflm
from jax_reparam.runtime.check import verify
from jax_reparam.table import aligned

Logits = Callable[[np.ndarray], np.ndarray]

# What can be asked for beyond the gates, and where it lies in a row.
LIMITS = {'agreement': 'argmax_agreement', 'uar': 'uar', 'snr': 'snr_db'}
# Timed windows of a form, at most.
TIMED = 20


@dataclasses.dataclass(frozen=True)
class Row:
    """One form in one runtime.

    Attributes:
      form: `training`, `folded`, `deploy`, a form of the manifest, one behind `frontend.tflite`, or `waveform`.
      runtime: `JAX`, `LiteRT` or `TFLM`.
      score: against the reference; None where it did not run.
      bytes: of its file.
      arena: TFLM's, on this 64-bit host.
      ops: number of nodes.
      milliseconds: a window on this host, median; None for TFLM, whose time here tells nothing about a device.
    """

    form: str
    runtime: str
    score: Score | None
    bytes: int | None = None
    arena: int | None = None
    ops: int | None = None
    milliseconds: float | None = None


@dataclasses.dataclass(frozen=True)
class Result:
    """What `--json` prints: rows, held against `reference`, what failed, and what was not verified, a line each.

    `no_speech` of the clips have no window: nobody speaks there. They count as wrong.
    """

    reference: str
    clips: int
    no_speech: int
    windows: int
    rows: list[Row]
    failures: list[str]
    notes: list[str]


def score(
    out: Path,
    manifest: Manifest,
    recordings: Recordings,
    *,
    trained: str | None = None,
    limits: Mapping[str, float] | None = None,
    show_progress: bool = True,
) -> Result:
    """Scores every form that there is.

    The reference is the first that there is of: the training checkpoint (`trained`, or a folder of some), the folded
    one, the float32 form in LiteRT. `limits` are least values by name (`LIMITS`) that every row must reach, beside the
    gates.

    Raises:
      InputError: a checkpoint or file that is not that of the manifest, or no form at all.
    """
    windows = recordings.windows()
    sources: dict[str, str | Path] = {} if trained is None else {'training': trained}
    rows, failures, notes = [], [], []
    if (out / CHECKPOINT).is_dir():
        if missing := absent('train'):
            notes.append(f'{out / CHECKPOINT} is not scored: no {", ".join(missing)}; {install("train")}')
        else:
            sources['folded'] = out / CHECKPOINT
    jax_forms = list(_in_jax(sources, manifest, windows)) if sources else []
    files = {name: read_file(out, form) for name, form in manifest.forms.items()}
    if not files:
        raise InputError(f'{out}: expected an exported form, found none in its manifest')
    if jax_forms:
        reference_name, reference, _ = jax_forms[0]
    elif 'float32' in files:
        reference_name, reference = 'float32', litert.load(files['float32'])(windows.features)
    else:
        raise InputError(f'{out}: expected a checkpoint or the form float32 to compare with, found neither')

    for name, logits, milliseconds in jax_forms:
        row = Row(name, 'JAX', gates.score(reference, logits, windows), milliseconds=milliseconds)
        rows.append(row)
        if name == 'folded' and (reason := gates.fold_failure(reference, logits)):
            failures.append(reason)
        if name == 'deploy':
            assert row.score is not None
            failures += gates.failures('float32', 'JAX, deploy form', row.score, row.score.uar)
    for name, model in files.items():
        form, reasons = verify(name, model, manifest.forms[name].made, reference, windows, show_progress=show_progress)
        failures += reasons
        ops, in_tflm = sum(form.ops.values()), form.tflm
        spent = None if form.litert is None else _timed(litert.load(model), windows.features)
        rows.append(Row(name, 'LiteRT', form.litert, bytes=len(model), ops=ops, milliseconds=spent))
        if form.tflm_reason is not None:
            notes += [form.tflm_reason] if form.tflm_reason not in notes else []
        elif in_tflm is None:
            rows.append(Row(name, 'TFLM', None, bytes=len(model), ops=ops))
        else:
            score = Score(**{field: getattr(in_tflm, field) for field in schema.field_types(Score)})
            rows.append(Row(name, 'TFLM', score, bytes=len(model), ops=ops, arena=in_tflm.arena_bytes))
    device, recommended = manifest.device, manifest.recommended
    if device.frontend is not None and recommended is not None and tflm.missing() is None:
        row, reasons = _behind_the_frontend(
            out, device.frontend, recommended, files[recommended], reference, windows, recordings
        )
        rows.append(row)
        failures += reasons
    if device.waveform is not None and 'float32' in files:
        row, reasons = _waveform(out, device.waveform, litert.load(files['float32']), recordings)
        rows.append(row)
        failures += reasons
    failures += [line for row in rows for line in below(row, limits or {})]
    clips, spoken = len(recordings.truth), len(np.unique(windows.clip))
    return Result(reference_name, clips, clips - spoken, len(windows.features), rows, failures, notes)


def _behind_the_frontend(
    out: Path,
    entry: Frontend,
    form: str,
    model: bytes,
    reference: np.ndarray,
    windows: Windows,
    recordings: Recordings,
) -> tuple[Row, list[str]]:
    """What a device does: `frontend.tflite` on the samples, then the model on its features, both in TFLM."""
    name, front = f'frontend, {form}', read_file(out, entry)
    facts = {
        'bytes': len(front) + len(model),
        'ops': sum(sum(flatbuffer.read(file).ops.values()) for file in (front, model)),
    }
    try:
        log_mel, front_arena = frontend.frames_in_tflm(front, recordings.samples, recordings.inputs.frontend)
        outcome = tflm.run(model, recordings.windows([features.encode(one) for one in log_mel]).features)
    except tflm.TFLMError as error:
        return Row(name, 'TFLM', None, **facts), [f'{name}: {error}']
    score = gates.score(reference, outcome.logits, windows)
    failures = gates.failures(name, 'TFLM', score, gates.uar(reference, windows))
    return Row(name, 'TFLM', score, arena=front_arena + outcome.arena_bytes, **facts), failures


def _waveform(out: Path, entry: Waveform, float32: Logits, recordings: Recordings) -> tuple[Row, list[str]]:
    """The waveform model on the samples of windows, against the float32 form on the features of the same samples.

    The recordings are cut as streams are; of one that is shorter than a window the samples are repeated.
    """
    model = read_file(out, entry)
    run = litert.load(model)
    pcm, windows = recordings.pcm(entry.samples)
    expected, samples = softmax(float32(windows.features)), pcm.astype(np.float32) / 32768
    probabilities = run(samples)
    # Of logits, probabilities leave the differences.
    tiny = np.finfo(np.float32).tiny
    score = gates.score(np.log(np.maximum(expected, tiny)), np.log(np.maximum(probabilities, tiny)), windows)
    differences, failures = np.abs(probabilities - expected).max(axis=1), []
    apart, allowed = np.count_nonzero(~(differences <= gates.WAVEFORM_TOLERANCE)), gates.apart_allowed(len(pcm))
    if apart > allowed:
        failures = [
            f'waveform in LiteRT: expected probabilities within {gates.WAVEFORM_TOLERANCE:g} of float32 in all but '
            f'{allowed} windows, found {apart} of {len(pcm)} further apart, by up to {differences.max():.3g}'
        ]
    ops = sum(flatbuffer.read(model).ops.values())
    row = Row('waveform', 'LiteRT', score, bytes=len(model), ops=ops, milliseconds=_timed(run, samples))
    return row, failures


def below(row: Row, limits: Mapping[str, float]) -> list[str]:
    """Where a row stays below a limit, a line each; a row that did not run has failed already."""
    if row.score is None:
        return []
    lines = []
    for name, least in limits.items():
        value = getattr(row.score, LIMITS[name])
        if value is None:
            # Nothing differs from the reference; or, with no finite difference, it is no number at all.
            value = float('inf') if row.score.max_abs_diff is not None else float('-inf')
        if value < least:
            lines.append(
                f'{row.form} in {row.runtime}: expected {name} of at least {least:g} (--fail-under), found {value:.4g}'
            )
    return lines


def table(result: Result) -> list[str]:
    """The rows as lines of text."""
    cells = [['form', 'runtime', 'UAR %', 'same decision', 'SNR dB', 'bytes', 'arena', 'ops', 'ms a window']]
    for row in result.rows:
        scores = ['', '', '']
        if row.score is not None:
            snr = '' if row.score.snr_db is None else f'{row.score.snr_db:.1f}'
            uar = '' if row.score.uar is None else f'{100 * row.score.uar:.1f}'
            scores = [uar, f'{row.score.argmax_agreement:.1%}', snr]
        sizes = ['' if value is None else f'{value:,}' for value in (row.bytes, row.arena, row.ops)]
        milliseconds = '' if row.milliseconds is None else f'{row.milliseconds:.2f}'
        cells.append([row.form, row.runtime, *scores, *sizes, milliseconds])
    return aligned(cells, left=(0, 1))


def _in_jax(
    sources: Mapping[str, str | Path], manifest: Manifest, windows: Windows
) -> Iterator[tuple[str, np.ndarray, float]]:
    """Name, logits and milliseconds a window of the training, folded and deploy form, as far as they are there."""
    import jax
    from absl import logging

    from jax_reparam import checkpoint

    logging.set_verbosity(logging.ERROR)  # Orbax warns of what is meant to be.
    features, inputs = windows.features, manifest.input
    # Accelerators multiply in a reduced precision by default.
    with jax.default_matmul_precision('highest'):
        for name, source in sources.items():
            own = checkpoint.load(source)
            same = (own.labels, own.recipe.model, own.step) == (manifest.labels, manifest.architecture, manifest.step)
            if not (same and own.inputs.digest == inputs.digest):
                raise InputError(
                    f'{source}: expected the checkpoint that was exported (step {manifest.step}), found another'
                )
            batched = _batched(own)
            yield name, batched(features), _timed(batched, features, at_once=True)
            if name == 'folded':
                deployed = _deployed(own, features.shape[1])
                yield 'deploy', deployed(features), _timed(deployed, features)


def _batched(trained: Any) -> Logits:
    """The model of a checkpoint."""
    from jax_reparam import models
    from jax_reparam.train.loop import Predictor

    predict = Predictor(models.build(trained.recipe.model, trained.recipe.hrf, n_classes=len(trained.labels)))
    return lambda features: predict(trained.variables, features)


def _deployed(trained: Any, frames: int) -> Logits:
    """The deploy form of a folded checkpoint, window by window."""
    import jax

    from jax_reparam import deploy

    apply = jax.jit(deploy.build(trained.recipe.model, trained.variables, frames))
    return lambda features: np.concatenate([apply(window[None]) for window in features])


def _timed(logits: Logits, features: np.ndarray, *, at_once: bool = False) -> float:
    """Milliseconds a window, once warm: the median of single ones, or of all `TIMED` in a batch."""
    timed = features[:TIMED]
    logits(timed[:1])
    seconds = []
    for part in [timed] if at_once else [window[None] for window in timed]:
        began = time.perf_counter()
        logits(part)
        seconds.append((time.perf_counter() - began) / len(part))
    return 1000 * float(np.median(seconds))
