"""Holds a base install to what README promises: python .ci/base.py VENV.

The environment VENV has the wheel and nothing else, and takes at most 250 MB. Its `jax-reparam predict` must decide
with the packaged model and import nothing of an extra. The processor time of a prediction is printed. It is no gate,
because a busy machine takes longer.
"""

from __future__ import annotations

import functools
import json
import os
import resource
import subprocess
import sys
import tempfile
import wave
from pathlib import Path

HEAVY = {'jax', 'tensorflow', 'librosa', 'numba', 'scipy', 'sklearn', 'matplotlib'}
MOST_MB, TRIES = 250, 5


def syllables(path: Path) -> None:
    """Writes 3 s of a voice-like sound: a pulse train at 150 Hz that comes and goes four times a second."""
    rate, samples = 16000, []
    for i in range(3 * rate):
        loud = max(0, 1 - abs(i % 4000 - 1600) / 1200)
        samples.append(int(9000 * loud * (1 - 2 * (i % 107) / 107)))
    with wave.open(str(path), 'wb') as file:
        file.setparams((1, 2, rate, 0, 'NONE', ''))
        file.writeframes(b''.join(sample.to_bytes(2, 'little', signed=True) for sample in samples))


def main(venv: Path) -> None:
    """Ends with 1 and a line where a promise does not hold."""
    alone = {name: value for name, value in os.environ.items() if name != 'PYTHONPATH'}
    size = sum(path.lstat().st_size for path in venv.rglob('*')) / 1e6
    with tempfile.TemporaryDirectory() as scratch:
        syllables(Path(scratch) / 'clip.wav')
        command = [venv.resolve() / 'bin' / 'jax-reparam', 'predict', 'clip.wav', '--json']
        run = functools.partial(
            subprocess.run, cwd=scratch, env=alone, check=True, stdout=subprocess.PIPE, encoding='utf-8'
        )
        seconds = []
        for _ in range(TRIES):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            done = run(command)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        [clip] = json.loads(done.stdout)['clips']
        code = (
            'import sys; from jax_reparam.commands import module; module("predict").main(["clip.wav"]); '
            'print("modules:", *sys.modules)'
        )
        python = [venv.resolve() / 'bin' / 'python', '-c', code]
        modules = set(run(python).stdout.partition('modules:')[2].split())
    print(f'base install: {size:.0f} MB, {min(seconds):.2f} s of processor time, {clip["label"]}')
    faults = [f'{name} is imported' for name in sorted(HEAVY & modules)]
    faults += [f'{size:.0f} MB, more than {MOST_MB}'] * (size > MOST_MB)
    faults += ['no speech was found in the clip'] * (clip['label'] is None)
    sys.exit('\n'.join(faults) or 0)


if __name__ == '__main__':
    main(Path(sys.argv[1]))
