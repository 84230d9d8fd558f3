"""Dataclasses come back from JSON as they were, and what is wrong in it is named by its key."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np
import pytest

from jax_reparam import schema


@dataclasses.dataclass(frozen=True)
class Inner:
    size: int
    share: float = 0.5
    kind: Literal['a', 'b'] = 'a'

    def __post_init__(self):
        if self.size < 1:
            raise ValueError(f'size: expected at least 1, found {self.size}')


@dataclasses.dataclass(frozen=True)
class Outer:
    name: str
    inner: Mapping[str, Inner]
    places: tuple[tuple[str, int], ...] = ()
    pair: tuple[int, int] = (1, 2)
    reason: str | None = None
    on: bool = False
    number: int | float = 1
    weight: schema.Share | None = None


@dataclasses.dataclass(frozen=True)
class Statistics:
    mean: np.ndarray


WHOLE = Outer('x', {'one': Inner(3, 0.25, 'b')}, (('c', 4),), reason='why')


def test_it_comes_back():
    text = json.dumps(schema.to_json(WHOLE))
    assert schema.from_json(Outer, json.loads(text)) == WHOLE


def test_none_by_default_is_left_out():
    assert 'reason' not in schema.to_json(dataclasses.replace(WHOLE, reason=None))


@dataclasses.dataclass(frozen=True)
class Doubled:
    """Written as half of it."""

    size: schema.Size

    def as_json(self):
        return {'size': schema.to_json(self)['size'] // 2}

    @classmethod
    def from_json(cls, value, key):
        half = schema.from_json(cls, value, key)
        return cls(2 * half.size)


@dataclasses.dataclass(frozen=True)
class Holder:
    doubled: Doubled


def test_a_field_is_written_and_read_by_its_own_methods():
    assert schema.to_json(Holder(Doubled(6))) == {'doubled': {'size': 3}}
    assert schema.from_json(Holder, {'doubled': {'size': 3}}) == Holder(Doubled(6))
    with pytest.raises(ValueError, match=r'^doubled\.size: expected at least 1, found 0$'):
        schema.from_json(Holder, {'doubled': {'size': 0}})


def test_arrays_are_lists_of_float32():
    written = Statistics(np.float32([0.1, 2]))
    read = schema.from_json(Statistics, json.loads(json.dumps(schema.to_json(written))))
    assert read.mean.dtype == np.float32
    np.testing.assert_array_equal(read.mean, written.mean)
    with pytest.raises(ValueError, match=r"^mean\[1\]: expected a number, found 'x'$"):
        schema.from_json(Statistics, {'mean': [1, 'x']})


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'name': 3}, r'^o\.name: expected a text, found 3$'),
        ({'nmae': 'x'}, r"^o: expected one of .*, found 'nmae'; did you mean 'name'\?$"),
        ({'inner': []}, r'^o\.inner: expected an object, found \[\]$'),
        ({'inner': {'one': {}}}, r'^o\.inner\.one\.size: expected a value, found none$'),
        ({'inner': {'one': {'size': True}}}, r'^o\.inner\.one\.size: expected a whole number, found True$'),
        (
            {'inner': {'one': {'size': 1, 'share': float('nan')}}},
            r'^o\.inner\.one\.share: expected a number, found nan$',
        ),
        ({'inner': {'one': {'size': 1, 'kind': 'c'}}}, r"^o\.inner\.one\.kind: expected one of 'a', 'b', found 'c'$"),
        ({'pair': [1]}, r'^o\.pair: expected 2 values, found \[1\]$'),
        ({'places': [['x', 'y']]}, r"^o\.places\[0\]\[1\]: expected a whole number, found 'y'$"),
        ({'on': 'yes'}, r"^o\.on: expected true or false, found 'yes'$"),
        ({'inner': {'one': {'size': 0}}}, r'^o\.inner\.one\.size: expected at least 1, found 0$'),
        ({'weight': 1.5}, r'^o\.weight: expected 0 to 1, found 1\.5$'),
        ({'weight': 'x'}, r"^o\.weight: expected a number, found 'x'$"),
        ({'number': 'x'}, r"^o\.number: expected a whole number or a number, found 'x'$"),
    ],
)
def test_what_is_wrong_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        schema.from_json(Outer, {**schema.to_json(WHOLE), **change}, 'o')


@pytest.mark.parametrize(
    ('kind', 'text', 'value'),
    [
        (int, '3', 3),
        (float, '1e-3', 1e-3),
        (bool, 'True', True),
        (bool, '0', False),
        (tuple[str, ...], "('a', 'b')", ('a', 'b')),
        (str, 'a,b', 'a,b'),
        (tuple[int, ...], '(1, 2,3)', (1, 2, 3)),
        (tuple[str, ...], 'a,b', ('a', 'b')),
        (Literal['a', 'b'], 'b', 'b'),
    ],
)
def test_flags(kind, text, value):
    read = schema.from_text(kind, text, 'k')
    assert (read, type(read)) == (value, type(value))


@pytest.mark.parametrize(
    ('kind', 'text', 'message'),
    [
        (int, '1.5', "^k: expected a whole number, found '1.5'$"),
        (float, 'inf', "^k: expected a number, found 'inf'$"),
        (bool, 'ja', "^k: expected true or false, found 'ja'$"),
        (tuple[int, ...], '1,x', "^k: expected a whole number, found 'x'$"),
        (Literal['a'], 'b', "^k: expected one of 'a', found 'b'$"),
    ],
)
def test_flags_that_are_wrong(kind, text, message):
    with pytest.raises(ValueError, match=message):
        schema.from_text(kind, text, 'k')


@dataclasses.dataclass(frozen=True)
class Circle:
    name: ClassVar[str] = 'circle'
    radius: float = 1.0

    def __post_init__(self):
        schema.check(self)


@dataclasses.dataclass(frozen=True)
class Square:
    name: ClassVar[str] = 'square'
    sides: tuple[int, ...] = (1, 1)


@dataclasses.dataclass(frozen=True)
class Drawing:
    shape: Circle | Square


def test_a_constant_is_written_first_and_may_be_left_out():
    assert list(schema.to_json(Circle(2.0)).items()) == [('name', 'circle'), ('radius', 2.0)]
    assert schema.from_json(Circle, {'name': 'circle', 'radius': 2.0}) == Circle(2.0)
    assert schema.from_json(Circle, {'radius': 2.0}) == Circle(2.0)
    with pytest.raises(ValueError, match=r"^s\.name: expected 'circle', found 'square'$"):
        schema.from_json(Circle, {'name': 'square'}, 's')


def test_a_union_is_told_apart_by_the_constant_that_its_dataclasses_share():
    for drawing in (Drawing(Circle()), Drawing(Square((3, 4)))):
        assert schema.from_json(Drawing, json.loads(json.dumps(schema.to_json(drawing)))) == drawing
    for shape, message in (
        ({'name': 'line'}, r"^d\.shape\.name: expected one of 'circle', 'square', found 'line'$"),
        ({}, r"^d\.shape\.name: expected one of 'circle', 'square', found None$"),
        ({'name': 'circle', 'sides': [1]}, r"^d\.shape: expected one of .*, found 'sides'"),
        ([], r'^d\.shape: expected an object, found \[\]$'),
    ):
        with pytest.raises(ValueError, match=message):
            schema.from_json(Drawing, {'shape': shape}, 'd')


def test_check_holds_fields_to_their_annotations():
    circle = Circle(2)
    assert type(circle.radius) is float
    with pytest.raises(ValueError, match=r"^radius: expected a number, found '2'$"):
        Circle('2')
    drawing = Drawing(Square([3, 4]))
    schema.check(drawing)  # what was made in Python is left as it is
    with pytest.raises(ValueError, match=r'^shape: expected an object, found Inner\('):
        schema.check(Drawing(Inner(1)))


def test_numbers_of_numpy_are_numbers():
    circle = Circle(np.float32(2))
    assert (circle.radius, type(circle.radius)) == (2.0, float)
    inner = schema.from_json(Inner, {'size': np.int64(3)})
    assert (inner.size, type(inner.size)) == (3, int)
