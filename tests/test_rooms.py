"""The house: imports run down the floors or stay in their room, and rooms of a base install stay light."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import jax_reparam

PACKAGE = Path(jax_reparam.__file__).parent
# Bottom up: what a room imports, within a function too, lies on a floor below its own, or in the room itself.
FLOORS = (
    {'_version'},
    {'errors', 'system', 'table', 'threads', 'progress', 'reparam'},
    {'schema'},
    {'frontend', 'evaluation'},
    {'config', 'field'},
    {'layers', 'corpora', 'graph', 'checkpoint'},
    {'models', '__init__'},
    {'data', 'manifest', 'deploy'},
    {'train', 'runtime'},
    {'quantise', 'device', 'recognizer', 'study'},
    {'export', 'scores'},
    {'commands'},
    {'__main__'},
)
FLOOR = {room: height for height, rooms in enumerate(FLOORS) for room in rooms}
# A base install, which predicts and listens, has none of these packages.
HEAVY = {'jax', 'jaxlib', 'flax', 'optax', 'orbax', 'tensorflow', 'tensorflow_datasets', 'librosa', 'numba', 'sklearn'}
LIGHT = {
    '_version',
    'errors',
    'schema',
    'system',
    'table',
    'threads',
    'progress',
    'frontend',
    'field',
    'graph',
    'runtime',
    'manifest',
    'recognizer',
    'config',
    'evaluation',
}
# What is still to go; this list only shrinks.
STILL = {
    ('frontend/features.py', 'librosa'),
}


def room_of(file: Path) -> str:
    return file.relative_to(PACKAGE).with_suffix('').parts[0]


def imported(file: Path) -> set[str]:
    """The dotted names that a file imports, within functions too; not what only type checkers read."""
    tree = ast.parse(file.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == 'TYPE_CHECKING':
            node.body = [ast.Pass()]
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f'{file}: imports are absolute'
            names |= {f'{node.module}.{alias.name}' for alias in node.names}
    return names


FILES = sorted(PACKAGE.rglob('*.py'))


def test_every_file_has_a_floor():
    assert {room_of(file) for file in FILES} == set(FLOOR)


@pytest.mark.parametrize('file', FILES, ids=lambda file: file.relative_to(PACKAGE).as_posix())
def test_imports_run_downwards(file):
    room = room_of(file)
    for name in imported(file):
        top, *rest = name.split('.')
        if top == 'jax_reparam':
            other = rest[0] if rest and rest[0] in FLOOR else '_version'
            assert other == room or FLOOR[other] < FLOOR[room], f'{room} imports {name}'


@pytest.mark.parametrize('room', sorted(LIGHT))
def test_rooms_of_a_base_install_import_nothing_heavy(room):
    found = {
        (file.relative_to(PACKAGE).as_posix(), name.split('.')[0])
        for file in FILES
        if room_of(file) == room
        for name in imported(file)
        if name.split('.')[0] in HEAVY
    }
    assert found == {(file, name) for file, name in STILL if room_of(PACKAGE / file) == room}


@pytest.mark.parametrize('room', sorted(LIGHT))
def test_rooms_of_a_base_install_import_each_other_alone(room):
    others = {
        name.split('.')[1]
        for file in FILES
        if room_of(file) == room
        for name in imported(file)
        if name.startswith('jax_reparam.') and name.split('.')[1] in FLOOR
    }
    assert others <= LIGHT
