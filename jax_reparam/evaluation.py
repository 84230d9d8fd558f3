"""From logits of windows to a clip's decision, and from decisions to the metrics of the field."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np


def softmax(logits: np.ndarray) -> np.ndarray:
    """Class probabilities `[..., C]` of logits `[..., C]`, in float64."""
    logits = np.asarray(logits, np.float64)
    exp = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(exp / exp.sum(axis=-1, keepdims=True))


def decide(
    probabilities: np.ndarray, unit: np.ndarray | None = None, join: str = 'mean', units: int | None = None
) -> np.ndarray:
    """Joins the probabilities of windows into those of their clips, or of clips into those of their speakers.

    Args:
      probabilities: `[n, C]`, one row per window or clip.
      unit: `[n]`, the clip or speaker of each row, 0 to u - 1; None: all rows are of one.
      join: 'mean': of the probabilities. 'vote': the classes' shares of the rows' decisions, to which the mean is added
        as one more vote: it decides between equals, and nothing else.
      units: u; None: as many as `unit` names. A unit without rows, in which nobody speaks, has zeros.

    Returns:
      `[u, C]` float64.
    """
    unit = np.zeros(len(probabilities), int) if unit is None else unit
    units = int(unit.max()) + 1 if units is None else units
    mean, votes = np.zeros((2, units, probabilities.shape[-1]))
    # Rows of zeros are of clips in which nobody speaks.
    spoken = probabilities.any(axis=-1)
    probabilities, unit = probabilities[spoken], unit[spoken]
    count = np.bincount(unit, minlength=units)[:, None]
    np.add.at(mean, unit, probabilities)
    mean /= np.maximum(count, 1)
    if join == 'mean':
        return mean
    np.add.at(votes, (unit, probabilities.argmax(axis=-1)), 1)
    return (votes + mean) / (count + 1)


def decisions(probabilities: np.ndarray) -> np.ndarray:
    """The class of each row `[n, C]`, or -1 for a row of zeros: nobody speaks."""
    return np.where(probabilities.any(axis=-1), probabilities.argmax(axis=-1), -1)


def snr_db(signal: float, noise: float) -> float | None:
    """The signal-to-noise ratio in dB, 10 log10(signal / noise), of sums of squares of a tensor and of its errors.

    None where there is no such number: nothing differs, all of the true tensor is 0, or something is not finite.
    """
    return 10 * math.log10(signal / noise) if signal > 0 and 0 < noise < math.inf else None


def metrics(labels: np.ndarray, probabilities: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """Metrics over decisions, which are of clips, or of speakers.

    Args:
      labels: `[n]`, the true classes.
      probabilities: `[n, C]`.
      names: the C class names.

    Returns:
      `uar` (UA: the mean recall over the classes that occur), `wa` (accuracy), `wf1` (F1 weighted by support),
      `macro_f1` (mean F1 over the classes that occur or are predicted), `nll` (mean negative log likelihood), `clips`,
      `no_speech` (of them, those without a decision: they count as wrong, and in `nll` as undecided between all),
      `per_class` (`recall`, `precision`, `f1`, `support` by name) and `confusion` (`[C][C]` counts, row = true class).
    """
    predicted = decisions(probabilities)
    known = np.where(predicted[:, None] < 0, 1 / len(names), probabilities)
    classes = np.arange(len(names))
    decided = predicted >= 0
    confusion = np.zeros((len(names), len(names)), int)
    np.add.at(confusion, (labels[decided], predicted[decided]), 1)
    right, support = confusion.diagonal(), np.bincount(labels, minlength=len(names))
    chosen = confusion.sum(axis=0)
    # A class that nobody chose, or that does not occur, has no errors to count: 0.
    recall, precision = right / np.maximum(support, 1), right / np.maximum(chosen, 1)
    f1 = 2 * right / np.maximum(support + chosen, 1)
    return {
        'uar': float(recall[support > 0].mean()),
        'wa': float((predicted == labels).mean()),
        'wf1': float(f1 @ support / len(labels)),
        'macro_f1': float(f1[(support > 0) | np.isin(classes, predicted)].mean()),
        'nll': float(-np.log(np.maximum(known[np.arange(len(labels)), labels], 1e-12)).mean()),
        'clips': len(labels),
        'no_speech': int((predicted < 0).sum()),
        'per_class': {
            name: {'recall': float(r), 'precision': float(p), 'f1': float(f), 'support': int(s)}
            for name, r, p, f, s in zip(names, recall, precision, f1, support, strict=True)
        },
        'confusion': confusion.tolist(),
    }


def standard_error(labels: np.ndarray, probabilities: np.ndarray, names: Sequence[str], metric: str) -> float:
    """The standard error of a metric over decisions, by the jackknife (Efron and Tibshirani 1993, chapter 11).

    Args are those of `metrics`, and one of what it returns that depends on decisions alone (all but `nll`).
    """
    if len(labels) < 2:
        return 0.0
    # Decisions of one kind, in truth and in what was decided, leave the same behind.
    kinds = np.stack([labels, decisions(probabilities)])
    _, first, count = np.unique(kinds, axis=1, return_index=True, return_counts=True)
    without = np.array(
        [metrics(np.delete(labels, i), np.delete(probabilities, i, axis=0), names)[metric] for i in first]
    )
    share = count / len(labels)
    return float(np.sqrt((len(labels) - 1) * share @ np.square(without - share @ without)))


@dataclasses.dataclass(frozen=True)
class Windows:
    """Windows of n clips.

    Attributes:
      features: what the model is given, `[W, frames, n_mels]` float32; only of windows in which somebody speaks.
      clip: the clip of each window, `[W]`, 0 to n - 1.
      truth: the class of each unit, `[u]`.
      unit: the unit of each clip, which is what is decided, `[n]`, 0 to u - 1; None: each clip is one.
      join: how the clips of a unit make a decision, 'mean' or 'vote'.
      held_out: whether the model has not learned these clips; of others nobody wants a UAR.
    """

    features: np.ndarray
    clip: np.ndarray
    truth: np.ndarray
    unit: np.ndarray | None = None
    join: str = 'mean'
    held_out: bool = True

    def decide(self, logits: np.ndarray) -> np.ndarray:
        """Probabilities of the units, `[u, C]`, of logits of the windows, `[W, C]`."""
        clips = len(self.truth) if self.unit is None else len(self.unit)
        probabilities = decide(softmax(logits), self.clip, units=clips)
        return probabilities if self.unit is None else decide(probabilities, self.unit, self.join, len(self.truth))


def evenly(windows: np.ndarray, count: int) -> np.ndarray:
    """At most `count` of the windows, evenly spaced."""
    return windows[:: -(-len(windows) // count)]
