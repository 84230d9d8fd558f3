"""Deploy forms: the folded model's function, to rounding."""

from __future__ import annotations

import dataclasses
import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers import TINY_MODELS, drawn
from jax_reparam import deploy, models

# Not a multiple of any stride or merge, and a single frame.
FRAMES = [1, 33, 64, 103]


@functools.cache
def plain(name):
    """The plain model under jit, and its variables in float64."""
    model = models.build(TINY_MODELS[name], n_classes=3)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8, 12)))
    return jax.jit(model.apply), drawn(shapes)


def deployed(name):
    """The deploy form under jit: maps its parameters and features to logits."""
    return jax.jit(functools.partial(deploy.apply, TINY_MODELS[name]))


@pytest.mark.parametrize('frames', FRAMES)
@pytest.mark.parametrize('name', TINY_MODELS)
def test_deploy_form_is_the_same_function_in_float64(rng, name, frames):
    apply, variables = plain(name)
    with jax.enable_x64(True):
        x = rng.standard_normal((1, frames, 12))
        params = deploy.prepare(TINY_MODELS[name], variables, frames)
        got = deployed(name)(params, x)
        np.testing.assert_allclose(got, apply(variables, x), rtol=0, atol=1e-11)


@pytest.mark.parametrize('name', TINY_MODELS)
def test_deploy_form_is_the_same_function_in_float32(rng, name):
    apply, variables = plain(name)
    x, plain_variables = rng.standard_normal((1, 37, 12)).astype(np.float32), jax.tree.map(np.float32, variables)
    function = deploy.build(TINY_MODELS[name], plain_variables, 37)
    np.testing.assert_allclose(jax.jit(function)(x), apply(plain_variables, x), atol=1e-5)
    # Its parameters are rounded once, from float64.
    with jax.enable_x64(True):
        prepared = deploy.prepare(TINY_MODELS[name], variables, 37)
    chex.assert_trees_all_equal(function.args[1], jax.tree.map(np.float32, prepared))


def test_a_conformer_with_statistics_and_deltas_is_deployed(rng):
    config = dataclasses.replace(TINY_MODELS['conformer'], pooling='statistics', deltas=True)
    model = models.build(config, n_classes=3)
    variables = drawn(jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8, 12))))
    with jax.enable_x64(True):
        x = rng.standard_normal((1, 33, 12))
        got = jax.jit(functools.partial(deploy.apply, config))(deploy.prepare(config, variables, 33), x)
        np.testing.assert_allclose(got, jax.jit(model.apply)(variables, x), rtol=0, atol=1e-11)


@pytest.mark.parametrize('name', TINY_MODELS)
def test_epsilon_counts(rng, name):
    """A clip so quiet that the normalisations' epsilon decides, in the stem as in the first stage of SpeechFormer."""
    apply, variables = plain(name)
    small = jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf * (1e-3 if path[1].key == 'stem' and path[2].key == 'project' else 1), variables
    )
    with jax.enable_x64(True):
        x = 1e-3 * rng.standard_normal((1, 33, 12))
        params = deploy.prepare(TINY_MODELS[name], small, 33)
        got = deployed(name)(params, x)
        np.testing.assert_allclose(got, apply(small, x), rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ('name', 'path'),
    [
        ('speech_former', 'frame_norm/scale'),
        ('speech_former', 'frame_0/attention_norm/scale'),
        ('speech_former', 'frame_0/attention/qkv/kernel'),
        ('conformer', 'layer_0/attention/position/kernel'),
        ('conformer', 'layer_0/attention/(content|position)_bias'),
    ],
)
def test_what_is_zero_divides_nothing(rng, name, path):
    """SpeechFormer's means are scaled by the size of scales and kernels, Conformer's position biases by their own."""
    apply, variables = plain(name)
    zeroed = jax.tree_util.tree_map_with_path(
        lambda keys, leaf: leaf * (not re.fullmatch(f'params/{path}', '/'.join(key.key for key in keys))), variables
    )
    assert any(not np.any(leaf) for leaf in jax.tree.leaves(zeroed))
    with jax.enable_x64(True):
        x = rng.standard_normal((1, 33, 12))
        got = deployed(name)(deploy.prepare(TINY_MODELS[name], zeroed, 33), x)
        np.testing.assert_allclose(got, apply(zeroed, x), rtol=0, atol=1e-11)


def test_prepare_is_pure_and_traceable():
    _, variables = plain('conformer')
    before = jax.tree.map(np.copy, variables)
    with jax.enable_x64(True):
        prepare = lambda tree: deploy.prepare(TINY_MODELS['conformer'], tree, 33)
        eager, traced = prepare(variables), jax.jit(prepare)(variables)
    jax.tree.map(np.testing.assert_array_equal, variables, before)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-12), eager, traced)


def test_more_frames_than_positions_are_refused():
    _, variables = plain('speech_former')
    with pytest.raises(ValueError, match='expected at most 2000 frames'):
        deploy.prepare(TINY_MODELS['speech_former'], variables, 2001)
