"""Every architecture's deploy form as .tflite: it converts, loads and runs in LiteRT and in TFLM, and is the model.

Its integer forms: see `tests/quantise/test_quantise.py`.
"""

from __future__ import annotations

import numpy as np
import pytest

from helpers import TINY_MODELS, drawn_calibration
from jax_reparam import deploy
from jax_reparam.graph import convolutions, cost, flatbuffer
from jax_reparam.graph.passes import optimise
from jax_reparam.quantise import widths
from jax_reparam.quantise.quantise import quantise
from jax_reparam.runtime import litert, tflm


@pytest.fixture(autouse=True)
def small_layers_count(monkeypatch):
    """Of models this small, no linear layer is worth the memory of a convolution."""
    monkeypatch.setattr(convolutions, 'LEAST_MACS', 0)


@pytest.mark.slow
@pytest.mark.parametrize('name', TINY_MODELS)
def test_float32_is_the_model(name):
    windows, expected, calibration = drawn_calibration(name)
    model = flatbuffer.write(optimise(calibration.graph))
    np.testing.assert_allclose(litert.load(model)(windows), expected, atol=1e-4)
    if tflm.missing() is None:
        np.testing.assert_allclose(tflm.run(model, windows).logits, expected, atol=1e-4)


@pytest.mark.parametrize('name', TINY_MODELS)
def test_a_normalisation_is_three_operators_that_every_runtime_has(name):
    fields, (_, _, calibration) = TINY_MODELS[name], drawn_calibration(name)
    normalisations = {
        'conv_transformer': lambda: 2 * fields.layers + 1 + (fields.pooling == 'statistics'),
        'conformer': lambda: 5 * fields.layers,
        # One before each stage, one behind each merge, two a layer.
        'speech_former': lambda: 4 + 3 + 2 * sum(fields.layers),
    }[fields.name]()
    ops = calibration.graph.ops
    assert ops['RSQRT'] == normalisations
    unwanted = {'L2_NORMALIZATION', 'SQUARED_DIFFERENCE', 'SUM', 'MEAN', 'SELECT_V2', 'GATHER', 'PADV2', 'SQRT', 'DIV'}
    assert not unwanted & ops.keys()


@pytest.mark.parametrize('name', TINY_MODELS)
def test_linear_layers_are_convolutions_where_time_counts(name):
    """Those of int16, whose operators all have a measured price; int8 is for small arenas."""
    _, _, calibration = drawn_calibration(name)
    for form, bits in (('int8', deploy.widths(TINY_MODELS[name], 61)), ('int16', {'': 16})):
        rows = cost.of_graph(optimise(quantise(calibration, bits).graph, fast=form == 'int16')).ops
        macs = {row.op: row.macs for row in rows}
        if form == 'int8':
            assert 'CONV_2D 1 x 1' not in macs
        else:  # means over rows stay, where there are any
            assert {row.price.source for row in rows} == {'measured'}, rows
            assert macs['CONV_2D 1 x 1'] > 4 * macs.get('FULLY_CONNECTED', 0)


@pytest.mark.parametrize('name', TINY_MODELS)
def test_where_time_counts_no_part_has_fewer_bits(name):
    small, fast = (deploy.widths(TINY_MODELS[name], 61, fast=fast) for fast in (False, True))
    _, _, calibration = drawn_calibration(name)
    narrow, wide = (widths.assign(calibration.graph, table) for table in (small, fast))
    assert all(narrow[node] <= wide[node] for node in narrow if node.op not in widths.MOVES)
