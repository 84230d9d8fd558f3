"""int8 with softmaxes and sigmoids by the tables of 16 bits: the same to a step, where it pays."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from helpers import quantise
from jax_reparam.deploy import ops
from jax_reparam.export import cost, flatbuffer, interpret, memory, tables, tflm
from jax_reparam.export.tidy import tidy

WIDTH, TIME = 8, 24


def projection(seed, scale=1.0):
    rng = np.random.default_rng(seed)
    kernel = scale * rng.standard_normal((WIDTH, WIDTH)) / 3
    return {'kernel': kernel.astype(np.float32), 'bias': np.ones(WIDTH, np.float32)}


LAYER = {name: projection(seed, 2.0) for seed, name in enumerate(('query', 'key', 'value'))}
FUNCTIONS = {
    'SOFTMAX': lambda x: ops.attention(LAYER, x[0], 2),
    'LOGISTIC': lambda x: jax.nn.sigmoid(ops.linear(LAYER['value'], x[0])),
    'TANH': lambda x: jax.nn.tanh(ops.linear(LAYER['value'], x[0])),
}


@pytest.fixture(scope='module')
def windows():
    return np.random.default_rng(0).standard_normal((12, TIME, WIDTH)).astype(np.float32)


@pytest.fixture(scope='module', params=FUNCTIONS)
def model(request, windows):
    """(operator, int8 model)"""
    return request.param, quantise(lambda x: FUNCTIONS[request.param](x).reshape(1, -1), windows)


def nodes(model):
    """(operator, its input's tensor, its output's), in the order of the graph."""
    content = flatbuffer.tree(model)
    tensors = content.subgraphs[0].tensors
    return [
        (name, tensors[node.inputs[0]], tensors[node.outputs[0]])
        for name, node in zip(flatbuffer.operator_names(content), content.subgraphs[0].operators, strict=True)
    ]


def test_what_goes_in_is_converted_exactly(model):
    name, int8 = model
    before = {op: flatbuffer.port(source) for op, source, _ in nodes(int8)}[name]
    found = nodes(tables.widened(int8))
    place = next(place for place, (op, _, _) in enumerate(found) if op == name)
    (into, narrow, wide), (_, source, made), (back, _, output) = found[place - 1 : place + 2]
    assert (into, back) == ('QUANTIZE', 'QUANTIZE')
    assert flatbuffer.port(narrow) == before
    steps = np.arange(-128, 128)
    values = before.scale * (steps - before.zero_point)
    wide, source, made = map(flatbuffer.port, (wide, source, made))
    assert (wide.dtype, wide.zero_point, wide) == ('int16', 0, source)
    np.testing.assert_allclose(wide.decode(wide.encode(values)), values, rtol=1e-6)
    assert (made.dtype, made.scale, made.zero_point) == ('int16', 2.0**-15, 0)
    assert flatbuffer.port(output).dtype == 'int8'


def test_it_is_the_same_to_a_step(model, windows):
    """Of the operator's own steps, 1/256 or 1/128; attention's outputs are wider."""
    _, int8 = model
    wide = tables.widened(int8)
    step = flatbuffer.graph(int8).output.scale
    for run in (interpret.load, *([] if tflm.missing() else [lambda model: lambda x: tflm.run(tidy(model), x).logits])):
        plain, by_tables = (run(form)(windows) for form in (int8, wide))
        difference = np.abs(plain - by_tables)
        assert difference.max() <= 1.001 * step
        assert (difference > 0).mean() < 0.2
        assert np.abs(plain).max() > 20 * step


def test_an_operator_that_saves_little_stays(model, monkeypatch):
    _, int8 = model
    saved = cost.of_model(int8).instructions - cost.of_model(tables.widened(int8)).instructions
    share = saved / cost.of_model(int8).instructions
    assert share > tables.ONE_SAVES
    monkeypatch.setattr(tables, 'ONE_SAVES', share * 0.99)
    assert 'QUANTIZE' in [op for op, _, _ in nodes(tables.widened(int8))]
    monkeypatch.setattr(tables, 'ONE_SAVES', share * 1.01)
    assert 'QUANTIZE' not in [op for op, _, _ in nodes(tables.widened(int8))]


def test_they_are_taken_for_time_and_refused_for_memory(model, monkeypatch):
    _, int8 = model
    wide = tables.widened(int8)
    saved = 1 - cost.of_model(wide).instructions / cost.of_model(int8).instructions
    arenas = [memory.arena(flatbuffer.tree(tidy(form))) for form in (int8, wide)]
    grown = arenas[1] / arenas[0] - 1
    for save, grow, expected in ((0.99, 1.01, wide), (1.01, 1.01, int8), (0.99, 0.99, int8)):
        monkeypatch.setattr(tables, 'ALL_SAVE', save * saved)
        monkeypatch.setattr(tables, 'GROWS', grow * grown)
        assert tables.taken(int8) == expected


@pytest.mark.skipif(tflm.missing() is not None, reason=str(tflm.missing()))
def test_the_arena_is_foreseen(model, windows):
    _, int8 = model
    for form in (tidy(int8), tidy(tables.widened(int8))):
        taken = tflm.run(form, windows[:1]).arena_bytes
        assert taken - 2500 < memory.arena(flatbuffer.tree(form)) <= taken
