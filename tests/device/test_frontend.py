"""frontend.tflite: PCM of a frame to the features of training, run in TFLM."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from helpers import needs_tflm
from jax_reparam.device import frontend, golden
from jax_reparam.frontend.features import FrontendConfig, log_mel
from jax_reparam.frontend.inputs import Input
from jax_reparam.frontend.windows import WindowConfig
from jax_reparam.graph import flatbuffer
from jax_reparam.runtime import tflm


def made(**fields):
    """Features with a mean and a deviation of their own in every band."""
    config = FrontendConfig(**fields)
    rng = np.random.default_rng(1)
    mean, std = rng.uniform(-9, -4, config.n_mels), rng.uniform(1.5, 4, config.n_mels)
    return Input(config, WindowConfig(), mean.astype(np.float32), std.astype(np.float32))


def framed(audio, config):
    count = 1 + (len(audio) - config.frame_length) // config.hop_length
    starts = config.hop_length * np.arange(count)
    return audio[starts[:, None] + np.arange(config.frame_length)]


@needs_tflm
@pytest.mark.parametrize('fields', [{}, {'n_fft': 1024, 'n_mels': 80}, {'n_fft': 1024, 'n_mels': 101}, {'n_mels': 13}])
def test_features_are_those_of_training(fields, rng):
    inputs = made(**fields)
    config = inputs.frontend
    noise = (1000 * rng.standard_normal(3200)).astype(np.int16)
    # Loud and quiet, flat and steep, and silence, where the floor is all there is.
    audio = np.concatenate([golden.signal(16000, 0.4), noise, noise // 100, np.zeros(800, np.int16)])
    found = tflm.run(frontend.build(inputs), framed(audio, config)).logits
    expected = (log_mel(audio, config) - inputs.mean) / inputs.std
    # Measured: 1.4e-6 and less; without the window 2.6 and more.
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_pcm_goes_in_and_float_features_come_out():
    graph = flatbuffer.graph(frontend.build(made()))
    assert (graph.input.shape, graph.input.dtype) == ((1, 400), 'int16')
    assert (graph.output.shape, graph.output.dtype) == ((1, 64), 'float32')


def test_the_mel_matrix_is_kept_in_bands():
    whole = 4 * 64 * 2 * 257
    assert len(frontend.build(made())) < whole / 4


@needs_tflm
def test_a_group_of_bands_that_hears_nothing_is_the_floor(monkeypatch):
    inputs = dataclasses.replace(made(), mean=np.zeros(64, np.float32), std=np.ones(64, np.float32))
    mel = frontend.mel_matrix(inputs.frontend).copy()
    mel[8:16] = 0
    monkeypatch.setattr(frontend, 'mel_matrix', lambda config: mel)
    found = tflm.run(frontend.build(inputs), np.full((1, 400), 9000, np.int16)).logits
    np.testing.assert_allclose(found[0, 8:16], np.log(np.float32(1e-7)), rtol=1e-6)
