"""The device's Fourier transform: right, and equal to TFLM's bit for bit."""

from __future__ import annotations

import hashlib

import numba
import numpy as np
import pytest

from helpers import needs_tflm
from jax_reparam.frontend import fourier


@pytest.fixture(params=[4, 8, 16, 32, 256, 512, 1024])
def frames(request, rng):
    """Frames of very different loudness, one of silence, and one that is a single sample."""
    loudness = 10.0 ** rng.uniform(-4, 4, 12)
    frames = (rng.standard_normal((request.param, 12)) * loudness).astype(np.float32)
    frames[:, 0], frames[:, 1] = 0, np.eye(1, request.param)[0]
    return frames


def whole(frames):
    """The arguments for frames that fill the transform, and that no window changes."""
    return frames, np.ones(len(frames), np.float32), len(frames)


def spectra(frames):
    """Real and imaginary parts, of which `power_spectrum` makes the power."""
    frames, window, size = whole(frames)
    return fourier._rfft(frames, window, *fourier._tables(size, size))


def test_it_is_the_fourier_transform(frames):
    expected = np.fft.rfft(frames.astype(np.float64), axis=0)
    real, imaginary = spectra(frames)
    assert real.dtype == imaginary.dtype == np.float32
    # Measured: 1.5e-7 of the largest at 1024.
    error = np.abs(real + 1j * imaginary - expected).max(axis=0)
    assert (error <= 3e-7 * np.abs(expected).max(axis=0)).all()
    np.testing.assert_array_equal(fourier.power_spectrum(*whole(frames)), real * real + imaginary * imaginary)


def test_frames_do_not_change_each_other(frames):
    together = fourier.power_spectrum(*whole(frames))
    for index in range(frames.shape[1]):
        alone = fourier.power_spectrum(*whole(frames[:, index : index + 1]))
        np.testing.assert_array_equal(alone[:, 0], together[:, index])


@pytest.mark.parametrize('length', [1, 400, 401])
def test_frames_are_windowed_and_padded_with_zeros(length, rng):
    samples = rng.standard_normal(4000).astype(np.float32)
    frames = np.lib.stride_tricks.sliding_window_view(samples, length)[::160].T
    window = rng.uniform(0, 1, length).astype(np.float32)
    padded = np.zeros((512, frames.shape[1]), np.float32)
    padded[:length] = frames * window[:, None]
    np.testing.assert_array_equal(fourier.power_spectrum(frames, window, 512), fourier.power_spectrum(*whole(padded)))


@pytest.mark.parametrize(('size', 'length'), [(1, 1), (2, 2), (400, 400), (0, 0), (256, 400)])
def test_other_lengths_are_refused(size, length):
    with pytest.raises(ValueError, match=f'expected a power of two, at least 4 and the {length} samples.*got {size}'):
        fourier.power_spectrum(np.zeros((length, 1), np.float32), np.ones(length, np.float32), size)


@pytest.mark.parametrize(
    ('size', 'digest'),
    [
        (256, '6e883062cbaf2e73d48250ba8b7d07bfc997b2e954a637a9f3289958939ee363'),
        (512, 'c72fc56e2926645ad2bc2247a24696ec4392d7199112dc6549f71fe75615e239'),
    ],
)
def test_the_bits_are_those_that_features_on_disk_were_made_with(size, digest):
    """Of the transform as it was in NumPy; where they change on purpose, so does `features.VERSION`."""
    frames = np.random.default_rng(size).standard_normal((size, 40)).astype(np.float32)
    frames *= np.geomspace(1e-4, 1e4, 40, dtype=np.float32)
    assert hashlib.sha256(fourier.power_spectrum(*whole(frames)).tobytes()).hexdigest() == digest


def test_it_lets_threads_run_and_works_where_no_cache_can_be_written(monkeypatch):
    real = numba.njit

    def njit(*args, cache=False, **options):
        if cache:
            raise RuntimeError('cannot cache function: no locator available for file')
        return real(*args, **options)

    monkeypatch.setattr(numba, 'njit', njit)
    compiled = fourier._compiled(lambda x: x + 1)
    assert compiled(1) == 2
    assert compiled.targetoptions['nogil']
    assert fourier._power_spectrum.targetoptions['nogil']


@needs_tflm
@pytest.mark.parametrize('size', [256, 512, 1024])
def test_it_is_tflms_bit_for_bit(size, rng):
    from tflite_micro.python.tflite_micro import runtime

    from jax_reparam.device import frontend

    graph = frontend._Graph()
    source = graph.tensor([1, size])
    sink = graph.custom('SignalRfft', [source], [1, size + 2], frontend._rfft_options(size))
    interpreter = runtime.Interpreter.from_bytes(graph.pack(source, sink), arena_size=2**20)
    frames = (rng.standard_normal((size, 20)) * 10.0 ** rng.uniform(-4, 4, 20)).astype(np.float32)
    real, imaginary = spectra(frames)
    for index, frame in enumerate(frames.T):
        interpreter.set_input(frame[None], 0)
        interpreter.invoke()
        spectrum = interpreter.get_output(0)[0]
        np.testing.assert_array_equal(spectrum[0::2], real[:, index])
        np.testing.assert_array_equal(spectrum[1::2], imaginary[:, index])
