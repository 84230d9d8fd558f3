"""Metrics against their definitions, on counts small enough to check by hand."""

from __future__ import annotations

import numpy as np
import pytest

from jax_reparam import evaluation


def test_probabilities_of_windows_are_averaged():
    logits = np.log(np.array([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]]))
    windows = evaluation.Windows(np.zeros((3, 1, 1), np.float32), np.array([0, 0, 1]), truth=np.array([0, 1]))
    np.testing.assert_allclose(windows.decide(logits), [[0.55, 0.45], [0.5, 0.5]])
    np.testing.assert_allclose(evaluation.decide(evaluation.softmax(logits)), [[1.6 / 3, 1.4 / 3]])


def test_what_decides_alone_keeps_its_probabilities(rng):
    probabilities = rng.random((5, 3))
    np.testing.assert_array_equal(evaluation.decide(probabilities, np.arange(5)), probabilities)


@pytest.mark.parametrize(('signal', 'noise', 'expected'), [
    (200.0, 2.0, 20.0),
    (0.0, 2.0, None),
    (2.0, 0.0, None),
    (2.0, np.inf, None),
    (2.0, np.nan, None),
])  # fmt: skip
def test_signal_to_noise_ratio(signal, noise, expected):
    assert evaluation.snr_db(signal, noise) == expected


def test_clips_of_a_speaker_decide_together():
    # By vote the first speaker is of class 0, by mean of class 1; the second has a tie, which the mean decides.
    probabilities = np.array([[0.6, 0.4], [0.9, 0.1], [0.6, 0.4], [0.0, 1.0], [0.2, 0.8]])
    unit = np.array([0, 1, 0, 0, 1])
    mean = evaluation.decide(probabilities, unit, 'mean')
    vote = evaluation.decide(probabilities, unit, 'vote')
    np.testing.assert_allclose(mean, [[0.4, 0.6], [0.55, 0.45]])
    np.testing.assert_allclose(vote, [[2.4 / 4, 1.6 / 4], [1.55 / 3, 1.45 / 3]])


def test_softmax_survives_large_logits():
    np.testing.assert_allclose(evaluation.softmax(np.array([1e4, 1e4])), [0.5, 0.5])


def test_metrics():
    # Confusion, rows true: a [3, 1, 0], b [0, 1, 1], c never occurs.
    labels = np.array([0, 0, 0, 0, 1, 1])
    predicted = np.array([0, 0, 0, 1, 1, 2])
    got = evaluation.metrics(labels, np.eye(3)[predicted], ['a', 'b', 'c'])
    assert got['confusion'] == [[3, 1, 0], [0, 1, 1], [0, 0, 0]]
    assert got['wa'] == pytest.approx(4 / 6)
    assert got['uar'] == pytest.approx((3 / 4 + 1 / 2) / 2)
    f1_a, f1_b = 6 / 7, 1 / 2
    assert got['wf1'] == pytest.approx((4 * f1_a + 2 * f1_b) / 6)
    assert got['macro_f1'] == pytest.approx((f1_a + f1_b + 0) / 3)
    assert got['per_class']['a'] == pytest.approx({'recall': 0.75, 'precision': 1.0, 'f1': f1_a, 'support': 4})
    assert got['clips'] == 6


def test_likelihood():
    got = evaluation.metrics(np.array([0, 1]), np.array([[0.5, 0.5], [0.75, 0.25]]), ['a', 'b'])
    assert got['nll'] == pytest.approx(-np.log(0.5 * 0.25) / 2)


def test_standard_error():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [40, 20, 10])
    probabilities = rng.dirichlet(np.ones(3), len(labels)) + 0.4 * np.eye(3)[labels]
    right = probabilities.argmax(axis=1) == labels
    error = lambda metric: evaluation.standard_error(labels, probabilities, 'abc', metric)
    # The jackknife of a mean is its textbook error; a recall of n decisions is a mean too.
    assert error('wa') == pytest.approx(right.std(ddof=1) / np.sqrt(len(right)))
    recalls = [right[labels == c] for c in range(3)]
    variance = sum(recall.var(ddof=1) / len(recall) for recall in recalls) / 9
    assert error('uar') == pytest.approx(np.sqrt(variance), rel=0.1)
    assert 0.5 < error('macro_f1') / error('uar') < 2
    assert evaluation.standard_error(labels[:1], probabilities[:1], 'abc', 'uar') == 0
