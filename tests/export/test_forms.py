"""Which way a form is made: the first if it passes on validation windows, else the one with the least noise there."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from jax_reparam.export import convert, flatbuffer, forms, gates
from jax_reparam.export.samples import Windows


def score(snr, differing):
    return gates.Score(1 - differing / 50, differing, snr, uar=0.8, max_abs_diff=0.1)


@pytest.mark.parametrize(
    ('scores', 'norm', 'ranges', 'tried'),
    [
        ([score(30, 1)], 'l2', 16, 1),
        ([score(30, 2), score(25, 0), score(29, 3)], 'l2', 16, 3),
        ([score(30, 2), score(33, 3), score(29, 0)], 'rsqrt', 16, 3),
        ([score(30, 2), score(25, 0), score(31, 2)], 'l2', 2, 3),
    ],
)
def test_the_choice(monkeypatch, scores, norm, ranges, tried):
    made = []

    def quantised(function, windows, activations, *, float32, ranges):
        made.append(ranges)
        return bytes([len(made)])

    def finished(model, float32, windows, *, mix):
        assert not mix
        return model

    monkeypatch.setattr(forms, 'quantised', quantised)
    monkeypatch.setattr(forms, 'finished', finished)
    monkeypatch.setattr(forms, 'tidy', lambda model: model)
    monkeypatch.setattr(forms.convert, 'to_float32', lambda function, shape: b'float32')
    monkeypatch.setattr(forms.interpret, 'load', lambda model, reference: lambda windows: model[0])
    monkeypatch.setattr(gates, 'score', lambda reference, logits, windows: scores[logits - 1])
    monkeypatch.setattr(gates, 'uar', lambda logits, windows: 0.8)
    calibration = np.zeros((16, 3, 2), np.float32)
    validation = Windows(calibration[:4], np.arange(4), np.zeros(4, int))
    found = forms.Maker(lambda features, norm: features, calibration, validation, np.zeros((4, 2))).make('int8')
    assert (found.how['norm'], found.how['ranges'], len(found.how['tried'])) == (norm, ranges, tried)
    assert len(made) == tried
    chosen = next(i for i, way in enumerate(found.how['tried']) if (way['norm'], way['ranges']) == (norm, ranges))
    assert found.model == bytes([chosen + 1])


def test_two_forms_share_what_was_tried(monkeypatch):
    made, mixed = [], []

    def quantised(function, windows, activations, *, float32, ranges):
        made.append((activations, len(ranges)))
        return bytes([len(made)])

    def finished(model, float32, windows, *, mix):
        mixed.append(mix)
        return model

    monkeypatch.setattr(forms, 'quantised', quantised)
    monkeypatch.setattr(forms, 'finished', finished)
    monkeypatch.setattr(forms, 'tidy', lambda model: model)
    monkeypatch.setattr(forms.convert, 'to_float32', lambda function, shape: b'float32')
    monkeypatch.setattr(forms.interpret, 'load', lambda model, reference: lambda windows: model[0])
    monkeypatch.setattr(gates, 'score', lambda reference, logits, windows: score(30, 9))
    monkeypatch.setattr(gates, 'uar', lambda logits, windows: 0.8)
    calibration = np.zeros((16, 3, 2), np.float32)
    validation = Windows(calibration[:4], np.arange(4), np.zeros(4, int))
    maker = forms.Maker(lambda features, norm: features, calibration, validation, np.zeros((4, 2)))
    maker.make('int8')
    found = maker.make('int8_npu')
    assert {way['norm'] for way in found.how['tried']} == {'rsqrt'}
    # l2, rsqrt and l2 of fewer windows for int8; only rsqrt of fewer windows is new.
    assert made == [('int8', 16), ('int8', 16), ('int8', 2), ('int8', 2)]
    maker.make('int16')
    assert made[4:] == [('int16', 16)]
    assert mixed == [False] * 5
    # mixed is made of what int8 was made of.
    maker.make('mixed')
    assert made[5:] == []
    assert mixed[5:] == [True, True]


def test_fewer_windows_give_narrower_ranges():
    """The third way clips what only windows that it does not see hold."""
    rng = np.random.default_rng(0)
    windows = rng.uniform(-1, 1, (16, 6, 4)).astype(np.float32)
    windows[1] *= 9
    kernel = rng.standard_normal((4, 3)).astype(np.float32)
    function = lambda x: jax.nn.relu(x @ kernel + 0.1).mean(axis=1)
    float32 = convert.to_float32(function, (1, 6, 4))
    scales = [
        flatbuffer.graph(
            forms.quantised(function, windows, float32=float32, ranges=windows[:: round(1 / way.share)])
        ).input.scale
        for way in (forms.WAYS['int8'][0], forms.WAYS['int8'][2])
    ]
    assert scales[1] < scales[0] / 4
