"""Which clips train, which choose the checkpoint, and which test.

The test fold chooses nothing: validation speakers come out of the training speakers. All protocols but `random` keep
the three sets of speakers apart.
"""

from __future__ import annotations

import dataclasses
import difflib
from typing import Any

import numpy as np

from jax_reparam.corpora import Corpus
from jax_reparam.errors import InputError

NAMES = ('loso', 'speakers5', 'random')
DEFAULTS = {'emodb': 'loso'}
OVERLAP = 'speakers overlap'


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Clip indices of one fold, ascending int64 arrays, and what a result says about them.

    Attributes:
      train: clips to train on, `[n]`.
      validation: clips to choose the checkpoint by, `[n]`.
      test: clips to report, `[n]`.
      info: name, fold, folds, seed, {train,validation,test}_speakers, counts (clips per class of each set), note; fit
        for JSON.
    """

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    info: dict[str, Any]


def folds(corpus: Corpus, protocol: str = '') -> int:
    """How many folds a protocol has: as many as speakers for `loso`, at most 5 for `speakers5`, 1 for `random`."""
    return _count(_protocol(corpus, protocol), len(set(corpus.speaker)))


def split(corpus: Corpus, *, protocol: str = '', fold: int = 0, seed: int = 0) -> Split:
    """Splits a corpus into training, validation and test clips.

    `loso` leaves one speaker out: the fold-th speaker tests and the next one, cyclically, validates, so that over all
    folds every speaker does either once. `speakers5` deals the sorted speakers out like cards (fold k takes k, k + 5,
    ...; with fewer than 5 speakers a fold is one of them), which keeps both genders in a fold where they alternate, as
    in RAVDESS, and where they are grouped; the first two of the next fold's speakers validate (one, below 10 speakers).
    `random` takes 70 / 15 / 15 % of each label whoever speaks, and its note says 'speakers overlap'.

    Args:
      corpus: the corpus.
      protocol: one of `NAMES`; '' is `loso` for EMO-DB and `speakers5` for the others.
      fold: from 0 to `folds(corpus, protocol) - 1`.
      seed: what `random` draws by; the other protocols do not draw.

    Raises:
      InputError: an unknown protocol, a fold that does not exist, or too few speakers or clips.
    """
    name = _protocol(corpus, protocol)
    speakers = sorted(set(corpus.speaker))
    if name != 'random' and len(speakers) < 3:
        raise InputError(
            f'{corpus.name}: expected at least 3 speakers for protocol {name}, found {len(speakers)} '
            f'({", ".join(speakers)}); protocol random does without, and its results say {OVERLAP!r}'
        )
    count = _count(name, len(speakers))
    if not 0 <= fold < count:
        raise InputError(f'fold: expected 0 to {count - 1} for protocol {name} on {corpus.name}, found {fold}')
    if name == 'random':
        validation, test = _draw(corpus, seed)
    else:
        following = (fold + 1) % count
        keep = 2 if len(speakers) >= 10 else 1
        validation = np.isin(corpus.speaker, speakers[following::count][:keep])
        test = np.isin(corpus.speaker, speakers[fold::count])
    train = ~(validation | test)
    sets = {'train': train, 'validation': validation, 'test': test}
    counts = {
        key: {label: int(np.sum(corpus.label[chosen] == c)) for c, label in enumerate(corpus.labels)}
        for key, chosen in sets.items()
    }
    notes = [OVERLAP] if name == 'random' else []
    notes += [f'no training clip of {label}' for label, clips in counts['train'].items() if not clips]
    return Split(
        train=np.flatnonzero(train),
        validation=np.flatnonzero(validation),
        test=np.flatnonzero(test),
        info={
            'name': name,
            'fold': fold,
            'folds': count,
            'seed': seed,
            **{f'{key}_speakers': sorted({corpus.speaker[i] for i in np.flatnonzero(s)}) for key, s in sets.items()},
            'counts': counts,
            'note': '; '.join(notes),
        },
    )


def _protocol(corpus: Corpus, protocol: str) -> str:
    name = protocol or DEFAULTS.get(corpus.name, 'speakers5')
    if name not in NAMES:
        near = difflib.get_close_matches(name, NAMES, n=1)
        hint = f'; did you mean {near[0]!r}?' if near else ''
        raise InputError(f'protocol: expected one of {", ".join(NAMES)}, found {name!r}{hint}')
    return name


def _count(name: str, speakers: int) -> int:
    return {'loso': speakers, 'speakers5': min(5, speakers), 'random': 1}[name]


def _draw(corpus: Corpus, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Masks `[n]` of the validation and of the test clips, the same share of every label."""
    validation = np.zeros(len(corpus.label), bool)
    test = np.zeros(len(corpus.label), bool)
    for c, label in enumerate(corpus.labels):
        clips = np.flatnonzero(corpus.label == c)
        share = max(1, round(0.15 * len(clips)))
        if len(clips) < 3:
            raise InputError(
                f'{corpus.name}: expected at least 3 clips of {label!r} for protocol random, found {len(clips)}'
            )
        clips = np.random.default_rng([seed, c]).permutation(clips)
        validation[clips[:share]] = True
        test[clips[share : 2 * share]] = True
    return validation, test
