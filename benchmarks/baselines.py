"""Classical baselines on our folds: python benchmarks/baselines.py CORPUS --source FOLDER --out LINES.jsonl.

ComParE 2016 functionals (6,373 per clip, by openSMILE) and a linear SVM. C and class weights are chosen by inner folds
that leave out one training speaker each. Features are standardised by the clips that train. Four variants: the SVM
trains on the training speakers of our fold (8 of EMO-DB's 10), or on its validation speaker as well (9); the features
are used as they are, or less the mean of their speaker, which needs no labels but all clips of the speaker ("adapted").

A line for LIGHT-SERNET holds what its authors published. With --costs, each export (a folder of `jax-reparam fold`)
adds a line of what its int8 form costs.

Every fold and variant becomes one line of JSON, as in the file of a study. A variant that is in the file is left out.
Its probabilities are a softmax of the SVM's scores and are not calibrated: no cross-entropy is made of them.

Needs the extra `baselines`. openSMILE is under audEERING's research licence, which does not allow commercial use; no
file of it is part of this package.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import time
from pathlib import Path
from typing import Any

import numpy as np

from jax_reparam import evaluation, manifest, system
from jax_reparam.config import load_recipe
from jax_reparam.corpora import Corpus
from jax_reparam.data import pipeline
from jax_reparam.errors import InputError, run
from jax_reparam.frontend.audio import SAMPLE_RATE
from jax_reparam.progress import Progress
from jax_reparam.study import statistics, training
from jax_reparam.study.evidence import BASELINE, COST, PUBLISHED
from jax_reparam.study.planning import Lines

FEATURES = 'ComParE_2016'
# From what hardly learns to what separates all training clips.
PENALTIES = tuple(10.0**power for power in range(-6, 0))
WEIGHTS = (None, 'balanced')
RECIPE = 'transformer_xs'  # whose protocol, one and the same for all recipes, gives the folds


# Aftab et al. 2022. Their code leaves one speaker of EMO-DB out, and keeps the best of 300 epochs by the accuracy on
# the clips that are then scored (BestModelWeights).
LIGHT_SERNET = {
    'phase': PUBLISHED,
    'name': 'LIGHT-SERNET',
    'corpus': 'emodb',
    'uar': 0.9415,
    'note': 'leave one speaker out; the best epoch was chosen on the test clips',
    'source': 'arXiv 2110.03435',
}
# Rows, columns, input and output channels of its convolutions, as in its models.py; batch normalisation is folded.
CONVOLUTIONS = (
    *((rows, columns, 1, 32) for rows, columns in ((11, 1), (1, 9), (3, 3))),
    *((3, 3, before, after) for before, after in ((96, 64), (64, 96), (96, 128), (128, 160))),
    (1, 1, 160, 320),
)
LIGHT_SERNET['parameters'] = sum(r * c * i * o + o for r, c, i, o in CONVOLUTIONS) + 320 * 7 + 7


def functionals(corpus: Corpus, cache: Path) -> np.ndarray:
    """The functionals of every clip, `[n, 6373]` float64; kept in a file below `cache`."""
    import opensmile

    path = cache / f'opensmile-{importlib.metadata.version("opensmile")}-{FEATURES}-{corpus.key[:16]}.npy'
    if path.exists():
        return np.asarray(np.load(path))
    smile = opensmile.Smile(opensmile.FeatureSet[FEATURES], opensmile.FeatureLevel.Functionals)
    rows, bar = [], Progress(len(corpus), FEATURES, unit='clip')
    for clip in range(len(corpus)):
        rows.append(smile.process_signal(corpus.audio(clip) / 32768, SAMPLE_RATE).to_numpy(np.float64)[0])
        bar.update()
    bar.close()
    table = np.stack(rows)
    table[~np.isfinite(table)] = 0
    temporary = path.with_suffix('.tmp.npy')
    with system.naming(path):
        np.save(temporary, table)
        temporary.replace(path)
    return table


def without_speakers(table: np.ndarray, speaker: np.ndarray) -> np.ndarray:
    """The table less the mean of each row's speaker."""
    names, who = np.unique(speaker, return_inverse=True)
    means = np.stack([table[who == one].mean(axis=0) for one in range(len(names))])
    return np.asarray(table - means[who])


def scores(
    table: np.ndarray, label: np.ndarray, train: np.ndarray, test: np.ndarray, settings: list[tuple[float, Any]]
) -> list[np.ndarray]:
    """The SVM's scores of the test clips, `[n, C]` over all classes, for each (C, class weights)."""
    from sklearn.svm import SVC

    mean, std = table[train].mean(axis=0), table[train].std(axis=0)
    used = std > 1e-9
    x = (table[:, used] - mean[used]) / std[used]
    kernel = x @ x[train].T
    out = []
    for penalty, weights in settings:
        svm = SVC(C=penalty, kernel='precomputed', class_weight=weights, decision_function_shape='ovr')
        svm.fit(kernel[train], label[train])
        found = svm.decision_function(kernel[test])
        if len(svm.classes_) == 2:
            found = np.stack([-found, found], axis=1)
        every = np.full((len(test), int(label.max()) + 1), -np.inf)
        every[:, svm.classes_] = found
        out.append(every)
    return out


def choose(table: np.ndarray, label: np.ndarray, speaker: np.ndarray, train: np.ndarray) -> tuple[float, Any]:
    """C and class weights with the best pooled UAR over inner folds, each of which leaves out one training speaker."""
    settings = [(penalty, weights) for penalty in PENALTIES for weights in WEIGHTS]
    found = [np.zeros((len(train), int(label.max()) + 1)) for _ in settings]
    for one in np.unique(speaker[train]):
        left_out = speaker[train] == one
        of_settings = scores(table, label, train[~left_out], train[left_out], settings)
        for all_of, mine in zip(found, of_settings, strict=True):
            all_of[left_out] = evaluation.softmax(mine)
    clips = [statistics.Clips(train, speaker[train], label[train], probabilities) for probabilities in found]
    return max(zip(clips, settings, strict=True), key=lambda pair: pair[0].score('uar'))[1]


def cost(out: Path) -> dict[str, Any]:
    """What the int8 form of an export costs; the folder has the name of its recipe.

    Raises:
      InputError: it has no int8 form that TFLM runs.
    """
    found = manifest.load(out)
    form = found.forms.get('int8')
    if not isinstance(form, manifest.Form) or form.tflm is None or form.cost is None:
        raise InputError(f'{out}: expected an int8 form that TFLM runs, found none')
    return {
        'phase': COST,
        'name': out.name,
        'parameters': found.params.folded,
        'bytes': form.bytes,
        'arena': form.tflm.arena_bytes,
        'instructions': form.cost.instructions,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('corpus')
    parser.add_argument('--source', default='', help="the corpus's folder")
    parser.add_argument('--out', required=True, type=Path, help='lines are added to this file')
    parser.add_argument('--costs', nargs='+', type=Path, default=[], metavar='OUT', help='exports, OUT/RECIPE')
    args = parser.parse_args()
    recipe = load_recipe(RECIPE, args.corpus).with_changes({'data.source': args.source})
    lines = Lines(args.out)
    had = {(line['name'], line.get('corpus'), line.get('fold')) for line in lines.read()}
    for out in args.costs:
        if (out.name, None, None) not in had:
            lines.append(cost(out))
    if args.corpus == LIGHT_SERNET['corpus'] and ('LIGHT-SERNET', args.corpus, None) not in had:
        lines.append(LIGHT_SERNET)
    corpus, _ = pipeline.load_split(recipe)
    speaker, label = np.array(corpus.speaker), np.asarray(corpus.label)
    plain = functionals(corpus, pipeline.cache_dir(recipe.data.cache))
    tables = {'': plain, ', adapted': without_speakers(plain, speaker)}
    versions = {name: importlib.metadata.version(name) for name in ('opensmile', 'scikit-learn', 'numpy')}
    for fold in range(pipeline.count_folds(recipe, show_progress=False)):
        _, split = pipeline.load_split(recipe.with_changes({'data.fold': str(fold)}), show_progress=False)
        if split.protocol.unit != 'clip' or 'drawn' in (split.protocol.test, split.protocol.validation):
            raise InputError(
                f'{args.corpus}: expected a protocol that draws nothing and decides by clip, found another'
            )
        for more in (False, True):
            train = np.union1d(split.train, split.validation) if more else split.train
            for adapted, table in tables.items():
                name = f'ComParE and SVM, {len(np.unique(speaker[train]))} speakers{adapted}'
                if (name, corpus.name, fold) in had:
                    continue
                began = time.monotonic()
                penalty, weights = choose(table, label, speaker, train)
                [found] = scores(table, label, train, split.test, [(penalty, weights)])
                probabilities = evaluation.softmax(found)
                line = {
                    'phase': BASELINE,
                    'name': name,
                    'commit': training.commit(),
                    'adapted': bool(adapted),
                    'corpus': corpus.name,
                    'fold': fold,
                    'folds': split.info['folds'],
                    'digests': {'corpus': corpus.key},
                    'labels': list(corpus.labels),
                    'speakers': {
                        'train': sorted(set(speaker[train].tolist())),
                        'test': split.info['test_speakers'],
                    },
                    'C': penalty,
                    'class_weight': weights,
                    'versions': versions,
                    'seconds': round(time.monotonic() - began, 1),
                    'test': {
                        'id': [corpus.id[clip] for clip in split.test],
                        'speaker': speaker[split.test].tolist(),
                        'label': label[split.test].tolist(),
                        'probabilities': probabilities.round(training.DIGITS).tolist(),
                    },
                }
                lines.append(line)
                uar = 100 * statistics.Clips.of([line], 'test').score('uar')
                print(f'fold {fold}, {name}: C {penalty:g}, weights {weights}, UAR {uar:.1f}', flush=True)


if __name__ == '__main__':
    run(main)
