"""The entry: every command is found, answers --help at once, and says in one line what it lacks."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tomllib
import types

import pytest

from helpers import ROOT
from jax_reparam import __version__, commands, errors
from jax_reparam.commands import doctor
from jax_reparam.errors import EXTRAS

HEAVY = ('jax', 'tensorflow', 'librosa', 'numba', 'scipy', 'sklearn', 'matplotlib')


def exits(*arguments, **options):
    with pytest.raises(SystemExit) as end:
        commands.main(arguments, **options)
    return end.value.code


def test_the_entry_lists_the_commands_and_the_version(capsys):
    assert exits('--version') == 0
    assert capsys.readouterr().out == f'jax-reparam {__version__}\n'
    assert exits('predikt') == 2
    assert capsys.readouterr().err.endswith("found 'predikt'; did you mean 'predict'?\n")
    assert exits('--modell') == 2


def test_every_command_is_a_module_and_listed(capsys):
    files = {path.stem for path in (ROOT / 'jax_reparam' / 'commands').glob('[!_]*.py')}
    assert files == set(commands.COMMANDS)
    assert exits() == 0
    listed = capsys.readouterr().out
    for name, told in commands.COMMANDS.items():
        assert f'  {name} ' in listed
        assert told in listed
        assert commands.module(name).parser().prog == f'jax-reparam {name}'


@pytest.mark.parametrize('name', commands.COMMANDS)
def test_help_imports_nothing_heavy(name):
    code = (
        'import sys; from jax_reparam import commands; print(commands.module(sys.argv[1]).parser().format_help())\n'
        f'sys.exit(str([name for name in {HEAVY!r} if name in sys.modules] or ""))'
    )
    done = subprocess.run([sys.executable, '-c', code, name], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ''
    assert done.stdout.startswith(f'usage: jax-reparam {name}')


@pytest.mark.parametrize(('name', 'arguments', 'lacks'), [
    ('train', ['--config', 'transformer_xs'], 'jax'),
    ('fold', ['w', 'out'], 'tensorflow'),
    ('summary', [], 'flax'),
    ('prepare', ['emodb', 'x'], 'array_record'),
])  # fmt: skip
def test_a_missing_extra_is_named_before_any_work(monkeypatch, capsys, name, arguments, lacks):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, 'find_spec', lambda module: None if module == lacks else real(module))
    assert exits(*arguments, name=name) == 2
    assert capsys.readouterr().err == (
        f'error: {name}: expected the package {lacks} of the extra {EXTRAS[lacks]!r}, found none; '
        f"pip install '.[{EXTRAS[lacks]}]' in a checkout, "
        f"or 'jax_reparam-{__version__}-py3-none-any.whl[{EXTRAS[lacks]}]'\n"
    )


def test_an_import_that_fails_late_names_its_extra(monkeypatch, capsys):
    def main(_):
        raise ModuleNotFoundError(name='jax.numpy')

    monkeypatch.setattr(doctor, 'main', main)
    assert exits('doctor') == 2
    assert "expected the package jax of the extra 'train', found none" in capsys.readouterr().err
    monkeypatch.setattr(doctor, 'main', lambda _: (_ for _ in ()).throw(ModuleNotFoundError(name='nobody')))
    assert exits('doctor') == errors.ExitCode.FAULT


def test_the_extras_are_those_of_the_project():
    extras = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']['optional-dependencies']
    packages = {'absl': 'absl-py', 'orbax': 'orbax-checkpoint', 'ethosu': 'ethos-u-vela', 'yaml': 'pyyaml'}
    for module, extra in EXTRAS.items():
        name = packages.get(module, module).replace('_', '-')
        assert any(line.replace('_', '-').startswith(name) for line in extras[extra]), module


def test_doctor_names_what_is_here_and_what_is_not(monkeypatch, capsys):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, 'find_spec', lambda module: None if module == 'tensorflow' else real(module))
    assert doctor.main([]) == 0
    lines = dict(line.split(None, 1) for line in capsys.readouterr().out.splitlines() if line[:6] != 'extra ')
    assert lines['jax_reparam'] == __version__
    assert lines['devices'].startswith('cpu')
    found = dict(doctor.extras())
    assert found['train'] == 'installed'
    assert found['export'] == f'no tensorflow: {errors.install("export")}'


def test_another_system_is_refused_in_one_line(monkeypatch):
    with monkeypatch.context() as windows:
        windows.setattr(commands, 'os', types.SimpleNamespace(name='nt'))
        code = exits('predict', 'clip.wav')
    assert code == f'error: jax_reparam: expected Linux or macOS (on Windows: WSL), found {sys.platform}'
