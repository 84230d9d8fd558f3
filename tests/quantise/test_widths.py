"""Which bits each node has: by the longest prefix of its scope; what moves values follows; no part is an error."""

from __future__ import annotations

import collections

import jax
import numpy as np
import pytest

from helpers import TINY_MODELS, drawn_calibration, float32, pattern
from jax_reparam import deploy
from jax_reparam.graph.graph import Graph, Node, Tensor
from jax_reparam.quantise import widths


def chain(*nodes):
    """A graph of operators one after the other, each given by its name and that of its output."""
    tensors = [Tensor((1, 4), 'float32', name='features')]
    tensors += [Tensor((1, 4), 'float32', name=name) for _, name in nodes]
    made = [Node(op, [source], [output]) for (op, _), source, output in zip(nodes, tensors, tensors[1:], strict=False)]
    return Graph(made, tensors[:1], tensors[-1:])


def bits(table, *nodes):
    """Of the nodes of such a graph."""
    return list(widths.assign(chain(*nodes), table).values())


@pytest.mark.parametrize(
    ('name', 'expected'),
    [
        ('jit(apply)/layers/0/attention/dot_general', ['layers/0/attention']),
        # One for each operator that was fused; what jax.jit or the converter calls is no scope.
        ('jit(f)/a/b/add;jit(f)/a/b/mul;jit(f)/c/jit(relu)/max', ['a/b', 'a/b', 'c']),
        ('jit(main)/jit(apply)/head/jit(relu)/max1', ['head']),
        ('jit(apply)/add;head/add', ['head']),
        ('StatefulPartitionedCall:0', []),
        ('', []),
    ],
)
def test_scopes_are_read_from_a_name(name, expected):
    assert widths.scopes(name) == expected


@pytest.mark.parametrize(
    ('table', 'expected'),
    [
        ({'': 8}, [8, 8, 8]),
        ({'': 8, 'a': 16}, [16, 16, 8]),
        ({'a': 8, 'a/b': 16, 'ab': 16}, [16, 8, 16]),
        ({'a': 16, 'a/b': 8, '': 8}, [8, 16, 8]),
    ],
)
def test_the_longest_prefix_wins_key_by_key(table, expected):
    nodes = ('ADD', 'jit(f)/a/b/c/add'), ('ADD', 'jit(f)/a/bc/add'), ('ADD', 'jit(f)/ab/add')
    assert bits(table, *nodes) == expected


def test_of_a_fused_operator_most_parts_count():
    name = 'f()/a/mul;f()/b/add;f()/b/max'
    assert bits({'a': 8, 'b': 16}, ('ADD', name), ('ADD', 'f()/a/x')) == [16, 8]
    # Parts of the same bits agree, however many there are.
    assert bits({'a': 16, 'b': 8, 'c': 8}, ('ADD', f'{name};f()/c/x;f()/a/x')) == [8]


@pytest.mark.parametrize(
    ('name', 'table', 'found'),
    [
        ('f()/a/mul;f()/b/add', {'a': 8, 'b': 16}, "'a' and 'b'"),
        ('f()/add', {'a': 8, 'b': 16}, 'none'),
        ('f()/c/add', {'a': 8, 'b': 16}, 'none'),
        ('', {'a': 8, 'b': 16}, 'none'),
    ],
)
def test_no_scope_or_two_is_an_error_that_names_the_node(name, table, found):
    message = f"ADD {name!r}: expected a scope of 'a', 'b', found {found}"
    with pytest.raises(ValueError, match=pattern(message)):
        bits(table, ('ADD', name), ('MUL', 'f()/a/mul'))


def test_the_output_which_its_caller_names_has_the_bits_of_what_it_reads():
    assert bits({'a': 16}, ('MUL', 'f()/a/mul'), ('ADD', 'logits')) == [16, 16]
    # Where all has a width, that counts.
    assert bits({'a': 16, '': 8}, ('MUL', 'f()/a/mul'), ('ADD', 'logits')) == [16, 8]


@pytest.mark.parametrize('before', [8, 16])
@pytest.mark.parametrize('behind', [8, 16])
@pytest.mark.parametrize('count', [1, 3])
def test_what_moves_values_has_16_bits_only_between_16_and_16(before, behind, count):
    moves = [(op, 'f()/b/elsewhere') for op in sorted(widths.MOVES)[:count]]
    found = bits({'a': before, 'b': behind}, ('MUL', 'f()/a/mul'), *moves, ('MUL', 'f()/b/mul'))
    assert found == [before, *[min(before, behind)] * count, behind]


def test_what_moves_the_input_or_the_output_has_their_readers_and_makers_bits():
    assert bits({'a': 16}, ('RESHAPE', ''), ('MUL', 'f()/a/mul'), ('RESHAPE', '')) == [16, 16, 16]
    assert bits({'a': 8}, ('RESHAPE', ''), ('MUL', 'f()/a/mul'), ('RESHAPE', '')) == [8, 8, 8]


def test_one_reader_in_16_bits_is_enough():
    graph = chain(('MUL', 'f()/a/mul'), ('RESHAPE', ''), ('ADD', 'f()/b/add'), ('ADD', 'f()/a/add'))
    graph.nodes[3].inputs.append(graph.nodes[1].output)
    assert list(widths.assign(graph, {'a': 16, 'b': 8}).values()) == [16, 16, 8, 16]


@pytest.mark.parametrize('behind', [8, 16])
def test_what_is_cast_for_another_node_is_there_in_16_bits_for_a_move(behind):
    graph = chain(('MUL', 'f()/a/mul'), ('RESHAPE', ''), ('ADD', 'f()/b/add'), ('ADD', 'f()/c/add'))
    graph.nodes[3].inputs.append(graph.nodes[0].output)
    assert list(widths.assign(graph, {'a': 8, 'b': behind, 'c': 16}).values()) == [8, behind, behind, 16]


@pytest.mark.parametrize('name', TINY_MODELS)
def test_every_computing_node_of_a_deploy_form_has_its_part(name):
    """Also through jax.nn's own calls; the converter's names are those of the JAX version at hand."""
    graph = drawn_calibration(name)[2].graph
    parts = collections.defaultdict(set)
    for node in graph.nodes[:-1]:  # the last is named by its caller
        if node.op not in widths.MOVES:
            assert widths.scopes(node.output.name), node.output.name
            for scope in widths.scopes(node.output.name):
                parts[scope.split('/')[-1]].add(node.op)
    assert 'FULLY_CONNECTED' in parts['head']
    assert 'SOFTMAX' in parts['softmax']
    assert not {'SOFTMAX', 'CONV_2D'} & parts['head']
    table = deploy.widths(TINY_MODELS[name], 61)
    assert set(widths.assign(graph, table).values()) == {8, 16}


def test_a_part_in_16_bits_is_that_part():
    """Of nodes that the converter fuses, names and splits."""

    def function(x):
        with jax.named_scope('a'):
            y = jax.nn.relu(x[0] @ np.ones((4, 4), np.float32) + np.ones((1, 4), np.float32))
        with jax.named_scope('b'):
            y = jax.nn.softmax(y)
            with jax.named_scope('c'):
                y = jax.nn.sigmoid(y)
        return y.reshape(1, -1)

    graph = float32(function, (3, 4))
    for scope, ops in {'a': {'FULLY_CONNECTED'}, 'b': {'SOFTMAX'}, 'b/c': {'LOGISTIC'}}.items():
        found = widths.assign(graph, {'': 8, 'b/c': 8, scope: 16})
        assert {node.op for node, width in found.items() if width == 16} - widths.MOVES == ops
