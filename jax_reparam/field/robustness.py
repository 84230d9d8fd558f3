"""The field test: what is left of a model's decisions when microphone, room, line and voice are others.

Each recording is changed as `CHANGES` says, and decided as `predict` decides it. No gate of an export reads this.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np

from jax_reparam import threads
from jax_reparam.evaluation import decide, decisions, metrics, softmax
from jax_reparam.field.changes import BABBLE_VOICES, CHANGES, SILENCES, Change, Silence
from jax_reparam.field.recordings import Recordings
from jax_reparam.frontend import speech
from jax_reparam.frontend.inputs import Input
from jax_reparam.frontend.voice import Profile
from jax_reparam.progress import Progress
from jax_reparam.table import aligned

SEED = 0
# Changes that a model card has, and what it calls them.
SUMMARY = {
    'level-30': 'quiet voice',
    'zeros-around': 'silence around it',
    'white-20': 'noise',
    'telephone': 'telephone line',
    'room-0.3': 'room with echo',
}
# Seconds of a voice's speech that are known.
SECONDS = (5, 10, 30, 60)
# The label of what a user mostly says.
NEUTRAL = 'neutral'
# Recordings of others that a change may draw from.
OTHERS = 8

# Logits `[W, C]` of windows `[W, frames, M]`.
Logits = Callable[[np.ndarray], np.ndarray]
# Models by name, for one thread: LiteRT's and TFLM's run one window at a time.
Engine = Mapping[str, Logits]


_E = TypeVar('_E')
_T = TypeVar('_T')
_R = TypeVar('_R')


@dataclasses.dataclass(frozen=True)
class Row:
    """One model on one change.

    Attributes:
      change: its name in `changes.CHANGES`.
      model: its name.
      clips: recordings that were changed.
      skipped: others, to which the change does not apply.
      no_speech: changed recordings in which nobody was found to speak; a decision that is lost, and a wrong one.
      kept: share of decisions that are the same.
      uar_before: on the same recordings, unchanged.
      uar: on the changed ones.
      keep: least share, as published; None: nothing is.
      uar_loss: largest loss, as published.
      passed: whether it is within both; None where nothing is published.
      as_first: share of changed clips that are decided as by the first of the models; None for that model.
    """

    change: str
    model: str
    clips: int
    skipped: int
    no_speech: int = 0
    kept: float | None = None
    uar_before: float | None = None
    uar: float | None = None
    keep: float | None = None
    uar_loss: float | None = None
    passed: bool | None = None
    as_first: float | None = None


@dataclasses.dataclass(frozen=True)
class Silent:
    """A sound without speech: how many of its windows were called speech, but for those in which noise begins."""

    sound: str
    windows: int
    called_speech: int


@dataclasses.dataclass(frozen=True)
class Known:
    """One model when some of a voice is known.

    Attributes:
      model: its name.
      history: 'random' clips of the speaker, or only `NEUTRAL` ones; never the one that is decided.
      seconds: of speech that were asked for.
      learned_seconds: that the speakers' clips had, on average.
      clips: whose speakers have such clips.
      uar_before: on the same clips, before anything is known.
      uar: after.
    """

    model: str
    history: str
    seconds: float
    learned_seconds: float
    clips: int
    uar_before: float
    uar: float


@dataclasses.dataclass(frozen=True)
class Field:
    """What `--json` prints."""

    changes: list[Row]
    silences: list[Silent]
    voice: list[Known]


def run(
    engines: Sequence[Engine],
    recordings: Recordings,
    labels: Sequence[str],
    *,
    changes: Sequence[Change] = CHANGES,
    some: Mapping[str, Collection[int]] | None = None,
    seed: int = SEED,
    show_progress: bool = True,
) -> list[Row]:
    """Changes every recording in every way, and decides on all of them.

    Args:
      engines: the same models for each thread.
      recordings: whose `inputs` are those of the models.
      labels: of the models' classes.
      changes: those that are tried.
      some: of models that decide on some clips alone, which; the first model decides on all.
      seed: a change draws by it, by its own name, and by the place of the recording.
      show_progress: report on standard error.
    """
    inputs, clips = recordings.inputs, range(len(recordings.samples))
    clips_of = dict.fromkeys(engines[0], clips) | dict(some or {})

    def one(engine: Engine, item: tuple[Change | None, int]) -> dict[str, np.ndarray] | None:
        change, clip = item
        samples: np.ndarray | None = recordings.samples[clip]
        if change is not None:
            rng = np.random.default_rng((seed, zlib.crc32(change.name.encode()), clip))
            samples = change.apply(recordings.samples[clip], rng, _others(recordings, clip, rng))
        models = {name: logits for name, logits in engine.items() if clip in clips_of[name]}
        return None if samples is None else _decide(models, labels, inputs, inputs.codes(samples))

    items = [(change, clip) for change in (None, *changes) for clip in clips]
    found = _in_threads(engines, one, items, 'field test', show_progress)
    before, rows = [next(found) for _ in clips], []
    for change in changes:
        after = [next(found) for _ in clips]
        rows += [_row(change, name, labels, recordings.truth, before, after, own) for name, own in clips_of.items()]
    return rows


def one_by_one(logits: Callable[[np.ndarray], np.ndarray]) -> Logits:
    """Of a function from one window `[frames, M]` to `[C]`, as TFLM's are, one of windows."""
    return lambda windows: np.stack([logits(window) for window in windows])


def unscored(row: Row) -> Row:
    """The row of clips that the model has learned, of which UAR says nothing: what is left is which decisions stay."""
    passed = None if row.kept is None or row.keep is None else row.kept >= row.keep
    return dataclasses.replace(row, uar_before=None, uar=None, uar_loss=None, passed=passed)


def summary(
    engines: Sequence[Engine], recordings: Recordings, labels: Sequence[str], *, show_progress: bool = True
) -> list[Row]:
    """The rows that a model card has."""
    changes = [change for change in CHANGES if change.name in SUMMARY]
    return run(engines, recordings, labels, changes=changes, show_progress=show_progress)


def silences(
    inputs: Input, sounds: Sequence[Silence] = SILENCES, *, seed: int = SEED, show_progress: bool = True
) -> list[Silent]:
    """Listens to sounds without speech, each as a stream; this needs no model."""
    frontend, rule = inputs.frontend, inputs.rule

    def one(_: None, sound: Silence) -> Silent:
        codes = inputs.codes(sound.make(np.random.default_rng((seed, zlib.crc32(sound.name.encode())))))
        found = list(speech.windows_of(codes, inputs.window, rule))
        called = 0
        for start, heard in found:
            first = start * frontend.hop_length
            end = first + (len(heard.mask) - 1) * frontend.hop_length + frontend.frame_length
            begins = sound.onset is not None and first < sound.onset < end
            called += bool(heard.there) and not begins
        return Silent(sound.name, len(found), called)

    engines = [None] * threads.cores(len(sounds))
    return list(_in_threads(engines, one, list(sounds), 'silence', show_progress))


def known(
    engines: Sequence[Engine],
    recordings: Recordings,
    labels: Sequence[str],
    *,
    seconds: Sequence[float] = SECONDS,
    seed: int = SEED,
    show_progress: bool = True,
) -> list[Known]:
    """Decides on each clip when others of its speaker are known, in an order drawn for it; none without speakers.

    Seconds that no clip's others have are left out.
    """
    if recordings.speaker is None:
        return []
    inputs, truth, speaker = recordings.inputs, recordings.truth, np.array(recordings.speaker)
    codes = recordings.codes

    # A copy of a clip is that clip.
    heard = np.array([hash(own.tobytes()) for own in codes])
    whole = [inputs.learned(own, most=len(own)) for own in codes]
    histories = {'random': speaker != ''}
    if NEUTRAL in labels:
        histories[NEUTRAL] = histories['random'] & (truth == list(labels).index(NEUTRAL))

    def profile(clip: int, order: Iterable[int], most: int) -> Profile:
        known = Profile.empty(inputs.frontend.n_mels)
        for other in order:
            more = whole[other]
            if known.frames + more.frames > most:
                return inputs.learned(codes[other], known, most=most)
            known = Profile(known.sums + more.sums, known.frames + more.frames)
        return known

    def one(engine: Engine, item: tuple[int, Profile | None]) -> dict[str, np.ndarray]:
        return _decide(engine, labels, inputs, codes[item[0]], item[1])

    items: list[tuple[int, Profile | None]] = []
    plan: list[tuple[str, float, np.ndarray, float]] = []
    for history, usable in histories.items():
        others = [
            np.flatnonzero(usable & (speaker == name) & (heard != own))
            for name, own in zip(speaker, heard, strict=True)
        ]
        orders = [np.random.default_rng((seed, clip)).permutation(one) for clip, one in enumerate(others)]
        clips = np.array([clip for clip, order in enumerate(orders) if len(order) and speaker[clip]], int)
        had = -1.0
        for wanted in (0.0, *seconds) if len(clips) else ():
            most = min(inputs.most_frames, round(1000 * wanted / inputs.frontend.hop_ms))
            profiles = [profile(clip, orders[clip], most) if most else None for clip in clips]
            frames = float(np.mean([0 if one is None else one.frames for one in profiles]))
            if frames > had:
                items += zip(clips.tolist(), profiles, strict=True)
                plan.append((history, wanted, clips, frames * inputs.frontend.hop_ms / 1000))
                had = frames
    found, rows = _in_threads(engines, one, items, 'voices', show_progress), []
    before: dict[str, float] = {}
    for history, wanted, clips, had in plan:
        decided = [next(found) for _ in clips]
        for model in engines[0]:
            uar = _uar(truth[clips], np.stack([row[model] for row in decided]), labels)
            if wanted:
                rows.append(Known(model, history, wanted, had, len(clips), before[model], uar))
            else:
                before[model] = uar
    return rows


def _in_threads(
    engines: Sequence[_E], one: Callable[[_E, _T], _R], items: Sequence[_T], name: str, show_progress: bool
) -> Iterator[_R]:
    bar = Progress(len(items), name, enabled=show_progress)
    try:
        for result in threads.in_order_by(engines, one, items):
            bar.update()
            yield result
    finally:
        bar.close()


def _others(recordings: Recordings, clip: int, rng: np.random.Generator) -> list[np.ndarray]:
    """A recording of each of some other speakers; where they are few or nobody says who speaks, others beside them."""
    speaker = recordings.speaker
    order = [int(other) for other in rng.permutation(len(recordings.samples)) if other != clip]
    chosen: list[int] = []
    if speaker is not None:
        chosen = list({speaker[other]: other for other in order if speaker[other] != speaker[clip]}.values())
    if len(chosen) < BABBLE_VOICES:
        chosen += [other for other in order if other not in chosen][: BABBLE_VOICES - len(chosen)]
    return [recordings.samples[other] for other in chosen[:OTHERS]]


def _decide(
    engine: Engine, labels: Sequence[str], inputs: Input, codes: np.ndarray, profile: Profile | None = None
) -> dict[str, np.ndarray]:
    """Probabilities `[C]` of a recording by each model; zeros where nobody speaks."""
    heard = [window.features for window in inputs.clip(codes, profile) if window.speech.there]
    if not heard:
        return {model: np.zeros(len(labels)) for model in engine}
    return {model: decide(softmax(logits(np.stack(heard))))[0] for model, logits in engine.items()}


def _uar(truth: np.ndarray, probabilities: np.ndarray, labels: Sequence[str]) -> float:
    return float(metrics(truth, probabilities, labels)['uar'])


def _row(
    change: Change,
    model: str,
    labels: Sequence[str],
    truth: np.ndarray,
    before: Sequence[Mapping[str, np.ndarray] | None],
    after: Sequence[Mapping[str, np.ndarray] | None],
    own: Collection[int],
) -> Row:
    """A row of the clips `own`; `after` is None where the change does not apply."""
    clips = [clip for clip in own if after[clip] is not None]
    row = Row(change.name, model, len(clips), len(own) - len(clips), keep=change.keep, uar_loss=change.uar_loss)
    if not clips:
        return row

    def of(name: str, found: Sequence[Mapping[str, np.ndarray] | None]) -> np.ndarray:
        return np.stack([row[name] for clip in clips if (row := found[clip]) is not None])

    old, new = of(model, before), of(model, after)
    first = next(iter(before[clips[0]] or ()), model)
    same = None if first == model else float((decisions(of(first, after)) == decisions(new)).mean())
    kept = float((decisions(old) == decisions(new)).mean())
    uar_before, uar = (_uar(truth[clips], rows, labels) for rows in (old, new))
    passed = None
    if change.keep is not None:
        # Rounding must not decide where the loss is exactly what is allowed.
        loss = np.inf if change.uar_loss is None else change.uar_loss + 1e-9
        passed = kept >= change.keep and uar_before - uar <= loss
    no_speech = int((decisions(new) < 0).sum())
    return dataclasses.replace(
        row, no_speech=no_speech, kept=kept, uar_before=uar_before, uar=uar, passed=passed, as_first=same
    )


def below(rows: Iterable[Row], least: float) -> list[str]:
    """Where fewer decisions are kept than a user asked for (`--fail-under kept=`), a line each."""
    return [
        f'{row.model}, {row.change}: expected {least:.1%} of decisions kept (--fail-under), found {row.kept:.1%}'
        for row in rows
        if row.kept is not None and row.kept < least
    ]


def untested(rows: Iterable[Row]) -> list[str]:
    """A line if there are changes that applied to no clip, of which nothing can be asked."""
    names = dict.fromkeys(row.change for row in rows if not row.clips)
    return [f'not tested: {", ".join(names)} applied to none of the clips'] if names else []


def _percent(share: float | None) -> str:
    return '' if share is None else f'{100 * share:.1f}'


def table(found: Field) -> list[str]:
    """All of it as lines of text."""
    names = 'change, model, clips, skipped, no speech, kept %, UAR %, changed, points, published, passed'
    cells = [[*names.split(', '), *(f'as {row.model} %' for row in found.changes[:1])]]
    for row in found.changes:
        points = '' if row.uar is None or row.uar_before is None else f'{100 * (row.uar - row.uar_before):+.1f}'
        asked = '' if row.keep is None else f'{100 * row.keep:.0f}'
        asked += '' if row.uar_loss is None else f', {-100 * row.uar_loss:.0f}'
        passed = {None: '', True: 'yes', False: 'no'}[row.passed]
        counts = [str(count) for count in (row.clips, row.skipped, row.no_speech)]
        shares = [_percent(value) for value in (row.kept, row.uar_before, row.uar)]
        cells.append([row.change, row.model, *counts, *shares, points, asked, passed, _percent(row.as_first)])
    lines = aligned(cells, left=(0, 1, 9, 10))
    if found.silences:
        cells = [['without speech', 'windows', 'called speech']]
        cells += [[one.sound, str(one.windows), str(one.called_speech)] for one in found.silences]
        lines += ['', *aligned(cells, left=(0,))]
    if found.voice:
        cells = [['voice known from', 'model', 'seconds', 'had', 'clips', 'UAR %', 'then', 'points']]
        for one in found.voice:
            had, points = f'{one.learned_seconds:.1f}', f'{100 * (one.uar - one.uar_before):+.1f}'
            shares = [_percent(one.uar_before), _percent(one.uar)]
            cells.append([f'{one.history} clips', one.model, f'{one.seconds:g}', had, str(one.clips), *shares, points])
        lines += ['', *aligned(cells, left=(0, 1))]
    return lines
