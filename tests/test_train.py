"""The command train.py: flags, errors of one line, and a run from the shell."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from helpers import ROOT, SMALL, tones


def train(*args, start=('train.py',)):
    """Runs the command as a user does: optimized, and with the devices that there are."""
    env = {name: value for name, value in os.environ.items() if name != 'XLA_FLAGS'}
    command = [sys.executable, *map(str, (*start, *args))]
    return subprocess.run(command, cwd=ROOT, env=env, check=False, capture_output=True, text=True)


def test_help_answers_without_heavy_imports():
    done = train('--help')
    assert done.returncode == 0
    assert '--workdir' in done.stdout
    command = [sys.executable, '-X', 'importtime', 'train.py', '--help']
    loaded = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True).stderr
    assert not {'jax', 'flax', 'tensorflow', 'librosa'} & {line.split('|')[-1].strip() for line in loaded.splitlines()}


@pytest.mark.parametrize(
    ('args', 'message'),
    [
        (['--config.train.learnin_rate=1'], "found 'learnin_rate'; did you mean 'learning_rate'?"),
        (['--config.trian.steps=1'], "found 'trian'; did you mean 'train'?"),
        (['--config.model.kernel=3'], "expected a key of the recipe, found 'kernel'"),
        (['--config.train.steps=many'], "invalid literal for int() with base 10: 'many'"),
        (['--wrokdir=x'], "Unknown command line flag 'wrokdir'"),
        (['stray'], "expected flags only, found 'stray'"),
    ],
)
def test_flags_that_are_wrong(args, message):
    done = train('--config', 'configs/transformer_s.py', *args)
    assert done.returncode == 2
    assert done.stderr.count('\n') == 1
    assert message in done.stderr


@pytest.mark.parametrize(
    ('recipe', 'message'),
    [
        ('configs/transformer_s.py:emod', "expected a corpus, one of ['crema_d', 'daic_woz', 'emodb', "),
        ('configs/nothing.py', "No such file or directory: 'configs/nothing.py'"),
        (None, '--config: expected a recipe such as configs/transformer_s.py, found none'),
    ],
)
def test_recipes_that_are_wrong(recipe, message):
    done = train(*(['--config', recipe] if recipe else []))
    assert done.returncode == 2
    assert done.stderr.count('\n') == 1
    assert message in done.stderr


@pytest.mark.slow
def test_a_wrong_value_and_a_missing_source(tmp_path):
    common = ['--config', 'configs/transformer_xs.py:folder', '--workdir', tmp_path / 'w']
    done = train(*common, '--config.hrf.forward=both')
    assert done.returncode == 2
    assert done.stderr == "error: hrf.forward: expected one of ('composed', 'two_step'), got 'both'\n"
    assert not (tmp_path / 'w').exists()
    done = train(*common, f'--config.data.source={tmp_path}/nowhere', f'--config.data.cache={tmp_path}/cache')
    assert done.returncode == 2
    assert done.stderr.count('\n') == 1
    assert 'nowhere' in done.stderr


@pytest.mark.slow
def test_a_run_without_tensorflow(tmp_path):
    source = tones(tmp_path / 'source', speakers=3, clips=2)
    flags = [f'--config.data.source={source}', f'--config.data.cache={tmp_path}/cache', *SMALL]
    # A module of this name that cannot be imported stands in front of the real one.
    (tmp_path / 'blocked' / 'tensorflow').mkdir(parents=True)
    (tmp_path / 'blocked' / 'tensorflow' / '__init__.py').write_text("raise ImportError('not on the training path')")
    code = "import sys; sys.path.insert(0, sys.argv.pop(1)); sys.argv[0] = 'train.py'; exec(open('train.py').read())"
    run = ['--config', 'configs/transformer_xs.py:folder', *flags, f'--workdir={tmp_path}/w']
    done = train(*run, start=('-c', code, tmp_path / 'blocked'))
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads((tmp_path / 'w' / 'result.json').read_text())
    assert f'test UAR {100 * result["uar"]:.1f}' in done.stdout
    assert 'step/s' in done.stderr
    assert 'overlap' not in done.stdout
    again = train(*run)
    assert again.stdout == done.stdout
