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

# Real and imaginary part, apart: NumPy may fuse the multiplications of its complex numbers, which rounds otherwise.
Complex = tuple[np.ndarray, np.ndarray]


def power_spectrum(frames: np.ndarray) -> np.ndarray:
    """Squared magnitudes of the real Fourier transform.

    Args:
      frames: `[N, F]` float32, a frame a column; N a power of two, at least 4.

    Returns:
      `[N / 2 + 1, F]` float32.

    Raises:
      ValueError: N is not such a number.
    """
    real, imaginary = rfft(frames)
    return real * real + imaginary * imaginary


def rfft(frames: np.ndarray) -> Complex:
    """The real Fourier transform; see `power_spectrum`."""
    size = len(frames)
    if size < 4 or size & (size - 1):
        raise ValueError(f'n_fft: expected a power of two, at least 4, got {size}')
    half = size // 2
    real, imaginary = _transform((frames[0::2], frames[1::2]), half)
    # One complex transform holds those of the even and of the odd samples, mirrored into one another.
    up, down = slice(1, half // 2 + 1), slice(half - 1, half // 2 - 1, -1)
    even = real[up] + real[down], imaginary[up] - imaginary[down]
    odd = _product((real[up] - real[down], imaginary[up] + imaginary[down]), _unmixing(half))
    made = np.zeros((2, half + 1, *frames.shape[1:]), np.float32)
    made[0, 0], made[0, half] = real[0] + imaginary[0], real[0] - imaginary[0]
    np.subtract(even[0], odd[0], out=made[0, down])
    np.subtract(odd[1], even[1], out=made[1, down])
    for part, a, b in zip(made, even, odd, strict=True):
        np.add(a, b, out=part[up])
    made[:, 1:half] *= np.float32(0.5)
    return made[0], made[1]


def _transform(x: Complex, total: int) -> Complex:
    """The complex transform over the first axis of `[n, F]`, a part of one over `total`."""
    real, imaginary = x
    count = len(real)
    if count == 1:
        return x
    radix = 4 if count % 4 == 0 else 2
    size = count // radix
    # The transforms of every radix-th sample, side by side.
    parts = _transform((real.reshape(size, -1), imaginary.reshape(size, -1)), total)
    real, imaginary = (part.reshape(size, radix, -1) for part in parts)
    turned = [(real[:, index], imaginary[:, index]) for index in range(radix)]
    if size > 1:  # the first stage turns nothing
        turned[1:] = map(_product, turned[1:], _turns(size, radix, total))
    made = np.empty((2, radix, *real[:, 0].shape), np.float32)
    if radix == 2:
        for part, a, b in zip(made, *turned, strict=True):
            np.add(a, b, out=part[0])
            np.subtract(a, b, out=part[1])
    else:
        a, b, c, d = turned
        sums, differences = _add(a, c), _subtract(a, c)
        cross, across = _add(b, d), _subtract(b, d)
        for part, p, q in zip(made, sums, cross, strict=True):
            np.add(p, q, out=part[0])
            np.subtract(p, q, out=part[2])
        np.add(differences[0], across[1], out=made[0, 1])
        np.subtract(differences[1], across[0], out=made[1, 1])
        np.subtract(differences[0], across[1], out=made[0, 3])
        np.add(differences[1], across[0], out=made[1, 3])
    return made[0].reshape(count, -1), made[1].reshape(count, -1)


def _product(a: Complex, b: Complex) -> Complex:
    return a[0] * b[0] - a[1] * b[1], a[0] * b[1] + a[1] * b[0]


def _add(a: Complex, b: Complex) -> Complex:
    return a[0] + b[0], a[1] + b[1]


def _subtract(a: Complex, b: Complex) -> Complex:
    return a[0] - b[0], a[1] - b[1]


@functools.lru_cache(maxsize=64)
def _turns(size: int, radix: int, total: int) -> list[Complex]:
    """`exp(-2 pi i q k / (size radix))`, k from 0 to size - 1, as columns, for each q from 1 to radix - 1."""
    # Rounded as entries of one table over `total`.
    step = total // (size * radix)
    return [_cis(-2 * np.pi * (np.arange(size) * q * step) / total) for q in range(1, radix)]


@functools.lru_cache(maxsize=8)
def _unmixing(half: int) -> Complex:
    """`exp(-pi i (k / half + 1 / 2))` for k from 1 to half / 2, as columns."""
    return _cis(-np.pi * (np.arange(1, half // 2 + 1) / half + 0.5))


def _cis(angles: np.ndarray) -> Complex:
    return np.cos(angles).astype(np.float32)[:, None], np.sin(angles).astype(np.float32)[:, None]
