"""Order and places of tensors: nothing is overwritten before its last reader, and less memory is needed."""

from __future__ import annotations

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from helpers import drawn_case, float32, needs_tflm
from jax_reparam.graph import arena, flatbuffer, passes
from jax_reparam.graph.arena import ALIGNMENT, Memory, MemoryNode, Plan, schedule
from jax_reparam.quantise.quantise import Calibration, quantise
from jax_reparam.runtime import tflm


def graph(nodes, sizes, keep):
    made = {tensor for _, makes in nodes for tensor in makes}
    nodes = [MemoryNode(tuple(tensor for tensor in reads if tensor in sizes), tuple(makes)) for reads, makes in nodes]
    return Memory(tuple(nodes), sizes, inputs=frozenset(sizes.keys() - made), outputs=frozenset(keep))


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
    order = schedule(graph(nodes, sizes, {30}))
    possible = [
        p for p in itertools.permutations(range(7)) if all(p.index(b) < p.index(b + 3) < p.index(6) for b in range(3))
    ]
    assert tuple(order) in possible
    best = min(peak(nodes, sizes, {30}, p) for p in possible)
    assert peak(nodes, sizes, {30}, order) == best < peak(nodes, sizes, {30}, tuple(range(7)))
    assert order == schedule(graph(nodes, sizes, {30}))


def test_a_chain_stays_as_it_is():
    nodes = [([index], [index + 1]) for index in range(5)]
    assert schedule(graph(nodes, dict.fromkeys(range(6), 8), {5})) == list(range(5))


def test_a_constant_that_is_read_costs_nothing():
    nodes = [([0, 7], [1]), ([1, 8], [2])]
    assert schedule(graph(nodes, {0: 1, 1: 1, 2: 1}, {2})) == [0, 1]


def random_graph(rng, length):
    """Nodes of all kinds over tensors of some rows of 16 bytes; what nobody reads is an output."""
    sizes, nodes = {0: 16 * int(rng.integers(4, 12))}, []
    for made in range(1, length + 1):
        reads = [int(t) for t in rng.choice(list(sizes), size=min(len(sizes), int(rng.integers(1, 4))), replace=False)]
        one, kind = reads[0], rng.choice(['new', 'view', 'join', 'in_place', 'narrow', 'widen'])
        if kind == 'view':
            rows = sizes[one] // 16
            start = int(rng.integers(0, rows))
            sizes[made] = 16 * int(rng.integers(1, rows - start + 1))
            nodes.append(MemoryNode((one,), (made,), shows=((one, -16 * start),)))
        elif kind == 'join':
            starts = itertools.accumulate((sizes[t] for t in reads), initial=0)
            sizes[made] = sum(sizes[t] for t in reads)
            nodes.append(MemoryNode(tuple(reads), (made,), shows=tuple(zip(reads, starts, strict=False))))
        elif kind == 'in_place':
            sizes[made] = sizes[one]
            alike = tuple(t for t in reads if sizes[t] == sizes[one])
            nodes.append(MemoryNode(alike, (made,), in_place=tuple((t, 0) for t in alike)))
        elif kind == 'widen' or (kind == 'narrow' and sizes[one] % 32 == 0):
            sizes[made] = 2 * sizes[one] if kind == 'widen' else sizes[one] // 2
            nodes.append(MemoryNode((one,), (made,), in_place=((one, max(0, sizes[made] - sizes[one])),)))
        else:
            sizes[made] = 16 * int(rng.integers(1, 12))
            nodes.append(MemoryNode(tuple(reads), (made,)))
    read = {t for node in nodes for t in node.reads}
    return Memory(tuple(nodes), sizes, frozenset({0}), frozenset(sizes.keys() - read - {0}) | {length})


def requantise(arena, source, length, target, size):
    """To twice as many bits or half as many, one element after the other, as TFLM does."""
    for index in range(min(length, size)):
        if size > length:
            arena[target + 2 * index : target + 2 * index + 2] = arena[source + index]
        else:
            arena[target + index] = arena[source + 2 * index]


def run(graph, places, top):
    """Runs a graph within one arena as TFLM's kernels do, and compares all that is read with what was made."""
    arena = np.zeros(top, np.uint8)
    truth = {}

    def write(tensor, values):
        truth[tensor] = values
        arena[places[tensor] : places[tensor] + graph.sizes[tensor]] = values

    def seen(tensor):
        values = arena[places[tensor] : places[tensor] + graph.sizes[tensor]].copy()
        np.testing.assert_array_equal(values, truth[tensor])
        return values

    for tensor in graph.inputs:
        write(tensor, np.random.default_rng(tensor).integers(0, 256, graph.sizes[tensor], np.uint8))
    for node in graph.nodes:
        (made,) = node.makes
        size = graph.sizes[made]
        values = [seen(tensor) for tensor in node.reads]
        if node.shows and size <= len(values[0]):
            write(made, values[0][-node.shows[0][1] :][:size])
        elif node.shows:
            truth[made] = np.concatenate(values)
            for (tensor, offset), part in zip(node.shows, values, strict=True):
                np.testing.assert_array_equal(seen(tensor), part)  # not overwritten by the parts before it
                arena[places[made] + offset :][: len(part)] = part
        elif node.in_place and size != len(values[0]):
            requantise(arena, places[node.reads[0]], len(values[0]), places[made], size)
            truth[made] = np.repeat(values[0], 2) if size > len(values[0]) else values[0][::2]
            seen(made)
        elif node.in_place:
            write(made, sum(value.astype(int) for value in values).astype(np.uint8) * 3 + 1)
        else:
            # Written first: what is still read must not lie there.
            arena[places[made] : places[made] + size] = 0
            for tensor in node.reads:
                seen(tensor)
            write(made, np.resize(np.concatenate(values) * 5 + 7, size).astype(np.uint8))
    for tensor in graph.outputs:
        seen(tensor)


@pytest.mark.parametrize('seed', range(150))
def test_nothing_is_overwritten_before_its_last_reader(seed):
    rng = np.random.default_rng(seed)
    graph = random_graph(rng, int(rng.integers(3, 25)))
    graph = graph.in_order(schedule(graph))
    places, top = Plan(graph).places()
    used = {tensor for node in graph.nodes for tensor in node.reads + node.makes}
    assert used <= places.keys()
    assert all(place % ALIGNMENT == 0 for place in places.values())
    assert top == max(place + graph.sizes[tensor] for tensor, place in places.items())
    run(graph, places, top)


def test_views_joins_and_what_works_in_place_need_no_memory():
    nodes = [
        MemoryNode((0,), (1,), shows=((0, 0),)),
        MemoryNode((0,), (2,), shows=((0, -64),)),
        MemoryNode((1,), (3,), in_place=((1, 0),)),
        MemoryNode((2,), (4,), in_place=((2, 0),)),
        MemoryNode((3, 4), (5,), shows=((3, 0), (4, 64))),
    ]
    graph = Memory(tuple(nodes), {0: 128, 1: 64, 2: 64, 3: 64, 4: 64, 5: 128}, frozenset({0}), frozenset({5}))
    places, top = Plan(graph).places()
    assert top == 128
    run(graph, places, top)


def test_conversions_work_in_place():
    """There and back: 16 bits lie where the 8 were, and reach below where these begin."""
    nodes = [MemoryNode((0,), (1,), in_place=((0, 64),)), MemoryNode((1,), (2,), in_place=((1, 0),))]
    graph = Memory(tuple(nodes), {0: 64, 1: 128, 2: 64}, frozenset({0}), frozenset({2}))
    places, top = Plan(graph).places()
    assert (places, top) == ({0: 64, 1: 0, 2: 0}, 128)
    run(graph, places, top)


def test_what_is_read_later_is_not_worked_on_in_place():
    nodes = [MemoryNode((0,), (1,), in_place=((0, 0),)), MemoryNode((0, 1), (2,), in_place=((0, 0), (1, 0)))]
    graph = Memory(tuple(nodes), {0: 64, 1: 64, 2: 64}, frozenset({0}), frozenset({2}))
    places, top = Plan(graph).places()
    assert places[0] != places[1]
    assert top == 128


def test_free_rows_of_a_tensor_are_used():
    """Two halves of an input, one after the other: the first one's place is free while the second is read."""
    nodes = [
        MemoryNode((0,), (1,), shows=((0, 0),)),
        MemoryNode((0,), (2,), shows=((0, -512),)),
        MemoryNode((1,), (3,)),
        MemoryNode((2, 3), (4,)),
        MemoryNode((4,), (5,)),
    ]
    graph = Memory(tuple(nodes), {0: 1024, 1: 512, 2: 512, 3: 16, 4: 512, 5: 16}, frozenset({0}), frozenset({5}))
    places, top = Plan(graph).places()
    assert top < 1024 + 512
    run(graph, places, top)


def test_which_slices_are_one_piece():
    def pieces(function):
        graph = float32(function, (1, 8, 4))
        found = zip(arena.read(graph).nodes, graph.nodes, strict=True)
        return [memory.shows for memory, node in found if node.op in ('SLICE', 'STRIDED_SLICE')]

    rows = lambda x: jnp.concatenate([jnp.exp(x[:, 2:5]), jnp.exp(x[:, 4:7])], axis=2).sum(axis=1)
    assert sorted(shown[0][1] for shown in pieces(rows)) == [-4 * 16, -2 * 16]
    columns = lambda x: jnp.concatenate([jnp.exp(x[:, :, 1:3]), jnp.exp(x[:, :, :2])], axis=1).sum(axis=1)
    assert pieces(columns) == [(), ()]


@pytest.fixture(scope='module')
def calibration():
    windows, _, function = drawn_case('conv_transformer', 128)
    return Calibration(float32(function, windows.shape), windows)


@needs_tflm
@pytest.mark.parametrize(
    'bits',
    [None, {'': 8}, {'': 16}, {'': 8} | {f'layers/{index}/attention/softmax': 16 for index in range(2)}],
    ids=['float32', '8', '16', '8 and 16'],
)
def test_tflm_follows_the_plan_and_computes_the_same(calibration, bits):
    """A plan that puts everything in one place gives other logits, so the plan is read."""
    windows = calibration.windows
    graph = passes.optimise(calibration.graph if bits is None else quantise(calibration, bits).graph)
    if bits and len(bits) > 1:  # of scores, which are cast where they lie
        found = zip(arena.read(graph).nodes, graph.nodes, strict=True)
        assert sum(bool(memory.in_place) for memory, node in found if node.op == 'CAST') >= 2
    planned = tflm.run(flatbuffer.write(graph), windows)
    plan = graph.metadata.pop(arena.NAME)
    free = tflm.run(flatbuffer.write(graph), windows)
    np.testing.assert_array_equal(planned.logits, free.logits)
    assert planned.arena_bytes < free.arena_bytes

    offsets = np.frombuffer(plan, np.int32).copy()
    offsets[3:] = np.minimum(offsets[3:], 0)
    graph.metadata[arena.NAME] = offsets.tobytes()
    assert not np.array_equal(tflm.run(flatbuffer.write(graph), windows).logits, free.logits)
