"""The output folder: written beside its place under a temporary name, and renamed when it is whole."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from jax_reparam import manifest
from jax_reparam.errors import InputError

# Whatever else lies in a folder is not ours, and would be lost with it.
OURS = frozenset(
    {manifest.FILE, manifest.CHECKPOINT, manifest.SAFETENSORS, manifest.LABELS, manifest.CARD, manifest.LAYERS}
    | {manifest.FRONTEND, manifest.WAVEFORM, manifest.FIRMWARE}
    | {*manifest.FORM_FILES.values(), *manifest.NPU_FILES.values()}
)


def check(out: Path) -> None:
    """Checks that a folder may be written, or replaced.

    Raises:
      InputError: it is no folder, or holds something that `fold.py` did not write.
    """
    if not out.exists():
        return
    if not out.is_dir():
        raise InputError(f'{out}: expected a folder, found a file')
    found = sorted(child.name for child in out.iterdir())
    if not found:
        return
    strange = [name for name in found if name not in OURS]
    if manifest.FILE not in found or strange:
        raise InputError(
            f'{out}: expected a new or empty folder, or one that fold.py wrote, found {(strange or found)[0]!r} in it'
        )
    manifest.read(out, older=True)  # which to export anew is the way on


@contextlib.contextmanager
def replaced(out: Path) -> Iterator[Path]:
    """Yields an empty folder beside `out` that takes its place when the block ends well, and is removed when it fails.

    Raises:
      InputError: see `check`; or the folder cannot be made.
      OSError: the disk is full, or the like; `out` is then as it was.
    """
    out = out.resolve()  # a link stays; what it points to is replaced
    new, old = (out.with_name(f'.{out.name}.{os.getpid()}.{kind}') for kind in ('new', 'old'))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _clear_up(out)
        check(out)
        new.mkdir()
    except OSError as error:
        raise InputError(f'{out}: expected a folder that can be written, found: {error.strerror or error}') from error
    try:
        yield new
        if out.exists():
            out.rename(old)
        try:
            new.rename(out)
        except OSError:
            if old.exists():
                old.rename(out)
            raise
    finally:
        for leftover in (new, old):
            shutil.rmtree(leftover, ignore_errors=True)


def _clear_up(out: Path) -> None:
    """Puts right what a run that was killed left beside `out`: a half-written folder, or `out` itself, moved away."""
    for kind in ('old', 'new'):
        for stale in out.parent.glob(f'.{out.name}.*.{kind}'):
            process = stale.name.split('.')[-2]
            if process.isdigit() and not _runs(int(process)):
                if kind == 'old' and not out.exists():
                    stale.rename(out)
                else:
                    shutil.rmtree(stale)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
