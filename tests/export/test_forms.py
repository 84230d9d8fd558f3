"""Which way a form is made: the first if it passes on validation windows, else the one with the least noise there."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from jax_reparam.export import convert, flatbuffer, forms, gates, rounding
from jax_reparam.export.samples import Windows


def score(snr, differing):
    return gates.Score(1 - differing / 50, differing, snr, uar=0.8, max_abs_diff=0.1)


def stand_in(monkeypatch, quantised, finished):
    """For all that takes time: a model is one byte, and its logits. Returns the graphs that are watched.

    First those whose inputs are, then those whose ranges are.
    """
    watched, spanned = [], []

    def covariances(float32, windows):
        watched.append(float32)
        return float32, len(windows)

    def extremes(float32, windows):
        spanned.append((float32, len(windows)))
        return np.arange(len(windows))

    monkeypatch.setattr(forms, 'quantised', quantised)
    monkeypatch.setattr(forms, 'finished', finished)
    monkeypatch.setattr(forms, 'tidy', lambda model, fast=False: model)
    monkeypatch.setattr(forms.convert, 'to_float32', lambda function, shape: function(np.zeros(shape)))
    monkeypatch.setattr(forms.rounding, 'covariances', covariances)
    monkeypatch.setattr(forms.twin, 'extremes', extremes)
    monkeypatch.setattr(forms.interpret, 'load', lambda model, reference: lambda windows: model[0])
    monkeypatch.setattr(gates, 'uar', lambda logits, windows: 0.8)
    return watched, spanned


@pytest.mark.parametrize('unit', ['l2', 'rsqrt'])
@pytest.mark.parametrize(
    ('scores', 'first', 'ranges', 'tried'),
    [
        ([score(30, 1)], True, 16, 1),
        ([score(30, 2), score(25, 0), score(29, 3)], True, 16, 3),
        ([score(30, 2), score(33, 3), score(29, 0)], False, 16, 3),
        ([score(30, 2), score(25, 0), score(31, 2)], True, 2, 3),
    ],
)
def test_the_choice(monkeypatch, unit, scores, first, ranges, tried):
    made = []

    def quantised(function, windows, activations, *, float32, inputs):
        made.append(windows)
        assert inputs == (float32, 16)  # of all windows, also where fewer set the ranges
        return bytes([len(made)])

    def finished(model, float32, windows, *, mix):
        assert not mix
        return model

    stand_in(monkeypatch, quantised, finished)
    monkeypatch.setattr(gates, 'score', lambda reference, logits, windows: scores[logits - 1])
    calibration = np.zeros((16, 3, 2), np.float32)
    validation = Windows(calibration[:4], np.arange(4), np.zeros(4, int))
    maker = forms.Maker(lambda features, norm: norm, calibration, validation, np.zeros((4, 2)), unit=unit)
    found = maker.make('int8')
    norm = unit if first else {'l2': 'rsqrt', 'rsqrt': 'l2'}[unit]
    assert (found.how['norm'], found.how['ranges'], len(found.how['tried'])) == (norm, ranges, tried)
    assert len(made) == tried
    chosen = next(i for i, way in enumerate(found.how['tried']) if (way['norm'], way['ranges']) == (norm, ranges))
    assert found.model == bytes([chosen + 1])


def test_two_forms_share_what_was_tried(monkeypatch):
    made, mixed = [], []

    def quantised(function, windows, activations, *, float32, inputs):
        made.append((activations, len(windows)))
        assert inputs == (float32, 16)
        return bytes([len(made)])

    def finished(model, float32, windows, *, mix):
        mixed.append(mix)
        return model

    watched, spanned = stand_in(monkeypatch, quantised, finished)
    monkeypatch.setattr(gates, 'score', lambda reference, logits, windows: score(30, 9))
    calibration = np.zeros((16, 3, 2), np.float32)
    validation = Windows(calibration[:4], np.arange(4), np.zeros(4, int))
    maker = forms.Maker(lambda features, norm: norm, calibration, validation, np.zeros((4, 2)))
    maker.make('int8')
    found = maker.make('int8_npu')
    assert {way['norm'] for way in found.how['tried']} == {'rsqrt'}
    # l2, rsqrt and l2 of fewer windows for int8; only rsqrt of fewer windows is new.
    assert made == [('int8', 16), ('int8', 16), ('int8', 2), ('int8', 2)]
    maker.make('int16')
    assert made[4:] == [('int16', 16)]
    assert mixed == [False] * 5
    maker.make('mixed')
    assert made[5:] == [('int8', 16)]
    assert mixed[5:] == [True]
    # And each graph was watched once, for its ranges once for all windows and once for fewer.
    assert sorted(watched) == ['l2', 'mixed', 'rsqrt']
    assert sorted(spanned) == [('l2', 2), ('l2', 16), ('mixed', 16), ('rsqrt', 2), ('rsqrt', 16)]


def test_the_converter_sees_the_windows_that_span_the_ranges(monkeypatch):
    seen = []

    def quantised(function, windows, activations, *, float32, inputs):
        seen.append(windows[:, 0, 0].tolist())
        return b'1'

    stand_in(monkeypatch, quantised, lambda model, float32, windows, *, mix: model)
    monkeypatch.setattr(forms.twin, 'extremes', lambda float32, windows: np.array([1, 5]))
    monkeypatch.setattr(gates, 'score', lambda reference, logits, windows: score(30, 0))
    calibration = np.arange(16, dtype=np.float32)[:, None, None] * np.ones((1, 3, 2), np.float32)
    validation = Windows(calibration[:4], np.arange(4), np.zeros(4, int))
    found = forms.Maker(lambda features, norm: norm, calibration, validation, np.zeros((4, 2))).make('int8')
    assert (seen, found.how['ranges']) == ([[1, 5]], 16)


def test_fewer_windows_give_narrower_ranges():
    """The third way clips what only windows that it does not see hold."""
    rng = np.random.default_rng(0)
    windows = rng.uniform(-1, 1, (16, 6, 4)).astype(np.float32)
    windows[1] *= 9
    kernel = rng.standard_normal((4, 3)).astype(np.float32)
    function = lambda x: jax.nn.relu(x @ kernel + 0.1).mean(axis=1)
    float32 = convert.to_float32(function, (1, 6, 4))
    inputs = rounding.covariances(float32, windows)
    models = [
        forms.quantised(function, windows[:: round(1 / way.share)], 'int8', float32=float32, inputs=inputs)
        for way in forms.ways('int8', 'l2')[::2]
    ]
    scales = [flatbuffer.graph(model).input.scale for model in models]
    assert scales[1] < scales[0] / 4
