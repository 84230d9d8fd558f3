"""Conversion: the graph is the function, and nobody hears of it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_reparam.deploy import convert
from jax_reparam.graph import flatbuffer
from jax_reparam.graph.graph import Port
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
    assert flatbuffer.read(model).input == Port((1, 6, 4), 'float32', None, None)


def test_what_cannot_be_converted_is_one_line():
    with pytest.raises(convert.ConversionError, match=r'^TensorFlow refused the graph: ') as error:
        convert.to_float32(lambda x: jnp.linalg.svd(x)[1], (1, 6, 4))
    assert '\n' not in str(error.value)


def test_the_converter_is_silent(function, capfd):
    convert.to_float32(function, (1, 6, 4))
    assert capfd.readouterr() == ('', '')
