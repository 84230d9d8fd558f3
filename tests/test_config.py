"""Every recipe in configs/ builds, for every corpus."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import pytest

from jax_reparam import config, corpora, models, pipeline, reparam
from jax_reparam.augment import AugmentConfig
from jax_reparam.errors import InputError
from jax_reparam.features import FrontendConfig
from jax_reparam.layers import HRFConfig
from jax_reparam.optimizer import TrainConfig

RECIPES = sorted((Path(__file__).parent.parent / 'configs').glob('*.py'))


def get_config(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config


@pytest.mark.parametrize('path', RECIPES, ids=lambda path: path.stem)
@pytest.mark.parametrize('corpus', ['', *config.CORPORA])
def test_recipes_fit_the_library(path, corpus):
    recipe = get_config(path)(corpus).to_dict()
    assert recipe['data']['corpus'] == (corpus or 'synth')
    TrainConfig(**recipe['train'])
    AugmentConfig(**recipe['augment'])
    FrontendConfig(**recipe['frontend'])
    HRFConfig(**recipe['hrf'])
    assert pipeline.window_config(recipe).frames == 400


@pytest.mark.parametrize('path', RECIPES, ids=lambda path: path.stem)
def test_recipes_fold_to_their_plain_model(path):
    recipe = get_config(path)().to_dict()
    x = jnp.zeros((1, 400, 64))
    trained = models.build(recipe['model'], recipe['hrf'], n_classes=4)
    plain = models.build(recipe['model'], {**recipe['hrf'], 'expansion': 0.0}, n_classes=4)
    variables = jax.eval_shape(trained.init, jax.random.key(0), x)
    assert reparam.hrf_sites(variables)
    expected = jax.eval_shape(plain.init, jax.random.key(0), x)
    chex.assert_trees_all_equal_shapes_and_dtypes(jax.eval_shape(reparam.dehrf, variables), expected)


def test_corpora_of_recipes_are_those_that_can_be_prepared():
    assert set(config.CORPORA) == set(corpora.NAMES)


def test_unknown_corpus():
    with pytest.raises(InputError, match='expected a corpus, one of'):
        config.for_corpus(config.base(), 'emod')
