"""Checkpoints: the chosen one and the last are kept, and what is not whole is refused by name."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import resource
import shutil
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorstore
from safetensors import safe_open
from safetensors.numpy import load_file

from helpers import RECIPE, plain_inputs
from jax_reparam import checkpoint
from jax_reparam.checkpoint import Checkpoints
from jax_reparam.errors import InputError

META = {'config': RECIPE.as_json(), 'labels': ['a', 'b'], 'input': plain_inputs(RECIPE).as_json()}


MISSING = object()


def save(checkpoints, step, score, error=0.1):
    variables = {'params': {'dense': {'kernel': jnp.full((2, 3), float(step))}}, 'batch_stats': {}}
    state = {'step': jnp.asarray(step)}
    checkpoints.save(step, variables=variables, state=state, meta=META, score=score, error=error)


@pytest.fixture
def workdir(tmp_path):
    """Checkpoints at 1, 2, 3, of which 1 is chosen; kernels hold their step."""
    checkpoints = Checkpoints(tmp_path / 'w' / 'checkpoints')
    for step, score in ((1, 0.9), (2, 0.5), (3, 0.6)):
        save(checkpoints, step, score)
    assert (checkpoints.chosen(), checkpoints.latest()) == (1, 3)
    checkpoints.close()
    return tmp_path / 'w'


@pytest.mark.parametrize(('below', 'step'), [('', 1), ('checkpoints', 1), ('checkpoints/3', 3)])
def test_the_chosen_of_a_run_or_one_step(workdir, below, step):
    found = checkpoint.load(workdir / below)
    assert found.step == step
    np.testing.assert_array_equal(found.variables['params']['dense']['kernel'], np.full((2, 3), step))
    assert found.labels == ('a', 'b')


def test_only_the_chosen_and_the_last_stay(workdir):
    assert sorted(path.name for path in (workdir / 'checkpoints').iterdir() if path.name.isdigit()) == ['1', '3']


@pytest.mark.parametrize(
    ('scores', 'chosen'),
    [
        ([0.5, 0.6, 0.55], 2),
        ([0.5, 0.6, 0.58], 3),
        ([0.5, 0.6, 0.58, 0.56, 0.59], 5),
        ([0.58, 0.6, 0.58, 0.62, 0.56], 4),
        ([0.6, 0.6], 2),
        ([0.6, 0.58, 0.56], 2),  # near the best, not near the one before
    ],
)
@pytest.mark.parametrize('stops', [False, True], ids=['at once', 'with stops'])
def test_the_latest_within_a_standard_error_of_the_best_is_chosen(tmp_path, scores, chosen, stops):
    checkpoints = Checkpoints(tmp_path)
    for step, score in enumerate(scores, start=1):
        error = 0.03 if score == max(scores[:step]) else 1.0  # that of the best counts
        save(checkpoints, step, score, error)
        if stops:
            checkpoints.close()
            checkpoints = Checkpoints(tmp_path)
    assert checkpoints.chosen() == chosen
    checkpoints.close()


def test_a_checkpoint_folder_can_be_moved(workdir, tmp_path):
    shutil.move(workdir / 'checkpoints' / '3', tmp_path / '3')
    assert checkpoint.load(tmp_path / '3').step == 3


def test_a_full_disk_leaves_what_was_there(workdir):
    checkpoints = Checkpoints(workdir / 'checkpoints')
    variables = {'params': {'dense': {'kernel': jax.random.normal(jax.random.key(0), (1000, 300))}}, 'batch_stats': {}}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OSError, match=r'checkpoints/4: the checkpoint could not be written: .*File too large'):
            checkpoints.save(4, variables=variables, state=variables, meta=META, score=2.0, error=0.1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        checkpoints.close()
    assert checkpoint.load(workdir).step == 1
    again = Checkpoints(workdir / 'checkpoints')
    assert (again.chosen(), again.latest()) == (1, 3)
    again.save(4, variables=variables, state=variables, meta=META, score=2.0, error=0.1)
    assert again.chosen() == 4
    again.close()


def test_restore_gives_the_state_back(workdir):
    checkpoints = Checkpoints(workdir / 'checkpoints')
    assert int(checkpoints.restore(3, {'step': jnp.asarray(0)})['step']) == 3
    checkpoints.close()


def test_variables_alone_can_be_kept(tmp_path):
    with contextlib.closing(Checkpoints(tmp_path / 'w' / 'checkpoints')) as checkpoints:
        checkpoints.save(7, variables={'params': {'a': jnp.ones(3)}}, state=None, meta=META, score=0.5, error=0.0)
    found = checkpoint.load(tmp_path / 'w')
    assert (found.step, list(found.variables)) == (7, ['params'])
    np.testing.assert_array_equal(found.variables['params']['a'], np.ones(3))
    assert not (found.path / 'state').exists()


def test_nothing_there(tmp_path):
    with pytest.raises(InputError, match='expected a training folder or a checkpoint, found nothing'):
        checkpoint.load(tmp_path / 'nowhere')
    with pytest.raises(InputError, match='found no checkpoint'):
        checkpoint.load(tmp_path)


def break_data(step):
    for path in sorted((step / 'variables').rglob('*')):
        if path.is_file() and path.parent.name == 'd':
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    'damage',
    [
        break_data,
        lambda step: shutil.rmtree(step / 'meta'),
        lambda step: (step / 'variables' / '_METADATA').write_text('{'),
        lambda step: next((step / 'meta').iterdir()).write_text('not json'),
    ],
    ids=['data', 'no meta', 'metadata', 'meta'],
)
def test_damage_is_named(workdir, damage):
    damage(workdir / 'checkpoints' / '1')
    with pytest.raises(InputError, match=r'checkpoints/1: expected a whole checkpoint, found a damaged one'):
        checkpoint.load(workdir)


STATE = {'step': jnp.asarray(3), 'params': {'v': jnp.arange(7.0)}}
CARRIED = {'codes': np.arange(40, dtype=np.int8).reshape(20, 2)}


@pytest.fixture(scope='module')
def full(tmp_path_factory):
    """Checkpoints at 1, which is chosen, and 3, with all that one holds."""
    path = tmp_path_factory.mktemp('full') / 'w'
    with contextlib.closing(Checkpoints(path / 'checkpoints')) as checkpoints:
        for step, score in ((1, 0.9), (3, 0.6)):
            variables = {'params': {'dense': {'kernel': jnp.full((2, 3), float(step))}}, 'batch_stats': {}}
            checkpoints.save(step, variables=variables, state=STATE, meta=META, score=score, error=0.1, export=CARRIED)
    return path


def content(path):
    """All that is read of a checkpoint for folding."""
    found = checkpoint.load(path)
    return {'variables': found.variables, 'export': found.export()}


@pytest.mark.parametrize('seed', range(25))
def test_what_is_damaged_is_never_taken(full, tmp_path, seed):
    """One bit of any file, or a file that is cut or gone: it is seen, or nothing that is read has changed."""
    rng = np.random.default_rng(seed)
    shutil.copytree(full, tmp_path / 'w')
    step = tmp_path / 'w' / 'checkpoints' / '3'
    before = checkpoint.digest([content(step), STATE])
    files = sorted(path for path in step.rglob('*') if path.is_file())
    file = files[rng.integers(len(files))]
    data = bytearray(file.read_bytes())
    if seed % 5 == 0:
        file.unlink()
    elif seed % 5 == 1:
        file.write_bytes(data[: rng.integers(len(data))])
    else:
        data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
        file.write_bytes(data)
    damaged = checkpoint.damaged(step.parent)
    carried = step / 'export' in damaged  # alone: training goes on without it
    if damaged:
        [(path, error)] = damaged.items()
        assert path in (step, step / 'export')
        assert re.match(r'.*checkpoints/3: expected a whole checkpoint, found a damaged one \(', str(error))
        assert checkpoint.set_aside(path).name == f'{path.name}.damaged'
        assert checkpoint.last(step.parent).name == ('3' if carried else '1')
    with contextlib.closing(Checkpoints(step.parent)) as checkpoints:
        assert checkpoints.latest() == (1 if damaged and not carried else 3)
        assert checkpoints.chosen() == 1
        if carried:
            assert content(step)['export'] is None
            assert int(checkpoints.restore(3, STATE)['step']) == 3
        elif not damaged:
            assert checkpoint.digest([content(step), checkpoints.restore(3, STATE)]) == before


@pytest.mark.parametrize('item', ['variables', 'state', 'export', 'meta', 'metrics'])
def test_a_part_of_another_checkpoint_is_seen(full, tmp_path, item):
    """It is whole, and of the same shape."""
    shutil.copytree(full, tmp_path / 'w')
    other = tmp_path / 'other'
    variables = {'params': {'dense': {'kernel': jnp.full((2, 3), 9.0)}}, 'batch_stats': {}}
    state = {'step': jnp.asarray(9), 'params': {'v': jnp.arange(7.0)}}
    meta, carried = META | {'labels': ['c', 'd']}, {'codes': CARRIED['codes'] + 1}
    with contextlib.closing(Checkpoints(other)) as checkpoints:
        checkpoints.save(3, variables=variables, state=state, meta=meta, score=0.7, export=carried)
    step = tmp_path / 'w' / 'checkpoints' / '3'
    shutil.rmtree(step / item)
    shutil.copytree(other / '3' / item, step / item)
    assert list(checkpoint.damaged(step.parent)) == [step / item if item == 'export' else step]


@pytest.mark.parametrize('links', [True, False], ids=['links', 'no links'])
def test_what_is_carried_is_written_once(tmp_path, monkeypatch, links):
    """And each checkpoint has it, whichever else is deleted."""

    def refuse(*names):
        raise OSError

    if not links:
        monkeypatch.setattr(checkpoint.os, 'link', refuse)
    folder, other = tmp_path / 'checkpoints', {'codes': CARRIED['codes'] + 1}
    inodes = []
    with contextlib.closing(Checkpoints(folder)) as checkpoints, contextlib.ExitStack() as opened:
        for step, carried in enumerate([CARRIED, CARRIED, CARRIED, other, other, other], start=1):
            if step == 6:
                shutil.rmtree(folder / '5' / 'export')
            variables = {'params': {'dense': {'kernel': jnp.ones(step)}}}
            checkpoints.save(step, variables=variables, state=STATE, meta=META, score=0.5, export=carried)
            assert checkpoint.damaged(folder) == {}
            found = checkpoint.load(folder / str(step)).export()
            np.testing.assert_array_equal(found['codes'], carried['codes'])
            paths = list((folder / str(step) / 'export').rglob('d/*'))
            inodes.append({path.stat().st_ino for path in paths})
            for path in paths:  # else the number of a deleted file may be given to a new one
                opened.enter_context(path.open('rb'))
    shared = [bool(before & after) for before, after in itertools.pairwise(inodes)]
    # Not of another content, nor where it is gone.
    assert shared == ([True, True, False, True, False] if links else [False] * 5)


@pytest.mark.parametrize('shape', ['values', 'type', 'shape', 'name'])
def test_a_digest_is_of_values_types_shapes_and_names(shape):
    tree = {'a': np.arange(6, dtype=np.int8), 'b': np.zeros(0)}
    other = {
        'values': {**tree, 'a': np.array([0, 1, 2, 3, 4, -5], np.int8)},
        'type': {**tree, 'a': tree['a'].view(np.uint8)},
        'shape': {**tree, 'a': tree['a'].reshape(2, 3)},
        'name': {'c': tree['a'], 'b': tree['b']},
    }[shape]
    assert checkpoint.digest(tree) != checkpoint.digest(other)
    assert checkpoint.digest(tree) == checkpoint.digest(dict(reversed(tree.items())))


@pytest.mark.parametrize('name', ['a[1]', 'a\\b'])
def test_a_folder_that_could_not_be_read_is_refused(full, tmp_path, name):
    shutil.copytree(full, tmp_path / name / 'w')
    with pytest.raises(InputError, match=r'w: expected a path without \[ \] \\, found '):
        checkpoint.load(tmp_path / name / 'w')
    with pytest.raises(InputError, match='expected a path without'):
        Checkpoints(tmp_path / name / 'new')


def test_reads_that_go_on_after_one_has_failed_say_nothing(tmp_path, monkeypatch):
    """They end in threads of TensorStore, after the event loop that waited for them."""
    said = []
    monkeypatch.setattr(sys, 'unraisablehook', lambda unraisable: said.append(str(unraisable.exc_value)))
    with pytest.raises(InputError, match='expected a whole checkpoint'), checkpoint._reading(tmp_path):
        raise ValueError('damaged')

    def late(future):
        raise RuntimeError(future.result())

    for text in ('Event loop is closed', 'another'):
        promise, future = tensorstore.Promise.new()
        future.add_done_callback(late)
        promise.set_result(text)
    assert said == ['another']


def test_what_was_saved_is_read_at_once(tmp_path, monkeypatch):
    """A file system that does not give back what was written shows with the first checkpoint."""
    digests = iter('abcdefgh')
    monkeypatch.setattr(checkpoint, 'digest', lambda tree: next(digests))
    with (
        contextlib.closing(Checkpoints(tmp_path)) as checkpoints,
        pytest.raises(InputError, match='not what was saved'),
    ):
        save(checkpoints, 1, 0.5)


def test_a_checkpoint_without_a_score_is_never_chosen_before_one_that_has_it(tmp_path):
    with contextlib.closing(Checkpoints(tmp_path)) as checkpoints:
        for step, score, chosen in ((1, None, 1), (2, 0.5, 2), (3, None, 2), (4, 0.9, 4), (5, None, 4), (6, 0.85, 6)):
            save(checkpoints, step, score)
            assert checkpoints.chosen() == chosen
            assert checkpoint.load(tmp_path).step == chosen


def test_another_format_is_refused(workdir, monkeypatch):
    monkeypatch.setattr(checkpoint, 'FORMAT', 5)
    with pytest.raises(InputError, match='expected checkpoint format 5, found 4'):
        checkpoint.load(workdir)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'input': MISSING}, 'input: expected an object, found None'),
        ({'input': {**META['input'], 'mean': [0.0]}}, 'input.mean: expected 12 numbers, found 1'),
        ({'config': {**META['config'], 'seed': -1}}, 'seed: expected at least 0, found -1'),
    ],
)
def test_what_is_wrong_in_the_meta_is_named(tmp_path, change, message):
    meta = {key: value for key, value in (META | change).items() if value is not MISSING}
    with contextlib.closing(Checkpoints(tmp_path / 'w' / 'checkpoints')) as checkpoints:
        checkpoints.save(7, variables={'params': {'a': jnp.ones(3)}}, state=None, meta=meta, score=0.5, error=0.0)
    with pytest.raises(InputError, match=rf'checkpoints/7/meta: {re.escape(message)}$'):
        checkpoint.load(tmp_path / 'w')


def test_inputs_come_back(workdir):
    inputs = checkpoint.load(workdir).inputs
    assert inputs.as_json() == META['input']
    assert inputs.window == RECIPE.window_config


def test_the_same_model_gives_the_same_safetensors(workdir, tmp_path):
    trained = checkpoint.load(workdir)
    trained.meta['config'] = {'seed': 0, 'hrf': {'expansion': 4.0}}
    contents = set()
    for place in range(5):
        checkpoint.write_safetensors(tmp_path / f'{place}', trained.variables, trained)
        contents.add((tmp_path / f'{place}').read_bytes())
    assert len(contents) == 1
    with safe_open(tmp_path / '0', 'numpy') as file:
        metadata = file.metadata()
    assert json.loads(metadata['input']) == META['input']
    assert set(metadata) == {'config', 'labels', 'input', 'step'}
    (kernel,) = load_file(tmp_path / '0').values()
    np.testing.assert_array_equal(kernel, trained.variables['params']['dense']['kernel'])
