"""The wheel: every file of the package is in it, and the recipes of configs/ are `jax_reparam.recipes`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from helpers import ROOT

SOURCES = ('pyproject.toml', 'README.md', 'LICENSE', 'jax_reparam', 'configs')


def python(*arguments, cwd, **env):
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, env={**os.environ, **env}, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout.splitlines()


def files(folder):
    paths = [path.relative_to(folder) for path in folder.rglob('*') if path.is_file()]
    return {path.as_posix() for path in paths if '__pycache__' not in path.parts}


@pytest.mark.slow
def test_an_installed_wheel_has_the_package_and_its_recipes(tmp_path):
    tree, site = tmp_path / 'tree', tmp_path / 'site'
    tree.mkdir()
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tree / name)
    offline = ('--quiet', '--no-deps', '--no-index', '--disable-pip-version-check')
    python('-m', 'pip', 'wheel', *offline, '--no-build-isolation', '--wheel-dir', 'dist', './tree', cwd=tmp_path)
    [wheel] = (tmp_path / 'dist').glob('*.whl')
    python('-m', 'pip', 'install', *offline, '--no-compile', '--target', site, wheel, cwd=tmp_path)

    recipes, package = files(ROOT / 'configs'), files(ROOT / 'jax_reparam')
    assert len(recipes) > 8
    assert 'device/sources/tflm.h' in package
    assert files(site / 'jax_reparam') == package | {f'recipes/{name}' for name in recipes}

    code = (
        'import jax_reparam.recipes.transformer_s as found; print(found.__file__); '
        "print(found.get_config('emodb').data.corpus)"
    )
    found, corpus = python('-c', code, cwd=tmp_path, PYTHONPATH=str(site))
    assert (found, corpus) == (str(site / 'jax_reparam' / 'recipes' / 'transformer_s.py'), 'emodb')
