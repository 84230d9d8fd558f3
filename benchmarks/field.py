"""The field test over the folds of a recipe, in TFLM: python benchmarks/field.py OUT... --out FILE.

Each OUT is a fold's export (`fold.py`); its test clips (or, to choose by, the clips of --part validation) are changed
in all ways of `field/changes.py` and decided by one form. One line of JSON an OUT; an OUT that is in FILE is left out.
Then one table over all lines of FILE, pooled over the OUTs of a recipe, which are named RECIPE_K: `kept` is the share
of all decisions that stay, UAR the mean over folds. With --changes only the changes named are tried, which saves time.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jax_reparam import checkpoint, manifest, threads
from jax_reparam.data import export_data, pipeline
from jax_reparam.field import robustness
from jax_reparam.field.changes import CHANGES, Change
from jax_reparam.field.recordings import Recordings
from jax_reparam.manifest import CHECKPOINT
from jax_reparam.runtime import litert, tflm
from jax_reparam.table import aligned


def measure(
    out: Path, form: str | None, part: pipeline.Part, *, in_tflm: bool, changes: Sequence[Change] = CHANGES
) -> dict[str, Any]:
    """The rows of one export."""
    exported, name, model = manifest.open_form(out, form)
    data = export_data.load_data(checkpoint.load(out / CHECKPOINT), show_progress=False)
    clips = data.clips(part)
    speaker = [data.corpus.speaker[clip] for clip in clips]
    recordings = Recordings([data.corpus.audio(clip) for clip in clips], data.labels(part), exported.input, speaker)
    workers = threads.cores(len(clips))
    with contextlib.ExitStack() as stack:
        if in_tflm:
            sessions = [stack.enter_context(tflm.started(model)) for _ in range(workers)]
            engines = [{name: robustness.one_by_one(session.run)} for session in sessions]
        else:
            engines = [{name: litert.load(model)} for _ in range(workers)]
        rows = robustness.run(engines, recordings, exported.labels, changes=changes)
    return {
        'out': str(out),
        'form': name,
        'part': part,
        'runtime': 'TFLM' if in_tflm else 'LiteRT',
        'step': exported.step,
        'rows': [dataclasses.asdict(row) for row in rows],
    }


def table(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """The changes of each recipe, pooled over its folds."""
    cells = [
        ['recipe', 'form', 'change', 'folds', 'clips', 'skipped', 'kept %', 'UAR %', 'points', 'published', 'passed']
    ]
    of_recipe: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for line in lines:
        recipe, how = Path(line['out']).name.rpartition('_')[0], f'{line["form"]}, {line["runtime"]}, {line["part"]}'
        of_recipe.setdefault((recipe, how), []).append(line)
    for (recipe, form), outs in sorted(of_recipe.items()):
        for change in CHANGES:
            rows = [row for out in outs for row in out['rows'] if row['change'] == change.name]
            if not rows:
                continue
            used = [row for row in rows if row['clips']]
            clips, skipped = (sum(row[name] for row in rows) for name in ('clips', 'skipped'))
            found = [recipe, form, change.name, str(len(rows)), str(clips), str(skipped)]
            if used:
                kept = sum(row['kept'] * row['clips'] for row in used) / clips
                uar, before = (np.mean([row[name] for row in used]) for name in ('uar', 'uar_before'))
                found += [f'{100 * kept:.1f}', f'{100 * uar:.1f}', f'{100 * (uar - before):+.1f}']
                if change.keep is not None:
                    loss = change.uar_loss if change.uar_loss is not None else np.inf
                    asked = '' if change.uar_loss is None else f', {-100 * change.uar_loss:.0f}'
                    passed = kept >= change.keep and before - uar <= loss + 1e-9
                    found += [f'{100 * change.keep:.0f}{asked}', 'yes' if passed else 'no']
            cells.append(found + [''] * (len(cells[0]) - len(found)))
    return aligned(cells, left=(0, 1, 2, 9, 10))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('outs', nargs='*', type=Path, metavar='OUT')
    parser.add_argument('--out', required=True, type=Path, metavar='FILE', help='lines are added to this file')
    parser.add_argument('--form', choices=list(manifest.QUANTISED), default='int8')
    parser.add_argument('--part', choices=['validation', 'test'], default='test')
    parser.add_argument('--litert', action='store_true', help='run in LiteRT instead of TFLM')
    parser.add_argument('--changes', nargs='+', choices=[change.name for change in CHANGES], metavar='CHANGE')
    args = parser.parse_args()
    changes = [change for change in CHANGES if args.changes is None or change.name in args.changes]
    lines = [json.loads(line) for line in args.out.read_text().splitlines()] if args.out.exists() else []
    had = {(line['out'], line['form'], line['part']) for line in lines}
    for out in args.outs:
        if (str(out), args.form, args.part) in had:
            continue
        lines.append(measure(out, args.form, args.part, in_tflm=not args.litert, changes=changes))
        with args.out.open('a') as file:
            file.write(json.dumps(lines[-1]) + '\n')
    print('\n'.join(table(lines)))


if __name__ == '__main__':
    main()
