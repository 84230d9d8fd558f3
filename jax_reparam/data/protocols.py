"""Which clips train, which choose the checkpoint, which test, and what is decided: protocols as data.

The test fold chooses nothing: validation speakers come out of the training speakers, or are the corpus's own. All
protocols but `random` keep the three sets of speakers apart; in `all` every clip trains. docs/corpora.md says why each
is as it is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from jax_reparam.config import ALL
from jax_reparam.corpora import Corpus
from jax_reparam.errors import InputError, known

OVERLAP = 'speakers overlap'
GROUPS_OVERLAP = 'the test speakers are heard in training as partners in dialog'
DEV = "scored on the corpus's own dev part"
NOTHING_HELD_OUT = 'every clip trains: this model has no score of its own'
# Share of the training speakers of each label that a drawn validation set takes.
DRAWN_SHARE = 0.2


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How a corpus is split and what a decision is.

    Attributes:
      apart: what never lies in two of the three sets (beside the speakers): 'speaker', 'group' (a session or series),
        or '' for clips, whoever speaks.
      test: 'dealt': the sorted speakers or groups are dealt out to the folds like cards (fold k takes k, k + folds,
        ...). 'drawn': a share of each label. '': no clip tests. Else the name of the corpus's own part that tests.
      folds: the number of folds of a dealt test; 0 is one for each speaker or group.
      validation: 'next': some speakers of the next fold. 'fold': all of the next fold. 'drawn': a share of each
        label, of training speakers, or of clips where nothing is apart. 'validation': the corpus's own part. '': no
        clip validates.
      unit: what is decided: a 'clip', or a 'speaker' by all clips of theirs.
      join: how the clips of a speaker make one decision: 'mean' of their probabilities, or 'vote'.
      turns: at most so many clips of each speaker are used, the longest; 0: all. One number for all speakers, in all
        three sets.
      metric: the one to name first, and to choose the checkpoint by: 'uar', 'wa', 'wf1' or 'macro_f1'.
    """

    apart: Literal['', 'speaker', 'group']
    test: Literal['', 'dealt', 'drawn', 'validation', 'test']
    folds: int = 1
    validation: Literal['', 'next', 'fold', 'drawn', 'validation'] = 'next'
    unit: Literal['clip', 'speaker'] = 'clip'
    join: Literal['mean', 'vote'] = 'mean'
    turns: int = 0
    metric: Literal['uar', 'wa', 'wf1', 'macro_f1'] = 'uar'


_INTERVIEWS = Protocol('speaker', 'validation', validation='drawn', unit='speaker', turns=30, metric='macro_f1')

PROTOCOLS = {
    'loso': Protocol('speaker', 'dealt', folds=0),
    'speakers5': Protocol('speaker', 'dealt', folds=5),
    'random': Protocol('', 'drawn', validation='drawn'),
    'sessions': Protocol('group', 'dealt', folds=0, validation='fold'),
    'own_split': Protocol('group', 'test', validation='validation', metric='wf1'),
    'interviews_dev': _INTERVIEWS,
    'interviews_test': dataclasses.replace(_INTERVIEWS, test='test'),
    # For a model that is given away; a decision is that of the corpus's own protocol.
    ALL: Protocol('', '', validation=''),
}
NAMES = tuple(PROTOCOLS)
# By the corpus's name before a slash; speakers5 for the others.
DEFAULTS = {
    'emodb': 'loso',
    'savee': 'loso',
    'iemocap': 'sessions',
    'm3ed': 'own_split',
    'daic_woz': 'interviews_dev',
}


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Clip indices of one fold, ascending int64 arrays, and what a result says about them.

    Attributes:
      train: clips to train on, `[n]`.
      validation: clips to choose the checkpoint by, `[n]`.
      test: clips to report, `[n]`.
      protocol: how it came about, and what is decided.
      info: name, fold, folds, seed, unit, join, turns, metric, {train,validation,test}_speakers, counts (clips per
        class of each set), note; fit for JSON.
    """

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    protocol: Protocol
    info: dict[str, Any]


def folds(corpus: Corpus, protocol: str = '') -> int:
    """How many folds a protocol has on a corpus: as many as speakers for `loso`, at most 5 for `speakers5`.

    Raises:
      InputError: an unknown protocol, too few speakers or sessions, or clips without a session.
    """
    name = _name(corpus, protocol)
    chosen = PROTOCOLS[name]
    if chosen.test != 'dealt':
        return 1
    units = sorted(set(_units(corpus, chosen)))
    what = 'speakers' if chosen.apart == 'speaker' else 'sessions'
    if chosen.apart == 'group' and '' in units:
        raise InputError(f'{corpus.name}: expected a session of every clip for protocol {name}, found clips without')
    if len(units) < 3:
        raise InputError(
            f'{corpus.name}: expected at least 3 {what} for protocol {name}, found {len(units)} '
            f'({", ".join(units)}); protocol random does without, and its results say {OVERLAP!r}'
        )
    return min(chosen.folds or len(units), len(units))


def split(
    corpus: Corpus,
    *,
    protocol: str = '',
    fold: int = 0,
    seed: int = 0,
    turns: int = 0,
    join: Literal['', 'mean', 'vote'] = '',
) -> Split:
    """Splits a corpus into training, validation and test clips.

    Args:
      corpus: the corpus.
      protocol: one of `NAMES`; '' is the corpus's own (`DEFAULTS`, else `speakers5`).
      fold: from 0 to `folds(corpus, protocol) - 1`.
      seed: what is drawn by; dealt tests and the corpus's own parts do not draw.
      turns: in place of the protocol's own; 0 keeps it.
      join: in place of the protocol's own; '' keeps it.

    Raises:
      InputError: an unknown protocol, a fold that does not exist, too few speakers, sessions or clips, or a corpus
        that lacks what the protocol holds apart.
    """
    name = _name(corpus, protocol)
    chosen = PROTOCOLS[name]
    if name == ALL:
        own = PROTOCOLS[_name(corpus, '')]
        decision = {key: getattr(own, key) for key in ('unit', 'join', 'turns', 'metric')}
        chosen = dataclasses.replace(chosen, **decision)
    if (turns or join) and chosen.unit != 'speaker':
        raise InputError(f'data.turns, data.join: expected a protocol that decides by speaker, found {name}')
    chosen = dataclasses.replace(chosen, turns=turns or chosen.turns, join=join or chosen.join)
    count = folds(corpus, name)
    if not 0 <= fold < count:
        raise InputError(f'fold: expected 0 to {count - 1} for protocol {name} on {corpus.name}, found {fold}')

    if name == ALL:
        train = np.ones(len(corpus), bool)
        validation = test = ~train
    elif chosen.test in ('dealt', 'drawn'):
        validation, test = _deal(corpus, chosen, fold, count) if chosen.test == 'dealt' else _draw(corpus, seed)
        train = ~(validation | test)
    else:
        train, test = _part(corpus, name, 'train'), _part(corpus, name, chosen.test)
        if chosen.validation == 'drawn':
            validation = _draw_speakers(corpus, name, train, seed)
            train &= ~validation
        else:
            validation = _part(corpus, name, chosen.validation)
    if chosen.turns:
        used = _longest(corpus, chosen.turns)
        train, validation, test = train & used, validation & used, test & used
    sets = {'train': train, 'validation': validation, 'test': test}
    if chosen.apart:
        _check_apart(corpus, name, chosen, sets)
    if chosen.unit == 'speaker':
        _speaker_labels(corpus, name, train | validation | test)

    counts = {
        key: {label: int(np.sum(corpus.label[part] == c)) for c, label in enumerate(corpus.labels)}
        for key, part in sets.items()
    }
    notes = [NOTHING_HELD_OUT] if name == ALL else [] if chosen.apart else [OVERLAP]
    groups = np.array(corpus.group)
    if chosen.apart == 'speaker' and np.intersect1d(groups[train | validation], groups[test & (groups != '')]).size:
        notes.append(GROUPS_OVERLAP)
    if chosen.test == 'validation':
        notes.append(DEV)
    for key, what in (('train', 'training'), ('validation', 'validation'), ('test', 'test')):
        missing = [label for label, clips in counts[key].items() if not clips]
        if missing and sets[key].any():
            notes.append(f'no {what} clip of {", ".join(missing)}')
    return Split(
        train=np.flatnonzero(train),
        validation=np.flatnonzero(validation),
        test=np.flatnonzero(test),
        protocol=chosen,
        info={
            'name': name,
            'fold': fold,
            'folds': count,
            'seed': seed,
            **{key: getattr(chosen, key) for key in ('unit', 'join', 'turns', 'metric')},
            **{f'{key}_speakers': sorted({corpus.speaker[i] for i in np.flatnonzero(s)}) for key, s in sets.items()},
            'counts': counts,
            'note': '; '.join(notes),
        },
    )


def _name(corpus: Corpus, protocol: str) -> str:
    return known('protocol', protocol or DEFAULTS.get(corpus.name.partition('/')[0], 'speakers5'), NAMES)


def _units(corpus: Corpus, protocol: Protocol) -> Sequence[str]:
    """What is dealt out, for each clip."""
    return corpus.group if protocol.apart == 'group' else corpus.speaker


def _deal(corpus: Corpus, protocol: Protocol, fold: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Masks `[n]` of the validation and of the test clips."""
    of_clip = np.array(_units(corpus, protocol))
    classes = {unit: set(corpus.label[of_clip == unit].tolist()) for unit in sorted(set(of_clip.tolist()))}
    units = _in_order(classes, count)
    tested = units[fold::count]
    test = np.isin(of_clip, tested)
    in_test = {group for group in np.array(corpus.group)[test].tolist() if group}
    others = [unit for unit in units if unit not in tested]
    everything = set.union(*(classes[unit] for unit in others))
    # One speaker who validates has all classes, or those that there are; but one of a patient or a control chooses by
    # one class alone.
    covers = protocol.validation == 'next' and (protocol.folds or all(len(classes[unit]) == 1 for unit in others))
    choices: list[tuple[bool, int, list[str]]] = []
    for step in range(1, count):
        start = (fold + step) % count
        following = units[start::count]
        drawn = [following]
        if protocol.validation == 'next':
            # The first of the next fold; a twelfth of all, but two of 10 or more, and one below.
            size = max(2 if len(units) >= 10 else 1, len(units) // 12)
            drawn = [following[:size]]
            if covers:
                among = following if protocol.folds else [u for u in (*units[start:], *units[:start]) if u in others]
                drawn.append(_covering(among, classes, len(drawn[0])))
        for chosen in drawn:
            # A partner in a dialog of the test speaker's would choose by a recording in which that one is heard.
            heard = not in_test.isdisjoint(np.array(corpus.group)[np.isin(of_clip, chosen)].tolist())
            # A class that is not trained is worse than all that do not choose.
            trained = (classes[unit] for unit in others if unit not in chosen)
            lacking = len(corpus.labels) * len(everything.difference(*trained)) if covers else 0
            lacking += len(everything.difference(*(classes[unit] for unit in chosen))) if covers else 0
            choices.append((heard, lacking, chosen))
        if choices[-1][:2] == (False, 0):
            break
    # Of equally good ones the first.
    _, _, validating = min(choices, key=lambda choice: choice[:2])
    return np.isin(of_clip, validating), test


def _in_order(classes: Mapping[str, set[int]], count: int) -> list[str]:
    """The speakers or sessions in the order in which they are dealt out: by name.

    Where some fold would then test without a class, they are dealt by their classes first, if that makes it fewer.
    """

    def lacking(units: Sequence[str]) -> int:
        of_fold = (set.union(*(classes[unit] for unit in units[fold::count])) for fold in range(count))
        return sum(len(everything - there) for there in of_fold)

    everything = set.union(*classes.values())
    by_name = sorted(classes)
    by_class = sorted(classes, key=lambda unit: (sorted(classes[unit]), unit))
    # With one in a fold another order only numbers the folds anew.
    return by_class if len(classes) > count and lacking(by_class) < lacking(by_name) else by_name


def _covering(units: Sequence[str], classes: Mapping[str, set[int]], size: int) -> list[str]:
    """At least `size` of the units, the first ones that add a class before the others."""
    chosen: list[str] = []
    there: set[int] = set()
    for unit in units:
        if classes[unit] - there:
            chosen.append(unit)
            there |= classes[unit]
    chosen += [unit for unit in units if unit not in chosen][: max(0, size - len(chosen))]
    return chosen


def _part(corpus: Corpus, name: str, part: str) -> np.ndarray:
    """The mask `[n]` of a part that the corpus itself names."""
    mask: np.ndarray = np.array(corpus.part) == part
    if not mask.any():
        raise InputError(f'{corpus.name}: expected clips of its own part {part!r} for protocol {name}, found none')
    return mask


def _longest(corpus: Corpus, turns: int) -> np.ndarray:
    """The mask `[n]` of every speaker's `turns` longest clips; all of theirs where there are fewer."""
    mask = np.zeros(len(corpus), bool)
    taken: dict[str, int] = {}
    # A stable order: of equally long clips the first by id.
    for clip in np.argsort(-corpus.seconds, kind='stable'):
        speaker = corpus.speaker[clip]
        taken[speaker] = taken.get(speaker, 0) + 1
        mask[clip] = taken[speaker] <= turns
    return mask


def _speaker_labels(corpus: Corpus, name: str, chosen: np.ndarray) -> dict[str, int]:
    """The one class of each speaker."""
    labels: dict[str, int] = {}
    for clip in np.flatnonzero(chosen):
        speaker, label = corpus.speaker[clip], int(corpus.label[clip])
        if labels.setdefault(speaker, label) != label:
            both = ', '.join(corpus.labels[c] for c in sorted((labels[speaker], label)))
            raise InputError(
                f'{corpus.name}: expected one label of speaker {speaker} for protocol {name}, found {both}'
            )
    return labels


def _draw_speakers(corpus: Corpus, name: str, among: np.ndarray, seed: int) -> np.ndarray:
    """The mask `[n]` of the clips of a share of the speakers of each label, drawn among those of `among`."""
    labels = _speaker_labels(corpus, name, among)
    drawn: list[str] = []
    for c, label in enumerate(corpus.labels):
        speakers = sorted(speaker for speaker, own in labels.items() if own == c)
        if len(speakers) < 2:
            raise InputError(
                f'{corpus.name}: expected at least 2 training speakers of {label!r} for protocol {name}, '
                f'found {len(speakers)}'
            )
        order = np.random.default_rng([seed, c]).permutation(len(speakers))
        drawn += [speakers[i] for i in order[: max(1, round(DRAWN_SHARE * len(speakers)))]]
    mask: np.ndarray = among & np.isin(corpus.speaker, drawn)
    return mask


def _check_apart(corpus: Corpus, name: str, protocol: Protocol, sets: dict[str, np.ndarray]) -> None:
    """Refuses a split in which a speaker, session or series lies on two sides (a corpus's own parts may be wrong)."""
    for what in sorted({'speaker', protocol.apart}):
        side: dict[str, str] = {}
        of_clip = getattr(corpus, what)
        for key, part in sets.items():
            for value in sorted({of_clip[i] for i in np.flatnonzero(part)}):
                if side.setdefault(value, key) != key:
                    raise InputError(
                        f'{corpus.name}: expected every {what} in one part for protocol {name}, '
                        f'found {value!r} in {side[value]} and {key}'
                    )


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
