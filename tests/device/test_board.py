"""The firmware's example on QEMU's boards, with TFLM's sources: golden test, instructions, sound in real time.

TFLM_ROOT is a tree of TFLM in which its make has built its library for these processors (docs/board.md).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = os.environ.get('TFLM_ROOT', '')
TOOLS = ('arm-none-eabi-g++', 'qemu-system-arm', 'cmake')
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not ROOT, reason='needs TFLM_ROOT'),
    pytest.mark.skipif(not all(map(shutil.which, TOOLS)), reason=f'needs {", ".join(TOOLS)}'),
]
BOARDS = {'mps2-an386': 'cortex-m4+fp', 'mps3-an547': 'cortex-m55'}


@pytest.fixture(params=BOARDS)
def example(request, tmp_path):
    """Builds the example around a firmware folder and runs it; returns the exit code and what it printed."""
    if not list(Path(ROOT).glob(f'gen/cortex_m_generic_{BOARDS[request.param]}*/lib/libtensorflow-microlite.a')):
        pytest.skip(f'needs TFLM for {BOARDS[request.param]}')

    def run(folder, **options):
        given = {'TFLM_ROOT': ROOT, 'BOARD': request.param, **options}
        configure = ['cmake', '-S', folder / 'examples' / 'qemu', '-B', tmp_path / 'build']
        configure += [f'-D{name}={value}' for name, value in given.items()]
        flags = {**os.environ, 'CXXFLAGS': '-Werror', 'CFLAGS': '-Werror'}
        subprocess.run(configure, check=True, capture_output=True, text=True, env=flags)
        done = subprocess.run(
            ['cmake', '--build', tmp_path / 'build', '--target', 'run'], capture_output=True, text=True, check=False
        )
        assert 'warning:' not in done.stderr
        print(done.stdout, done.stderr)
        return done.returncode, done.stdout

    return run


@pytest.mark.parametrize('fixture', ['written', 'written_wide', 'written16'], ids=['int8', 'wide', 'int16'])
def test_it_passes_and_keeps_up_with_sound(request, fixture, example):
    entry, folder = request.getfixturevalue(fixture)
    code, printed = example(folder)
    assert (code, 'golden vectors: passed' in printed, 'PASS' in printed) == (0, True, True)
    assert 'codes: 0 of ' in printed
    frame, _, estimated, _ = map(
        int, re.search(r'frame (\d+), window (\d+); estimated (\d+) and (\d+)', printed).groups()
    )
    assert abs(frame / estimated - 1) < 0.2
    assert estimated == entry.real_time.frame_instructions
    assert int(re.search(r'at most (\d+) instructions in Feed', printed)[1]) < 2000


def test_an_arena_that_is_too_small_is_said(written, example):
    code, printed = example(written[1], EMOTION_ARENA_BYTES=4096)
    assert code != 0
    assert 'golden vectors: the models do not load' in printed


def test_sound_that_comes_too_fast_is_said_to_be_lost(written, example):
    code, printed = example(written[1], EMOTION_CLOCK_MHZ=1)
    assert (code != 0, 'golden vectors: passed' in printed, 'FAIL' in printed) == (True, True, True)
    assert int(re.search(r'(\d+) samples lost', printed)[1]) > 0
