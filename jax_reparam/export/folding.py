"""`fold.py` as one call: checkpoint -> folded -> exported forms -> verified -> a folder to flash."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jax_reparam import checkpoint, deploy, evaluation, manifest, models, reparam
from jax_reparam.checkpoint import Trained
from jax_reparam.config import HRFConfig
from jax_reparam.data import pipeline
from jax_reparam.deploy import convert
from jax_reparam.device import bundle, metadata
from jax_reparam.errors import InputError
from jax_reparam.export import card, folder, npu
from jax_reparam.frontend.inputs import Input
from jax_reparam.quantise import forms, tensor_report
from jax_reparam.runtime import gates
from jax_reparam.runtime.check import verify
from jax_reparam.train import report
from jax_reparam.train.loop import Predictor

Variables = dict[str, Any]


class FoldError(RuntimeError):
    """The folded model is not the trained one, so nothing may be exported."""


@dataclasses.dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
      path: the folder.
      manifest: what its manifest.json holds.
      failures: why forms are missing from it, a line each; empty when all passed.
      accepted: why forms that are in it would be missing, had they not been accepted.
    """

    path: Path
    manifest: dict[str, Any]
    failures: list[str]
    accepted: list[str]

    @property
    def usable(self) -> bool:
        """Whether float32 passed, a form for a microcontroller (int16, where int8 loses too much), and the NPU's."""
        made = 'float32' in self.manifest['forms'] and self.manifest['recommended'] is not None
        return made and not {manifest.NPU_FORM, 'npu'} & self.manifest['failed'].keys()


def fold_and_export(
    source: str | Path,
    out: str | Path,
    *,
    plain: bool = False,
    limit: int | None = None,
    accelerator: str | None = None,
    accept: Collection[str] = (),
    prefer: str | None = None,
    only_int8: bool = False,
    show_progress: bool = True,
) -> Exported:
    """Folds a trained model, exports it, verifies every form on test windows, and writes what passed.

    Args:
      source: a training folder, its checkpoints, or one of them.
      out: a new or empty folder, or one that this wrote before, which is replaced as a whole.
      plain: accept a model without HRF sites.
      limit: verify on at most this many test windows; None takes all.
      accelerator: an NPU (`npu.ACCELERATORS`) to compile an int8 form for; None compiles none.
      accept: forms (`manifest.GATED`) to keep where they run and give finite logits, but miss their gates.
      prefer: the form (`manifest.QUANTISED`) to recommend and build the firmware around, if it passes; None is the one
        that passes and needs the least memory.
      only_int8: int8 is to have operators of 8 bits alone, for the least arena or a runtime that lacks others; else it
        has 16 bits where they pay (`mixed_precision`).
      show_progress: report on standard error.

    Raises:
      InputError: no checkpoint, one without HRF sites, one with a leaf that is not finite, another corpus than it was
        trained on, an `out` that holds something else or cannot be written, an NPU without its compiler.
      FoldError: the folded model is not the trained one.
      OSError: a full disk, or the like. Whatever fails, `out` stays as it was.
    """
    tell = _Teller(show_progress)
    out = Path(out)
    folder.check(out)
    if accelerator is not None:
        npu.check(accelerator)
    trained = checkpoint.load(source)
    folded = fold(trained, plain=plain)
    tell(f'{trained.path}: {len(reparam.hrf_sites(trained.variables))} HRF sites folded')
    # Made before the work: a folder that cannot be written shows at once.
    with folder.replaced(out) as place:
        data = load_data(trained, show_progress)
        test = pipeline.of_part(data, 'test', limit)
        validation = pipeline.of_part(data, 'validation', pipeline.VALIDATION_WINDOWS)
        calibration, calibration_places = pipeline.calibration(data)
        compared, fold_entry = compare(trained, folded, np.concatenate([test.features, validation.features]))
        reference, validation_reference = np.split(compared, [len(test.features)])
        tell(f'compared on {len(compared)} windows: logits differ by at most {fold_entry["max_abs_diff"]:.1e}')

        params, function = deployed(trained, folded, frames=data.window.frames)
        unit = deploy.unit(trained.recipe.model)
        maker = forms.Maker(function, calibration, validation, validation_reference, unit=unit, narrow=only_int8)
        inputs = _input(trained, data)
        made = _make_forms(
            maker,
            test,
            reference,
            [name for name in manifest.FORM_FILES if accelerator is not None or name != manifest.NPU_FORM],
            attach=lambda model: metadata.attach(model, trained.labels, inputs),
            accept=accept,
            params=params,
            tell=tell,
        )
        for name, entry in made.passed.items():
            (place / entry['file']).write_bytes(made.files[name])

        recommended = manifest.recommended(made.passed, prefer)
        extras, extras_failed = bundle.write(
            place,
            form=recommended,
            logits=lambda features: function(features, 'l2'),
            labels=trained.labels,
            inputs=inputs,
            clips=[data.corpus.audio(index) for index in data.clips('test')[: bundle.CLIPS]],
        )
        failed = made.failed | extras_failed
        tell(f'for devices: {", ".join(name for name, entry in extras.items() if entry) or "nothing"}')
        placed = None
        if accelerator is not None and manifest.NPU_FORM in made.files:
            for_npu, passed = made.files[manifest.NPU_FORM], manifest.NPU_FORM in made.passed
            placed, npu_failed = npu.write(place, for_npu, accelerator, passed=passed)
            failed |= npu_failed
            tell(f'compiled for {accelerator}' if placed else f'nothing for {accelerator}')
        kernels = tensor_report.sites(trained.variables)

        content = {
            'format': manifest.FORMAT,
            'model': trained.meta['config']['model'],
            'labels': list(trained.labels),
            'input': inputs.as_json(),
            'params': {
                'training': checkpoint.count(trained.variables['params']),
                'folded': checkpoint.count(folded['params']),
            },
            'fold': fold_entry,
            'forms': _in_order(made.passed),
            'recommended': recommended,
            'failed': failed,
            'device': extras,
            'npu': placed,
            'kernels': [site.as_json() for site in kernels],
            'reference_uar': gates.uar(reference, test),
            'protocol': trained.meta['split'],
            'corpus': trained.meta['corpus'],
            'test': {
                'windows': len(test.features),
                'clips': int(test.clip[-1]) + 1,
                'of_clips': len(data.clips('test')),
                'decisions': len(test.truth),
            },
            'calibration': [list(window) for window in calibration_places],
            'step': trained.step,
            'versions': {'training': trained.meta['versions'], 'export': report.versions()},
        }
        checkpoint.write_checkpoint(place / folder.CHECKPOINT, folded, trained)
        checkpoint.write_safetensors(place / folder.SAFETENSORS, folded, trained)
        (place / folder.LABELS).write_text(''.join(f'{label}\n' for label in trained.labels))
        (place / folder.LAYERS).write_text(tensor_report.text(kernels, _in_order(made.rows)))
        (place / folder.CARD).write_text(card.text(content, trained.recipe))
        (place / manifest.FILE).write_text(manifest.dumps(content))
    return Exported(
        out,
        content,
        failures=[reason for entry in failed.values() for reason in entry['reasons']],
        accepted=[reason for entry in made.passed.values() for reason in entry.get('accepted', ())],
    )


@dataclasses.dataclass
class _Forms:
    """What was made, by form.

    Attributes:
      files: the .tflite files.
      passed: the manifest's entries of those that are kept.
      failed: and of the others, with their `reasons`; some have no file.
      rows: of quantised ones, how far each tensor lies from float32.
    """

    files: dict[str, bytes] = dataclasses.field(default_factory=dict)
    passed: dict[str, Any] = dataclasses.field(default_factory=dict)
    failed: dict[str, Any] = dataclasses.field(default_factory=dict)
    rows: dict[str, list[tensor_report.Row]] = dataclasses.field(default_factory=dict)


def _make_forms(
    maker: forms.Maker,
    test: evaluation.Windows,
    reference: np.ndarray,
    names: Iterable[str],
    *,
    attach: Callable[[bytes], bytes],
    accept: Collection[str],
    params: Any,
    tell: _Teller,
) -> _Forms:
    """Makes forms, and verifies each on test windows against the trained model's logits `[W, C]`."""
    found = _Forms()
    for name in names:
        try:
            made = maker.make(name)
        except convert.ConversionError as error:
            found.failed[name] = {'reasons': [f'{name}: {error}']}
            continue
        model = found.files[name] = attach(made.model)
        tell(f'exported {name}: {len(model):,} bytes')
        entry, reasons = verify(name, model, reference, test, show_progress=tell.enabled)
        entry['made'] = made.how
        if name != 'float32' and entry['litert']:
            some = evaluation.evenly(test.features, tensor_report.WINDOWS)
            rows = found.rows[name] = tensor_report.report(made.untidied, made.float32, some, params=params)
            entry['layers'] = [row.as_json() for row in tensor_report.computed(rows)[: tensor_report.WORST]]
        tell(f'verified {name} in LiteRT and TFLM' if entry['tflm'] else f'verified {name} in LiteRT only')
        if reasons and name in accept and _ran(entry):
            entry['accepted'], reasons = reasons, []
        if reasons:
            found.failed[name] = {**entry, 'reasons': reasons}
        else:
            found.passed[name] = entry
    return found


def _in_order(entries: Mapping[str, Any]) -> dict[str, Any]:
    return {name: entries[name] for name in manifest.FORM_FILES if name in entries}


def _ran(entry: Mapping[str, Any]) -> bool:
    """Whether a form gave finite logits in the runtime that decides about it."""
    result = entry['litert' if 'tflm_reason' in entry else 'tflm']
    return result is not None and result['max_abs_diff'] is not None


def fold(trained: Trained, *, plain: bool = False) -> Variables:
    """Folds a trained model in float64; the result is the plain model's tree, in the parameters' own type.

    Raises:
      InputError: a tree that is not its recipe's, or has a leaf that is not finite, or (unless `plain`) no HRF site.
    """
    _check_tree(trained.variables, _initial(trained, trained.recipe.hrf), trained.path)
    _check_finite(trained.variables, trained.path)
    if not plain and not reparam.hrf_sites(trained.variables):
        raise InputError(
            f'{trained.path}: expected a model with HRF sites, found a plain one; --plain exports it as it is'
        )
    folded = _in_float64(reparam.dehrf, trained.variables)
    _check_tree(folded, _initial(trained, None), trained.path)
    _check_finite(folded, trained.path)
    return folded


def load_data(trained: Trained, show_progress: bool = True) -> pipeline.Data:
    """The corpus a model was trained on, split as it was, standardised with the checkpoint's statistics.

    Raises:
      InputError: the corpus is missing, or its split is not that of the training.
    """
    data = pipeline.load_data(trained.recipe, show_progress=show_progress)
    # A run of an older version says less about its split.
    split = {key: json.loads(json.dumps(data.split.info)).get(key) for key in trained.meta['split']}
    if tuple(data.corpus.labels) != trained.labels or split != trained.meta['split']:
        # Its test clips might be among those the model has learnt.
        raise InputError(
            f'{trained.path}: expected the corpus and split that it was trained on, found another '
            f'{data.corpus.name} (key {data.corpus.key[:12]}, trained on {trained.meta["corpus"]["key"][:12]})'
        )
    return dataclasses.replace(data, mean=trained.mean, std=trained.std)


def compare(trained: Trained, folded: Variables, windows: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
    """Holds the folded model against the training form, on windows `[W, frames, n_mels]`.

    Returns:
      The training form's logits `[W, C]`, and the manifest's `fold`.

    Raises:
      FoldError: they differ by more than rounding.
    """
    # Accelerators multiply in a reduced precision by default.
    with jax.default_matmul_precision('highest'):
        reference = Predictor(_model(trained, trained.recipe.hrf))(trained.variables, windows)
        logits = Predictor(_model(trained, None))(folded, windows)
    reason = gates.fold_failure(reference, logits)
    if reason is not None:
        raise FoldError(reason)
    return reference, {
        'sites': len(reparam.hrf_sites(trained.variables)),
        'windows': len(windows),
        'max_abs_diff': float(np.abs(logits - reference).max()),
        'argmax_agreement': float((logits.argmax(-1) == reference.argmax(-1)).mean()),
    }


def deployed(trained: Trained, folded: Variables, *, frames: int) -> tuple[Any, forms.Deployed]:
    """The deploy form of a folded model for windows of `frames` frames: its parameters, and it with them inside."""
    model = trained.recipe.model
    params = _in_float64(lambda tree: deploy.prepare(model, tree, frames=frames), folded)
    return params, lambda features, norm: deploy.apply(model, params, features, norm=norm)


def _model(trained: Trained, hrf: HRFConfig | None) -> Any:
    return models.build(trained.recipe.model, hrf, n_classes=len(trained.labels))


def _initial(trained: Trained, hrf: HRFConfig | None) -> Any:
    """Shapes and types of a fresh model's tree."""
    model = _model(trained, hrf)
    recipe = trained.recipe
    example = jax.ShapeDtypeStruct((1, recipe.window_config.frames, recipe.frontend.n_mels), np.float32)
    return jax.eval_shape(model.init, jax.random.key(0), example)


def _in_float64(function: Callable[[Variables], Variables], tree: Variables) -> Variables:
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)
        return jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), function(wide))


def _check_tree(found: Any, expected: Any, path: Path) -> None:
    shapes = [{name: tuple(leaf.shape) for name, leaf in checkpoint.leaves(tree)} for tree in (found, expected)]
    for name in sorted(shapes[0].keys() | shapes[1].keys()):
        found_shape, expected_shape = (tree.get(name, 'nothing') for tree in shapes)
        if found_shape != expected_shape:
            raise InputError(f'{path}: {name}: expected {expected_shape} by its recipe, found {found_shape}')


def _check_finite(variables: Any, path: Path) -> None:
    for name, leaf in checkpoint.leaves(variables):
        if bad := int((~np.isfinite(leaf)).sum()):
            raise InputError(f'{path}: {name}: expected finite values, found {bad} of {leaf.size} that are not')


def _input(trained: Trained, data: pipeline.Data) -> Input:
    return Input(trained.recipe.frontend, data.window, mean=trained.mean, std=trained.std)


class _Teller:
    """Says on standard error what was done and how long it took."""

    def __init__(self, enabled: bool) -> None:
        self.enabled, self._since = enabled, time.monotonic()

    def __call__(self, text: str) -> None:
        now = time.monotonic()
        if self.enabled:
            print(f'{text} ({now - self._since:.1f} s)', file=sys.stderr, flush=True)
        self._since = now
