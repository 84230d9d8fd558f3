"""Prepares a corpus and checks it: python -m jax_reparam.prepare CORPUS [SOURCE]."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from jax_reparam import corpora
from jax_reparam.data.pipeline import cache_dir
from jax_reparam.errors import run


def main(argv: Sequence[str] | None = None) -> int:
    """Prepares the corpus and prints where its report lies."""
    command = argparse.ArgumentParser(
        prog='python -m jax_reparam.prepare',
        description='Prepares a corpus, checks it against its published counts, and writes a report.',
    )
    command.add_argument('corpus', metavar='CORPUS', help=', '.join(corpora.NAMES))
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
    args = command.parse_args(argv)
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


if __name__ == '__main__':
    run(main)
