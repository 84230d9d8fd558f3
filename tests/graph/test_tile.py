"""Convolutions and attention in parts: the same integers, less memory."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import helpers
from helpers import float32, in_litert, quantise
from jax_reparam.deploy import ops
from jax_reparam.graph import arena, tile
from jax_reparam.quantise import quantise as quantiser
from jax_reparam.quantise.quantise import Calibration


def front(rng, channels=8):
    """The two convolutions of the models, on features `[1, T, 16]`; the logits are sums of what they make."""
    shapes = [(3, 3, 1, channels), (3, 3, channels, channels)]
    layers = {
        f'conv_{i}': {
            'kernel': rng.standard_normal(shape).astype(np.float32),
            'bias': rng.standard_normal(channels).astype(np.float32),
        }
        for i, shape in enumerate(shapes)
    }
    layer = {'kernel': rng.standard_normal((channels * 4, 3)).astype(np.float32), 'bias': np.ones(3, np.float32)}
    return lambda x: ops.mean_over_time(ops.linear(layer, ops.subsample(layers, x)))


def attention(rng):
    return helpers.attention(rng, heads=4)


@pytest.mark.parametrize('parts', [2, 3, 4])
@pytest.mark.parametrize(('make', 'frames'), [(front, 400), (front, 412), (attention, 100), (attention, 101)])
def test_parts_compute_the_same(rng, monkeypatch, make, frames, parts):
    monkeypatch.setattr(tile, 'ATTENTION_PARTS', (parts,))
    monkeypatch.setattr(tile, 'CONVOLUTION_PARTS', (parts,))
    function = make(rng)
    windows = rng.standard_normal((4, frames, 16)).astype(np.float32)
    calibration = Calibration(float32(function, windows.shape), windows)
    quantised = (quantiser.quantise(calibration, {'': bits}).graph for bits in (8, 16))
    for graph in (calibration.graph, *quantised):
        tiled = tile.tile(graph)
        # Each is cut out, and has its nodes; of convolutions all but the last drop a token; all are joined.
        more = 4 * parts - 2
        assert len(tiled.nodes) == len(graph.nodes) + more
        assert arena.peak(tiled) <= arena.peak(graph) - more * tile.BYTES_PER_NODE
        np.testing.assert_array_equal(in_litert(tiled, windows), in_litert(graph, windows))


def test_as_many_parts_as_pay(rng, monkeypatch):
    graph = quantise(front(rng), rng.standard_normal((4, 400, 16)).astype(np.float32))
    needed = lambda graph: arena.peak(graph) + tile.BYTES_PER_NODE * len(graph.nodes)
    chosen, some = tile.tile(graph), []
    for parts in (2, 3, 4):
        monkeypatch.setattr(tile, 'CONVOLUTION_PARTS', (parts,))
        some.append(tile.tile(graph))
    assert needed(chosen) == min(map(needed, some))
    assert len({len(tiled.nodes) for tiled in some}) == 3


def test_a_softmax_of_16_bits_is_split_where_that_saves_more_than_its_tables(rng, monkeypatch):
    windows = rng.standard_normal((4, 100, 16)).astype(np.float32)
    graph = quantise(attention(rng), windows, {'': 8, 'softmax': 16})
    tiled = tile.tile(graph)
    assert arena.tables(tiled) > arena.tables(graph) > 2000
    np.testing.assert_array_equal(in_litert(tiled, windows), in_litert(graph, windows))
    monkeypatch.setattr(arena, 'PER_SOFTMAX', arena.peak(graph) - arena.peak(tiled))  # of one more
    assert tile.tile(graph) is graph


@pytest.mark.parametrize(
    ('make', 'frames'),
    [
        (front, 401),  # pads before an odd length: parts would not be the whole
        (front, 402),  # the second convolution's is odd
        (front, 40),  # saves too little
        (attention, 20),
    ],
)
def test_what_cannot_or_need_not_be_split_is_left(rng, make, frames):
    windows = rng.standard_normal((4, frames, 16)).astype(np.float32)
    graph = quantise(make(rng), windows)
    assert tile.tile(graph) is graph


def test_other_convolutions_are_left(rng):
    """No stride, and a kernel of 5: four frames more would not be enough."""
    kernels = [rng.standard_normal((5, 5, *channels)).astype(np.float32) for channels in ((1, 8), (8, 8))]

    def function(x):
        x = x[..., None]
        for kernel in kernels:
            x = jax.lax.conv_general_dilated(x, kernel, (2, 2), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC'))
        return jnp.mean(x, axis=(1, 2))

    graph = float32(function, (1, 400, 16))
    assert tile.tile(graph) is graph
