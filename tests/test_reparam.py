"""dehrf and hrf: exact, pure, traceable, and silent about nothing."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import types

import chex
import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.training import train_state
from jax.sharding import PartitionSpec as P

from helpers import fold64, moved
from jax_reparam import reparam
from jax_reparam.config import PLAIN, HRFConfig
from jax_reparam.layers import HRFDense


def site(rng, d=6, e=24, f=10, lead=(), dtype=np.float64, bias=True):
    factors = {
        'kernel_u': rng.standard_normal((*lead, d, e)).astype(dtype),
        'kernel_v': rng.standard_normal((*lead, e, f)).astype(dtype),
    }
    if bias:
        factors['bias_u'] = rng.standard_normal((*lead, e)).astype(dtype)
        factors['bias_v'] = rng.standard_normal((*lead, f)).astype(dtype)
    return {'hrf': factors}


def two_step(x, node):
    """The training form in NumPy, one layer after the other."""
    h = node['hrf']
    return (x @ h['kernel_u'] + h.get('bias_u', 0)) @ h['kernel_v'] + h.get('bias_v', 0)


@pytest.mark.parametrize('shape', [(6, 24, 10), (10, 10, 4), (12, 5, 5), (1, 1, 1)])
def test_fold_equals_the_two_steps_in_float64(rng, shape):
    node = site(rng, *shape)
    x = rng.standard_normal((7, shape[0]))
    folded = fold64(node)
    assert set(folded) == {'kernel', 'bias'}
    np.testing.assert_allclose(x @ folded['kernel'] + folded['bias'], two_step(x, node), rtol=0, atol=1e-12)


def test_fold_equals_the_two_steps_in_float32(rng):
    node = site(rng, dtype=np.float32)
    x = rng.standard_normal((7, 6)).astype(np.float32)
    folded = {name: np.asarray(leaf) for name, leaf in reparam.dehrf(node).items()}
    expected = two_step(x, node)
    # Sums of 24 and of 6 products: rounding measured at 3e-7 of the largest value.
    np.testing.assert_allclose(x @ folded['kernel'] + folded['bias'], expected, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize('keep', [(), ('bias_u',), ('bias_v',), ('bias_u', 'bias_v')])
def test_each_bias_counts_alone(rng, keep):
    node = site(rng)
    node['hrf'] = {name: leaf for name, leaf in node['hrf'].items() if name.startswith('kernel') or name in keep}
    x = rng.standard_normal((3, 6))
    folded = fold64(node)
    assert ('bias' in folded) == bool(keep)
    np.testing.assert_allclose(x @ folded['kernel'] + folded.get('bias', 0), two_step(x, node), rtol=0, atol=1e-12)


def test_deep_and_stacked_trees(rng):
    stacked = site(rng, lead=(3, 2))
    tree = {
        'a': {'b': [{'c': stacked}, {'scale': np.ones(3)}]},
        'd': ({'e': site(rng)},),
        'f': types.MappingProxyType(site(rng)),
    }
    folded = fold64(tree)
    kernel = folded['a']['b'][0]['c']['kernel']
    assert kernel.shape == (3, 2, 6, 10)
    for i in range(3):
        for j in range(2):
            single = fold64({'hrf': {name: leaf[i, j] for name, leaf in stacked['hrf'].items()}})
            np.testing.assert_allclose(kernel[i, j], single['kernel'], rtol=1e-13)
            np.testing.assert_allclose(folded['a']['b'][0]['c']['bias'][i, j], single['bias'], rtol=0, atol=1e-13)
    assert folded['a']['b'][1]['scale'] is tree['a']['b'][1]['scale']
    assert isinstance(folded['d'], tuple)
    assert set(folded['f']) == {'kernel', 'bias'}
    assert reparam.hrf_sites(tree) == ['a/b/0/c', 'd/0/e', 'f']


def test_input_is_left_alone_and_folding_is_idempotent(rng):
    tree = {'ffn': site(rng), 'norm': {'scale': np.ones(4)}}
    before = jax.tree.map(np.copy, tree)
    folded = reparam.dehrf(tree)
    chex.assert_trees_all_equal(tree, before)
    again = reparam.dehrf(folded)
    chex.assert_trees_all_equal(again, folded)


def test_traceable(rng):
    tree = {'ffn': site(rng, dtype=np.float32)}
    plain = reparam.dehrf(tree)
    chex.assert_trees_all_close(jax.jit(reparam.dehrf)(tree), plain, rtol=1e-6)
    stacked = jax.tree.map(lambda a: jnp.stack([a, 2 * a]), tree)
    batched = jax.vmap(reparam.dehrf)(stacked)
    np.testing.assert_allclose(batched['ffn']['kernel'][1], 4 * plain['ffn']['kernel'], rtol=1e-5)
    gradient = jax.grad(lambda t: reparam.dehrf(t)['ffn']['kernel'].sum())(tree)['ffn']['hrf']
    v = tree['ffn']['hrf']['kernel_v']
    np.testing.assert_allclose(gradient['kernel_u'], np.broadcast_to(v.sum(1), (6, 24)), rtol=1e-5)
    np.testing.assert_array_equal(gradient['bias_u'], np.zeros(24))


@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float16, jnp.float32])
def test_dtype_is_kept_and_sums_are_wide(rng, dtype):
    node = jax.tree.map(lambda a: jnp.asarray(a, dtype), site(rng, e=512))
    folded = reparam.dehrf(node)
    assert folded['kernel'].dtype == folded['bias'].dtype == dtype
    factors = {name: np.asarray(leaf, np.float64) for name, leaf in node['hrf'].items()}
    exact = {
        'kernel': factors['kernel_u'] @ factors['kernel_v'],
        'bias': factors['bias_u'] @ factors['kernel_v'] + factors['bias_v'],
    }
    # One rounding of the exact result (half a unit in the last place), and float32 sums of 512 products, which were
    # measured to be within 3.4e-5.
    half_unit = float(jnp.finfo(dtype).eps) / 2
    for name, leaf in folded.items():
        np.testing.assert_allclose(np.asarray(leaf, np.float64), exact[name], rtol=1.01 * half_unit, atol=1e-4)


def test_strict_wants_a_site():
    assert reparam.dehrf({'kernel': np.ones((2, 2))})['kernel'].shape == (2, 2)
    with pytest.raises(ValueError, match='expected at least one site'):
        reparam.dehrf({'kernel': np.ones((2, 2))}, strict=True)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'kernel_u': np.ones((64, 384))}, r'enc/0/ffn: expected kernel_u .* got \(64, 384\) and \(24, 10\)'),
        ({'bias_u': np.ones(3)}, r'enc/0/ffn: expected bias_u \(24,\), got \(3,\)'),
        ({'bias_v': np.ones(3)}, r'enc/0/ffn: expected bias_v \(10,\), got \(3,\)'),
        ({'kernel_w': np.ones(3)}, r'enc/0/ffn: expected the factors'),
        ({'kernel_v': None}, r'enc/0/ffn: expected the factors'),
    ],
)
def test_factors_that_do_not_fit_are_named(rng, change, message):
    node = site(rng)
    for name, value in change.items():
        if value is None:
            del node['hrf'][name]
        else:
            node['hrf'][name] = value
    with pytest.raises(ValueError, match=message):
        reparam.dehrf({'enc': [{'ffn': node}]})


def test_a_kernel_beside_the_factors_is_refused(rng):
    with pytest.raises(ValueError, match="ffn: expected 'hrf' alone"):
        reparam.dehrf({'ffn': {**site(rng), 'kernel': np.ones((6, 10))}})


def test_imports_no_flax():
    code = "import sys, jax_reparam.reparam; sys.exit(any(m.split('.')[0] == 'flax' for m in sys.modules))"
    assert subprocess.run([sys.executable, '-c', code], check=False).returncode == 0


def test_moved_moves_every_leaf():
    """The guard of all fold tests: no leaf of the fixture stays where it was, and no bias is zero."""
    tree = {'kernel': np.zeros((3, 3), np.float32), 'bias': np.zeros(3, np.float32)}
    for leaf in jax.tree.leaves(moved(tree)):
        assert (leaf > 0).all()


@flax.struct.dataclass
class State:
    """As a TrainState: parameters, and moments that must not be folded."""

    params: dict
    step: int = 0


@dataclasses.dataclass
class Unregistered:
    params: dict


@pytest.mark.parametrize('wrap', [
    lambda tree: State(tree),
    lambda tree: {'a': [Unregistered(tree)]},
    lambda tree: State({'b': State(tree)}),
    lambda tree: train_state.TrainState.create(apply_fn=None, params=tree, tx=optax.adam(1.0)),
    lambda tree: optax.adam(1.0).init(tree),
    lambda tree: {'params': {}, 'opt_state': optax.chain(optax.clip(1.0), optax.sgd(1.0, 0.9)).init(tree)},
])  # fmt: skip
def test_sites_in_something_else_than_a_tree_of_dictionaries_are_refused(rng, wrap):
    with pytest.raises(ValueError, match=r'enc/ffn: expected a site in dictionaries, .* got it in a'):
        reparam.dehrf(wrap({'enc': {'ffn': site(rng)}}))
    kept = wrap({'enc': {'ffn': {'kernel': np.ones((2, 2))}}})
    chex.assert_trees_all_equal(reparam.dehrf(kept), kept)


@pytest.mark.parametrize('separator', [None, '/', '.'])
def test_a_flattened_tree_with_sites_is_refused(rng, separator):
    flat = flax.traverse_util.flatten_dict({'enc': {'ffn': site(rng)}}, sep=separator)
    for tree in (flat, State(flat)):
        with pytest.raises(ValueError, match='expected nested dictionaries, got the flattened key'):
            reparam.dehrf(tree)
    plain = {'enc/ffn/kernel': np.ones((2, 2))}
    assert reparam.dehrf(plain) == plain


def test_float64_of_numpy_stays_float64(rng):
    node = site(rng)
    folded = reparam.dehrf(node)
    for leaf in folded.values():
        assert isinstance(leaf, np.ndarray)
        assert leaf.dtype == np.float64
    np.testing.assert_allclose(folded['kernel'], node['hrf']['kernel_u'] @ node['hrf']['kernel_v'], rtol=1e-14)


def test_shapes_alone_fold_to_shapes(rng):
    tree = {'ffn': site(rng, dtype=np.float32, lead=(2,))}
    shapes = jax.eval_shape(lambda: tree)
    expected = jax.eval_shape(lambda: reparam.dehrf(tree))
    assert reparam.dehrf(shapes) == jax.eval_shape(reparam.dehrf, tree) == expected


def test_boxes_are_folded_and_named_by_rows_and_columns(rng):
    node = site(rng, dtype=np.float32)
    box = lambda name, *names: nn.Partitioned(node['hrf'][name], names)
    boxed = {
        'kernel_u': box('kernel_u', 'rows', None),
        'bias_u': node['hrf']['bias_u'],
        'kernel_v': box('kernel_v', None, 'columns'),
        'bias_v': box('bias_v', 'columns'),
    }
    folded = reparam.dehrf({'hrf': boxed})
    assert folded['kernel'].names == ('rows', 'columns')
    assert folded['bias'].names == ('columns',)
    chex.assert_trees_all_equal(nn.unbox(folded), reparam.dehrf(node))


@pytest.mark.parametrize(('rows', 'columns'), [
    (('x', None), (None, None)),
    ((None, 'x'), ('x', None)),
    (('x', None), (None, 'x')),
    ((None, None), ('x', None)),
])  # fmt: skip
def test_meshes_with_explicit_axes(rng, rows, columns):
    node = site(rng, dtype=np.float32)
    mesh = jax.make_mesh((2,), ('x',), axis_types=(jax.sharding.AxisType.Explicit,))
    put = lambda leaf, spec: jax.device_put(leaf, jax.sharding.NamedSharding(mesh, P(*spec)))
    specs = {'kernel_u': rows, 'bias_u': rows[1:], 'kernel_v': columns, 'bias_v': columns[1:]}
    with jax.set_mesh(mesh):
        sharded = {'hrf': {name: put(leaf, specs[name]) for name, leaf in node['hrf'].items()}}
        for fold in (reparam.dehrf, jax.jit(reparam.dehrf)):
            chex.assert_trees_all_close(fold(sharded), reparam.dehrf(node), rtol=1e-5, atol=1e-5)


def test_layers_stacked_on_another_axis_are_told_where_they_belong(rng):
    node = {'hrf': {name: np.moveaxis(leaf, 0, 1) for name, leaf in site(rng, lead=(3,))['hrf'].items()}}
    with pytest.raises(ValueError, match=r'<root>: expected kernel_u .* with layers stacked on the first axes alone'):
        reparam.dehrf(node)


def test_overflow_and_integers_are_refused(rng):
    node = {'hrf': {name: np.full_like(leaf, 300, np.float16) for name, leaf in site(rng)['hrf'].items()}}
    with pytest.raises(ValueError, match=r'ffn: expected a kernel within float16, got a larger one'):
        reparam.dehrf({'ffn': node})
    for name in node['hrf']:
        wrong = {'hrf': {**site(rng)['hrf'], name: node['hrf'][name].astype(np.int8)}}
        with pytest.raises(ValueError, match=f'ffn: expected {name} in floating point, got int8'):
            reparam.dehrf({'ffn': wrong})


def convolution(rng, window=(3, 3), inputs=3, features=4, copies=2, point=True, identity=False, lead=(), dtype=float):
    """Variables of a module `net` with a convolution's site `conv` in it, every leaf moved."""
    draw = lambda *shape: rng.standard_normal((*lead, *shape)).astype(dtype)
    channels = (copies + point + identity) * features
    kernels = {'kernels': draw(copies, *window, inputs, features)}
    if point:
        kernels['kernel_point'] = draw(*(1 for _ in window), inputs, features)
    norm = {'scale': draw(channels), 'bias': draw(channels)}
    running = {'mean': draw(channels), 'var': rng.uniform(0.1, 2, (*lead, channels)).astype(dtype)}
    return {
        'params': {'net': {'conv': {'hrf': kernels, 'norm': norm}, 'out': {'kernel': draw(4, 2)}}},
        'batch_stats': {'net': {'conv': {'norm': running}, 'other': {'mean': draw(3)}}},
    }


BRANCHES = {
    'of an image': {},
    'one branch': {'copies': 1, 'point': False},
    'depthwise, identity': {'window': (5,), 'inputs': 1, 'identity': True},
    'two groups, identity': {'window': (3,), 'inputs': 2, 'identity': True},
    'one channel, identity': {'inputs': 4, 'identity': True, 'copies': 1},
    'an even window': {'window': (4, 2)},
}


def branch_by_branch(variables, window):
    """Kernel and bias of a sum of branches, one output of one branch at a time."""
    site, running = (variables[part]['net']['conv'] for part in ('params', 'batch_stats'))
    kernels, norm, running = site['hrf'], site['norm'], running['norm']
    *_, inputs, features = kernels['kernels'].shape
    taps = list(kernels['kernels'])
    middle = tuple((size - 1) // 2 for size in window)
    if 'kernel_point' in kernels:
        taps.append(np.zeros_like(taps[0]))
        taps[-1][middle] = kernels['kernel_point'].reshape(inputs, features)
    if len(taps) * features < len(norm['scale']):
        taps.append(np.zeros_like(taps[0]))
        for output in range(features):
            taps[-1][(*middle, output % inputs, output)] = 1
    kernel, bias = np.zeros_like(taps[0]), np.zeros(features)
    for branch, tap in enumerate(taps):
        for output in range(features):
            place = branch * features + output
            gain = norm['scale'][place] / np.sqrt(running['var'][place] + 1e-5)
            kernel[..., output] += gain * tap[..., output]
            bias[output] += norm['bias'][place] - gain * running['mean'][place]
    return kernel, bias


@pytest.mark.parametrize('fold', [reparam.dehrf, fold64, jax.jit(reparam.dehrf)], ids=['numpy', 'float64', 'jit'])
@pytest.mark.parametrize('case', BRANCHES)
def test_branches_fold_into_one_convolution_and_a_normalisation_that_does_nothing(rng, case, fold):
    variables = convolution(rng, **BRANCHES[case])
    before = jax.tree.map(np.copy, variables)
    kernel, bias = branch_by_branch(variables, BRANCHES[case].get('window', (3, 3)))
    with jax.enable_x64(True):
        folded = jax.tree.map(np.asarray, fold(variables))
    net, statistics = folded['params']['net'], folded['batch_stats']['net']
    np.testing.assert_allclose(net['conv'].pop('kernel'), kernel, rtol=0, atol=1e-11)
    np.testing.assert_allclose(net['conv'].pop('bias'), bias, rtol=0, atol=1e-11)
    gain = net['norm'].pop('scale') / np.sqrt(statistics['norm'].pop('var') + reparam.EPSILON)
    np.testing.assert_allclose(gain, np.ones_like(bias), rtol=0, atol=1e-15)
    zeros = [net['norm'].pop('bias'), statistics['norm'].pop('mean')]
    np.testing.assert_array_equal(zeros, np.zeros((2, len(bias))))
    # All else is as it was, and nothing else is there.
    others = {'params': {'net': {'conv': {}, 'norm': {}, 'out': before['params']['net']['out']}}}
    others['batch_stats'] = {'net': {'norm': {}, 'other': before['batch_stats']['net']['other']}}
    chex.assert_trees_all_equal(folded, others)
    chex.assert_trees_all_equal(variables, before)


def test_branches_fold_stacked_and_nested_and_once(rng):
    stacked = convolution(rng, identity=True, inputs=4, lead=(3, 2))
    folded = reparam.dehrf(stacked)
    for i in range(3):
        for j in range(2):
            own = jax.tree.map(lambda leaf, i=i, j=j: leaf[i, j], (stacked, folded))
            chex.assert_trees_all_close(reparam.dehrf(own[0]), own[1], rtol=0, atol=1e-12)
    chex.assert_trees_all_equal(reparam.dehrf(folded), folded)
    with jax.enable_x64(True):
        batched = jax.vmap(jax.vmap(reparam.dehrf))(stacked)
        chex.assert_trees_all_close(batched, folded, rtol=0, atol=1e-12)
    nested = {'a': [flax.core.freeze(stacked), site(rng)]}
    assert reparam.hrf_sites(nested) == ['a/0/params/net/conv', 'a/1']
    chex.assert_trees_all_equal(reparam.dehrf(nested)['a'][0], folded)


def test_branches_in_a_list_of_modules(rng):
    one, two = convolution(rng), convolution(rng, copies=3)
    together = {part: {'nets': [one[part]['net'], two[part]['net']]} for part in one}
    folded = reparam.dehrf(together, strict=True)
    for place, alone in enumerate((one, two)):
        for part, tree in reparam.dehrf(alone).items():
            chex.assert_trees_all_equal(folded[part]['nets'][place], tree['net'])


def test_branches_have_a_gradient_and_shapes(rng):
    variables = convolution(rng, copies=1, identity=True, inputs=4, dtype=np.float32)
    bias = lambda tree: reparam.dehrf(tree)['params']['net']['conv']['bias'].sum()
    gradient = jax.grad(bias)(variables)['params']['net']['conv']
    np.testing.assert_array_equal(gradient['norm']['bias'], np.ones(12))
    assert np.all(gradient['norm']['scale'] != 0)
    np.testing.assert_array_equal(gradient['hrf']['kernels'], 0)
    assert reparam.dehrf(jax.eval_shape(lambda: variables)) == jax.eval_shape(reparam.dehrf, variables)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda v: v['params'], 'net/conv: expected a convolution in a module of whole variables'),
        (lambda v: {**v, 'batch_stats': {}}, 'params/net/conv: expected a convolution in a module of whole variables'),
        (lambda v: v['params']['net']['conv'], '<root>: expected a convolution in a module of whole variables'),
        (
            lambda v: {part: tree['net']['conv'] for part, tree in v.items()},
            'params: expected a convolution in a module of whole variables',
        ),
        (
            lambda v: {'params': [v['params']['net']['conv']], 'batch_stats': [v['batch_stats']['net']['conv']]},
            'params/0: expected a convolution in a module of whole variables',
        ),
        (
            lambda v: v['params']['net'].update(norm={}) or v,
            "net/conv: expected nothing in the place of its normalisation, found 'norm' beside it",
        ),
        (
            lambda v: v['params']['net']['conv'].update(more={}) or v,
            r"net/conv: expected beside 'hrf' one normalisation with scale and bias, got \['norm', 'more'\]",
        ),
        (
            lambda v: v['params']['net']['conv']['norm'].pop('bias') is None or v,
            r"net/conv: expected beside 'hrf' one normalisation with scale and bias, got \['norm'\]",
        ),
        (
            lambda v: v['params']['net']['conv']['hrf'].update(kernel_u=1) or v,
            r"net/conv: expected kernels and optionally kernel_point, got \['kernel_point', 'kernel_u', 'kernels'\]",
        ),
        (
            lambda v: v['params']['net']['conv']['hrf'].update(kernels=np.ones((3, 3, 4))) or v,
            r'net/conv: expected kernels \[..., copies, \*window, inputs, F\] .* got \(3, 3, 4\) and \(12,\)',
        ),
        (
            lambda v: v['params']['net']['conv']['hrf'].update(kernel_point=np.ones((1, 1, 3, 5))) or v,
            r'net/conv: expected kernel_point \(1, 1, 3, 4\), got \(1, 1, 3, 5\)',
        ),
        (
            lambda v: v['batch_stats']['net']['conv']['norm'].update(var=np.ones(4)) or v,
            r'net/conv: expected var \(12,\) as scale, got \(4,\)',
        ),
        (
            lambda v: v['params']['net']['conv']['hrf'].update(kernels=np.ones((4, 3, 3, 3, 4))) or v,
            r'net/conv: expected a normalisation of 5 branches \(or 6, with the identity\), got 3',
        ),
        (
            lambda v: v['batch_stats']['net']['conv']['norm'].update(mean=np.ones(12, int)) or v,
            'net/conv: expected mean in floating point, got int64',
        ),
        (lambda v: State(v['params']), r'net/conv: expected a site in dictionaries, .* got it in a State'),
    ],
)
def test_wrong_branches_are_named(rng, change, message):
    with pytest.raises(ValueError, match=message):
        reparam.dehrf(change(convolution(rng)))


def plain_and_like(rng, dtype=np.float64):
    """A plain tree with all that `hrf` knows, and the training form of the same model."""
    like = {
        'enc': [{'ffn': site(rng, 6, 24, 10, dtype=dtype), 'norm': {'scale': rng.standard_normal(4).astype(dtype)}}],
        'wide': (site(rng, 12, 5, 5, dtype=dtype),),
        'scan': site(rng, lead=(3, 2), dtype=dtype, bias=False),
    }
    return jax.tree.map(lambda leaf: leaf + 1, fold64(like)), like


def test_hrf_is_the_inverse_of_dehrf(rng):
    plain, like = plain_and_like(rng)
    assert all(isinstance(leaf, np.ndarray) and leaf.dtype == np.float64 for leaf in jax.tree.leaves(plain))
    before = jax.tree.map(np.copy, plain)
    for shapes in (like, jax.eval_shape(lambda: like)):
        made = reparam.hrf(plain, shapes, jax.random.key(0))
        chex.assert_trees_all_equal_shapes(made, like)
        chex.assert_trees_all_close(reparam.dehrf(made), plain, rtol=0, atol=1e-12)
    chex.assert_trees_all_equal(plain, before)
    assert made['enc'][0]['norm']['scale'] is plain['enc'][0]['norm']['scale']
    factors = made['enc'][0]['ffn']['hrf']
    np.testing.assert_allclose(factors['kernel_u'] @ factors['kernel_u'].T, np.eye(6), atol=1e-12)
    assert not factors['bias_u'].any()
    columns = made['wide'][0]['hrf']['kernel_v']  # E < D
    np.testing.assert_allclose(columns.T @ columns, np.eye(5), atol=1e-12)
    # No two layers share a basis: neither those of a stack nor two sites.
    bases = made['scan']['hrf']['kernel_u'].reshape(6, -1)
    assert len(np.unique(bases[:, 0])) == 6
    two, form = ({'a': tree['scan'], 'b': tree['scan']} for tree in (plain, like))
    two = reparam.hrf(two, form, jax.random.key(0))
    assert not np.array_equal(two['a']['hrf']['kernel_u'], two['b']['hrf']['kernel_u'])
    assert not np.array_equal(
        reparam.hrf(plain, like, jax.random.key(1))['scan']['hrf']['kernel_u'].reshape(6, -1), bases
    )


def test_hrf_is_traceable_and_its_key_goes_by_the_path(rng):
    plain, like = plain_and_like(rng, np.float32)
    key = jax.random.key(0)
    made = reparam.hrf(plain, like, key)
    chex.assert_trees_all_close(jax.jit(reparam.hrf)(plain, like, key), made, rtol=1e-5, atol=1e-5)
    chex.assert_trees_all_close(reparam.dehrf(made), plain, rtol=1e-5, atol=1e-5)
    alone = reparam.hrf({'scan': plain['scan']}, {'scan': like['scan']}, key)
    chex.assert_trees_all_equal(alone['scan'], made['scan'])
    assert jax.eval_shape(reparam.hrf, plain, like, key) == jax.eval_shape(lambda: made)


def test_hrf_keeps_boxes_and_narrow_types(rng):
    like = site(rng, dtype=np.float32)
    plain = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.bfloat16), reparam.dehrf(like))
    like['hrf']['kernel_u'] = nn.Partitioned(like['hrf']['kernel_u'], ('rows', None))
    factors = reparam.hrf(plain, like, jax.random.key(0))['hrf']
    assert factors['kernel_u'].names == ('rows', None)
    assert {leaf.dtype for leaf in jax.tree.leaves(factors)} == {jnp.dtype(jnp.bfloat16)}


NARROW = site(np.random.default_rng(0), e=5, lead=(3, 2), bias=False)


@pytest.mark.parametrize(('change', 'message'), [
    (lambda plain, like: plain.pop('wide'), '<root>: expected a dictionary of enc, scan, wide, got .* enc, scan$'),
    (lambda plain, like: plain['scan'].update(bias=np.ones(10)), 'scan: expected .* of kernel, got .* bias, kernel'),
    (lambda plain, like: plain['enc'][0]['ffn'].pop('bias'), 'enc/0/ffn: expected .* of bias, kernel, got'),
    (lambda plain, like: plain.update(scan=like['scan']), 'scan: expected .* of kernel, got a dictionary of hrf'),
    (lambda plain, like: plain.update(scan=np.ones(3)), r'scan: expected .* of kernel, got an array \(3,\)'),
    (lambda plain, like: plain['enc'].append(1), 'enc: expected a list of 1, got a list of 2'),
    (lambda plain, like: plain['enc'][0]['norm'].update(scale=np.ones(5)), r'scale: .* \(4,\), got .* \(5,\)'),
    (lambda plain, like: plain['enc'][0]['norm'].update(scale={}), 'enc/0/norm/scale: .* got a dictionary of nothing'),
    (lambda plain, like: plain['enc'][0]['ffn'].update(kernel=np.ones((6, 11))), r'ffn: .* \(6, 10\), got \(6, 11\)'),
    (lambda plain, like: plain['scan'].update(kernel=np.ones((3, 2, 6, 10), int)), 'scan: expected kernel in floating'),
    (lambda plain, like: like['scan']['hrf'].pop('kernel_v'), 'scan: expected the factors'),
    (lambda plain, like: like['enc'][0]['ffn']['hrf'].pop('bias_v'), 'enc/0/ffn: expected bias_v beside bias_u'),
    (lambda plain, like: like.update(scan=NARROW), 'scan: expected E >= min'),
    (lambda plain, like: (plain.update(x={'y': 1}), like.update(x=None)), 'x: expected NoneType, got .* y$'),
])  # fmt: skip
def test_hrf_names_what_does_not_fit(rng, change, message):
    plain, like = plain_and_like(rng)
    change(plain, like)
    with pytest.raises(ValueError, match=message):
        reparam.hrf(plain, like, jax.random.key(0))


class Net(nn.Module):
    """A model with one site, for nnx."""

    hrf: HRFConfig

    @nn.compact
    def __call__(self, x):
        return nn.Dense(3, name='head')(nn.relu(HRFDense(12, self.hrf, name='ffn_in')(x)))


def test_a_state_of_nnx_is_folded_and_loaded_again(rng):
    x = jnp.asarray(rng.standard_normal((4, 6)), jnp.float32)
    trained, plain = (
        nnx.bridge.ToNNX(Net(hrf), rngs=nnx.Rngs(seed)).lazy_init(x) for seed, hrf in enumerate((HRFConfig(), PLAIN))
    )
    nnx.update(trained, jax.tree.map(lambda leaf: leaf + 0.1, nnx.state(trained, nnx.Param)))
    expected = trained(x)
    folded = reparam.dehrf(nnx.state(trained, nnx.Param), strict=True)
    definition, _, rest = nnx.split(plain, nnx.Param, ...)
    np.testing.assert_allclose(nnx.merge(definition, folded, rest)(x), expected, atol=1e-5)
    nnx.update(plain, folded)
    np.testing.assert_allclose(plain(x), expected, atol=1e-5)
    # And back: a plain model's state becomes a start for training.
    again = reparam.hrf(nnx.state(plain, nnx.Param), nnx.state(trained, nnx.Param), jax.random.key(0))
    nnx.update(trained, again)
    np.testing.assert_allclose(trained(x), expected, atol=1e-5)
