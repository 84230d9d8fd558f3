"""Which nodes of a graph compute in 8 bits and which in 16: decided before anything is quantised, by named parts.

The deploy form names its parts (`jax.named_scope`), and the names reach the tensors of the converted graph:
`jit(apply)/layers/0/attention/dot_general;jit(apply)/layers/0/attention/add`.
"""

from __future__ import annotations

import collections
import re
from collections.abc import Mapping

from jax_reparam.graph.graph import Graph, Node, Tensor

# Nodes that move values, and have no part of their own.
MOVES = frozenset({'EXPAND_DIMS', 'PAD', 'PADV2', 'RESHAPE', 'SLICE', 'SPLIT', 'SQUEEZE', 'STRIDED_SLICE', 'TRANSPOSE'})
_CALL = re.compile(r'\w+\(.*\)\d*')


def scopes(name: str) -> list[str]:
    """The scopes in a tensor's name, one a part: of `jit(f)/a/b/add;jit(f)/c/mul;max` it is `a/b` and `c`."""
    found = []
    for part in name.split(';'):
        *path, _ = [key for key in part.split('/') if not _CALL.fullmatch(key)] or ['']
        if path:
            found.append('/'.join(path))
    return found


def assign(graph: Graph, widths: Mapping[str, int]) -> dict[Node, int]:
    """The bits that each node computes in.

    A node has those of its part: of the longest prefix in `widths` of the scope in its output's name. A fused operator
    has several, of which most count: the converter also names it after constants that others share. What moves values
    for a node of 16 bits has 16 where they are there in 16, made so or cast for another node: else it moves bytes for
    nothing. The graph's output is named by its caller, so the node that makes it has the bits of the one before.

    Args:
      graph: a float32 graph.
      widths: 8 or 16 by scope; `''` is the prefix of all.

    Raises:
      ValueError: a node that computes has no scope of `widths`, or several with different bits.
    """
    makers, bits = graph.makers(), dict[Node, int]()

    def of_maker(tensor: Tensor) -> int:
        return bits[makers[tensor]] if tensor in makers else 16

    for node in graph.nodes:
        if node.op in MOVES or (node.output in graph.outputs and not scopes(node.output.name) and '' not in widths):
            bits[node] = of_maker(node.input(0))
        else:
            bits[node] = _declared(node, widths)
    cast = {tensor for node in graph.nodes if node.op not in MOVES and bits[node] == 16 for tensor in node.reads}
    read = dict.fromkeys(graph.outputs, 16)
    for node in reversed(graph.nodes):
        if node.op in MOVES:
            there = 16 if node.input(0) in cast else bits[node]
            bits[node] = min(there, read.get(node.output, 8))
        for tensor in node.reads:
            read[tensor] = max(read.get(tensor, 8), bits[node])
    return bits


def _declared(node: Node, widths: Mapping[str, int]) -> int:
    name = node.output.name
    keys = [key for scope in scopes(name) if (key := _longest(scope, widths)) is not None]
    if not keys and '' in widths:
        return widths['']
    (bits, most), *others = collections.Counter(widths[key] for key in keys).most_common() or [(0, 0)]
    if not bits or any(count == most for _, count in others):
        found = ' and '.join(sorted({repr(key) for key in keys})) or 'none'
        raise ValueError(f'{node.op} {name!r}: expected a scope of {", ".join(map(repr, widths))}, found {found}')
    return bits


def _longest(scope: str, widths: Mapping[str, int]) -> str | None:
    keys = scope.split('/')
    prefixes = ('/'.join(keys[:count]) for count in range(len(keys), -1, -1))
    return next((prefix for prefix in prefixes if prefix in widths), None)
