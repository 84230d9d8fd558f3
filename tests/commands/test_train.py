"""The command train.py: flags, errors of one line, and a run from the shell."""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys

import pytest

from helpers import ROOT, SMALL, pattern, tones
from jax_reparam.commands.train import main, parse, parser
from jax_reparam.config import load_recipe
from jax_reparam.errors import InputError


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
    heavy = {'jax', 'flax', 'tensorflow', 'librosa', 'ml_collections'}
    assert not heavy & {line.split('|')[-1].strip() for line in loaded.splitlines()}


def test_help_tells_every_key_of_a_recipe():
    lines = parser().format_help().splitlines()
    recipe = load_recipe(ROOT / 'configs/speechformer_s.py').as_json()
    keys = [f'{section}.{key}' for section, values in recipe.items() if section != 'seed' for key in values]
    for key in set(keys) - {'model.name', 'frontend.sample_rate', 'frontend.floor'}:  # constants
        [at, *_] = [number for number, line in enumerate(lines) if line.startswith(f'  --config.{key}=')]
        assert lines[at + 1].strip(), key  # what it is for
    assert '  --config.seed=0' in lines


def test_flags_of_a_recipe():
    argv = ['--config.a.b=1=2', '--workdir', 'w', '--config.c', 'x', '--config.d', '--config', 'f', '--config.e']
    args, changes = parse(argv)
    assert changes == {'a.b': '1=2', 'c': 'x', 'd': True, 'e': True}
    assert (str(args.workdir), args.config) == ('w', 'f')


@pytest.mark.parametrize(
    ('args', 'message'),
    [
        (
            ['--config.train.learnin_rate=1'],
            "train: expected one of .*, found 'learnin_rate'; did you mean 'learning_rate'?",
        ),
        (['--config.trian.steps=1'], "recipe: expected one of .*, found 'trian'; did you mean 'train'?"),
        (['--config.model.kernel=3'], "model: expected one of .*, found 'kernel'"),
        (['--config.frontend.sample_rate=8000'], "frontend: expected one of .*, found 'sample_rate'"),
        (['--config.train.steps=many'], "train.steps: expected a whole number, found 'many'"),
        (['--config.train.steps', '0'], 'train.steps: expected at least 1, found 0'),
        (['--config.train.steps'], 'train.steps: expected a whole number, found True'),
        (['--wrokdir=x'], "found '--wrokdir'; did you mean '--workdir'?"),
        (['stray'], "expected flags only, found 'stray'"),
    ],
)
def test_flags_that_are_wrong(args, message):
    with pytest.raises(InputError) as caught:
        main(['--config', str(ROOT / 'configs/transformer_s.py'), *args])
    assert re.search(pattern(message), str(caught.value))
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
    ('recipe', 'message'),
    [
        ('configs/transformer_s.py:emod', 'configs/transformer_s.py: data.corpus: expected one of synth, emodb, '),
        ('configs/nothing.py', 'configs/nothing.py: expected a recipe, found no such file'),
        (None, '--config: expected a recipe such as transformer_s, found none'),
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
    assert done.stderr == "error: hrf.forward: expected one of 'composed', 'two_step', found 'both'\n"
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


def test_an_interrupted_command_says_how_to_go_on(capsys, monkeypatch):
    monkeypatch.setattr('jax_reparam.commands.train.main', lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    monkeypatch.syspath_prepend(ROOT)
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / 'train.py'), run_name='__main__')
    assert end.value.code == 130
    assert (
        capsys.readouterr().err == 'interrupted; the same command goes on from the last checkpoint, if there is one\n'
    )
