"""Counts instructions of kernels on an emulated Cortex-M4F: python benchmarks/kernels/kernels.py --help.

Needs arm-none-eabi-g++ with newlib, qemu-system-arm, and the sources of CMSIS-NN and TFLM, neither of which is here.
Each kernel is built alone, with the flags that TFLM's Makefile has for TARGET=cortex_m_generic, and called without an
interpreter. With `-icount shift=0` QEMU's clock goes on by 1 ns an instruction; SysTick runs at 25 MHz, so that a
tick is 40 instructions, which a loop of known length confirms. An instruction that is skipped in an IT block counts.
"""

from __future__ import annotations

import argparse
import itertools
import subprocess
import tempfile
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
BOARD = HERE.parents[1] / 'tests/device/board'
TICK = 40
CHIP = ['-mcpu=cortex-m4', '-mfpu=fpv4-sp-d16', '-mfloat-abi=hard', '-mthumb']
COMMON = ['-funsigned-char', '-ffunction-sections', '-fdata-sections', '-fno-common', '-DNDEBUG']
CPP = ['-std=c++17', '-fno-exceptions', '-fno-rtti', '-fno-threadsafe-statics', '-DTF_LITE_STATIC_MEMORY']
# By folder, less `arm_` and `.c`.
CMSIS = {
    'SoftmaxFunctions': 'nn_softmax_common_s8 softmax_s8 softmax_s16',
    'FullyConnectedFunctions': 'fully_connected_s8 fully_connected_s16 batch_matmul_s8 batch_matmul_s16',
    'NNSupportFunctions': 'nn_vec_mat_mult_t_s8 nn_vec_mat_mult_t_s16 nn_vec_mat_mult_t_s16_s16 nn_mat_mult_nt_t_s8 '
    's8_to_s16_unordered_with_offset',
    'ConvolutionFunctions': 'convolve_1x1_s8_fast convolve_s8 nn_mat_mult_kernel_s8_s16 depthwise_conv_s8 '
    'convolve_s16 nn_mat_mult_kernel_s16 depthwise_conv_s16',
    'BasicMathFunctions': 'elementwise_add_s8 elementwise_add_s16 elementwise_mul_s8 elementwise_mul_s16',
    'TransposeFunctions': 'transpose_s8',
    'PadFunctions': 'pad_s8',
}


def build(cmsis: Path, tflm: Path, include: list[Path], optimize: str, place: Path) -> Path:
    """The program, and beside it one object a source. TFLM's core is built for size, kernels are not."""
    places = [tflm / 'tensorflow/lite' / name for name in ('micro/kernels/internal', 'kernels/internal')]
    internal = next((folder for folder in places if (folder / 'common.cc').is_file()), None)  # newest first
    if internal is None:
        raise SystemExit(f'{tflm}: expected a checkout of TFLM, found no common.cc in {places[0]} nor in {places[1]}')
    headers = [f'-I{path}' for path in (cmsis / 'Include', tflm, internal, *include)]
    kernels = [cmsis / 'Source' / folder / f'arm_{name}.c' for folder in CMSIS for name in CMSIS[folder].split()]
    sources = [(kernel, [optimize]) for kernel in kernels]
    sources += [(internal / 'common.cc', ['-Os']), (HERE / 'kernels.cc', [optimize])]
    sources += [(BOARD / 'start.c', ['-O2'])]
    objects = []
    for source, level in sources:
        objects.append(place / f'{source.stem}.o')
        language = ['-std=c99'] if source.suffix == '.c' else CPP
        command = ['arm-none-eabi-g++' if language is CPP else 'arm-none-eabi-gcc', *CHIP, *COMMON, *level, *language]
        call(*command, *headers, '-c', source, '-o', objects[-1])
    program = place / 'kernels'
    linked = ['--specs=rdimon.specs', '-T', BOARD / 'board.ld', '-Wl,--defsym=RAM_AT=0x21000000', '-lm']
    call('arm-none-eabi-g++', *CHIP, *objects, *linked, '-o', program)
    return program


def call(*words: object) -> None:
    subprocess.run([str(word) for word in words], check=True)


def run(program: Path) -> list[tuple[str, str, int, int, int]]:
    """One row a kernel: name, shapes, units of work (MACs, or elements), outputs, instructions."""
    machine = ['qemu-system-arm', '-M', 'mps2-an386', '-icount', 'shift=0', '-display', 'none', '-serial', 'none']
    machine += ['-monitor', 'none', '-semihosting-config', 'enable=on,target=native', '-kernel', str(program)]
    done = subprocess.run(machine, capture_output=True, text=True, check=False, timeout=600)
    if done.returncode:
        raise SystemExit(f'{done.stdout}{done.stderr}')
    rows = [line.split('|') for line in done.stdout.splitlines()]
    return [(name, shapes, int(units), int(outputs), int(ticks) * TICK) for name, shapes, units, outputs, ticks in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--cmsis-nn', type=Path, required=True, metavar='DIR', help='a checkout of CMSIS-NN')
    parser.add_argument('--tflm', type=Path, required=True, metavar='DIR', help='a checkout of TFLM')
    told = 'where gemmlowp, ruy and flatbuffers are, as TFLM downloads them'
    parser.add_argument('--include', type=Path, action='append', default=[], metavar='DIR', help=told)
    parser.add_argument('--optimize', default='-O2', help='of the kernels (-O2 in TFLM)')
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        found = run(build(args.cmsis_nn, args.tflm, args.include, args.optimize, Path(place)))
    loop, *_ = found
    if abs(loop[4] / loop[2] - 2) > 0.001:
        raise SystemExit(f'a loop of two instructions counts as {loop[4] / loop[2]:.3f}: a tick is not {TICK}')
    for name, shapes, units, _, count in found:
        print(f'{name:24} {shapes:40} {count / units:8.2f}')
    for op, dtype in [
        *itertools.product(('FULLY_CONNECTED', 'BATCH_MATMUL', 'CONV_2D'), ('int8', 'int16')),
        ('CONV_2D 1 x 1', 'int16'),
    ]:
        rows = [row for row in found if row[0] == f'{op} {dtype}']
        mac, output, worst = fit([[macs, outputs, count] for _, _, macs, outputs, count in rows])
        print(f'{rows[0][0]:24} {mac:.2f} a MAC and {output:.1f} an output, at most {worst:.1%} beside a count')
    # It sums the weights before the first row.
    rows = [row for row in found if row[0] == 'CONV_2D 1 x 1 int8']
    heights = [int(shapes[1:].partition(',')[0]) for _, shapes, *_ in rows]
    mac, output, weight, worst = fit(
        [[row[2], row[3], row[2] / height, row[4]] for row, height in zip(rows, heights, strict=True)]
    )
    print(
        f'{rows[0][0]:24} {mac:.2f} a MAC, {output:.1f} an output and {weight:.2f} a weight, '
        f'at most {worst:.1%} beside a count'
    )


def fit(rows: list[list[float]]) -> list[float]:
    """Instructions of each kind of work, of rows of work and, last, instructions; and the largest relative error."""
    table = np.array(rows)
    work = table[:, :-1] / table[:, -1:]
    prices, *_ = np.linalg.lstsq(work, np.ones(len(work)))
    return [*prices, np.abs(work @ prices - 1).max()]


if __name__ == '__main__':
    main()
