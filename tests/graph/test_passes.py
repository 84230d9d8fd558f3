"""Tidied files: the same function, no names, paddings that TFLM reads, linear layers that read through reshapes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers import quantise, widen, windows_of
from jax_reparam.deploy import convert, ops
from jax_reparam.graph import flatbuffer, passes
from jax_reparam.runtime import litert, tflm


@pytest.fixture(scope='module')
def model(exported):
    return (exported.path / 'model_int8.tflite').read_bytes()


def test_names_are_gone_and_nothing_else(model, data):
    windows, _ = windows_of(data, 'test')
    content = flatbuffer.tree(model)
    for index, tensor in enumerate(content.subgraphs[0].tensors):
        tensor.name = f'a/name/that/nobody/reads/{index}'
    named = flatbuffer.pack(content)
    bare = passes.optimise(named)
    assert len(bare) < len(named)
    assert flatbuffer.graph(bare) == flatbuffer.graph(named)
    np.testing.assert_array_equal(litert.load(bare)(windows), litert.load(named)(windows))
    assert passes.optimise(bare) == bare


@pytest.mark.slow
def test_paddings_are_what_tflm_reads(rng):
    """Out of jax2tf they have 64 bits, and TFLM refuses the model."""
    kernel = rng.standard_normal((4, 4)).astype(np.float32)
    function = lambda x: jnp.pad(x[0] @ kernel, ((1, 2), (0, 0)), constant_values=0.5).sum(0, keepdims=True)
    windows = rng.standard_normal((3, 6, 4)).astype(np.float32)
    model = passes.optimise(convert.to_float32(function, (1, 6, 4)))
    assert 'PADV2' in flatbuffer.graph(model).ops
    expected = np.concatenate([function(window[None]) for window in windows])
    np.testing.assert_allclose(litert.load(model)(windows), expected, rtol=1e-5)
    if tflm.missing() is None:
        np.testing.assert_allclose(tflm.run(model, windows).logits, expected, rtol=1e-5)


@pytest.mark.slow
def test_linear_layers_read_through_reshapes(rng):
    """Past nodes that work on each element, too; a reshape that something else reads stays."""
    kernels = [rng.standard_normal(shape).astype(np.float32) for shape in ((6, 4), (4, 3), (4, 2))]

    def function(x):
        x = jnp.transpose(x[0].reshape(2, 3, 4), (1, 0, 2)).reshape(6, 4)
        gated = x * jax.nn.sigmoid(x)
        twice = jnp.transpose((gated @ kernels[1]).reshape(2, 3, 3), (1, 0, 2)).reshape(1, 18)
        return jnp.concatenate([(gated @ kernels[2]).reshape(1, 12), twice], axis=1)

    windows = rng.standard_normal((3, 6, 4)).astype(np.float32)
    for model in (convert.to_float32(function, (1, 6, 4)), quantise(function, windows)):
        optimised = passes.optimise(model)
        before, after = flatbuffer.graph(model).ops, flatbuffer.graph(optimised).ops
        assert before['RESHAPE'] - after['RESHAPE'] == 1
        np.testing.assert_array_equal(litert.load(optimised)(windows), litert.load(model)(windows))
        if tflm.missing() is None:
            np.testing.assert_allclose(tflm.run(optimised, windows).logits, litert.load(model)(windows), atol=1e-5)


@pytest.mark.slow
def test_constants_of_products_lie_as_tflm_wants_them(rng):
    """Of others it keeps a copy, for as long as the model lives."""
    table = rng.standard_normal((2, 8, 500)).astype(np.float32)
    function = lambda x: jnp.einsum('thd,hdr->htr', x[0].reshape(4, 2, 8), table).sum(axis=(0, 1))[None]
    windows = rng.standard_normal((3, 4, 16)).astype(np.float32)
    model = convert.to_float32(function, (1, 4, 16))
    optimised = passes.optimise(model)
    np.testing.assert_allclose(litert.load(optimised)(windows), litert.load(model)(windows), rtol=1e-5, atol=1e-5)
    if tflm.missing() is None:
        saved = tflm.run(model, windows).arena_bytes - tflm.run(optimised, windows).arena_bytes
        assert saved >= table.nbytes


@pytest.mark.parametrize('bits', [8, 16])
def test_what_several_products_read_is_turned_once(rng, bits):
    """Of two blocks of queries, keys and values are on the right of two products; wide ones behind a conversion."""
    layer = {
        name: {'kernel': rng.standard_normal((16, 16)).astype(np.float32), 'bias': np.ones(16, np.float32)}
        for name in ('query', 'key', 'value')
    }
    function = lambda x: ops.attention(layer, x[0], 2, blocks=2).reshape(1, -1)
    windows = rng.standard_normal((3, 12, 16)).astype(np.float32)
    model = quantise(function, windows)
    if bits == 16:
        model = widen(model, convert.to_float32(function, (1, 12, 16)), front=False)
    optimised = passes.optimise(model)
    turned = {form: [product.builtinOptions.adjY for product in products(form)] for form in (model, optimised)}
    assert turned == {model: [False] * 4, optimised: [True] * 4}
    assert len(flatbuffer.tree(optimised).subgraphs[0].operators) <= len(flatbuffer.tree(model).subgraphs[0].operators)
    np.testing.assert_array_equal(litert.load(optimised)(windows), litert.load(model)(windows))


def test_what_others_read_too_is_not_turned(rng):
    kernel = rng.standard_normal((16, 16)).astype(np.float32)

    def function(x):
        y = (x[0] @ kernel).reshape(12, 2, 8).transpose(1, 2, 0)
        return jnp.concatenate([(x[0].reshape(2, 12, 8) @ y).reshape(1, -1), jnp.tanh(y).reshape(1, -1)], axis=1)

    windows = rng.standard_normal((3, 12, 16)).astype(np.float32)
    model = quantise(function, windows)
    assert [product.builtinOptions.adjY for product in products(passes.optimise(model))] == [False]
    np.testing.assert_array_equal(litert.load(passes.optimise(model))(windows), litert.load(model)(windows))


@pytest.mark.slow
@pytest.mark.parametrize('activations', ['int8', 'int16'])
def test_zeros_of_16_bits_are_joined(rng, activations):
    """Before, behind, around, in the middle of a shape; not where calls would be many, nor along two axes."""

    def function(x):
        y = jax.nn.relu(x[0] @ kernel)
        ends = [((2, 1), (0, 0)), ((3, 0), (0, 0)), ((0, 3), (0, 0)), ((0, 0), (0, 5)), ((1, 1), (1, 1))]
        padded = [jnp.pad(y, end) for end in ends]
        padded += [jnp.pad(y.reshape(2, 6, 33), ((0, 0), (0, 2), (0, 0))), jnp.pad(y.reshape(36, 11), ((0, 0), (0, 3)))]
        return jnp.concatenate([end.reshape(1, -1) for end in padded], axis=1)

    kernel = rng.standard_normal((33, 33)).astype(np.float32)
    windows = rng.standard_normal((3, 12, 33)).astype(np.float32)
    model = quantise(function, windows, activations)
    optimised = passes.optimise(model)
    before, after = (flatbuffer.graph(form).ops for form in (model, optimised))
    joined = {'int8': 0, 'int16': 5}[activations]
    assert before['PAD'] == 7
    assert (after['PAD'], after['CONCATENATION'] - before['CONCATENATION']) == (7 - joined, joined)
    np.testing.assert_array_equal(litert.load(optimised)(windows), litert.load(model)(windows))
    if tflm.missing() is None:
        step = 1.01 * flatbuffer.graph(optimised).output.scale  # the layer's rounding
        np.testing.assert_allclose(tflm.run(optimised, windows).logits, litert.load(model)(windows), atol=step)
    content = flatbuffer.tree(optimised)
    zeros = [
        tensor.buffer
        for index, tensor in enumerate(content.subgraphs[0].tensors)
        if flatbuffer.type_name(tensor.type) == 'int16'
        and flatbuffer.is_constant(content, index)
        and not flatbuffer.constant(content, index).any()
    ]
    # 66 and 33, 99 twice, 60, 132.
    assert (len(zeros), len(set(zeros))) == {'int8': (0, 0), 'int16': (6, 5)}[activations]


def products(model):
    content = flatbuffer.tree(model)
    named = zip(flatbuffer.operator_names(content), content.subgraphs[0].operators, strict=True)
    return [node for name, node in named if name == 'BATCH_MATMUL']
