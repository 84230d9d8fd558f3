"""What 50 clips of one's own give, from the packaged model and from nothing: python benchmarks/own_clips.py RAVDESS.

RAVDESS stands for the user's recordings: another language than the packaged model's, other speakers and microphones,
other labels. Four times, four speakers give 50 clips, labels as even as can be; no speaker gives twice. The model is
tested on all clips of the other twenty. Nothing is chosen by these numbers: settings are those of the guide. One line
of JSON a run; a run that is in FILE is left out. Then a table: means over the four and 95 % t-intervals, of each arm
whose runs are all there. The test sets overlap, so an interval says how much the 50 clips decide, and less how much the
speakers do.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from jax_reparam import checkpoint, config, fit, models
from jax_reparam.data import pipeline
from jax_reparam.errors import run
from jax_reparam.table import aligned
from jax_reparam.train import loop

CLIPS, DRAWS, SPEAKERS = 50, 4, 4
# Of Student's t with three degrees of freedom.
T_95 = 3.182
# By name: what is trained from, and for how many steps.
ARMS = {'emodb_xs, 300 steps': ('emodb_xs', 300), 'nothing, 300 steps': ('', 300), 'nothing, 1000 steps': ('', 1000)}
FIRST = next(iter(ARMS))


def alphabetical(data: pipeline.Data) -> pipeline.Data:
    """The data with labels in the order that a folder of the user's has."""
    order = np.argsort(data.corpus.labels)
    labels = tuple(data.corpus.labels[place] for place in order)
    corpus = dataclasses.replace(data.corpus, labels=labels, label=np.argsort(order)[data.corpus.label])
    return dataclasses.replace(data, corpus=corpus)


def drawn(data: pipeline.Data, draw: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the clips that a user has, and of those of the speakers who are not among them."""
    corpus = data.corpus
    order = np.random.default_rng(0).permutation(sorted(set(corpus.speaker)))
    own = np.isin(corpus.speaker, order[SPEAKERS * draw : SPEAKERS * (draw + 1)])
    rng = np.random.default_rng([1, draw])
    clips = rng.permutation(np.flatnonzero(own))
    # One clip of each label in turn.
    turn = np.zeros(len(clips), int)
    for label in range(len(corpus.labels)):
        of_label = corpus.label[clips] == label
        turn[of_label] = np.arange(of_label.sum())
    chosen = clips[np.argsort(turn, kind='stable')][:CLIPS]
    return np.sort(chosen), np.flatnonzero(~own)


def measure(data: pipeline.Data, source: Path, draw: int, init: str, steps: int) -> dict[str, Any]:
    """Trains on the clips of a draw, and scores the model on the others' clips."""
    own, others = drawn(data, draw)
    files = {path.stem: path for path in source.rglob('*') if path.is_file()}
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / 'clips.csv'
        with table.open('w', newline='') as file:
            rows = csv.writer(file)
            rows.writerow(['path', 'label', 'speaker'])
            for clip in own:
                corpus = data.corpus
                rows.writerow(
                    [files[Path(corpus.id[clip]).stem], corpus.labels[corpus.label[clip]], corpus.speaker[clip]]
                )
        changes = {
            'data.source': str(table),
            'data.cache': str(Path(folder) / 'cache'),
            'data.protocol': config.ALL,
            'train.init': init,
            'train.steps': steps,
            'train.eval_every': steps,
            'seed': draw,
        }
        fit('configs/transformer_xs.py:folder', Path(folder) / 'w', changes=changes, show_progress=False)
        trained = checkpoint.load(Path(folder) / 'w')
    assert trained.labels == data.corpus.labels
    split = dataclasses.replace(data.split, train=own, validation=own[:0], test=others)
    tested = dataclasses.replace(data, split=split, inputs=trained.inputs)
    predict = loop.Predictor(models.build(trained.recipe.model, trained.recipe.hrf, n_classes=len(trained.labels)))
    metrics, _ = loop.evaluate(predict, trained.variables, tested, 'test')
    speakers = sorted({data.corpus.speaker[clip] for clip in own})
    return {'uar': metrics['uar'], 'clips': metrics['clips'], 'trained': len(own), 'speakers': speakers}


def rows(lines: list[dict[str, Any]]) -> list[list[str]]:
    """The table, a row for each arm that has all draws."""
    cells = [['start', 'UAR %', '95 %', 'less than the first', '95 %']]
    own = {arm: {line['draw']: 100 * line['uar'] for line in lines if line['arm'] == arm} for arm in ARMS}
    whole = {arm: np.array([of[draw] for draw in range(DRAWS)]) for arm, of in own.items() if len(of) == DRAWS}
    for arm, uar in whole.items():
        cells.append([arm, *interval(uar), *(interval(whole[FIRST] - uar) if arm != FIRST else ('', ''))])
    return cells


def interval(values: np.ndarray) -> tuple[str, str]:
    """The mean of some values, and its 95 % t-interval."""
    mean, half = values.mean(), T_95 * values.std(ddof=1) / np.sqrt(len(values))
    return f'{mean:.1f}', f'{mean - half:.1f} to {mean + half:.1f}'


def main() -> int:
    """Measures what is not in FILE, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('ravdess', type=Path, metavar='RAVDESS', help='the folder of the corpus')
    parser.add_argument('--out', type=Path, default=Path('benchmarks/results/own_clips.jsonl'), metavar='FILE')
    args = parser.parse_args()
    logging.set_verbosity(logging.FATAL)
    recipe = config.load_recipe('configs/transformer_xs.py', 'ravdess').with_changes({'data.source': str(args.ravdess)})
    data = alphabetical(pipeline.load_data(recipe))
    lines = [json.loads(line) for line in args.out.read_text().splitlines()] if args.out.exists() else []
    for arm, (init, steps) in ARMS.items():
        for draw in range(DRAWS):
            if not any((line['arm'], line['draw']) == (arm, draw) for line in lines):
                lines.append({'arm': arm, 'draw': draw, **measure(data, args.ravdess, draw, init, steps)})
                with args.out.open('a') as file:
                    file.write(json.dumps(lines[-1]) + '\n')
                print(json.dumps(lines[-1]), flush=True)
    print('\n'.join(aligned(rows(lines), left=(0,))))
    return 0


if __name__ == '__main__':
    run(main)
