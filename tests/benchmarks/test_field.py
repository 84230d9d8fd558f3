"""The table of the field test over folds."""

from __future__ import annotations

import runpy

from helpers import ROOT

BENCHMARK = runpy.run_path(str(ROOT / 'benchmarks/field.py'))


def line(fold, *rows):
    own = {'skipped': 1, 'uar_before': 0.5, 'uar': 0.4}
    found = [{'change': name, 'clips': clips, 'kept': kept, **own} for name, clips, kept in rows]
    return {'out': f'ravdess-V-tiny_{fold}', 'form': 'int8', 'runtime': 'TFLM', 'part': 'test', 'rows': found}


def test_kept_is_a_share_of_all_clips_and_only_changes_that_were_tried_are_shown():
    lines = [line(0, ('dc', 10, 1.0), ('level-50', 30, 1.0)), line(1, ('level-50', 10, 0.6), ('level-40', 0, None))]
    head, *rows = (row.split() for row in BENCHMARK['table'](lines))
    shown = {row[4]: row[5:] for row in rows}
    assert shown == {
        'level-40': ['1', '0', '1'],
        'level-50': ['2', '40', '2', '90.0', '40.0', '-10.0'],
        'dc': ['1', '10', '1', '100.0', '40.0', '-10.0'],
    }
    assert head[0] == 'recipe'
