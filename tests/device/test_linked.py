"""The firmware and TFLM itself in one process: TFLM is the library of the Python package, its kernels and interpreter.

The stubs have the layout of that version in memory, so another version may only be compiled against.
"""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys

import numpy as np
import pytest

from jax_reparam.runtime import tflm

VERSION = '0.dev20261023182759'
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        tflm.missing() is not None or importlib.metadata.version('tflite-micro') != VERSION,
        reason=f'links with tflite-micro {VERSION}',
    ),
]
SOURCES = ('emotion_recognizer.cc', 'model_data.cc', 'frontend_data.cc', 'golden_data.cc', 'golden_test.cc')
# `GoldenTest()`; TFLM's names must be there for the firmware to find.
RUN = """
import ctypes, sys
ctypes.CDLL(sys.argv[1], ctypes.RTLD_GLOBAL)
sys.exit(ctypes.CDLL(sys.argv[2])._Z10GoldenTestv())
"""


@pytest.fixture(scope='module')
def runtime():
    files = importlib.metadata.files('tflite-micro')
    return next(file.locate() for file in files if file.name.startswith('_runtime') and file.suffix == '.so')


@pytest.fixture
def golden_test(build, zig, runtime, tmp_path):
    """Builds the golden test of a folder and runs it; returns its exit code and what it printed."""

    def run(folder, change=lambda name, text: text):
        objects = []
        for name in SOURCES:
            source, text = folder / name, (folder / name).read_text()
            if change(name, text) != text:
                source = tmp_path / name
                source.write_text(change(name, text))
            objects.append(tmp_path / f'{name}.o')
            build(folder, source, objects[-1], '-O1', '-fPIC', '-DTFLM_LINKED')
        library = tmp_path / 'firmware.so'
        zig('ld.lld', '-shared', '-o', library, *objects)
        done = subprocess.run(
            [sys.executable, '-c', RUN, str(runtime), str(library)], capture_output=True, text=True, check=False
        )
        print(done.stderr)
        return done.returncode, done.stdout.splitlines()

    return run


@pytest.mark.parametrize('fixture', ['written', 'written_wide', 'written16'], ids=['int8', 'wide', 'int16'])
def test_the_golden_vectors_pass_in_tflm_itself(request, golden_test, fixture):
    entry, folder = request.getfixturevalue(fixture)
    code, lines = golden_test(folder)
    assert (code, lines[-1]) == (0, 'golden vectors: passed')
    starts = np.load(folder / 'golden' / 'starts.npy')
    assert [line.split(': ')[0] for line in lines[:-8]] == [f'window at frame {start}' for start in starts]
    assert sum(line.endswith(': no speech, right') for line in lines) > 1

    assert lines[-8].startswith('codes: 0 of ')
    assert lines[-7:-5] == [f'logits of {whose} speaker: all 3 equal' for whose in ('an unknown', 'the known')]
    assert lines[-4:-2] == ['profile: 0 bytes of 88 differ, it loads', 'queue: it says what it lost']
    # On this host the arena is what was measured from Python, less what is recorded there.
    taken = int(lines[-2].split()[2])
    assert 0 <= entry.arena_bytes['model'].measured - taken < 1024


@pytest.mark.parametrize(
    ('name', 'old', 'new', 'last'),
    [
        ('golden_data.cc', 'kGoldenFrames * kBands] = {\n    ', 'kGoldenFrames * kBands] = {\n    2 + ', 'failed'),
        ('golden_data.cc', 'kGoldenLogits[kClasses] = {\n    ', 'kGoldenLogits[kClasses] = {\n    1 +', 'failed'),
        ('golden_data.cc', 'KnownLogits[kClasses] = {\n    ', 'KnownLogits[kClasses] = {\n    1 +', 'failed'),
        ('golden_data.cc', 'kGoldenStarts[kGoldenWindows] = {\n    ', 'kGoldenStarts[kGoldenWindows] = {1 +', 'failed'),
        ('golden_data.cc', 'kGoldenSpeech[kGoldenWindows] = {\n    ', 'kGoldenSpeech[kGoldenWindows] = {1 +', 'failed'),
        ('golden_data.cc', 'Learned[kGoldenWindows] = {\n    ', 'Learned[kGoldenWindows] = {1 +', 'failed'),
        ('emotion_recognizer.cc', 'sizeof(model_arena_))', '4096)', 'the models do not load'),
        ('emotion_recognizer.cc', '!AddFrontendOps(frontend_ops_)', 'false', 'the models do not load'),
        # What a port may get wrong.
        ('emotion_recognizer.cc', 'kMean[band] + off', 'kMean[band] - off', 'failed'),
        (
            'emotion_recognizer.cc',
            'LevelOff(codes[band], speech.level)',
            'LevelOff(codes[band], 2 * speech.level)',
            'failed',
        ),
        (
            'emotion_recognizer.cc',
            'kParts * code - level, -kParts * kClamp)',
            'kParts * code - level, -100000)',
            'failed',
        ),
        (
            'emotion_recognizer.cc',
            'Learn(window[frame], speech.level)',
            'Learn(window[frame], 2 * speech.level)',
            'failed',
        ),
        ('emotion_recognizer.cc', 'adapting_ && speech.there', 'adapting_', 'failed'),
        ('emotion_recognizer.cc', 'frame = filled_ - new_;', 'frame = 0;', 'failed'),
        ('emotion_recognizer.cc', 'if (frozen()) return;', '', 'failed'),
        ('emotion_recognizer.cc', 'if (frozen()) return;', 'if (frames_ >= kProfileMostFrames) return;', 'failed'),
        ('emotion_recognizer.cc', 'if (frozen()) return;', 'if (frozen_) return;', 'failed'),
        ('emotion_recognizer.cc', 'if (!speech.there) return true;', '', 'failed'),
        ('emotion_recognizer.cc', 'Percentile(kLoudPercent, first, last, kAll)', 'loud', 'failed'),
        ('emotion_recognizer.cc', 'input - span * kBands', 'input - kBands', 'failed'),
        ('emotion_recognizer.cc', '!= Crc(bytes, kBytes - 4)', '== 0', 'failed'),
        ('emotion_recognizer.cc', '0xEDB88320u', '0xEDB88321u', 'failed'),
    ],
)
def test_what_is_wrong_is_seen(written, golden_test, name, old, new, last):
    def change(file, text):
        assert file != name or old in text
        return text.replace(old, new) if file == name else text

    code, lines = golden_test(written[1], change)
    assert (code, lines[-1]) == (1, f'golden vectors: {last}')


@pytest.mark.parametrize(('most', 'steps', 'last'), [(1, 1, 'failed'), (3, 1, 'passed'), (3, 2, 'failed')])
def test_some_codes_may_be_a_step_away(written, golden_test, most, steps, last):
    """One of the 432 here is more than one in a thousand."""
    changes = {
        'kMostDifferent = 1;': f'kMostDifferent = {most};',
        'abs(codes[band] - ': f'abs({steps} * (frame + band == 0) + codes[band] - ',
    }

    def change(file, text):
        for old, new in changes.items():
            text = text.replace(old, new)
        return text

    _, lines = golden_test(written[1], change)
    assert lines[-1] == f'golden vectors: {last}'
    apart = f'{2 - steps} of 432 differ by one step, {steps - 1} by more, most by {steps} steps, in frame 0, band 0'
    assert lines[-8] == f'codes: {apart}'
