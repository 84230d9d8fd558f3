"""Windows: every frame is covered, and repetition starts at the start."""

from __future__ import annotations

import numpy as np
import pytest

from jax_reparam.errors import InputError
from jax_reparam.frontend import windows
from jax_reparam.frontend.windows import WindowConfig


@pytest.mark.parametrize('length', [1, 7, 9, 10, 11, 14, 15, 16, 25, 100])
def test_windows_cover_a_clip_and_end_with_it(length):
    starts = windows.starts(length, WindowConfig(frames=10, hop=5))
    covered = {frame for start in starts for frame in range(start, min(start + 10, length))}
    assert covered == set(range(length))
    assert (np.diff(starts) <= 5).all()
    assert (np.diff(starts) > 0).all()
    assert starts[-1] == max(0, length - 10)


def test_what_is_short_is_repeated_from_its_start():
    clip = np.array([[1.0], [2.0], [3.0]])
    np.testing.assert_array_equal(windows.cut(clip, 0, 8)[:, 0], [1, 2, 3, 1, 2, 3, 1, 2])
    np.testing.assert_array_equal(windows.cut(clip[:, 0], 2, 4), [3, 1, 2, 3])


@pytest.mark.parametrize('size', [1, 3, 7, None])
def test_batches_are_filled_across_clips(rng, size):
    clip = [0, 1, 1, 1, 2]
    features = rng.standard_normal((5, 10, 2))
    got = list(windows.batches(zip(features, clip, strict=True), size))
    counts = {1: [1] * 5, 3: [3, 2], 7: [5], None: [5]}[size]
    assert [len(batch) for batch, _ in got] == [len(position) for _, position in got] == counts
    np.testing.assert_array_equal(np.concatenate([batch for batch, _ in got]), features)
    assert np.concatenate([position for _, position in got]).tolist() == clip


@pytest.mark.parametrize('size', [3, None])
def test_clips_without_speech_are_refused(size):
    with pytest.raises(InputError, match=r'^emodb: expected speech in at least one clip, found none$'):
        next(windows.batches([], size, 'emodb'))


@pytest.mark.parametrize('fields', [{'frames': 0}, {'hop': 0}, {'frames': 10, 'hop': 11}])
def test_wrong_windows_are_refused(fields):
    with pytest.raises(ValueError, match=r'^hop_frames: expected 1 to \d+ frames \(the window\), found'):
        WindowConfig(**fields)


def test_an_empty_clip_is_refused():
    with pytest.raises(ValueError, match='expected at least 1 frame, got 0'):
        windows.starts(0, WindowConfig())
