"""What is installed here: jax-reparam doctor.

Exit code 0, whatever is missing.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import platform
import re
import sys
from collections.abc import Iterator, Sequence

from jax_reparam._version import __version__
from jax_reparam.errors import EXTRAS, absent, install, one_line
from jax_reparam.table import aligned

DISTRIBUTION = 'jax-reparam'


def parser() -> argparse.ArgumentParser:
    """The command's arguments: none."""
    return argparse.ArgumentParser(
        prog='jax-reparam doctor',
        description='Prints versions, the extras that are installed and how to install the others, devices, TFLM and '
        'PortAudio.',
    )


def packages() -> Iterator[tuple[str, str]]:
    """The distributions that users need, and their versions; '' of what is not installed."""
    try:
        required = importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:  # a checkout on PYTHONPATH
        required = []
    used = (line for line in required if not re.search(r'extra == .(dev|docs)\b', line))
    names = {re.split(r'[^\w.-]', line, maxsplit=1)[0] for line in used} - {DISTRIBUTION}
    for name in sorted(names, key=str.lower):
        try:
            yield name, importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield name, ''


def extras() -> Iterator[tuple[str, str]]:
    """Each extra, and whether it is here or the line that installs it."""
    for extra in dict.fromkeys(EXTRAS.values()):
        missing = absent(extra)
        yield extra, f'no {", ".join(missing)}: {install(extra)}' if missing else 'installed'


def devices() -> str:
    """What JAX computes on."""
    if importlib.util.find_spec('jax') is None:
        return 'no jax'
    import jax

    try:
        return ', '.join(f'{device.platform} {device.device_kind} {device.id}' for device in jax.devices())
    except RuntimeError as error:  # a plugin that finds no driver
        return one_line(error)


def port_audio() -> str:
    """The library that records a microphone."""
    if importlib.util.find_spec('sounddevice') is None:
        return 'no sounddevice'
    try:
        import sounddevice
    except OSError:
        return 'not found (Debian: apt install libportaudio2)'
    version: str = sounddevice.get_portaudio_version()[1]
    return version


def main(argv: Sequence[str] | None = None) -> int:
    """Prints a line per thing."""
    parser().parse_args(argv)
    from jax_reparam.runtime import tflm

    system = f'{platform.system()} {platform.machine()}'
    rows = [
        ('jax_reparam', __version__),
        ('Python', f'{platform.python_version()}, {system}, {sys.executable}'),
        *((name, version) for name, version in packages() if version),
        *((f'extra {extra}', told) for extra, told in extras()),
        ('devices', devices()),
        ('TFLM', (tflm.missing() or 'runs here').removeprefix('not verified: ')),
        ('PortAudio', port_audio()),
    ]
    print('\n'.join(line.rstrip() for line in aligned(rows, left=(0, 1))))
    return 0
