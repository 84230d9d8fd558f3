"""Every recipe in configs/ builds, for every corpus."""

from __future__ import annotations

import functools
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_reparam import checkpoint, config, corpora, models, reparam
from jax_reparam.config import load_recipe
from jax_reparam.data import pipeline
from jax_reparam.errors import InputError
from jax_reparam.frontend import windows
from jax_reparam.frontend.features import FrontendConfig
from jax_reparam.layers import SITES, HRFConfig
from jax_reparam.train import loop
from jax_reparam.train.augment import AugmentConfig
from jax_reparam.train.optimizer import TrainConfig, adamw

RECIPES = sorted((Path(__file__).parent.parent / 'configs').glob('*.py'))


@pytest.mark.parametrize('path', RECIPES, ids=lambda path: path.stem)
@pytest.mark.parametrize('corpus', ['', *config.CORPORA])
def test_recipes_fit_the_library(path, corpus):
    recipe = load_recipe(path, corpus)
    assert recipe['data']['corpus'] == (corpus or 'synth')
    TrainConfig(**recipe['train'])
    AugmentConfig(**recipe['augment'])
    FrontendConfig(**recipe['frontend'])
    # The two places that say how HRF is trained agree; recipes cannot import the other, which loads jax.
    assert HRFConfig(**recipe['hrf']) == HRFConfig()
    decay = (0.5 if path.stem.endswith('_xs') else 1.0) if corpus == 'emodb' else 0.01
    assert recipe['train']['weight_decay'] == decay
    seconds = {'iemocap': 6, 'iemocap/all': 6, 'daic_woz': 8, 'crema_d': 3, 'nemo': 3}.get(corpus, 4)
    assert pipeline.window_config(recipe) == windows.WindowConfig(100 * seconds, 50 * seconds)


@pytest.mark.parametrize('path', RECIPES, ids=lambda path: path.stem)
def test_recipes_fold_to_their_plain_model_with_sites_of_one_kind_and_of_all(path):
    recipe = load_recipe(path)
    x = jnp.zeros((1, 40, recipe['frontend']['n_mels']))
    key = jax.random.key(0)
    expected = jax.eval_shape(models.build(recipe['model'], n_classes=4).init, key, x)
    for sites in (recipe['hrf']['sites'], SITES):
        trained = models.build(recipe['model'], {**recipe['hrf'], 'sites': sites}, n_classes=4)
        variables = jax.eval_shape(trained.init, key, x)
        assert reparam.hrf_sites(variables)
        chex.assert_trees_all_equal_shapes_and_dtypes(jax.eval_shape(reparam.dehrf, variables), expected)


@pytest.mark.parametrize('name', ['transformer_xs', 'conformer_xs', 'speechformer_xs'])
def test_recipes_train_a_step_and_fold(rng, name):
    """One step with all four kinds of sites moves every leaf that it should; the folded logits are the same.

    A layer of each stack is enough: more of them are alike, and take as much longer to compile. So are larger recipes.
    """
    recipe = load_recipe(RECIPES[0].with_name(f'{name}.py'))
    model = {**recipe['model'], 'layers': jax.tree.map(lambda _: 1, recipe['model']['layers'])}
    hrf = {**recipe['hrf'], 'sites': SITES}
    trained, plain = (models.build(model, form, n_classes=4) for form in (hrf, None))
    batch = {
        'features': rng.standard_normal((2, 40, recipe['frontend']['n_mels'])).astype(np.float32),
        'mask': np.ones((2, 40), bool),
        'labels': np.array([1, 3], np.int32),
    }
    # The first step of a warm-up has rate 0.
    optimizer = adamw(TrainConfig(**{**recipe['train'], 'warmup_steps': 0}), recipe['hrf']['decay'])
    state = jax.jit(functools.partial(loop.init_state, trained, optimizer, seed=0))(batch['features'])
    step = loop.make_step(trained, optimizer, augmentation=AugmentConfig(**recipe['augment']))
    after, metrics = jax.jit(step)(state, batch)
    assert np.isfinite(metrics['loss'])
    still = [
        name
        for (name, old), (_, new) in zip(
            checkpoint.leaves(state.variables), checkpoint.leaves(after.variables), strict=True
        )
        if np.array_equal(old, new)
    ]
    # A key's bias moves all logits of a query alike.
    assert [name for name in still if not name.endswith(('key/bias', 'key/hrf/bias_u', 'key/hrf/bias_v'))] == []
    logits = jax.jit(trained.apply)(after.variables, batch['features'])
    folded = reparam.dehrf(after.variables, strict=True)
    got = jax.jit(plain.apply)(folded, batch['features'])
    np.testing.assert_allclose(got, logits, atol=1e-5 * max(1, np.abs(logits).max()))


def test_corpora_of_recipes_are_those_that_can_be_prepared():
    assert set(corpora.NAMES) == set(config.CORPORA)


def test_what_follows_a_slash_is_left_to_the_corpus():
    recipe = config.for_corpus(config.base(name='conv_transformer'), 'iemocap/all')
    assert recipe.data.corpus == 'iemocap/all'
    assert recipe.window.seconds == 6


def test_unknown_corpus():
    with pytest.raises(InputError, match='expected a corpus, one of'):
        config.for_corpus(config.base(name='conv_transformer'), 'emod')


def test_speech_formers_spans_follow_the_frontends_hop():
    recipe = config.speech_former(n_mels=64, learning_rate=1e-3, layers=(1, 1, 2, 2), expand=(1, 1, 1))
    recipe.frontend.hop_ms = 20
    assert recipe.to_dict()['model']['hop_ms'] == 20
