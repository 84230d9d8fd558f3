"""The package's own names: documented, typed, there when asked for, and not paid for before."""

from __future__ import annotations

import importlib.util
import inspect
import subprocess
import sys
import typing

import pytest

import jax_reparam
from jax_reparam import config, layers, recognizer, reparam
from jax_reparam.export import folding
from jax_reparam.train import loop, optimizer

NAMES = [name for name in jax_reparam.__all__ if name != '__version__']


def test_names():
    """All of them, each from its home: a name that is new or gone is a decision."""
    homes = {
        'HRFConfig': config,
        'HRFDense': layers,
        'Recognizer': recognizer,
        'Stream': recognizer,
        'add_decay': optimizer,
        'dehrf': reparam,
        'fit': loop,
        'fold_and_export': folding,
        'hrf': reparam,
        'hrf_sites': reparam,
    }
    assert sorted(homes) == sorted(NAMES)
    for name, home in homes.items():
        assert getattr(jax_reparam, name) is getattr(home, name)
    assert set(jax_reparam.__all__) <= set(dir(jax_reparam))
    with pytest.raises(AttributeError, match="has no attribute 'dehfr'"):
        jax_reparam.dehfr  # noqa: B018


@pytest.mark.parametrize('name', NAMES)
def test_a_name_is_no_module(name):
    """Else importing that module would take the name away."""
    assert importlib.util.find_spec(f'jax_reparam.{name}') is None
    assert not inspect.ismodule(getattr(jax_reparam, name))


def public(name):
    """A name, and where it is a class, what is public in it: (name, function or class)."""
    thing = getattr(jax_reparam, name)
    yield name, thing
    if inspect.isclass(thing):
        for own, member in vars(thing).items():
            member = inspect.unwrap(getattr(member, '__func__', getattr(member, 'fget', member)))
            shown = inspect.isfunction(member) and (not own.startswith('_') or own == '__call__')
            if shown and member.__module__ == thing.__module__:  # flax puts some of its own into a class
                yield f'{name}.{own}', member


@pytest.mark.parametrize(('name', 'thing'), [pair for name in NAMES for pair in public(name)])
def test_a_name_is_documented_and_typed(name, thing):
    text = inspect.getdoc(thing)
    assert text
    first = text.splitlines()[0]
    assert first[0].isupper()
    assert first.endswith(('.', ':', '`.'))
    if inspect.isclass(thing):
        assert typing.get_type_hints(thing) is not None
        return
    signature = inspect.signature(thing)
    hints = typing.get_type_hints(thing)
    assert 'return' in hints
    assert {name for name in signature.parameters if name not in ('self', 'cls')} <= set(hints)


@pytest.mark.parametrize('name', ['Recognizer', 'Stream', 'HRFConfig', '__version__'])
def test_a_base_name_loads_nothing_heavy(name):
    heavy = (
        'jax',
        'jaxlib',
        'flax',
        'optax',
        'orbax',
        'tensorflow',
        'librosa',
        'numba',
        'scipy',
        'sklearn',
        'matplotlib',
    )
    code = (
        f'import sys, jax_reparam; jax_reparam.{name}\n'
        f'sys.exit(str([name for name in {heavy!r} if name in sys.modules] or ""))'
    )
    done = subprocess.run([sys.executable, '-c', code], check=False, capture_output=True, text=True)
    assert done.stderr.strip() == ''


def test_importing_the_package_loads_nothing_of_it():
    code = "import sys, jax_reparam; print(sorted(name for name in sys.modules if name.startswith('jax_reparam')))"
    done = subprocess.run([sys.executable, '-c', code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["['jax_reparam',", "'jax_reparam._version']"]
