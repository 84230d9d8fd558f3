"""The committed page of evidence is what the committed lines give."""

from __future__ import annotations

import shlex
from pathlib import Path

from helpers import ROOT
from jax_reparam.commands import study as command
from jax_reparam.study import evidence, planning

PAGE = Path('docs/evidence.md')


def test_the_page_is_that_of_the_lines(monkeypatch):
    monkeypatch.chdir(ROOT)
    shown = PAGE.read_text()
    [made] = [line for line in shown.splitlines() if line.startswith('jax-reparam study ')]
    args = command.parser().parse_args(shlex.split(made)[2:])
    assert args.page == PAGE
    assert sorted(args.files) == sorted(Path('benchmarks/studies').glob('*.toml'))
    plans = [planning.load(path) for path in args.files]
    sections = list(evidence.sections(plans))
    figures = [name for name, figure in evidence.figures(PAGE, sections).items() if figure]
    assert evidence.text(PAGE, plans, sections, figures) == shown
    assert all(PAGE.with_name(name).exists() for name in figures)
    used = {path.resolve() for plan in plans for path in (plan.lines, plan.baselines) if path}
    assert {path.resolve() for path in Path('benchmarks/results').glob('study*.jsonl')} <= used
    assert any(plan.diagnostics for plan in plans)
