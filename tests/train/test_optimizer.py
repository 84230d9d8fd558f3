"""Weight decay at HRF sites, and the schedule."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jax_reparam import reparam
from jax_reparam.config import TrainConfig
from jax_reparam.train.optimizer import adamw, decay_direction, schedule


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
    config = TrainConfig(steps=10, warmup_steps=2, weight_decay=0.1, clip_norm=0)
    ours = adamw(config, 'none')
    theirs = optax.adamw(schedule(config), weight_decay=0.1, mask={'kernel': True, 'bias': False})
    a, b = (params, ours.init(params)), (params, theirs.init(params))
    for _ in range(5):
        updates, state = ours.update(jax.tree.map(jnp.sin, a[0]), a[1], a[0])
        a = optax.apply_updates(a[0], updates), state
        updates, state = theirs.update(jax.tree.map(jnp.sin, b[0]), b[1], b[0])
        b = optax.apply_updates(b[0], updates), state
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), a[0], b[0])
    assert not np.allclose(a[0]['kernel'], params['kernel'])


def test_schedule():
    rate = schedule(TrainConfig(steps=100, warmup_steps=10, learning_rate=2e-3))
    assert rate(0) == 0
    assert rate(10) == pytest.approx(2e-3)
    assert rate(55) == pytest.approx(1e-3)
    assert rate(100) == pytest.approx(0, abs=1e-9)
