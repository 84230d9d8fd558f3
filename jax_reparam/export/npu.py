"""Compiles an int8 model for an Ethos-U NPU with Vela, and reads what it says about it.

Vela (the PyPI package `ethos-u-vela`, of the extra `npu`) runs in a child process. An operator that it does not
place on the NPU runs on the processor beside it, so a form that is not placed as a whole fails.
"""

from __future__ import annotations

import csv
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from jax_reparam.errors import Error, InputError, need
from jax_reparam.graph import cost, flatbuffer
from jax_reparam.manifest import NPU, NPU_FILES, NPU_FORM, Failed, Placement, file_of

PACKAGE = 'ethosu'
_COUNTS = re.compile(r'^(CPU|NPU) operators = (\d+)', re.MULTILINE)
# Vela's notes on what it leaves to the processor.
_LEFT = re.compile(
    r'^Warning \(supported operators\) operator: (\w+), .*\nReason: (.*(?:\n(?!Warning)\S.*)?)', re.MULTILINE
)


class NPUError(Error):
    """Vela refused a model; the message is one line."""


def check(accelerator: str) -> None:
    """Checks that a model can be compiled here, before there is one.

    Raises:
      InputError: an unknown accelerator, or no Vela here.
    """
    if accelerator not in NPU_FILES:
        raise InputError(f'--npu: expected one of {", ".join(NPU_FILES)}, found {accelerator!r}')
    need('--npu', 'npu')


def write(place: Path, model: bytes, accelerator: str, *, passed: bool) -> tuple[NPU | None, dict[str, Failed]]:
    """Compiles the form `int8_npu` into a file of a folder.

    Where the form has not `passed` its gates no file is written, but it is said how it was placed.

    Returns:
      The manifest's `npu`, None where there is no file, and what failed, as in the manifest's `failed`.
    """
    try:
        compiled_model, placement = compiled(model, accelerator)
    except NPUError as error:
        return None, {'npu': Failed(reasons=(f'npu: {error}',))}
    reasons = failures(placement)
    if not passed:
        reasons.append(f'{accelerator}: expected {NPU_FORM} to pass its gates, found that it did not')
    if reasons:
        return None, {'npu': Failed(reasons=tuple(f'npu: {reason}' for reason in reasons), found=placement)}
    file = NPU_FILES[accelerator]
    (place / file).write_bytes(compiled_model)
    return NPU(**vars(file_of(file, compiled_model)), form=NPU_FORM, **vars(placement)), {}


def failures(placement: Placement) -> list[str]:
    """Why a model is not placed as a whole, a line for each kind of operator; empty where it is."""
    if not placement.cpu_ops:
        return []
    where = f'{placement.accelerator}: expected all operators on the NPU'
    named = [f'{where}, found {op} on the processor ({reason})' for op, reason in placement.left]
    return named or [f'{where}, found {placement.cpu_ops} on the processor']


def compiled(model: bytes, accelerator: str = 'ethos-u55-128', *, timeout: float = 600.0) -> tuple[bytes, Placement]:
    """Compiles an int8 .tflite file within `timeout` seconds; gives the compiled one, and what Vela says about it.

    Raises:
      InputError: an unknown accelerator, or no Vela here.
      NPUError: Vela refused the model, or did not come back.
    """
    check(accelerator)
    with tempfile.TemporaryDirectory(prefix='vela-') as name:
        folder = Path(name)
        (folder / 'model.tflite').write_bytes(model)
        command = [sys.executable, '-m', 'ethosu.vela', str(folder / 'model.tflite')]
        command += ['--accelerator-config', accelerator, '--output-dir', str(folder)]
        try:
            child = subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout, cwd=folder)
        except subprocess.TimeoutExpired:
            raise NPUError(f'{accelerator}: Vela did not end within {timeout:g} s') from None
        said = child.stdout + child.stderr
        summaries, output = list(folder.glob('*_summary_*.csv')), folder / 'model_vela.tflite'
        if child.returncode or not summaries or not output.is_file():
            raise NPUError(f'{accelerator}: Vela failed: {(said.strip().splitlines() or ["it said nothing"])[-1]}')
        result = output.read_bytes()
        # What is left to the processor stands in the compiled file as it was.
        share = 1 - _macs(result) / max(1, _macs(model))
        return result, read(accelerator, said, summaries[0].read_text(), share)


def _macs(model: bytes) -> int:
    return sum(map(cost.macs, flatbuffer.read(model).nodes))


def read(accelerator: str, said: str, summary: str, mac_share: float) -> Placement:
    """Reads Vela's messages and its summary, a CSV file of one row.

    Raises:
      NPUError: they are not as Vela 5.2 writes them.
    """
    counts = {kind: int(count) for kind, count in _COUNTS.findall(said)}
    row = next(csv.DictReader(summary.splitlines()), {})
    left = tuple(sorted({(op, ' '.join(reason.split())) for op, reason in _LEFT.findall(said)}))
    try:
        # Memories are in KiB, times in seconds.
        memory = {kind: float(row[f'{kind}_memory_used']) for kind in ('sram', 'on_chip_flash', 'off_chip_flash')}
        return Placement(
            accelerator=accelerator,
            npu_ops=counts['NPU'],
            cpu_ops=counts['CPU'],
            left=left,
            sram_bytes=round(1024 * memory['sram']),
            flash_bytes=round(1024 * (memory['on_chip_flash'] + memory['off_chip_flash'])),
            milliseconds=1000 * float(row['inference_time']),
            macs=int(row['nn_macs']),
            mac_share=mac_share,
            share=counts['NPU'] / max(1, counts['NPU'] + counts['CPU']),
        )
    except (KeyError, ValueError) as error:
        raise NPUError(f'{accelerator}: expected the summary of Vela 5.2, found none of {error}') from error
