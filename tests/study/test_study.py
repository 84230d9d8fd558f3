"""Studies: what a file declares is what is planned, each run is one line, and pairs differ in their arm alone."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import shutil
import subprocess

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers import QUICK, drawn, pattern, recipe
from jax_reparam import checkpoint, reparam, system
from jax_reparam.commands import study as command
from jax_reparam.config import HRFConfig
from jax_reparam.data import export_data
from jax_reparam.errors import InputError
from jax_reparam.layers import ConvShape, conv_norm
from jax_reparam.study import evidence, planning, training
from jax_reparam.study.statistics import Clips, Difference
from jax_reparam.train import loop

FILE = """
recipes = ["tiny.py"]
corpora = ["folder"]
seeds = [0, 1]
folds = [0, 1]

[changes]
"hrf.init" = "orthonormal"

[families.plain]
changes = { "hrf.expansion" = 0.0 }

[families.hrf]

[[contrasts]]
family = "hrf"
less = "plain"
phase = "primary"
"""
TUNED = """
recipes = ["tiny.py"]
corpora = ["folder"]
seeds = [0]

[tuning]
seeds = [9]

[families.plain]
changes = { "hrf.expansion" = 0.0 }
arms = [{ "train.learning_rate" = 1e-3 }, { "train.learning_rate" = 2e-3 }]

[families.hrf]
arms = [{ "train.learning_rate" = 1e-3 }, { "train.learning_rate" = 2e-3 }]
"""
WHICH = ('tiny', 'folder')
SPEAKERS = {fold: [f's{fold}'] for fold in range(5)}


def write(folder, text=FILE):
    """A study file and its recipe; returns the study."""
    folder.mkdir(parents=True, exist_ok=True)
    changes = {**QUICK, 'augment__field': 0.0, 'train__steps': 6}
    small = recipe('', '', **changes).as_json()
    (folder / 'tiny.py').write_text(
        f'from jax_reparam.config import Recipe\ndef get_config(corpus): return Recipe.from_json({small!r})\n'
    )
    (folder / 'study.toml').write_text(text)
    return folder / 'study.toml'


@pytest.fixture(scope='module')
def worker(source, tmp_path_factory):
    """A worker that has trained `FILE`."""
    root = tmp_path_factory.mktemp('study')
    places = {'cache': str(root / 'cache'), 'keep': root / 'kept', 'show_progress': False}
    worker = training.Worker(planning.load(write(root)), {'folder': str(source)}, **places)
    assert worker.work() == 8
    return worker


def runs(worker):
    return list(worker.plan.compared(WHICH, SPEAKERS, {}))


def test_each_run_is_one_line(worker):
    lines = worker.lines.read()
    assert [(line['seed'], line['fold'], line['family']) for line in lines] == [
        (seed, fold, family) for seed in (0, 1) for fold in (0, 1) for family in ('plain', 'hrf')
    ]
    line = lines[1]
    assert line['speakers'] == {'train': ['s2', 's3', 's4'], 'validation': ['s1'], 'test': ['s0']}
    assert line['key'] == planning.key(0, 0) == line['recipe']['seed']
    assert line['recipe']['data']['source'] == ''
    assert 0 < line['loss'] < 2
    assert 0 <= line['clipped'] <= 1
    assert line['parameters'] == checkpoint.count(kept(worker, runs(worker)[1]).variables['params'])
    for part, speaker in (('validation', 's1'), ('test', 's0')):
        assert line[part]['id'] == [f'{label}/{speaker}/{n}.wav' for label in ('high', 'low') for n in range(3)]
        assert line[part]['label'] == [0, 0, 0, 1, 1, 1]
        assert np.sum(line[part]['probabilities'], axis=1) == pytest.approx(1, abs=1e-5)
        assert all(round(p, 6) == p for row in line[part]['probabilities'] for p in row)


def test_runs_that_have_a_line_are_not_trained_again(worker):
    before = worker.lines.path.read_bytes()
    assert worker.work() == 0
    assert worker.lines.path.read_bytes() == before


def kept(worker, run):
    return checkpoint.load(worker.keep / 'tiny-folder' / run.family / run.identity)


def test_kept_models_are_those_that_were_scored_and_can_be_exported(worker):
    run = runs(worker)[1]
    trained = kept(worker, run)
    data = export_data.load_data(trained, show_progress=False)
    [line] = [line for line in worker.lines.read() if line['digests']['recipe'] == run.identity]
    predict = loop.Predictor(training.Arm(run.recipe, data, 1).model)
    assert np.array_equal(loop.clips(predict, trained.variables, data, 'test').round(6), line['test']['probabilities'])
    reparam.dehrf(trained.variables['params'], strict=True)


def test_a_run_is_what_train_py_trains(worker, tmp_path):
    run = runs(worker)[1]
    loop.train(worker._placed(run.recipe), tmp_path / 'w', show_progress=False)
    lines = [json.loads(line) for line in (tmp_path / 'w' / 'metrics.jsonl').read_text().splitlines()]
    losses = [line['loss'] for line in lines if 'loss' in line]
    data = worker._of(run)
    _, found, _ = training.Arm(run.recipe, data, 1).train([run.recipe], [data], lambda loss: None)
    np.testing.assert_allclose(found[:, 0], losses, rtol=1e-4)


def test_runs_of_one_program_are_those_trained_one_by_one(worker):
    mine = [run for run in runs(worker) if run.family == 'hrf']
    folds = [worker._of(run) for run in mine]
    of = lambda which: training.Arm(mine[0].recipe, folds[0], len(which)).train(
        [mine[i].recipe for i in which], [folds[i] for i in which], lambda loss: None
    )
    _, together, norms = of([0, 1, 2, 3])
    assert together.shape == norms.shape == (6, 4)
    _, alone, norm = of([2])
    np.testing.assert_allclose(together[:, 2], alone[:, 0], rtol=1e-4)
    np.testing.assert_allclose(norms[:, 2], norm[:, 0], rtol=1e-2)
    assert not np.allclose(together[:, 1], alone[:, 0], rtol=1e-2)


TAUGHT = FILE.replace('[[contrasts]]', '[families.student]\nteacher = "plain"\n\n[[contrasts]]')


@pytest.mark.parametrize('together', [1, 4])
def test_a_family_teaches_another(source, tmp_path, together):
    """All its runs of the fold do, and none of another fold."""
    plan = planning.load(write(tmp_path, TAUGHT))
    places = {'folder': str(source)}, {'cache': str(tmp_path / 'cache'), 'show_progress': False}
    with pytest.raises(InputError, match=r'families.student.teacher: expected --keep FOLDER, found none'):
        training.Worker(plan, places[0], **places[1]).work()
    worker = training.Worker(plan, places[0], keep=tmp_path / 'kept', **places[1])
    *teachers, run = runs(worker)
    with contextlib.ExitStack() as claims:  # not before they are trained, by whatever worker
        assert worker._claim([run], together, claims) == []
    assert worker.work(together=together) == 12
    assert worker.lines.done().keys() == {one.identity for one in [*teachers, run]}
    assert run.teachers == {one.identity for one in teachers if (one.family, one.fold) == ('plain', run.fold)}
    [line] = [line for line in worker.lines.read() if line['digests']['recipe'] == run.identity]
    assert not any(str(tmp_path) in place for place in line['recipe']['train']['teacher'])
    loop.train(worker._placed(run.recipe), tmp_path / 'w', show_progress=False)
    alone = [json.loads(text) for text in (tmp_path / 'w' / 'metrics.jsonl').read_text().splitlines()]
    assert np.mean([one['loss'] for one in alone if 'loss' in one]) == pytest.approx(line['loss'], rel=1e-4)


def test_arms_of_a_pair_begin_as_one_function(worker, rng):
    plain, hrf = runs(worker)[:2]
    assert (plain.fold, plain.seed, plain.recipe.seed) == (hrf.fold, hrf.seed, hrf.recipe.seed)
    x = rng.standard_normal((3, 64, 12)).astype(np.float32)
    logits = []
    for run in (plain, hrf):
        arm = training.Arm(run.recipe, worker._of(run), 1)
        logits.append(arm.predict(jax.device_get(arm._start(np.uint32(run.recipe.seed)).variables), x))
    assert np.abs(logits[0]).max() > 0.1
    np.testing.assert_allclose(*logits, atol=1e-5)


def test_arms_of_a_pair_see_the_same_batches(worker):
    first = [next(worker._of(run).batches(size=8, seed=run.recipe.seed, start=0)) for run in runs(worker)]
    for name in first[0]:
        assert np.array_equal(first[0][name], first[1][name])
    # Folds 0 and 1 of a seed, and the seeds of a fold, do not.
    assert not np.array_equal(first[0]['codes'], first[2]['codes'])
    assert not np.array_equal(first[0]['codes'], first[4]['codes'])


def test_keys_depend_on_seed_and_fold():
    keys = {planning.key(seed, fold) for seed in range(100) for fold in range(10)}
    assert len(keys) == 1000
    assert all(0 <= one < 1 << 31 for one in keys)


STRIDED = ConvShape(5, (3, 3), (2, 2), ((0, 1), (1, 2)))
DEPTHWISE = ConvShape(4, (5,), (1,), ((2, 2),), groups=4)


class ConvNorm(nn.Module):
    """A convolution and its normalisation, plain or as branches."""

    shape: ConvShape
    hrf: HRFConfig

    @nn.compact
    def __call__(self, x):
        return conv_norm(self.shape, x, None, self.hrf, train=False, names=('conv', 'norm'))


@pytest.mark.parametrize('shape', [STRIDED, DEPTHWISE], ids=['strided', 'depthwise'])
@pytest.mark.parametrize('expansion', [0.0, 1.0], ids=['plain', 'branches'])
def test_convolutions_as_products(rng, shape, expansion):
    model = ConvNorm(shape, HRFConfig(expansion=expansion, branches=4))
    x = jnp.asarray(rng.standard_normal((2, 9, 7, 3) if shape is STRIDED else (2, 9, 4)), jnp.float32)
    variables = drawn(jax.eval_shape(model.init, jax.random.key(0), x))
    with nn.intercept_methods(training.products):
        text = str(jax.make_jaxpr(model.apply)(variables, x))
        found = model.apply(variables, x)
    assert 'conv_general_dilated' not in text
    np.testing.assert_allclose(found, model.apply(variables, x), atol=1e-5, rtol=1e-5)


def test_a_run_that_diverges_is_a_line_and_is_not_repeated(source, tmp_path):
    text = FILE.replace('"hrf.init"', '"train.clip_norm" = 0.0\n"train.learning_rate" = 1e6\n"hrf.init"')
    text = text.replace('seeds = [0, 1]', 'seeds = [0]').replace('folds = [0, 1]', 'folds = [0]')
    text = text[: text.index('[families.hrf]')]
    places = {'cache': str(tmp_path / 'cache'), 'show_progress': False}
    worker = training.Worker(planning.load(write(tmp_path, text)), {'folder': str(source)}, **places)
    worker.work()
    [line] = worker.lines.read()
    assert 'expected finite numbers' in line['failed']
    assert 'test' not in line
    assert worker.work() == 0


def test_a_run_that_another_worker_has_is_left_to_it(worker, monkeypatch):
    [*_, run] = runs(worker)
    lines = planning.Lines(worker.lines.path.with_name('other.jsonl'))
    monkeypatch.setattr(worker, 'lines', lines)
    with system.alone(lines.path.with_suffix('.running') / run.identity), contextlib.ExitStack() as stack:
        assert worker._claim([run], 1, stack) == []
    with contextlib.ExitStack() as stack:
        assert worker._claim([run], 1, stack) == [run]
    # What another one finished while this one waited is not trained again.
    lines.append({'phase': 'primary', 'device': worker.device, 'recipe': run.recipe.as_json()})
    with contextlib.ExitStack() as stack:
        assert worker._claim([run], 1, stack) == []


# The file of results.


def test_an_interrupted_line_is_lost_alone(tmp_path):
    lines = planning.Lines(tmp_path / 'lines.jsonl')
    assert lines.read() == []
    lines.append({'phase': 'tuning', 'n': 1})
    whole = lines.path.read_bytes()
    lines.path.write_bytes(whole + b'{"phase": "tun')
    assert [line['n'] for line in lines.read()] == [1]
    lines.append({'phase': 'tuning', 'n': 2})
    assert [line['n'] for line in lines.read()] == [1, 2]
    lines.path.write_bytes(b'nonsense\n' + whole)
    with pytest.raises(InputError, match=r'lines.jsonl: line 1: expected a run in JSON, found '):
        lines.read()


def test_lines_of_before_a_key_was_there_are_still_found(tmp_path):
    lines = planning.Lines(tmp_path / 'lines.jsonl')
    run = planning.load(write(tmp_path)).run('primary', WHICH, 'hrf', {}, 0, 0)
    told = run.recipe.as_json()
    del told['train']['site_rate']
    lines.append({'phase': 'primary', 'device': 'cpu', 'recipe': told})
    assert list(lines.done('cpu')) == [run.identity]
    assert lines.done('another') == {}


# What a file declares.


def validated(plan, scores):
    """Lines of all tuning runs; `scores` is the share of right decisions of an arm on the fold's validation speaker."""
    done = {}
    for run in plan.tuning(WHICH, tuple(SPEAKERS)):
        right = round(10 * scores(run))
        speaker = f's{(run.fold + 1) % 5}'
        rows = [[0.9, 0.1] if i < right else [0.1, 0.9] for i in range(10)]
        columns = {'id': [f'{speaker}/{i}' for i in range(10)], 'speaker': [speaker] * 10, 'label': [0] * 10}
        done[run.identity] = {'speakers': {'validation': [speaker]}, 'validation': {**columns, 'probabilities': rows}}
    return done


def test_tuning_chooses_on_folds_that_do_not_validate_on_the_test_speaker(tmp_path):
    plan = planning.load(write(tmp_path, TUNED))
    slow, fast = plan.study.families['hrf'].arms
    # The second arm is the better one by what it does on speaker s1 alone, the validation speaker of fold 0.
    done = validated(plan, lambda run: 0.5 if run.arm == slow else 1.0 if run.fold == 0 else 0.4)
    chosen = [plan.choose(WHICH, 'hrf', [f's{s}'], tuple(SPEAKERS), done) for s in range(5)]
    assert chosen == [fast, slow, fast, fast, fast]
    planned = {(run.fold, run.recipe.train.learning_rate) for run in plan.compared(WHICH, SPEAKERS, done)}
    assert planned == {(0, 2e-3), (1, 1e-3), (2, 2e-3), (3, 2e-3), (4, 2e-3)}
    # Until all tuning runs are there, nothing is chosen.
    del done[next(iter(done))]
    assert None in list(plan.compared(WHICH, SPEAKERS, done))


def test_an_arm_that_fails_is_not_chosen(tmp_path):
    plan = planning.load(write(tmp_path, TUNED))
    slow, fast = plan.study.families['hrf'].arms
    done = validated(plan, lambda run: 0.5 if run.arm == slow else 1.0)
    failing = [run for run in plan.tuning(WHICH, tuple(SPEAKERS)) if run.family == 'hrf' and run.arm == fast]
    done[failing[3].identity]['failed'] = 'step 3'
    assert plan.choose(WHICH, 'hrf', ['s0'], tuple(SPEAKERS), done) == slow
    for run in plan.tuning(WHICH, tuple(SPEAKERS)):
        done[run.identity]['failed'] = 'step 3'
    with pytest.raises(InputError, match=r'families.hrf: expected an arm that trains'):
        plan.choose(WHICH, 'hrf', ['s0'], tuple(SPEAKERS), done)


def test_all_arms_are_tuned_alike(tmp_path):
    plan = planning.load(write(tmp_path, TUNED))
    tuning = list(plan.tuning(WHICH, tuple(SPEAKERS)))
    assert len(tuning) == 5 * 2 * 2
    assert {run.recipe.seed for run in tuning} == {planning.key(9, fold) for fold in range(5)}


@pytest.mark.parametrize(
    ('before', 'after', 'found'),
    [
        ('seeds = [0, 1]', 'seds = [0]', "expected one of .* found 'seds'; did you mean 'seeds'?"),
        ('seeds = [0, 1]', 'seeds = []', 'seeds: expected at least one, found ()'),
        ('seeds = [0, 1]', 'seeds = ["a"]', "seeds[0]: expected a whole number, found 'a'"),
        ('seeds = [0, 1]', 'seeds = ', 'study.toml: '),
        ('tiny.py', 'none.py', 'none.py: expected a recipe, found no such file'),
        ('"hrf.expansion"', '"hrf.expanson"', "hrf: expected one of .* found 'expanson'"),
        ('"hrf.expansion" = 0.0', '"hrf.expansion" = -1.0', 'hrf.expansion: expected at least 0'),
        ('"hrf.expansion" = 0.0', '"data.fold" = "1"', 'data.fold: expected a key that all runs of a study can share'),
        ('less = "plain"', 'less = "plan"', "contrasts[0].less: expected one of plain, hrf, found 'plan'"),
        ('[families.hrf]', '[families.hrf]\nphase = "exploratory"', 'contrasts[0].phase: expected exploratory'),
        ('[families.hrf]', '[families.hrf]\narms = [{}, {}]', 'expected as many arms in each, found plain 1, hrf 2'),
        ('[families.plain]', '[tuning]\nseeds = [5]\n[families.plain]', 'tuning: expected it where families have'),
    ],
)
def test_mistakes_in_a_file_are_one_line(tmp_path, before, after, found):
    assert before in FILE
    path = write(tmp_path, FILE.replace(before, after))
    with pytest.raises(InputError, match=pattern(found)) as error:
        planning.load(path)
    assert str(error.value).startswith(str(tmp_path))
    assert '\n' not in str(error.value)


@pytest.mark.parametrize(
    ('text', 'found'),
    [
        (TAUGHT.replace('"plain"\n', '"student"\n'), 'expected a family without a teacher, found '),
        (TAUGHT.replace('teacher = "plain"', 'teacher = "plane"'), 'expected one of plain, hrf, student, found '),
        (f'{TUNED}teacher = "plain"\n', 'expected none where arms are tuned, found '),
    ],
)
def test_who_can_teach(tmp_path, text, found):
    with pytest.raises(InputError, match=rf'families.\w+.teacher: {found}'):
        planning.load(write(tmp_path, text))


def test_tuning_seeds_are_others_than_the_studys(tmp_path):
    with pytest.raises(InputError, match=r'tuning.seeds: expected seeds that the study does not have, found \[0\]'):
        planning.load(write(tmp_path, TUNED.replace('seeds = [9]', 'seeds = [9, 0]')))


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match=r'none.toml: expected a study in TOML'):
        planning.load(tmp_path / 'none.toml')


@pytest.mark.parametrize('protocol', ['random', 'all'])
def test_protocols_without_fixed_tests_are_refused(source, tmp_path, protocol):
    text = FILE.replace('[changes]', f'[changes]\n"data.protocol" = "{protocol}"')
    places = {'cache': str(tmp_path / 'cache'), 'show_progress': False}
    with pytest.raises(InputError, match=f'expected one that tests and validates, and draws nothing, found {protocol}'):
        training.Worker(planning.load(write(tmp_path, text)), {'folder': str(source)}, **places).work()


def test_a_choice_without_its_tuning_runs_is_refused(source, tmp_path):
    places = {'cache': str(tmp_path / 'cache'), 'show_progress': False}
    worker = training.Worker(planning.load(write(tmp_path, TUNED)), {'folder': str(source)}, **places)
    with pytest.raises(InputError, match='expected all tuning runs, found fewer'):
        worker.work(['primary'])


def test_the_command_trains_and_says_so(worker, source, capsys):
    found = command.main([str(worker.plan.path), '--source', f'folder={source}'])
    assert found == 0
    assert re.search(r'study.jsonl: all runs done, 0 of them by this process', capsys.readouterr().out)


@pytest.mark.parametrize(
    ('given', 'found'),
    [
        ('folder', "--source: expected CORPUS=FOLDER, found 'folder'"),
        ('emodb=x', "--source: expected one of folder, found 'emodb'"),
    ],
)
def test_sources_are_of_the_studys_corpora(tmp_path, given, found):
    with pytest.raises(InputError, match=pattern(found)):
        command.main([str(write(tmp_path)), '--source', given])


# The page.


@pytest.fixture
def page(worker, tmp_path):
    """A study whose lines may be changed, and its page."""
    plan = planning.load(write(tmp_path))
    plan.lines.write_bytes(worker.plan.lines.read_bytes())
    evidence.write(tmp_path / 'evidence.md', [plan])
    return plan, tmp_path / 'evidence.md'


def test_the_page_says_what_the_lines_support(page):
    plan, path = page
    text = path.read_text()
    assert '| primary | 8 | 8 | 0 | 0 |' in text
    lines = planning.Lines(plan.lines).read()
    of = lambda family, seed: Clips.of([x for x in lines if (x['family'], x['seed']) == (family, seed)], 'test')
    uar = [np.mean([100 * of(family, seed).score('uar') for seed in (0, 1)]) for family in ('hrf', 'plain')]
    assert f'| hrf - plain | UAR | {uar[0] - uar[1]:+.1f} |' in text
    assert re.search(r'^- hrf (gains over|loses to|shows no gain over) plain', text, re.MULTILINE)
    assert 'By the first 2 seeds, 2 seeds detect a difference hrf - plain of' in text
    assert {one.name for one in path.parent.glob('*.svg')} == {'evidence_differences.svg', 'evidence_size.svg'}
    before = {one.name: one.read_text() for one in path.parent.glob('*.svg')}
    evidence.write(path, [plan])
    assert {one.name: one.read_text() for one in path.parent.glob('*.svg')} == before
    assert path.read_text() == text


def test_one_changed_probability_changes_the_page(page):
    plan, path = page
    text, lines = path.read_text(), planning.Lines(plan.lines).read()
    lines[3]['test']['probabilities'][2] = [0.123456, 0.876544]
    plan.lines.write_text(''.join(json.dumps(line, separators=(',', ':')) + '\n' for line in lines))
    evidence.write(path, [plan])
    changed = [(a, b) for a, b in zip(text.splitlines(), path.read_text().splitlines(), strict=True) if a != b]
    assert any('study.jsonl' in a for a, _ in changed)
    assert any(a.startswith('| hrf | ') for a, _ in changed)


def test_failed_and_missing_runs_are_counted_and_their_seeds_left_out(page):
    plan, path = page
    lines = planning.Lines(plan.lines).read()
    lines[3]['failed'] = 'step 3'
    stranger = {**lines[0], 'recipe': {**lines[0]['recipe'], 'seed': 5}}
    kept = [*lines[:-1], stranger]
    plan.lines.write_text(''.join(json.dumps(line) + '\n' for line in kept))
    evidence.write(path, [plan])
    text = path.read_text()
    assert '| primary | 8 | 6 | 1 | 1 |' in text
    assert '1 more runs are in the result file and not in the plan.' in text
    assert '| hrf - plain |' not in text  # no seed is whole


@pytest.mark.parametrize('corpora', ['one', 'two'])
def test_contrasts_are_pooled_over_recipes_and_corpora(worker, tmp_path, corpora):
    plan = planning.load(write(tmp_path))
    lines = worker.lines.read()
    other = [{**line, 'corpus': 'savee' if corpora == 'two' else line['corpus']} for line in lines]
    for line in other:  # HRF is always right there, and the plain model never
        line['recipe'] = {**line['recipe'], 'train': {**line['recipe']['train'], 'batch_size': 4}}
        right = np.eye(2)[line['test']['label']]
        line['test'] = {
            **line['test'],
            'probabilities': (right if line['family'] == 'hrf' else right[:, ::-1]).tolist(),
        }
    again = tmp_path / 'again'
    text = FILE.replace('"folder"', f'"{other[0]["corpus"]}"').replace(
        '"hrf.init"', '"train.batch_size" = 4\n"hrf.init"'
    )
    second = planning.load(write(again, text))
    for one, had in ((plan, lines), (second, other)):
        for line in had:
            planning.Lines(one.lines).append(line)
    sections = list(evidence.sections([plan, second]))
    first, last = [one.differences[0].found for one in sections]
    assert last.mean == 1.0
    found = evidence.pooled(sections)[0].found
    assert found.mean == pytest.approx((first.mean + last.mean) / 2)
    # Of one corpus the same speakers are averaged first; those of another are more of them.
    contrast = plan.study.contrasts[0]
    tables = [one.paired(contrast, [0, 1], 'uar') for one in sections]
    expected = [np.mean(tables, axis=0)] if corpora == 'one' else tables
    assert found == evidence.statistics.difference(expected)
    assert evidence.pooled(sections[:1]) == []
    evidence.write(tmp_path / 'evidence.md', [plan, second])
    assert '## Over all recipes and corpora (cpu)' in (tmp_path / 'evidence.md').read_text()


@pytest.mark.parametrize(
    ('low', 'high', 'said'),
    [
        (1.0, 3.0, 'a gains over b: at least 100.0 points.'),
        (-3.0, -1.0, 'a loses to b: at least 100.0 points.'),
        (
            -0.01,
            0.02,
            'a shows no gain over b: the interval excludes gains above 2.0 points and losses above 1.0 points.',
        ),
    ],
)
def test_a_null_says_what_it_excludes(low, high, said):
    found = Difference((low + high) / 2, low, high, 1, 9, 0.5, 0.5, 0.95)
    assert evidence.verdict(evidence.Compared('a - b', 'uar', found, 0.1)) == said
    # Less cross-entropy is better.
    flipped = dataclasses.replace(found, mean=-found.mean, low=-high, high=-low)
    assert evidence.verdict(evidence.Compared('a - b', 'nll', flipped)).split()[:3] == said.split()[:3]


def test_baselines_stand_beside(worker, tmp_path):
    plan = planning.load(write(tmp_path, 'baselines = "others.jsonl"\n' + FILE.replace('folds = [0, 1]', '')))
    lines, others = worker.lines.read(), planning.Lines(tmp_path / 'others.jsonl')
    for line in lines:
        plan.lines.open('a').close()
        # All five folds, of the clips of two.
        for fold in range(line['fold'], 5, 2):
            recipe = {**line['recipe'], 'seed': planning.key(line['seed'], fold)}
            recipe['data'] = {**recipe['data'], 'fold': str(fold)}
            test = {
                **line['test'],
                'id': [f'{fold}/{name}' for name in line['test']['id']],
                'speaker': [f's{fold}'] * 6,
            }
            speakers = {**line['speakers'], 'test': [f's{fold}']}
            line = {**line, 'recipe': recipe, 'fold': fold, 'test': test, 'speakers': speakers}
            planning.Lines(plan.lines).append(line)
            if (line['family'], line['seed']) == ('plain', 0):
                right = {**test, 'probabilities': np.eye(2)[test['label']].tolist()}
                others.append(
                    {
                        'phase': 'baseline',
                        'adapted': False,
                        'name': 'sure',
                        'corpus': 'folder',
                        'fold': fold,
                        'folds': 5,
                        'test': right,
                    }
                )
    others.append(
        {'phase': 'baseline', 'adapted': False, 'name': 'half', 'corpus': 'folder', 'fold': 0, 'folds': 5, 'test': test}
    )
    published = {'name': 'paper', 'corpus': 'folder', 'uar': 0.5, 'parameters': 1234, 'note': 'n', 'source': 's'}
    others.append({'phase': 'published', **published})
    sizes = {'parameters': 1000, 'bytes': 2000, 'arena': 3000, 'instructions': 4000}
    others.append({'phase': 'cost', 'name': 'tiny', **sizes})
    evidence.write(tmp_path / 'evidence.md', [plan])
    text = (tmp_path / 'evidence.md').read_text()
    assert '| sure | folder | 100.0 | 100.0 |' in text
    assert '| paper | folder | 50.0 |  | 1,234 |' in text
    assert re.search(r'\| `tiny`, hrf \| folder \| .* \| 1,000 \| 2,000 \| 3,000 \| 4,000 \|', text)
    found = planning.Lines(plan.lines).read()
    ours = [Clips.of([x for x in found if (x['family'], x['seed']) == ('hrf', seed)], 'test') for seed in (0, 1)]
    less = np.mean([100 * one.score('uar') for one in ours]) - 100
    assert f'| hrf - sure | UAR | {less:+.1f} |' in text
    assert 'half' not in text  # of one fold


def test_a_packed_corpus_takes_the_place_of_its_folder(worker, tmp_path):
    [path] = worker.pack(tmp_path)
    assert path == tmp_path / 'folder.npz'
    away = training.Worker(worker.plan, {'folder': str(path)}, cache=str(tmp_path / 'none'), show_progress=False)
    run = runs(worker)[1]
    ours, theirs = (next(one._of(run).batches(size=8, seed=1, start=0)) for one in (worker, away))
    assert np.array_equal(ours['codes'], theirs['codes'])
    assert away.speakers(WHICH) == worker.speakers(WHICH)
    assert away.work() == 0  # the same runs
    assert not (tmp_path / 'none').exists()


@pytest.mark.skipif(shutil.which('git') is None, reason='needs git')
def test_a_line_says_which_commit_of_the_package_trained_it_and_not_that_results_grow(tmp_path):
    package, results = tmp_path / 'package', tmp_path / 'results.jsonl'
    assert training.commit(tmp_path) == ''
    package.mkdir()
    (package / 'module.py').write_text('x = 1\n')
    results.write_text('')
    who = ['-c', 'user.name=A', '-c', 'user.email=a@example.org']
    for words in (['init', '-q'], ['add', '.'], [*who, 'commit', '-qm', 'first']):
        subprocess.run(['git', *words], cwd=tmp_path, check=True)
    results.write_text('one line\n')
    training.commit.cache_clear()
    found = training.commit(package)
    assert re.fullmatch('[0-9a-f]{40}', found)
    (package / 'new.py').write_text('')
    training.commit.cache_clear()
    assert training.commit(package) == f'{found}-dirty'
