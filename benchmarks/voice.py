"""What it is worth to know a voice: python benchmarks/voice.py RUN... --out FILE.

Scores the last step of trained runs (`train.py --workdir RUN`), so that no checkpoint is chosen, before the model knows
a speaker and after 5, 10, 30 and 60 seconds of its speech: clips of the same speaker and part, without labels, drawn at
random, or drawn from the neutral ones alone, until they hold so much. The clip that is decided is never among them. One
line of JSON a run; a run that is in FILE is left out.
"""

from __future__ import annotations

import argparse
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jax_reparam import checkpoint, evaluation, models
from jax_reparam.data import export_data, pipeline
from jax_reparam.frontend.voice import Profile
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
    frames = np.cumsum(data.features.voice_frames[order])
    wanted = round(1000 * seconds / data.inputs.frontend.hop_ms)
    return data.profile(order[: int(np.searchsorted(frames, wanted)) + 1])


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
            row[part][name] = {'uar': scores['uar'], 'nll': scores['nll'], 'decided': decided}
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('runs', nargs='+', type=Path, metavar='RUN')
    parser.add_argument('--out', required=True, type=Path, help='lines are added to this file')
    parser.add_argument('--parts', nargs='+', default=['validation', 'test'], choices=['validation', 'test'])
    parser.add_argument('--seed', type=int, default=0, help='of the drawn histories')
    args = parser.parse_args()
    had = {json.loads(line)['run'] for line in args.out.read_text().splitlines()} if args.out.exists() else set()
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
