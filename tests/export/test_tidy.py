"""Tidied files: the same function, no names, paddings that TFLM reads, an order that needs less memory."""

from __future__ import annotations

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from jax_reparam.export import convert, flatbuffer, interpret, tflm, tidy


@pytest.fixture(scope='module')
def model(exported):
    return (exported.path / 'model_int8.tflite').read_bytes()


def test_names_are_gone_and_nothing_else(model, data):
    windows, _ = data.windows('test')
    content = flatbuffer.tree(model)
    for index, tensor in enumerate(content.subgraphs[0].tensors):
        tensor.name = f'a/name/that/nobody/reads/{index}'
    named = flatbuffer.pack(content)
    bare = tidy.tidy(named)
    assert len(bare) < len(named)
    assert flatbuffer.graph(bare) == flatbuffer.graph(named)
    np.testing.assert_array_equal(interpret.load(bare)(windows), interpret.load(named)(windows))
    assert tidy.tidy(bare) == bare


def test_paddings_are_what_tflm_reads(rng):
    """Out of jax2tf they have 64 bits, and TFLM refuses the model."""
    kernel = rng.standard_normal((4, 4)).astype(np.float32)
    function = lambda x: jnp.pad(x[0] @ kernel, ((1, 2), (0, 0)), constant_values=0.5).sum(0, keepdims=True)
    windows = rng.standard_normal((3, 6, 4)).astype(np.float32)
    model = tidy.tidy(convert.to_float32(function, (1, 6, 4)))
    assert 'PADV2' in flatbuffer.graph(model).ops
    expected = np.concatenate([function(window[None]) for window in windows])
    np.testing.assert_allclose(interpret.load(model)(windows), expected, rtol=1e-5)
    if tflm.missing() is None:
        np.testing.assert_allclose(tflm.run(model, windows).logits, expected, rtol=1e-5)


def peak(nodes, sizes, keep, order):
    """The largest sum of living tensors, by its definition."""
    largest = 0
    for at, index in enumerate(order):
        made = {t for i in order[: at + 1] for t in nodes[i][1]} | {0}
        later = {t for i in order[at + 1 :] for t in nodes[i][0]} | keep
        alive = (made & later) | set(nodes[index][0]) | set(nodes[index][1])
        largest = max(largest, sum(sizes.get(t, 0) for t in alive))
    return largest


def test_the_order_is_the_best_there_is():
    """Three branches from one input, each with a large tensor within; the given order computes all of these first."""
    nodes, sizes = [], {0: 10}
    for branch in range(3):
        wide, narrow = 10 + branch, 20 + branch
        nodes.append(([0], [wide]))
        sizes |= {wide: 100 + branch, narrow: 1 + branch}
    nodes += [([10 + branch], [20 + branch]) for branch in range(3)]
    nodes.append(([20, 21, 22], [30]))
    sizes[30] = 5
    order = tidy.schedule(nodes, sizes, keep={30})
    possible = [
        p for p in itertools.permutations(range(7)) if all(p.index(b) < p.index(b + 3) < p.index(6) for b in range(3))
    ]
    assert tuple(order) in possible
    best = min(peak(nodes, sizes, {30}, p) for p in possible)
    assert peak(nodes, sizes, {30}, order) == best < peak(nodes, sizes, {30}, tuple(range(7)))
    assert order == tidy.schedule(nodes, sizes, keep={30})


def test_a_chain_stays_as_it_is():
    nodes = [([index], [index + 1]) for index in range(5)]
    assert tidy.schedule(nodes, dict.fromkeys(range(6), 8), keep={5}) == list(range(5))


def test_a_constant_that_is_read_costs_nothing():
    nodes = [([0, 7], [1]), ([1, 8], [2])]
    assert tidy.schedule(nodes, {0: 1, 1: 1, 2: 1}, keep={2}) == [0, 1]
