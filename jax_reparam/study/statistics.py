"""What a study may say: scores over clips, and paired differences with intervals that count speakers and seeds.

A difference is averaged over speakers and seeds, and both are samples. Its variance is that of a two-way layout with
random effects and one value per cell (Searle, Casella and McCulloch 1992, chapter 4), its degrees of freedom those of
Satterthwaite (1946). Scores that are ratios over clips (a recall divides by the clips of a class, which differ by
speaker) enter by their linearisation about the pooled value (Woodruff 1971), so that the cells' mean is the pooled
difference itself.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from scipy import stats

from jax_reparam import evaluation

Score = Literal['uar', 'speaker_uar', 'nll']
NAMES = {'uar': 'UAR', 'speaker_uar': 'UAR, mean over speakers', 'nll': 'cross-entropy per clip'}
# As evaluation.metrics: no logarithm of 0.
_LEAST = 1e-12
# Sign flips that are all tried; of more, so many are drawn.
_EXACT, _DRAWN = 16, 1 << 16
POWER = 0.8
LEVEL = 0.95


def better(value: float, score: Score) -> float:
    """The value with the sign that makes more better."""
    return -value if score == 'nll' else value


@dataclasses.dataclass(frozen=True, eq=False)
class Clips:
    """What some runs of one seed said of the clips of one part, each clip once.

    Attributes:
      id: names of the clips, ascending, `[n]`.
      speaker: of each, `[n]`.
      label: true classes, `[n]`.
      probabilities: `[n, C]`.
    """

    id: np.ndarray
    speaker: np.ndarray
    label: np.ndarray
    probabilities: np.ndarray

    @classmethod
    def of(cls, lines: Sequence[Mapping[str, Any]], part: str) -> Clips:
        """Joins lines; a clip that several of them have, by several seeds, appears several times."""
        names = [field.name for field in dataclasses.fields(cls)]
        columns = {name: np.concatenate([np.asarray(line[part][name]) for line in lines]) for name in names}
        order = np.argsort(columns['id'], kind='stable')
        return cls(**{name: column[order] for name, column in columns.items()})

    @property
    def classes(self) -> int:
        """The number of classes C."""
        return int(self.probabilities.shape[1])

    @property
    def correct(self) -> np.ndarray:
        """Whether each clip is decided right, `[n]` float64; one in which nobody speaks is not."""
        return np.asarray(evaluation.decisions(self.probabilities) == self.label, np.float64)

    @property
    def nll(self) -> np.ndarray:
        """Negative log likelihood of each clip, `[n]`; a clip in which nobody speaks is undecided between all."""
        known = np.where(self.probabilities.any(axis=1, keepdims=True), self.probabilities, 1 / self.classes)
        return np.asarray(-np.log(np.maximum(known[np.arange(len(self.label)), self.label], _LEAST)))

    def score(self, score: Score) -> float:
        """The score over all clips; shares are 0 to 1."""
        if score == 'nll':
            return float(self.nll.mean())
        correct = self.correct
        recalls = lambda chosen: [correct[chosen & (self.label == c)].mean() for c in np.unique(self.label[chosen])]
        if score == 'uar':
            return float(np.mean(recalls(np.ones(len(self.label), bool))))
        return float(np.mean([np.mean(recalls(self.speaker == one)) for one in np.unique(self.speaker)]))


def cells(ours: Sequence[Clips], theirs: Sequence[Clips], score: Score) -> np.ndarray:
    """The difference of two arms as a table of speakers and seeds, `[S, R]`; the mean of all cells is the difference.

    Args:
      ours: of each seed.
      theirs: of each seed, of the same clips.
      score: what differs.

    Raises:
      ValueError: the clips, their labels or their number of seeds differ.
    """
    first = ours[0]
    if len(ours) != len(theirs):
        raise ValueError(f'seeds: expected as many in both arms, found {len(ours)} and {len(theirs)}')
    for other in (*ours, *theirs):
        if not all(np.array_equal(getattr(first, name), getattr(other, name)) for name in ('id', 'speaker', 'label')):
            raise ValueError('clips: expected the same in both arms and all seeds, found others')
    of = lambda clips: clips.nll if score == 'nll' else clips.correct
    d = np.stack([of(a) - of(b) for a, b in zip(ours, theirs, strict=True)], axis=1)  # [n, R]
    speakers, who = np.unique(first.speaker, return_inverse=True)
    if score == 'speaker_uar':
        rows = []
        for s in range(len(speakers)):
            recalls = [d[(who == s) & (first.label == c)].mean(axis=0) for c in np.unique(first.label[who == s])]
            rows.append(np.mean(recalls, axis=0))
        return np.stack(rows)
    group = first.label if score == 'uar' else np.zeros(len(d), int)
    present = np.unique(group)
    cell = np.zeros((len(speakers), d.shape[1]))
    total = 0.0
    for one in present:
        mine = group == one
        pooled = d[mine].mean()
        total += pooled / len(present)
        np.add.at(cell, who[mine], (d[mine] - pooled) * (len(speakers) / (len(present) * mine.sum())))
    return total + cell


@dataclasses.dataclass(frozen=True)
class Difference:
    """A paired difference.

    Attributes:
      mean: the difference.
      low: lower end of its interval.
      high: upper end.
      error: its standard error.
      freedom: degrees of freedom of the t-distribution.
      p: of a difference of 0, two-sided, by that distribution.
      p_flips: the same by flipping the signs of the speakers' differences.
      level: of the interval.
    """

    mean: float
    low: float
    high: float
    error: float
    freedom: float
    p: float
    p_flips: float
    level: float


def _squares(table: np.ndarray) -> tuple[float, float, float]:
    """Mean squares of rows, columns and the rest of `[S, R]`; with one column there are none of columns and rest."""
    rows, columns = table.shape
    mean, of_row, of_column = table.mean(), table.mean(axis=1), table.mean(axis=0)
    between = columns * float(np.square(of_row - mean).sum()) / (rows - 1)
    if columns == 1:
        return between, 0.0, 0.0
    across = rows * float(np.square(of_column - mean).sum()) / (columns - 1)
    rest = float(np.square(table - of_row[:, None] - of_column + mean).sum()) / ((rows - 1) * (columns - 1))
    return between, across, rest


def _variance(table: np.ndarray) -> tuple[float, float]:
    """The variance of the mean of all cells of `[S, R]`, and its degrees of freedom.

    Var(mean) = (MS_speakers + MS_seeds - MS_rest) / (S R), whose terms are mean squares; it is not taken below the
    larger of the first two alone, which a difference of estimates can fall below by chance.
    """
    (speakers, seeds), (between, across, rest) = table.shape, _squares(table)
    sum_of = between + across - rest
    if sum_of > max(between, across):
        parts = between**2 / (speakers - 1) + across**2 / (seeds - 1) + rest**2 / ((speakers - 1) * (seeds - 1))
        freedom = sum_of**2 / parts
    else:
        sum_of, freedom = (between, speakers - 1) if between >= across else (across, seeds - 1)
    return sum_of / table.size, freedom


def difference(tables: Sequence[np.ndarray], level: float = LEVEL) -> Difference:
    """The mean of tables of speakers and seeds (`cells`), with its interval.

    Tables of several corpora weigh alike. They share no speaker, so their variances add up (Satterthwaite 1946).

    Raises:
      ValueError: a table of fewer than two speakers.
    """
    for table in tables:
        if len(table) < 2:
            raise ValueError(f'speakers: expected at least 2, found {len(table)}')
    number = len(tables)
    mean = float(np.mean([table.mean() for table in tables]))
    parts = [_variance(table) for table in tables]
    of_all = sum(variance for variance, _ in parts)
    error = math.sqrt(of_all) / number
    freedom = of_all**2 / sum(v**2 / f for v, f in parts) if error else min(f for _, f in parts)
    half = float(stats.t.ppf((1 + level) / 2, freedom)) * error
    p = 2 * float(stats.t.sf(abs(mean) / error, freedom)) if error else float(mean == 0)
    flips = sign_flips(np.concatenate([table.mean(axis=1) / len(table) for table in tables]))
    return Difference(mean, mean - half, mean + half, error, float(freedom), p, flips, level)


def sign_flips(values: np.ndarray) -> float:
    """The share of all flips of signs of `values` `[S]` whose mean is at least as far from 0: a two-sided p-value.

    All are tried of up to 16 values; of more, 65,536 are drawn, and the values as they are count as one of them.
    """
    values = np.asarray(values, np.float64)
    if len(values) <= _EXACT:
        signs = np.array(list(itertools.product((1.0, -1.0), repeat=len(values))))
    else:
        signs = np.random.default_rng(0).choice([1.0, -1.0], (_DRAWN, len(values)))
        signs[0] = 1.0
    sums, own = np.abs(signs @ values), abs(values.sum())
    return float(np.mean(sums >= own - 1e-9 * np.abs(values).sum()))


def holm(p: Sequence[float]) -> list[float]:
    """The p-values of a family of tests, adjusted so that they may be read alone (Holm 1979)."""
    order = np.argsort(p, kind='stable')
    adjusted, largest = [0.0] * len(p), 0.0
    for rank, at in enumerate(order):
        largest = max(largest, min(1.0, (len(p) - rank) * p[at]))
        adjusted[at] = largest
    return adjusted


def detectable(pilot: np.ndarray, seeds: int, level: float = LEVEL) -> float:
    """The smallest difference that a study of `seeds` seeds shows with 80 % power, by some pilot seeds.

    Args:
      pilot: a table of speakers and at least two seeds (`cells`).
      seeds: of the whole study.
      level: of the interval that is to exclude 0.
    """
    speakers, had = pilot.shape
    if had < 2:
        raise ValueError(f'pilot: expected at least 2 seeds, found {had}')
    between, across, rest = _squares(pilot)
    of_speakers, of_seeds = max(0.0, (between - rest) / had), max(0.0, (across - rest) / speakers)
    error = math.sqrt(of_speakers / speakers + of_seeds / seeds + rest / (speakers * seeds))
    freedom = speakers - 1
    return error * float(stats.t.ppf((1 + level) / 2, freedom) + stats.t.ppf(POWER, freedom))
