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


NOBODY = np.array([[0.0, 0.0, 0.0]])


@pytest.mark.parametrize('truth', [0, 1, 2])
def test_a_clip_in_which_nobody_speaks_is_wrong_whatever_it_was(truth):
    """Not an argmax of zeros, which would be the first class; nor the last one, which -1 would be as an index."""
    labels = np.array([0, 1, 2, truth])
    probabilities = np.concatenate([np.eye(3), NOBODY])
    got = evaluation.metrics(labels, probabilities, 'abc')
    assert got['no_speech'] == 1
    assert got['clips'] == 4
    assert got['wa'] == pytest.approx(3 / 4)
    assert got['uar'] == pytest.approx((1 + 1 + 1 / 2) / 3)
    recalls = [got['per_class'][name]['recall'] for name in 'abc']
    assert recalls == [0.5 if c == truth else 1.0 for c in range(3)]
    # Precision is of what was decided: nothing was, here. It is no class of its own.
    assert [got['per_class'][name]['precision'] for name in 'abc'] == [1.0] * 3
    assert got['macro_f1'] == pytest.approx((1 + 1 + 2 / 3) / 3)
    assert got['wf1'] == pytest.approx((1 + 1 + 2 * 2 / 3) / 4)
    assert got['confusion'] == np.eye(3, dtype=int).tolist()
    assert got['nll'] == pytest.approx(np.log(3) / 4)
    assert np.isfinite(evaluation.standard_error(labels, probabilities, 'abc', 'uar'))


def test_where_nobody_ever_speaks_all_is_wrong():
    got = evaluation.metrics(np.array([0, 2]), np.zeros((2, 3)), 'abc')
    assert (got['uar'], got['wa'], got['wf1'], got['macro_f1'], got['no_speech']) == (0, 0, 0, 0, 2)
    assert got['nll'] == pytest.approx(np.log(3))


def test_decisions_are_classes_or_none():
    assert evaluation.decisions(np.array([[0.2, 0.8], [0.0, 0.0], [0.6, 0.4]])).tolist() == [1, -1, 0]


@pytest.mark.parametrize('join', ['mean', 'vote'])
def test_who_does_not_speak_has_no_say(join):
    probabilities = np.array([[0.2, 0.7, 0.1], [0.0] * 3, [0.5, 0.3, 0.2], [0.0] * 3, [0.0] * 3])
    got = evaluation.decide(probabilities, np.array([0, 0, 0, 1, 1]), join, 4)
    np.testing.assert_array_equal(got[0], evaluation.decide(probabilities[[0, 2]], None, join)[0])
    # One who says nothing at all, one of whom there is nothing, and one in between.
    np.testing.assert_array_equal(got[1:], np.zeros((3, 3)))


def test_clips_without_windows_keep_their_place():
    """Only windows in which somebody speaks are there; the second of three clips has none, and the last one."""
    logits = np.log(np.array([[0.9, 0.1], [0.3, 0.7]]))
    windows = evaluation.Windows(np.zeros((2, 1, 1), np.float32), np.array([0, 2]), truth=np.array([0, 1, 1, 0]))
    np.testing.assert_allclose(windows.decide(logits), [[0.9, 0.1], [0, 0], [0.3, 0.7], [0, 0]])
    by_speaker = evaluation.Windows(
        windows.features, windows.clip, truth=np.array([0, 1, 0]), unit=np.array([0, 0, 1, 2]), join='vote'
    )
    assert evaluation.decisions(by_speaker.decide(logits)).tolist() == [0, 1, -1]


def test_standard_errors_know_those_without_a_decision():
    labels = np.repeat([0, 1], 20)
    probabilities = np.eye(2)[labels]
    probabilities[:4] = 0
    right = np.repeat([0.0, 1.0], [4, 36])
    got = evaluation.standard_error(labels, probabilities, 'ab', 'wa')
    assert got == pytest.approx(right.std(ddof=1) / np.sqrt(40))


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
