"""model_waveform_float32.tflite: PCM of one window to probabilities, in LiteRT alone."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_reparam import manifest, predict
from jax_reparam.device import waveform
from jax_reparam.frontend import features
from jax_reparam.frontend.features import FrontendConfig
from jax_reparam.graph import flatbuffer
from jax_reparam.runtime import litert


@pytest.fixture(scope='module')
def model(exported):
    return (exported.path / manifest.WAVEFORM).read_bytes()


@pytest.mark.parametrize('fields', [{}, {'n_fft': 1024}, {'frame_ms': 32, 'hop_ms': 12}])
def test_log_mel_in_jax_is_that_of_training(fields, rng):
    config = FrontendConfig(**fields)
    pcm = (3000 * rng.standard_normal(9 * config.hop_length + config.frame_length)).astype(np.int16)
    found = jax.jit(lambda samples: waveform.log_mel(samples, config))(jnp.asarray(pcm, jnp.float32) / 32768)
    assert found.shape == (10, 64)
    np.testing.assert_allclose(found, features.log_mel(pcm, config), atol=1e-4)


def test_it_decides_as_predict_does(exported, inputs, model, data):
    recognizer = predict.Recognizer.load(exported.path, 'float32')
    run, count = litert.load(model), waveform.samples(inputs)
    for index in data.clips('test')[:3]:
        pcm = np.resize(data.corpus.audio(index), count)
        standardised = (features.log_mel(pcm, inputs.frontend) - inputs.mean) / inputs.std
        logits = recognizer.logits(standardised[None])
        expected = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        np.testing.assert_allclose(run(pcm[None].astype(np.float32) / 32768), expected, atol=1e-5)


def test_mean_and_deviation_are_inside(inputs, rng):
    other = dataclasses.replace(inputs, mean=inputs.mean + 1, std=2 * inputs.std)
    pcm = rng.uniform(-0.5, 0.5, (1, waveform.samples(inputs))).astype(np.float32)
    last = lambda values: values[:, -1, :2]
    first = np.log(litert.load(waveform.build(last, inputs))(pcm))
    moved = np.log(litert.load(waveform.build(last, other))(pcm))
    level = (waveform.log_mel(jnp.asarray(pcm[0]), inputs.frontend)[-1] - inputs.mean) / inputs.std
    np.testing.assert_allclose(first[0, 0] - first[0, 1], level[0] - level[1], atol=1e-4)
    shifted = (level - 1 / inputs.std) / 2
    np.testing.assert_allclose(moved[0, 0] - moved[0, 1], shifted[0] - shifted[1], atol=1e-4)


def test_one_graph_of_builtin_operators(model, inputs):
    graph = flatbuffer.graph(model)
    assert graph.input.shape == (1, 63 * 160 + 400) == (1, waveform.samples(inputs))
    assert graph.output.shape == (1, 2)
    assert graph.ops['RFFT2D'] == 1
    assert not any(name == 'CUSTOM' or name.startswith('Flex') for name in graph.ops)
