"""Weight decay and step sizes at HRF sites, and the schedule."""

from __future__ import annotations

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from helpers import RECIPE, drawn
from jax_reparam import checkpoint, models, reparam
from jax_reparam.config import PLAIN, HRFConfig, TrainConfig
from jax_reparam.train.optimizer import adamw, add_decay, decay_direction, schedule


def tree(rng):
    return {
        'site': {
            'hrf': {
                'kernel_u': rng.standard_normal((4, 8)),
                'bias_u': rng.standard_normal(8),
                'kernel_v': rng.standard_normal((8, 5)),
                'bias_v': rng.standard_normal(5),
            }
        },
        'plain': {'kernel': rng.standard_normal((5, 3)), 'bias': rng.standard_normal(3)},
        'norm': {'scale': rng.standard_normal(3), 'bias': rng.standard_normal(3)},
    }


def test_product_decay_is_the_gradient_of_the_folded_kernels_norm(rng):
    with jax.enable_x64(True):
        params = jax.tree.map(jnp.asarray, tree(rng))
        norm = lambda p: 0.5 * jnp.sum(reparam.compose(p['site']['hrf'])['kernel'] ** 2)
        expected = jax.grad(norm)(params)['site']['hrf']
        got = decay_direction(params, 'product')['site']['hrf']
        chex.assert_trees_all_close(got, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize('decay', ['none', 'factors', 'product'])
def test_kernels_decay_and_biases_and_norms_do_not(rng, decay):
    params = tree(rng)
    got = decay_direction(params, decay)
    np.testing.assert_array_equal(got['plain']['kernel'], params['plain']['kernel'])
    for leaf in (got['plain']['bias'], got['norm']['scale'], got['norm']['bias'], got['site']['hrf']['bias_u']):
        assert not np.any(leaf)
    site = got['site']['hrf']
    if decay == 'none':
        assert not np.any(site['kernel_u'])
        assert not np.any(site['kernel_v'])
    if decay == 'factors':
        np.testing.assert_array_equal(site['kernel_v'], params['site']['hrf']['kernel_v'])


@pytest.mark.parametrize('decay', ['none', 'factors', 'product'])
def test_kernels_of_branches_decay_as_a_plain_convolutions(rng, decay):
    kernels = {'kernels': rng.standard_normal((2, 3, 1, 4)), 'kernel_point': rng.standard_normal((1, 1, 4))}
    norm = {'scale': rng.standard_normal(16), 'bias': rng.standard_normal(16)}
    got = decay_direction({'conv': {'hrf': kernels, 'norm': norm}}, decay)['conv']
    weight = 0 if decay == 'none' else 1
    chex.assert_trees_all_equal(got['hrf'], jax.tree.map(lambda kernel: weight * kernel, kernels))
    assert not any(leaf.any() for leaf in got['norm'].values())


def test_plain_trees_train_like_optax_adamw(rng):
    params = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), tree(rng)['plain'])
    recipe = told(PLAIN, steps=10, warmup_steps=2)
    theirs = optax.adamw(schedule(recipe.train), weight_decay=0.1, mask={'kernel': True, 'bias': False})
    ours = adamw(recipe)
    a, b = (params, ours.init(params)), (params, theirs.init(params))
    for _ in range(5):
        updates, state = ours.update(jax.tree.map(jnp.sin, a[0]), a[1], a[0])
        a = optax.apply_updates(a[0], updates), state
        updates, state = theirs.update(jax.tree.map(jnp.sin, b[0]), b[1], b[0])
        b = optax.apply_updates(b[0], updates), state
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), a[0], b[0])
    assert not np.allclose(a[0]['kernel'], params['kernel'])


def told(hrf, **train):
    """A recipe of one layer of that training form, without warm-up and clipping; `train` are keys of `TrainConfig`."""
    train = {'weight_decay': 0.1, 'clip_norm': 0.0, 'warmup_steps': 0, **train}
    return dataclasses.replace(RECIPE, hrf=hrf, train=dataclasses.replace(RECIPE.train, **train))


def start(recipe):
    """Parameters of a recipe's model, all of them large."""
    model = models.build(recipe.model, recipe.hrf, n_classes=3)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 12)))['params']
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), drawn(shapes))


def first_update(recipe, params):
    """What the first step adds to the parameters, by path."""
    optimizer = adamw(recipe)
    updates, _ = optimizer.update(jax.tree.map(jnp.sin, params), optimizer.init(params), params)
    return dict(checkpoint.leaves(updates))


FORMS = [HRFConfig(expansion=0, sites=('attention',)), HRFConfig(expansion=2, sites=('attention',))]


@pytest.mark.parametrize('hrf', FORMS, ids=['plain', 'hrf'])
def test_the_sites_rate_multiplies_adams_step_at_their_kernels_and_not_the_decay(hrf):
    params = start(told(hrf))
    once, more = (first_update(told(hrf, site_rate=rate), params) for rate in (1.0, 4.0))
    step = first_update(told(hrf, weight_decay=0.0), params)
    changed = {name for name in once if not np.array_equal(once[name], more[name])}
    assert changed == {name for name in once if '/attention/' in name and name.split('/')[-1].startswith('kernel')}
    assert len(changed) == (4 if hrf.expansion == 0 else 8)
    for name in changed:
        np.testing.assert_allclose(more[name] - once[name], 3 * step[name], rtol=1e-3, atol=1e-8)


@pytest.mark.parametrize('hrf', FORMS, ids=['plain', 'hrf'])
def test_the_sites_decay_multiplies_the_decay_at_their_kernels_alone(hrf):
    params = start(told(hrf))
    once, none = (first_update(told(hrf, site_decay=factor), params) for factor in (1.0, 0.0))
    step = first_update(told(hrf, weight_decay=0.0), params)
    for name in once:
        at_site = '/attention/' in name and name.split('/')[-1].startswith('kernel')
        np.testing.assert_allclose(none[name], step[name] if at_site else once[name], rtol=1e-6)
        assert not at_site or not np.allclose(once[name], step[name])


def test_half_the_decay_of_both_factors_shrinks_their_product_as_a_plain_kernel(rng):
    with jax.enable_x64(True):
        params = jax.tree.map(jnp.asarray, tree(rng))
        kernel = reparam.compose(params['site']['hrf'])['kernel']
        decay = add_decay(1e-6, 'factors', factors={'site': 0.5})
        updates, _ = decay.update(jax.tree.map(jnp.zeros_like, params), decay.init(params), params)
        shrunk = reparam.compose(jax.tree.map(jnp.subtract, params, updates)['site']['hrf'])['kernel']
        np.testing.assert_allclose((kernel - shrunk) / 1e-6, kernel, rtol=1e-6, atol=1e-6)


def test_the_optimizers_state_has_one_form():
    """A run that was begun before there were such keys goes on."""
    for recipe in (told(PLAIN), told(FORMS[0], site_rate=2.0, site_decay=0.0)):
        leaves = jax.tree_util.tree_leaves_with_path(adamw(recipe).init({'w': jnp.zeros(3)}))
        names = [jax.tree_util.keystr(path, simple=True, separator='/') for path, _ in leaves]
        assert names == ['1/count', '1/mu/w', '1/nu/w', '3/count']


def test_schedule():
    rate = schedule(TrainConfig(steps=100, warmup_steps=10, learning_rate=2e-3))
    assert rate(0) == 0
    assert rate(10) == pytest.approx(2e-3)
    assert rate(55) == pytest.approx(1e-3)
    assert rate(100) == pytest.approx(0, abs=1e-9)


def test_the_peak_is_held():
    rate = schedule(TrainConfig(steps=100, warmup_steps=20, hold=0.75, learning_rate=2e-3))
    assert [float(rate(step)) for step in (10, 20, 50, 80)] == pytest.approx([1e-3, 2e-3, 2e-3, 2e-3])
    assert rate(90) == pytest.approx(1e-3)
    assert rate(100) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(('steps', 'warmup'), [(20, 5), (1, 5), (3, 0)])
def test_without_a_hold_it_is_optax_warmup_and_cosine(steps, warmup):
    at = jnp.arange(steps + 1)
    ours = schedule(TrainConfig(steps=steps, warmup_steps=warmup, learning_rate=2e-3))
    theirs = optax.warmup_cosine_decay_schedule(0.0, 2e-3, min(warmup, steps - 1), steps)
    np.testing.assert_array_equal(jax.vmap(ours)(at), jax.vmap(theirs)(at))
