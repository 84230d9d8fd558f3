"""Two processes train what one does: the same losses, one set of files, one voice."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from helpers import ROOT, SMALL, tones, untimed
from jax_reparam import checkpoint
from jax_reparam.config import Recipe
from jax_reparam.errors import InputError
from jax_reparam.train import loop, processes


def together(command, count):
    """Runs the command in so many processes, one device each, and gives what each said: (stdout, stderr)."""
    with socket.socket() as found:
        found.bind(('localhost', 0))
        address = f'localhost:{found.getsockname()[1]}'
    env = {**os.environ, 'JAX_COORDINATOR_ADDRESS': address, processes.COUNT: str(count)}
    env['XLA_FLAGS'] = '--xla_backend_optimization_level=0'
    # One would read what another is about to write.
    env['JAX_ENABLE_COMPILATION_CACHE'] = 'false'
    pipes = {'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE, 'text': True, 'cwd': ROOT}
    started = [subprocess.Popen(command, env={**env, processes.INDEX: str(i)}, **pipes) for i in range(count)]
    try:
        said = [process.communicate(timeout=300) for process in started]
    finally:
        for process in started:
            process.kill()
            process.wait()
    assert [process.returncode for process in started] == [0] * count, said
    return said


@pytest.mark.slow
def test_two_processes_train_what_one_does(tmp_path):
    source = tones(tmp_path / 'source', speakers=3, clips=2)
    command = [sys.executable, 'train.py', '--distributed', '--config', 'configs/transformer_xs.py:folder', *SMALL]
    command += [f'--config.data.source={source}', f'--config.data.cache={tmp_path}/cache', f'--workdir={tmp_path}/two']
    command += ['--config.train.steps=4', '--config.train.eval_every=4']
    first, second = together(command, 2)
    assert 'two: test UAR' in first[0]
    assert 'two: 4/4' in first[1]
    # The second has nothing to say (the line of Gloo's is not ours).
    assert [line for text in second for line in text.splitlines() if '[Gloo]' not in line] == []

    # This process has as many devices as the two together.
    config = Recipe.from_json(json.loads((tmp_path / 'two' / 'config.json').read_text()))
    result = loop.train(config, tmp_path / 'one', show_progress=False)
    assert untimed(json.loads((tmp_path / 'two' / 'result.json').read_text())) == untimed(result)
    files = [tmp_path / name / 'metrics.jsonl' for name in ('one', 'two')]
    logs = [[untimed(json.loads(line)) for line in file.read_text().splitlines()] for file in files]
    assert logs[0] == logs[1]
    one, two = (checkpoint.load(tmp_path / name) for name in ('one', 'two'))
    jax.tree.map(np.testing.assert_array_equal, one.variables, two.variables)


def test_a_number_that_is_none_is_refused(monkeypatch):
    monkeypatch.setenv(processes.COUNT, 'two')
    with pytest.raises(InputError, match=r"--distributed: expected a cluster .*, JAX_NUM_PROCESSES .*found: .*'two'"):
        processes.start()
