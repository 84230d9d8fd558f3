"""Augmentation: deterministic, bounded, and off when it is off."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from jax_reparam.config import AugmentConfig
from jax_reparam.train.augment import augment

OFF = AugmentConfig(freq_masks=0, time_masks=0)


def test_off_changes_nothing(rng):
    x = rng.standard_normal((3, 20, 8)).astype(np.float32)
    np.testing.assert_array_equal(augment(jax.random.key(0), x, OFF), x)


def test_masks_are_whole_bands_and_frames_within_their_widths():
    x = np.ones((64, 30, 16), np.float32)
    got = np.asarray(augment(jax.random.key(0), x, AugmentConfig(1, 4, 1, 6)))
    bands, frames = (got == 0).all(axis=1).sum(axis=1), (got == 0).all(axis=2).sum(axis=1)
    assert bands.max() == 4
    assert bands.min() == 0
    assert frames.max() == 6
    assert set(np.unique(got)) == {0.0, 1.0}
    for window, b, f in zip(got, bands, frames, strict=True):
        assert (window == 0).sum() == 30 * b + 16 * f - b * f
    # Windows of a batch, and steps, differ.
    assert len({window.tobytes() for window in got}) > 60
    assert not np.array_equal(got, augment(jax.random.key(1), x, AugmentConfig(1, 4, 1, 6)))
    np.testing.assert_array_equal(got, augment(jax.random.key(0), x, AugmentConfig(1, 4, 1, 6)))


@pytest.mark.parametrize(('field', 'axis'), [('stretch', 1), ('warp', 2)])
def test_stretch_and_warp_change_the_rate_of_their_axis(field, axis):
    ramp = np.arange(40, dtype=np.float32)
    x = np.broadcast_to(ramp[None, :, None] if axis == 1 else ramp[None, None, :], (32, 40, 40)).copy()
    got = np.asarray(augment(jax.random.key(0), x, AugmentConfig(0, 0, 0, 0, **{field: 0.2})))
    rates = np.take(got, 10, axis=axis).mean(axis=-1) / 10
    assert rates.min() == pytest.approx(0.8, abs=0.03)
    assert rates.max() == pytest.approx(1.2, abs=0.03)
