"""One line and an exit code for all that can go wrong; the traceback of what is our fault lies in a file."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
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


def child(code, redirect='', **options):
    """A child that runs `errors.run(main)`, of the shell, with its streams redirected."""
    # Whoever runs the tests in the background has Ctrl-C ignored.
    begin = 'import os, signal, sys, time\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n'
    code = f'{begin}from jax_reparam import errors\n{code}\nerrors.run(main)'
    pipes = dict.fromkeys(('stdout', 'stderr'), subprocess.PIPE)
    return subprocess.Popen(
        ['sh', '-c', f'exec "$0" -c "$1" {redirect}', sys.executable, code], text=True, **pipes, **options
    )


# Ctrl-C comes again only where it is said.
BUSY = {
    'in python': 'def main():\n  print(1, flush=True)\n  time.sleep(60)',
    'in C': "import hashlib\ndef main(): print(1, flush=True); hashlib.pbkdf2_hmac('sha1', b'', b'', 2**31 - 1)",
    'where standard error is held back': (
        'from jax_reparam import system\ndef main():\n  with system.captured_stderr():\n'
        '    print(1, flush=True)\n'
        '    while True:\n'
        '      try: time.sleep(60)\n'
        '      except BaseException: pass'
    ),
    'where it is lost': (  # as in a callback of XLA's
        'class Lost:\n  def __del__(self):\n    print(1, flush=True)\n    time.sleep(60)\n'
        'def main():\n  Lost()\n  time.sleep(60)'
    ),
}


@pytest.mark.parametrize('busy', BUSY)
def test_ctrl_c_ends_every_command_quickly_with_one_line(busy):
    with child(BUSY[busy]) as process:
        assert process.stdout.readline() == '1\n'
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=30)[1] == 'interrupted\n'
    assert process.returncode == 130
    assert time.monotonic() - began < 4


def test_ctrl_c_is_put_off_while_something_is_saved():
    code = """
def main():
    with errors.deferred() as came:
        print(1, flush=True)
        while not came(): time.sleep(0.01)
        time.sleep(1.5)
        raise KeyboardInterrupt('saved')
"""
    with child(code) as process:
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=30)[1] == 'saved\n'
    assert process.returncode == 130


def test_a_second_ctrl_c_waits_for_nothing():
    code = """
def main():
    with errors.deferred() as came:
        print(1, flush=True)
        while not came(): time.sleep(0.01)
        print(2, flush=True)
        time.sleep(60)
"""
    with child(code) as process:
        for _ in range(2):
            process.stdout.readline()
            process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=10)[1] == 'interrupted\n'
    assert process.returncode == 130


def test_without_a_command_nothing_is_put_off():
    # Whoever runs the tests in the background has Ctrl-C ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with errors.deferred() as came:
            assert not came()
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_command_leaves_the_handler_as_it_was():
    before = signal.getsignal(signal.SIGINT)
    code_of(lambda: None)
    assert signal.getsignal(signal.SIGINT) is before
    assert signal.set_wakeup_fd(-1) == -1


@pytest.mark.parametrize(
    ('redirect', 'code', 'err'),
    [
        ('>&-', 0, 'err\n'),
        ('2>&-', 0, ''),
        ('>&- 2>&- <&-', 0, ''),
        ('>/dev/full', 2, "err\nerror: [Errno 28] No space left on device: 'standard output'\n"),
    ],
)
def test_streams_that_are_closed_or_full(tmp_path, redirect, code, err):
    main = f"""
def main():
    with open({str(tmp_path / 'file')!r}, 'w') as file:
        print('out')
        print('err', file=sys.stderr)
        file.write('content')
"""
    with child(main, redirect, env={**os.environ, 'PYTHONUNBUFFERED': ''}) as process:
        found = process.communicate(timeout=30)[1]
    assert (process.returncode, found) == (code, err)
    assert (tmp_path / 'file').read_text() == 'content'


@pytest.mark.parametrize('raised', ["errors.InputError('x')", 'ZeroDivisionError()', 'KeyboardInterrupt()'])
def test_an_error_that_nobody_can_be_told(raised):
    with child(f'def main(): raise {raised}', '2>/dev/full') as process:
        assert process.communicate(timeout=30) == ('', '')
    assert process.returncode in (2, 70, 130)


def test_ctrl_c_stays_ignored_where_it_is():
    """As in what a shell's `nohup` or `&` starts."""
    code = """
signal.signal(signal.SIGINT, signal.SIG_IGN)
def main():
    print(1, flush=True)
    sys.stdin.readline()
"""
    with child(code, stdin=subprocess.PIPE) as process:
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.communicate('\n', timeout=30)[1] == ''
    assert process.returncode == 0


def test_a_home_that_nobody_knows(monkeypatch):
    assert errors.user_path('~/x') == Path.home() / 'x'
    monkeypatch.delenv('HOME', raising=False)
    monkeypatch.setattr('os.path.expanduser', lambda path: path)  # as without an entry in the passwd file
    assert errors.user_path('a/~b') == Path('a/~b')
    with pytest.raises(InputError, match=r'^~/x: expected a home folder for ~, found none; set HOME'):
        errors.user_path('~/x')


def test_a_terminal_that_knows_ascii_alone_is_told_escapes():
    code = "from jax_reparam import errors; errors.run(lambda: print('\u00e4rgerlich'))"
    env = {**os.environ, 'PYTHONIOENCODING': 'ascii'}
    found = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=False, env=env)
    assert (found.returncode, found.stdout, found.stderr) == (0, '\\xe4rgerlich\n', '')
