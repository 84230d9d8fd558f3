"""Starting from another model: the same function, a new classifier for other labels, and nobody is heard twice."""

from __future__ import annotations

import json
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers import QUICK, pattern, recipe, tones
from jax_reparam import checkpoint, manifest, models, reparam
from jax_reparam.config import Recipe
from jax_reparam.data import pipeline
from jax_reparam.errors import InputError
from jax_reparam.train import loop, warm_start

NEW = 'params/head/classifier'


@pytest.fixture(scope='module')
def others(tmp_path_factory):
    """A recipe for speakers of three tones, whose labels are not those of `workdir`."""
    root = tmp_path_factory.mktemp('others')
    changes = QUICK | {'train__steps': 1, 'train__eval_every': 1, 'train__average': 0.0, 'data__protocol': 'all'}
    return recipe(tones(root / 'source', labels=('a', 'b', 'c'), speakers=3), root / 'cache', **changes)


def begun(config, source, **changes):
    """(model, fresh variables, those that a recipe begins with, what it begins with)."""
    changes = {name.replace('__', '.'): value for name, value in changes.items()}
    config = config.with_changes({'train.init': str(source), 'data.protocol': 'all', **changes})
    data = pipeline.load_data(config, show_progress=False)
    begin = warm_start.read(config, data)
    model = models.build(config.model, config.hrf, n_classes=len(data.corpus.labels))
    example = jnp.zeros((1, config.window_config.frames, config.frontend.n_mels))
    fresh = model.init(jax.random.key(config.seed), example)
    return model, fresh, begin(fresh, jax.random.key(1)), begin


def test_the_same_form_is_taken_as_it_is(config, workdir, variables):
    _, _, made, begin = begun(config, workdir)
    chex.assert_trees_all_equal(made, variables)
    assert begin.about.new == ()
    data = begin.inform(pipeline.load_data(config.with_changes({'data.protocol': 'all'}), show_progress=False))
    own = checkpoint.load(workdir).inputs
    for name in ('mean', 'std', 'voice_mean'):
        np.testing.assert_array_equal(getattr(data.inputs, name), getattr(own, name))


@pytest.mark.parametrize('hrf', [{'expansion': 2.0}, {'expansion': 0.0}, {'sites': ('ffn_in', 'attention')}])
def test_another_form_is_the_same_function(rng, config, workdir, variables, hrf):
    model, fresh, made, _ = begun(config, workdir, **{f'hrf__{key}': value for key, value in hrf.items()})
    chex.assert_trees_all_equal_shapes_and_dtypes(made, fresh)
    x = rng.standard_normal((4, 64, 12)).astype(np.float32)
    trained = models.build(config.model, config.hrf, n_classes=2)
    np.testing.assert_allclose(model.apply(made, x), trained.apply(variables, x), atol=1e-5)


@pytest.mark.parametrize('expansion', [4.0, 2.0])
def test_other_labels_get_a_new_classifier(others, workdir, variables, expansion):
    _, fresh, made, begin = begun(others, workdir, hrf__expansion=expansion)
    assert begin.about.new == (NEW,)
    assert begin.told == f'starts from {workdir} (step 45, trained on folder); new: {NEW}'
    plain, expected = (dict(checkpoint.leaves(reparam.dehrf(tree))) for tree in (made, variables))
    fresh = dict(checkpoint.leaves(fresh))
    assert plain.keys() == expected.keys()
    for name, leaf in plain.items():
        new = name.startswith(NEW)
        np.testing.assert_allclose(leaf, fresh[name] if new else expected[name], atol=1e-6)
    assert sum(name.startswith(NEW) for name in plain) == 2


def test_as_many_labels_of_other_names_are_other_labels(others, workdir, tmp_path):
    two = others.with_changes({'data.source': str(tones(tmp_path / 'two', labels=('low', 'high'), speakers=3))})
    assert begun(two, workdir)[3].keeps_labels  # the corpus has them in order
    two = others.with_changes({'data.source': str(tones(tmp_path / 'other', labels=('x', 'y'), speakers=3))})
    assert begun(two, workdir)[3].about.new == (NEW,)


@pytest.mark.parametrize(('changes', 'message'), [
    ({'model.heads': '4'}, 'expected model.heads 4, found 2'),
    ({'model.width': '32'}, 'expected model.width 32, found 16'),
    ({'frontend.hop_ms': '20'}, 'expected frontend.hop_ms 20, found 10'),
    ({'data.protocol': 'loso', 'data.fold': '3'}, 'expected a model that has not heard .* knows s3, s4; '),
    ({'train.init': 'nowhere'}, 'nowhere: expected a training folder or a checkpoint, found nothing'),
])  # fmt: skip
def test_what_does_not_fit_is_one_line_and_leaves_nothing(config, workdir, tmp_path, changes, message):
    config = config.with_changes({'train.init': str(workdir), **changes})
    with pytest.raises(InputError, match=pattern(message)):
        loop.train(config, tmp_path / 'w', show_progress=False)
    assert not (tmp_path / 'w').exists()


def test_leaves_that_are_not_of_the_recipe_are_named(config, workdir):
    _, fresh, _, begin = begun(config, workdir)
    leaf = begin.variables['params']['head']['classifier']
    for tree, message in (
        ({'kernel': leaf['kernel']}, f'{NEW}/bias: expected (2,), found nothing'),
        ({**leaf, 'bias': np.zeros(3, np.float32)}, f'{NEW}/bias: expected (2,), found (3,)'),
    ):
        params = begin.variables['params']
        changed = {**begin.variables, 'params': {**params, 'head': {**params['head'], 'classifier': tree}}}
        other = warm_start.WarmStart(changed, begin.inputs, True, begin.about)
        with pytest.raises(InputError, match=pattern(message)):
            other(fresh, jax.random.key(0))


def test_the_split_it_was_trained_on_may_train_it_on(config, workdir):
    data = pipeline.load_data(config, show_progress=False)
    assert warm_start.read(config.with_changes({'train.init': str(workdir)}), data).keeps_labels


def test_a_run_says_where_it_began_and_does_not_begin_again(others, workdir, tmp_path, capsys):
    source = tmp_path / 'source'
    shutil.copytree(workdir, source)
    config = others.with_changes({'train.init': str(source)})
    result = loop.train(config, tmp_path / 'w')
    assert f'starts from {source} (step 45, trained on folder); new: {NEW}\n' in capsys.readouterr().err
    digest = checkpoint.digest(checkpoint.load(workdir).variables)
    assert (result['init']['path'], result['init']['digest'], result['init']['step']) == (str(source), digest, 45)
    assert checkpoint.load(tmp_path / 'w').meta['init'] == result['init']
    own = json.loads(json.dumps(checkpoint.load(tmp_path / 'w').inputs.as_json()))
    assert own['mean'] == checkpoint.load(workdir).inputs.as_json()['mean']
    shutil.rmtree(source)  # a run that goes on needs it no more
    more = loop.train(config.with_changes({'train.steps': '2'}), tmp_path / 'w', show_progress=False)
    assert more['steps'] == 2
    assert more['init'] == result['init']


def test_the_packaged_model_is_known_by_its_name(others, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    packaged = manifest.load(manifest.PACKAGED)
    own = {f'data.{key}': getattr(others.data, key) for key in ('corpus', 'source', 'cache')}
    config = Recipe.from_json(packaged.recipe).with_changes({**own, 'train.init': 'emodb_xs'})
    begin = warm_start.read(config, pipeline.load_data(config, show_progress=False))
    assert (begin.about.path, begin.about.corpus) == (str(manifest.PACKAGED), 'emodb')
    assert len(begin.about.speakers) == 10
    model = models.build(config.model, config.hrf, n_classes=3)
    fresh = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, packaged.input.window.frames, 64)))
    made = begin(fresh, jax.random.key(0))
    assert len(reparam.hrf_sites(made)) == packaged.fold.sites == 2
    stored = dict(checkpoint.leaves(checkpoint.read_safetensors(manifest.PACKAGED / manifest.SAFETENSORS)))
    for name, leaf in checkpoint.leaves(reparam.dehrf(made)):
        if not name.startswith(NEW):
            np.testing.assert_allclose(leaf, stored[name], atol=1e-6)
    (tmp_path / 'emodb_xs').mkdir()  # a folder of that name here is meant instead
    with pytest.raises(InputError, match='emodb_xs: expected checkpoints/STEP'):
        warm_start.read(config, pipeline.load_data(config, show_progress=False))


def test_a_damaged_export_is_one_line(others, tmp_path):
    shutil.copytree(manifest.PACKAGED, tmp_path / 'out')
    (tmp_path / 'out' / manifest.SAFETENSORS).write_bytes(b'no model')
    config = others.with_changes({'train.init': str(tmp_path / 'out')})
    with pytest.raises(InputError, match=r'model\.safetensors: expected a model, found: '):
        warm_start.read(config, pipeline.load_data(config, show_progress=False))
