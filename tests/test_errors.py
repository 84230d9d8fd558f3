"""One line and an exit code for all that can go wrong; the traceback of what is our fault lies in a file."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from jax_reparam import errors
from jax_reparam.errors import InputError


def code_of(main):
    with pytest.raises(SystemExit) as end:
        errors.run(main)
    return end.value.code


def fails(error):
    def main():
        raise error

    return main


@pytest.mark.parametrize('error', [InputError('a.wav: expected\n  audio'), OSError(28, 'No space left on device')])
def test_one_line(capsys, error):
    assert code_of(fails(error)) == 2
    text = capsys.readouterr().err
    assert text.startswith('error: ')
    assert text.count('\n') == 1


def test_exit_codes():
    assert code_of(lambda: None) == 0
    assert code_of(lambda: 1) == 1
    assert code_of(fails(errors.Error('a gate'))) == 1
    assert code_of(fails(KeyboardInterrupt())) == 130


@pytest.mark.parametrize('lines', [1, 100_000])
def test_a_reader_that_has_gone_is_no_error(lines):
    code = f'from jax_reparam import errors; errors.run(lambda: input() or [print("x") for _ in range({lines})] and 0)'
    pipes = dict.fromkeys(('stdin', 'stdout', 'stderr'), subprocess.PIPE)
    buffered = {**os.environ, 'PYTHONUNBUFFERED': ''}
    with subprocess.Popen([sys.executable, '-c', code], text=True, env=buffered, **pipes) as child:
        child.stdout.close()
        assert child.communicate('\n', timeout=60)[1] == ''
        assert child.returncode == 141


def test_what_nobody_foresaw_ends_with_one_line_and_keeps_its_traceback(capsys):
    assert code_of(fails(ZeroDivisionError('by\nzero'))) == 70
    text = capsys.readouterr().err
    line = re.fullmatch(r'error: a fault of jax_reparam: ZeroDivisionError: by zero; (\S+) has the traceback\n', text)
    assert line
    kept = Path(line[1])
    try:
        assert 'in main\n' in kept.read_text()
    finally:
        kept.unlink()


def test_values_of_the_user_are_named():
    with pytest.raises(InputError, match='steps'), errors.from_user():
        raise ValueError('train.steps: expected at least 1')


def test_a_terminal_that_knows_ascii_alone_is_told_escapes():
    code = "from jax_reparam import errors; errors.run(lambda: print('\u00e4rgerlich'))"
    env = {**os.environ, 'PYTHONIOENCODING': 'ascii'}
    found = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=False, env=env)
    assert (found.returncode, found.stdout, found.stderr) == (0, '\\xe4rgerlich\n', '')
