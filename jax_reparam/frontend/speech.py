"""Which frames of a window are speech, how loud that is, and the window without its level.

A gain adds one constant to all of log-mel. `normalise` takes the mean of the window's own speech off, so a model never
sees the gain, from the first window on, and without any state. Silence around speech changes next to nothing: a window
is its active span, repeated.

All of it is exact in int32 and float32. One text is therefore the definition for NumPy, for JAX (training, and the
waveform model) and, by golden vectors, for the C++ of `firmware/`. Energies are sums over bands, in steps of
`features.STEP`.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from jax_reparam.frontend import windows
from jax_reparam.frontend.features import STEP, Filters, FrontendConfig, filters
from jax_reparam.frontend.windows import WindowConfig

# What of the spectrum says whether somebody speaks, and how loud (what a telephone passes on), in Hz.
BAND, LEVEL_BAND = (200.0, 4000.0), (350.0, 3300.0)
# Percentiles of the frames' energy: of the background, and of the loud part.
QUIET, LOUD = 5, 95
# Speech stands so far above the background, lies so far below the loud part, at most, and varies by so much, at least:
# noise that begins, and a hum that beats, do not.
RISE_DB, BELOW_DB, SPREAD_DB = 5.0, 17.0, 3.0
# Less of it than this is none.
SHORTEST_SECONDS = 0.25
# Speech clips if more than one in so many of its samples is at full scale. EMO-DB, whose files peak there, has one in
# 8,000 at most; 3 dB louder, half of its clips have one in 360 and more, nine in ten one in 1,100.
CLIPPED_ONE_IN = 2000
# Windows in which a recording is searched, and the distance between their starts.
SCAN_SECONDS = (4.0, 2.0)
# Parts of a step in which a level is stated, so that sums of what is left are integers.
PARTS = 16


@dataclasses.dataclass(frozen=True)
class Rule:
    """The constants above for one frontend.

    Attributes:
      bands: the first band of `BAND`, and the one after its last.
      level_bands: those of `LEVEL_BAND`.
      rise: `RISE_DB` in steps, summed over the bands.
      below: `BELOW_DB`, likewise.
      spread: `SPREAD_DB`, likewise.
      shortest: frames of speech, at least.
      clamp: steps below the level at which log-mel ends.
      scan: windows in which a whole recording is searched.
    """

    bands: tuple[int, int]
    level_bands: tuple[int, int]
    rise: int
    below: int
    spread: int
    shortest: int
    clamp: int
    scan: WindowConfig

    @classmethod
    @functools.lru_cache(maxsize=8)
    def of(cls, config: FrontendConfig, arrays: Filters | None = None) -> Rule:
        """The rule for features of this frontend; `arrays` as in `features.log_mel`."""
        centres = (filters(config) if arrays is None else arrays).centres

        def within(band: tuple[float, float]) -> tuple[int, int]:
            inside = np.flatnonzero((centres >= band[0]) & (centres <= band[1]))
            return (int(inside[0]), int(inside[-1]) + 1) if len(inside) else (0, config.n_mels)

        bands = within(BAND)

        def steps(db: float) -> int:
            return round((bands[1] - bands[0]) * db * math.log(10) / 10 / STEP)

        def frames(seconds: float) -> int:
            return max(1, round(1000 * seconds / config.hop_ms))

        return cls(
            bands,
            within(LEVEL_BAND),
            steps(RISE_DB),
            steps(BELOW_DB),
            steps(SPREAD_DB),
            frames(SHORTEST_SECONDS),
            round(config.clamp_nats / STEP),
            WindowConfig(*map(frames, SCAN_SECONDS)),
        )


class Speech(NamedTuple):
    """What is speech of a window of T frames; NumPy's or JAX's arrays.

    Attributes:
      there: whether there is any, a bool.
      mask: `[T]` bool, the frames that are speech; all real frames where there is none.
      level: mean of the speech over frames and `LEVEL_BAND`, in steps, a multiple of 1 / PARTS, float32.
      first: first frame of the active span.
      frames: of the active span; all real frames where there is no speech.
    """

    there: Any
    mask: Any
    level: Any
    first: Any
    frames: Any


def detect(codes: Any, frames: Any, rule: Rule, xp: Any = np) -> Speech:
    """Finds the speech of one window.

    A frame is speech if its energy stands `RISE_DB` above the background (the 5th percentile) and is not further than
    `BELOW_DB` below the loud part (the 95th). The loud part is looked for twice, the second time in the active span
    alone: silence around would else move it. There is speech if it lasts `SHORTEST_SECONDS`, if background and loud
    part are `RISE_DB` apart, too, and if speech itself varies by `SPREAD_DB` (its 5th to its 95th percentile).

    Args:
      codes: `[T, M]`, the window's features (`features.encode`), integers of any type.
      frames: the first so many are real, 1 to T; may be traced.
      rule: the constants.
      xp: `numpy`, or `jax.numpy` under jit.
    """
    energy, loudness = (
        codes[:, slice(*bands)].astype(xp.int32).sum(axis=1) for bands in (rule.bands, rule.level_bands)
    )
    place = xp.arange(len(codes))

    def percentile(inside: Any, percent: int) -> Any:
        # By counting rather than sorting, which converters to TFLite do not know.
        rank = ((energy[None, :] <= energy[:, None]) & inside[None, :]).sum(axis=1)
        enough = inside & (rank > (inside.sum() - 1) * percent // 100)
        return xp.where(enough, energy, _LARGE).min()

    def span(mask: Any) -> tuple[Any, Any]:
        return mask.argmax(), len(codes) - 1 - mask[::-1].argmax()

    real = place < frames
    quiet, loud = percentile(real, QUIET), percentile(real, LOUD)
    first, last = span(real & (energy >= xp.maximum(quiet + rule.rise, loud - rule.below)))
    loud_in_span = percentile((place >= first) & (place <= last), LOUD)
    mask = real & (energy >= xp.maximum(quiet + rule.rise, loud_in_span - rule.below))
    varies = percentile(mask, LOUD) - percentile(mask, QUIET)
    there = (loud - quiet >= rule.rise) & (varies >= rule.spread) & (mask.sum() >= rule.shortest)
    mask = xp.where(there, mask, real)
    first, last = span(mask)
    total, count = xp.where(mask, loudness, 0).sum(), mask.sum() * (rule.level_bands[1] - rule.level_bands[0])
    level = xp.rint(xp.float32(PARTS) * (total.astype(xp.float32) / count.astype(xp.float32))) / xp.float32(PARTS)
    return Speech(there, mask, level, first, last + 1 - first)


_LARGE = 1 << 24


def normalise(codes: Any, frames: Any, rule: Rule, xp: Any = np, found: Speech | None = None) -> tuple[Any, Speech]:
    """Takes the level off a window, and repeats its active span until it is full.

    Args are those of `detect`; `found` is what it gave, where that is known.

    Returns:
      `[T, M]` float32 in steps, multiples of 1 / PARTS, at least -`rule.clamp`; and what is speech.
    """
    speech = detect(codes, frames, rule, xp) if found is None else found
    active = codes[speech.first + xp.arange(len(codes)) % speech.frames]
    return level_off(active, speech.level, rule, xp), speech


def level_off(codes: Any, level: Any, rule: Rule, xp: Any = np) -> Any:
    """Codes `[..., M]` without a level, in steps, not below the clamp."""
    return xp.maximum(codes.astype(xp.float32) - level, xp.float32(-rule.clamp))


def too_quiet(found: Speech, rule: Rule) -> bool:
    """Whether speech is so quiet that the floor of log-mel, and not the clamp, ends it.

    With a clamp of 8 nats it is so below -50 dBFS RMS, mostly.

    Of EMO-DB at -45 dBFS, rounded to 16 bits, 1.5 % of the cells of speech move by more than 0.2 nat, at -50 dBFS 5 %,
    at -55 dBFS 12 %.
    """
    return bool(found.there) and float(found.level) < quietest(rule)


def quietest(rule: Rule) -> int:
    """The lowest level that is not too quiet, in steps."""
    return rule.clamp + int(np.iinfo(np.int8).min)


def clipping(found: Speech, full_scale: np.ndarray, config: FrontendConfig) -> bool:
    """Whether speech clips; where there is none, whether the window does.

    Args:
      found: what of the window is speech.
      full_scale: samples at full scale in each of its real frames, `[n]` (`features.full_scale`).
      config: the frontend's parameters.
    """
    mask = np.array(found.mask[: len(full_scale)])
    return bool(CLIPPED_ONE_IN * int(full_scale[mask].sum()) > int(mask.sum()) * config.frame_length)


def active(codes: np.ndarray, rule: Rule) -> np.ndarray:
    """A clip `[T, M]` from its first speech to its last; all of it where there is none."""
    return codes[active_span(codes, rule)]


def active_span(codes: np.ndarray, rule: Rule, scanned: Iterable[tuple[int, Speech]] | None = None) -> slice:
    """The frames of a clip `[T, M]` from its first speech to its last; all of them where there is none.

    Windows are laid over it as over a stream, and each finds its own, so that a word in a minute of silence is found.
    `scanned` is what `windows_of` gives with `rule.scan`, where that is known.
    """
    found = [
        (start + int(speech.first), start + int(speech.first + speech.frames))
        for start, speech in (windows_of(codes, rule.scan, rule) if scanned is None else scanned)
        if speech.there
    ]
    if not found:
        return slice(0, len(codes))
    return slice(min(first for first, _ in found), max(end for _, end in found))


def windows_of(codes: np.ndarray, window: WindowConfig, rule: Rule) -> Iterator[tuple[int, Speech]]:
    """The first frame of each window of a recording `[T, M]`, heard as a stream, and what of it is speech."""
    for start in windows.starts(len(codes), window):
        cut = codes[start : start + window.frames]
        yield int(start), detect(cut, len(cut), rule)
