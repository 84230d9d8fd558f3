"""Reports: logs survive a cut, folds are pooled over clips, and headlines say what kind of number they are."""

from __future__ import annotations

import contextlib
import io
import json
import os

import matplotlib.image as mpimg
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from tensorboardX.proto import event_pb2

from helpers import RECIPE
from jax_reparam import evaluation
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


def claim(workdir, recipe):
    with report.held(workdir):
        report.claim(workdir, recipe)


def test_claim_names_the_first_difference_and_the_way_out(tmp_path):
    claim(tmp_path / 'w', RECIPE)
    claim(tmp_path / 'w', RECIPE)
    way_out = 'delete the folder or choose another --workdir'
    with pytest.raises(InputError, match=rf'train\.steps \(expected 4, found 12\); {way_out}$'):
        claim(tmp_path / 'w', RECIPE.with_changes({'train.steps': 4}))


def test_a_run_may_move_and_grow(tmp_path):
    claim(tmp_path / 'w', RECIPE)
    more = RECIPE.with_changes({'train.steps': 24, 'data.source': 'elsewhere', 'data.cache': 'c'})
    claim(tmp_path / 'w', more)
    assert json.loads((tmp_path / 'w' / 'config.json').read_text()) == more.as_json()


@pytest.mark.parametrize('left', ['lock', 'config.json.tmp', 'fold_0'])
def test_what_a_killed_claim_leaves_refuses_nobody(tmp_path, left):
    (tmp_path / 'w').mkdir()
    (tmp_path / 'w' / left).write_text('{')
    claim(tmp_path / 'w', RECIPE)
    assert json.loads((tmp_path / 'w' / 'config.json').read_text()) == RECIPE.as_json()


def test_of_two_runs_in_one_workdir_the_second_is_told(tmp_path):
    with report.held(tmp_path / 'w'):
        with pytest.raises(InputError, match=rf'no other run writes, found process {os.getpid()} on .* at it'):
            claim(tmp_path / 'w', RECIPE)
        report.claim(tmp_path / 'w', RECIPE)
    assert [path.name for path in (tmp_path / 'w').iterdir()] == ['config.json']


def test_a_workdir_that_nothing_was_written_to_goes_again(tmp_path):
    with pytest.raises(KeyError), report.held(tmp_path / 'w'):
        raise KeyError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('name', ['a[1]', 'a[', 'a]', 'a\\b'])
def test_a_workdir_whose_checkpoints_could_not_be_read_is_refused_at_once(tmp_path, name):
    for workdir in (tmp_path / name, tmp_path / name / 'w'):
        with pytest.raises(InputError, match=r'expected a path without \[ \] \\, found '):
            report.check(workdir, RECIPE)


def events(file):
    """The events of a TensorBoard file: each follows its length and a checksum, and is followed by another."""
    content = file.read_bytes()
    while content:
        length = int.from_bytes(content[:8], 'little')
        yield event_pb2.Event.FromString(content[12 : 12 + length])
        content = content[16 + length :]


def test_every_row_is_on_disk_when_the_log_is_flushed(tmp_path):
    """A kill loses what lies in a queue."""
    log = report.Log(tmp_path, 0)
    for step in range(1, 31):
        log.write(step, {'loss': 0.5, 'accuracy': 1.0})
    log.flush()
    [file] = (tmp_path / 'tensorboard').iterdir()
    rows = [(event.step, value.tag) for event in events(file) for value in event.summary.value]
    assert rows == [(step, name) for step in range(1, 31) for name in ('loss', 'accuracy')]
    assert len((tmp_path / 'metrics.jsonl').read_text().splitlines()) == 30
    log.close()


def test_what_is_not_finite_is_not_logged(tmp_path):
    with contextlib.closing(report.Log(tmp_path, 0)) as log, pytest.raises(ValueError, match='not JSON compliant'):
        log.write(1, {'loss': float('nan')})
    assert (tmp_path / 'metrics.jsonl').read_text() == ''


@pytest.mark.parametrize(
    'damage', [b'{"step": 2, "lo\n', b'\xff\xfe\n', b'[]\n', b'3\n', b'{"loss": 1}\n', b'{"step": "2"}\n']
)
def test_a_damaged_line_of_the_log_is_left_out(tmp_path, damage):
    whole = b'{"step": 1, "loss": 1.0}\n'
    (tmp_path / 'metrics.jsonl').write_bytes(whole + damage)
    report.Log(tmp_path, 3).close()
    assert (tmp_path / 'metrics.jsonl').read_bytes() == whole


@pytest.mark.parametrize('text', ['', '{', '[1]', 'null'])
def test_a_damaged_result_is_named(tmp_path, text):
    (tmp_path / 'result.json').write_text(text)
    with pytest.raises(InputError, match=r'result\.json: expected a result in JSON, found .*; delete it'):
        report.finished(tmp_path, RECIPE)


def test_a_run_of_before_is_the_same_recipe(tmp_path):
    """Its config.json has other types, another order and fewer keys."""
    claim(tmp_path / 'w', RECIPE)
    file = tmp_path / 'w' / 'config.json'
    values = json.loads(file.read_text())
    del values['data']['turns'], values['hrf']['sites']
    values['hrf']['expansion'] = 4
    file.write_text(json.dumps(values, sort_keys=True))
    claim(tmp_path / 'w', RECIPE)


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
    more = {'labels': ['a', 'b'], 'step': 3, 'steps': 4, 'seed': 0, 'versions': {}}
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


def shown(workdir):
    """Of each picture in TensorBoard, by name, the size it is said to have and the file itself."""
    values = [
        value
        for file in (workdir / 'tensorboard').iterdir()
        for event in events(file)
        for value in event.summary.value
        if value.HasField('image')
    ]
    return {v.tag: ((v.image.width, v.image.height), v.image.encoded_image_string) for v in values}


def test_the_pictures_are_in_tensorboard_too(tmp_path):
    report.summarise(tmp_path, [fold(tmp_path / '0', 0.5, [('a', 0.1), ('b', 0.9)])])
    found = shown(tmp_path)
    assert found.keys() == {'confusion', 'speakers'}
    for name, (size, content) in found.items():
        assert content == (tmp_path / f'{name}.png').read_bytes()
        height, width, _ = mpimg.imread(io.BytesIO(content)).shape
        assert size == (width, height)


def test_where_a_speaker_is_decided_about_no_picture_has_recall_by_speaker(tmp_path):
    of = fold(tmp_path / '0', 0.5, [('a', 0.1), ('b', 0.9)])
    result = json.loads((of / 'result.json').read_text())
    result['protocol']['unit'] = 'speaker'
    (of / 'result.json').write_text(json.dumps(result))
    report.summarise(tmp_path, [of])
    assert not (tmp_path / 'speakers.png').exists()


def test_the_time_of_a_run_goes_on_where_its_checkpoint_was(tmp_path, monkeypatch):
    now = 100.0
    monkeypatch.setattr(report.time, 'monotonic', lambda: now)
    with contextlib.closing(report.Log(tmp_path, 0)) as log:
        clock = report.Clock(log.seconds)
        now = 107.0  # compiled
        clock.go(1)
        assert clock.read(1) == {'seconds': 7.0}
        now = 109.0
        log.write(5, clock.read(5))
        now = 150.0
        log.write(9, {'loss': 1.0, **clock.read(9)})
    lines = [json.loads(line) for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()]
    assert lines[0] == {'step': 5, 'seconds': 9.0, 'steps_per_second': 2.0}
    now = 1000.0
    with contextlib.closing(report.Log(tmp_path, 5)) as log:  # killed, and begun anew
        clock = report.Clock(log.seconds)
    now = 1003.0
    assert clock.read(6)['seconds'] == 12.0


def test_a_smoothed_curve_is_the_mean_of_what_is_near():
    steps = np.array([1, 2, 3, 4, 10])
    np.testing.assert_allclose(report.smoothed(steps, np.array([0, 3, 6, 9, 5.0]), 2), [1.5, 3, 6, 7.5, 5])
    np.testing.assert_allclose(report.smoothed(steps, np.array([0, 3, 6, 9, 5.0]), 0), [0, 3, 6, 9, 5])


@pytest.fixture
def drawn(monkeypatch):
    """The axes of each picture that is drawn, by its name; no file is written."""
    axes, figures, make = {}, [], Figure.__init__

    def made(self, *args, **kwargs):
        make(self, *args, **kwargs)
        figures.append(self)

    monkeypatch.setattr(Figure, '__init__', made)
    monkeypatch.setattr(report, 'write', lambda path, content: axes.update({path.name: figures[-1].axes}))
    return axes


def texts(axis):
    return [text.get_text() for text in axis.findobj(Text)]


def test_learning_curves_name_their_axes_and_the_chosen_step(drawn, tmp_path):
    lines = [{'step': step, 'loss': 1 / step, 'accuracy': step / 100} for step in range(1, 101)]
    lines += [{'step': 50, 'validation_nll': 0.9, 'validation_wf1': 0.5, 'seconds': 3.0}]
    report.plot_learning(tmp_path / 'l.png', lines, 1050, 'wf1', 4)
    loss, score = drawn['l.png']
    assert {'cross-entropy (nats)', 'validation', 'training, augmented'} <= {*texts(loss)}
    assert {'%', 'validation WF1', 'training accuracy', 'chance'} <= {*texts(score)}
    assert 'Lines: means over 10 steps' in texts(loss)
    for axis in (loss, score):
        assert 'training step' in texts(axis)
        by_label = {line.get_label(): line for line in axis.lines}
        assert {*by_label['step 1,050, chosen'].get_xdata()} == {1050}
    assert {*by_label['chance'].get_ydata()} == {25}
    assert by_label['validation WF1'].get_ydata() == [50]


@pytest.mark.parametrize('lines', [[], [{'step': 1, 'loss': 2.0}]])
def test_learning_curves_of_a_short_run(lines, tmp_path):
    report.plot_learning(tmp_path / 'l.png', lines, 1, 'uar', 2)
    assert (tmp_path / 'l.png').read_bytes()[:4] == b'\x89PNG'


def test_confusion_has_recall_in_per_cent_and_counts(drawn, tmp_path):
    truth, decided = [0] * 8 + [1] * 2, [0] * 3 + [1] * 4 + [2] + [1] * 2
    probabilities = np.eye(3)[decided]
    probabilities[7] = 0  # nobody speaks: one of class a's 8, and in no column
    scores = evaluation.metrics(np.array(truth), probabilities, 'abc')
    report.plot_confusion(tmp_path / 'c.png', scores, 'abc', synthetic=True)
    [axis] = drawn['c.png']
    found = texts(axis)
    assert {'38', '3', '50', '4', '100', '2', 'a (8)', 'b (2)', 'c (0)', 'predicted', 'true (number)'} <= {*found}
    title = next(text for text in found if text.startswith('UAR'))
    assert title.startswith('UAR 68.8 %\n')
    assert '1 without a decision' in title
    assert title.endswith('no evidence about emotions')


def test_recall_by_speaker_has_the_best_on_top_and_nothing_where_nobody_spoke(drawn, tmp_path):
    speakers = np.array(['low', 'low', 'low', 'high'])
    report.plot_speakers(
        tmp_path / 's.png', speakers, np.array([0, 0, 1, 1]), np.eye(2)[[0, 1, 0, 1]], 'ab', synthetic=False
    )
    [axis] = drawn['s.png']
    assert [*dict.fromkeys(text for text in texts(axis) if text in {'low', 'high'})] == ['high', 'low']
    cells = [text for text in texts(axis) if text.isdigit()]
    # High: of all classes, and of b alone. Low: of all, a and b.
    assert cells == ['100', '1', '100', '1', '25', '3', '50', '2', '0', '1']


def test_a_picture_of_many_speakers_has_colours_alone(drawn, tmp_path):
    speakers = np.array([f's{i}' for i in range(100)])
    zeros = np.zeros(100, int)
    report.plot_speakers(tmp_path / 's.png', speakers, zeros, np.eye(2)[zeros], 'ab', synthetic=False)
    [axis] = drawn['s.png']
    assert 's99' in texts(axis)
    assert not any(text.isdigit() for text in texts(axis))
