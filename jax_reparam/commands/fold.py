"""Folds, exports and verifies a trained model: jax-reparam fold W OUT [options].

Exit code 0: float32 and a form for a microcontroller (and the NPU's) passed their gates, or were accepted, and lie in
OUT; what did not is named. 1: there is none. 2: bad input; OUT is as it was.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from jax_reparam import manifest
from jax_reparam.errors import count, need, user_path


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    command = argparse.ArgumentParser(
        prog='jax-reparam fold', description='Folds a trained model, exports it and verifies it.'
    )
    command.add_argument('trained', metavar='W', help='training folder, its checkpoints, or one checkpoint')
    command.add_argument(
        'out', type=user_path, metavar='OUT', help='folder to write; one that this command wrote before is replaced'
    )
    command.add_argument(
        '--source',
        metavar='CORPUS',
        help='where the corpus lies now (default: where it lay, else what W carries of it)',
    )
    command.add_argument('--windows', type=count, metavar='N', help='verify on at most N test windows (default: all)')
    command.add_argument('--plain', action='store_true', help='accept a model without HRF sites')
    command.add_argument(
        '--npu', choices=manifest.NPU_FILES, metavar='ACCELERATOR', help=f'compile for {", ".join(manifest.NPU_FILES)}'
    )
    command.add_argument(
        '--accept',
        action='append',
        default=[],
        choices=manifest.GATED,
        metavar='FORM',
        help='keep a form that runs but misses its gates (may be repeated): ' + ', '.join(manifest.GATED),
    )
    command.add_argument(
        '--prefer',
        choices=manifest.QUANTISED,
        metavar='FORM',
        help='the form to build the firmware around, if it passes: ' + ', '.join(manifest.QUANTISED),
    )
    bits = command.add_mutually_exclusive_group()
    bits.add_argument('--only-int8', action='store_true', help='int8 without operators of 16 bits: the least arena')
    bits.add_argument('--fast', action='store_true', help='int8 with all softmaxes in 16 bits: less time, more arena')
    command.add_argument('--quiet', action='store_true', help='no progress on standard error')
    return command


def main(argv: Sequence[str] | None = None) -> int:
    """Folds and exports, and says what lies where."""
    args = parser().parse_args(argv)
    need('fold', 'train', 'export')
    # After the arguments, so that --help answers at once.
    from absl import logging

    from jax_reparam.export import card, folding

    logging.set_verbosity(logging.ERROR)  # Orbax warns of what is meant to be.

    exported = folding.fold_and_export(
        args.trained,
        args.out,
        plain=args.plain,
        limit=args.windows,
        accelerator=args.npu,
        accept=args.accept,
        prefer=args.prefer,
        only_int8=args.only_int8,
        fast=args.fast,
        corpus=args.source,
        show_progress=not args.quiet,
    )
    for line in card.summary(exported.path, exported.manifest):
        print(line)
    for reason in exported.accepted:
        print(f'accepted: {reason}', file=sys.stderr)
    for reason in exported.failures:
        print(f'{"left out" if exported.usable else "failed"}: {reason}', file=sys.stderr)
    return 0 if exported.usable else 1
