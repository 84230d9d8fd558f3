"""One line and an exit code for what a user can cause; a traceback for what is our fault."""

from __future__ import annotations

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
    assert code_of(fails(KeyboardInterrupt())) == 130


def test_our_faults_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        errors.run(fails(ZeroDivisionError()))


def test_values_of_the_user_are_named():
    with pytest.raises(InputError, match='steps'), errors.from_user():
        raise ValueError('train.steps: expected at least 1')
