"""Prepares a corpus and checks it: jax-reparam prepare CORPUS [SOURCE]."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from jax_reparam.config import CORPORA
from jax_reparam.errors import need


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    command = argparse.ArgumentParser(
        prog='jax-reparam prepare',
        description='Prepares a corpus, checks it against its published counts, and writes a report.',
    )
    command.add_argument('corpus', metavar='CORPUS', help=', '.join(CORPORA))
    command.add_argument('source', metavar='SOURCE', nargs='?', default='', help='its folder or table (none for synth)')
    command.add_argument(
        '--accept-mismatch', action='store_true', help='go on with a copy that has other counts than the published one'
    )
    command.add_argument(
        '--cache', metavar='DIR', default='', help='default: $JAX_REPARAM_CACHE, else ~/.cache/jax_reparam'
    )
    command.add_argument('--beam-runner', metavar='NAME', default='', help='prepare on Apache Beam, e.g. DirectRunner')
    command.add_argument(
        '--beam-option',
        metavar='FLAG',
        action='append',
        default=[],
        help='a flag of the runner, --beam-option=--direct_num_workers=2; may be repeated',
    )
    return command


def main(argv: Sequence[str] | None = None) -> int:
    """Prepares the corpus and prints where its report lies."""
    args = parser().parse_args(argv)
    need('prepare', 'train')
    from jax_reparam import corpora
    from jax_reparam.data.pipeline import cache_dir

    corpus = corpora.prepare(
        args.corpus,
        source=args.source,
        data_dir=cache_dir(args.cache),
        accept_mismatch=args.accept_mismatch,
        beam_runner=args.beam_runner,
        beam_options=args.beam_option,
    )
    print(corpus.report)
    return 0
