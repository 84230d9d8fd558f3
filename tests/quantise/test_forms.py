"""Which way a form is made: the first if it passes on validation windows, else the one with the least noise there."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from jax_reparam.deploy import convert
from jax_reparam.evaluation import Windows
from jax_reparam.graph import flatbuffer
from jax_reparam.manifest import Score
from jax_reparam.quantise import forms, ranges
from jax_reparam.runtime import gates


def score(snr, differing):
    return Score(argmax_agreement=1 - differing / 50, differing=differing, snr_db=snr, uar=0.8, max_abs_diff=0.1)


def stand_in(monkeypatch, quantised, scores):
    """For all that takes time: a model's first byte says what its score is.

    Returns the graphs whose inputs are watched, those whose ranges are, of each model that gets 16 bits whether its
    front is written for them, and which are tried.
    """
    watched, spanned, wide, tried = [], [], [], []

    def covariances(float32, windows):
        watched.append(float32)
        return float32, len(windows)

    def measured(float32, windows):
        spanned.append(float32)
        return ranges.Ranges((), *np.zeros((2, len(windows), 0)))

    def rounded(model, float32, inputs):
        assert inputs == (float32, 16)  # of all windows, also where fewer set the ranges
        return model

    def taken(model, float32, front):
        assert front == (float32 == 'mixed')
        wide.append(front)
        return model

    def corrected(model, float32, windows):
        tried.append(model)
        return model

    monkeypatch.setattr(forms, 'quantised', quantised)
    monkeypatch.setattr(forms.mixed_precision, 'taken', taken)
    monkeypatch.setattr(forms.bias_correction, 'corrected', corrected)
    monkeypatch.setattr(forms, 'tidy', lambda model, fast=False: model)
    monkeypatch.setattr(forms.convert, 'to_float32', lambda function, shape: function(np.zeros(shape)))
    monkeypatch.setattr(forms.gptq, 'covariances', covariances)
    monkeypatch.setattr(forms.gptq, 'rounded', rounded)
    monkeypatch.setattr(forms.ranges, 'measured', measured)
    monkeypatch.setattr(forms.litert, 'load', lambda model, reference: lambda windows: model[0])
    monkeypatch.setattr(gates, 'uar', lambda logits, windows: 0.8)
    monkeypatch.setattr(gates, 'score', lambda reference, logits, windows: scores[logits - 1])
    return watched, spanned, wide, tried


def maker(unit='l2', **options):
    calibration = np.zeros((16, 3, 2), np.float32)
    validation = Windows(calibration[:4], np.arange(4), np.zeros(4, int))
    return forms.Maker(lambda features, norm: norm, calibration, validation, np.zeros((4, 2)), unit=unit, **options)


@pytest.mark.parametrize(
    ('unit', 'scores', 'norm', 'count'),
    [
        ('l2', [score(30, 1)], 'mixed', 16),
        ('l2', [score(30, 2), score(25, 0), score(29, 3)], 'mixed', 16),
        ('l2', [score(30, 2), score(33, 3), score(29, 0)], 'rsqrt', 16),
        ('l2', [score(30, 2), score(25, 0), score(31, 2)], 'mixed', 2),
        ('rsqrt', [score(30, 1)], 'rsqrt', 16),
        ('rsqrt', [score(30, 2), score(29, 0)], 'rsqrt', 16),
        ('rsqrt', [score(30, 2), score(31, 2)], 'rsqrt', 2),
    ],
)
def test_the_choice(monkeypatch, unit, scores, norm, count):
    made = []

    def quantised(float32, windows, seen, activations):
        made.append(windows)
        return bytes([len(made)])

    *_, wide, _ = stand_in(monkeypatch, quantised, scores)
    found = maker(unit).make('int8')
    assert (found.how.norm, found.how.ranges, len(found.how.tried)) == (norm, count, len(scores))
    assert wide == ([True, False, True] if unit == 'l2' else [False] * 2)[: len(scores)]
    chosen = next(i for i, way in enumerate(found.how.tried) if (way.norm, way.ranges) == (norm, count))
    assert found.model == bytes([chosen + 1])


def test_two_forms_share_what_was_tried(monkeypatch):
    made = []

    def quantised(float32, windows, seen, activations):
        assert len(windows) == len(seen.least)
        made.append((activations, float32, len(windows)))
        return bytes([1, len(made)])

    watched, spanned, wide, tried = stand_in(monkeypatch, quantised, [score(30, 9)])
    some = maker()
    some.make('int8')
    found = some.make('int8_npu')
    assert {way.norm for way in found.how.tried} == {'rsqrt'}
    # For int8, three; only rsqrt of fewer windows is new, since neither is widened here.
    assert made == [('int8', 'mixed', 16), ('int8', 'rsqrt', 16), ('int8', 'mixed', 2), ('int8', 'rsqrt', 2)]
    some.make('int16')
    assert made[4:] == [('int16', 'rsqrt', 16)]
    assert tried == [bytes([1, number]) for number in range(1, 6)]
    assert wide == [True, False, True]  # int8's three ways
    # And each graph was watched once.
    assert sorted(watched) == sorted(spanned) == ['mixed', 'rsqrt']


def test_int8_alone_has_16_bits_and_in_front_where_that_is_written_for_it(monkeypatch):
    _, _, wide, _ = stand_in(monkeypatch, lambda *args: b'8', [])
    monkeypatch.setattr(forms, 'tidy', lambda model, fast: (model, fast))
    windows = np.zeros((16, 3, 2), np.float32)
    make = lambda form, norm: forms.integer(lambda features: norm, windows, form, norm)
    assert [make('int8', norm) for norm in ('mixed', 'rsqrt')] == [(b'8', False)] * 2
    assert wide == [True, False]
    assert [make(form, 'rsqrt') for form in ('int8_npu', 'int16')] == [(b'8', False), (b'8', True)]
    assert wide == [True, False]


@pytest.mark.parametrize('unit', ['l2', 'rsqrt'])
def test_int8_of_8_bits_alone_is_not_widened(monkeypatch, unit):
    *_, wide, tried = stand_in(monkeypatch, lambda *args: bytes([1]), [score(30, 9)])
    found = maker(unit, narrow=True).make('int8')
    assert (found.how.norm, wide, tried) == (unit, [], [bytes([1])])


def test_the_older_quantiser_sees_the_windows_that_span_the_ranges(monkeypatch):
    monkeypatch.setattr(forms.convert, 'to_int16', lambda float32, windows: windows[:, 0, 0].tolist())
    windows = np.arange(16, dtype=np.float32)[:, None, None] * np.ones((1, 3, 2), np.float32)
    values = np.zeros((16, 1))
    values[1], values[5] = -1, 1
    assert forms.quantised(b'', windows, ranges.Ranges((0,), values, values), 'int16') == [1, 5]


def test_fewer_windows_give_narrower_ranges():
    """The third way clips what only windows that it does not see hold."""
    rng = np.random.default_rng(0)
    windows = rng.uniform(-1, 1, (16, 6, 4)).astype(np.float32)
    windows[1] *= 9
    kernel = rng.standard_normal((4, 3)).astype(np.float32)
    function = lambda x: jax.nn.relu(x @ kernel + 0.1).mean(axis=1)
    float32 = convert.to_float32(function, (1, 6, 4))
    seen = ranges.measured(float32, windows)
    models = [
        forms.quantised(float32, windows[:: way.every], seen.of_every(way.every), 'int8')
        for way in forms.ways('int8', 'l2')[::2]
    ]
    scales = [flatbuffer.graph(model).input.scale for model in models]
    assert scales[1] < scales[0] / 4
