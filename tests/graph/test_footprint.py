"""The arena of a Cortex-M: by hand for small graphs, and TFLM's own planner on this host for whole models."""

from __future__ import annotations

import re
import types

import jax.numpy as jnp
import numpy as np
import pytest

from helpers import quantise
from jax_reparam.device import frontend
from jax_reparam.frontend.features import FrontendConfig
from jax_reparam.graph import arena, cost, flatbuffer, footprint
from jax_reparam.graph.graph import Graph, Node, Tensor
from jax_reparam.runtime import tflm

# Before the tensors: allocators and planner, each at a multiple of 4 from the end.
FIXED = 36 + 44 + 36 + 8 + 8


def tensor(*shape, dtype='int8', constant=None):
    return Tensor(shape, dtype, np.float32([0.1]), constant=constant)


def one(op, inputs, output, **options):
    """A graph of one node that reads its first input."""
    node = Node(op, inputs, [output], flatbuffer.options(op, **options) if options else None)
    return Graph([node], [inputs[0]], [output])


def kept(tensors, ends=2):
    """What a graph of one node keeps beside the node's own: tensors and node, and what callers see of its ends."""
    return FIXED + 12 * tensors + 32, ends * (16 + 32 + 12 + 8)


def up(size, alignment=16):
    return -(-size // alignment) * alignment


def test_one_node_by_hand():
    """Two tensors of 32 bytes at once, the node's constants and pointers; planning takes less than it leaves."""
    graph = one('TANH', [tensor(1, 20, dtype='int16')], tensor(1, 20, dtype='int16'))
    before, _ = kept(2)
    tail = up(before + 16)
    for _ in range(2):  # input and output: a pointer, then 32 + 12 + 8 bytes
        tail = up(tail + 4) + 32 + 12 + 8
    found = footprint.footprint(graph, helium=False)
    assert found.used == tail + 48 + 48
    # 12 requests for scratch, a pointer and two infos; then 40 bytes for each buffer in the planner.
    assert found.needed == up(before + 16) + up(12 * 12 + 4 + 2 * 24) + 2 * 40


@pytest.mark.parametrize(
    ('op', 'inputs', 'output', 'turned', 'kept', 'scratch', 'helium_kept', 'helium_scratch'),
    [
        # A matrix through a layer; as an image of single pixels it takes what a convolution does.
        ('FULLY_CONNECTED', [(5, 8), (6, 8)], (5, 6), None, [], [], [4 * 6], []),
        ('FULLY_CONNECTED', [(1, 5, 8), (6, 8)], (1, 5, 6), None, [], [8 * 6], [], [8 * 6]),
        ('BATCH_MATMUL', [(2, 5, 8), (2, 7, 8)], (2, 5, 7), True, [16, 28], [], [16, 28], [4 * 7]),
        # The right side is turned and kept: its struct, its shape, its values.
        ('BATCH_MATMUL', [(2, 5, 8), (2, 8, 7)], (2, 5, 7), False, [12, 16, 112, 16, 28], [], None, [4 * 7]),
        ('CONV_2D', [(1, 1, 5, 8), (6, 1, 1, 8)], (1, 1, 5, 6), None, [24, 24], [], [24, 24], []),
        ('CONV_2D', [(1, 9, 9, 3), (6, 3, 3, 3)], (1, 9, 9, 6), None, [24, 24], [4 * 28], [24, 24], [64 * 2]),
        ('DEPTHWISE_CONV_2D', [(1, 9, 9, 4), (1, 3, 3, 4)], (1, 9, 9, 4), None, [16, 16], [], None, [4 * 124 * 9]),
        ('DEPTHWISE_CONV_2D', [(1, 9, 9, 4), (1, 1, 5, 4)], (1, 9, 9, 4), None, [16, 16], [40], None, [4 * 124 * 5]),
        ('DEPTHWISE_CONV_2D', [(1, 9, 9, 1), (1, 3, 3, 4)], (1, 9, 9, 4), None, [16, 16], [], None, [64 + 36]),
    ],
)
def test_what_a_kernel_asks_for(op, inputs, output, turned, kept, scratch, helium_kept, helium_scratch):
    first, second = inputs
    options = types.SimpleNamespace(adjX=False, adjY=turned)
    node = Node(op, [tensor(*first), tensor(*second)], [tensor(*output)], options)
    found = footprint._wanted(node, helium=False)
    assert (list(found.kept), list(found.scratch)) == (kept, scratch)
    found = footprint._wanted(node, helium=True)
    assert (list(found.kept), list(found.scratch)) == (kept if helium_kept is None else helium_kept, helium_scratch)


def test_a_softmax_of_16_bits_keeps_its_two_tables():
    eight, sixteen = (
        one('SOFTMAX', [tensor(2, 64, dtype=dtype)], tensor(2, 64, dtype=dtype)) for dtype in ('int8', 'int16')
    )
    more = footprint.footprint(sixteen, helium=False).used - footprint.footprint(eight, helium=False).used
    assert more == 2 * up(2 * 513) + 2 * 128


def test_scratch_lies_beside_what_lives_while_its_node_runs():
    """Between tensors that have their place, as low as it fits."""
    graph = one('MEAN', [tensor(1, 64), Tensor.of(np.int32([1]))], tensor(1, 1))
    offsets = {graph.inputs[0]: 32, graph.outputs[0]: 0}
    places = [offsets.get(each, arena.ONLINE) for each in graph.used()]
    graph.metadata[arena.NAME] = np.array([1, 0, len(places), *places], np.int32).tobytes()
    assert footprint._planned(graph, graph.used(), [(0, 16)]) == 96
    assert footprint._planned(graph, graph.used(), [(0, 17)]) == 96 + 32
    assert footprint._planned(graph, graph.used(), []) == 96


def test_scratch_lies_above_a_tensor_that_holds_another():
    graph = one('MEAN', [tensor(1, 64), Tensor.of(np.int32([1]))], tensor(1, 1))
    places = [{graph.inputs[0]: 0, graph.outputs[0]: 16}.get(each, arena.ONLINE) for each in graph.used()]
    graph.metadata[arena.NAME] = np.array([1, 0, len(places), *places], np.int32).tobytes()
    assert footprint._planned(graph, graph.used(), [(0, 48)]) == 64 + 48


@pytest.fixture(params=['int8', 'int16'])
def whole(exported, request):
    """A whole model as it is exported."""
    return flatbuffer.read((exported.path / f'model_{request.param}.tflite').read_bytes())


def head(model):
    """What TFLM's planner made of a model on this host: its reference kernels take no scratch in our graphs."""
    with tflm.started(model) as session:
        return int(re.search(r'Arena allocation head (\d+) bytes', session._said())[1]), session.arena_bytes


needs_tflm = pytest.mark.skipif(tflm.missing() is not None, reason='needs tflite-micro')


@needs_tflm
@pytest.mark.parametrize('planned', [True, False])
def test_tensors_lie_where_tflms_planner_puts_them(whole, planned):
    graph = whole.copy()
    if not planned:
        del graph.metadata[arena.NAME]
    found, _ = head(flatbuffer.write(graph))
    assert footprint._planned(graph, graph.used(), []) == found


@needs_tflm
def test_so_do_those_of_the_frontend():
    graph = flatbuffer.read(frontend.build(FrontendConfig()))
    scratch = [(place, 4 * 512) for place, node in enumerate(graph.nodes) if node.op == 'SignalRfft']
    assert footprint._planned(graph, graph.used(), scratch) == head(flatbuffer.write(graph))[0]
    # On the emulated Cortex-M4F and M55.
    assert {footprint.footprint(graph, helium=helium) for helium in (False, True)} == {
        footprint.Footprint(13536, 13536)
    }


@needs_tflm
def test_a_cortex_m_needs_less_than_this_host_but_not_much(whole):
    _, taken = head(flatbuffer.write(whole))
    found = footprint.footprint(whole, helium=False)
    assert 0.5 * taken < found.used < taken
    assert found.used <= footprint.footprint(whole, helium=True).used
    assert cost.of_graph(whole).arena_bytes == found.used


def test_many_small_tensors_need_more_to_plan_than_to_run(rng):
    def apply(x):
        for _ in range(40):
            x = jnp.tanh(x)
        return x.reshape(1, -1)

    found = footprint.footprint(quantise(apply, rng.standard_normal((2, 2, 2)).astype(np.float32)), helium=False)
    assert found.needed > found.used
