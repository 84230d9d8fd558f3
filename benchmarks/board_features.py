"""Features on an emulated Cortex-M4F and M55 against the golden ones: python benchmarks/board_features.py OUT KISSFFT.

KISSFFT is a folder with KISS FFT, the transform inside TFLM's SignalRfft (`kiss_fft.h`, `tools/kiss_fftr.h`). The
frontend's operators are written after TFLM's reference kernels (board_features.cc); on this host they must give TFLM's
numbers, bit for bit. Needs g++, arm-none-eabi-g++ with newlib, and qemu-system-arm.
"""

from __future__ import annotations

import math
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from jax_reparam import listen, manifest
from jax_reparam.device import frontend, golden
from jax_reparam.frontend.features import mel_matrix, window
from jax_reparam.frontend.inputs import Input
from jax_reparam.graph import flatbuffer
from jax_reparam.runtime import tflm

HERE = Path(__file__).parent
BOARD = HERE.parent / 'tests' / 'firmware' / 'board'
# QEMU's boards, their processors, and where their large memory is.
BOARDS = {'mps2-an386': ('cortex-m4', 0x21000000), 'mps3-an547': ('cortex-m55', 0x60000000)}


def main(out: str, kissfft: str) -> None:
    exported, form, _ = manifest.open_form(out)
    config = exported.input.frontend
    frames = frontend.frames(golden.signal(config.sample_rate), exported.input)
    wanted = tflm.run(listen.frontend(out, exported), frames).logits.ravel()
    port = exported.forms[form].input
    fft = [next(Path(kissfft).glob(f'{name}.c*')) for name in ('kiss_fft', 'tools/kiss_fftr')]
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / 'data.h').write_text(header(exported.input, frames))
        code = ['-x', 'c++', HERE / 'board_features.cc', *fft]
        sources = [f'-I{kissfft}', f'-I{place}', *code, '-lm', '-o', place / 'run']
        call('g++', '-O2', *sources)
        show('host', bits(call(place / 'run')), wanted, port)
        for board, (processor, memory) in BOARDS.items():
            for more in ([], ['-ffp-contract=off']):
                chip = [f'-mcpu={processor}', '-mthumb', '-mfloat-abi=hard', '-mfpu=auto', '-O2', *more]
                start = [*chip, '-c', BOARD / 'start.c', '-o', place / 'start.o']
                call('arm-none-eabi-gcc', *start)
                link = ['--specs=rdimon.specs', '-T', BOARD / 'board.ld', f'-Wl,--defsym=RAM_AT={memory}']
                call('arm-none-eabi-g++', *chip, '-fno-exceptions', place / 'start.o', *link, *sources)
                machine = ['qemu-system-arm', '-M', board, '-display', 'none', '-serial', 'none', '-monitor', 'none']
                done = call(*machine, '-semihosting-config', 'enable=on,target=native', '-kernel', place / 'run')
                show(' '.join([processor, *more]), bits(done), wanted, port)


def header(inputs: Input, frames: np.ndarray) -> str:
    """The frames and the frontend's constants as C++."""
    config, mel = inputs.frontend, mel_matrix(inputs.frontend)
    sizes = {'Frames': len(frames), 'Length': config.frame_length, 'Fft': config.n_fft, 'Bands': config.n_mels}
    arrays: dict[str, Any] = {
        'Window': window(config) / np.float32(32768),
        'Mel': np.repeat(mel, 2, axis=1),
        'Mean': inputs.mean,
        'Std': inputs.std,
        'Floor': np.float32(config.floor),
    }
    lines = [f'constexpr int k{name} = {value};' for name, value in {**sizes, 'Bins': mel.shape[1]}.items()]
    lines.append(f'const short kPcm[] = {{{",".join(map(str, frames.ravel()))}}};')
    for name, values in arrays.items():
        text = ','.join(f'{float(value).hex()}f' for value in np.ravel(values))
        lines.append(f'const float k{name}[] = {{{text}}};' if np.ndim(values) else f'const float k{name} = {text};')
    return '\n'.join(lines) + '\n'


def call(*words: object) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([str(word) for word in words], capture_output=True, check=True)


def bits(done: subprocess.CompletedProcess[bytes]) -> np.ndarray:
    """What the program printed, `[T * M]` float32."""
    return np.array([int(word, 16) for word in done.stdout.split()], np.uint32).view(np.float32)


def show(name: str, found: np.ndarray, wanted: np.ndarray, port: flatbuffer.Port) -> None:
    """Prints how far features are from TFLM's on this host; int16 has steps of a 256th."""
    step = port.scale or math.nan
    line = [f'{name}: {np.abs(found - wanted).max():.2g} at most']
    for form, scale in (('int8', step), ('int16', step / 256)):
        apart = np.abs(np.rint(found / scale) - np.rint(wanted / scale))
        line.append(f'{form}: {np.count_nonzero(apart)} of {len(wanted)} another step, by {apart.max():.0f} at most')
    print('; '.join(line))


if __name__ == '__main__':
    main(*sys.argv[1:])
