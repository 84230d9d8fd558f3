"""Counts models on QEMU's boards, with the sources of TFLM and CMSIS-NN.

    python benchmarks/boards.py --tflm TREE OUT ...

TREE is one in which TFLM's make has built its library for these processors (docs/board.md). Of each folder of `fold.py`
and each form the firmware's `examples/qemu` is built and run: the golden test, instructions of a frame and of a window,
and the arenas, each beside what was estimated or set aside. Each is a line of JSON; --out puts them into a file, in
place of earlier lines of the same model, form and board (benchmarks/results/boards.jsonl).

With --nodes the models alone are run, on the Cortex-M4F and the window of the golden vectors: instructions of each
model (with --out a line of benchmarks/results/nodes.jsonl) and of each kind of node beside the estimate, and the prices
that fit them best (`jax_reparam/graph/cost.py`). A .tflite file may then stand for OUT; its input is noise.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import json
import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jax_reparam import manifest
from jax_reparam.device import firmware, registrations
from jax_reparam.errors import InputError
from jax_reparam.graph import cost, flatbuffer
from jax_reparam.graph.graph import Graph
from jax_reparam.table import aligned

HERE = Path(__file__).parent
# By QEMU's name: the processor, as TFLM's make and GCC call it, and where the large memory is.
BOARDS = {
    'mps2-an386': ('Cortex-M4F', 'cortex-m4+fp', 'cortex-m4', '0x21000000'),
    'mps3-an547': ('Cortex-M55', 'cortex-m55', 'cortex-m55', '0x60000000'),
}
ARENA_BYTES = 4 * 2**20


def ran(command: Sequence[str | Path]) -> str:
    """What a command printed; its own messages where it failed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode and not done.stdout:
        raise InputError(f'{command[0]}: {done.stderr.strip()[-600:]}')
    return done.stdout


def write_firmware(out: Path, form: str, place: Path) -> manifest.Firmware:
    """The firmware of one form, as `fold.py --prefer` writes it."""
    found = manifest.load(out)
    model, frontend = ((out / file).read_bytes() for file in (manifest.FORM_FILES[form], manifest.FRONTEND))
    return firmware.write(place, form=form, model=model, frontend=frontend, labels=found.labels, inputs=found.input)


def example(folder: Path, board: str, tflm: Path, place: Path) -> dict[str, Any]:
    """Builds and runs `examples/qemu`; what it printed, as fields of a line."""
    ran(['cmake', '-S', folder / 'examples/qemu', '-B', place, f'-DBOARD={board}', f'-DTFLM_ROOT={tflm}'])
    printed = ran(['cmake', '--build', place, '--target', 'run'])
    numbers = r'arenas: model (\d+) of (\d+) bytes, frontend (\d+) of (\d+) bytes'
    arenas = re.search(numbers, printed)
    instructions = re.search(r'frame (\d+), window (\d+); estimated (\d+) and (\d+)', printed)
    if arenas is None or instructions is None:
        raise InputError(f'{board}: expected arenas and instructions, found {printed.strip()[-400:]!r}')
    logits = re.findall(r'^logits of .*: (.*)$', printed, re.MULTILINE)
    fields = ('model_used', 'model_reserved', 'frontend_used', 'frontend_reserved')
    counts = ('frame', 'window', 'frame_estimated', 'window_estimated')
    return {
        'passed': re.search('^PASS$', printed, re.MULTILINE) is not None,
        'logits': logits[0] if len(set(logits)) == 1 else '; '.join(logits),
        **dict(zip(counts, map(int, instructions.groups()), strict=True)),
        **dict(zip(fields, map(int, arenas.groups()), strict=True)),
    }


def nodes(model: bytes, window: np.ndarray, tflm: Path, place: Path) -> list[int]:
    """Instructions of each node of a model over one input, on the Cortex-M4F."""
    _, arch, chip, memory = BOARDS['mps2-an386']
    sources = Path(firmware.__file__).parent / 'sources'
    libraries = list(tflm.glob(f'gen/cortex_m_generic_{arch}*/lib/libtensorflow-microlite.a'))
    if not libraries:
        raise InputError(f'{tflm}: expected gen/cortex_m_generic_{arch}*/lib/libtensorflow-microlite.a, found none')
    count = len(flatbuffer.read(model).nodes)
    (place / 'op_resolver.h').write_text(firmware.resolver({'Model': registrations.registrations(model)}))
    (place / 'boards_data.h').write_text(
        'namespace emotion {\n'
        f'constexpr int kNodes = {count}, kArenaBytes = {ARENA_BYTES};\n'
        f'alignas(16) const unsigned char kModel[] = {{{",".join(map(str, model))}}};\n'
        f'alignas(16) const unsigned char kInput[] = {{{",".join(map(str, window.tobytes()))}}};\n'
        '}  // namespace emotion\n'
    )
    downloads = tflm / 'tensorflow/lite/micro/tools/make/downloads'
    below = ('flatbuffers/include', 'gemmlowp', 'ruy', 'kissfft')
    include: list[Path] = [place, sources, tflm, downloads, *(downloads / name for name in below)]
    flags = f'-mcpu={chip} -mthumb -mfloat-abi=hard -mfpu=auto --specs=nano.specs --specs=rdimon.specs -Os'.split()
    start, program = place / 'start.o', place / 'boards.elf'
    ran(['arm-none-eabi-gcc', *flags, '-c', sources / 'examples/qemu/start.c', '-o', start])
    flags += ['-std=c++17', '-fno-exceptions', '-fno-rtti', '-fno-threadsafe-statics']
    flags += ['-DCMSIS_NN', '-DTF_LITE_STATIC_MEMORY', *(f'-I{folder}' for folder in include)]
    link: list[str | Path] = [
        '-T',
        sources / 'examples/qemu/board.ld',
        f'-Wl,--gc-sections,--defsym=RAM_AT={memory}',
        '-lm',
    ]
    ran(['arm-none-eabi-g++', *flags, HERE / 'boards.cc', start, libraries[0], *link, '-o', program])
    quiet = ['-display', 'none', '-serial', 'none', '-monitor', 'none']
    command = ['qemu-system-arm', '-M', 'mps2-an386', '-icount', 'shift=0', *quiet]
    printed = ran([*command, '-semihosting-config', 'enable=on,target=native', '-kernel', program])
    found = [int(number) for number in re.findall(r'^node \S+ (\d+)$', printed, re.MULTILINE)]
    if len(found) != count:
        raise InputError(f'mps2-an386: expected instructions of {count} nodes, found {printed.strip()[-400:]!r}')
    return found


@dataclasses.dataclass(frozen=True)
class Counted:
    """A node of a model: its work, and the instructions that it took."""

    work: cost.Work
    instructions: int


# Of `cost.Work`, and the field of `cost.Price` that each is multiplied by.
TERMS = {'units': 'instructions', 'outputs': 'per_output', 'weights': 'per_weight', 'rows': 'per_row'}


def fitted(group: Sequence[Counted]) -> dict[str, float]:
    """Prices of one kind of node, none negative, by the field of `cost.Price`: least squares of the instructions.

    Weighted so that large nodes count more, but not alone. Terms that would be negative are left out, one at a time.
    """
    work = np.array([[getattr(one.work, term) for term in TERMS] for one in group], float)
    counted = np.array([one.instructions for one in group], float)
    weight = 1 / np.sqrt(counted)
    used = [place for place in range(len(TERMS)) if work[:, place].any()]
    prices = np.zeros(0)
    while used:
        prices, *_ = np.linalg.lstsq(work[:, used] * weight[:, None], counted * weight)
        if (prices >= 0).all():
            break
        del used[int(prices.argmin())]
    fields = list(TERMS.values())
    return {fields[place]: float(price) for place, price in zip(used, prices, strict=True)}


def kinds(counted: Sequence[Counted]) -> list[list[str]]:
    """A row for each kind of node: counted, estimated, their ratio, and the prices that fit."""
    groups: dict[tuple[str, str, bool], list[Counted]] = collections.defaultdict(list)
    for one in counted:
        price = cost.PRICES[one.work.dtype].get(one.work.op, cost.OTHERS)
        groups[one.work.dtype, one.work.op, one.work.spread and price.spread is not None].append(one)
    rows = [['operator', 'nodes', 'counted', 'estimated', 'ratio', 'prices that fit']]
    for (dtype, op, spread), group in sorted(groups.items()):
        price = cost.PRICES[dtype].get(op, cost.OTHERS)
        found, estimated = sum(one.instructions for one in group), sum(one.work.instructions(price) for one in group)
        fit = ', '.join(f'{name} {value:.4g}' for name, value in fitted(group).items())
        name = f'{op} {dtype}{", spread" if spread else ""}'
        rows.append([name, f'{len(group)}', f'{found:,}', f'{estimated:,.0f}', f'{estimated / found:.3f}', fit])
    return rows


def window_of(out: Path, form: str, graph: Graph) -> np.ndarray:
    """The input of the golden vectors: their codes, repeated until a window is full."""
    inputs = manifest.load(out).input
    codes = np.load(out / manifest.FIRMWARE / 'golden/codes.npy')
    return graph.input.encode(inputs.hear(np.resize(codes, (inputs.window.frames, codes.shape[1]))).features)


def print_nodes(sources: Sequence[Path], forms: Sequence[str], tflm: Path, path: Path | None) -> None:
    """Counts models node by node, and prints each model's sum and all kinds of nodes; the sums go into a file, too."""
    models = [(out, form) for out in sources for form in (forms if out.is_dir() else [''])]
    rows, counted = [['model', 'counted', 'estimated', 'ratio']], []
    for out, form in models:
        model = (out / manifest.FORM_FILES[form] if form else out).read_bytes()
        graph = flatbuffer.read(model)
        noise = np.random.default_rng(0).integers(-128, 128, graph.input.shape)
        window = window_of(out, form, graph) if form else noise.astype(graph.input.dtype)
        with tempfile.TemporaryDirectory() as folder:
            instructions = nodes(model, window, tflm, Path(folder))
        counted += [Counted(cost.work_of(node), each) for node, each in zip(graph.nodes, instructions, strict=True)]
        found, estimated = sum(instructions), cost.of_graph(graph).instructions
        key = {'model': out.name, 'form': form}
        if path:
            keep(path, key, {**key, 'counted': found, 'estimated': estimated})
        rows.append([f'{out.name} {form}', f'{found:,}', f'{estimated:,}', f'{estimated / found:.3f}'])
    print('\n'.join(aligned(rows, left=(0,))), '', '\n'.join(aligned(kinds(counted), left=(0, 5))), sep='\n')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('sources', metavar='OUT', nargs='+', type=Path)
    parser.add_argument('--tflm', metavar='TREE', required=True, type=Path, help='a tree of TFLM, built')
    parser.add_argument('--form', choices=manifest.QUANTISED, action='append', help='of each model; more than once')
    parser.add_argument('--board', choices=BOARDS, action='append', help='more than once')
    parser.add_argument('--nodes', action='store_true', help='count node by node on the Cortex-M4F')
    parser.add_argument('--out', type=Path, metavar='FILE', help='put the lines into this file')
    args = parser.parse_args()
    forms, tflm = args.form or list(manifest.QUANTISED), args.tflm.resolve()
    if args.nodes:
        print_nodes(args.sources, forms, tflm, args.out)
        return
    for source in args.sources:
        for form in forms:
            with tempfile.TemporaryDirectory() as folder:
                write_firmware(source, form, Path(folder))
                for board in args.board or BOARDS:
                    key = {'model': source.name, 'form': form, 'board': BOARDS[board][0]}
                    place = Path(folder) / board
                    line = {**key, **example(Path(folder) / manifest.FIRMWARE, board, tflm, place)}
                    print(json.dumps(line), flush=True)
                    if args.out:
                        keep(args.out, key, line)


def keep(path: Path, key: dict[str, Any], line: dict[str, Any]) -> None:
    """Puts a line into a file, where the one with the same key was, or at its end."""
    lines = [json.loads(text) for text in path.read_text().splitlines()] if path.exists() else []
    same = [all(each.get(name) == value for name, value in key.items()) for each in lines]
    place = same.index(True) if True in same else len(lines)
    lines[place : place + 1] = [line]
    text = ''.join(json.dumps(each) + '\n' for each in lines)
    whole = path.with_name(f'{path.name}.part')
    whole.write_text(text)
    whole.replace(path)


if __name__ == '__main__':
    main()
