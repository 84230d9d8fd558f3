"""Statistics of a study: scores are those of the field, intervals cover, adjustments are the published ones."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from jax_reparam import evaluation
from jax_reparam.study import statistics
from jax_reparam.study.statistics import Clips


def clips(rng, *, speakers=4, n=60, classes=3, right=0.5):
    """Random decisions of random clips."""
    label = rng.integers(classes, size=n)
    probabilities = rng.dirichlet(np.ones(classes), size=n)
    probabilities[np.arange(n), label] += right
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    speaker = np.array([f's{s}' for s in rng.integers(speakers, size=n)])
    return Clips(np.array([f'{i:03d}' for i in range(n)]), speaker, label, probabilities)


def other(rng, like, right):
    """Other decisions of the same clips."""
    drawn = clips(rng, n=len(like.id), right=right)
    probabilities = np.full_like(drawn.probabilities, 0.2)
    at = np.where(rng.random(len(like.id)) < right, like.label, rng.integers(3, size=len(like.id)))
    probabilities[np.arange(len(at)), at] = 0.6
    return Clips(like.id, like.speaker, like.label, probabilities)


def test_scores_are_those_of_evaluation(rng):
    one = clips(rng)
    one.probabilities[3] = 0  # nobody speaks
    found = evaluation.metrics(one.label, one.probabilities, 'abc')
    assert one.score('uar') == pytest.approx(found['uar'], abs=1e-12)
    assert one.score('nll') == pytest.approx(found['nll'], abs=1e-12)
    each = [
        evaluation.metrics(one.label[one.speaker == s], one.probabilities[one.speaker == s], 'abc')['uar']
        for s in np.unique(one.speaker)
    ]
    assert one.score('speaker_uar') == pytest.approx(np.mean(each), abs=1e-12)


def test_clips_are_joined_in_the_order_of_their_ids(rng):
    one = clips(rng)
    lines = [
        {'test': {name: getattr(one, name)[part].tolist() for name in ('id', 'speaker', 'label', 'probabilities')}}
        for part in (slice(30, None), slice(30))
    ]
    joined = Clips.of(lines, 'test')
    for name in ('id', 'speaker', 'label', 'probabilities'):
        assert np.array_equal(getattr(joined, name), getattr(one, name))


@pytest.mark.parametrize('score', ['uar', 'speaker_uar', 'nll'])
def test_the_cells_mean_is_the_difference_of_the_scores(rng, score):
    ours = [clips(rng)]
    ours.append(other(rng, ours[0], 0.7))
    theirs = [other(rng, ours[0], right) for right in (0.2, 0.4)]
    table = statistics.cells(ours, theirs, score)
    assert table.shape == (4, 2)
    of_seeds = [a.score(score) - b.score(score) for a, b in zip(ours, theirs, strict=True)]
    assert table.mean() == pytest.approx(np.mean(of_seeds), abs=1e-12)
    # Of one seed, too: the seeds are columns.
    assert statistics.cells(ours[1:], theirs[1:], score).mean() == pytest.approx(of_seeds[1], abs=1e-12)


def test_other_clips_are_not_compared(rng):
    one, two = clips(rng), clips(rng)
    with pytest.raises(ValueError, match='clips: expected the same in both arms'):
        statistics.cells([one], [two], 'uar')
    with pytest.raises(ValueError, match='seeds: expected as many'):
        statistics.cells([one], [one, one], 'uar')


def test_one_seed_gives_the_t_interval_over_speakers(rng):
    values = rng.standard_normal(10)
    found = statistics.difference([values[:, None]])
    expected = stats.ttest_1samp(values, 0)
    low, high = expected.confidence_interval(0.95)
    assert (found.low, found.high, found.p) == pytest.approx((low, high, expected.pvalue), abs=1e-12)
    assert found.freedom == 9


def test_variance_and_freedom_are_those_of_the_two_way_layout():
    # Rows differ by 0, 2, 4 and columns by 0, 6; the rest is (1, -1, 0) and its negative.
    table = np.array([[1.0, 5.0], [1.0, 9.0], [4.0, 10.0]])
    between, across, rest = 2 * (4 + 0 + 4), 3 * (9 + 9), 2 * (1 + 1) / 2
    found = statistics.difference([table])
    assert found.error**2 == pytest.approx((between / 2 + across - rest) / 6)
    parts = (between / 2) ** 2 / 2 + across**2 / 1 + rest**2 / 2
    assert found.freedom == pytest.approx((between / 2 + across - rest) ** 2 / parts)


def test_corpora_weigh_alike_and_their_variances_add_up(rng):
    small, large = rng.standard_normal((5, 1)), 1 + 3 * rng.standard_normal((20, 1))
    found = statistics.difference([small, large])
    one, other = statistics.difference([small]), statistics.difference([large])
    assert found.mean == pytest.approx((one.mean + other.mean) / 2)
    assert found.error == pytest.approx(np.hypot(one.error, other.error) / 2)
    # Welch's test has the same error and freedom: the two means are independent.
    welch = stats.ttest_ind(small[:, 0], -large[:, 0], equal_var=False)
    assert (found.freedom, found.p) == pytest.approx((welch.df, welch.pvalue))
    # Signs of all speakers are flipped, each with the weight that it has in the mean.
    assert statistics.difference([np.array([[1.0], [1.0]]), np.array([[3.0], [3.0]])]).p_flips == 2 / 16


@pytest.mark.parametrize('sigmas', [(2.0, 0.0, 2.0), (1.0, 1.0, 3.0), (0.0, 0.0, 1.0)], ids=str)
def test_intervals_cover(sigmas):
    rng, covered, runs = np.random.default_rng(1), 0, 600
    for _ in range(runs):
        of_speaker, of_seed, rest = (
            sigma * rng.standard_normal(shape) for sigma, shape in zip(sigmas, ((10, 1), (1, 5), (10, 5)), strict=True)
        )
        found = statistics.difference([1.5 + of_speaker + of_seed + rest])
        covered += found.low <= 1.5 <= found.high
    # A standard error of 0.9 points: an interval that covers 89 % (a bootstrap over ten speakers) fails.
    assert 0.935 <= covered / runs <= 1.0


def test_intervals_of_pooled_recalls_cover():
    """Speakers have other numbers of clips of each class, and another gain."""
    rng, covered, runs, speakers, seeds = np.random.default_rng(2), 0, 300, 10, 3
    for _ in range(runs):
        counts = rng.integers(2, 12, size=(speakers, 3))
        gain = 0.1 + 0.1 * rng.standard_normal(speakers)
        speaker = np.repeat(np.repeat(np.arange(speakers), 3), counts.ravel())
        label = np.repeat(np.tile(np.arange(3), speakers), counts.ravel())
        arms = []
        for share in ((0.5 + gain)[speaker], np.full(len(label), 0.5)):
            wrong = rng.random((seeds, len(label))) >= share
            arms.append([Clips(np.arange(len(label)), speaker, label, np.eye(3)[(label + one) % 3]) for one in wrong])
        table = statistics.cells(*arms, 'uar')
        found = statistics.difference([table])
        covered += found.low <= 0.1 <= found.high
    assert 0.92 <= covered / runs <= 0.99


def test_sign_flips_count_all_of_them():
    assert statistics.sign_flips(np.arange(1.0, 11)) == 2 / 1024
    assert statistics.sign_flips(np.array([1.0, -1.0])) == 1.0
    assert statistics.sign_flips(np.array([3.0, -1.0])) == 1.0
    assert statistics.sign_flips(np.array([3.0, 1.0])) == 0.5
    many = np.random.default_rng(0).standard_normal(20) + 0.6
    assert statistics.sign_flips(many) == pytest.approx(stats.ttest_1samp(many, 0).pvalue, abs=0.02)


def test_holm_is_the_published_procedure():
    assert statistics.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert statistics.holm([0.04, 0.01]) == pytest.approx([0.04, 0.02])
    assert statistics.holm([0.6, 0.9]) == [1.0, 1.0]


def test_the_smallest_detectable_difference_is_detected_in_four_of_five_studies():
    rng = np.random.default_rng(3)
    sigma = np.array([1.0, 2.0])
    draw = lambda seeds: sigma[0] * rng.standard_normal((10, 1)) + sigma[1] * rng.standard_normal((10, seeds))
    least = np.mean([statistics.detectable(draw(2), 5) for _ in range(200)])
    shown = np.mean([statistics.difference([least + draw(5)]).low > 0 for _ in range(400)])
    assert 0.74 <= shown <= 0.9
    # More seeds show less.
    pilot = draw(2)
    assert statistics.detectable(pilot, 8) < statistics.detectable(pilot, 2)
    with pytest.raises(ValueError, match='at least 2 seeds'):
        statistics.detectable(pilot[:, :1], 5)
