"""What of an int8 graph may have 16 bits together: front, head, lookups, sums, tails, all but attention."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from typing import Any

from jax_reparam.graph import arena, cost, flatbuffer
from jax_reparam.runtime import observe

# Operators whose int16 kernels look up.
TABLES = ('SOFTMAX', 'LOGISTIC', 'TANH')
# These move values alone.
_MOVES = ('RESHAPE', 'TRANSPOSE', 'SLICE', 'STRIDED_SLICE')
# What these make has the scale of all that they read.
SAME_SCALE = (*_MOVES, 'PAD', 'CONCATENATION')
_NORMS = ('L2_NORMALIZATION', 'RSQRT')
_HEAD = ('FULLY_CONNECTED', *_MOVES)
# What reads a tensor whatever its scale: no bias has a scale of it, and no output has to have the same.
_SCALE_FREE = (*TABLES, 'ADD', 'BATCH_MATMUL', 'L2_NORMALIZATION', 'MUL', 'SUB')


class Regions:
    """Finds the nodes of each, by their places in the graph `content`, from `flatbuffer.tree`."""

    def __init__(self, content: Any) -> None:
        self._content, self.names = content, flatbuffer.operator_names(content)
        self.nodes, self._readers = list(content.subgraphs[0].operators), flatbuffer.readers(content)
        self._maker = {int(node.outputs[0]): place for place, node in enumerate(self.nodes)}

    def front(self) -> set[int]:
        """From the last linear layer, or the input, to the end of the first normalisation written with RSQRT.

        Means are no such layers.
        """
        roots = set(sorted(self._named('RSQRT'))[:1])
        layers = self._named('FULLY_CONNECTED') - self._means()
        everything = set(range(len(self.nodes)))
        before = _reached(roots, self._before, passed=everything - layers, taken=everything)
        return before | roots | {reader for root in roots for reader in self.behind(root)}

    def head(self) -> set[int]:
        """The last linear layer and those before it."""
        outputs = map(int, self._content.subgraphs[0].outputs)
        last = self._named('FULLY_CONNECTED') & {self._maker[tensor] for tensor in outputs}
        head = self._named(*_HEAD)
        return last | _reached(last, self._before, passed=head, taken=head)

    def tables(self, worth: float) -> set[int]:
        """Of softmaxes and sigmoids those that save `worth` instructions a byte, and products of what they make."""
        tables = {place for place in self._named(*TABLES) if self._pays(place, worth)}
        products = self._named('BATCH_MATMUL', 'MUL')
        return tables | {reader for place in tables for reader in self.behind(place)} & products

    def sums(self) -> set[int]:
        """Of what a linear layer makes and what was there before: the residual stream."""
        layers = self._named(*observe.LINEAR)
        added = {place: self._before(place) for place in self._named('ADD')}
        return {place for place, makers in added.items() if len(makers) == 2 and layers.intersection(makers)}

    def tails(self) -> list[int]:
        """Nodes behind which fewer values pass than anywhere before: the first behind each such tensor.

        Of those behind the first normalisation, with nothing behind that has no 16-bit kernel, as L2_NORMALIZATION has
        none; and not in the head, where all is wide anyway.
        """
        head, end = self.head(), len(self.nodes)
        first = min(self._named(*_NORMS), default=end)
        starts, least = [], math.inf
        for start in self._waists():
            size = math.prod(self._made(start - 1))
            if size < least and start - 1 > first:
                starts.append(start)
            least = min(size, least)
        return [start for start in starts if self.can_be_wide(start) and not head.issuperset(range(start, end))]

    def can_be_wide(self, start: int) -> bool:
        """Whether all has a 16-bit kernel from a node on."""
        return cost.INT16.keys() >= set(self.names[start:])

    def but_attention(self) -> set[int]:
        """All without what attention computes, which has the memory.

        That is all between two tensors that pass alone with a softmax between, but the sum at the end, what is added
        there to what attention makes, and means.
        """
        places = set()
        for start, end in itertools.pairwise([0, *self._waists()]):
            stretch = set(range(start, end))
            if softmaxes := stretch & self._named('SOFTMAX'):
                mixed = _reached(softmaxes, self.behind, passed=stretch, taken=stretch)
                beside = set(self._before(end - 1)) - mixed
                stretch &= {end - 1} | beside | self._means()
            places |= stretch
        return places

    def _waists(self) -> list[int]:
        """The nodes before which one tensor lives alone; behind the last one it is the output."""
        subgraph = self._content.subgraphs[0]
        last = {tensor: max(places) for tensor, places in self._readers.items()}
        last |= dict.fromkeys(map(int, subgraph.outputs), len(self.nodes))
        live, waists = set(map(int, subgraph.inputs)), []
        for place, node in enumerate(self.nodes):
            live = {tensor for tensor in live | {int(node.outputs[0])} if last.get(tensor, -1) > place}
            if len(live) == 1:
                waists.append(place + 1)
        return waists

    def _means(self) -> set[int]:
        """Layers of one output."""
        return {place for place in self._named('FULLY_CONNECTED') if self._made(place)[-1] == 1}

    def shown(self, tensor: int) -> set[int] | None:
        """What has the same values as a tensor, itself included; None: something of it cannot have another scale."""
        while tensor in self._maker and self.names[self._maker[tensor]] in _MOVES:
            tensor = int(self.nodes[self._maker[tensor]].inputs[0])
        if tensor not in self._maker or self.names[self._maker[tensor]] not in observe.LINEAR:
            return None
        group, todo = {tensor}, [tensor]
        while todo:
            for place in self._readers[todo.pop()]:
                if self.names[place] in _MOVES:
                    todo.append(int(self.nodes[place].outputs[0]))
                    group.add(todo[-1])
                elif self.names[place] not in _SCALE_FREE:
                    return None
        return None if group.intersection(map(int, self._content.subgraphs[0].outputs)) else group

    def _pays(self, place: int, worth: float) -> bool:
        name = self.names[place]
        if flatbuffer.dtype(self._content, self.nodes[place].inputs[0]) != 'int8':
            return False
        wide = sum(cost.INT16[kind].instructions for kind in (name, 'QUANTIZE')) + cost.INT8['CAST'].instructions
        saved = math.prod(self._made(place)) * (cost.INT8[name].instructions - wide)
        takes = 2 * arena.PER_NODE + (arena.PER_SOFTMAX if name == 'SOFTMAX' else 0)
        return saved >= worth * takes

    def _named(self, *kinds: str) -> set[int]:
        return {place for place, name in enumerate(self.names) if name in kinds}

    def _made(self, place: int) -> tuple[int, ...]:
        return flatbuffer.shape(self._content, int(self.nodes[place].outputs[0]))

    def _before(self, place: int) -> list[int]:
        return [self._maker[tensor] for tensor in map(int, self.nodes[place].inputs) if tensor in self._maker]

    def behind(self, place: int) -> list[int]:
        """The nodes that read what one makes."""
        return self._readers[int(self.nodes[place].outputs[0])]


def _reached(
    start: Iterable[int], follow: Callable[[int], list[int]], *, passed: set[int], taken: set[int]
) -> set[int]:
    """Of the nodes to which `follow` leads from some, and on from those in `passed`, those in `taken`."""
    reached: set[int] = set()
    todo = list(start)
    while todo:
        new = set(follow(todo.pop())) - reached
        reached |= new & taken
        todo += new & passed
    return reached
