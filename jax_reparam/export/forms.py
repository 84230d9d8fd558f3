"""Makes every form of a model, verifies it on test windows, and keeps what passed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable
from typing import Any

import numpy as np

from jax_reparam import evaluation
from jax_reparam.deploy import convert
from jax_reparam.manifest import Failed, Form, Layer
from jax_reparam.quantise import tensor_report
from jax_reparam.quantise.forms import Maker
from jax_reparam.runtime.check import verify


@dataclasses.dataclass(frozen=True)
class Forms:
    """What was made, by form.

    Attributes:
      files: the .tflite files.
      passed: the manifest's entries of those that are kept.
      failed: and of the others.
      layers: of quantised ones, how far each tensor lies from float32.
    """

    files: dict[str, bytes] = dataclasses.field(default_factory=dict)
    passed: dict[str, Form] = dataclasses.field(default_factory=dict)
    failed: dict[str, Failed] = dataclasses.field(default_factory=dict)
    layers: dict[str, list[Layer]] = dataclasses.field(default_factory=dict)


def make(
    names: Iterable[str],
    maker: Maker,
    test: evaluation.Windows,
    reference: np.ndarray,
    *,
    params: Any,
    attach: Callable[[bytes], bytes],
    accept: Collection[str],
    tell: Callable[[str], None],
    show_progress: bool,
) -> Forms:
    """Makes forms, and verifies each on test windows.

    Args:
      names: of the forms.
      maker: makes them.
      test: the windows.
      reference: the trained model's logits on them, `[W, C]`.
      params: the deploy form's parameters, whose paths name layers.
      attach: puts labels and input into a .tflite file.
      accept: forms to keep where they run and give finite logits, but miss their gates.
      tell: is told what was done.
      show_progress: report on standard error.
    """
    forms = Forms()
    for name in names:
        try:
            made = maker.make(name)
        except convert.ConversionError as error:
            forms.failed[name] = Failed(reasons=(f'{name}: {error}',))
            continue
        model = forms.files[name] = attach(made.model)
        tell(f'exported {name}: {len(model):,} bytes')
        form, reasons = verify(name, model, made.how, reference, test, show_progress=show_progress)
        if name != 'float32' and form.litert is not None:
            some = evaluation.evenly(test.features, tensor_report.WINDOWS)
            rows = forms.layers[name] = tensor_report.report(made.unoptimised, made.float32, some, params=params)
            worst = tuple(tensor_report.computed(rows)[: tensor_report.WORST])
            form = dataclasses.replace(form, layers=worst)
        tell(f'verified {name} in LiteRT {"only" if form.tflm is None else "and TFLM"}')
        if reasons and not (name in accept and _ran(form)):
            forms.failed[name] = Failed(reasons=tuple(reasons), found=form)
        else:
            forms.passed[name] = dataclasses.replace(form, accepted=tuple(reasons) or None)
    return forms


def _ran(form: Form) -> bool:
    """Whether a form gave finite logits in the runtime that decides about it."""
    score = form.tflm if form.tflm_reason is None else form.litert
    return score is not None and score.max_abs_diff is not None
