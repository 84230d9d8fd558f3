"""The Fourier transform of the device, in NumPy: single precision, and the same operations in the same order.

Single precision rounds relative to the loudest part of a spectrum, so that a quiet band beside a loud one moves with
the order of the operations, by up to 3e-4 of its logarithm (docs/device.md). Training therefore computes what TFLM's
SignalRfft will compute: KISS FFT's real transform (M. Borgerding, https://github.com/mborgerding/kissfft), a complex
one of half the length by decimation in time with radix 4, then 2, and one more step that parts even from odd samples.
NumPy's own would be faster and, in double precision, more exact; but the device's numbers are what the model gets.
"""

from __future__ import annotations

import functools

import numpy as np


def power_spectrum(frames: np.ndarray) -> np.ndarray:
    """Squared magnitudes of the real Fourier transform.

    Args:
      frames: `[N, F]` float32, a frame a column; N a power of two, at least 4.

    Returns:
      `[N / 2 + 1, F]` float32.

    Raises:
      ValueError: N is not such a number.
    """
    real, imaginary = np.square(rfft(frames))
    return real + imaginary


def rfft(frames: np.ndarray) -> np.ndarray:
    """The real Fourier transform, `[2, N / 2 + 1, F]`: real and imaginary part. See `power_spectrum`."""
    size = len(frames)
    if size < 4 or size & (size - 1):
        raise ValueError(f'n_fft: expected a power of two, at least 4, got {size}')
    half = size // 2
    x = _transform(np.stack([frames[0::2], frames[1::2]]), half)
    # One complex transform holds those of the even and of the odd samples, mirrored into one another.
    up, down = slice(1, half // 2 + 1), slice(half - 1, half // 2 - 1, -1)
    sums, differences = x[:, up] + x[:, down], x[:, up] - x[:, down]
    even, odd = np.stack([sums[0], differences[1]]), np.stack([differences[0], sums[1]])
    odd = _product(odd, *_unmixing(half))
    made = np.zeros((2, half + 1, *frames.shape[1:]), np.float32)
    made[0, 0], made[0, half] = x[0, 0] + x[1, 0], x[0, 0] - x[1, 0]
    np.subtract(even[0], odd[0], out=made[0, down])
    np.subtract(odd[1], even[1], out=made[1, down])
    np.add(even, odd, out=made[:, up])
    made[:, 1:half] *= np.float32(0.5)
    return made


def _transform(x: np.ndarray, total: int) -> np.ndarray:
    """The complex transform over the middle axis of `[2, n, F]`, a part of one over `total`."""
    count = x.shape[1]
    if count == 1:
        return x
    radix = 4 if count % 4 == 0 else 2
    size = count // radix
    # The transforms of every radix-th sample, side by side.
    x = _transform(x.reshape(2, size, -1), total).reshape(2, size, radix, -1)
    first, rest = x[:, :, 0], x[:, :, 1:]
    if size > 1:  # the first stage turns nothing
        rest = _product(rest, *_turns(size, radix, total))
    made = np.empty((2, radix, size, x.shape[-1]), np.float32)
    if radix == 2:
        np.add(first, rest[:, :, 0], out=made[:, 0])
        np.subtract(first, rest[:, :, 0], out=made[:, 1])
    else:
        second, third, fourth = (rest[:, :, index] for index in range(3))
        sums, differences = first + third, first - third
        cross, across = second + fourth, second - fourth
        np.add(sums, cross, out=made[:, 0])
        np.subtract(sums, cross, out=made[:, 2])
        np.add(differences[0], across[1], out=made[0, 1])
        np.subtract(differences[1], across[0], out=made[1, 1])
        np.subtract(differences[0], across[1], out=made[0, 3])
        np.add(differences[1], across[0], out=made[1, 3])
    return made.reshape(2, count, -1)


def _product(a: np.ndarray, real: np.ndarray, imaginary: np.ndarray) -> np.ndarray:
    """The complex product; NumPy may fuse the multiplications of its own complex numbers, which rounds otherwise.

    Args:
      a: `[2, ...]`, real and imaginary part.
      real: `[1, ...]`, of the other factor.
      imaginary: `[2, ...]`, less and plus that of the other factor.
    """
    product = a * real
    product += a[::-1] * imaginary
    return product


@functools.lru_cache(maxsize=64)
def _turns(size: int, radix: int, total: int) -> tuple[np.ndarray, np.ndarray]:
    """`exp(-2 pi i q k / (size radix))` for k below size and q from 1 to radix - 1, rounded as entries over `total`."""
    places = np.arange(size)[:, None] * np.arange(1, radix) * (total // (size * radix))
    return _cis(-2 * np.pi * places / total)


@functools.lru_cache(maxsize=8)
def _unmixing(half: int) -> tuple[np.ndarray, np.ndarray]:
    """`exp(-pi i (k / half + 1 / 2))` for k from 1 to half / 2."""
    return _cis(-np.pi * (np.arange(1, half // 2 + 1) / half + 0.5))


def _cis(angles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`exp(i angles)` as `_product` wants it."""
    real, imaginary = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    return real[None, ..., None], np.stack([-imaginary, imaginary])[..., None]
