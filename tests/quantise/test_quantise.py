"""From a float32 graph to integers: near the model in every width, in LiteRT and in TFLM; all is measured once."""

from __future__ import annotations

import pytest

from helpers import TINY_MODELS, drawn_calibration, needs_tflm
from jax_reparam import deploy
from jax_reparam.evaluation import snr_db
from jax_reparam.graph import flatbuffer
from jax_reparam.graph.passes import optimise
from jax_reparam.quantise import bias_correction, gptq, ranges
from jax_reparam.quantise.quantise import Calibration, quantise
from jax_reparam.runtime import observe, tflm

# The least SNR in dB of logits with random weights, which are harder than trained ones; beside it what was measured in
# LiteRT and in TFLM.
FLOORS = {
    'conv_transformer': {
        '8': 34,  # 36.1, 35.0
        'widths': 36,  # 39.6, 40.3
        '16': 43,  # 45.9, 45.9
    },
    'conformer': {
        '8': 34,  # 37.4, 36.7
        'widths': 36,  # 41.4, 40.3
        '16': 46,  # 48.5, 48.4
    },
    'conformer, no positions, relu': {
        '8': 30,  # 32.6, 31.8
        'widths': 31,  # 40.7, 40.4
        '16': 39,  # 42.5, 42.5
    },
    'conv_transformer, statistics, deltas': {
        '8': 32,  # 33.0, 34.6; the mean has the scale of what it is taken of
        'widths': 34,  # 37.3, 38.3
        '16': 41,  # 43.3, 43.4
    },
    'speech_former': {
        '8': 18,  # 22.2, 19.6; of windows of 57 to 64 frames 20.2 to 27.1
        'widths': 19,  # 21.9, 21.6
        '16': 27,  # 29.1, 29.2
    },
}


def bits_of(name, form):
    """What a form is made in."""
    return deploy.widths(TINY_MODELS[name], 61) if form == 'widths' else {'': int(form)}


def snr(logits, expected):
    return snr_db(float((expected**2).sum()), float(((logits - expected) ** 2).sum()))


@pytest.fixture(params=[(name, form) for name, forms in FLOORS.items() for form in forms], ids=' in '.join)
def case(request):
    """(SNR floor, windows, logits of the plain model, integer graph)"""
    name, form = request.param
    windows, expected, calibration = drawn_calibration(name)
    return FLOORS[name][form], windows, expected, quantise(calibration, bits_of(name, form)).graph


def test_it_is_near_the_model(case):
    floor, windows, expected, graph = case
    assert snr(observe.logits(graph, windows), expected) > floor


@needs_tflm
def test_so_it_is_in_tflm_optimised(case):
    floor, windows, expected, graph = case
    assert snr(tflm.run(flatbuffer.write(optimise(graph)), windows).logits, expected) > floor


@pytest.mark.parametrize(
    ('form', 'computed', 'constants', 'ends'),
    [
        ('8', {'int8'}, {'int8', 'int32'}, ('int8', 'int8')),
        ('16', {'int16'}, {'int8', 'int16', 'int32', 'int64'}, ('int16', 'int16')),
        ('widths', {'int8', 'int16'}, {'int8', 'int16', 'int32', 'int64'}, ('int8', 'int16')),
    ],
)
def test_all_is_in_integers(form, computed, constants, ends):
    _, _, calibration = drawn_calibration('conv_transformer')
    graph = quantise(calibration, bits_of('conv_transformer', form)).graph
    assert {tensor.dtype for tensor in graph.used() if tensor.constant is None} == computed
    assert {tensor.dtype for tensor in graph.used() if tensor.constant is not None} <= constants
    assert (graph.input.dtype, graph.output.dtype) == ends


def test_what_windows_say_is_measured_once_and_the_graph_stays(monkeypatch):
    windows, _, calibration = drawn_calibration('conv_transformer')
    fresh, calls = Calibration(calibration.graph, windows), []
    before = flatbuffer.write(calibration.graph)
    for module, name in ((ranges, 'measured'), (gptq, 'covariances'), (gptq, 'rounded'), (bias_correction, 'expected')):
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *args, name=name, real=real: calls.append(name) or real(*args))
    first, second = (flatbuffer.write(quantise(fresh, {'': 8}).graph) for _ in range(2))
    layers = len(gptq.layers(calibration.graph))
    assert sorted(calls) == ['covariances', 'expected', 'measured', *['rounded'] * layers]
    assert first == second
    assert flatbuffer.write(calibration.graph) == before
