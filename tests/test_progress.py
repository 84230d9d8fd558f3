"""Progress: plain lines with rate and time left where there is no terminal, a bar where there is one."""

from __future__ import annotations

import io
import re

import pytest

from jax_reparam import progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def work(steps, *, enabled=True):
    bar = progress.Progress(steps, 'features', enabled=enabled)
    for _ in range(steps):
        bar.update()
    bar.close()


def test_plain_lines(capsys, monkeypatch):
    monkeypatch.setattr(progress, '_SECONDS', 0.0)
    bar = progress.Progress(4, 'features', start=1, unit='clip')
    for _ in range(3):
        bar.update('loss 0.5')
    bar.close()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert re.fullmatch(r'features: 4/4, \d+\.\d clip/s, 0 s left, loss 0\.5', lines[-1])


def test_lines_are_rare_but_the_last_one_is_there(capsys):
    work(100)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith('features: 100/100')


def test_quiet(capsys):
    work(2, enabled=False)
    assert capsys.readouterr().err == ''


def test_bar_on_a_terminal(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr('sys.stderr', terminal)
    work(3)
    text = terminal.getvalue()
    assert 'features: 100%' in text
    assert '3/3' in text


def test_rate_counts_from_the_end_of_the_first_step(capsys, monkeypatch):
    now = 0.0
    monkeypatch.setattr(progress.time, 'monotonic', lambda: now)
    bar = progress.Progress(13, 'run', start=10, unit='step')
    for now in (100.0, 110.0):  # noqa: B007
        bar.update()
    assert capsys.readouterr().err == 'run: 11/13\nrun: 12/13, 0.1 step/s, 10 s left\n'


@pytest.mark.parametrize('count', [0, 1])
def test_short_work(count, capsys):
    work(count)
    assert len(capsys.readouterr().err.splitlines()) == count
