"""The output folder: written beside its place under a temporary name, and renamed when it is whole."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from jax_reparam import manifest, system
from jax_reparam.errors import InputError

# Whatever else lies in a folder is not ours, and would be lost with it.
OURS = frozenset(
    {manifest.FILE, manifest.CHECKPOINT, manifest.SAFETENSORS, manifest.LABELS, manifest.CARD, manifest.LAYERS}
    | {manifest.FILTERS, manifest.FRONTEND, manifest.WAVEFORM, manifest.FIRMWARE}
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

    It lies in `.OUT.fold`, which belongs to whoever holds its lock. What a killed process left is put right first.

    Raises:
      InputError: see `check`; or the folder cannot be made, or another process writes it.
      OSError: the disk is full, or the like; `out` is then as it was.
    """
    out = out.resolve()  # a link stays; what it points to is replaced
    work = out.with_name(f'.{out.name}.fold')
    new, old = work / 'new', work / 'old'
    with contextlib.ExitStack() as stack:
        stack.callback(_remove_empty, work)  # after the lock, which is in it
        try:
            stack.enter_context(system.alone(work, wait=False))
            _clear_up(out, new, old)
            check(out)
            new.mkdir()
        except system.HeldError as holder:
            raise InputError(f'{out}: expected a folder that nobody else writes, found {holder} writing it') from holder
        except OSError as error:
            reason = error.strerror or error
            raise InputError(f'{out}: expected a folder that can be written, found: {reason}') from error
        stack.callback(_clear_up, out, new, old)
        with system.naming(out):
            yield new
        if out.exists():
            out.rename(old)
        new.rename(out)


def _remove_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):  # somebody else has begun
        folder.rmdir()


def _clear_up(out: Path, new: Path, old: Path) -> None:
    """Removes what is half-written, and what was replaced; where nothing took its place, it goes back."""
    if old.exists() and not out.exists():
        old.rename(out)
    for leftover in (new, old):
        shutil.rmtree(leftover, ignore_errors=True)
