"""Which registrations a model gets."""

from __future__ import annotations

import pytest

from jax_reparam.device import registrations
from jax_reparam.graph import flatbuffer


@pytest.fixture
def graph(model):
    return flatbuffer.read(model)


def registered(graph):
    return registrations.registrations(flatbuffer.write(graph))


def test_int8_operators_get_the_kernels_for_int8_alone(convert):
    model = convert('narrow')
    found = registrations.registrations(model)
    assert 'AddFullyConnected(tflm::Register_FULLY_CONNECTED_INT8())' in found
    assert 'AddSoftmax(tflm::Register_SOFTMAX_INT8())' in found
    assert 'AddReshape()' in found
    assert len(found) == len(set(found)) == len(flatbuffer.read(model).ops)


def test_float_operators_get_the_generic_kernels(front):
    found = registrations.registrations(front)
    assert {'AddFullyConnected()', 'AddMul()', 'AddRfft()'} <= set(found)
    assert not any('Register' in call for call in found)


def test_int16_operators_get_the_kernels_for_int16_alone(convert):
    found = registrations.registrations(convert('int16'))
    assert 'AddFullyConnected(tflm::Register_FULLY_CONNECTED_INT16())' in found
    assert not any('INT8' in call for call in found)


def test_what_has_16_bits_alone_gets_their_kernels(convert):
    found = set(registrations.registrations(convert('wide')))
    assert 'AddSoftmax(tflm::Register_SOFTMAX_INT16())' in found
    # Products and layers in 8 bits and in 16.
    assert {'AddBatchMatMul()', 'AddFullyConnected()', 'AddQuantize()', 'AddRsqrt()'} < found


def test_int8_gets_both_where_its_ends_have_16_bits(model):
    found = set(registrations.registrations(model))
    assert {'AddSoftmax(tflm::Register_SOFTMAX_INT8())', 'AddFullyConnected()', 'AddCast()'} < found


def test_one_node_of_another_type_asks_for_the_generic_kernel(convert):
    graph = flatbuffer.read(convert('narrow'))
    first = next(node for node in graph.nodes if node.op == 'FULLY_CONNECTED')
    first.input(0).dtype = 'float32'
    assert 'AddFullyConnected()' in registered(graph)


def test_an_operator_that_tflm_lacks_is_named(graph):
    graph.nodes[0].op = 'ATAN2'
    with pytest.raises(
        registrations.OperatorError, match=r'^firmware: expected operators that TFLM registers, found ATAN2$'
    ):
        registered(graph)


def test_methods_and_kernels_for_one_type_belong_together():
    assert registrations.INT16_ONLY < registrations.INT8_ONLY < set(registrations.METHODS)
