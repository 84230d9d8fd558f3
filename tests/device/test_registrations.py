"""Which registrations a model gets."""

from __future__ import annotations

import numpy as np
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


def reshaped(tree, op, shape):
    """The model with another shape of what the first node of an operator reads."""
    index = registrations.operators(tree).index(op)
    tree.subgraphs[0].tensors[tree.subgraphs[0].operators[index].inputs[0]].shape = np.array(shape, np.int32)
    return flatbuffer.pack(tree)


@pytest.mark.parametrize(
    ('op', 'shape', 'fault'),
    [
        ('SOFTMAX', [4, 50, 100], 'SOFTMAX [4, 50, 100]: expected a second axis of 100 or more, found 50'),
        ('SOFTMAX', [4, 100, 100], None),
        ('SOFTMAX', [200, 100], None),
        ('CONV_2D', [1, 48, 12], 'CONV_2D [1, 48, 12]: expected 4 axes, found 3'),
    ],
)
def test_a_model_that_esp_nn_would_overrun_is_named(convert, op, shape, fault):
    tree = flatbuffer.tree(convert(manifest.NPU_FORM))
    found = registrations.esp_nn_faults(reshaped(tree, op, shape))
    assert [each for each in found if each.startswith(f'{op} {shape}')] == ([fault] if fault else [])


def test_softmax_of_16_bits_has_no_buffer(convert):
    tree = flatbuffer.tree(convert('wide'))
    assert registrations.esp_nn_faults(reshaped(tree, 'SOFTMAX', [4, 50, 100])) == []


@pytest.mark.parametrize('form', ['int8', 'int16', 'wide', 'narrow'])
def test_no_form_overruns_esp_nn_unsaid(convert, written, written16, written_wide, written_narrow, form):
    """A build for an ESP32 stops where a form would."""
    folder = {'int8': written, 'int16': written16, 'wide': written_wide, 'narrow': written_narrow}[form][1]
    fits = registrations.esp_nn_faults(convert(form)) == []
    assert f'kFitsEspNn = {str(fits).lower()};' in (folder / 'model_data.h').read_text()
    assert fits or form in ('int8', 'narrow')
