"""Recordings as a user's microphone, room and line may change them, and sounds without speech, for the field test.

Every change maps int16 samples at 16 kHz to the same, rounded and saturated. NumPy does all of the work.

The level of a recording is the RMS of its active part (`active_rms`); 0 dBFS is an RMS of 32768. A signal-to-noise
ratio is that RMS over the RMS of the whole noise, before rounding.

The thresholds come from audEERING's tests (Derington et al., arXiv 2312.06270; github.com/audeering/ser-tests). Where
our change differs from theirs, its description says so in brackets.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np

from jax_reparam.frontend import audio

RATE, FULL_SCALE = audio.SAMPLE_RATE, 32768
# The active part: blocks of 20 ms within 20 dB of the loudest 5 %.
BLOCK, LOUDEST, ACTIVE_DB = RATE // 50, 0.05, 20.0
# Lowered further, a recording drowns in the rounding to 16 bits.
MOST_LOWERED_DB = 20.0
BABBLE_VOICES = 4
SILENCE_SECONDS = 60
# dB per octave of a power proportional to 1 / frequency.
OCTAVE_DB = 10 * math.log10(2)

Rng = np.random.Generator
Apply = Callable[[np.ndarray, Rng, Sequence[np.ndarray]], np.ndarray | None]
# (generator, number of samples) to noise of any level.
Noise = Callable[[Rng, int], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Change:
    """One change of a recording.

    Attributes:
      name: unique in `CHANGES`.
      group: the changes it is reported with.
      description: what it does, with its exact strength.
      apply: maps `[N]` int16 samples, a generator seeded for this change and recording, and recordings of other
        speakers to the changed samples; None where the change does not apply to this recording.
      keep: least share of decisions that stay the same, as published; None where nothing is published.
      uar_loss: largest loss of UAR, as published; None where nothing is published.
    """

    name: str
    group: str
    description: str
    apply: Apply
    keep: float | None = None
    uar_loss: float | None = None


@dataclasses.dataclass(frozen=True)
class Silence:
    """A sound of 60 s without speech.

    Attributes:
      name: unique in `SILENCES`.
      description: what it is, with its exact level.
      make: gives `[N]` int16 samples from a seeded generator.
      onset: the sample at which noise begins; None for a sound that is the same from beginning to end.
    """

    name: str
    description: str
    make: Callable[[Rng], np.ndarray]
    onset: int | None = None


def active_rms(samples: np.ndarray) -> float:
    """RMS of the active part of a recording, in steps of int16; 0 for digital silence.

    The active part is every block of 20 ms whose power lies within 20 dB of the mean power of the loudest 5 % of the
    blocks. The mean of the recording is taken off first. An incomplete last block is left out.
    """
    count = max(1, len(samples) // BLOCK)
    centred = samples - samples.mean(dtype=np.float64)
    power = np.sort((centred[: count * BLOCK].reshape(count, -1) ** 2).mean(axis=1))
    loudest = power[-math.ceil(LOUDEST * count) :].mean()
    return math.sqrt(power[power >= loudest * _ratio(-ACTIVE_DB) ** 2].mean())


def _ratio(decibels: float) -> float:
    return float(10 ** (decibels / 20))


def _at(noise: np.ndarray, rms: float) -> np.ndarray:
    return np.asarray(noise * (rms / math.sqrt(np.mean(noise**2))))


def _saturated(samples: np.ndarray) -> np.ndarray:
    return np.asarray(np.clip(np.rint(samples), -FULL_SCALE, FULL_SCALE - 1).astype(np.int16))


def _unclipped(samples: np.ndarray) -> np.ndarray | None:
    rounded = np.rint(samples)
    return None if rounded.max() >= FULL_SCALE or rounded.min() < -FULL_SCALE else rounded.astype(np.int16)


def _as_loud(changed: np.ndarray, samples: np.ndarray) -> np.ndarray | None:
    """Gives a changed recording its level before the change, or the highest at which it does not clip."""
    if not (level := active_rms(changed)):
        return None
    return _saturated(changed * min(active_rms(samples) / level, (FULL_SCALE - 1) / np.abs(changed).max()))


def _fft_size(count: int) -> int:
    """At least 0.25 s more than `count`: what a filter smears over one end must not return at the other."""
    return (count // 4096 + 2) * 4096


def _filtered(samples: np.ndarray, response: Callable[[np.ndarray], np.ndarray], tail: int = 0) -> np.ndarray:
    """Applies a filter that rings for `tail` samples; `response` is its response at frequencies in Hz."""
    size = _fft_size(len(samples) + tail)
    spectrum = np.fft.rfft(samples, size) * response(np.fft.rfftfreq(size, 1 / RATE))
    return np.asarray(np.fft.irfft(spectrum, size)[: len(samples)])


def _coloured(slope: float) -> Noise:
    """Gaussian noise whose power changes by `slope` dB per octave from 20 Hz on."""
    response = lambda hertz: np.maximum(hertz, 20) ** (slope / OCTAVE_DB / 2)
    return lambda rng, count: _filtered(rng.standard_normal(_fft_size(count)), response)[:count]


_WHITE, _PINK, _BROWN = _coloured(0), _coloured(-OCTAVE_DB), _coloured(-2 * OCTAVE_DB)


def _plain(change: Callable[[np.ndarray], np.ndarray | None]) -> Apply:
    """A change that takes no random numbers and no other recordings."""
    return lambda samples, rng, others: change(samples)


def _level(dbfs: float) -> Apply:
    def change(samples: np.ndarray) -> np.ndarray | None:
        level = active_rms(samples)
        gain = FULL_SCALE * _ratio(dbfs) / level if level else 0.0
        return _unclipped(samples * gain) if gain >= _ratio(-MOST_LOWERED_DB) else None

    return _plain(change)


def _step(samples: np.ndarray) -> np.ndarray:
    return _saturated(samples * np.where(np.arange(len(samples)) < len(samples) // 2, 1, _ratio(-10)))


def _surround(samples: np.ndarray) -> np.ndarray:
    channels = np.zeros((len(samples), 6), np.int16)
    channels[:, 2] = samples
    return audio.mono([channels], RATE, 'mono in 5.1')


def _cropped(begin: int, end: int) -> Apply:
    def change(samples: np.ndarray) -> np.ndarray | None:
        left = samples[begin : max(begin, len(samples) - end)]
        return left.copy() if len(left) >= audio.SHORTEST_SECONDS * RATE else None

    return _plain(change)


def _padded(before: int, behind: int, step: int = 0) -> Apply:
    """Adds samples from -step to step at the ends."""

    def apply(samples: np.ndarray, rng: Rng, others: Sequence[np.ndarray]) -> np.ndarray:
        ends = [rng.integers(-step, step + 1, count).astype(np.int16) for count in (before, behind)]
        return np.concatenate([ends[0], samples, ends[1]])

    return apply


def _clipped(share: float) -> Apply:
    def change(samples: np.ndarray) -> np.ndarray | None:
        limit = float(np.quantile(np.abs(samples.astype(np.float64)), 1 - share))
        return _saturated(samples * max(1.0, FULL_SCALE / limit)) if limit else None

    return _plain(change)


def _tone(samples: np.ndarray, rng: Rng, others: Sequence[np.ndarray]) -> np.ndarray:
    peak = np.abs(samples.astype(np.float64)).max()
    phase = 2 * np.pi * rng.uniform(5000, 7000) / RATE * np.arange(len(samples))
    return _saturated(samples + peak * _ratio(-40) * np.sin(phase))


def _butterworth(hertz: float, *, high_pass: bool) -> Apply:
    """A digital filter of first order."""

    def response(frequencies: np.ndarray) -> np.ndarray:
        s = 1j * np.tan(np.pi * np.minimum(frequencies / RATE, 0.4999)) / math.tan(math.pi * hertz / RATE)
        return np.asarray((s if high_pass else 1) / (1 + s))

    return _plain(lambda samples: _saturated(_filtered(samples, response)))


def _added(samples: np.ndarray, noise: np.ndarray, snr: float) -> np.ndarray | None:
    level = active_rms(samples)
    return _saturated(samples + _at(noise, level * _ratio(-snr))) if level else None


def _noisy(noise: Noise, snr: float) -> Apply:
    return lambda samples, rng, others: _added(samples, noise(rng, len(samples)), snr)


def _fan(rng: Rng, count: int) -> np.ndarray:
    swelling = np.sin(2 * np.pi * (rng.uniform(0.5, 2) / RATE * np.arange(count) + rng.uniform()))
    return np.asarray(_BROWN(rng, count) * (1 + 0.3 * swelling))


def _music(rng: Rng, count: int) -> np.ndarray:
    seconds, harmonics = np.arange(RATE // 2) / RATE, np.arange(1, 7)
    chords = []
    for _ in range(-(-count // len(seconds))):
        semitones = rng.integers(12) + np.array([0, rng.integers(3, 5), 7])
        tones = np.sin(2 * np.pi * np.multiply.outer(220 * 2 ** (semitones / 12), np.outer(harmonics, seconds)))
        chords.append(((1 / harmonics) @ tones).sum(axis=0) * np.exp(-3 * seconds))
    return np.concatenate(chords)[:count]


def _babble(samples: np.ndarray, rng: Rng, others: Sequence[np.ndarray]) -> np.ndarray | None:
    voices: list[np.ndarray] = []
    for index in rng.permutation(len(others)):
        voice = others[index]
        if level := active_rms(voice):
            voices.append(np.resize(np.roll(voice, rng.integers(len(voice))), len(samples)) / level)
        if len(voices) == BABBLE_VOICES:
            return _added(samples, np.sum(voices, axis=0), 20)
    return None


def _telephone(samples: np.ndarray) -> np.ndarray:
    size = _fft_size(len(samples))
    hertz = np.fft.rfftfreq(size, 1 / RATE)
    band = 1 / np.sqrt((1 + (300 / np.maximum(hertz, 1)) ** 8) * (1 + (hertz / 3400) ** 40))
    # A spectrum cut at 4 kHz is a signal at 8 kHz, at twice the scale.
    narrow = np.fft.irfft((np.fft.rfft(samples / FULL_SCALE, size) * band)[: size // 4 + 1], size // 2) / 2
    code = np.rint(127 * np.log1p(255 * np.minimum(np.abs(narrow), 1)) / math.log(256))
    decoded = np.sign(narrow) * np.expm1(code / 127 * math.log(256)) / 255
    return _saturated(np.fft.irfft(np.fft.rfft(decoded), size)[: len(samples)] * 2 * FULL_SCALE)


def _tilted(slope: float) -> Apply:
    response = lambda hertz: (np.maximum(hertz, 50) / 1000) ** (slope / OCTAVE_DB / 2)
    return _plain(lambda samples: _as_loud(_filtered(samples, response), samples))


def _room(rt60: float, direct_db: float) -> Apply:
    def apply(samples: np.ndarray, rng: Rng, others: Sequence[np.ndarray]) -> np.ndarray | None:
        count = round(rt60 * RATE)
        echoes = rng.standard_normal(count) * _ratio(-60) ** (np.arange(1, count + 1) / count)
        impulse = np.append(1, echoes * (_ratio(-direct_db) / math.sqrt(np.sum(echoes**2))))
        response = lambda hertz: np.fft.rfft(impulse, 2 * len(hertz) - 2)
        return _as_loud(_filtered(samples, response, len(impulse)), samples)

    return apply


def _group(
    group: str, *rows: tuple[str, str, Apply], keep: float | None = None, uar_loss: float | None = None
) -> list[Change]:
    return [Change(name, group, description, apply, keep, uar_loss) for name, description, apply in rows]


_TENTH, _TWO = RATE // 10, 2 * RATE
_LEVEL = 'speech at an RMS of {} dBFS; not for recordings that would clip or be lowered by more than 20 dB'
_FAN = 'noise of -6 dB per octave that swells by 30 % 0.5 to 2 times per s, at 20 dB SNR (theirs: recordings)'
_MUSIC = 'a triad of six harmonics per note every 0.5 s, root 220 to 415 Hz, at 20 dB SNR (theirs: recordings)'
_ECHO = 'echo: white noise that decays by 60 dB in {} s, energy {} dB below the direct sound (theirs: measured rooms)'

CHANGES: tuple[Change, ...] = (
    *_group('level', *[(f'level{dbfs}', _LEVEL.format(dbfs), _level(dbfs)) for dbfs in (-20, -30, -40, -50)]),
    *_group(
        'level',
        ('step', 'the second half is lowered by 10 dB, at once', _plain(_step)),
        ('surround', 'mono in 5.1: the voice in the centre of six channels, the others silent', _plain(_surround)),
        ('dc', '0.05 of full scale added to every sample', _plain(lambda x: _saturated(x + 0.05 * FULL_SCALE))),
    ),
    *_group(
        'small',
        ('gain+2', 'gain of 2 dB; not for recordings that would clip', _plain(lambda x: _unclipped(x * _ratio(2)))),
        ('gain-2', 'gain of -2 dB', _plain(lambda x: _unclipped(x * _ratio(-2)))),
        ('crop-begin', 'the first 100 ms removed (theirs: at most 62.5 ms)', _cropped(_TENTH, 0)),
        ('crop-end', 'the last 100 ms removed (theirs: at most 62.5 ms)', _cropped(0, _TENTH)),
        ('zeros-before', '100 ms of zeros before it (theirs: at most 62.5 ms)', _padded(_TENTH, 0)),
        ('zeros-after', '100 ms of zeros after it (theirs: at most 62.5 ms)', _padded(0, _TENTH)),
        (
            'clip-0.3',
            'gain, of quiet recordings a large one, until 0.3 % of the samples clip (theirs: 0.1 to 0.3 %)',
            _clipped(0.003),
        ),
        ('tone', 'a sine of 5 to 7 kHz, its peak 40 dB below that of the recording (theirs: 40 to 50 dB)', _tone),
        ('highpass', 'Butterworth, first order, 50 Hz (theirs: 50 to 150 Hz)', _butterworth(50, high_pass=True)),
        ('lowpass', 'Butterworth, first order, 7.5 kHz (theirs: 6.5 to 7.5 kHz)', _butterworth(7500, high_pass=False)),
        ('white-35', 'white noise at 35 dB SNR (theirs: 35 to 45 dB)', _noisy(_WHITE, 35)),
        keep=0.95,
    ),
    *_group(
        'small', ('clip-1', 'gain, of quiet recordings a large one, until 1 % of the samples clip', _clipped(0.01))
    ),
    *_group(
        'silence',
        ('zeros-around', '2 s of zeros before and after it', _padded(_TWO, _TWO)),
        ('dither-around', '2 s of random samples of -1, 0 and 1 before and after it', _padded(_TWO, _TWO, 1)),
    ),
    *_group(
        'noise',
        ('white-20', 'white noise at 20 dB SNR', _noisy(_WHITE, 20)),
        ('babble-20', 'four other recordings, equally loud, at 20 dB SNR (theirs: 4 to 7)', _babble),
        ('environment-20', _FAN, _noisy(_fan, 20)),
        ('music-20', _MUSIC, _noisy(_music, 20)),
        keep=0.90,
        uar_loss=0.05,
    ),
    *_group(
        'noise',
        ('white-10', 'white noise at 10 dB SNR', _noisy(_WHITE, 10)),
        ('pink-20', 'pink noise at 20 dB SNR', _noisy(_PINK, 20)),
    ),
    *_group(
        'telephone',
        ('telephone', '300 to 3400 Hz, 8 kHz, mu-law of 8 bits (theirs: compressor, AMR, noise)', _plain(_telephone)),
        keep=0.50,
        uar_loss=0.05,
    ),
    *_group(
        'tilt',
        ('tilt-down', '-3 dB per octave from 50 Hz on, at the same level unless it would clip', _tilted(-3)),
        ('tilt-up', '3 dB per octave from 50 Hz on, at the same level unless it would clip', _tilted(3)),
        keep=0.80,
        uar_loss=0.02,
    ),
    *_group(
        'room',
        ('room-0.3', _ECHO.format(0.3, 5), _room(0.3, 5)),
        ('room-0.8', _ECHO.format(0.8, 0), _room(0.8, 0)),
        keep=0.80,
    ),
)


def _sound(noise: Noise, dbfs: float, rng: Rng, seconds: int = SILENCE_SECONDS) -> np.ndarray:
    return _at(noise(rng, seconds * RATE), FULL_SCALE * _ratio(dbfs))


def _hum(rng: Rng, count: int) -> np.ndarray:
    period = 2 * np.pi * np.arange(RATE // 50) / (RATE // 50)
    waves = [np.sin(k * period + rng.uniform(0, 2 * np.pi)) / k for k in range(1, 11)]
    return np.resize(np.sum(waves, axis=0), count)


def _onset(rng: Rng) -> np.ndarray:
    noise = _sound(_WHITE, -30, rng, SILENCE_SECONDS // 2)
    return _saturated(np.append(np.zeros(len(noise)), noise))


def _noises(kind: str, noise: Noise) -> list[Silence]:
    def at(dbfs: int) -> Silence:
        make = lambda rng: _saturated(_sound(noise, dbfs, rng))
        return Silence(f'{kind}{dbfs}', f'{kind} noise of {dbfs} dBFS', make)

    return [at(dbfs) for dbfs in (-70, -50, -30, -20)]


SILENCES: tuple[Silence, ...] = (
    Silence('zeros', 'digital silence', lambda rng: np.zeros(SILENCE_SECONDS * RATE, np.int16)),
    Silence(
        'dither', 'samples of -1, 0 and 1', lambda rng: rng.integers(-1, 2, SILENCE_SECONDS * RATE).astype(np.int16)
    ),
    *_noises('white', _WHITE),
    *_noises('pink', _PINK),
    Silence('hum', '50 Hz and nine harmonics, -40 dBFS', lambda rng: _saturated(_sound(_hum, -40, rng))),
    Silence(
        'hum-hiss',
        '50 Hz and nine harmonics, -40 dBFS, with white noise of -55 dBFS',
        lambda rng: _saturated(_sound(_hum, -40, rng) + _sound(_WHITE, -55, rng)),
    ),
    Silence('onset', '30 s of zeros, then white noise of -30 dBFS', _onset, onset=SILENCE_SECONDS // 2 * RATE),
)
