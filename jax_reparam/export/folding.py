"""`fold.py` as one call: checkpoint -> folded -> exported forms -> verified -> a folder to flash."""

from __future__ import annotations

import dataclasses
import functools
import sys
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np

from jax_reparam import checkpoint, deploy, manifest, models, reparam, schema, threads
from jax_reparam.checkpoint import Trained
from jax_reparam.config import HRFConfig
from jax_reparam.data.export_data import export_data
from jax_reparam.deploy import convert
from jax_reparam.deploy.convert import ConversionError
from jax_reparam.device import bundle, metadata
from jax_reparam.errors import Error, InputError
from jax_reparam.evaluation import Windows, evenly
from jax_reparam.export import card, folder, npu
from jax_reparam.field import robustness
from jax_reparam.field.robustness import Row
from jax_reparam.frontend import features
from jax_reparam.graph import cost, flatbuffer
from jax_reparam.graph.graph import Graph
from jax_reparam.graph.passes import optimise
from jax_reparam.manifest import NPU_FORM, Failed, Form, Layer, Made, Manifest, Price
from jax_reparam.quantise import tensor_report
from jax_reparam.quantise.quantise import Calibration, Quantised, quantise
from jax_reparam.reparam import Params
from jax_reparam.runtime import gates, litert, observe
from jax_reparam.runtime.check import verify
from jax_reparam.train import report
from jax_reparam.train.loop import Predictor


class FoldError(Error):
    """The folded model is not the trained one, so nothing may be exported."""


@dataclasses.dataclass(frozen=True)
class Exported:
    """The folder that was written, and what its manifest.json holds."""

    path: Path
    manifest: Manifest

    @property
    def failures(self) -> list[str]:
        """Why forms and other files are missing from it, a line each; empty when all passed."""
        return [reason for entry in self.manifest.failed.values() for reason in entry.reasons]

    @property
    def accepted(self) -> list[str]:
        """Why forms that are in it would be missing, had they not been accepted."""
        return [reason for form in self.manifest.forms.values() for reason in form.accepted or ()]

    @property
    def usable(self) -> bool:
        """Whether float32 passed, a form for a microcontroller (int16, where int8 loses too much), and the NPU's."""
        made = 'float32' in self.manifest.forms and self.manifest.recommended is not None
        return made and not {NPU_FORM, 'npu'} & self.manifest.failed.keys()


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
    fast: bool = False,
    corpus: str | None = None,
    show_progress: bool = True,
) -> Exported:
    """Folds a trained model, exports it, verifies every form on test windows, and writes what passed.

    Args:
      source: a training folder, its checkpoints, or one of them.
      out: a new or empty folder, or one that this wrote before, which is replaced as a whole.
      plain: accept a model without HRF sites.
      limit: verify on at most this many test windows; None takes all.
      accelerator: an NPU (`manifest.NPU_FILES`) to compile an int8 form for; None compiles none.
      accept: forms (`manifest.GATED`) to keep where they run and give finite logits, but miss their gates.
      prefer: the form (`manifest.QUANTISED`) to recommend and build the firmware around, if it passes; None is the one
        that passes and needs the least memory.
      only_int8: int8 computes in 8 bits throughout, for the least arena or a runtime that lacks other kernels; else it
        has 16 bits where they pay (`deploy.widths`).
      fast: int8 has 16 bits also where they save time alone, at the price of arena.
      corpus: where the model's corpus lies now; None: where it lay, or else what the checkpoint carries of it.
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
        data = export_data(trained, limit, source=corpus, show_progress=show_progress)
        test, validation = data.test, data.validation
        compared, fold_entry = compare(trained, folded, np.concatenate([test.features, validation.features]))
        reference, validation_reference = np.split(compared, [len(test.features)])
        tell(f'compared on {len(compared)} windows: logits differ by at most {fold_entry.max_abs_diff:.1e}')

        frames = data.inputs.window.frames
        function = deploy.build(trained.recipe.model, folded, frames)
        offered = {flag: deploy.widths(trained.recipe.model, frames, fast=bool(flag)) for flag in ('', '--fast')}
        chosen = {'': 8} if only_int8 else offered['--fast' if fast else '']
        bits = {'float32': None, 'int8': chosen, 'int16': {'': 16}, NPU_FORM: {'': 8}}
        made = _forms(
            {name: bits[name] for name in manifest.FORM_FILES if accelerator is not None or name != NPU_FORM},
            _Maker(function, data.calibration, validation, validation_reference, {} if only_int8 else offered),
            test,
            reference,
            attach=lambda model: metadata.attach(model, trained.labels, data.inputs),
            accept=accept,
            tell=tell,
        )
        for name, form in made.passed.items():
            (place / form.file).write_bytes(made.files[name])
        recommended = manifest.recommended(made.passed, prefer)

        field: list[Row] = []
        if recommended is not None:
            engines = [
                {recommended: litert.load(made.files[recommended])}
                for _ in range(threads.cores(len(data.field.samples)))
            ]
            field = robustness.summary(engines, data.field, trained.labels, show_progress=show_progress)
            if not test.held_out:
                field = [robustness.unscored(row) for row in field]
            tell(f'{len(field)} rows of the field test')

        device, device_failed = bundle.write(
            place,
            form=recommended,
            logits=function,
            labels=trained.labels,
            inputs=data.inputs,
            clips=data.recordings,
        )
        written = [name for name in ('frontend', 'waveform', 'firmware') if getattr(device, name) is not None]
        tell(f'for devices: {", ".join(written) or "nothing"}')

        placed, failed = None, made.failed | device_failed
        if accelerator is not None and NPU_FORM in made.files:
            passed = NPU_FORM in made.passed
            placed, npu_failed = npu.write(place, made.files[NPU_FORM], accelerator, passed=passed)
            failed |= npu_failed
            tell(f'compiled for {accelerator}' if placed else f'nothing for {accelerator}')

        arrays = features.filters(data.inputs.frontend).to_bytes()
        content = Manifest(
            model=trained.meta['config']['model'],
            labels=trained.labels,
            input=data.inputs,
            filters=manifest.file_of(manifest.FILTERS, arrays),
            params=manifest.ParamCount(
                training=checkpoint.count(trained.variables['params']), folded=checkpoint.count(folded['params'])
            ),
            fold=fold_entry,
            forms=made.passed,
            recommended=recommended,
            failed=failed,
            device=device,
            npu=placed,
            kernels=tuple(tensor_report.sites(trained.variables)),
            reference_uar=gates.uar(reference, test),
            field=tuple(field),
            protocol=schema.from_json(manifest.Protocol, trained.meta['split'], 'split'),
            corpus=schema.from_json(manifest.Corpus, trained.meta['corpus'], 'corpus'),
            test=manifest.Test(
                windows=len(test.features),
                clips=int(test.clip[-1]) + 1,
                of_clips=data.of_clips,
                decisions=len(test.truth),
                part='test' if test.held_out else 'train',
            ),
            calibration=data.places,
            step=trained.step,
            versions={'training': trained.meta['versions'], 'export': report.versions()},
            recipe=trained.recipe.without_places().as_json(),
            init=_nameless(schema.from_json(cast(Any, manifest.Init | None), trained.meta.get('init'), 'init')),
            held_out=schema.from_json(cast(Any, manifest.HeldOut | None), trained.meta.get('held_out'), 'held_out'),
        )
        checkpoint.write_checkpoint(place / manifest.CHECKPOINT, folded, trained)
        checkpoint.write_safetensors(place / manifest.SAFETENSORS, folded, trained)
        (place / manifest.FILTERS).write_bytes(arrays)
        (place / manifest.LABELS).write_text(''.join(f'{label}\n' for label in trained.labels))
        (place / manifest.LAYERS).write_text(tensor_report.text(content.kernels, made.layers))
        (place / manifest.CARD).write_text(card.text(content, trained.recipe))
        (place / manifest.FILE).write_text(content.text())
    return Exported(out, content)


@dataclasses.dataclass
class _Maker:
    """Makes the forms of one model.

    Attributes:
      function: the deploy form.
      calibration: training windows, `[W, frames, n_mels]`.
      validation: windows on which a form is scored before it meets test windows.
      reference: the trained model's logits of `validation`, `[V, C]`.
      offered: the bits that a user may choose for int8, by flag.
    """

    function: deploy.Function
    calibration: np.ndarray
    validation: Windows
    reference: np.ndarray
    offered: Mapping[str, dict[str, int]]

    @functools.cached_property
    def calibrated(self) -> Calibration:
        """The float32 graph, with what all integer forms share."""
        model = convert.to_float32(self.function, (1, *self.calibration.shape[1:]))
        return Calibration(flatbuffer.read(model), self.calibration)

    def make(self, name: str, bits: dict[str, int] | None) -> tuple[Graph, Made, Quantised | None]:
        """A form, ready for a device, and how it was made; `bits` are None for float32.

        Raises:
          ConversionError: TensorFlow refused the graph.
        """
        if bits is None:
            return optimise(self.calibrated.graph), Made(), None
        quantised = quantise(self.calibrated, bits)
        # Several times as fast as TFLM.
        logits = observe.logits(quantised.graph, self.validation.features)
        score = gates.score(self.reference, logits, self.validation)
        # With 16 bits time counts for more than the last bytes of memory.
        graph = optimise(quantised.graph, fast=name == 'int16')
        prices = self._prices(bits, graph) if name == 'int8' else None
        return graph, Made(bits=bits, windows=len(self.calibration), validation=score, prices=prices), quantised

    def _prices(self, made: dict[str, int], graph: Graph) -> dict[str, Price] | None:
        """What each choice takes, of which `made` is the graph that is there; None where there is no choice."""
        prices = {}
        if len({*map(str, self.offered.values())}) < 2:
            return None
        for flag, bits in self.offered.items():
            one = graph if bits == made else optimise(quantise(self.calibrated, bits).graph)
            found = cost.of_graph(one)
            prices[flag] = Price(arena_bytes=found.arena_bytes, instructions=found.instructions)
        return prices


@dataclasses.dataclass
class _Forms:
    """What was made, by form: .tflite files, entries of those that are kept and of the others, all tensors' noise."""

    files: dict[str, bytes] = dataclasses.field(default_factory=dict)
    passed: dict[str, Form] = dataclasses.field(default_factory=dict)
    failed: dict[str, Failed] = dataclasses.field(default_factory=dict)
    layers: dict[str, list[Layer]] = dataclasses.field(default_factory=dict)


def _forms(
    bits: Mapping[str, dict[str, int] | None],
    maker: _Maker,
    test: Windows,
    reference: np.ndarray,
    *,
    attach: Callable[[bytes], bytes],
    accept: Collection[str],
    tell: _Teller,
) -> _Forms:
    """Makes forms, by name with their bits, and holds each against the trained model's logits on test windows."""
    forms = _Forms()
    for name in bits:
        try:
            graph, made, quantised = maker.make(name, bits[name])
        except ConversionError as error:
            forms.failed[name] = Failed(reasons=(f'{name}: {error}',))
            continue
        model = forms.files[name] = attach(flatbuffer.write(graph))
        tell(f'exported {name}: {len(model):,} bytes')
        form, reasons = verify(name, model, made, reference, test, show_progress=tell.enabled)
        if quantised is not None and form.litert is not None:
            rows = tensor_report.report(quantised, evenly(test.features, tensor_report.WINDOWS))
            forms.layers[name] = rows
            form = dataclasses.replace(form, layers=tuple(tensor_report.computed(rows)[: tensor_report.WORST]))
        tell(f'verified {name} in LiteRT {"only" if form.tflm is None else "and TFLM"}')
        # Of the runtime that decides; without finite logits a form is never accepted.
        score = form.tflm if form.tflm_reason is None else form.litert
        ran = score is not None and score.max_abs_diff is not None
        if reasons and not (name in accept and ran):
            forms.failed[name] = Failed(reasons=tuple(reasons), found=form)
        else:
            forms.passed[name] = dataclasses.replace(form, accepted=tuple(reasons) or None)
    return forms


def _nameless(init: manifest.Init | None) -> manifest.Init | None:
    """Without the folders of this machine."""
    return init and dataclasses.replace(init, path=Path(init.path).name)


def fold(trained: Trained, *, plain: bool = False) -> Params:
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
    folded = reparam.in_float64(reparam.dehrf, trained.variables)
    _check_tree(folded, _initial(trained, None), trained.path)
    _check_finite(folded, trained.path)
    return folded


def compare(trained: Trained, folded: Params, windows: np.ndarray) -> tuple[np.ndarray, manifest.Fold]:
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
    return reference, manifest.Fold(
        sites=len(reparam.hrf_sites(trained.variables)),
        windows=len(windows),
        max_abs_diff=float(np.abs(logits - reference).max()),
        argmax_agreement=float((logits.argmax(-1) == reference.argmax(-1)).mean()),
    )


def _model(trained: Trained, hrf: HRFConfig | None) -> Any:
    return models.build(trained.recipe.model, hrf, n_classes=len(trained.labels))


def _initial(trained: Trained, hrf: HRFConfig | None) -> Params:
    """Shapes and types of a fresh model's tree."""
    window = np.zeros((1, trained.recipe.window_config.frames, trained.recipe.frontend.n_mels), np.float32)
    return jax.eval_shape(_model(trained, hrf).init, jax.random.key(0), window)


def _check_tree(variables: Params, expected: Params, path: Path) -> None:
    own, wanted = (
        {name: tuple(leaf.shape) for name, leaf in checkpoint.leaves(tree)} for tree in (variables, expected)
    )
    for name in sorted(own.keys() | wanted.keys()):
        shape, by_recipe = own.get(name, 'nothing'), wanted.get(name, 'nothing')
        if shape != by_recipe:
            raise InputError(f'{path}: {name}: expected {by_recipe} by its recipe, found {shape}')


def _check_finite(variables: Params, path: Path) -> None:
    for name, leaf in checkpoint.leaves(variables):
        if bad := int((~np.isfinite(leaf)).sum()):
            raise InputError(f'{path}: {name}: expected finite values, found {bad} of {leaf.size} that are not')


class _Teller:
    """Says on standard error what was done and how long it took."""

    def __init__(self, enabled: bool) -> None:
        self.enabled, self._since = enabled, time.monotonic()

    def __call__(self, text: str) -> None:
        now = time.monotonic()
        if self.enabled:
            print(f'{text} ({now - self._since:.1f} s)', file=sys.stderr, flush=True)
        self._since = now
