"""The lines of exports are what their manifests say."""

from __future__ import annotations

import runpy

from helpers import ROOT

BENCHMARK = runpy.run_path(str(ROOT / 'benchmarks/exports.py'))


def test_lines_are_those_of_the_manifest(exported):
    found = exported.manifest
    lines = list(BENCHMARK['lines'](exported.path))
    assert [line['form'] for line in lines] == ['int8', 'int16']
    for line in lines:
        form = found.forms[line['form']]
        assert line['windows'] - line['same'] == form.tflm.differing
        assert line['arena_bytes'] == form.tflm.arena_bytes > line['device_arena_bytes'] == form.cost.arena_bytes > 0
        assert (line['recipe'], line['nodes']) == (exported.path.name, sum(form.ops.values()))
