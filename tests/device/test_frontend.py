"""frontend.tflite: samples of a frame to the log-mel of training, run in TFLM."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from helpers import needs_tflm
from jax_reparam.device import bundle, frontend, golden
from jax_reparam.frontend.features import FrontendConfig, encode, log_mel
from jax_reparam.graph import flatbuffer
from jax_reparam.runtime import tflm


@needs_tflm
@pytest.mark.parametrize('fields', [{}, {'n_fft': 1024, 'n_mels': 80}, {'n_fft': 1024, 'n_mels': 101}, {'n_mels': 13}])
def test_log_mel_is_that_of_training(fields, rng):
    config = FrontendConfig(**fields)
    noise = (1000 * rng.standard_normal(3200)).astype(np.int16)
    # Loud and quiet, flat and steep, with DC, and silence, where the floor is all there is.
    audio = np.concatenate([golden.signal(16000, 0.4), noise, noise // 100 + 500, np.zeros(800, np.int16)])
    [found], arena = frontend.frames_in_tflm(frontend.build(config), [audio], config)
    expected = log_mel(audio, config)
    # Measured: 1.7e-4 and less, and no other code; without the window 8 and more.
    np.testing.assert_allclose(found, expected, atol=bundle.FRONTEND_TOLERANCE)
    assert (encode(found) != encode(expected)).mean() < 1e-4
    assert arena < 30_000


def test_a_frame_goes_in_and_log_mel_comes_out():
    graph = flatbuffer.read(frontend.build(FrontendConfig()))
    assert (graph.input.shape, graph.input.dtype) == ((1, 400), 'float32')
    assert (graph.output.shape, graph.output.dtype) == ((1, 64), 'float32')
    assert not {'CAST', 'SUB', 'DIV'} & set(graph.ops)


def test_the_mel_matrix_is_kept_in_bands():
    whole = 4 * 64 * 2 * 257
    assert len(frontend.build(FrontendConfig())) < whole / 4


@needs_tflm
def test_a_group_of_bands_that_hears_nothing_is_the_floor(monkeypatch):
    arrays = frontend.filters(FrontendConfig())
    deaf = dataclasses.replace(arrays, mel=np.where((np.arange(64) // 8 == 1)[:, None], 0, arrays.mel))
    monkeypatch.setattr(frontend, 'filters', lambda config: deaf)
    found = tflm.run(frontend.build(FrontendConfig()), np.full((1, 400), 9000, np.float32)).logits
    np.testing.assert_allclose(found[0, 8:16], np.log(np.float32(1e-9)), rtol=1e-6)
