"""Layers: the training forms are one function, masks hide what they should, deploy forms change nothing."""

from __future__ import annotations

import dataclasses

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers import moved
from jax_reparam import layers, reparam
from jax_reparam.layers import HRFConfig, HRFDense

FORMS = [HRFConfig(4.0, forward, init) for forward in ('composed', 'two_step') for init in ('lecun', 'orthonormal')]


def test_expansion_0_is_nn_dense(rng):
    x = rng.standard_normal((2, 5, 6)).astype(np.float32)
    ours, flax = HRFDense(10, layers.PLAIN), nn.Dense(10)
    variables = flax.init(jax.random.key(3), x)
    assert jax.tree.structure(ours.init(jax.random.key(3), x)) == jax.tree.structure(variables)
    jax.tree.map(np.testing.assert_array_equal, ours.init(jax.random.key(3), x), variables)
    variables = moved(variables)
    np.testing.assert_array_equal(ours.apply(variables, x), flax.apply(variables, x))


@pytest.mark.parametrize('hrf', FORMS)
@pytest.mark.parametrize('use_bias', [True, False])
def test_folded_tree_is_the_plain_tree_and_the_same_function(rng, hrf, use_bias):
    with jax.enable_x64(True):
        x = rng.standard_normal((2, 5, 6))
        plain = HRFDense(10, layers.PLAIN, use_bias, param_dtype=jnp.float64)
        trained = HRFDense(10, hrf, use_bias, param_dtype=jnp.float64)
        variables = moved(trained.init(jax.random.key(0), x))
        folded = reparam.dehrf(variables, strict=True)
        expected = jax.eval_shape(plain.init, jax.random.key(0), x)
        chex.assert_trees_all_equal_shapes_and_dtypes(folded, expected)
        np.testing.assert_allclose(plain.apply(folded, x), trained.apply(variables, x), rtol=0, atol=1e-12)


def test_forwards_and_gradients_agree(rng):
    with jax.enable_x64(True):
        x = rng.standard_normal((4, 6))
        one, two = (HRFDense(10, HRFConfig(4.0, f), param_dtype=jnp.float64) for f in ('composed', 'two_step'))
        variables = moved(one.init(jax.random.key(0), x))
        loss = lambda module: lambda v: jnp.sum(jnp.sin(module.apply(v, x)))
        chex.assert_trees_all_close(jax.grad(loss(one))(variables), jax.grad(loss(two))(variables), rtol=0, atol=1e-12)


@pytest.mark.parametrize(('d', 'f', 'expansion'), [(6, 10, 4.0), (6, 10, 1.0), (12, 6, 0.5), (8, 8, 2.0)])
def test_orthonormal_start_is_the_plain_start(d, f, expansion):
    with jax.enable_x64(True):
        x = jnp.ones((1, d))
        key = jax.random.key(7)
        plain = HRFDense(f, layers.PLAIN, param_dtype=jnp.float64).init(key, x)
        trained = HRFDense(f, HRFConfig(expansion, init='orthonormal'), param_dtype=jnp.float64).init(key, x)
        np.testing.assert_allclose(
            reparam.dehrf(trained)['params']['kernel'], plain['params']['kernel'], rtol=0, atol=1e-12
        )


def test_lecun_start_keeps_the_variance_of_the_product():
    kernels = [
        reparam.dehrf(HRFDense(96, HRFConfig(4.0)).init(jax.random.key(s), jnp.ones((1, 64))))['params']['kernel']
        for s in range(4)
    ]
    # Variance 1/D; the product's standard deviation over 4 x 6144 entries is known to about 1 %.
    assert np.std(np.stack(kernels)) == pytest.approx(64**-0.5, rel=0.03)


def test_a_bottleneck_is_refused():
    with pytest.raises(ValueError, match=r'expected E >= min\(D, F\) = 8, got E = 4'):
        HRFDense(16, HRFConfig(0.5)).init(jax.random.key(0), jnp.ones((1, 8)))


@pytest.mark.parametrize('field', [{'forward': 'both'}, {'init': 'zeros'}, {'decay': 'all'}, {'expansion': -1.0}])
def test_config_names_the_wrong_field(field):
    with pytest.raises(ValueError, match=f'hrf.{next(iter(field))}: expected'):
        HRFConfig(**field)


def test_a_users_own_module_folds(rng):
    """The example of docs/method.md, with layers stacked by nn.scan."""

    class Block(nn.Module):
        hrf: HRFConfig

        @nn.compact
        def __call__(self, x, _):
            return x + nn.Dense(6)(nn.gelu(HRFDense(12, self.hrf)(x))), None

    class Net(nn.Module):
        hrf: HRFConfig

        @nn.compact
        def __call__(self, x):
            stack = nn.scan(Block, variable_axes={'params': 0}, split_rngs={'params': True}, length=3)
            return stack(self.hrf)(x, None)[0]

    x = rng.standard_normal((4, 6)).astype(np.float32)
    variables = moved(Net(HRFConfig()).init(jax.random.key(0), x))
    folded = reparam.dehrf(variables, strict=True)
    expected = jax.eval_shape(Net(layers.PLAIN).init, jax.random.key(0), x)
    chex.assert_trees_all_equal_shapes_and_dtypes(folded, expected)
    np.testing.assert_allclose(
        Net(layers.PLAIN).apply(folded, x), Net(HRFConfig()).apply(variables, x), rtol=1e-5, atol=1e-5
    )


def test_layer_norm_equals_flax_in_both_forms(rng):
    x = rng.standard_normal((2, 5, 16)).astype(np.float32) * 3 + 1
    variables = moved(layers.LayerNorm().init(jax.random.key(0), x))
    expected = nn.LayerNorm(epsilon=1e-5).apply(variables, x)
    np.testing.assert_allclose(layers.LayerNorm().apply(variables, x), expected, atol=2e-6)
    centred = x - x.mean(axis=-1, keepdims=True)
    np.testing.assert_allclose(layers.LayerNorm(deploy=True).apply(variables, centred), expected, atol=2e-6)


def test_attention_deploy_form_is_the_same_function(rng):
    x = rng.standard_normal((1, 9, 16)).astype(np.float32)
    train = layers.SelfAttention(4)
    variables = moved(train.init(jax.random.key(0), x, None, train=False))
    expected = train.apply(variables, x, None, train=False)
    deploy = layers.SelfAttention(4, deploy=True).apply(variables, x, None, train=False)
    np.testing.assert_allclose(deploy, expected, atol=1e-5)


def test_attention_equals_plain_loops(rng):
    with jax.enable_x64(True):
        x = rng.standard_normal((2, 5, 6))
        module = layers.SelfAttention(2)
        variables = jax.tree.map(
            lambda a: a.astype(np.float64), moved(module.init(jax.random.key(0), x, None, train=False))
        )
        p = variables['params']
        mask = np.array([[True] * 5, [True, True, True, False, False]])
        got = module.apply(variables, x, mask, train=False)
    q, k, v = (x @ p[n]['kernel'] + p[n]['bias'] for n in ('query', 'key', 'value'))
    for b in range(2):
        for t in range(5):
            mixed = np.zeros(6)
            for h in range(2):
                s = slice(3 * h, 3 * h + 3)
                logits = np.array([q[b, t, s] @ k[b, u, s] / np.sqrt(3) for u in range(5) if mask[b, u]])
                weights = np.exp(logits - logits.max())
                weights /= weights.sum()
                mixed[s] = sum(w * v[b, u, s] for w, u in zip(weights, np.flatnonzero(mask[b]), strict=True))
            # A masked key keeps exp(-30) of a share.
            np.testing.assert_allclose(got[b, t], mixed @ p['out']['kernel'] + p['out']['bias'], rtol=0, atol=1e-9)


def test_masked_mean(rng):
    x = rng.standard_normal((2, 4, 3)).astype(np.float32)
    mask = np.array([[True, True, False, False], [False] * 4])
    got = layers.masked_mean(x, mask)
    np.testing.assert_allclose(got[0], x[0, :2].mean(0), rtol=1e-6)
    np.testing.assert_array_equal(got[1], 0)
    np.testing.assert_allclose(layers.masked_mean(x, None), x.mean(1), rtol=1e-6)
    np.testing.assert_allclose(layers.masked_mean(x[:1], None, deploy=True), x[:1].mean(1), rtol=1e-5)


def test_sinusoids():
    table = layers.sinusoids(50, 7)
    assert table.shape == (50, 7)
    np.testing.assert_allclose(table[:, 0], np.sin(np.arange(50)), atol=1e-6)
    np.testing.assert_allclose(table[:, 3], np.cos(np.arange(50) / 10000 ** (2 / 7)), atol=1e-5)


def test_hrf_config_is_a_value():
    assert dataclasses.replace(HRFConfig(), expansion=0) == layers.PLAIN
