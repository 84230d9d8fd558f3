"""Every architecture's deploy form as .tflite: it converts, loads and runs in LiteRT and in TFLM, and is the model."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from helpers import TINY_MODELS, drawn_case, make
from jax_reparam import deploy
from jax_reparam.deploy import convert
from jax_reparam.graph import convolutions, cost, flatbuffer
from jax_reparam.graph.passes import optimise
from jax_reparam.runtime import litert, tflm

FRAMES, BANDS = 61, 12


def snr(logits, expected):
    return 10 * np.log10((expected**2).sum() / ((logits - expected) ** 2).sum())


@pytest.fixture(scope='module', autouse=True)
def small_layers_count():
    """Of models this small, no linear layer is worth the memory of a convolution."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convolutions, 'LEAST_MACS', 0)
        yield


@pytest.fixture(scope='module', params=TINY_MODELS)
def exported(request):
    """(name, windows, logits of the plain model, form to file) of one architecture."""
    windows, expected, params = drawn_case(request.param, FRAMES)
    function = lambda features, norm: deploy.apply(TINY_MODELS[request.param], params, features, norm=norm)
    unit = deploy.int8_norm(TINY_MODELS[request.param])
    files = {
        'float32': make(function, windows, 'float32'),
        'int8': make(function, windows, int8_norm=unit),
        'wide': make(function, windows, int8_norm=unit, worth=0),
    }
    return request.param, windows, expected, files


def run_everywhere(model, windows):
    logits = {'LiteRT': litert.load(model)(windows)}
    if tflm.missing() is None:
        logits['TFLM'] = tflm.run(model, windows).logits
    return logits


def test_float32_is_the_model(exported):
    _, windows, expected, files = exported
    for logits in run_everywhere(files['float32'], windows).values():
        np.testing.assert_allclose(logits, expected, atol=1e-4)


def test_int8_is_near_the_model(exported):
    """Weights drawn at random are harder than trained ones; a wrong operator would leave nothing near 15 dB."""
    _, windows, expected, files = exported
    for logits in run_everywhere(files['int8'], windows).values():
        assert snr(logits, np.asarray(expected)) > 15
    # What only moves values about keeps their steps (`ranges.noted`): 8 bits become 16 and come back, or stay.
    content = flatbuffer.tree(files['int8'])
    dtype = lambda tensor: flatbuffer.port(content.subgraphs[0].tensors[tensor]).dtype
    for name, node in zip(flatbuffer.operator_names(content), content.subgraphs[0].operators, strict=True):
        assert name != 'QUANTIZE' or {dtype(node.inputs[0]), dtype(node.outputs[0])} == {'int8', 'int16'}


def test_where_memory_is_free_int8_has_16_bits_wherever_it_is_coarse_or_slow(exported):
    _, windows, expected, files = exported
    content = flatbuffer.tree(files['wide'])
    types = {'SOFTMAX': set(), 'LOGISTIC': set(), 'RSQRT': set(), 'FULLY_CONNECTED': set()}
    for name, node in zip(flatbuffer.operator_names(content), content.subgraphs[0].operators, strict=True):
        if name in types:
            types[name] |= {flatbuffer.port(content.subgraphs[0].tensors[node.outputs[0]]).dtype}
    assert types['SOFTMAX'] == {'int16'}
    assert types['LOGISTIC'] <= {'int16'}
    assert 'int16' in types['RSQRT']  # the first
    assert 'int16' in types['FULLY_CONNECTED']  # the head
    graph = flatbuffer.graph(files['wide'])
    assert (graph.input.dtype, graph.output.dtype) == ('int8', 'int16')
    for logits in run_everywhere(files['wide'], windows).values():
        assert snr(logits, np.asarray(expected)) > 15


def test_int8_keeps_its_linear_layers(exported):
    """It is for small arenas; those of int16 are convolutions (below)."""
    _, _, _, files = exported
    assert 'CONV_2D 1 x 1' not in {row.op for row in cost.of_model(files['int8']).ops}


def test_normalisations_are_written_as_the_form_wants(exported):
    name, _, _, files = exported
    fields = TINY_MODELS[name]
    normalisations = {
        'conv_transformer': 2 * fields.layers + 1 if name == 'conv_transformer' else 0,
        'conformer': 5 * fields.layers if name.startswith('conformer') else 0,
        # One before each stage, one behind each merge, two a layer.
        'speech_former': 4 + 3 + 2 * sum(fields.layers) if name == 'speech_former' else 0,
    }[fields.name]
    for form, model in files.items():
        ops = flatbuffer.graph(model).ops
        roots = 0 if form == 'float32' else 1  # the first one is in 16 bits in both others
        if form != 'float32' and deploy.int8_norm(fields) == 'rsqrt':
            roots = normalisations
        assert (ops.get('L2_NORMALIZATION', 0), ops.get('RSQRT', 0)) == (normalisations - roots, roots)
        assert not {'SQUARED_DIFFERENCE', 'SUM', 'MEAN', 'SELECT_V2', 'GATHER'} & ops.keys()


@pytest.mark.slow
@pytest.mark.parametrize('name', ['conv_transformer', 'conformer', 'speech_former'])
def test_without_l2_normalization_it_is_the_same_function(name):
    """The other way to write a normalisation, for what does not have that operator; int16 needs it."""
    windows, expected, params = drawn_case(name, FRAMES)
    function = lambda features, norm: deploy.apply(TINY_MODELS[name], params, features, norm=norm)
    float32 = convert.to_float32(functools.partial(function, norm='rsqrt'), (1, FRAMES, BANDS))
    assert not {'L2_NORMALIZATION', 'PADV2'} & flatbuffer.graph(float32).ops.keys()
    for logits in run_everywhere(optimise(float32), windows).values():
        np.testing.assert_allclose(logits, expected, atol=1e-4)
    int16 = make(function, windows, 'int16')
    assert flatbuffer.graph(int16).input.dtype == 'int16'
    rows = cost.of_model(int16).ops
    assert {row.price.source for row in rows} == {'measured'}
    macs = {row.op: row.macs for row in rows}
    assert macs['CONV_2D 1 x 1'] > 4 * macs.get('FULLY_CONNECTED', 0)  # means over rows, where there are any
    for logits in run_everywhere(int16, windows).values():
        assert snr(logits, np.asarray(expected)) > 25
