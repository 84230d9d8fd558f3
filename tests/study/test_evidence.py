"""The committed page of evidence is what the committed lines give."""

from __future__ import annotations

import re
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


def test_the_readme_says_what_the_page_says():
    """Seeds, difference, level and interval of the first primary contrast, over all recipes where there are several."""
    said = r'(\d+) of (\d+) seeds: (\S+) points of UAR, (\S+) % interval (\S+) to (\S+)\.'
    [(done, planned, *numbers)] = re.findall(said, (ROOT / 'README.md').read_text())
    parts = {part.partition('\n')[0]: part for part in (ROOT / PAGE).read_text().split('\n## ')}
    over = [part for name, part in parts.items() if name.startswith('Over all recipes and corpora')]
    rows = lambda part: [re.split(r' *\| *', line) for line in part.splitlines() if line.startswith('| ')]
    [(mean, interval, level)] = [
        row[3:6] for row in rows([*over, parts['primary']][0]) if row[1:3] == ['hrf - plain', 'UAR']
    ]
    assert numbers == [mean, level.removesuffix(' %'), *interval.split(' to ')]
    found = [row[6] for row in rows(parts['primary']) if row[1] == 'hrf' and len(row) > 8 and row[2][0].isdigit()]
    assert found == [done]
    assert f'; {planned} seeds; ' in parts['primary']
