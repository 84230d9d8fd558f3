"""The Fourier transform of the device, compiled: single precision, and the same operations in the same order.

Single precision rounds relative to the loudest part of a spectrum, so that a quiet band beside a loud one moves with
the order of the operations. Training therefore computes what TFLM's SignalRfft will compute: KISS FFT's real transform
(M. Borgerding, https://github.com/mborgerding/kissfft), a complex one of half the length by decimation in time with
radix 4, then 2, and one more step that parts even from odd samples.
NumPy's own would be, in double precision, more exact; but the device's numbers are what the model gets.

Numba compiles it. It must not be told `fastmath`: a multiplication fused with an addition rounds otherwise. The
innermost loops go over frames, so that an instruction computes several of them; without the interpreter's lock, so
that threads run at the same time.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np

_Function = TypeVar('_Function', bound=Callable[..., Any])


def power_spectrum(frames: np.ndarray, window: np.ndarray, size: int) -> np.ndarray:
    """Squared magnitudes of the real Fourier transform.

    Args:
      frames: `[L, F]` float32, a frame a column.
      window: `[L]` float32, by which each frame is multiplied.
      size: length N of the transform, a power of two, at least 4 and L; the frames are padded with zeros to it.

    Returns:
      `[N / 2 + 1, F]` float32.

    Raises:
      ValueError: N is not such a number.
    """
    return _power_spectrum(frames, window, *_tables(size, len(frames)))


@functools.lru_cache(maxsize=8)
def _tables(size: int, length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What the transform of `size` samples looks up.

    Returns:
      The rows of the first stage that take the pairs of an even and an odd sample, `[size / 2]`;
      `exp(-2 pi i k / (size / 2))` for k below size / 2, `[2, size / 2]`: real and imaginary part; and
      `exp(-pi i (k / (size / 2) + 1 / 2))` for k up to size / 4, `[2, size / 4 + 1]`.
    """
    if size < 4 or size & (size - 1) or size < length:
        raise ValueError(f'n_fft: expected a power of two, at least 4 and the {length} samples of a frame, got {size}')
    half = size // 2
    pairs = np.arange(half).reshape(1, half)
    while (count := pairs.shape[1]) > 1:
        radix = 4 if count % 4 == 0 else 2
        # A transform is made of those of every radix-th sample.
        pairs = pairs.reshape(-1, count // radix, radix).swapaxes(1, 2).reshape(-1, count // radix)
    turns = -2 * np.pi * np.arange(half) / half
    unmixing = -np.pi * (np.arange(half // 2 + 1) / half + 0.5)
    return np.argsort(pairs[:, 0]), _cis(turns), _cis(unmixing)


def _cis(angles: np.ndarray) -> np.ndarray:
    return np.stack([np.cos(angles), np.sin(angles)]).astype(np.float32)


def _compiled(function: _Function) -> _Function:
    """Compiles at the first call, and keeps that on disk where a folder for it can be written."""
    try:
        return cast(_Function, numba.njit(function, nogil=True, cache=True))
    except RuntimeError:
        return cast(_Function, numba.njit(function, nogil=True))


@_compiled
def _power_spectrum(
    frames: np.ndarray, window: np.ndarray, rows: np.ndarray, turns: np.ndarray, unmixing: np.ndarray
) -> np.ndarray:
    x = _rfft(frames, window, rows, turns, unmixing)
    power = np.empty(x.shape[1:], np.float32)
    for k in range(x.shape[1]):
        for f in range(x.shape[2]):
            power[k, f] = x[0, k, f] * x[0, k, f] + x[1, k, f] * x[1, k, f]
    return power


@_compiled
def _rfft(
    frames: np.ndarray, window: np.ndarray, rows: np.ndarray, turns: np.ndarray, unmixing: np.ndarray
) -> np.ndarray:
    """The transform, `[2, N / 2 + 1, F]`: real and imaginary part."""
    half = len(rows)
    x = np.empty((2, half + 1, frames.shape[1]), np.float32)
    for sample in range(2 * half):
        part, row = sample % 2, rows[sample // 2]
        for f in range(x.shape[2]):
            x[part, row, f] = frames[sample, f] * window[sample] if sample < len(window) else np.float32(0)
    size = half
    while size > 2:
        size //= 4
    if size == 2:
        _stage_2(x)
    while size < half:
        _stage_4(x, size, turns)
        size *= 4
    _part(x, unmixing)
    return x


@_compiled
def _stage_2(x: np.ndarray) -> None:
    """Makes transforms of 2 samples, in place."""
    for a in range(0, x.shape[1] - 1, 2):
        for f in range(x.shape[2]):
            for part in range(2):
                first, second = x[part, a, f], x[part, a + 1, f]
                x[part, a, f], x[part, a + 1, f] = first + second, first - second


@_compiled
def _stage_4(x: np.ndarray, size: int, turns: np.ndarray) -> None:
    """Makes transforms of 4 size samples of four of size samples each, which lie side by side, in place."""
    half = turns.shape[1]
    for start in range(0, half, 4 * size):
        for k in range(size):
            a = start + k
            b, c, d = a + size, a + 2 * size, a + 3 * size
            turn = k * (half // (4 * size))
            b_real, b_imag = turns[0, turn], turns[1, turn]
            c_real, c_imag = turns[0, 2 * turn], turns[1, 2 * turn]
            d_real, d_imag = turns[0, 3 * turn], turns[1, 3 * turn]
            for f in range(x.shape[2]):
                ar, ai = x[0, a, f], x[1, a, f]
                br, bi = _product(x[0, b, f], x[1, b, f], b_real, b_imag)
                cr, ci = _product(x[0, c, f], x[1, c, f], c_real, c_imag)
                dr, di = _product(x[0, d, f], x[1, d, f], d_real, d_imag)
                sum_r, sum_i, difference_r, difference_i = ar + cr, ai + ci, ar - cr, ai - ci
                cross_r, cross_i, across_r, across_i = br + dr, bi + di, br - dr, bi - di
                x[0, a, f], x[1, a, f] = sum_r + cross_r, sum_i + cross_i
                x[0, b, f], x[1, b, f] = difference_r + across_i, difference_i - across_r
                x[0, c, f], x[1, c, f] = sum_r - cross_r, sum_i - cross_i
                x[0, d, f], x[1, d, f] = difference_r - across_i, difference_i + across_r


@_compiled
def _part(x: np.ndarray, unmixing: np.ndarray) -> None:
    """One complex transform holds those of the even and of the odd samples, mirrored into one another."""
    half = x.shape[1] - 1
    for f in range(x.shape[2]):
        real, imag = x[0, 0, f], x[1, 0, f]
        x[0, 0, f], x[0, half, f] = real + imag, real - imag
        x[1, 0, f] = x[1, half, f] = 0
    for up in range(1, half // 2 + 1):
        down = half - up
        turn_real, turn_imag = unmixing[0, up], unmixing[1, up]
        for f in range(x.shape[2]):
            ur, ui, dr, di = x[0, up, f], x[1, up, f], x[0, down, f], x[1, down, f]
            er, ei = ur + dr, ui - di
            our, oi = _product(ur - dr, ui + di, turn_real, turn_imag)
            x[0, down, f] = (er - our) * np.float32(0.5)
            x[1, down, f] = (oi - ei) * np.float32(0.5)
            x[0, up, f] = (er + our) * np.float32(0.5)
            x[1, up, f] = (ei + oi) * np.float32(0.5)


@_compiled
def _product(
    a_real: np.float32, a_imag: np.float32, b_real: np.float32, b_imag: np.float32
) -> tuple[np.float32, np.float32]:
    return a_real * b_real - a_imag * b_imag, a_imag * b_real + a_real * b_imag
