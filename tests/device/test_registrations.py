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


def test_float_operators_get_the_generic_kernels_but_for_the_transform(front):
    found = registrations.registrations(front)
    assert {'AddFullyConnected()', 'AddMul()'} <= set(found)
    assert [call for call in found if 'Register' in call] == ['AddRfft(tflm::Register_RFFT_FLOAT())']


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
    assert {'AddSoftmax(tflm::Register_SOFTMAX_INT8())', 'AddFullyConnected()', 'AddQuantize()'} < found


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


def test_int8_of_the_deploy_forms_needs_no_transpose_in_16_bits(convert):
    """TFLM has it only since March 2025."""
    assert {registrations.oldest_tflm(flatbuffer.read(convert(form))) for form in ('narrow', 'int8')} == {
        'November 2023'
    }
    assert registrations.oldest_tflm(flatbuffer.read(convert('int16'))) == 'March 2025'


def test_methods_and_kernels_for_one_type_belong_together():
    assert registrations.INT16_ONLY < registrations.INT8_ONLY < set(registrations.METHODS)


def reshaped(model, op, shape):
    """The model with another shape of what the first node of an operator reads."""
    graph = flatbuffer.read(model)
    next(node for node in graph.nodes if node.op == op).input(0).shape = tuple(shape)
    return graph


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
    found = registrations.esp_nn_faults(reshaped(convert('narrow'), op, shape))
    assert found == ([fault] if fault else [])


def test_softmax_of_16_bits_has_no_buffer(convert):
    assert registrations.esp_nn_faults(reshaped(convert('wide'), 'SOFTMAX', [4, 50, 100])) == []


@pytest.mark.parametrize('form', ['int8', 'int16', 'wide', 'narrow'])
def test_no_form_overruns_esp_nn(convert, form):
    """Not even in parts, as attention over many frames is (`passes`)."""
    assert registrations.esp_nn_faults(flatbuffer.read(convert(form))) == []


def test_a_build_for_an_esp32_stops_where_a_form_would(written, write, model, monkeypatch):
    assert 'kFitsEspNn = true;' in (written[1] / 'model_data.h').read_text()
    monkeypatch.setattr(registrations, 'esp_nn_faults', lambda graph: ['SOFTMAX [4, 50, 100]: a fault'])
    assert 'kFitsEspNn = false;' in (write('int8', model)[1] / 'model_data.h').read_text()
