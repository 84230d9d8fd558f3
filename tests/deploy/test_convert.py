"""Conversion: the graph is the function, int8 is int8 throughout, and nobody hears of it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers import quantise
from jax_reparam.deploy import convert
from jax_reparam.graph import flatbuffer
from jax_reparam.runtime import litert


@pytest.fixture(scope='module')
def windows():
    return np.random.default_rng(0).uniform(-1, 3, (5, 6, 4)).astype(np.float32)


@pytest.fixture(scope='module')
def function():
    """A linear layer with ReLU and a mean over frames; its kernel's columns differ in size by 100."""
    kernel = np.random.default_rng(1).standard_normal((4, 3)).astype(np.float32) * np.float32([0.01, 0.1, 1])
    return lambda x: jnp.mean(jax.nn.relu(x @ kernel), axis=1)


def test_float32_is_the_function(function, windows):
    model = convert.to_float32(function, (1, 6, 4))
    np.testing.assert_allclose(litert.load(model)(windows), function(windows), atol=1e-6)
    assert flatbuffer.graph(model).input == flatbuffer.Port((1, 6, 4), 'float32', None, None)


def test_int8_is_int8_throughout(function, windows):
    from ai_edge_litert import schema_py_generated as schema

    model = quantise(function, windows)
    tree = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(model, 0))
    kinds = {tensor.type for tensor in tree.subgraphs[0].tensors}
    assert kinds <= {schema.TensorType.INT8, schema.TensorType.INT32}  # int32: biases and axes
    scales = [len(t.quantization.scale) for t in tree.subgraphs[0].tensors if t.type == schema.TensorType.INT8]
    assert set(scales) == {1}  # one a tensor


def test_ranges_are_the_true_minimum_and_maximum(function, windows):
    windows = np.concatenate([windows, np.full((1, 6, 4), 9, np.float32)])  # an average would forget it
    graph = flatbuffer.graph(quantise(function, windows))
    assert graph.input.scale == pytest.approx((9 - windows.min()) / 255, rel=1e-3)
    lowest, highest = graph.input.decode(np.array([-128, 127]))
    assert lowest == pytest.approx(windows.min(), abs=graph.input.scale)
    assert highest == pytest.approx(9, abs=graph.input.scale)


def test_what_cannot_be_converted_is_one_line(windows):
    with pytest.raises(convert.ConversionError, match=r'^TensorFlow refused the graph: ') as error:
        convert.to_float32(lambda x: jnp.linalg.svd(x)[1], (1, 6, 4))
    assert '\n' not in str(error.value)


def test_the_converter_is_silent(function, windows, capfd):
    quantise(function, windows)
    assert capfd.readouterr() == ('', '')
