"""The command `fold.py`: exit codes, and what it prints where."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jax_reparam import errors
from jax_reparam.commands import fold as command
from jax_reparam.export import folding
from jax_reparam.runtime import tflm

pytestmark = pytest.mark.slow

COMMAND = Path(__file__).parents[2] / 'fold.py'


@pytest.fixture
def fold(capfd):
    """Runs the command in this process; returns exit code, standard output and standard error."""

    def run(*arguments):
        with pytest.raises(SystemExit) as end:
            errors.run(lambda: command.main([str(argument) for argument in arguments]))
        out, err = capfd.readouterr()
        return end.value.code, out, err

    return run


def test_help_answers_at_once():
    start = time.monotonic()
    found = subprocess.run([sys.executable, COMMAND, '--help'], capture_output=True, text=True, check=True)
    assert time.monotonic() - start < 2
    assert '--windows' in found.stdout


def test_success_prints_the_models(fold, workdir, tmp_path):
    code, out, err = fold(workdir, tmp_path / 'out', '--windows', '6')
    assert code == 0
    lines = out.splitlines()
    assert lines[1].startswith(f'{tmp_path / "out" / "model_int8.tflite"}  ')
    assert ('ran in TFLM' if tflm.missing() is None else 'not run in TFLM') in lines[1]
    assert 'HRF sites folded' in err
    assert 'verified int8 in LiteRT' in err
    assert 'WARNING' not in err
    # Once more, with nothing said, over its own folder.
    (tmp_path / 'out' / 'labels.txt').write_text('changed')
    code, _, err = fold(workdir, tmp_path / 'out', '--windows', '6', '--quiet')
    assert (code, err) == (0, '')
    assert (tmp_path / 'out' / 'labels.txt').read_text() == 'high\nlow\n'


@pytest.mark.usefixtures('far_too_narrow')
def test_a_failed_form_is_exit_code_1(fold, workdir, tmp_path):
    code, out, err = fold(workdir, tmp_path / 'out', '--quiet')
    assert code == 1
    assert 'failed: int8 in TFLM: expected' in err
    assert 'model_int8' not in out
    assert sorted(json.loads((tmp_path / 'out' / 'manifest.json').read_text())['forms']) == ['float32']


def test_tflm_missing_is_said(fold, workdir, tmp_path, monkeypatch):
    monkeypatch.setattr(tflm, 'PACKAGE', 'tflite_micro_that_is_not_there')
    code, out, _ = fold(workdir, tmp_path / 'out', '--windows', '6')
    assert code == 0
    assert 'TFLM: not verified: the package tflite-micro is not installed' in out


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (('{tmp}/nowhere', '{tmp}/out'), 'nowhere: expected a training folder or a checkpoint, found nothing'),
        (('{tmp}', '{tmp}/out'), 'found no checkpoint'),
        (('{w}', '{w}'), 'expected a new or empty folder, or one that fold.py wrote, found '),
        (('{w}', '{tmp}/file/out'), 'expected a folder that can be written, found: '),
        (('{out}/checkpoint', '{tmp}/out'), 'expected a model with HRF sites, found a plain one'),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(fold, workdir, exported, tmp_path, arguments, message):
    (tmp_path / 'file').write_text('')
    places = {'tmp': tmp_path, 'w': workdir, 'out': exported.path}
    code, out, err = fold(*(argument.format(**places) for argument in arguments), '--quiet')
    assert (code, out) == (2, '')
    assert err.startswith('error: ')
    assert err.count('\n') == 1
    assert message in err
    assert not (tmp_path / 'out').exists()


def test_a_damaged_checkpoint_leaves_out_as_it_was(fold, workdir, exported, tmp_path):
    shutil.copytree(workdir, tmp_path / 'w')
    shutil.copytree(exported.path, tmp_path / 'out')
    for path in (tmp_path / 'w' / 'checkpoints').glob('*/meta/*'):
        path.write_bytes(b'')
    code, _, err = fold(tmp_path / 'w', tmp_path / 'out', '--quiet')
    assert code == 2
    assert 'expected a whole checkpoint, found a damaged one' in err
    for path in exported.path.iterdir():
        if path.is_file():
            assert (tmp_path / 'out' / path.name).read_bytes() == path.read_bytes()


def test_without_vela_nothing_begins(fold, tmp_path, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None if name == 'ethosu' else real(name))
    # Not even the checkpoint is looked for.
    code, _, err = fold(tmp_path / 'nowhere', tmp_path / 'out', '--npu', 'ethos-u55-128')
    assert code == 2
    assert err == f'error: {errors.lacking("--npu", "ethosu")}\n'


@pytest.mark.parametrize(
    ('flags', 'expected'), [([], (False, False)), (['--only-int8'], (True, False)), (['--fast'], (False, True))]
)
def test_the_price_of_memory_is_the_users_choice(fold, monkeypatch, flags, expected):
    asked = []

    def fold_and_export(*args, only_int8, fast, **options):
        asked.append((only_int8, fast))
        raise errors.InputError('stopped')

    monkeypatch.setattr(folding, 'fold_and_export', fold_and_export)
    assert fold('w', 'out', *flags)[0] == 2
    assert asked == [expected]


def test_an_unknown_accelerator_is_bad_input(fold):
    code, _, err = fold('w', 'out', '--npu', 'u55')
    assert code == 2
    assert "invalid choice: 'u55'" in err


@pytest.mark.parametrize('windows', ['0', '-3', 'many'])
def test_a_number_of_windows_that_is_none(fold, windows):
    code, _, err = fold('w', 'out', '--windows', windows)
    assert code == 2
    assert '--windows' in err
