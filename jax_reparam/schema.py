"""Frozen dataclasses to JSON and back, checked by their annotations: recipes and manifests are read with it.

Annotations may be int, float, bool, str, None, `Literal`, unions, `tuple`, `Mapping[str, ...]`, NumPy arrays of
float32, `Any`, and dataclasses of these. `Annotated[int, Bound(...)]` bounds one value; a dataclass checks what belongs
together in `__post_init__`, whose errors begin with the name of a field. A `ClassVar` is a constant: it is written
before the fields, and where it is read it may be left out, but never be another; a union of dataclasses is told apart
by a constant that they share. A field that is a dataclass with `as_json` and `from_json` of its own is written and read
by them.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import functools
import sys
import types
import typing
from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeVar, Union, get_args, get_origin

import numpy as np

from jax_reparam.errors import known

T = TypeVar('T')
_hints = functools.cache(typing.get_type_hints)


@dataclasses.dataclass(frozen=True)
class Bound:
    """What an annotation asks of a value beside its type."""

    what: str  # for the error, after "expected"
    holds: Callable[[Any], bool]


def at_most(largest: float) -> Bound:
    """Makes a bound from above, for a type with one from below, as `Size`."""
    return Bound(f'at most {largest:,}', lambda value: value <= largest)


Count = Annotated[int, Bound('at least 0', lambda value: value >= 0)]
Size = Annotated[int, Bound('at least 1', lambda value: value >= 1)]
Amount = Annotated[float, Bound('at least 0', lambda value: value >= 0)]
Positive = Annotated[float, Bound('more than 0', lambda value: value > 0)]
Share = Annotated[float, Bound('0 to 1', lambda value: 0 <= value <= 1)]
Rate = Annotated[float, Bound('0 or more and less than 1', lambda value: 0 <= value < 1)]
_Single = Annotated[float, Bound('a number of 32 bits', lambda value: abs(value) <= float(np.finfo(np.float32).max))]


def to_json(value: Any) -> Any:
    """The value as JSON holds it; a field whose default is None is left out where it is None.

    An `as_json` of the value itself is not called, so that it can use this.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [(field, getattr(value, field.name)) for field in dataclasses.fields(value)]
        content = {field.name: _to_json(item) for field, item in fields if not (item is None and field.default is None)}
        return {**constants(type(value)), **content}
    if isinstance(value, Mapping):
        return {key: _to_json(item) for key, item in value.items()}
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    if isinstance(value, (list, tuple)):
        return [_to_json(item) for item in value]
    return value


def _to_json(value: Any) -> Any:
    return value.as_json() if hasattr(value, 'as_json') else to_json(value)


def from_json(kind: type[T], value: Any, key: str = '') -> T:
    """Reads a dataclass of what `to_json` gave; a `from_json` of its own is not called, so that it can use this.

    Args:
      kind: the dataclass, or a union of some.
      value: what JSON holds.
      key: where that lies, for the errors: `forms.int8`.

    Raises:
      ValueError: `KEY: expected ..., found ...`: a wrong type, a field that is missing or not known, a value that
        `__post_init__` refuses.
    """
    read = _read_dataclass if dataclasses.is_dataclass(kind) else _read
    return typing.cast(T, read(kind, value, key))


def from_text(kind: Any, text: str, key: str) -> Any:
    """Reads a value of a flag: `3e-3`, `true`, `ffn_in,attention` for a tuple.

    Raises:
      ValueError: as `from_json`.
    """
    if get_origin(kind) is Annotated:
        return _read(kind, from_text(get_args(kind)[0], text, key), key)
    if kind is str:
        return text
    if get_origin(kind) is Literal:
        return _read(kind, text, key)
    if get_origin(kind) is tuple:
        inner = get_args(kind)[0]
        parts = (part.strip(' \'"') for part in text.strip('()[]').split(','))
        return tuple(from_text(inner, part, key) for part in parts if part)
    if kind is bool:
        if text.lower() not in ('true', 'false', '1', '0'):
            raise ValueError(f'{key}: expected true or false, found {text!r}')
        return text.lower() in ('true', '1')
    try:
        return _read(kind, kind(text), key)
    except ValueError:
        raise ValueError(f'{key}: expected {_name(kind)}, found {text!r}') from None


def check(value: Any) -> None:
    """Checks the fields of a dataclass against their annotations; for its `__post_init__`.

    A whole number becomes a float, and a list a tuple, where the annotation says so.

    Raises:
      ValueError: as `from_json`.
    """
    for name, kind in field_types(type(value)).items():
        object.__setattr__(value, name, _read(kind, getattr(value, name), name))


class Checked:
    """What a dataclass inherits to be checked (`check`) when it is made; a `__post_init__` of its own calls this."""

    def __post_init__(self) -> None:
        check(self)


def expect(holds: bool, key: str, what: str, value: Any) -> None:
    """Raises a ValueError, `KEY: expected WHAT, found VALUE`, unless something holds."""
    if not holds:
        raise ValueError(f'{key or "it"}: expected {what}, found {_shown(value)}')


def field_types(kind: Any) -> dict[str, Any]:
    """The fields of a dataclass and what they may hold."""
    hints = _hints(kind, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def constants(kind: Any) -> dict[str, Any]:
    """The constants of a dataclass, which are its `ClassVar`s."""
    hints = _hints(kind)
    return {name: getattr(kind, name) for name, hint in hints.items() if get_origin(hint) is ClassVar}


def _read(kind: Any, value: Any, key: str) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    value = value.item() if isinstance(value, np.generic) else value
    if kind is Any or (dataclasses.is_dataclass(value) and type(value) in (kind, *arguments)):
        return value
    if origin is Annotated:
        inner, *bounds = arguments
        read = _read(inner, value, key)
        for bound in bounds:
            expect(bound.holds(read), key, bound.what, value)
        return read
    if origin in (Union, types.UnionType):
        return _read_union(arguments, value, key)
    if origin is Literal:
        if value not in arguments:
            raise ValueError(f'{key}: expected one of {", ".join(map(repr, arguments))}, found {value!r}')
        return value
    if origin is tuple:
        return _read_tuple(arguments, value, key)
    if origin in (dict, collections.abc.Mapping):
        expect(isinstance(value, dict), key, 'an object', value)
        return {name: _read(arguments[1], item, _at(key, name)) for name, item in value.items()}
    if kind is np.ndarray or origin is np.ndarray:
        return np.asarray(_read_tuple((_Single, ...), value, key), np.float32)
    if hasattr(kind, 'from_json'):
        return kind.from_json(value, key)
    if dataclasses.is_dataclass(kind):
        return _read_dataclass(kind, value, key)
    if kind is float:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        expect(number and abs(value) <= sys.float_info.max, key, 'a number', value)
        return float(value)
    if kind is type(None):
        expect(value is None, key, 'null', value)
        return None
    expect(isinstance(value, kind) and not (kind is int and isinstance(value, bool)), key, _name(kind), value)
    return value


def _read_dataclass(kind: Any, value: Any, key: str) -> Any:
    expect(isinstance(value, dict), key, 'an object', value)
    hints, fixed = field_types(kind), constants(kind)
    for name, item in value.items():
        known(key or 'keys', name, (*fixed, *hints))
        expect(name not in fixed or item == fixed[name], _at(key, name), repr(fixed.get(name)), item)
    for field in dataclasses.fields(kind):
        needed = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if needed and field.name not in value:
            raise ValueError(f'{_at(key, field.name)}: expected a value, found none')
    fields = {name: _read(hint, value[name], _at(key, name)) for name, hint in hints.items() if name in value}
    try:
        return kind(**fields)
    except ValueError as error:
        raise ValueError(_at(key, str(error))) from error


def _read_union(kinds: tuple[Any, ...], value: Any, key: str) -> Any:
    if value is None and type(None) in kinds:
        return None
    rest = [kind for kind in kinds if kind is not type(None)]
    if len(rest) == 1:
        return _read(rest[0], value, key)
    for name in set.intersection(*(set(constants(one)) if dataclasses.is_dataclass(one) else set() for one in rest)):
        expect(isinstance(value, dict), key, 'an object', value)
        named, given = {constants(one)[name]: one for one in rest}, value.get(name)
        expect(given in tuple(named), f'{key}.{name}', f'one of {", ".join(map(repr, named))}', given)
        return _read(named[given], value, key)
    for kind in rest:
        try:
            return _read(kind, value, key)
        except ValueError:
            continue
    raise ValueError(f'{key}: expected {" or ".join(map(_name, kinds))}, found {_shown(value)}')


def _read_tuple(kinds: tuple[Any, ...], value: Any, key: str) -> tuple[Any, ...]:
    expect(isinstance(value, (list, tuple)), key, 'a list', value)
    if kinds[1:] == (...,):
        kinds = (kinds[0],) * len(value)
    expect(len(value) == len(kinds), key, f'{len(kinds)} values', value)
    return tuple(_read(kind, item, f'{key}[{i}]') for i, (kind, item) in enumerate(zip(kinds, value, strict=True)))


def _at(key: str, name: str) -> str:
    return f'{key}.{name}'.lstrip('.')


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f'{text[:57]}...'


def _name(kind: Any) -> str:
    names = {int: 'a whole number', float: 'a number', bool: 'true or false', str: 'a text', type(None): 'null'}
    return names.get(kind) or str(getattr(kind, '__name__', kind))
