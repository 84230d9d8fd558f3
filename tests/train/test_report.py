"""Reports: logs survive a cut, folds are pooled over clips, and headlines say what kind of number they are."""

from __future__ import annotations

import contextlib
import json

import numpy as np
import pytest

from helpers import RECIPE
from jax_reparam.errors import InputError
from jax_reparam.train import report


def test_a_log_goes_on_behind_the_last_checkpoint(tmp_path):
    with contextlib.closing(report.Log(tmp_path, 0)) as log:
        for step in range(1, 6):
            log.write(step, {'loss': float(step)})
    with (tmp_path / 'metrics.jsonl').open('a') as file:
        file.write('{"step": 6, "lo')
    with contextlib.closing(report.Log(tmp_path, 3)) as log:
        log.write(4, {'loss': 40.0})
    lines = [json.loads(line) for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()]
    assert lines == [{'step': s, 'loss': float(s)} for s in (1, 2, 3)] + [{'step': 4, 'loss': 40.0}]


def test_write_leaves_the_old_file_when_it_fails(tmp_path, monkeypatch):
    path = tmp_path / 'result.json'
    report.write(path, 'old')

    def full(*_):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(report.Path, 'write_bytes', full)
    with pytest.raises(OSError, match='No space left'):
        report.write(path, 'new')
    monkeypatch.undo()
    assert path.read_text() == 'old'
    assert [path.name for path in tmp_path.iterdir()] == ['result.json']


def test_claim_names_the_first_difference(tmp_path):
    report.claim(tmp_path / 'w', RECIPE)
    report.claim(tmp_path / 'w', RECIPE)
    with pytest.raises(InputError, match=r'train\.steps \(expected 4, found 12\)'):
        report.claim(tmp_path / 'w', RECIPE.with_changes({'train.steps': 4}))


def test_a_run_of_before_is_the_same_recipe(tmp_path):
    """Its config.json has other types, another order and fewer keys."""
    report.claim(tmp_path / 'w', RECIPE)
    file = tmp_path / 'w' / 'config.json'
    values = json.loads(file.read_text())
    del values['data']['turns'], values['hrf']['sites']
    values['hrf']['expansion'] = 4
    file.write_text(json.dumps(values, sort_keys=True))
    report.claim(tmp_path / 'w', RECIPE)


@pytest.mark.parametrize(
    ('text', 'found'),
    [
        ('{', 'Expecting property name'),
        ('{}', 'model: expected a value, found none'),
        ('{"model": {"name": "lstm"}}', "model.name: expected one of .*, found 'lstm'"),
    ],
)
def test_a_config_json_that_is_no_recipe_is_named(tmp_path, text, found):
    (tmp_path / 'config.json').write_text(text)
    with pytest.raises(InputError, match=rf'config\.json: expected a recipe in JSON, found {found}') as caught:
        report.claim(tmp_path, RECIPE)
    assert '\n' not in str(caught.value)


def fold(path, uar, rows, synthetic=False):
    path.mkdir()
    header = 'id,speaker,label,a,b\n'
    (path / 'predictions.csv').write_text(header + ''.join(f'{i},s,{t},{1 - p},{p}\n' for i, (t, p) in enumerate(rows)))
    scores = dict.fromkeys(('uar', 'wa', 'wf1', 'macro_f1'), uar)
    protocol = {'name': 'loso', 'unit': 'clip', 'join': 'mean', 'turns': 0, 'metric': 'uar', 'note': ''}
    corpus = {'name': 'x', 'key': 'k', 'synthetic': synthetic}
    more = {'labels': ['a', 'b'], 'step': 3, 'seed': 0, 'versions': {}}
    (path / 'result.json').write_text(json.dumps({**scores, **more, 'protocol': protocol, 'corpus': corpus}))
    return path


def test_folds_are_pooled_over_clips(tmp_path):
    folds = [
        fold(tmp_path / '0', 0.5, [('a', 0.1), ('a', 0.9)]),
        fold(tmp_path / '1', 1.0, [('a', 0.2), ('b', 0.8), ('b', 0.7)]),
    ]
    report.summarise(tmp_path, folds)
    got = report.read_result(tmp_path)
    assert got['pooled']['confusion'] == [[2, 1], [0, 2]]
    assert got['pooled']['uar'] == pytest.approx((2 / 3 + 1) / 2)
    assert got['mean']['uar'] == pytest.approx(0.75)
    assert got['std']['uar'] == pytest.approx(0.25)
    assert report.headline(got) == (
        'UAR pooled 83.3, over 2 folds 75.0 +- 25.0; WA pooled 80.0, 75.0 +- 25.0; '
        'WF1 pooled 80.0, 75.0 +- 25.0; macro-F1 pooled 80.0, 75.0 +- 25.0; 5 clips'
    )


def test_headline_of_synthetic_speech(tmp_path):
    report.summarise(tmp_path, [fold(tmp_path / '0', 0.5, [('a', 0.1), ('b', 0.9)], synthetic=True)])
    got = report.read_result(tmp_path)
    assert report.headline(got).endswith('no evidence about emotions')


def test_headline_has_the_protocols_note(tmp_path):
    report.summarise(tmp_path, [fold(tmp_path / '0', 0.5, [('a', 0.1), ('b', 0.9)])])
    got = report.read_result(tmp_path)
    got['protocol']['note'] = 'speakers overlap'
    assert report.headline(got).endswith('; speakers overlap')


def test_confusion_plot(tmp_path):
    report.plot_confusion(tmp_path / 'c.png', np.eye(3, dtype=int), ['a', 'b', 'c'], synthetic=True)
    assert (tmp_path / 'c.png').read_bytes()[:4] == b'\x89PNG'
