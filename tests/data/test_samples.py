"""The windows of verification and of calibration."""

from __future__ import annotations

import numpy as np
import pytest

from jax_reparam.data import pipeline
from jax_reparam.frontend import windows


def test_all_test_windows(data):
    found = pipeline.of_part(data, 'test', None)
    features, clip = data.windows('test')
    np.testing.assert_array_equal(found.features, features)
    np.testing.assert_array_equal(found.clip, clip)
    np.testing.assert_array_equal(found.truth, data.labels('test'))


@pytest.mark.parametrize('limit', [1, 5, 9])
def test_at_most_so_many_windows_of_whole_clips(data, limit):
    features, clip = data.windows('test')
    found = pipeline.of_part(data, 'test', limit)
    assert len(found.features) <= limit or len(found.truth) == 1
    assert len(found.clip) == len(found.features)
    assert sorted(set(found.clip.tolist())) == list(range(len(found.truth)))
    # Each clip is whole, and carries its own label.
    originals = [int(clip[np.flatnonzero((features == window).all((1, 2)))[0]]) for window in found.features]
    for drawn, original in zip(found.clip, originals, strict=True):
        assert found.truth[drawn] == data.labels('test')[original]
        assert (found.clip == drawn).sum() == (clip == original).sum()


def test_calibration_draws_the_same_training_windows_each_time(data):
    features, places = pipeline.calibration(data, 7)
    again, places_again = pipeline.calibration(data, 7)
    np.testing.assert_array_equal(features, again)
    assert places == places_again
    assert len(set(places)) == len(places) == 7
    ids = {data.corpus.id[clip]: int(clip) for clip in data.clips('train')}
    for window, (clip, start) in zip(features, places, strict=True):
        expected = windows.cut(data.standardised(ids[clip]), start, data.window.frames)
        np.testing.assert_array_equal(window, expected)


def test_calibration_takes_all_where_there_are_fewer(data):
    features, _ = pipeline.calibration(data, 10_000)
    assert len(features) == len(data.windows('train')[0])
