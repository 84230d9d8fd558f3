"""Scores every form of an exported model on labelled clips: python -m jax_reparam.verify OUT --clips CLIPS.

Exit code 0: every gate passed. 1: one failed (a line each on standard error). 2: bad input.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from jax_reparam import manifest
from jax_reparam.errors import run
from jax_reparam.verify import recordings, scores


def limit(text: str) -> tuple[str, float]:
    """An argument `NAME=VALUE`, for `argparse`'s `type`."""
    name, _, value = text.partition('=')
    if name not in scores.LIMITS:
        raise argparse.ArgumentTypeError(f'expected one of {", ".join(scores.LIMITS)}, found {name!r}')
    try:
        least = float(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f'{name}: expected a number, found {value!r}') from None
    if name != 'snr' and not 0 <= least <= 1:
        raise argparse.ArgumentTypeError(f'{name}: expected 0 to 1, found {value}')
    return name, least


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    command = argparse.ArgumentParser(
        prog='python -m jax_reparam.verify', description='Every form of an exported model on labelled clips.'
    )
    command.add_argument('folder', metavar='OUT', help='folder that fold.py wrote')
    command.add_argument(
        '--clips', required=True, help='folder LABEL/clip.wav, or a table with the columns path, label'
    )
    command.add_argument('--checkpoint', metavar='W', help='training folder or checkpoint: scored, and the reference')
    command.add_argument(
        '--fail-under',
        metavar='NAME=VALUE',
        nargs='+',
        action='extend',
        type=limit,
        default=[],
        help='least agreement (0 to 1), uar (0 to 1) or snr (dB) of every form, beside the gates',
    )
    command.add_argument('--json', action='store_true', help='print one JSON object instead of a table')
    return command


def main(argv: Sequence[str] | None = None) -> int:
    """Prints a row a form and runtime; every gate that failed is named on standard error."""
    args = parser().parse_args(argv)
    out = Path(args.folder)
    exported = manifest.load(out)
    labelled = recordings.load(recordings.listed(args.clips, exported.labels), exported.input)
    result = scores.score(out, exported, labelled, trained=args.checkpoint, limits=dict(args.fail_under))
    if args.json:
        print(json.dumps(dataclasses.asdict(result), indent=2, allow_nan=False))
    else:
        print(f'{result.clips} clips, {result.windows} windows, against {result.reference}')
        print('\n'.join(scores.table(result)))
    for note in result.notes:
        print(note, file=sys.stderr)
    for reason in result.failures:
        print(f'failed: {reason}', file=sys.stderr)
    return 1 if result.failures else 0


if __name__ == '__main__':
    run(main)
