"""model_waveform_float32.tflite: PCM of one window to probabilities, in LiteRT alone."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_reparam import manifest
from jax_reparam.device import golden, waveform
from jax_reparam.evaluation import softmax
from jax_reparam.frontend import features
from jax_reparam.frontend.features import FrontendConfig
from jax_reparam.graph import flatbuffer
from jax_reparam.recognizer import Recognizer
from jax_reparam.runtime import gates, litert


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
    recognizer = Recognizer.load(exported.path, 'float32')
    run = litert.load(model)
    for index in data.clips('test')[:3]:
        pcm = waveform.pcm(data.corpus.audio(index), inputs)
        heard = inputs.hear(inputs.codes((32768 * pcm).astype(np.int16)))
        expected = softmax(recognizer.logits(heard.features[None])) * heard.speech.there
        np.testing.assert_allclose(run(pcm[None]), expected, atol=gates.WAVEFORM_TOLERANCE)


@pytest.fixture(scope='module')
def last(fresh_inputs):
    """A waveform model whose logits are three bands of the window's last frame."""
    run = litert.load(waveform.build(lambda features: features[:, -1, :3], fresh_inputs))
    return lambda samples: run(waveform.pcm(samples.astype(np.int16), fresh_inputs)[None])[0]


@pytest.mark.parametrize('samples', [9000, 7920, 6000, 2000])
@pytest.mark.parametrize('dc', [0, 1500])
def test_speech_level_and_statistics_are_inside(last, fresh_inputs, samples, dc):
    audio = np.tile(golden.signal(16000, 0.6), 2)[:samples].astype(int) + dc
    found = last(audio)
    full = np.pad(audio, (0, 9000))[: waveform.samples(fresh_inputs)].astype(np.int16)
    heard, speech = fresh_inputs.hear(fresh_inputs.codes(full))
    assert speech.there == (samples > 2000)
    expected = softmax(heard[-1:, :3])[0] * speech.there
    # Measured: 1.2e-7; a step, 0.1 nat, in one band is 1e-3 and more.
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_silence_around_speech_and_its_level_change_nothing(last):
    speech = golden.signal(16000, 0.36)
    expected = last(speech)
    zeros = np.zeros(160 * 6, int)
    np.testing.assert_allclose(last(np.concatenate([zeros, speech])), expected, atol=1e-5)
    np.testing.assert_allclose(last(speech / 4), expected, atol=0.02)


@pytest.mark.parametrize('noise', [0, 30, 3000])
def test_nobody_speaks(last, rng, noise):
    assert (last(noise * rng.standard_normal(7920)) == 0).all()


def test_one_graph_of_builtin_operators(model, inputs):
    graph = flatbuffer.read(model)
    assert graph.input.shape == (1, 63 * 160 + 400) == (1, waveform.samples(inputs))
    assert graph.output.shape == (1, 2)
    assert graph.ops['RFFT2D'] == 1
    assert not any(name == 'CUSTOM' or name.startswith('Flex') for name in graph.ops)
