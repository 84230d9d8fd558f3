"""Splits what needs much memory at a time into parts that come one after the other: the same integers, in less arena.

The parts take their scales from the whole, so that not a bit of the output changes. It is done to the converted file
because the converter joins such parts again, and gives each a scale of its own.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from jax_reparam.graph import arena, flatbuffer

# What a node more has to save. One takes some 150 bytes of arena and, as it copies, some thousand instructions.
BYTES_PER_NODE = 512
# What is tried.
ATTENTION_PARTS, CONVOLUTION_PARTS = (2,), (2, 3, 4)


def tile(content: Any) -> Any:
    """The same graph with convolutions, attention or both in parts, where that saves memory enough."""
    graphs = [content]
    # One may be of use only with the other.
    for split, counts in ((_split_attention, ATTENTION_PARTS), (_split_convolutions, CONVOLUTION_PARTS)):
        for graph, count in itertools.product(tuple(graphs), counts):
            other = copy.deepcopy(graph)
            split(other, count)
            if len(other.subgraphs[0].operators) > len(graph.subgraphs[0].operators):
                graphs.append(other)

    def needed(graph: Any) -> int:
        return arena.peak(graph) + arena.tables(graph) + BYTES_PER_NODE * len(graph.subgraphs[0].operators)

    return min(graphs, key=needed)


# Nodes of which each one alone reads what the one before makes, as its first input.
Chain = list[Any]


def _chains(content: Any, names: Sequence[set[str]]) -> list[Chain]:
    """All chains of nodes with these operators."""
    nodes, readers = flatbuffer.named_nodes(content), flatbuffer.readers(content)
    chains = []
    for start in range(len(nodes)):
        chain: Chain = []
        behind = [start]
        for allowed in names:
            if len(behind) != 1:
                break
            name, node = nodes[behind[0]]
            if name not in allowed or (chain and node.inputs[0] != chain[-1].outputs[0]):
                break
            chain.append(node)
            behind = readers[int(node.outputs[0])]
        else:
            chains.append(chain)
    return chains


def _split_convolutions(content: Any, count: int) -> None:
    """Two convolutions over time and band, each of every second place: of some tokens after the other.

    Each part but the last is given four frames too many, and its last token, which met the padding instead of the
    frames behind these, is dropped.
    """
    kinds = {'CONV_2D', 'DEPTHWISE_CONV_2D'}
    for chain in _chains(content, [kinds, kinds]):
        frames, tokens = (flatbuffer.shape(content, end)[1] for end in (chain[0].inputs[0], chain[1].outputs[0]))
        # A quarter, so both pad, and behind an even length only.
        if frames != 4 * tokens or tokens <= count or not all(_takes_every_second(content, node) for node in chain):
            continue
        split, size = _Split(content, chain, axis=1), (tokens - 1) // count
        for first in range(0, size * (count - 1), size):
            split.part(4 * first, 4 * size + 4, [2 * size + 2, size + 1], keep=size)
        left = tokens - size * (count - 1)
        split.part(frames - 4 * left, 4 * left, [2 * left, left])
        split.join()


def _takes_every_second(content: Any, node: Any) -> bool:
    """Whether a convolution has 3 x 3 weights and takes every second place."""
    options = node.builtinOptions
    steps = (options.strideH, options.strideW, options.dilationHFactor, options.dilationWFactor)
    return flatbuffer.shape(content, node.inputs[1])[1:3] == (3, 3) and steps == (2, 2, 1, 1)


def _split_attention(content: Any, count: int) -> None:
    """Attention of some queries after the other."""
    product, softmax, convert = {'BATCH_MATMUL'}, {'SOFTMAX'}, set(flatbuffer.CONVERSIONS)
    same, wide = [product, softmax, product], [product, convert, softmax, product, convert]
    for chain in [*_chains(content, same), *_chains(content, wide)]:
        *_, queries, _ = shape = flatbuffer.shape(content, chain[0].inputs[0])
        turned = any(getattr(node.builtinOptions, 'adjX', False) for node in chain)
        if queries < count or turned or flatbuffer.is_constant(content, chain[0].inputs[0]):
            continue
        split = _Split(content, chain, axis=len(shape) - 2)
        for part in np.array_split(np.arange(queries), count):
            split.part(part[0], len(part), [len(part)] * len(chain))
        split.join()


class _Split:
    """A chain of nodes in parts along an axis of its input and of all that it makes."""

    def __init__(self, content: Any, chain: Chain, axis: int) -> None:
        self._content, self._chain, self._axis = content, chain, axis
        self._nodes: list[Any] = []
        self._made: list[int] = []

    def part(self, start: int, size: int, sizes: Sequence[int], keep: int | None = None) -> None:
        """Adds the chain for `size` places of its input from `start`, of which its nodes make `sizes`.

        Of what the last one makes, the first `keep` places are right; None: all.
        """
        tensor = self._slice(int(self._chain[0].inputs[0]), start, size)
        for node, length in zip(self._chain, sizes, strict=True):
            copied = copy.deepcopy(node)
            copied.inputs = np.array([tensor, *node.inputs[1:]], np.int32)
            tensor = self._like(int(node.outputs[0]), length)
            copied.outputs = np.array([tensor], np.int32)
            self._nodes.append(copied)
        self._made.append(tensor if keep is None else self._slice(tensor, 0, keep))

    def join(self) -> None:
        """Lets the parts, joined, take the chain's place."""
        end = self._chain[-1]
        self._nodes.append(
            flatbuffer.node(self._content, 'CONCATENATION', self._made, int(end.outputs[0]), axis=self._axis)
        )
        operators: list[Any] = []
        for node in self._content.subgraphs[0].operators:
            if node is end:
                operators += self._nodes
            elif all(node is not other for other in self._chain):
                operators.append(node)
        self._content.subgraphs[0].operators = operators

    def _slice(self, tensor: int, start: int, size: int) -> int:
        sizes = np.array(flatbuffer.shape(self._content, tensor), np.int32)
        begin = np.zeros_like(sizes)
        begin[self._axis], sizes[self._axis] = start, size
        piece = self._like(tensor, size)
        cut = [flatbuffer.add_constant(self._content, values) for values in (begin, sizes)]
        self._nodes.append(flatbuffer.node(self._content, 'SLICE', [tensor, *cut], piece))
        return piece

    def _like(self, tensor: int, size: int) -> int:
        """Adds a tensor like another one, of another size along the axis."""
        shape = list(flatbuffer.shape(self._content, tensor))
        shape[self._axis] = size
        added = flatbuffer.add_like(self._content, tensor, shape)
        self._content.subgraphs[0].tensors[added].buffer = 0
        return added
