"""Gates: what passes, what fails, and what the line says."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from helpers import windows_of
from jax_reparam.evaluation import Windows
from jax_reparam.manifest import Made, Score
from jax_reparam.runtime import check, gates, litert

GOOD = Score(argmax_agreement=1.0, differing=0, snr_db=40.0, uar=0.8, max_abs_diff=1e-6)


@pytest.fixture
def windows():
    """Four clips of two classes; the first has two windows."""
    return Windows(np.zeros((5, 3, 2), np.float32), np.array([0, 0, 1, 2, 3]), np.array([0, 0, 1, 1]))


def test_score_by_hand(windows):
    reference = np.array([[3.0, 0.0], [0.0, 1.0], [2.0, 0.0], [0.0, 2.0], [0.0, 2.0]])
    logits = reference.copy()
    logits[4] = [0.5, 0.0]  # one window, and with it one clip, decided otherwise
    result = gates.score(reference, logits, windows)
    assert (result.argmax_agreement, result.differing) == (pytest.approx(0.8), 1)
    assert result.max_abs_diff == 2.0
    assert result.snr_db == pytest.approx(10 * np.log10((9 + 1 + 4 + 4 + 4) / (0.25 + 4)))
    assert gates.uar(reference, windows) == 1.0  # the first clip's windows disagree; their mean is right
    assert result.uar == pytest.approx(0.75)


def test_the_last_column_of_a_confusion_has_clips_without_a_decision():
    clips = Windows(np.zeros((2, 3, 2), np.float32), np.array([0, 1]), np.array([0, 0, 1]))  # none of the third
    assert gates.confusion(np.array([[1.0, 0.0], [0.0, 1.0]]), clips) == ((1, 1, 0), (0, 0, 1))


def test_equal_logits_have_no_snr(windows):
    logits = np.ones((5, 2))
    assert gates.score(logits, logits, windows).snr_db is None


def test_logits_that_are_not_finite_fail_every_form(windows):
    reference = np.ones((5, 2))
    result = gates.score(reference, np.where(np.eye(5, 2) > 0, np.nan, reference), windows)
    assert result.max_abs_diff is None
    for form in ('float32', 'int8'):
        assert gates.failures(form, 'TFLM', result, 0.8) == [f'{form} in TFLM: expected finite logits, found others']


@pytest.mark.parametrize('form', ['float32', 'int8'])
def test_good_forms_pass(form):
    assert gates.failures(form, 'LiteRT', GOOD, 0.8) == []


@pytest.mark.parametrize(
    ('form', 'change', 'message'),
    [
        ('float32', {'max_abs_diff': 2e-4}, 'float32 in TFLM: expected logits within 0.0001 of JAX, found 0.0002'),
        (
            'int8',
            {'argmax_agreement': 0.97, 'differing': 3},
            'int8 in TFLM: expected the same decision in at least 99% of windows, found 97.0% (3 differ)',
        ),
        ('int8', {'uar': 0.794}, 'int8 in TFLM: expected a UAR of at least 79.5 %, found 79.4 %'),
    ],
)
def test_failures_say_what_was_expected(form, change, message):
    assert gates.failures(form, 'TFLM', dataclasses.replace(GOOD, **change), 0.8) == [message]


def test_exactly_what_is_allowed_passes():
    result = Score(argmax_agreement=0.99, differing=2, snr_db=30.0, uar=0.795, max_abs_diff=0.5)
    assert gates.failures('int8', 'TFLM', result, 0.8) == []


def test_one_window_of_few_may_differ():
    few = dataclasses.replace(GOOD, argmax_agreement=0.98, differing=1)
    assert gates.failures('int8', 'TFLM', few, 0.8) == []
    assert gates.failures('int8', 'TFLM', dataclasses.replace(few, differing=2), 0.8) != []


def test_one_window_alone_in_its_class_may_differ():
    rare = dataclasses.replace(GOOD, argmax_agreement=0.98, differing=1, uar=0.8 - 1 / 7)
    assert gates.failures('int8', 'TFLM', rare, 0.8) == []
    assert gates.failures('int8', 'TFLM', dataclasses.replace(rare, argmax_agreement=0.995, differing=2), 0.8) != []


def test_no_window_that_differs_excuses_no_loss():
    """A clip of several windows may change sides without any of them."""
    assert gates.failures('int8', 'TFLM', dataclasses.replace(GOOD, uar=0.79), 0.8) != []


def test_the_fold_gate_grows_with_the_logits():
    reference = np.array([[100.0, -5.0]])
    assert gates.fold_failure(reference, reference + 9e-4) is None
    assert 'found 0.0011' in gates.fold_failure(reference, reference + 1.1e-3)
    assert gates.fold_failure(reference / 100, reference / 100 + 1.1e-5) is not None
    assert gates.fold_failure(reference, reference * np.nan) is not None


def test_where_tflm_cannot_be_run_litert_decides(exported, data, monkeypatch):
    """Else LiteRT's score is only told: int8 is made for TFLM."""
    features, _ = windows_of(data, 'test')
    windows = Windows(features[:6], np.arange(6), np.zeros(6, int))
    model = (exported.path / 'model_int8.tflite').read_bytes()
    wrong = -litert.load(model)(windows.features)
    monkeypatch.setattr(check.tflm, 'missing', lambda: 'not verified: not here')
    form, reasons = check.verify('int8', model, Made(), wrong, windows, show_progress=False)
    assert (form.tflm, form.tflm_reason) == (None, 'not verified: not here')
    assert any(reason.startswith('int8 in LiteRT: expected the same decision') for reason in reasons)
