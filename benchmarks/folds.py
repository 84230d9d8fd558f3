"""Pools what `fold.py` wrote for the folds of a recipe, as one table: python benchmarks/folds.py out/NAME_0 ...

Folders are pooled by their names up to the last `_`. All figures are those of the manifests: on test windows in TFLM,
and the noise on validation windows too. A form that missed its gates counts like the others. UAR is the mean over
folds, with its standard deviation over them. The last row of a recipe has of each fold the form that the manifest
recommends; test windows had a say in which one that is.
"""

from __future__ import annotations

import argparse
import collections
import itertools
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from jax_reparam.manifest import GATED, QUANTISED, Form, Manifest, Score, load


def made(fold: Manifest, name: str) -> Form | None:
    """A form of a fold, whether it passed or not; None where it did not run in TFLM."""
    form = fold.forms.get(name) or (fold.failed[name].found if name in fold.failed else None)
    return form if isinstance(form, Form) and form.tflm else None


def cells(recipe: str, name: str, folds: Sequence[Manifest], names: Sequence[str]) -> dict[str, str]:
    """A row, by column: of each fold one form."""
    forms = [form for fold, own in zip(folds, names, strict=True) if (form := made(fold, own))]
    ran = [form.tflm for form in forms if form.tflm]
    validation = [form.made.validation for form in forms if form.made.validation]
    differing, windows = sum(run.differing for run in ran), sum(fold.test.windows for fold in folds)
    most = lambda values: f'{max(values):,}'
    return {
        'recipe': f'`{recipe}`',
        'form': name,
        'bytes': most(form.bytes for form in forms),
        'ops': most(sum(form.ops.values()) for form in forms),
        'arena': most(run.arena_bytes for run in ran),
        'M instructions': f'{max(form.cost.instructions for form in forms if form.cost) / 1e6:.1f}',
        'windows that decide otherwise': f'{differing} of {windows}',
        'same decision': f'{1 - differing / windows:.2%}',
        'UAR trained': spread(fold.reference_uar for fold in folds if fold.reference_uar is not None),
        'UAR': spread(run.uar for run in ran if run.uar is not None),
        'SNR dB': decibels(ran),
        'on validation windows': f'{sum(score.differing for score in validation)}, {decibels(validation)}',
        'passed its gates': f'{sum(own in fold.forms for fold, own in zip(folds, names, strict=True))}',
    }


def spread(shares: Iterable[float]) -> str:
    """Mean and standard deviation, in percent."""
    percent = 100 * np.array(list(shares))
    return f'{percent.mean():.1f} +- {percent.std(ddof=1):.1f}'


def decibels(scores: Iterable[Score]) -> str:
    """The mean SNR of those that have noise."""
    found = [score.snr_db for score in scores]
    return f'{np.mean([snr for snr in found if snr is not None and math.isfinite(snr)]):.1f}'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('outs', nargs='+', type=Path, metavar='OUT')
    rows = []
    of_recipe = lambda out: out.name.rpartition('_')[0]
    for recipe, outs in itertools.groupby(sorted(parser.parse_args().outs), of_recipe):
        folds = [load(out) for out in outs]
        for form in GATED:
            of_form = [fold for fold in folds if made(fold, form)]
            if len(of_form) > 1:
                rows.append(cells(recipe, form, of_form, [form] * len(of_form)))
        recommended = [fold.recommended for fold in folds if fold.recommended]
        counts = collections.Counter(recommended)
        if len(folds) > 1 and len(recommended) == len(folds):
            name = ', '.join(f'{form} {counts[form]}' for form in QUANTISED if form in counts)
            rows.append(cells(recipe, f'recommended ({name})', folds, recommended))
    for row in [list(rows[0]), ['---'] * len(rows[0]), *(list(row.values()) for row in rows)] if rows else []:
        print('| ' + ' | '.join(row) + ' |')


if __name__ == '__main__':
    main()
