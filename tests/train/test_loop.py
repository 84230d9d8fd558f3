"""Training: it learns, leaves what it promises, and a killed run ends where an uninterrupted one does, bit for bit."""

from __future__ import annotations

import dataclasses
import functools
import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers import TINY, batch, recipe, untimed
from jax_reparam import checkpoint, models, reparam
from jax_reparam.config import AugmentConfig, HRFConfig, Recipe, TrainConfig
from jax_reparam.errors import InputError
from jax_reparam.frontend.features import FrontendConfig
from jax_reparam.frontend.inputs import Input
from jax_reparam.frontend.windows import WindowConfig
from jax_reparam.train import augment, loop
from jax_reparam.train.optimizer import adamw

# Each step is compiled anew: one layer is enough for what is asked of it.
SMALLEST = dataclasses.replace(TINY, layers=1)
SURE = dataclasses.replace(SMALLEST, dropout=0.0, attention_dropout=0.0)
STD = np.full(12, 40, np.float32)
INPUTS = Input(FrontendConfig(n_mels=12), WindowConfig(32, 16), 0 * STD, STD, 0 * STD)
LABELS = (0, 1, 2, 0)


@pytest.fixture(scope='module')
def trained(source, tmp_path_factory):
    """A finished run: (config, workdir, result)."""
    root = tmp_path_factory.mktemp('run')
    config = recipe(source, root / 'cache')
    return config, root / 'w', loop.train(config, root / 'w', show_progress=False)


def step_of(model, optimizer, weights=None, **train):
    """The jitted step without augmentation; `train` are keys of `TrainConfig`."""
    told = TrainConfig(**{'label_smoothing': 0.0, 'average': 0.0, **train})
    recipe = Recipe(SURE, augment=AugmentConfig(freq_masks=0, time_masks=0, field=0), train=told)
    return jax.jit(loop.make_step(recipe, model, optimizer, weights, 0, INPUTS))


def undecayed(**train):
    """A recipe of a model whose factors do not decay; `train` are keys of `TrainConfig`."""
    return Recipe(SURE, HRFConfig(decay='none'), train=TrainConfig(**train))


def given(batch):
    """What the model is given of a batch."""
    windows = zip(batch['codes'], batch['frames'], strict=True)
    return np.stack([INPUTS.hear(codes[:frames]).features for codes, frames in windows])


def test_a_run_leaves_what_it_promises(trained):
    config, workdir, result = trained
    names = {path.name for path in workdir.iterdir()}
    assert names == {
        'config.json', 'metrics.jsonl', 'result.json', 'predictions.csv',
        'learning.png', 'confusion.png', 'speakers.png', 'tensorboard', 'checkpoints',
    }  # fmt: skip
    assert json.loads((workdir / 'config.json').read_text()) == config.as_json()
    assert json.loads((workdir / 'result.json').read_text()) == result
    lines = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
    assert [line['step'] for line in lines if 'loss' in line] == list(range(1, 13))
    assert [line['step'] for line in lines if 'validation_uar' in line] == [4, 8, 12]
    times = [line['seconds'] for line in lines if 'seconds' in line]
    assert 0 < times[0] < times[1] < times[2] == result['seconds']
    paces = [line['steps_per_second'] for line in lines if 'steps_per_second' in line]
    assert result['steps_per_second'] == sorted(paces)[1]
    assert result['protocol']['note'] == ''
    assert result['test']['clips'] == sum(c['support'] for c in result['test']['per_class'].values()) == 6
    assert result['uar'] == result['test']['uar']
    for name in ('wa', 'wf1', 'macro_f1', 'labels', 'seed', 'versions', 'step'):
        assert name in result
    (chosen,) = (line for line in lines if 'validation_uar' in line and line['step'] == result['step'])
    assert result['validation']['uar'] == pytest.approx(chosen['validation_uar'])


def test_checkpoint_holds_all_that_use_needs(trained):
    config, workdir, result = trained
    found = checkpoint.load(workdir)
    assert found.recipe == config
    assert found.labels == ('high', 'low')
    assert found.step == result['step']
    assert found.inputs.mean.shape == found.inputs.std.shape == found.inputs.voice_mean.shape == (12,)
    assert found.inputs.window == config.window_config
    assert found.inputs.voice == config.voice
    model = models.build(config.model, config.hrf, n_classes=2)
    expected = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 12)))
    chex.assert_trees_all_equal_shapes_and_dtypes(found.variables, expected)
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(found.variables))


def test_a_finished_run_is_not_trained_again(trained, monkeypatch):
    config, workdir, result = trained
    monkeypatch.setattr(loop.pipeline, 'load_data', None)
    assert loop.train(config, workdir, show_progress=False) == result


def test_a_workdir_of_another_recipe_is_refused(trained):
    config, workdir, _ = trained
    changed = config.with_changes({'seed': 5})
    with pytest.raises(InputError, match=r'seed \(expected 5, found 0\)'):
        loop.train(changed, workdir, show_progress=False)


def test_a_workdir_that_is_no_run_is_refused(trained, tmp_path):
    (tmp_path / 'thesis.tex').write_text('all of it')
    with pytest.raises(InputError, match='expected a new folder or a training run, found something else'):
        loop.train(trained[0], tmp_path, show_progress=False)
    assert (tmp_path / 'thesis.tex').read_text() == 'all of it'


def test_batch_size_must_fit_the_devices(trained, tmp_path):
    config = trained[0].with_changes({'train.batch_size': 7})
    with pytest.raises(InputError, match='expected a multiple of the 2 devices, found 7'):
        loop.train(config, tmp_path / 'w', show_progress=False)


def test_the_step_lowers_the_loss_on_one_batch(rng):
    model = models.build(SURE, HRFConfig(), n_classes=3)
    optimizer = adamw(undecayed(steps=40, learning_rate=1e-2, warmup_steps=2))
    data = batch(rng, LABELS)
    state = loop.init_state(model, optimizer, given(data)[:1], 0)
    step = step_of(model, optimizer)
    losses = []
    for _ in range(40):
        state, metrics = step(state, data)
        losses.append(float(metrics['loss']))
    assert losses[-1] < 0.1 * losses[0]
    assert int(state.step) == 40


def test_class_weights_and_smoothing_enter_the_loss(rng):
    model = models.build(SURE, HRFConfig(), n_classes=3)
    optimizer = adamw(undecayed(steps=2))
    data = batch(rng, LABELS)
    state = loop.init_state(model, optimizer, given(data)[:1], 0)
    variables = {'params': state.variables['params'], 'batch_stats': state.variables['batch_stats']}
    rngs = {'dropout': jax.random.key(0)}
    apply = jax.jit(functools.partial(model.apply, train=True, mutable=['batch_stats']))
    logits, _ = apply(variables, given(data), None, rngs=rngs)
    log_p = np.asarray(jax.nn.log_softmax(logits))
    weights = np.array([0.5, 1.0, 2.0], np.float32)
    targets = 0.7 * np.eye(3)[data['labels']] + 0.1
    expected = np.mean(weights[data['labels']] * -(targets * log_p).sum(axis=1))
    step = step_of(model, optimizer, weights, label_smoothing=0.3)
    _, metrics = step(state, data)
    assert float(metrics['loss']) == pytest.approx(expected, rel=1e-5)


def test_mixup_enters_the_loss_by_seed_and_step(rng):
    """The loss is that of mixed windows and mixed, weighted targets; another seed or step draws other shares."""
    model = models.build(SURE, HRFConfig(), n_classes=3)
    optimizer = adamw(undecayed(steps=2))
    data = batch(rng, LABELS)
    state = loop.init_state(model, optimizer, given(data)[:1], 0)
    weights = np.array([0.5, 1.0, 2.0], np.float32)
    recipe = Recipe(
        SURE,
        augment=AugmentConfig(freq_masks=0, time_masks=0, field=0, mixup=2.0),
        train=TrainConfig(label_smoothing=0.3, average=0.0),
    )
    step = jax.jit(lambda state, seed: loop.make_step(recipe, model, optimizer, weights, seed, INPUTS)(state, data)[1])
    apply = jax.jit(functools.partial(model.apply, train=True, mutable=['batch_stats']))
    targets = (0.7 * np.eye(3) + 0.1)[data['labels']] * weights[data['labels']][:, None]
    losses = []
    for seed, count in ((0, 0), (0, 1), (1, 0)):
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), count), 2)
        x, mixed = augment.mixup(key, (jnp.asarray(given(data)), jnp.asarray(targets, jnp.float32)), 2.0)
        logits, _ = apply(state.variables, x)
        losses.append(float(step(state.replace(step=jnp.asarray(count)), seed)['loss']))
        assert losses[-1] == pytest.approx(float(np.mean(-(mixed * jax.nn.log_softmax(logits)).sum(axis=1))), rel=1e-5)
    assert len(set(losses)) == 3


def test_clips_without_speech_count_as_wrong(trained, monkeypatch):
    config, workdir, _ = trained
    data = loop.pipeline.load_data(config, show_progress=False)
    found = checkpoint.load(workdir)
    predict = loop.Predictor(models.build(config.model, config.hrf, n_classes=2), batch=8)
    before, probabilities = loop.evaluate(predict, found.variables, data, 'test')
    assert before['no_speech'] == 0
    heard = data.inputs.__class__.windows

    def silent(self, active, profile=None):
        for one in heard(self, active, profile):
            there = one.speech.there and not np.array_equal(active, quiet)
            yield one._replace(speech=one.speech._replace(there=there))

    position = int(np.flatnonzero(probabilities.argmax(axis=1) == data.truth('test'))[0])
    quiet = data.features[data.clips('test')[position]]
    monkeypatch.setattr(data.inputs.__class__, 'windows', silent)
    after, rows = loop.evaluate(predict, found.variables, data, 'test')
    assert (rows[position] == 0).all()
    np.testing.assert_allclose(np.delete(rows, position, 0), np.delete(probabilities, position, 0), atol=1e-5)
    assert (after['no_speech'], after['clips']) == (1, before['clips'])
    assert after['wa'] == pytest.approx(before['wa'] - 1 / before['clips'])


def test_a_part_is_evaluated_with_what_is_known_of_its_speakers(trained):
    config, workdir, _ = trained
    data, found = loop.pipeline.load_data(config, show_progress=False), checkpoint.load(workdir)
    predict = loop.Predictor(models.build(config.model, config.hrf, n_classes=2), batch=8)
    nobody = lambda clip: data.profile(np.zeros(0, int))
    everybody = lambda clip: data.profile(data.histories(clip))
    _, plain = loop.evaluate(predict, found.variables, data, 'test')
    _, unknown = loop.evaluate(predict, found.variables, data, 'test', nobody)
    _, known = loop.evaluate(predict, found.variables, data, 'test', everybody)
    np.testing.assert_array_equal(unknown, plain)
    assert not np.allclose(known, plain)


def test_balanced_weights():
    np.testing.assert_allclose(loop.balanced_weights(np.array([0, 0, 0, 2]), 3), [2 / 3, 0, 2])


def test_average_follows_the_variables(rng):
    model = models.build(SMALLEST, HRFConfig(), n_classes=3)
    optimizer = adamw(undecayed(steps=9, warmup_steps=1, learning_rate=1e-2))
    data = batch(rng, LABELS)
    state = loop.init_state(model, optimizer, given(data)[:1], 0)
    step = step_of(model, optimizer, average=0.5)
    expected = state.average['params']['head']['classifier']['bias']
    for count in range(4):
        state, _ = step(state, data)
        decay = min(0.5, (1 + count) / (4 + count))
        expected = decay * expected + (1 - decay) * state.variables['params']['head']['classifier']['bias']
    np.testing.assert_allclose(state.average['params']['head']['classifier']['bias'], expected, rtol=1e-5)
    assert not np.allclose(expected, state.variables['params']['head']['classifier']['bias'])


def test_a_step_logs_how_far_the_sites_move(rng):
    model = models.build(SURE, HRFConfig(), n_classes=3)
    optimizer = adamw(undecayed(steps=9, warmup_steps=0, learning_rate=1e-2))
    data = batch(rng, LABELS)
    before = loop.init_state(model, optimizer, given(data)[:1], 0)
    after, metrics = step_of(model, optimizer, log_site_norms=True)(before, data)
    old, new = (reparam.dehrf(state.variables['params'])['layer_0']['ffn']['ffn_in'] for state in (before, after))
    logged = {name: float(value) for name, value in metrics.items() if '/' in name}
    expected = np.linalg.norm(new['kernel'] - old['kernel'])
    assert logged == {'site_norm/layer_0/ffn/ffn_in': pytest.approx(expected, rel=1e-4)}


def test_predictor_fills_its_last_batch(rng):
    model = models.build(SMALLEST, HRFConfig(), n_classes=3)
    x = rng.standard_normal((5, 32, 12)).astype(np.float32)
    variables = model.init(jax.random.key(0), x)
    got = loop.Predictor(model, batch=4)(variables, x)
    np.testing.assert_allclose(got, model.apply(variables, x), atol=1e-5)


def test_predictor_multiplies_in_float32_on_every_device(rng):
    model = models.build(SMALLEST, HRFConfig(), n_classes=3)
    x = rng.standard_normal((4, 32, 12)).astype(np.float32)
    variables = model.init(jax.random.key(0), x)
    lowered = loop.Predictor(model, batch=4)._apply.lower(variables, x, np.ones(x.shape[:2], bool)).as_text()
    products = [line for line in lowered.splitlines() if 'dot_general' in line or 'stablehlo.convolution' in line]
    assert len(products) > 5
    assert [line for line in products if 'HIGHEST' not in line] == []


def test_a_run_that_diverges_stops_and_says_where(trained, tmp_path):
    changes = {'warmup_steps': 0, 'clip_norm': 0.0, 'learning_rate': 1e6, 'weight_decay': 1e6}
    config = trained[0].with_changes({f'train.{name}': value for name, value in changes.items()})
    with pytest.raises(loop.DivergedError) as caught:
        loop.train(config, tmp_path / 'w', show_progress=False)
    text = str(caught.value)
    assert re.search(r'w: step \d+: expected finite numbers, found .* = -?(nan|inf); no checkpoint was written', text)
    assert caught.value.exit_code == 1
    assert not (tmp_path / 'w' / 'result.json').exists()
    assert checkpoint.last(tmp_path / 'w' / 'checkpoints') is None
    for line in (tmp_path / 'w' / 'metrics.jsonl').read_text().splitlines():
        assert all(np.isfinite(value) for value in json.loads(line).values())


@pytest.mark.slow
@pytest.mark.parametrize('at', [6, 8])
def test_a_run_that_diverges_keeps_its_last_good_checkpoint(trained, tmp_path, monkeypatch, at):
    """At 8, before the validation of step 8 sees the parameters of that step."""
    real = loop.make_step

    def make_step(*args):
        step = real(*args)

        def broken(state, batch):
            state, metrics = step(state, batch)
            factor = jnp.where(state.step == at, jnp.nan, 1.0)
            return state.replace(variables=jax.tree.map(lambda leaf: leaf * factor, state.variables)), metrics

        return broken

    monkeypatch.setattr(loop, 'make_step', make_step)
    for _ in range(2):
        with pytest.raises(loop.DivergedError, match=rf'step {at + (at == 6)}: .*; the checkpoint of step 4 is kept'):
            loop.train(trained[0], tmp_path / 'w', show_progress=False)
    assert checkpoint.load(tmp_path / 'w').step == 4
    assert not (tmp_path / 'w' / 'result.json').exists()


def test_logits_that_are_not_finite_are_no_result(trained, monkeypatch):
    data = loop.pipeline.load_data(trained[0], show_progress=False)
    logits = lambda variables, windows: np.full((len(windows), 2), np.inf, np.float32)
    logits.batch = 8
    with pytest.raises(loop.DivergedError, match='found logits of the test part = inf'):
        loop.evaluate(logits, {}, data, 'test')


def test_a_recipe_that_is_wrong_leaves_the_workdir_free(trained, tmp_path):
    nowhere = str(tmp_path / 'nowhere')
    for wrong in (
        {'data.source': nowhere},
        {'data.fold': '99'},
        {'data.protocol': 'sessions'},
        {'hrf.expansion': 0, 'train.site_norms': nowhere},
    ):
        for start in (loop.train, loop.train_folds):
            if start is loop.train_folds and 'data.fold' in wrong:
                continue
            with pytest.raises(InputError):
                start(trained[0].with_changes(wrong), tmp_path / 'w', show_progress=False)
            assert not (tmp_path / 'w').exists()


@pytest.fixture
def copy(trained, tmp_path):
    """A finished run of one's own, whose result is missing: (config, workdir)."""
    shutil.copytree(trained[1], tmp_path / 'w')
    (tmp_path / 'w' / 'result.json').unlink()
    return trained[0], tmp_path / 'w'


def flip(path):
    """Changes bits all over a file: some of it nobody reads."""
    content = bytearray(path.read_bytes())
    for place in range(len(content) // 32, len(content), 256):
        content[place] ^= 4
    path.write_bytes(content)


def biggest(folder):
    """Where most of the arrays lie."""
    return max((path for path in folder.rglob('d/*') if path.is_file()), key=lambda path: path.stat().st_size)


def test_damage_to_what_is_carried_for_an_export_costs_no_run(copy, trained, capsys):
    """All checkpoints may have the same file of it, and training does not need it."""
    config, workdir = copy
    exports = sorted((workdir / 'checkpoints').glob('*/export'))
    for export in exports:
        flip(biggest(export))
    assert loop.train(config, workdir, show_progress=False) == trained[2]
    said = capsys.readouterr().err.splitlines()
    assert len(said) == len(exports)
    assert all('found a damaged one (' in line and line.endswith('; set aside as export.damaged') for line in said)
    assert not any(export.exists() for export in exports)
    assert checkpoint.load(workdir).export() is None


def test_what_the_split_lacks_is_said_at_the_start(trained, tmp_path, monkeypatch, capsys):
    def stop(*_):
        raise RuntimeError('stopped')

    monkeypatch.setattr(loop, '_as_before', stop)
    config = trained[0].with_changes({'data.protocol': 'random'})
    for shown in (True, False):
        with pytest.raises(RuntimeError, match='stopped'):
            loop.train(config, tmp_path / 'w', show_progress=shown)
        assert (f'{tmp_path}/w: speakers overlap' in capsys.readouterr().err.splitlines()) == shown


def test_when_all_are_damaged_nothing_is_begun_anew(copy):
    config, workdir = copy
    for path in (workdir / 'checkpoints').glob('*/variables/**/d/*'):
        flip(path)
    with pytest.raises(InputError, match=r'checkpoints: expected a whole checkpoint to go on from, found none'):
        loop.train(config, workdir, show_progress=False)
    assert any(path.name.endswith('.damaged') for path in (workdir / 'checkpoints').iterdir())


def test_a_half_deleted_checkpoint_goes(copy, trained):
    config, workdir = copy
    left = workdir / 'checkpoints' / 'removed' / '4' / 'variables'
    left.mkdir(parents=True)
    assert loop.train(config, workdir, show_progress=False) == trained[2]
    assert not (workdir / 'checkpoints' / 'removed').exists()


@pytest.mark.slow
def test_a_finished_run_is_extended(copy, trained):
    config, workdir = copy
    more = config.with_changes({'train.steps': '16'})
    result = loop.train(more, workdir, show_progress=False)
    assert result['steps'] == 16
    steps = [json.loads(line)['step'] for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
    assert sorted(set(steps)) == list(range(1, 17))
    before = (trained[1] / 'metrics.jsonl').read_text()
    assert (workdir / 'metrics.jsonl').read_text().startswith(before)
    assert loop.train(more, workdir, show_progress=False) == result
    with pytest.raises(InputError, match=r'train.steps \(expected 12, found 16\)'):
        loop.train(config, workdir, show_progress=False)


@pytest.mark.slow
def test_a_corpus_that_has_moved_goes_on_and_another_does_not(source, copy, trained, tmp_path):
    config, workdir = copy
    shutil.copytree(source, tmp_path / 'moved')
    moved = config.with_changes({'data.source': str(tmp_path / 'moved'), 'train.steps': '13'})
    assert loop.train(moved, workdir, show_progress=False)['steps'] == 13
    next((tmp_path / 'moved').rglob('*.wav')).unlink()
    with pytest.raises(InputError, match='expected the corpus and split that it was trained on, found another folder'):
        loop.train(moved.with_changes({'train.steps': '14'}), workdir, show_progress=False)


# Killed in the middle of an epoch, while a checkpoint is being written, and between a checkpoint and its log line.
KILLS = {
    'step': """
step = loop.report.Log.write
def write(self, number, values):
    step(self, number, values)
    if number == 3: kill()
loop.report.Log.write = write
""",
    'checkpoint': """
import threading, time
def watch():
    while not [p for p in (workdir / 'checkpoints').glob('*tmp*') if any(p.rglob('*'))] : time.sleep(0.0005)
    kill()
def save(self, *args, save=loop.Checkpoints.save, **kwargs):
    if args[0] == 8: threading.Thread(target=watch, daemon=True).start()
    save(self, *args, **kwargs)
loop.Checkpoints.save = save
""",
    'after': """
def save(self, *args, save=loop.Checkpoints.save, **kwargs):
    save(self, *args, **kwargs)
    kill()
loop.Checkpoints.save = save
""",
    # Ctrl-C: a checkpoint is saved at the next step.
    'interrupt': """
step = loop.report.Log.write
def write(self, number, values):
    step(self, number, values)
    if number == 5: os.kill(os.getpid(), signal.SIGINT)
loop.report.Log.write = write
""",
    None: '',
}


def run_and_die(config, workdir, kill):
    code = f"""
import json, os, pathlib, signal, sys
from jax_reparam import errors
from jax_reparam.config import Recipe
from jax_reparam.train import loop
workdir = pathlib.Path({str(workdir)!r})
kill = lambda: os.kill(os.getpid(), signal.SIGKILL)
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests in the background has it ignored
{KILLS[kill]}
recipe = Recipe.from_json(json.loads({json.dumps(config.as_json())!r}))
errors.run(lambda: loop.train(recipe, workdir, show_progress=False) and 0)
"""
    done = subprocess.run([sys.executable, '-c', code], check=False, capture_output=True, text=True)
    expected = {None: 0, 'interrupt': 130}.get(kill, -signal.SIGKILL)
    assert done.returncode == expected, done.stderr[-2000:]
    return done.stderr


def final_state(workdir: Path) -> dict[str, bytes]:
    """The last checkpoint's whole training state, and the chosen one's variables, as bytes by path."""
    import orbax.checkpoint as ocp

    folders = sorted((int(p.name), p) for p in (workdir / 'checkpoints').iterdir() if p.name.isdigit())
    with ocp.PyTreeCheckpointer() as reader:
        last = reader.restore(folders[-1][1] / 'state')
    chosen = checkpoint.load(workdir)
    tree = {'last': last, 'chosen': chosen.variables, 'step': np.array([folders[-1][0], chosen.step])}
    return {
        jax.tree_util.keystr(path): np.asarray(leaf).tobytes()
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore:Sharding info not provided')
def test_a_run_killed_at_any_moment_ends_the_same_bit_for_bit(source, trained, tmp_path):
    config, reference, result = trained
    workdir = tmp_path / 'w'
    for kill in ('step', 'after', 'interrupt', 'checkpoint', None):
        said = run_and_die(config, workdir, kill)
        if kill == 'interrupt':
            assert said == 'interrupted; step 7 is saved, and the same command goes on from it\n'
            assert checkpoint.last(workdir / 'checkpoints').name == '7'
            assert checkpoint.load(workdir).step == 4  # the one that was validated
            flip(biggest(workdir / 'checkpoints' / '7' / 'state'))
        if kill == 'checkpoint':
            assert '7: expected a whole checkpoint, found a damaged one' in said
            assert said.endswith('set aside as 7.damaged\n')
    expected, got = final_state(reference), final_state(workdir)
    assert expected.keys() == got.keys()
    assert [name for name in expected if expected[name] != got[name]] == []
    assert untimed(json.loads((workdir / 'result.json').read_text())) == untimed(result)
    found, expected = (
        [untimed(json.loads(line)) for line in (run / 'metrics.jsonl').read_text().splitlines()]
        for run in (workdir, reference)
    )
    assert found == expected
