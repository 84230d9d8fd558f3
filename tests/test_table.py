"""Tables of text: columns begin or end in line."""

from __future__ import annotations

import pytest

from jax_reparam import table

ROWS = [['form', 'bytes', 'module'], ['int8', '1,234', ''], ['float32', '99', 'head']]


def test_columns_begin_or_end_in_line():
    assert table.aligned(ROWS, left=(0, 2)) == [
        'form     bytes  module',
        'int8     1,234',
        'float32     99  head',
    ]


def test_widths_that_are_given_hold_for_a_row_alone():
    assert table.aligned([['ab', 'c', '1.5']], left=(1,), widths=(4, 3, 5)) == ['  ab  c      1.5']
    assert table.aligned([['longer', 'c', '1.5']], left=(1,), widths=(4, 3, 5)) == ['longer  c      1.5']


def test_a_row_of_another_length_is_refused():
    with pytest.raises(ValueError, match='zip'):
        table.aligned([*ROWS, ['int16']], left=())
