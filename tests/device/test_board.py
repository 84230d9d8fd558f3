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

from jax_reparam.graph import flatbuffer
from jax_reparam.graph.footprint import footprint

ROOT = os.environ.get('TFLM_ROOT', '')
TOOLS = ('arm-none-eabi-g++', 'qemu-system-arm', 'cmake')
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not ROOT, reason='needs TFLM_ROOT'),
    pytest.mark.skipif(not all(map(shutil.which, TOOLS)), reason=f'needs {", ".join(TOOLS)}'),
]
FORMS = ('int8', 'wide', 'int16')
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

    run.board = request.param
    return run


@pytest.mark.parametrize(
    ('fixture', 'form'), [('written', 'int8'), ('written_wide', 'wide'), ('written16', 'int16')], ids=FORMS
)
def test_it_passes_and_keeps_up_with_sound(request, fixture, form, example, convert, front):
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

    arenas = re.search(r'model (\d+) of (\d+) bytes, frontend (\d+) of (\d+)', printed)
    sizes, helium = list(map(int, arenas.groups())), example.board == 'mps3-an547'
    for name, model, (used, reserved) in (('model', convert(form), sizes[:2]), ('frontend', front, sizes[2:])):
        assert used == footprint(flatbuffer.read(model), helium=helium).used
        sets_aside = entry.arena_bytes[name]
        assert used <= reserved == (sets_aside.reserved_helium if helium else sets_aside.reserved)


@pytest.mark.parametrize('fixture', ['written', 'written16'], ids=['int8', 'int16'])
@pytest.mark.parametrize('multiplier', ['float', 'double'])
def test_it_passes_however_rsqrt_computes_its_multiplier(request, fixture, example, tmp_path, multiplier):
    """Versions of TFLM differ there; the kernel's source is changed and takes the place of the library's."""
    kernel = (Path(ROOT) / 'tensorflow/lite/micro/kernels/elementwise.cc').read_text()
    found = re.search(r'const double scale =\s+1\. /\s*([^;]+);', kernel)
    root = f'std::sqrt(static_cast<{multiplier}>(input_scale)) * static_cast<{multiplier}>(output_scale)'
    changed = tmp_path / 'elementwise.cc'
    changed.write_text('#include "elementwise.inc"\n')
    text = kernel.replace(found[0], f'const double scale = 1. / static_cast<double>({root});')
    changed.with_suffix('.inc').write_text(f'#pragma GCC system_header\n{text}')  # TFLM's own warnings are not ours
    folder = request.getfixturevalue(fixture)[1]
    code, printed = example(folder, BOARD_SOURCES=f'{folder / "examples/qemu/start.c"};{changed}')
    assert (code, 'golden vectors: passed' in printed) == (0, True)


def test_an_arena_that_is_too_small_is_said(written, example):
    code, printed = example(written[1], EMOTION_ARENA_BYTES=4096)
    assert code != 0
    assert 'golden vectors: the models do not load' in printed


def test_sound_that_comes_too_fast_is_said_to_be_lost(written, example):
    code, printed = example(written[1], EMOTION_CLOCK_MHZ=1)
    assert (code != 0, 'golden vectors: passed' in printed, 'FAIL' in printed) == (True, True, True)
    assert int(re.search(r'(\d+) samples lost', printed)[1]) > 0
