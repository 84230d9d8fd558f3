"""What exports take and how they decide: python benchmarks/exports.py OUT... --out FILE.

An OUT is a folder of `fold.py` that is named after its recipe. FILE is written anew, with one JSON line per quantised
form: its manifest's score in TFLM on the windows of the test speakers, bytes, arenas and estimated instructions.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jax_reparam import manifest


def lines(out: Path) -> Iterator[dict[str, Any]]:
    """One line per quantised form that TFLM ran."""
    found = manifest.load(out)
    windows = found.test.windows
    for name in manifest.QUANTISED:
        form = found.forms.get(name)
        if form is None or form.tflm is None or form.cost is None:
            continue
        uar, snr = form.tflm.uar, form.tflm.snr_db
        yield {
            'recipe': out.name,
            'form': name,
            'windows': windows,
            'same': windows - form.tflm.differing,
            'uar': None if uar is None else round(100 * uar, 1),
            'snr_db': None if snr is None else round(snr, 1),
            'bytes': form.bytes,
            'arena_bytes': form.tflm.arena_bytes,
            'device_arena_bytes': form.cost.arena_bytes,
            'nodes': sum(form.ops.values()),
            'instructions_m': round(form.cost.instructions / 1e6, 1),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('outs', nargs='+', type=Path, metavar='OUT')
    parser.add_argument('--out', required=True, type=Path, metavar='FILE')
    args = parser.parse_args()
    args.out.write_text(''.join(json.dumps(line) + '\n' for out in args.outs for line in lines(out)))


if __name__ == '__main__':
    main()
