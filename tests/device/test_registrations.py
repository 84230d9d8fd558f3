"""Which registrations a model gets."""

from __future__ import annotations

import pytest

from jax_reparam import manifest
from jax_reparam.device import registrations
from jax_reparam.graph import flatbuffer


@pytest.fixture
def tree(model):
    return flatbuffer.tree(model)


def test_int8_operators_get_the_kernels_for_int8_alone(convert):
    model = convert(manifest.NPU_FORM)  # without 16 bits at the ends
    found = registrations.registrations(model)
    assert 'AddFullyConnected(tflm::Register_FULLY_CONNECTED_INT8())' in found
    assert 'AddSoftmax(tflm::Register_SOFTMAX_INT8())' in found
    assert 'AddReshape()' in found
    assert len(found) == len(set(found)) == len(flatbuffer.graph(model).ops)


def test_float_operators_get_the_generic_kernels_but_for_the_transform(front):
    found = registrations.registrations(front)
    assert {'AddFullyConnected()', 'AddMul()'} <= set(found)
    assert [call for call in found if 'Register' in call] == ['AddRfft(tflm::Register_RFFT_FLOAT())']


def test_int16_operators_get_the_kernels_for_int16_alone(tree):
    from ai_edge_litert.schema_py_generated import TensorType

    for tensor in tree.subgraphs[0].tensors:
        tensor.type = TensorType.INT16
    found = registrations.registrations(flatbuffer.pack(tree))
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


def test_one_node_of_another_type_asks_for_the_generic_kernel(tree):
    from ai_edge_litert.schema_py_generated import TensorType

    first = registrations.operators(tree).index('FULLY_CONNECTED')
    subgraph = tree.subgraphs[0]
    subgraph.tensors[subgraph.operators[first].inputs[0]].type = TensorType.FLOAT32
    assert 'AddFullyConnected()' in registrations.registrations(flatbuffer.pack(tree))


def test_an_operator_that_tflm_lacks_is_named(tree):
    from ai_edge_litert.schema_py_generated import BuiltinOperator

    first = tree.operatorCodes[tree.subgraphs[0].operators[0].opcodeIndex]
    first.builtinCode, first.deprecatedBuiltinCode = BuiltinOperator.ATAN2, 127
    with pytest.raises(
        registrations.OperatorError, match=r'^firmware: expected operators that TFLM registers, found ATAN2$'
    ):
        registrations.registrations(flatbuffer.pack(tree))


def test_methods_and_kernels_for_one_type_belong_together():
    assert registrations.INT16_ONLY < registrations.INT8_ONLY < set(registrations.METHODS)
