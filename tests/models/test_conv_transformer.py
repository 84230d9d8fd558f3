"""ConvTransformer: the published sizes, exact folding, masks that hide, one function in both forms."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers import TINY, moved
from jax_reparam import models, reparam

SIZES = {
    # name: (config, parameters with 4 classes)
    'XS': ({'channels': 8, 'width': 64, 'layers': 2, 'heads': 4, 'ffn_width': 128}, 80_444),
    'S': ({'channels': 16, 'width': 96, 'layers': 4, 'heads': 4, 'ffn_width': 384}, 484_468),
    'L': ({'channels': 32, 'width': 256, 'layers': 12, 'heads': 8, 'ffn_width': 1024}, 9_685_476),
}


def init(model, frames=400, bands=64):
    return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, frames, bands)))


@pytest.mark.parametrize('size', SIZES)
def test_sizes_and_sites(size):
    fields, expected = SIZES[size]
    fields = {'name': 'conv_transformer', **fields}
    plain = init(models.build(fields, n_classes=4))
    trained = init(models.build(fields, {'expansion': 4.0}, n_classes=4))
    assert sum(leaf.size for leaf in jax.tree.leaves(plain['params'])) == expected
    assert len(reparam.hrf_sites(trained)) == fields['layers']
    folded = jax.eval_shape(lambda tree: reparam.dehrf(tree, strict=True), trained)
    chex.assert_trees_all_equal_shapes_and_dtypes(folded, plain)


@pytest.mark.parametrize('forward', ['composed', 'two_step'])
@pytest.mark.parametrize('expansion', [1.0, 4.0])
def test_folded_logits_equal_in_float64(rng, forward, expansion):
    with jax.enable_x64(True):
        x = rng.standard_normal((3, 37, 12))
        trained = models.build(TINY, {'expansion': expansion, 'forward': forward}, n_classes=5)
        variables = jax.tree.map(lambda a: a.astype(np.float64), moved(jax.jit(trained.init)(jax.random.key(0), x)))
        folded = reparam.dehrf(variables, strict=True)
        got = jax.jit(models.build(TINY, n_classes=5).apply)(folded, x)
        np.testing.assert_allclose(got, jax.jit(trained.apply)(variables, x), rtol=0, atol=1e-11)


def test_folded_logits_equal_in_float32(rng):
    x = rng.standard_normal((3, 37, 12)).astype(np.float32)
    trained = models.build(TINY, {}, n_classes=5)
    variables = moved(jax.jit(trained.init)(jax.random.key(0), x))
    got = jax.jit(models.build(TINY, n_classes=5).apply)(reparam.dehrf(variables), x)
    np.testing.assert_allclose(got, jax.jit(trained.apply)(variables, x), atol=1e-5)


def test_what_is_padded_behind_a_clip_changes_nothing(rng):
    model = models.build(TINY, {}, n_classes=3)
    variables = moved(jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 32, 12))))
    apply = jax.jit(model.apply)
    for length in (1, 2, 3, 5, 18, 31):
        x = rng.standard_normal((1, length, 12)).astype(np.float32)
        alone = apply(variables, x)
        for _ in range(3):
            behind = 100 * rng.standard_normal((1, 32 - length, 12)).astype(np.float32)
            mask = np.arange(32)[None] < length
            padded = apply(variables, np.concatenate([x, behind], axis=1), mask)
            np.testing.assert_allclose(padded, alone, atol=1e-5)


def test_padding_does_not_reach_the_batch_statistics(rng):
    model = models.build(TINY, {}, n_classes=3)
    x = rng.standard_normal((2, 20, 12)).astype(np.float32)
    variables = jax.jit(model.init)(jax.random.key(0), x)
    mask = np.broadcast_to(np.arange(32)[None] < 20, (2, 32))

    @jax.jit
    def statistics(x, mask):
        rngs = {'dropout': jax.random.key(1)}
        return model.apply(variables, x, mask, train=True, rngs=rngs, mutable=['batch_stats'])[1]

    padded = [np.pad(x, ((0, 0), (0, 12), (0, 0)), constant_values=value) for value in (0.0, 50.0)]
    chex.assert_trees_all_close(statistics(padded[0], mask), statistics(padded[1], mask), atol=1e-5)
    chex.assert_trees_all_close(statistics(padded[0], mask), statistics(x, None), atol=1e-5)


@pytest.mark.parametrize('frames', [1, 33, 64])
def test_deploy_form_is_the_same_function(rng, frames):
    x = rng.standard_normal((1, frames, 12)).astype(np.float32)
    plain = models.build(TINY, n_classes=3)
    variables = moved(jax.jit(plain.init)(jax.random.key(0), x))
    deploy = models.build(TINY, n_classes=3, deploy=True)
    ready = models.to_deploy(TINY, variables)
    np.testing.assert_allclose(jax.jit(deploy.apply)(ready, x), jax.jit(plain.apply)(variables, x), atol=1e-5)
    chex.assert_trees_all_equal_shapes_and_dtypes(ready, variables)


def test_deploy_form_is_the_same_function_in_float64(rng):
    with jax.enable_x64(True):
        x = rng.standard_normal((1, 33, 12))
        plain = models.build(TINY, n_classes=3)
        variables = jax.tree.map(lambda a: a.astype(np.float64), moved(jax.jit(plain.init)(jax.random.key(0), x)))
        deploy = models.build(TINY, n_classes=3, deploy=True)
        got = jax.jit(deploy.apply)(models.to_deploy(TINY, variables), x)
        np.testing.assert_allclose(got, jax.jit(plain.apply)(variables, x), rtol=0, atol=1e-11)


def test_deploy_form_takes_no_mask():
    deploy = models.build(TINY, n_classes=3, deploy=True)
    with pytest.raises(ValueError, match='deploy form: expected B = 1, no mask'):
        deploy.init(jax.random.key(0), jnp.zeros((1, 8, 12)), jnp.ones((1, 8), bool))


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'name': 'conv_former'}, r"model.name: expected one of \['conv_transformer'\], got 'conv_former'"),
        ({'widht': 3}, r'model.widht: expected one of'),
        ({'width': 15}, r'model.width: expected a multiple of 2 heads, got 15'),
        ({'layers': 0}, r'model.layers: expected at least 1, got 0'),
    ],
)
def test_wrong_configs_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        models.build({**TINY, **change}, n_classes=3)
