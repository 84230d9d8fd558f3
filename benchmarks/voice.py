"""What it is worth to know a voice: python benchmarks/voice.py RUN... --out FILE.

Scores the last step of trained runs (`train.py --workdir RUN`), so that no checkpoint is chosen, before the model knows
a speaker and after 5, 10, 30 and 60 seconds of its speech: clips of the same speaker and part, without labels, drawn at
random, or drawn from the neutral ones alone, until they hold so much. The clip that is decided is never among them. One
line of JSON a run; a run that is in FILE is left out. Runs lie in ARM/CORPUS-RECIPE-SEED/fold_K: with --against ARM the
lines of FILE become a table of paired differences from that arm without a history, each with its standard error over
folds and seeds.
"""

from __future__ import annotations

import argparse
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jax_reparam import checkpoint, evaluation, models
from jax_reparam.data import export_data, pipeline
from jax_reparam.frontend.voice import Profile
from jax_reparam.table import aligned
from jax_reparam.train import loop

SECONDS = (5, 10, 30, 60)
NEUTRAL = 'neutral'


def last_step(run: Path) -> Path:
    """The checkpoint of a run's last step."""
    steps = [step for step in (run / checkpoint.FOLDER).iterdir() if step.name.isdigit()]
    return max(steps, key=lambda step: int(step.name))


def known(data: pipeline.Data, clip: int, seconds: float, *, neutral: bool, seed: int) -> Profile:
    """What so many seconds of a clip's speaker tell, of its other clips in an order drawn for that clip."""
    others = data.histories(clip)
    if neutral:
        others = others[data.corpus.label[others] == data.corpus.labels.index(NEUTRAL)]
    order = np.random.default_rng((seed, clip)).permutation(others)
    return data.profile(order, round(1000 * seconds / data.inputs.frontend.hop_ms))


def measure(run: Path, parts: list[pipeline.Part], seed: int) -> dict[str, Any]:
    """Scores of one run, by part and history."""
    trained = checkpoint.load(last_step(run))
    data = export_data.load_data(trained, show_progress=False)
    predict = loop.Predictor(models.build(trained.recipe.model, trained.recipe.hrf, n_classes=len(trained.labels)))
    row: dict[str, Any] = {'run': str(run), 'step': trained.step, 'augment': trained.meta['config']['augment']}
    row |= {
        'voice': trained.meta['config']['voice'],
        'seed': trained.recipe.seed,
        'split': trained.meta['split']['fold'],
    }
    for part in parts:
        histories: dict[str, Callable[[int], Profile] | None] = {'none': None}
        for kind in ('random', NEUTRAL) if NEUTRAL in data.corpus.labels else ('random',):
            for seconds in SECONDS:
                how = functools.partial(known, data, seconds=seconds, neutral=kind == NEUTRAL, seed=seed)
                histories[f'{kind} {seconds}'] = how
        row[part] = {'truth': data.truth(part).tolist()}
        for name, history in histories.items():
            scores, probabilities = loop.evaluate(predict, trained.variables, data, part, history)
            decided = evaluation.decisions(probabilities).tolist()
            frames = [0 if history is None else history(int(clip)).frames for clip in data.clips(part)]
            had = data.inputs.seconds(1) * float(np.mean(frames))
            row[part][name] = {'uar': scores['uar'], 'nll': scores['nll'], 'seconds': had, 'decided': decided}
    return row


def place(run: str) -> tuple[str, tuple[str, str]]:
    """The arm of a run, and what its pair in another arm shares: corpus, recipe and seed, and the fold."""
    *_, arm, what, fold = Path(run).parts
    return arm, (what, fold)


def table(rows: Sequence[Mapping[str, Any]], against: str, part: str) -> list[str]:
    """Mean UAR of each arm and history, and its paired difference from `against` without a history."""
    scores: dict[tuple[str, str, str], dict[tuple[str, str], float]] = {}
    for row in rows:
        arm, pair = place(row['run'])
        corpus = pair[0].rpartition('-')[0]
        for name, score in row[part].items():
            if name != 'truth':
                scores.setdefault((corpus, arm, name), {})[pair] = 100 * score['uar']
    lines = [['corpus and recipe', 'arm', 'history', 'runs', 'UAR', f'less {against}', '+-']]
    for (corpus, arm, name), own in sorted(scores.items()):
        base = scores.get((corpus, against, 'none'), {})
        pairs = np.array([own[pair] - base[pair] for pair in own if pair in base])
        error = f'{pairs.std(ddof=1) / np.sqrt(len(pairs)):.1f}' if len(pairs) > 1 else ''
        difference = f'{pairs.mean():+.1f}' if len(pairs) else ''
        lines.append([corpus, arm, name, str(len(own)), f'{np.mean(list(own.values())):.1f}', difference, error])
    return aligned(lines, left=(0, 1, 2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('runs', nargs='*', type=Path, metavar='RUN')
    parser.add_argument('--out', required=True, type=Path, help='lines are added to this file')
    parser.add_argument('--parts', nargs='+', default=['validation', 'test'], choices=['validation', 'test'])
    parser.add_argument('--seed', type=int, default=0, help='of the drawn histories')
    parser.add_argument('--against', metavar='ARM', help='print the lines of FILE as a table')
    args = parser.parse_args()
    lines = [json.loads(line) for line in args.out.read_text().splitlines()] if args.out.exists() else []
    if args.against:
        for part in args.parts:
            print(part, *table([line for line in lines if part in line], args.against, part), sep='\n')
    had = {line['run'] for line in lines}
    for run in args.runs:
        if str(run) in had:
            continue
        row = measure(run, args.parts, args.seed)
        with args.out.open('a') as file:
            file.write(json.dumps(row) + '\n')
        shown = {name: f'{100 * score["uar"]:.1f}' for name, score in row[args.parts[-1]].items() if name != 'truth'}
        print(run, shown, flush=True)


if __name__ == '__main__':
    main()
