"""A model that all clips train: its step comes from runs with held-out speakers, and no score of its own is told."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from helpers import QUICK, pattern, recipe, tones
from jax_reparam import checkpoint, manifest
from jax_reparam.data import export_data, pipeline
from jax_reparam.errors import InputError
from jax_reparam.export import card, folding
from jax_reparam.train import heldout, loop, report

SHORT = QUICK | {'train__steps': 6, 'train__eval_every': 2, 'train__batch_size': 4}


@pytest.fixture(scope='module')
def folds(tmp_path_factory):
    """A run over all folds: (recipe, workdir, result)."""
    root = tmp_path_factory.mktemp('folds')
    config = recipe(
        tones(root / 'source', speakers=3), root / 'cache', data__protocol='loso', data__fold='all', **SHORT
    )
    return config, root / 'w', loop.train_folds(config, root / 'w', show_progress=False)


@pytest.fixture(scope='module')
def everything(folds, tmp_path_factory):
    """A run on every clip: (recipe, workdir, result)."""
    config, workdir, _ = folds
    changes = {'data.protocol': 'all', 'data.fold': '0', 'train.step_from': str(workdir)}
    config, workdir = config.with_changes(changes), tmp_path_factory.mktemp('all') / 'w'
    return config, workdir, loop.train(config, workdir, show_progress=False)


def test_every_clip_trains_up_to_the_median_of_the_chosen_steps(folds, everything):
    config, workdir, result = everything
    _, _, pooled = folds
    steps = sorted(fold['step'] for fold in pooled['folds'])
    assert result['step'] == steps[len(steps) // 2]
    assert checkpoint.load(workdir).step == result['step']
    data = pipeline.load_data(config, show_progress=False)
    assert (len(data.clips('train')), len(data.clips('validation')), len(data.clips('test'))) == (18, 0, 0)
    lines = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
    assert max(line['step'] for line in lines) == result['step']
    assert not any(name.startswith('validation') for line in lines for name in line)
    assert not {'uar', 'test', 'validation'} & result.keys()
    assert not (workdir / 'predictions.csv').exists()
    uar = 100 * pooled['pooled']['uar']
    assert report.headline(result) == (
        'every clip trains: this model has no score of its own; '
        f'the same recipe, loso: UAR pooled {uar:.1f} over 3 folds; step {result["step"]}'
    )
    assert loop.train(config, workdir, show_progress=False) == result


def test_it_is_verified_on_training_windows_and_its_card_has_the_score_of_others(folds, everything, tmp_path):
    _, _, pooled = folds
    exported = folding.fold_and_export(everything[1], tmp_path / 'out', show_progress=False)
    content = manifest.load(exported.path)
    assert content.as_json() == exported.manifest.as_json()
    assert (content.test.part, content.test.clips, content.reference_uar) == ('train', 18, None)
    assert content.held_out.scores['uar'] == pooled['pooled']['uar']
    assert content.recipe['train']['step_from'] == content.recipe['data']['source'] == ''
    scores = [score for form in content.forms.values() for score in (form.litert, form.tflm) if score]
    assert scores
    assert all(score.uar is None and score.argmax_agreement > 0.9 for score in scores)
    assert all(row.uar is None and row.uar_before is None for row in content.field)
    text = (exported.path / manifest.CARD).read_text()
    *_, last = card.summary(exported.path, content)
    for told in (text, last):
        assert 'training clips' in told
        assert 'test clips' not in told
    # No column of a form has a UAR, and the only numbers are those of the runs with held-out speakers.
    assert '| UAR' not in text
    assert f'UAR {100 * pooled["pooled"]["uar"]:.1f} %' in text
    assert 'loses at most' not in text
    assert 'Decisions of the 3 models that held speakers out.' in text
    assert [sum(row) for row in content.held_out.confusion] == [9, 9]
    assert 'model-index' not in text
    assert all(form.confusion is None for form in content.forms.values())


def test_what_the_checkpoint_carries_says_so_too(everything):
    trained = checkpoint.load(everything[1])
    kept = export_data.Kept.from_arrays(trained.export())
    found = kept.export_data(trained.inputs)
    assert not found.test.held_out
    assert not found.validation.held_out
    assert found.of_clips == 18


@pytest.mark.parametrize(('change', 'message'), [
    (lambda w: (w / 'result.json').unlink(), 'expected a finished run over all folds, found no result.json'),
    (lambda w: shutil.rmtree(w), 'expected a finished run over all folds, found no config.json'),
    (lambda w: shutil.copy(w / 'fold_0' / 'result.json', w), 'folds: expected those of a run with data.fold=all'),
    (lambda w: edit(w / 'config.json', ('seed',), 3), 'expected a run of this recipe, found seed = 3 instead of 0'),
    (lambda w: edit(w / 'config.json', ('train', 'steps'), 7), 'found train.steps = 7 instead of 6'),
    (lambda w: edit(w / 'result.json', ('corpus', 'key'), 'x'), 'corpus: expected the same clips, found'),
    (lambda w: edit(w / 'result.json', ('pooled',), {}), 'expected the result of all folds, found'),
])  # fmt: skip
def test_a_run_that_does_not_fit_is_one_line(folds, everything, tmp_path, change, message):
    config, _, result = everything
    shutil.copytree(folds[1], tmp_path / 'w', ignore=shutil.ignore_patterns('checkpoints'))
    change(tmp_path / 'w')
    config = config.with_changes({'train.step_from': str(tmp_path / 'w')})
    with pytest.raises(InputError, match=pattern(message)):
        heldout.read(config, result['corpus']['key'])
    with pytest.raises(InputError, match=pattern(message)):
        loop.train(config, tmp_path / 'new', show_progress=False)
    assert not (tmp_path / 'new').exists()


def edit(path, keys, value):
    content = json.loads(path.read_text())
    *most, last = keys
    entry = content
    for key in most:
        entry = entry[key]
    entry[last] = value
    path.write_text(json.dumps(content))


def test_the_recipe_says_what_goes_together(folds):
    config = folds[0]
    with pytest.raises(ValueError, match=r'^data\.fold: expected 0 \(protocol all has one\), found .all.$'):
        config.with_changes({'data.protocol': 'all'})
    with pytest.raises(ValueError, match=r'^train\.step_from: expected data\.protocol=all, found .loso.$'):
        config.with_changes({'train.step_from': 'w'})


def test_the_median_is_a_step_that_was_chosen():
    fields = {'protocol': 'loso', 'folds': 4, 'seed': 0, 'clips': 1, 'scores': {}, 'mean': 0.0, 'std': 0.0}
    found = manifest.HeldOut(**fields, steps=(900, 100, 500, 300), confusion=())
    assert found.step == 300
    assert np.median(found.steps) == 400
