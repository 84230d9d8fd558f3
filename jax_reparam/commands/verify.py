"""Scores every form of an exported model on labelled clips: jax-reparam verify OUT --clips CLIPS.

With --field also what is left of the decisions where microphone, room, line and voice are others (`field/`); that
is reported, and no gate.

Exit code 0: every gate passed. 1: one failed (a line each on standard error). 2: bad input.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jax_reparam import errors, manifest, scores, threads
from jax_reparam.field import recordings, robustness
from jax_reparam.field.recordings import Recordings
from jax_reparam.manifest import Manifest
from jax_reparam.runtime import litert, tflm

# Of `--fail-under`, for the rows of the field test.
KEPT = 'kept'


def limit(text: str) -> tuple[str, float]:
    """An argument `NAME=VALUE`, for `argparse`'s `type`."""
    name, _, value = text.partition('=')
    if name not in (*scores.LIMITS, KEPT):
        raise argparse.ArgumentTypeError(f'expected one of {", ".join((*scores.LIMITS, KEPT))}, found {name!r}')
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
        prog='jax-reparam verify', description='Every form of an exported model on labelled clips.'
    )
    command.add_argument('folder', metavar='OUT', help='folder that fold.py wrote')
    command.add_argument(
        '--clips', required=True, help='folder LABEL/clip.wav, or a table with the columns path, label (and speaker)'
    )
    command.add_argument('--checkpoint', metavar='W', help='training folder or checkpoint: scored, and the reference')
    command.add_argument(
        '--fail-under',
        metavar='NAME=VALUE',
        nargs='+',
        action='extend',
        type=limit,
        default=[],
        help='least agreement (0 to 1), uar (0 to 1) or snr (dB) of every form, beside the gates; kept (0 to 1) in '
        'every row of the field test',
    )
    command.add_argument('--field', action='store_true', help='also the field test, of one form and of float32')
    command.add_argument(
        '--form', choices=list(manifest.FORM_FILES), help='that of the field test; default: the one that OUT recommends'
    )
    command.add_argument(
        '--field-tflm',
        metavar='N',
        type=errors.count,
        help='the form of the field test also in TFLM, on N of the clips',
    )
    command.add_argument('--json', action='store_true', help='print one JSON object instead of a table')
    return command


def main(argv: Sequence[str] | None = None) -> int:
    """Prints a row a form and runtime; every gate that failed is named on standard error."""
    command = parser()
    args = command.parse_args(argv)
    limits = dict(args.fail_under)
    kept = limits.pop(KEPT, None)
    for flag, value in (('--form', args.form), ('--field-tflm', args.field_tflm), (f'--fail-under {KEPT}', kept)):
        if value is not None and not args.field:
            command.error(f'{flag} is of the field test: expected --field')
    out = Path(args.folder)
    exported = manifest.load(out)
    # Before all that takes time.
    if args.field:
        manifest.open_form(out, args.form)
    if args.field_tflm is not None:
        tflm.need('--field-tflm')
    labelled = recordings.load(recordings.listed(args.clips, exported.labels), exported.input)
    result = scores.score(out, exported, labelled, trained=args.checkpoint, limits=limits)
    failures, notes = list(result.failures), list(result.notes)
    field = None
    if args.field:
        field = in_the_field(out, exported, labelled, args.form, args.field_tflm)
        if kept is not None:
            failures += robustness.below(field.changes, kept)
            notes += robustness.untested(field.changes)
        if not field.voice:
            reason = 'no column speaker' if labelled.speaker is None else 'no speaker has two clips with speech'
            notes.append(f'no voices table: {reason}')
    if args.json:
        content = {**dataclasses.asdict(result), 'failures': failures, 'notes': notes}
        if field is not None:
            content['field'] = dataclasses.asdict(field)
        print(json.dumps(content, indent=2, allow_nan=False))
    else:
        silent = f', {result.no_speech} without speech' if result.no_speech else ''
        print(f'{result.clips} clips{silent}, {result.windows} windows, against {result.reference}')
        print('\n'.join(scores.table(result)))
        if field is not None:
            print('\n'.join(['', *robustness.table(field)]))
    for note in notes:
        print(note, file=sys.stderr)
    for reason in failures:
        print(f'failed: {reason}', file=sys.stderr)
    return 1 if failures else 0


def in_the_field(
    out: Path, exported: Manifest, labelled: Recordings, form: str | None = None, in_tflm: int | None = None
) -> robustness.Field:
    """The field test of a form and of float32 in LiteRT, and of the form in TFLM on `in_tflm` of the recordings.

    Raises:
      InputError: no such form.
    """
    _, name, model = manifest.open_form(out, form)
    models = {name: model}
    if 'float32' in exported.forms:
        models['float32'] = manifest.read_file(out, exported.forms['float32'])
    labels, workers = exported.labels, threads.cores(len(labelled.samples))
    engines = [{name: litert.load(content) for name, content in models.items()} for _ in range(workers)]
    all_engines, some, count = engines, {}, len(labelled.samples)
    with contextlib.ExitStack() as stack:
        if in_tflm is not None:
            sessions = [stack.enter_context(tflm.started(model)) for _ in range(workers)]
            as_device = f'{name} in TFLM'
            some[as_device] = np.unique(np.linspace(0, count - 1, min(in_tflm, count)).round().astype(int)).tolist()
            all_engines = [
                {**engine, as_device: robustness.one_by_one(session.run)}
                for engine, session in zip(engines, sessions, strict=True)
            ]
        rows = robustness.run(all_engines, labelled, labels, some=some)
    return robustness.Field(rows, robustness.silences(exported.input), robustness.known(engines, labelled, labels))
