"""Pools what `fold.py` wrote for the folds of a recipe, as one table: python benchmarks/folds.py out/NAME_0 ...

Folders are pooled by their names up to the last `_`. All figures are those of the manifests, in TFLM on test windows: a
form that missed its gates counts like the others. UAR is the mean over folds, with its standard deviation over them.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jax_reparam.export import manifest

COLUMNS = (
    *('recipe', 'form', 'bytes', 'ops', 'arena', 'M instructions', 'windows that decide otherwise', 'same decision'),
    *('UAR trained', 'UAR', 'SNR dB', 'passed its gates', 'recommended'),
)


def row(recipe: str, form: str, folds: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    """The cells of one form."""
    entries = [(fold['forms'] | fold['failed'])[form] for fold in folds]
    ran = [entry['tflm'] for entry in entries]
    differing, windows = sum(run['differing'] for run in ran), sum(fold['test']['windows'] for fold in folds)
    trained, uar = (
        100 * np.array(column)
        for column in zip(*((f['reference_uar'], r['uar']) for f, r in zip(folds, ran, strict=True)), strict=True)
    )
    snr = [run['snr_db'] for run in ran if run['snr_db'] is not None and math.isfinite(run['snr_db'])]
    largest = lambda values: f'{max(values):,}'
    return (
        recipe,
        form,
        largest(entry['bytes'] for entry in entries),
        largest(sum(entry['ops'].values()) for entry in entries),
        largest(run['arena_bytes'] for run in ran),
        f'{max(entry["cost"]["instructions"] for entry in entries) / 1e6:.1f}',
        f'{differing} of {windows}',
        f'{1 - differing / windows:.2%}',
        *(f'{column.mean():.1f} +- {column.std(ddof=1):.1f}' for column in (trained, uar)),
        f'{np.mean(snr):.1f} ({min(snr):.1f} to {max(snr):.1f})',
        f'{sum(form in fold["forms"] for fold in folds)} of {len(folds)}',
        str(sum(fold['recommended'] == form for fold in folds)),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('outs', nargs='+', type=Path, metavar='OUT')
    print('| ' + ' | '.join(COLUMNS) + ' |', '|---' * len(COLUMNS) + '|', sep='\n')
    of_recipe = lambda out: out.name.rpartition('_')[0]
    for recipe, outs in itertools.groupby(sorted(parser.parse_args().outs), of_recipe):
        folds = [manifest.read(out) for out in outs]
        for form in manifest.GATED:
            of_form = [fold for fold in folds if 'tflm' in (fold['forms'] | fold['failed']).get(form, {})]
            if len(of_form) > 1:
                print('| ' + ' | '.join(row(recipe, form, of_form)) + ' |')


if __name__ == '__main__':
    main()
