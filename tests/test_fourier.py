"""The device's Fourier transform: right, and equal to TFLM's bit for bit."""

from __future__ import annotations

import numpy as np
import pytest

from jax_reparam import fourier
from jax_reparam.export import tflm


@pytest.fixture(params=[4, 8, 16, 32, 256, 512, 1024])
def frames(request, rng):
    """Frames of very different loudness, one of silence, and one that is a single sample."""
    loudness = 10.0 ** rng.uniform(-4, 4, 12)
    frames = (rng.standard_normal((request.param, 12)) * loudness).astype(np.float32)
    frames[:, 0], frames[:, 1] = 0, np.eye(1, request.param)[0]
    return frames


def test_it_is_the_fourier_transform(frames):
    expected = np.fft.rfft(frames.astype(np.float64), axis=0)
    real, imaginary = fourier.rfft(frames)
    assert real.dtype == imaginary.dtype == np.float32
    # Measured: 1.5e-7 of the largest at 1024.
    error = np.abs(real + 1j * imaginary - expected).max(axis=0)
    assert (error <= 3e-7 * np.abs(expected).max(axis=0)).all()
    np.testing.assert_array_equal(fourier.power_spectrum(frames), real * real + imaginary * imaginary)


def test_frames_do_not_change_each_other(frames):
    together = fourier.power_spectrum(frames)
    for index in range(frames.shape[1]):
        np.testing.assert_array_equal(fourier.power_spectrum(frames[:, index : index + 1])[:, 0], together[:, index])


@pytest.mark.parametrize('size', [1, 2, 400, 0])
def test_other_lengths_are_refused(size):
    with pytest.raises(ValueError, match=f'n_fft: expected a power of two, at least 4, got {size}'):
        fourier.rfft(np.zeros((size, 1), np.float32))


@pytest.mark.skipif(tflm.missing() is not None, reason=str(tflm.missing()))
@pytest.mark.parametrize('size', [256, 512, 1024])
def test_it_is_tflms_bit_for_bit(size, rng):
    from tflite_micro.python.tflite_micro import runtime

    from jax_reparam.export import frontend

    graph = frontend._Graph()
    source = graph.tensor([1, size])
    sink = graph.custom('SignalRfft', [source], [1, size + 2], frontend._rfft_options(size))
    interpreter = runtime.Interpreter.from_bytes(graph.pack(source, sink), arena_size=2**20)
    frames = (rng.standard_normal((size, 20)) * 10.0 ** rng.uniform(-4, 4, 20)).astype(np.float32)
    real, imaginary = fourier.rfft(frames)
    for index, frame in enumerate(frames.T):
        interpreter.set_input(frame[None], 0)
        interpreter.invoke()
        spectrum = interpreter.get_output(0)[0]
        np.testing.assert_array_equal(spectrum[0::2], real[:, index])
        np.testing.assert_array_equal(spectrum[1::2], imaginary[:, index])
