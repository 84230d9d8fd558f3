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
from jax_reparam.errors import InputError
from jax_reparam.evaluation import Windows, softmax
from jax_reparam.graph import flatbuffer
from jax_reparam.manifest import CHECKPOINT, Frontend, Manifest, Score, Waveform, read_file
from jax_reparam.runtime import gates, litert, tflm
from jax_reparam.runtime.check import verify
from jax_reparam.table import aligned
from jax_reparam.verify.recordings import Recordings

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

    def as_json(self) -> dict[str, Any]:
        """One entry of the output of `--json`."""
        content = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != 'score'}
        return {**content, 'score': None if self.score is None else schema.to_json(self.score)}


@dataclasses.dataclass(frozen=True)
class Result:
    """All rows.

    Attributes:
      reference: the form that all others are held against.
      windows: how many there are.
      rows: one a form and runtime.
      failures: what a gate or a limit found, a line each.
      notes: what could not be verified here, a line each.
    """

    reference: str
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

    The reference is the first that there is of: the training checkpoint, the folded one, the float32 form in LiteRT.

    Args:
      out: a folder that `fold.py` wrote.
      manifest: its manifest.
      recordings: what the forms run on.
      trained: the training folder or checkpoint; None leaves it out.
      limits: least values by name (`LIMITS`) that every row must reach, beside the gates.
      show_progress: report on standard error.

    Raises:
      InputError: a checkpoint or file that is not that of the manifest, or no form at all.
    """
    windows = recordings.windows()
    jax_forms: list[tuple[str, np.ndarray, float]] = []
    if trained is not None or (out / CHECKPOINT).is_dir():
        jax_forms = list(_in_jax(out, manifest, windows, trained))
    files = {name: read_file(out, form) for name, form in manifest.forms.items()}
    if not files:
        raise InputError(f'{out}: expected an exported form, found none in its manifest')
    if jax_forms:
        reference_name, reference, _ = jax_forms[0]
    elif 'float32' in files:
        reference_name, reference = 'float32', litert.load(files['float32'])(windows.features)
    else:
        raise InputError(f'{out}: expected a checkpoint or the form float32 to compare with, found neither')

    rows, failures, notes = [], [], []
    for name, logits, milliseconds in jax_forms:
        row = Row(name, 'JAX', gates.score(reference, logits, windows), milliseconds=milliseconds)
        rows.append(row)
        if name == 'folded' and (reason := gates.fold_failure(reference, logits)):
            failures.append(reason)
        if name == 'deploy':
            assert row.score is not None
            failures += gates.failures('float32', 'JAX, deploy form', row.score, row.score.uar)
    for name, model in files.items():
        form, found = verify(name, model, manifest.forms[name].made, reference, windows, show_progress=show_progress)
        failures += found
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
        row, found = _behind_the_frontend(
            out, device.frontend, recommended, files[recommended], reference, windows, recordings
        )
        rows.append(row)
        failures += found
    if device.waveform is not None and 'float32' in files:
        row, found = _waveform(out, device.waveform, litert.load(files['float32']), windows, recordings)
        rows.append(row)
        failures += found
    failures += [line for row in rows for line in below(row, limits or {})]
    return Result(reference_name, len(windows.features), rows, failures, notes)


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
        'ops': sum(sum(flatbuffer.graph(file).ops.values()) for file in (front, model)),
    }
    try:
        frames, front_arena = frontend.frames_in_tflm(front, recordings.samples, recordings.inputs)
        outcome = tflm.run(model, recordings.windows(frames).features)
    except tflm.TFLMError as error:
        return Row(name, 'TFLM', None, **facts), [f'{name}: {error}']
    score = gates.score(reference, outcome.logits, windows)
    failures = gates.failures(name, 'TFLM', score, gates.uar(reference, windows))
    return Row(name, 'TFLM', score, arena=front_arena + outcome.arena_bytes, **facts), failures


def _waveform(
    out: Path, entry: Waveform, float32: Logits, windows: Windows, recordings: Recordings
) -> tuple[Row, list[str]]:
    """The waveform model on the samples of the windows, against the float32 form on the features of the same samples.

    Of a recording shorter than a window these are repeated, where the other forms repeat frames.
    """
    model = read_file(out, entry)
    run = litert.load(model)
    pcm = recordings.pcm(entry.samples)
    features = dataclasses.replace(recordings, samples=list(pcm)).windows().features
    expected, samples = softmax(float32(features)), pcm.astype(np.float32) / 32768
    found = run(samples)
    # Of logits, probabilities leave the differences.
    log = lambda probabilities: np.log(np.maximum(probabilities, np.finfo(np.float32).tiny))
    score = gates.score(log(expected), log(found), windows)
    difference = float(np.abs(found - expected).max())
    failures = []
    if not difference <= gates.WAVEFORM_TOLERANCE:
        failures = [
            f'waveform in LiteRT: expected probabilities within {gates.WAVEFORM_TOLERANCE:g} of float32, '
            f'found {difference:.3g}'
        ]
    ops = sum(flatbuffer.graph(model).ops.values())
    row = Row('waveform', 'LiteRT', score, bytes=len(model), ops=ops, milliseconds=_timed(run, samples))
    return row, failures


def below(row: Row, limits: Mapping[str, float]) -> list[str]:
    """Where a row stays below a limit, a line each; a row that did not run has failed already."""
    found = []
    for name, least in limits.items():
        if row.score is None:
            continue
        value = getattr(row.score, LIMITS[name])
        if value is None:
            # Nothing differs from the reference; or, with no finite difference, it is no number at all.
            value = float('inf') if row.score.max_abs_diff is not None else float('-inf')
        if value < least:
            found.append(
                f'{row.form} in {row.runtime}: expected {name} of at least {least:g} (--fail-under), found {value:.4g}'
            )
    return found


def table(result: Result) -> list[str]:
    """The rows as lines of text."""
    cells = [['form', 'runtime', 'UAR %', 'same decision', 'SNR dB', 'bytes', 'arena', 'ops', 'ms a window']]
    for row in result.rows:
        numbers = ['', '', ''] if row.score is None else _score(row.score)
        cells.append(
            [
                row.form,
                row.runtime,
                *numbers,
                *('' if value is None else f'{value:,}' for value in (row.bytes, row.arena, row.ops)),
                '' if row.milliseconds is None else f'{row.milliseconds:.2f}',
            ]
        )
    return aligned(cells, left=(0, 1))


def _score(found: Score) -> list[str]:
    snr = '' if found.snr_db is None else f'{found.snr_db:.1f}'
    return [f'{100 * found.uar:.1f}', f'{found.argmax_agreement:.1%}', snr]


def _in_jax(
    out: Path, manifest: Manifest, windows: Windows, trained: str | None
) -> Iterator[tuple[str, np.ndarray, float]]:
    """Name, logits and milliseconds a window of the training, folded and deploy form, as far as they are there."""
    import jax
    from absl import logging

    from jax_reparam import checkpoint

    logging.set_verbosity(logging.ERROR)  # Orbax warns of what is meant to be.
    # Accelerators multiply in a reduced precision by default.
    with jax.default_matmul_precision('highest'):
        if trained is not None:
            found = checkpoint.load(trained)
            _check_same(found, manifest, trained)
            yield 'training', *_run(_batched(found), windows.features, at_once=True)
        if (out / CHECKPOINT).is_dir():
            found = checkpoint.load(out / CHECKPOINT)
            _check_same(found, manifest, out / CHECKPOINT)
            yield 'folded', *_run(_batched(found), windows.features, at_once=True)
            yield 'deploy', *_run(_deployed(found, windows.features.shape[1]), windows.features)


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

    _, function = deploy.build(trained.recipe.model, trained.variables, frames)
    apply = jax.jit(lambda window: function(window, 'l2'))
    return lambda features: np.concatenate([apply(window[None]) for window in features])


def _check_same(found: Any, manifest: Manifest, source: str | Path) -> None:
    same = found.labels == manifest.labels and found.recipe.model == manifest.architecture
    close = same and np.allclose(found.mean, manifest.input.mean) and np.allclose(found.std, manifest.input.std)
    if not close or found.step != manifest.step:
        raise InputError(f'{source}: expected the checkpoint that was exported (step {manifest.step}), found another')


def _run(logits: Logits, features: np.ndarray, *, at_once: bool = False) -> tuple[np.ndarray, float]:
    return logits(features), _timed(logits, features, at_once=at_once)


def _timed(logits: Logits, features: np.ndarray, *, at_once: bool = False) -> float:
    """Milliseconds a window, once warm: the median of single ones, or of all `TIMED` in a batch."""
    some = features[:TIMED]
    logits(some[:1])
    taken = []
    for part in [some] if at_once else [window[None] for window in some]:
        began = time.perf_counter()
        logits(part)
        taken.append((time.perf_counter() - began) / len(part))
    return 1000 * float(np.median(taken))
