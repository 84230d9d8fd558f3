"""Windows: every frame is covered, every frame of a window is real, and repetition starts at the start."""

from __future__ import annotations

import numpy as np
import pytest

from jax_reparam.frontend import windows
from jax_reparam.frontend.windows import WindowConfig


@pytest.mark.parametrize('length', [1, 7, 9, 10, 11, 14, 15, 16, 25, 100])
def test_windows_cover_a_clip_and_hold_nothing_else(length):
    clip = np.arange(length)[:, None] + 0.5
    config = WindowConfig(frames=10, hop=5)
    cut, _ = windows.split([clip], config)
    assert cut.shape[1:] == (10, 1)
    assert set(cut.ravel()) == set(clip.ravel())
    starts = windows.starts(length, config)
    assert (np.diff(starts) <= 5).all()
    assert (np.diff(starts) > 0).all()
    assert starts[-1] == max(0, length - 10)


def test_a_short_clip_is_repeated_from_its_start():
    clip = np.array([[1.0], [2.0], [3.0]])
    np.testing.assert_array_equal(windows.split([clip], WindowConfig(8, 4))[0][0, :, 0], [1, 2, 3, 1, 2, 3, 1, 2])


def test_a_clip_of_one_window_is_itself(rng):
    clip = rng.standard_normal((400, 3))
    np.testing.assert_array_equal(windows.split([clip], WindowConfig())[0], clip[None])


@pytest.mark.parametrize('size', [1, 3, 7, None])
def test_batches_are_filled_across_clips(rng, size):
    clips = [rng.standard_normal((length, 2)) for length in (3, 17, 10)]  # 1, 3 and 1 windows
    got = list(windows.batches(clips, WindowConfig(frames=10, hop=5), size))
    counts = {1: [1] * 5, 3: [3, 2], 7: [5], None: [5]}[size]
    assert [len(features) for features, _ in got] == [len(clip) for _, clip in got] == counts
    assert np.concatenate([clip for _, clip in got]).tolist() == [0, 1, 1, 1, 2]
    expected = [windows.cut(clips[i], start, 10) for i, start in ((0, 0), (1, 0), (1, 5), (1, 7), (2, 0))]
    np.testing.assert_array_equal(np.concatenate([features for features, _ in got]), expected)


@pytest.mark.parametrize('fields', [{'frames': 0}, {'hop': 0}, {'frames': 10, 'hop': 11}])
def test_wrong_windows_are_refused(fields):
    with pytest.raises(ValueError, match=r'^hop_frames: expected 1 to \d+ frames \(the window\), found'):
        WindowConfig(**fields)


def test_an_empty_clip_is_refused():
    with pytest.raises(ValueError, match='expected at least 1 frame, got 0'):
        windows.starts(0, WindowConfig())
