"""Frozen dataclasses to JSON and back, checked by their annotations: recipes and manifests are read with it.

Annotations may be int, float, bool, str, None, `Literal`, unions, `tuple`, `Mapping[str, ...]`, NumPy arrays of
float32, `Any`, and dataclasses of these. A `ClassVar` is a constant: it is written before the fields, and may be left
out, but never be another, where they are read; a union of dataclasses is told apart by a constant that they share. A
dataclass with `as_json` and `from_json` of its own is read and written by them. A dataclass checks its bounds in
`__post_init__`.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, TypeVar, Union, get_args, get_origin

import numpy as np

T = TypeVar('T')


def to_json(value: Any) -> Any:
    """The value as JSON holds it; a field whose default is None is left out where it is None."""
    if hasattr(value, 'as_json'):
        return value.as_json()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [(field, getattr(value, field.name)) for field in dataclasses.fields(value)]
        content = {field.name: to_json(item) for field, item in fields if not (item is None and field.default is None)}
        return {**constants(type(value)), **content}
    if isinstance(value, Mapping):
        return {key: to_json(item) for key, item in value.items()}
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    return value


def from_json(kind: type[T], value: Any, key: str = '') -> T:
    """Reads a dataclass of what `to_json` gave.

    Args:
      kind: the dataclass.
      value: what JSON holds.
      key: where that lies, for the errors: `forms.int8`.

    Raises:
      ValueError: `KEY: expected ..., found ...`: a wrong type, a field that is missing or not known, a value that
        `__post_init__` refuses.
    """
    return typing.cast(T, _read(kind, value, key))


def read_fields(kind: type[T], value: Any, key: str = '') -> T:
    """As `from_json`, but past a `from_json` of the dataclass's own, which ends with this."""
    expect(isinstance(value, dict), key, 'an object', value)
    hints, fixed = field_types(kind), constants(kind)
    for name, item in value.items():
        known(name, (*fixed, *hints), key or 'it')
        expect(name not in fixed or item == fixed[name], f'{key}.{name}'.lstrip('.'), repr(fixed.get(name)), item)
    missing = [
        field.name
        for field in dataclasses.fields(typing.cast(Any, kind))
        if field.name not in value
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ValueError(f'{f"{key}.{missing[0]}".lstrip(".")}: expected a value, found none')
    read = {
        name: _read(hint, value[name], f'{key}.{name}'.lstrip('.')) for name, hint in hints.items() if name in value
    }
    return kind(**read)


def from_text(kind: Any, text: str, key: str) -> Any:
    """Reads a value of a flag: `3e-3`, `true`, `ffn_in,attention` for a tuple.

    Raises:
      ValueError: as `from_json`.
    """
    if kind is str:
        return text
    if get_origin(kind) is Literal:
        return _read(kind, text, key)
    if get_origin(kind) is tuple:
        inner = get_args(kind)[0]
        return tuple(from_text(inner, part.strip(), key) for part in text.strip('()[]').split(',') if part.strip())
    if kind is bool:
        if text.lower() not in ('true', 'false'):
            raise ValueError(f'{key}: expected true or false, found {text!r}')
        return text.lower() == 'true'
    try:
        return _read(kind, kind(text), key)
    except ValueError:
        raise ValueError(f'{key}: expected {_name(kind)}, found {text!r}') from None


def check(value: Any, key: str) -> None:
    """Checks the fields of a dataclass against their annotations; for its `__post_init__`.

    A whole number becomes a float, and a list a tuple, where the annotation says so.

    Raises:
      ValueError: as `from_json`.
    """
    for name, kind in field_types(type(value)).items():
        object.__setattr__(value, name, _read(kind, getattr(value, name), f'{key}.{name}'.lstrip('.')))


def expect(holds: bool, key: str, what: str, value: Any) -> None:
    """Raises a ValueError, `KEY: expected WHAT, found VALUE`, unless something holds."""
    if not holds:
        raise ValueError(f'{key or "it"}: expected {what}, found {_shown(value)}')


def known(name: str, names: Sequence[str], key: str, what: str = 'a key') -> str:
    """Gives a name back if it is one of `names`; else says which is nearest.

    Raises:
      ValueError: it is none of them.
    """
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f'; did you mean {near[0]!r}?' if near else f' ({", ".join(names)})'
        raise ValueError(f'{key}: expected {what} of it, found {name!r}{hint}')
    return name


def field_types(kind: type) -> dict[str, Any]:
    """The fields of a dataclass and what they may hold."""
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def constants(kind: type) -> dict[str, Any]:
    """The constants of a dataclass, which are its `ClassVar`s."""
    hints = typing.get_type_hints(kind)
    return {name: getattr(kind, name) for name, hint in hints.items() if get_origin(hint) is ClassVar}


def _read(kind: Any, value: Any, key: str) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any or (dataclasses.is_dataclass(value) and type(value) in (kind, *arguments)):
        return value
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
        return {name: _read(arguments[1], item, f'{key}.{name}'.lstrip('.')) for name, item in value.items()}
    if kind is np.ndarray or origin is np.ndarray:
        numbers = _read_tuple((float, ...), value, key)
        return np.asarray(numbers, np.float32)
    if hasattr(kind, 'from_json'):
        return kind.from_json(value, key)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return read_fields(kind, value, key)
    if kind is float:
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        expect(number, key, 'a number', value)
        return float(value)
    if kind is type(None):
        expect(value is None, key, 'null', value)
        return None
    expect(isinstance(value, kind) and not (kind is int and isinstance(value, bool)), key, _name(kind), value)
    return value


def _read_union(kinds: tuple[Any, ...], value: Any, key: str) -> Any:
    if value is None and type(None) in kinds:
        return None
    rest = [kind for kind in kinds if kind is not type(None)]
    if len(rest) == 1:
        return _read(rest[0], value, key)
    shared = set.intersection(*(set(constants(one) if hasattr(one, '__dataclass_fields__') else ()) for one in rest))
    for name in shared:
        expect(isinstance(value, dict), key, 'an object', value)
        named, found = {constants(one)[name]: one for one in rest}, value.get(name)
        expect(found in tuple(named), f'{key}.{name}', f'one of {", ".join(map(repr, named))}', found)
        return _read(named[found], value, key)
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


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f'{text[:57]}...'


def _name(kind: Any) -> str:
    names = {int: 'a whole number', float: 'a number', bool: 'true or false', str: 'a text', type(None): 'null'}
    return names.get(kind) or str(getattr(kind, '__name__', kind))
