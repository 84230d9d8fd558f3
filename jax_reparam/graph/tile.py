"""Splits what needs much memory at a time into parts that come one after the other: the same integers, in less arena.

The parts take their scales from the whole, so that not a bit of the output changes. It is done to the converted file
because the converter joins such parts again, and gives each a scale of its own.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from jax_reparam.graph import arena, flatbuffer
from jax_reparam.graph.graph import CONVERSIONS, Graph, Node, Tensor

# What a node more has to save. One takes some 160 bytes of arena and, as it copies, some thousand instructions.
BYTES_PER_NODE = 256
# What is tried.
ATTENTION_PARTS, CONVOLUTION_PARTS = (2, 3), (2, 3, 4)


def tile(graph: Graph) -> Graph:
    """The same graph with convolutions, attention or both in parts, where that saves memory enough."""
    graphs = [graph]
    # One may be of use only with the other.
    for split, counts in ((_split_attention, ATTENTION_PARTS), (_split_convolutions, CONVOLUTION_PARTS)):
        for whole, count in itertools.product(tuple(graphs), counts):
            parts = whole.copy()
            split(parts, count)
            if len(parts.nodes) > len(whole.nodes):
                graphs.append(parts)

    def needed(graph: Graph) -> int:
        return arena.peak(graph) + arena.tables(graph) + BYTES_PER_NODE * len(graph.nodes)

    return min(graphs, key=needed)


# Nodes of which each one alone reads what the one before makes, as its first input.
Chain: TypeAlias = list[Node]


def _chains(graph: Graph, names: Sequence[set[str]]) -> list[Chain]:
    """All chains of nodes with these operators."""
    readers = graph.readers()
    chains = []
    for start in graph.nodes:
        chain: Chain = []
        behind = [start]
        for allowed in names:
            if len(behind) != 1:
                break
            [node] = behind
            if node.op not in allowed or (chain and node.inputs[0] is not chain[-1].output):
                break
            chain.append(node)
            behind = readers[node.output]
        else:
            chains.append(chain)
    return chains


def _split_convolutions(graph: Graph, count: int) -> None:
    """Two convolutions over time and band, each of every second place: of some tokens after the other.

    Each part but the last is given four frames too many, and its last token, which met the padding instead of the
    frames behind these, is dropped.
    """
    kinds = {'CONV_2D', 'DEPTHWISE_CONV_2D'}
    for chain in _chains(graph, [kinds, kinds]):
        frames, tokens = chain[0].input(0).shape[1], chain[1].output.shape[1]
        # A quarter, so both pad, and behind an even length only.
        if frames != 4 * tokens or tokens <= count or not all(map(_takes_every_second, chain)):
            continue
        split, size = _Split(graph, chain, axis=1), (tokens - 1) // count
        for first in range(0, size * (count - 1), size):
            split.part(4 * first, 4 * size + 4, [2 * size + 2, size + 1], keep=size)
        left = tokens - size * (count - 1)
        split.part(frames - 4 * left, 4 * left, [2 * left, left])
        split.join()


def _takes_every_second(node: Node) -> bool:
    """Whether a convolution has 3 x 3 weights and takes every second place."""
    options = node.options
    steps = (options.strideH, options.strideW, options.dilationHFactor, options.dilationWFactor)
    return node.input(1).shape[1:3] == (3, 3) and steps == (2, 2, 1, 1)


def _split_attention(graph: Graph, count: int) -> None:
    """Attention of some queries after the other."""
    product, softmax, convert = {'BATCH_MATMUL'}, {'SOFTMAX'}, set(CONVERSIONS)
    same, wide = [product, softmax, product], [product, convert, softmax, product, convert]
    for chain in [*_chains(graph, same), *_chains(graph, wide)]:
        source = chain[0].input(0)
        *_, queries, _ = source.shape
        turned = any(getattr(node.options, 'adjX', False) for node in chain)
        if queries < count or turned or source.constant is not None:
            continue
        split = _Split(graph, chain, axis=len(source.shape) - 2)
        for part in np.array_split(np.arange(queries), count):
            split.part(int(part[0]), len(part), [len(part)] * len(chain))
        split.join()


class _Split:
    """A chain of nodes in parts along an axis of its input and of all that it makes."""

    def __init__(self, graph: Graph, chain: Chain, axis: int) -> None:
        self._graph, self._chain, self._axis = graph, chain, axis
        self._nodes: list[Node] = []
        self._parts: list[Tensor] = []

    def part(self, start: int, size: int, sizes: Sequence[int], keep: int | None = None) -> None:
        """Adds the chain for `size` places of its input from `start`, of which its nodes make `sizes`.

        Of what the last one makes, the first `keep` places are right; None: all.
        """
        tensor = self._slice(self._chain[0].input(0), start, size)
        for node, length in zip(self._chain, sizes, strict=True):
            output = self._like(node.output, length)
            options = copy.copy(node.options)
            self._nodes.append(
                dataclasses.replace(node, inputs=[tensor, *node.inputs[1:]], outputs=[output], options=options)
            )
            tensor = output
        self._parts.append(tensor if keep is None else self._slice(tensor, 0, keep))

    def join(self) -> None:
        """Lets the parts, joined, take the chain's place."""
        end = self._chain[-1]
        options = flatbuffer.options('CONCATENATION', axis=self._axis)
        self._nodes.append(Node('CONCATENATION', [*self._parts], [end.output], options))
        self._graph.replace(end, self._nodes)
        self._graph.nodes = [node for node in self._graph.nodes if node not in self._chain]

    def _slice(self, tensor: Tensor, start: int, size: int) -> Tensor:
        sizes = np.array(tensor.shape, np.int32)
        begin = np.zeros_like(sizes)
        begin[self._axis], sizes[self._axis] = start, size
        piece = self._like(tensor, size)
        cut = (Tensor.of(values) for values in (begin, sizes))
        self._nodes.append(Node('SLICE', [tensor, *cut], [piece], flatbuffer.options('SLICE')))
        return piece

    def _like(self, tensor: Tensor, size: int) -> Tensor:
        """A tensor like another one, of another size along the axis."""
        shape = list(tensor.shape)
        shape[self._axis] = size
        return tensor.like(shape=tuple(shape))
