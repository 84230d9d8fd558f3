"""The evidence page: what the lines of studies and baselines support, recomputed from them alone."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jax_reparam.study import planning, statistics
from jax_reparam.study.planning import Contrast, Line, Lines, Plan, Run
from jax_reparam.study.statistics import Clips, Difference, Score
from jax_reparam.train import report

SCORES: tuple[Score, ...] = ('uar', 'speaker_uar', 'nll')
# Percent where the score is a share.
_SCALE: Mapping[Score, float] = {'uar': 100, 'speaker_uar': 100, 'nll': 1}
_DIGITS: Mapping[Score, int] = {'uar': 1, 'speaker_uar': 1, 'nll': 3}
# Of lines that `benchmarks/baselines.py` writes, beside those of runs.
BASELINE, PUBLISHED, COST = 'baseline', 'published', 'cost'


@dataclasses.dataclass(frozen=True)
class Compared:
    """One row of differences.

    Attributes:
      what: its name.
      score: what differs.
      found: the difference.
      holm: the p-value, adjusted over the primary contrasts; None for an exploratory one.
    """

    what: str
    score: Score
    found: Difference
    holm: float | None = None


@dataclasses.dataclass(frozen=True)
class Section:
    """What a plan's lines say of one recipe, corpus and kind of device.

    Attributes:
      plan: the study.
      which: recipe and corpus.
      device: that the runs were trained on.
      done: lines of all runs, by identity.
      baselines: the baselines' lines of the corpus.
    """

    plan: Plan
    which: tuple[str, str]
    device: str
    done: Mapping[str, Line]
    baselines: Sequence[Line]

    @functools.cached_property
    def speakers(self) -> dict[int, list[str]]:
        """The test speakers of each fold, as far as lines name them."""
        mine = [line for line in self.done.values() if (line['name'], line['corpus']) == self.which]
        speakers: dict[int, list[str]] = {fold: [] for line in mine for fold in range(line['folds'])}
        return speakers | {line['fold']: line['speakers']['test'] for line in mine}

    @functools.cached_property
    def tuning(self) -> list[Run]:
        """The planned tuning runs."""
        return list(self.plan.tuning(self.which, tuple(self.speakers)))

    @functools.cached_property
    def compared(self) -> list[Run | None]:
        """The planned runs of the chosen arms; None where none can be chosen yet."""
        return list(self.plan.compared(self.which, self.speakers, self.done))

    def seeds(self, *families: str) -> list[int]:
        """The seeds of which every fold of some families has a line that did not fail."""
        whole = set(self.plan.study.seeds)
        for run in self.compared:
            if run is None:
                return []
            if run.family in families and 'failed' in self.done.get(run.identity, {'failed': ''}):
                whole.discard(run.seed)
        return sorted(whole)

    def clips(self, family: str, seed: int) -> Clips:
        """The test clips of all folds of a family, by one seed."""
        runs = [run for run in self.compared if run and (run.family, run.seed) == (family, seed)]
        return Clips.of([self.done[run.identity] for run in runs], 'test')

    def paired(self, contrast: Contrast, seeds: Sequence[int], score: Score) -> np.ndarray:
        """The table of a contrast (`statistics.cells`)."""
        ours, theirs = ([self.clips(name, seed) for seed in seeds] for name in (contrast.family, contrast.less))
        return statistics.cells(ours, theirs, score)

    @functools.cached_property
    def differences(self) -> list[Compared]:
        """All contrasts, then each family less each baseline that, like ours, knows nothing of a test speaker."""
        declared = self.plan.study.contrasts
        tables: dict[Contrast, dict[Score, list[np.ndarray]]] = {}
        for contrast in declared:
            if seeds := self.seeds(contrast.family, contrast.less):
                tables[contrast] = {score: [self.paired(contrast, seeds, score)] for score in SCORES}
        rows = compare(declared, tables)
        for family in self.plan.study.families:
            for name, theirs in whole([line for line in self.baselines if not line['adapted']]).items():
                if seeds := self.seeds(family):
                    ours = [self.clips(family, seed) for seed in seeds]
                    for score in SCORES[:2]:
                        table = statistics.cells(ours, [theirs] * len(seeds), score)
                        rows.append(Compared(f'{family} - {name}', score, statistics.difference([table])))
        return rows


def compare(
    declared: Sequence[Contrast], tables: Mapping[Contrast, Mapping[Score, Sequence[np.ndarray]]]
) -> list[Compared]:
    """The differences of the declared contrasts that there are tables of (`statistics.difference`)."""
    primary = [contrast for contrast in declared if contrast.phase == 'primary']
    level = 1 - (1 - statistics.LEVEL) / max(1, len(primary))
    found = {
        (contrast, score): statistics.difference(several, level if contrast in primary else statistics.LEVEL)
        for contrast, of_score in tables.items()
        for score, several in of_score.items()
    }
    adjusted: dict[tuple[Contrast, Score], float] = {}
    for score in SCORES:
        # Of a contrast that is not there yet, the worst.
        p = [found[contrast, score].p if contrast in tables else 1.0 for contrast in primary]
        adjusted |= {(contrast, score): q for contrast, q in zip(primary, statistics.holm(p), strict=True)}
    return [
        Compared(f'{contrast.family} - {contrast.less}', score, one, adjusted.get((contrast, score)))
        for (contrast, score), one in found.items()
    ]


def pooled(sections: Sequence[Section]) -> list[Compared]:
    """The contrasts over all recipes and corpora of one kind of device; none where there is only one of them.

    Recipes of one corpus share its speakers, so they are averaged first, over the seeds that all of them have.
    """
    declared = list(dict.fromkeys(one for section in sections for one in section.plan.study.contrasts))
    tables: dict[Contrast, dict[Score, list[np.ndarray]]] = {}
    for contrast in declared:
        had: dict[str, list[Section]] = {}
        for section in sections:
            if contrast in section.plan.study.contrasts and section.seeds(contrast.family, contrast.less):
                had.setdefault(section.which[1], []).append(section)
        common = {
            corpus: sorted(set.intersection(*(set(one.seeds(contrast.family, contrast.less)) for one in of)))
            for corpus, of in had.items()
        }
        if sum(map(len, had.values())) > 1 and all(common.values()):
            tables[contrast] = {
                score: [
                    np.mean([one.paired(contrast, common[corpus], score) for one in of], axis=0)
                    for corpus, of in had.items()
                ]
                for score in SCORES
            }
    return compare(declared, tables)


def whole(baselines: Sequence[Line]) -> dict[str, Clips]:
    """The test clips of each baseline of one corpus that has all folds, by name."""
    found: dict[str, Clips] = {}
    for name in dict.fromkeys(line['name'] for line in baselines):
        lines = [line for line in baselines if line['name'] == name]
        if {line['fold'] for line in lines} == set(range(lines[0]['folds'])):
            found[name] = Clips.of(lines, 'test')
    return found


def sections(plans: Sequence[Plan]) -> Iterator[Section]:
    """Of every plan, recipe, corpus and kind of device that there are lines of."""
    for plan in plans:
        lines = Lines(plan.lines)
        baselines = Lines(plan.baselines).read() if plan.baselines else []
        for which in plan.recipes:
            mine = [line for line in lines.read() if (line.get('name'), line.get('corpus')) == which]
            of_corpus = [line for line in baselines if line['phase'] == BASELINE and line['corpus'] == which[1]]
            for device in dict.fromkeys(line['device'] for line in mine):
                yield Section(plan, which, device, lines.done(device), of_corpus)


def write(page: Path, plans: Sequence[Plan]) -> None:
    """Writes the page, and its two figures beside it.

    Raises:
      InputError: a file of results that is none.
    """
    found = list(sections(plans))
    page.parent.mkdir(parents=True, exist_ok=True)
    drawn = {name: figure for name, figure in figures(page, found).items() if figure}
    for name, figure in drawn.items():
        report.write(page.with_name(name), figure)
    report.write(page, text(page, plans, found, list(drawn)))


def figures(page: Path, found: Sequence[Section]) -> dict[str, str]:
    """The page's figures as SVG, by the name of their file; '' where there is nothing to draw."""
    return {f'{page.stem}_differences.svg': _forest(found), f'{page.stem}_size.svg': _size(found)}


def text(page: Path, plans: Sequence[Plan], found: Sequence[Section], drawn: Sequence[str]) -> str:
    """The page's text, which holds every number."""
    files = ' '.join(_from(Path('x'), plan.path) for plan in plans)
    paths = (path for plan in plans for path in (plan.lines, plan.baselines, plan.diagnostics))
    results = dict.fromkeys(path for path in paths if path and path.exists())
    rows = [
        [f'[{path.name}]({_from(page, path)})', str(len(path.read_text().splitlines())), _sha(path)] for path in results
    ]
    out = [
        '# Evidence',
        '',
        'This page is generated. A test regenerates it from the result files below and fails if they differ.',
        '',
        '```sh hours',
        f'jax-reparam study {files} --page {_from(Path("x"), page)}',
        '```',
        '',
        *_table(['result file', 'lines', 'SHA-256'], rows),
        '',
    ]
    titles = {f'{page.stem}_differences.svg': 'Paired differences', f'{page.stem}_size.svg': 'UAR against parameters'}
    for name in drawn:
        out += [f'![{titles[name]}]({name})', '']
    out += _beside(plans, found)
    for device in dict.fromkeys(section.device for section in found):
        mine = [section for section in found if section.device == device]
        if differences := pooled(mine):
            over = ', '.join(f'`{recipe}` on {corpus}' for recipe, corpus in (section.which for section in mine))
            out += [
                f'## Over all recipes and corpora ({device})',
                '',
                f'Over {over}.',
                '',
                *_differences(differences, 'uar'),
            ]
    for plan in plans:
        mine = [section for section in found if section.plan is plan]
        out += [f'## {plan.path.stem}', '', *_declared(plan, page)]
        for section in mine:
            out += _section(section)
        for which in plan.recipes:
            if which not in [section.which for section in mine]:
                out += [f'`{which[0]}` on {which[1]}: no run is done yet.', '']
    for path in dict.fromkeys(plan.diagnostics for plan in plans if plan.diagnostics):
        out += _diagnostics(page, path)
    out += _methods()
    return '\n'.join(out).rstrip() + '\n'


def _beside(plans: Sequence[Plan], found: Sequence[Section]) -> list[str]:
    """Ours and others in one table: accuracy, and what it costs on a device."""
    lines = [
        line
        for path in dict.fromkeys(plan.baselines for plan in plans if plan.baselines)
        for line in Lines(path).read()
    ]
    costs = {line['name']: line for line in lines if line['phase'] == COST}
    rows = []
    for section in found:
        for family in section.plan.study.families:
            if seeds := section.seeds(family):
                clips = [section.clips(family, seed) for seed in seeds]
                cost = costs.get(section.which[0])
                shown = (
                    [f'{cost[key]:,}' for key in ('parameters', 'bytes', 'arena', 'instructions')] if cost else [''] * 4
                )
                uar = [_spread([one.score(score) for one in clips], score) for score in SCORES[:2]]
                rows.append([f'`{section.which[0]}`, {family}', section.which[1], *uar, *shown, ''])
    for corpus in dict.fromkeys(line['corpus'] for line in lines if 'corpus' in line):
        of = [line for line in lines if line['phase'] == BASELINE and line['corpus'] == corpus]
        for name, one in whole(of).items():
            rows.append([name, corpus, *(_spread([one.score(score)], score) for score in SCORES[:2]), *[''] * 5])
        for line in lines:
            if line['phase'] == PUBLISHED and line['corpus'] == corpus:
                note = f'published: {line["note"]} ({line["source"]})'
                size = [f'{line["parameters"]:,}', '', '', '']
                rows.append([line['name'], corpus, f'{100 * line["uar"]:.1f}', '', *size, note])
    if not rows:
        return []
    head = ['model', 'corpus', 'UAR', 'UAR by speaker', 'parameters', 'int8 bytes', 'arena', 'instructions', 'note']
    return ['## Ours and others', '', *_table(head, rows), '']


def _diagnostics(page: Path, path: Path) -> list[str]:
    """What HRF does to a layer, by one run of each arm."""
    told, *lines = [json.loads(text) for text in path.read_text().splitlines()]
    steps = {(line['arm'], line['site'], line['step']): line for line in lines if 'site' in line}
    sites, last = list(dict.fromkeys(site for _, site, _ in steps)), max(step for *_, step in steps)
    moved = {where: line['move'] / line['weight'] for where, line in steps.items()}
    # At the last step the rate is 0, and nothing moves.
    ratios = [moved['hrf', *at] / moved['plain', *at] for arm, *at in steps if arm == 'plain' and at[1] < last]
    cosines = [line['cosine'] for (arm, _, step), line in steps.items() if arm == 'hrf' and step < last]
    spread = lambda values: f'{min(values):.2f} to {max(values):.2f}, median {np.median(values):.2f}'
    at_end = lambda arm, key: ', '.join(f'{steps[arm, site, last][key]:.1f}' for site in sites)
    along = {line['t']: line for line in lines if 't' in line}
    rows = [['update over weight, as a multiple of plain\'s', '1', spread(ratios)],
            ['cosine of the update with a step of AdamW on a plain kernel', '1', spread(cosines)],
            [f'stable rank at step {last:,}, by site', at_end('plain', 'stable_rank'), at_end('hrf', 'stable_rank')],
            *([f'condition of {key[-1].upper()} at step {last:,}, by site', '', at_end('hrf', key)]
              for key in ('condition_u', 'condition_v')),
            *([f'cross-entropy on the {part} speakers', f'{along[0.0][key]:.3f}', f'{along[1.0][key]:.3f}']
              for part, key in (('training', 'train'), ('validation', 'validation')))]  # fmt: skip
    barriers = []
    for part, key in (('training', 'train'), ('validation', 'validation')):
        between = max(line[key] for t, line in along.items() if 0 <= t <= 1)
        barriers.append(f'{between - max(along[0.0][key], along[1.0][key]):.3f} on the {part} speakers')
    return [
        '## What HRF does to a layer',
        '',
        f'One run of each arm (`{told["config"]}`, fold {told["fold"]}, seed {told["seed"]}): both begin as one '
        'function and see the same batches. So nothing here is a result on accuracy. '
        f'[The figure]({_from(page, path.with_suffix(".svg"))}) has all steps.',
        '',
        f'Sites: {", ".join(f"`{site}`" for site in sites)}. Updates are those before step {last:,}.',
        '',
        *_table(['', 'plain', 'HRF'], rows),
        '',
        'On the line from plain to folded HRF the cross-entropy exceeds that of the higher end by '
        f'{" and ".join(barriers)}.',
        '',
    ]


def _methods() -> list[str]:
    return [
        '## How to read it',
        '',
        '- **Runs.** The random key of a run is a hash of its seed and fold. It is equal in all families. '
        'Every run is scored at its last step.',
        '- **UAR** is the mean of the recalls. They are pooled over the test clips of all folds. '
        'The second UAR is a mean over speakers.',
        '- **Intervals** treat speakers and seeds as crossed random effects, with degrees of freedom by Satterthwaite. '
        'Primary contrasts share one error rate of 5 %. All others are exploratory, with 95 % each.',
        '- **p** is the p-value of the t-test. *Holm* adjusts it over the primary contrasts. '
        '*Sign flips* is the exact test that flips the signs of the speakers.',
        '- **Over all recipes and corpora**, corpora weigh alike. Recipes of one corpus share its speakers and are '
        'averaged first.',
        '- **Folds share training speakers.** No interval counts the dependence that follows.',
        '- **Tuning.** The arm for a test speaker is chosen on tuning folds that do not validate on that speaker.',
    ]


def _declared(plan: Plan, page: Path) -> list[str]:
    told = plan.study
    number = len(next(iter(told.families.values())).arms)
    arms = f', {number} arms each' if number > 1 else ''
    return [
        f'The study is declared in [{plan.path.name}]({_from(page, plan.path)}): '
        f'families {", ".join(told.families)}{arms}; {len(told.seeds)} seeds; '
        f'endpoint {statistics.NAMES[told.endpoint]}.',
        '',
    ]


def _section(section: Section) -> list[str]:
    told = section.plan.study
    tuning, compared = section.tuning, section.compared
    out = [f'### `{section.which[0]}` on {section.which[1]} ({section.device})', '']
    rows = []
    # Where no arm is chosen yet.
    open_phase = min((family.phase for family in told.families.values()), key=planning.PHASES.index)
    for phase in planning.PHASES:
        runs: list[Run | None] = list(tuning) if phase == 'tuning' else []
        if phase != 'tuning':
            runs = [run for run in compared if (run.phase if run else open_phase) == phase]
        lines = [section.done.get(run.identity) if run else None for run in runs]
        had = [line for line in lines if line]
        if runs:
            failed = sum('failed' in line for line in had)
            rows.append([phase, str(len(runs)), str(len(had) - failed), str(failed), str(len(runs) - len(had))])
    out += [*_table(['phase', 'planned', 'run', 'failed', 'not run'], rows), '']
    planned = {run.identity for run in (*tuning, *compared) if run}
    mine = [key for key, line in section.done.items() if (line['name'], line['corpus']) == section.which]
    if left := len(set(mine) - planned):
        out += [f'{left} more runs are in the result file and not in the plan.', '']
    trained = Counter((section.done[run]['commit'], section.done[run]['precision']) for run in mine)
    rows = []
    for (commit, precision), number in sorted(trained.items()):
        # Ten digits of a commit name it, whatever is behind all forty.
        rows.append([f'`{commit[:10]}`', 'uncommitted changes' if commit[40:] else '', precision, str(number)])
    out += [*_table(['trained at commit', 'with', 'precision of products', 'runs'], rows), '']
    if told.tuning:
        out += _tuned(section, tuning)
    rows = []
    for name in told.families:
        if seeds := section.seeds(name):
            clips = [section.clips(name, seed) for seed in seeds]
            runs = [run for run in compared if run and run.family == name and run.identity in section.done]
            some = [section.done[run.identity] for run in runs if run and run.seed in seeds]
            scores = [_spread([one.score(score) for one in clips], score) for score in SCORES]
            clipped = f'{100 * np.mean([line["clipped"] for line in some]):.0f} %'
            loss = f'{np.mean([line["loss"] for line in some]):.3f}'
            rows.append([name, *scores, f'{some[0]["parameters"]:,}', str(len(seeds)), loss, clipped])
    if rows:
        head = ['family', 'UAR', 'UAR by speaker', 'cross-entropy', 'parameters', 'seeds', 'last loss', 'clipped steps']
        out += [*_table(head, rows), '']
    out += _differences(section.differences, told.endpoint)
    out += _detectable(section)
    return out


def _differences(differences: Sequence[Compared], endpoint: Score) -> list[str]:
    """A table of differences, and what each says of the endpoint."""
    if not differences:
        return []
    head = ['difference', 'score', 'mean', 'interval', 'level', 'df', 'p', 'Holm', 'sign flips']
    rows = []
    for one in differences:
        found, form = one.found, f'+.{_DIGITS[one.score]}f'
        mean, low, high = (f'{_SCALE[one.score] * value:{form}}' for value in (found.mean, found.low, found.high))
        rows.append([
            one.what,
            statistics.NAMES[one.score],
            mean,
            f'{low} to {high}',
            f'{100 * found.level:g} %',
            f'{found.freedom:.1f}',
            f'{found.p:.3f}',
            '' if one.holm is None else f'{one.holm:.3f}',
            f'{found.p_flips:.3f}',
        ])  # fmt: skip
    return [*_table(head, rows), '', *(f'- {verdict(one)}' for one in differences if one.score == endpoint), '']


def verdict(one: Compared) -> str:
    """One sentence on a difference."""
    ours, theirs = one.what.split(' - ')
    found, scale, digits, sign = one.found, _SCALE[one.score], _DIGITS[one.score], statistics.better(1, one.score)
    low, high = sorted((sign * scale * found.low, sign * scale * found.high))
    kind = '' if one.holm is not None else ' (exploratory)'
    unit = ' points' if scale == 100 else ''
    if low > 0:
        return f'{ours} gains over {theirs}: at least {low:.{digits}f}{unit}{kind}.'
    if high < 0:
        return f'{ours} loses to {theirs}: at least {-high:.{digits}f}{unit}{kind}.'
    return (
        f'{ours} shows no gain over {theirs}: the interval excludes gains above {high:.{digits}f}{unit} '
        f'and losses above {-low:.{digits}f}{unit}{kind}.'
    )


def _detectable(section: Section) -> list[str]:
    told = section.plan.study
    pilot, out = told.seeds[: told.pilot], []
    primary = [contrast for contrast in told.contrasts if contrast.phase == 'primary']
    for contrast in primary:
        if told.pilot > 1 and set(pilot) <= set(section.seeds(contrast.family, contrast.less)):
            level = 1 - (1 - statistics.LEVEL) / len(primary)
            table = section.paired(contrast, pilot, told.endpoint)
            least = _SCALE[told.endpoint] * statistics.detectable(table, len(told.seeds), level)
            out.append(
                f'- By the first {len(pilot)} seeds, {len(told.seeds)} seeds detect a difference {contrast.family} - '
                f'{contrast.less} of {least:.{_DIGITS[told.endpoint]}f} with 80 % power.'
            )
    return [*out, ''] if out else []


def _tuned(section: Section, tuning: Sequence[Run]) -> list[str]:
    told = section.plan.study
    assert told.tuning is not None
    chosen = [(run.family, run.arm) for run in section.compared if run and run.seed == told.seeds[0]]
    rows, edges = [], []
    for name, family in told.families.items():
        scored = []
        for arm in family.arms:
            lines = [section.done.get(run.identity) for run in tuning if (run.family, run.arm) == (name, arm)]
            had = [line for line in lines if line and 'failed' not in line]
            shown = ['', '']
            if had and len(had) == len(lines):
                clips = Clips.of(had, 'validation')
                shown = [_spread([clips.score(score)], score) for score in ('uar', 'nll')]
                scored.append((statistics.better(clips.score(told.tuning.choose), told.tuning.choose), arm))
            picked = sum(one == (name, arm) for one in chosen)
            rows.append([name, _keys(arm), *shown, f'{len(had)} of {len(lines)}', str(picked)])
        if len(scored) == len(family.arms):
            best = max(scored, key=lambda one: one[0])[1]
            for key in best:
                values = sorted({arm[key] for arm in family.arms if key in arm})
                if len(values) > 1 and best[key] in (values[0], values[-1]):
                    edges.append(f'- The best arm of {name} lies at the edge of its values of `{key}` ({best[key]}).')
    head = ['family', 'arm', 'validation UAR', 'cross-entropy', 'tuning runs', 'folds that choose it']
    return [*_table(head, rows), '', *(edges and [*edges, ''])]


def _keys(arm: Mapping[str, Any]) -> str:
    said = (f'`{key}={value:g}`' if isinstance(value, float) else f'`{key}={value}`' for key, value in arm.items())
    return ', '.join(said) or 'nothing changed'


def _spread(values: Sequence[float], score: Score) -> str:
    """The mean, and where there are several values, their standard deviation."""
    scaled, digits = _SCALE[score] * np.array(values), _DIGITS[score]
    deviation = f' (sd {scaled.std(ddof=1):.{digits}f})' if len(values) > 1 else ''
    return f'{scaled.mean():.{digits}f}{deviation}'


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return ['| ' + ' | '.join(row) + ' |' for row in (head, ['---'] * len(head), *rows)]


def _sha(path: Path) -> str:
    return f'`{hashlib.sha256(path.read_bytes()).hexdigest()[:16]}`'


def _from(page: Path, path: Path) -> str:
    """A path as a page links to it."""
    return Path(os.path.relpath(path, page.parent)).as_posix()


def _forest(found: Sequence[Section]) -> str:
    """Differences in UAR with their intervals, as SVG; '' where there are none."""
    rows = [
        (f'{one.what}\n{section.which[0]}, {section.which[1]}', one)
        for section in found
        for one in section.differences
        if one.score == 'uar'
    ]
    if not rows:
        return ''

    def draw(axis: Any) -> None:
        for place, (_, one) in enumerate(rows):
            colour = 'C7' if one.holm is None else 'C0'
            mean, low, high = (100 * value for value in (one.found.mean, one.found.low, one.found.high))
            axis.plot([low, high], [place, place], color=colour, linewidth=2)
            axis.plot(mean, place, 'o', color=colour)
        axis.axvline(0, color='C7', linewidth=0.8)
        axis.set_yticks(range(len(rows)), [name for name, _ in rows], fontsize=8)
        axis.set_ylim(len(rows) - 0.5, -0.5)
        axis.set_xlabel('difference in UAR, points')
        for colour, name in (('C0', 'primary, adjusted interval'), ('C7', 'exploratory, 95 %')):
            axis.plot([], [], 'o-', color=colour, linewidth=2, label=name)
        axis.legend(frameon=False, fontsize=8, ncols=2, loc='lower left', bbox_to_anchor=(0, 1))

    return _svg((7.5, 1.2 + 0.5 * len(rows)), draw)


def _size(found: Sequence[Section]) -> str:
    """UAR against parameters, as SVG; baselines are lines, which have none."""
    points = []
    for section in found:
        for family in section.plan.study.families:
            if seeds := section.seeds(family):
                uar = 100 * float(np.mean([section.clips(family, seed).score('uar') for seed in seeds]))
                runs = [run for run in section.compared if run and run.family == family]
                points.append((section.done[runs[0].identity]['parameters'], uar, f'{section.which[0]}, {family}'))
    if not points:
        return ''
    levels = {name: 100 * clips.score('uar') for section in found for name, clips in whole(section.baselines).items()}

    def draw(axis: Any) -> None:
        for parameters, uar, name in points:
            axis.plot(parameters, uar, 'o', color='C0')
            axis.annotate(name, (parameters, uar), textcoords='offset points', xytext=(6, 3), fontsize=8)
        for name, uar in levels.items():
            axis.axhline(uar, color='C7', linewidth=0.8)
            axis.annotate(name, (0.99, uar), xycoords=('axes fraction', 'data'), ha='right', va='bottom', fontsize=8)
        axis.set_xscale('log')
        axis.set_xlabel('parameters in training')
        axis.set_ylabel('UAR, %')

    return _svg((6.5, 4), draw)


def _svg(size: tuple[float, float], draw: Callable[[Any], None]) -> str:
    """One drawing as SVG, the same text each time."""
    import matplotlib
    from matplotlib.figure import Figure

    figure, picture = Figure(figsize=size, layout='constrained'), io.StringIO()
    draw(figure.subplots())
    with matplotlib.rc_context({'svg.hashsalt': 'jax_reparam', 'svg.fonttype': 'none'}):
        figure.savefig(picture, format='svg', metadata={'Date': None})
    return picture.getvalue()
