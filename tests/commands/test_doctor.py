"""The doctor names what users need, and nothing that only developers do."""

from __future__ import annotations

import importlib.metadata

from jax_reparam.commands import doctor


def test_packages_are_those_that_users_need(monkeypatch):
    lines = ['numpy>=2', 'jax==0; extra == "train"', 'mypy; extra == "dev"', 'sphinx<9; extra == "docs"']
    lines += ['jax-reparam[train]; extra == "dev"', 'not-there; python_version < "4" and extra == "devices"']
    monkeypatch.setattr(importlib.metadata, 'requires', lambda _: lines)
    found = dict(doctor.packages())
    assert list(found) == ['jax', 'not-there', 'numpy']
    assert found['numpy'] == importlib.metadata.version('numpy')
    assert found['not-there'] == ''
