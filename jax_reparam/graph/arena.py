"""Where each tensor of a graph lies in TFLM's arena: in the order, and at the places, that need the least of it.

TFLM plans its arena itself, a place of its own for each tensor. It takes another plan from a model's metadata
(`OfflineMemoryAllocation`), and there tensors may share bytes: those that show the same, whose kernels then copy bytes
onto themselves; those that are worked on in place; and rows that nothing reads any more (docs/export.md, "The arena").
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from jax_reparam.graph.graph import CONVERSIONS, Graph, Node, Tensor

NAME = 'OfflineMemoryAllocation'
VERSION, SUBGRAPH, ONLINE = 1, 0, -1
# Of a tensor's place, in bytes: what TFLM gives.
ALIGNMENT = 16
# What it keeps for the two tables of 513 numbers of a 16-bit softmax.
PER_SOFTMAX = 2 * 513 * 2
# Partial orders kept at a time.
BEAM = 64
# How often the groups that reach highest are tried earlier.
ROUNDS = 40

VIEWS = {'RESHAPE', 'SQUEEZE', 'EXPAND_DIMS'}
# Kernels that write no element, or no row, before the last time they read it: TFLM's reference kernels, by running them
# so; of CMSIS-NN's, softmax and addition by reading them.
IN_PLACE = {'ADD', 'SUB', 'MUL', 'SOFTMAX', 'LOGISTIC', 'TANH', 'RELU', 'RSQRT'}


@dataclasses.dataclass(frozen=True)
class MemoryNode:
    """An operator, as far as memory goes.

    Attributes:
      reads: tensors that it reads, without constants.
      makes: tensors that it makes.
      shows: `(tensor, offset)` for what its output only shows again: the tensor's first byte is the output's at
        `offset`, which is negative where the output is cut from the tensor.
      in_place: the same for what its output may overwrite as it is read, as far as both go.
    """

    reads: tuple[int, ...]
    makes: tuple[int, ...]
    shows: tuple[tuple[int, int], ...] = ()
    in_place: tuple[tuple[int, int], ...] = ()


@dataclasses.dataclass(frozen=True)
class Memory:
    """What a graph computes, as far as memory goes.

    Attributes:
      nodes: its operators, in an order that can be run.
      sizes: bytes of each tensor that is computed or given; constants lie in the file and cost no arena.
      inputs, outputs: tensors that live from the start, and to the end.
    """

    nodes: tuple[MemoryNode, ...]
    sizes: dict[int, int] = dataclasses.field(hash=False)
    inputs: frozenset[int]
    outputs: frozenset[int]

    def in_order(self, order: Sequence[int]) -> Memory:
        """The same with its nodes in another order."""
        return dataclasses.replace(self, nodes=tuple(self.nodes[index] for index in order))


def read(graph: Graph) -> Memory:
    """The memory of a graph; its tensors by their places in its file."""
    tensors = graph.used()
    index = {tensor: place for place, tensor in enumerate(tensors)}
    sizes = {
        place: math.prod(tensor.shape) * np.dtype(tensor.dtype).itemsize
        for place, tensor in enumerate(tensors)
        if tensor.constant is None
    }
    return Memory(
        nodes=tuple(_node(node, index, sizes) for node in graph.nodes),
        sizes=sizes,
        inputs=frozenset(index[tensor] for tensor in graph.inputs),
        outputs=frozenset(index[tensor] for tensor in graph.outputs),
    )


def _node(node: Node, index: Mapping[Tensor, int], sizes: Mapping[int, int]) -> MemoryNode:
    computed = [tensor for tensor in node.reads if tensor.constant is None]
    reads, makes = tuple(index[tensor] for tensor in computed), tuple(index[tensor] for tensor in node.outputs)
    if len(makes) != 1 or not reads:
        return MemoryNode(reads, makes)
    source, output = reads[0], makes[0]
    shows: Sequence[tuple[int, int]] = ()
    in_place: Sequence[tuple[int, int]] = ()
    if node.op in VIEWS:
        shows = [(source, 0)]
    elif node.op in ('STRIDED_SLICE', 'SLICE'):
        offset = _slice_offset(node)
        shows = [] if offset is None else [(source, -offset)]
    elif node.op == 'CONCATENATION':
        whole = node.output.shape
        if math.prod(whole[: node.options.axis % len(whole)]) == 1 and len(reads) == len(node.inputs):
            starts = itertools.accumulate((sizes[tensor] for tensor in reads), initial=0)
            shows = list(zip(reads, starts, strict=False))
    elif node.op in IN_PLACE:
        alike = [t for t in computed if (t.shape, t.dtype) == (node.output.shape, node.output.dtype)]
        in_place = [(index[tensor], 0) for tensor in dict.fromkeys(alike)]
    elif node.op in CONVERSIONS:
        in_place = [(source, max(0, sizes[output] - sizes[source]))]
    if any(offset % ALIGNMENT for _, offset in (*shows, *in_place)):
        return MemoryNode(reads, makes)
    return MemoryNode(reads, makes, tuple(shows), tuple(in_place))


def _slice_offset(node: Node) -> int | None:
    """The byte at which a slice begins, if it is one piece of what it is cut from; else None."""
    shape, cut = node.input(0).shape, node.output.shape
    begin = [int(i) for i in node.input(1).values]
    if node.op == 'STRIDED_SLICE':
        options = node.options
        masks = (options.ellipsisMask, options.newAxisMask, options.shrinkAxisMask)
        if any(masks) or any(stride != 1 for stride in node.input(3).values):
            return None
        begin = [0 if options.beginMask >> axis & 1 else start for axis, start in enumerate(begin)]
    if len(cut) != len(shape) or any(start < 0 for start in begin):
        return None
    axis = next((axis for axis, (a, b) in enumerate(zip(shape, cut, strict=True)) if a != b), len(shape))
    if shape[axis + 1 :] != cut[axis + 1 :] or math.prod(shape[:axis]) != 1:
        return None
    start = begin[axis] if axis < len(shape) else 0
    return start * math.prod(shape[axis + 1 :]) * np.dtype(node.input(0).dtype).itemsize


def schedule(memory: Memory) -> list[int]:
    """An order of `memory.nodes` in which the largest sum of living tensors is small, by a beam search.

    A tensor lives from the node that makes it to the last one that reads it; that tensors may share bytes is not
    looked at. Deterministic; by this count never worse than the order given.
    """
    nodes, sizes, keep = memory.nodes, memory.sizes, memory.outputs
    maker = {tensor: index for index, node in enumerate(nodes) for tensor in node.makes}
    needs = [sum({1 << maker[tensor] for tensor in node.reads if tensor in maker}) for node in nodes]
    readers: dict[int, int] = {}
    followers: list[list[int]] = [[] for _ in nodes]
    for index, node in enumerate(nodes):
        for tensor in node.reads:
            readers[tensor] = readers.get(tensor, 0) | 1 << index
            if tensor in maker:
                followers[maker[tensor]].append(index)

    def step(done: int, live: int, index: int) -> tuple[int, int]:
        """Bytes that live while a node runs, and behind it."""
        node = nodes[index]
        during = live + sum(sizes[tensor] for tensor in node.makes)
        touched = {*node.reads, *node.makes} - keep
        return during, during - sum(sizes[tensor] for tensor in touched if not readers.get(tensor, 0) & ~done)

    start = sum(sizes[tensor] for tensor in memory.inputs if tensor in readers)
    given_peak, live, done = start, start, 0
    for index in range(len(nodes)):
        done |= 1 << index
        during, live = step(done, live, index)
        given_peak = max(given_peak, during)

    ready = [index for index, need in enumerate(needs) if not need]
    # By what is done: the peak so far, what lives now, what can run next, and the nodes run.
    beam: dict[int, tuple[int, int, list[int], list[int]]] = {0: (start, start, ready, [])}
    for _ in nodes:
        following: dict[int, tuple[int, int, list[int], list[int]]] = {}
        for done, (peak, live, ready, order) in beam.items():
            for index in ready:
                now = done | 1 << index
                during, after = step(now, live, index)
                known = following.get(now)
                if known is None or (max(peak, during), after) < known[:2]:
                    new = {follower for follower in followers[index] if not needs[follower] & ~now}
                    following[now] = (max(peak, during), after, sorted({*ready} - {index} | new), [*order, index])
        beam = dict(sorted(following.items(), key=lambda item: item[1][:2])[:BEAM])
    peak, _, _, order = min(beam.values(), key=lambda state: state[:2])
    return order if peak < given_peak else list(range(len(nodes)))


# A piece of a tensor's content: where it begins, its length, the tensor that it was made in, and where there.
Piece = tuple[int, int, int, int]


@dataclasses.dataclass
class Placed:
    """A tensor within a group of tensors whose places hang together: bytes, and nodes between which it lives."""

    tensor: int
    offset: int
    size: int
    first: int
    last: int


def arrange(graph: Graph) -> None:
    """Puts a graph's nodes in order, and a plan of its tensors' places into its metadata; changes `graph`."""
    order, places, _ = _planned(read(graph))
    # Before the order changes: tensors that are not in the list follow in the nodes' order.
    graph.tensors = graph.used()
    graph.nodes = [graph.nodes[index] for index in order]
    # TFLM follows it, other runtimes do not look.
    offsets = [places.get(index, ONLINE) for index in range(len(graph.tensors))]
    graph.metadata[NAME] = np.array([VERSION, SUBGRAPH, len(offsets), *offsets], np.int32).tobytes()


def peak(graph: Graph) -> int:
    """Bytes that a graph's tensors need, once arranged."""
    return _planned(read(graph))[2]


# Widths may differ where tensors do not, and the graph that was chosen is read again when it is arranged.
@functools.lru_cache(maxsize=64)
def _planned(memory: Memory) -> tuple[list[int], dict[int, int], int]:
    """The order of a graph's nodes, the places of its tensors, the bytes that these need."""
    order = schedule(memory)
    return order, *Plan(memory.in_order(order)).places()


def tables(graph: Graph) -> int:
    """Bytes that TFLM keeps for the tables of 16-bit softmaxes: each has its own."""
    return PER_SOFTMAX * sum(node.op == 'SOFTMAX' and node.input(0).dtype == 'int16' for node in graph.nodes)


class Plan:
    """Groups of tensors that share memory, for nodes in a given order."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        first = dict.fromkeys(memory.inputs, -1)
        last: dict[int, int] = {}
        for index, node in enumerate(memory.nodes):
            first.update(dict.fromkeys(node.makes, index))
            last.update(dict.fromkeys(node.reads + node.makes, index))
        last.update(dict.fromkeys(memory.outputs, len(memory.nodes)))
        self._groups = {
            tensor: [Placed(tensor, 0, size, first[tensor], last[tensor])]
            for tensor, size in memory.sizes.items()
            if tensor in last
        }
        self._pieces = self._contents()
        for node in memory.nodes:
            for tensor, offset in node.shows:
                if memory.sizes[tensor] < memory.sizes[node.makes[0]]:
                    self._join(node.makes[0], tensor, offset)
                else:
                    self._join(tensor, node.makes[0], -offset)
        for node in memory.nodes:
            for tensor, offset in node.in_place:
                if self._join(tensor, node.makes[0], -offset):
                    break

    def places(self) -> tuple[dict[int, int], int]:
        """The byte of the arena at which each tensor begins, and how many bytes all need."""
        groups = list({id(group): group for group in self._groups.values()}.values())

        def height(group: list[Placed]) -> int:
            return max(p.offset + p.size for p in group)

        def extent(group: list[Placed]) -> int:
            return height(group) - min(p.offset for p in group)

        def area(group: list[Placed]) -> int:
            return extent(group) * sum(p.last - p.first + 1 for p in group)

        best: tuple[int, dict[int, int]] = (sum(map(extent, groups)) + ALIGNMENT * len(groups), {})
        for size in (extent, area):
            order = sorted(groups, key=lambda group: (-size(group), group[0].first))
            for _ in range(ROUNDS):
                bases, top = _pack(order)
                if top < best[0]:
                    best = top, {p.tensor: base + p.offset for g, base in zip(order, bases, strict=True) for p in g}
                # What reaches the top was placed too late.
                reaches = [base + height(group) == top for group, base in zip(order, bases, strict=True)]
                order = [g for first in (True, False) for g, r in zip(order, reaches, strict=True) if r == first]
        return best[1], best[0]

    def _contents(self) -> dict[int, list[Piece]]:
        """What each tensor holds, in pieces of the tensors in which it was computed."""
        sizes = self._memory.sizes
        pieces = {tensor: [(0, sizes[tensor], tensor, 0)] for tensor in self._memory.inputs}
        for node in self._memory.nodes:
            for output in node.makes:
                shown = [
                    piece
                    for tensor, offset in node.shows
                    for piece in _cut(pieces[tensor], -offset, sizes[output] - offset, offset)
                ]
                pieces[output] = shown or [(0, sizes[output], output, 0)]
        return pieces

    def _join(self, one: int, other: int, offset: int) -> bool:
        """Puts `other` at `offset` within `one`, with all that hangs on both, if nothing is overwritten too early."""
        a, b = self._groups[one], self._groups[other]
        if a is b:
            return False
        start = next(p.offset for p in a if p.tensor == one) + offset
        shift = start - next(p.offset for p in b if p.tensor == other)
        moved = [dataclasses.replace(p, offset=p.offset + shift) for p in b]
        if any(self._conflict(p, q) for p in a for q in moved):
            return False
        a += moved
        for p in moved:
            self._groups[p.tensor] = a
        return True

    def _conflict(self, p: Placed, q: Placed) -> bool:
        low, high = max(p.offset, q.offset), min(p.offset + p.size, q.offset + q.size)
        if low >= high or p.last < q.first or q.last < p.first:
            return False
        before, behind = (p, q) if p.first <= q.first else (q, p)
        if before.last == behind.first:
            node = self._memory.nodes[before.last]
            if behind.tensor in node.makes and (before.tensor, before.offset - behind.offset) in node.in_place:
                return False
        return _cut(self._pieces[p.tensor], low - p.offset, high - p.offset, p.offset) != _cut(
            self._pieces[q.tensor], low - q.offset, high - q.offset, q.offset
        )


def _cut(pieces: Iterable[Piece], low: int, high: int, shift: int) -> list[Piece]:
    """The pieces between two bytes, moved by `shift`; neighbours that belong together are one."""
    cut: list[Piece] = []
    for start, length, tensor, at in pieces:
        begin, end = max(start, low), min(start + length, high)
        if begin >= end:
            continue
        piece = (begin + shift, end - begin, tensor, at + begin - start)
        if cut and cut[-1][2] == tensor and cut[-1][3] + cut[-1][1] == piece[3]:
            cut[-1] = (cut[-1][0], cut[-1][1] + piece[1], tensor, cut[-1][3])
        else:
            cut.append(piece)
    return cut


def _pack(groups: Sequence[Sequence[Placed]]) -> tuple[list[int], int]:
    """The base of each group, one after the other as low as it can lie, and the bytes that all need."""
    count = sum(len(group) for group in groups)
    start, end, first, last = (np.zeros(count, np.int64) for _ in range(4))
    bases, filled = [], 0
    for group in groups:
        lowest = -min(p.offset for p in group)
        taken: list[tuple[Any, Any]] = []
        for p in group:
            near = (first[:filled] <= p.last) & (last[:filled] >= p.first)
            # Bases between these would put the tensor over one that is there.
            taken += zip(start[:filled][near] - p.offset - p.size, end[:filled][near] - p.offset, strict=True)
        base = _align(lowest)
        for below, above in sorted(taken):
            if below >= base:
                break
            if above > base:
                base = _align(int(above))
        bases.append(base)
        for p in group:
            start[filled], end[filled] = base + p.offset, base + p.offset + p.size
            first[filled], last[filled] = p.first, p.last
            filled += 1
    return bases, int(end[:filled].max(initial=0))


def _align(byte: int) -> int:
    return -(-byte // ALIGNMENT) * ALIGNMENT
