"""The firmware's own CMake build against TFLM's headers, and a library of it, where they are at hand.

TFLM_CMAKE holds what CMake is to be told of them, as README.md of the firmware says: at least -DTFLM_INCLUDE=..., and
with -DTFLM_LIBRARY=... the golden test is linked and run. docs/device.md has examples.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess

import pytest

ARGUMENTS = shlex.split(os.environ.get('TFLM_CMAKE', ''))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not ARGUMENTS, reason='needs TFLM_CMAKE'),
    pytest.mark.skipif(shutil.which('cmake') is None, reason='needs cmake'),
]


@pytest.mark.parametrize('fixture', ['written', 'written16'], ids=['int8', 'int16'])
def test_cmake_builds_it_and_the_golden_vectors_pass(request, fixture, tmp_path):
    folder = request.getfixturevalue(fixture)[1]
    build = tmp_path / 'build'
    steps = [['cmake', '-S', folder, '-B', build, *ARGUMENTS], ['cmake', '--build', build]]
    if any(argument.startswith('-DTFLM_LIBRARY') for argument in ARGUMENTS):
        steps.append([build / 'golden_test'])
    for step in steps:
        done = subprocess.run(step, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f'{done.stdout}\n{done.stderr}'
        assert 'warning:' not in done.stderr
