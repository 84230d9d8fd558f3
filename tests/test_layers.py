"""Layers: the training forms are one function, masks hide what they should, shifts shift."""

from __future__ import annotations

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers import moved
from jax_reparam import layers, reparam
from jax_reparam.config import HRFConfig
from jax_reparam.layers import HRFDense

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
            np.testing.assert_allclose(got[b, t], mixed @ p['out']['kernel'] + p['out']['bias'], rtol=0, atol=1e-12)


def test_pooled_statistics_are_of_the_real_frames(rng):
    x = rng.standard_normal((2, 9, 5)).astype(np.float32)
    mask = np.arange(9) < np.array([[4], [9]])
    got = layers.pool(x, mask, 'statistics')
    for clip, length in enumerate((4, 9)):
        expected = np.concatenate([x[clip, :length].mean(0), np.sqrt(x[clip, :length].var(0) + layers.EPSILON)])
        np.testing.assert_allclose(got[clip], expected, rtol=1e-5)
    np.testing.assert_array_equal(layers.pool(x, mask, 'mean'), layers.masked_mean(x, mask))
    # A clip that never moves, and one without a real frame.
    still = jax.grad(lambda x: layers.pool(x, mask, 'statistics').sum())(jnp.ones_like(x))
    nothing = jax.grad(lambda x: layers.pool(x, mask & False, 'statistics').sum())(x)
    assert np.isfinite(still).all()
    assert np.isfinite(nothing).all()


def test_deltas_of_a_slope_and_of_noise(rng):
    ramp = np.arange(20, dtype=np.float32)[None, :, None] * np.ones((1, 1, 2), np.float32)
    got = np.asarray(layers.deltas(ramp))[:, 4:-4]
    np.testing.assert_allclose(got[..., 0], ramp[:, 4:-4])
    np.testing.assert_allclose(got[..., 1], 10**0.5, rtol=1e-6)
    np.testing.assert_allclose(got[..., 2], 0, atol=1e-5)
    noise = np.asarray(layers.deltas(rng.standard_normal((1, 20000, 2)).astype(np.float32)))
    np.testing.assert_allclose(noise.std(axis=(0, 1, 2)), 1, rtol=0.05)


def test_masked_mean(rng):
    x = rng.standard_normal((2, 4, 3)).astype(np.float32)
    mask = np.array([[True, True, False, False], [False] * 4])
    got = layers.masked_mean(x, mask)
    np.testing.assert_allclose(got[0], x[0, :2].mean(0), rtol=1e-6)
    np.testing.assert_array_equal(got[1], 0)
    np.testing.assert_allclose(layers.masked_mean(x, None), x.mean(1), rtol=1e-6)


def test_sinusoids():
    table = layers.sinusoids(np.arange(50), 7)
    assert table.shape == (50, 7)
    np.testing.assert_allclose(table[:, 0], np.sin(np.arange(50)), atol=1e-6)
    np.testing.assert_allclose(table[:, 3], np.cos(np.arange(50) / 10000 ** (2 / 7)), atol=1e-5)


def test_sinusoids_of_signed_distances():
    table = layers.sinusoids(np.array([3, -3]), 6)
    np.testing.assert_allclose(table[0, 0::2], -table[1, 0::2])
    np.testing.assert_allclose(table[0, 1::2], table[1, 1::2])


@pytest.mark.parametrize(('queries', 'keys'), [(1, 1), (1, 4), (4, 4), (2, 5), (5, 5)])
def test_relative_shift_by_plain_loops(rng, queries, keys):
    scores = rng.standard_normal((3, queries, keys + queries - 1))
    got = layers.relative_shift(scores)
    assert got.shape == (3, queries, keys)
    for i in range(queries):
        for j in range(keys):
            np.testing.assert_array_equal(got[:, i, j], scores[:, i, queries - 1 - i + j])


def test_masked_softmax_gives_a_masked_key_nothing(rng):
    logits = rng.standard_normal((2, 1, 3, 4)).astype(np.float32)
    mask = np.array([[True, True, False, False], [False] * 4])
    got = np.asarray(layers.masked_softmax(logits, mask))
    np.testing.assert_array_equal(got[0, :, :, 2:], 0)
    np.testing.assert_allclose(got[0, :, :, :2], jax.nn.softmax(logits[0, :, :, :2]), rtol=1e-6)
    assert np.isfinite(got).all()


@pytest.mark.parametrize('rule', ['lecun_normal', 'xavier_uniform', 'zeros_init'])
def test_product_starts_with_the_plain_kernels_variance(rule):
    kernel_init = getattr(nn.initializers, rule)()
    x = jnp.ones((1, 128))
    plain = HRFDense(64, layers.PLAIN, kernel_init=kernel_init).init(jax.random.key(0), x)['params']['kernel']
    factors = [HRFDense(64, HRFConfig(), kernel_init=kernel_init).init(jax.random.key(s), x) for s in range(1, 5)]
    product = np.stack([reparam.dehrf(tree)['params']['kernel'] for tree in factors])
    # The product's deviation over 4 x 8192 entries is known to about 1 %.
    assert product.std() == pytest.approx(float(plain.std()), rel=0.03)


@pytest.mark.parametrize(
    'hrf', [layers.PLAIN, HRFConfig(), HRFConfig(forward='two_step')], ids=['plain', 'composed', 'two_step']
)
def test_it_computes_in_the_type_that_it_is_told(rng, hrf):
    x = jnp.asarray(rng.standard_normal((3, 8)), jnp.float32)
    layer = HRFDense(5, hrf, dtype=jnp.bfloat16, precision='highest')
    variables = layer.init(jax.random.key(0), x)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype('float32')}
    y = layer.apply(variables, x)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.float32(y), HRFDense(5, hrf).apply(variables, x), atol=0.1)


def test_partitioned_initialisers_name_the_factors_and_the_fold(rng):
    x = rng.standard_normal((5, 6)).astype(np.float32)
    options = {
        'kernel_init': nn.with_partitioning(nn.initializers.lecun_normal(), ('rows', 'columns')),
        'bias_init': nn.with_partitioning(nn.initializers.normal(), ('columns',)),
    }
    for form in FORMS:
        layer = HRFDense(10, form, **options)
        variables = layer.init(jax.random.key(0), x)
        factors = variables['params']['hrf']
        assert factors['kernel_u'].names == ('rows', None)
        assert factors['kernel_v'].names == (None, 'columns')
        folded = reparam.dehrf(variables)
        plain = HRFDense(10, layers.PLAIN, **options)
        expected = plain.init(jax.random.key(0), x)
        assert nn.get_partition_spec(folded) == nn.get_partition_spec(expected)
        assert jax.tree.structure(folded) == jax.tree.structure(expected)
        np.testing.assert_allclose(plain.apply(folded, x), layer.apply(variables, x), atol=1e-5)


@pytest.mark.parametrize('expansion', [0, 4.0])
def test_the_other_options_of_nn_dense(rng, expansion):
    x, calls = rng.standard_normal((5, 6)).astype(np.float32), []

    def dot_general(*arguments, **options):
        calls.append(arguments)
        return jax.lax.dot_general(*arguments, **options)

    form = HRFConfig(expansion, 'two_step')
    for options in ({'dot_general': dot_general}, {'dot_general_cls': lambda: dot_general}):
        layer = HRFDense(10, form, bias_init=nn.initializers.ones, **options)
        variables = layer.init(jax.random.key(0), x)
        calls.clear()
        found = layer.apply(variables, x)
        assert len(calls) == (2 if expansion else 1)
        np.testing.assert_array_equal(found, HRFDense(10, form).apply(variables, x))
        bias = variables['params']['hrf']['bias_v'] if expansion else variables['params']['bias']
        np.testing.assert_array_equal(bias, np.ones(10))


DEPTHWISE = layers.ConvShape(6, (5,), (1,), ((2, 2),), groups=6)
IMAGE = layers.ConvShape(6, (3, 3), (2, 2), ((0, 2), (0, 1)))


class ConvNorm(nn.Module):
    """A convolution with its normalisation, as models make them."""

    shape: layers.ConvShape
    hrf: HRFConfig

    @nn.compact
    def __call__(self, x, mask=None, *, train):
        return layers.conv_norm(self.shape, x, mask, self.hrf, train=train, names=('conv', 'norm'))


def conv_case(rng, shape):
    """Inputs `[3, 9, ...]` and the mask of outputs; frames that are not real are zero."""
    x = rng.standard_normal((3, 9, 6) if shape is DEPTHWISE else (3, 9, 8, 2))
    mask = np.arange(9)[None] < np.array([[9], [6], [2]])
    return x * mask.reshape(mask.shape + (1,) * (x.ndim - 2)), mask[:, :: shape.strides[0]]


@pytest.mark.parametrize('shape', [DEPTHWISE, IMAGE], ids=['depthwise', 'image'])
@pytest.mark.parametrize('branches', [1, 2, 3, 4])
def test_branches_are_normalised_apart_and_then_summed(rng, shape, branches):
    """In training, too: each with the mean and the variance of its own outputs at real frames."""
    with jax.enable_x64(True):
        x, mask = conv_case(rng, shape)
        module = ConvNorm(shape, HRFConfig(branches=branches))
        variables = jax.tree.map(np.float64, moved(module.init(jax.random.key(0), x, mask, train=False)))
        got, updated = module.apply(variables, x, mask, train=True, mutable=['batch_stats'])
        site, conv = variables['params']['conv'], functools.partial(nn.Conv, 6, strides=shape.strides, use_bias=False)
        full = conv(shape.window, padding=shape.padding, feature_group_count=shape.groups)
        outputs = [full.apply({'params': {'kernel': kernel}}, x) for kernel in site['hrf']['kernels']]
        if branches > 1:
            # Without padding it reads the first of each stride, here the second: the centre of a window of three.
            point = conv((1,) * len(shape.window), padding='VALID', feature_group_count=shape.groups)
            centre = x if shape is DEPTHWISE else np.pad(x[:, 1:, 1:], ((0, 0), (0, 1), (0, 0), (0, 0)))
            outputs.append(point.apply({'params': {'kernel': site['hrf']['kernel_point']}}, centre))
        if branches > 2 and shape is DEPTHWISE:
            outputs.append(x)
        assert len(outputs) == branches
        expected = 0
        for index, y in enumerate(map(np.asarray, outputs)):
            real, own = y[mask].reshape(-1, 6), slice(6 * index, 6 * index + 6)
            mean, var = real.mean(0), real.var(0)
            scale, bias = (site['norm'][name][own] for name in ('scale', 'bias'))
            expected = expected + (y - mean) / np.sqrt(var + 1e-5) * scale + bias
            for name, value in (('mean', mean), ('var', var)):
                before, after = (tree['batch_stats']['conv']['norm'][name][own] for tree in (variables, updated))
                np.testing.assert_allclose(after, 0.9 * before + 0.1 * value, rtol=1e-6)
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)  # the statistics are float32


@pytest.mark.parametrize('shape', [DEPTHWISE, IMAGE], ids=['depthwise', 'image'])
@pytest.mark.parametrize(
    'hrf', [HRFConfig(init='orthonormal', branches=branches) for branches in (1, 2, 3, 5)] + [HRFConfig(branches=1)]
)
def test_branches_begin_as_the_plain_convolution(rng, shape, hrf):
    x, mask = conv_case(rng, shape)
    modules = [ConvNorm(shape, form) for form in (layers.PLAIN, hrf)]
    plain, trained = ((module, module.init(jax.random.key(3), x, mask, train=False)) for module in modules)
    folded = reparam.dehrf(trained[1], strict=True)
    chex.assert_trees_all_equal_shapes_and_dtypes(folded, plain[1])
    for train in (False, True):
        expected, got = (
            module.apply(variables, x, mask, train=train, mutable=['batch_stats'])[0]
            for module, variables in (plain, trained)
        )
        np.testing.assert_allclose(got, expected, atol=1e-6)


def test_a_sum_of_branches_begins_with_the_plain_variance(rng):
    x = rng.standard_normal((20, 50, 6)).astype(np.float32)
    shape = layers.ConvShape(64, (5,), (1,), ((2, 2),))
    y = ConvNorm(shape, HRFConfig(branches=4))
    got, _ = y.apply(y.init(jax.random.key(0), x, train=False), x, train=True, mutable=['batch_stats'])
    assert np.std(got) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize('padding', [(0, 0), (0, 4), (1, 0), (3, 3)])
def test_the_centre_of_a_window_does_not_depend_on_the_padding(rng, padding):
    with jax.enable_x64(True):
        x = rng.standard_normal((2, 9, 6))
        shape = layers.ConvShape(6, (4,), (1,), (padding,))
        trained, plain = (ConvNorm(shape, form) for form in (HRFConfig(branches=4), layers.PLAIN))
        variables = moved(trained.init(jax.random.key(0), x, train=False))
        assert variables['params']['conv']['hrf']['kernels'].shape == (2, 4, 6, 6)
        got = plain.apply(reparam.dehrf(jax.tree.map(np.float64, variables)), x, train=False)
        np.testing.assert_allclose(got, trained.apply(variables, x, train=False), rtol=0, atol=1e-6)
