"""How a form is made: the first method that passes on validation windows, else the one with the least noise there."""

from __future__ import annotations

import collections

import jax
import numpy as np
import pytest

from jax_reparam.deploy import convert, ops
from jax_reparam.evaluation import Windows
from jax_reparam.graph import flatbuffer
from jax_reparam.quantise import forms, ranges

WIDTH = 8
RNG = np.random.default_rng(0)
WINDOWS = RNG.standard_normal((32, 6, WIDTH)).astype(np.float32)
KERNEL = RNG.standard_normal((WIDTH, WIDTH)).astype(np.float32)
# Every eighth window is one of WINDOWS, the others reach much further.
FAR = np.where((np.arange(32) % 8 == 0)[:, None, None], 1, 1000).astype(np.float32) * WINDOWS


def wrong(*norms):
    """Two layers; where normalisations are written in one of these methods, all decisions are others."""

    def function(x, norm):
        x = jax.nn.relu(ops.linear({'kernel': KERNEL, 'bias': np.ones(WIDTH, np.float32)}, x[0]))
        sign = -1 if norm in norms else 1
        return ops.linear({'kernel': sign * KERNEL, 'bias': np.zeros(WIDTH, np.float32)}, ops.mean_over_time(x))

    return function


def maker(function, calibration=WINDOWS, **options):
    """Of a function that is to be that which is never wrong."""
    reference = np.concatenate([wrong()(window[None], 'l2') for window in WINDOWS])
    validation = Windows(WINDOWS, np.arange(len(WINDOWS)), reference.argmax(axis=1))
    return forms.Maker(function, calibration, validation, reference, **options)


@pytest.mark.parametrize(
    ('int8_norm', 'function', 'calibration', 'norm', 'count', 'tries'),
    [
        ('l2', wrong('rsqrt'), WINDOWS, 'mixed', 32, 1),
        ('l2', wrong('mixed'), WINDOWS, 'rsqrt', 32, 3),
        ('l2', wrong('rsqrt'), FAR, 'mixed', 4, 3),
        ('rsqrt', wrong(), WINDOWS, 'rsqrt', 32, 1),
        ('rsqrt', wrong(), FAR, 'rsqrt', 4, 2),
    ],
    ids=['first', 'second', 'third', 'first of rsqrt', 'second of rsqrt'],
)
def test_the_choice(int8_norm, function, calibration, norm, count, tries):
    how = maker(function, calibration, int8_norm=int8_norm).make('int8').how
    assert (how.norm, how.ranges, len(how.tried)) == (norm, count, tries)
    chosen = max(how.tried, key=lambda method: method.snr_db)
    assert (chosen.norm, chosen.ranges) == (norm, count)


def test_of_those_that_fail_the_one_with_the_least_noise_is_taken():
    made = maker(wrong('mixed', 'rsqrt'), FAR).make('int8')
    scores = [method.snr_db for method in made.how.tried]
    assert len(scores) == 3
    assert max(scores) > min(scores)
    chosen = made.how.tried[scores.index(max(scores))]
    assert (chosen.norm, chosen.ranges) == (made.how.norm, made.how.ranges)


@pytest.mark.parametrize('int8_norm', ['l2', 'rsqrt'])
@pytest.mark.parametrize(('narrow', 'output'), [(True, 'int8'), (False, 'int16')])
def test_int8_has_16_bits_unless_it_is_to_be_narrow(int8_norm, narrow, output):
    made = maker(wrong(), int8_norm=int8_norm, narrow=narrow).make('int8')
    assert made.how.norm == ('mixed' if int8_norm == 'l2' and not narrow else int8_norm)
    graph = flatbuffer.graph(made.model)
    assert (graph.input.dtype, graph.output.dtype) == ('int8', output)


@pytest.mark.parametrize(('form', 'dtype'), [('int8_npu', 'int8'), ('int16', 'int16')])
def test_all_other_forms_have_one_width_and_no_l2_normalization(form, dtype):
    made = maker(wrong('l2', 'mixed')).make(form)
    assert (made.how.norm, len(made.how.tried)) == ('rsqrt', 1)
    graph = flatbuffer.graph(made.model)
    assert (graph.input.dtype, graph.output.dtype) == (dtype, dtype)


def test_forms_share_what_they_have_in_common():
    """Conversion takes most of the time: each method to write normalisations is converted once."""
    converted = collections.Counter()

    def function(x, norm):
        converted[norm] += 1
        return wrong('mixed')(x, norm)

    some = maker(function)
    assert [len(some.make(form).how.tried) for form in ('int8', 'int8_npu', 'int16')] == [3, 1, 1]
    assert converted == {'mixed': 1, 'rsqrt': 1}


def test_16_bits_get_their_ranges_from_the_windows_that_reach_furthest():
    """TensorFlow's older quantiser sees these alone, in whatever order they come."""
    windows = np.array(WINDOWS)
    windows[5, 2, 3], windows[21, 0, 1] = -40, 30
    function = lambda x: wrong()(x, 'l2')
    float32 = convert.to_float32(function, (1, 6, WIDTH))
    model = forms.quantised(float32, windows, ranges.measured(float32, windows), 'int16')
    assert flatbuffer.graph(model).input.scale == pytest.approx(40 / 32767, rel=1e-3)
