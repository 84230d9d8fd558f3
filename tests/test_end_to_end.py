"""The paper's protocols, from a copy of the corpus to decisions: all folds, folding, and participants of DAIC-WOZ."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import soundfile

import trees
from helpers import QUICK, recipe
from jax_reparam import checkpoint
from jax_reparam.commands import predict
from jax_reparam.data import export_data, pipeline
from jax_reparam.export import folding
from jax_reparam.runtime import litert
from jax_reparam.train import loop

pytestmark = pytest.mark.slow


def trained(name, source, root):
    """Trains all folds of the corpus's protocol; returns the recipe and the result."""
    data = {'data__corpus': name, 'data__fold': 'all', 'data__accept_mismatch': True}
    short = {'train__steps': 4, 'train__eval_every': 4, 'train__class_weights': False}
    config = recipe(source, root / 'cache', **data, **short, **QUICK)
    return config, loop.train_folds(config, root / 'w', show_progress=False)


def load(config, fold):
    return pipeline.load_data(config.with_changes({'data.fold': str(fold)}), show_progress=False)


def folds_exactly(config, workdir):
    """Whether the folded model of a fold decides on its test windows as the trained one did."""
    found = checkpoint.load(workdir)
    test = export_data.of_part(load(config, found.recipe.data.fold), 'test', None)
    _, entry = folding.compare(found, folding.fold(found), test.features)
    return entry.max_abs_diff < 1e-4


def test_iemocap_by_session(tmp_path):
    source = trees.iemocap(tmp_path, sessions=(1, 2, 3))
    config, result = trained('iemocap', source, tmp_path)
    assert [fold['protocol']['test_speakers'] for fold in result['folds']] == [
        [f'Ses0{s}F', f'Ses0{s}M'] for s in (1, 2, 3)
    ]
    assert (result['protocol']['name'], result['protocol']['metric']) == ('sessions', 'uar')
    assert result['mean']['uar'] == pytest.approx(np.mean([fold['uar'] for fold in result['folds']]))
    # Every usable clip is tested once: five a wearer.
    assert result['pooled']['clips'] == len(load(config, 0).corpus) == 30
    assert folds_exactly(config, tmp_path / 'w' / 'fold_2')


def test_m3ed_on_its_own_split(tmp_path):
    config, result = trained('m3ed', trees.m3ed(tmp_path / 'source'), tmp_path)
    (fold,) = result['folds']
    assert {speaker.partition('_')[0] for speaker in fold['protocol']['test_speakers']} == set(
        trees.M3ED_SERIES['test']
    )
    assert (result['protocol']['name'], result['protocol']['metric']) == ('own_split', 'wf1')
    assert result['pooled']['clips'] == 13
    assert folds_exactly(config, tmp_path / 'w' / 'fold_0')


def test_daic_woz_decides_by_participant(tmp_path, capsys):
    config, result = trained('daic_woz', trees.daic_woz(tmp_path / 'source'), tmp_path)
    assert (result['protocol']['name'], result['protocol']['unit']) == ('interviews_dev', 'speaker')
    assert result['pooled']['clips'] == 3
    with (tmp_path / 'w' / 'fold_0' / 'predictions.csv').open(newline='') as file:
        rows = list(csv.DictReader(file))
    names = {str(participant): score >= 10 for participant, score, _ in trees.DAIC_TABLES['dev']}
    assert {row['id']: row['label'] == 'depressed' for row in rows} == names

    out = tmp_path / 'out'
    exported = folding.fold_and_export(tmp_path / 'w' / 'fold_0', out, show_progress=False)
    assert exported.manifest.protocol.name == 'interviews_dev'
    # A folder of turns for each participant, and one decision on each.
    data = load(config, 0)
    for clip in data.clips('test'):
        path = tmp_path / 'turns' / data.corpus.speaker[clip] / f'{clip}.wav'
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, data.corpus.audio(clip), 16000)
    folders = [str(tmp_path / 'turns' / name) for name in sorted(names)]
    assert predict.main(['--model', str(out), *folders, '--together', '--json', '--form', 'float32']) == 0
    found = json.loads(capsys.readouterr().out)['clips']
    assert [entry['file'] for entry in found] == folders
    test = export_data.of_part(data, 'test', None)
    expected = test.decide(litert.load((out / 'model_float32.tflite').read_bytes())(test.features))
    np.testing.assert_allclose([list(entry['probabilities'].values()) for entry in found], expected, atol=1e-5)
    # As training scored them, but for rounding.
    scored = [[float(row[label]) for label in result['labels']] for row in rows]
    np.testing.assert_allclose(expected, scored, atol=1e-4)
