"""The field test: what is counted, what a change is given, and what is known of a voice when a clip is decided."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from helpers import ROOT, syllables
from jax_reparam.evaluation import decide, decisions, softmax
from jax_reparam.field import changes as field
from jax_reparam.field import robustness
from jax_reparam.field.recordings import Recordings
from jax_reparam.frontend.features import FrontendConfig
from jax_reparam.frontend.inputs import Input
from jax_reparam.frontend.voice import VoiceConfig
from jax_reparam.frontend.windows import WindowConfig

LABELS = ('neutral', 'b')
INPUTS = Input(
    FrontendConfig(n_mels=12),
    WindowConfig(100, 50),
    np.full(12, -40, np.float32),
    np.full(12, 20, np.float32),
    np.full(12, -40, np.float32),
    VoiceConfig(half_seconds=0.5, most_seconds=8.0),
)
# One voice is dull, the other bright.
DULL, BRIGHT = (1, 0.1, 0.02), (0.3, 1, 1)


def logits(windows):
    """Class 1 for windows that have more above than below."""
    tilt = windows[:, :, 8:].mean(axis=(1, 2)) - windows[:, :, :4].mean(axis=(1, 2))
    return np.stack([0 * tilt, 2 * tilt + 5.8], axis=1)


ENGINES = [{'m': logits}] * 2


def change(name, apply, **limits):
    return field.Change(name, 'small', '', apply, **limits)


@pytest.fixture(scope='module')
def recordings():
    """Eight clips of two speakers, the class of each, and silence of a third."""
    samples = [syllables(1.5 + seed / 10, seed, voice=(DULL, BRIGHT)[seed % 2]) for seed in range(8)]
    samples.append(np.zeros(16000, np.int16))
    speaker = [*('one' if seed < 5 else 'two' for seed in range(8)), 'three']
    return Recordings(samples, np.array([0, 1] * 4 + [1]), INPUTS, speaker)


def run(recordings, *changes, engines=ENGINES, **more):
    return robustness.run(engines, recordings, LABELS, changes=changes, show_progress=False, **more)


def test_what_is_kept_and_lost_is_counted(recordings):
    """A change that takes the voice of clips 1 and 3 away, inverts 5's decision, and does not apply to 0 and 8."""
    order = {samples.tobytes(): clip for clip, samples in enumerate(recordings.samples)}

    def apply(samples, rng, others):
        clip = order[samples.tobytes()]
        if clip in (0, 8):
            return None
        return np.zeros_like(samples) if clip in (1, 3) else recordings.samples[4] if clip == 5 else samples

    same = change('same', lambda samples, rng, others: samples, keep=0.95)
    limits = {'keep': 0.5, 'uar_loss': 0.37}
    changed = [change('a', apply, **limits), change('b', apply, keep=0.6), change('c', apply, keep=0.5, uar_loss=0.3)]
    rows = run(recordings, same, *changed, engines=[{'m': logits, 'n': lambda cut: -logits(cut)}] * 2)
    assert [(row.change, row.model) for row in rows] == [(name, model) for name in ('same', *'abc') for model in 'mn']
    first, _, row, other, *rest = rows
    # Silence is wrong before and after: of five clips of class 1 four are right.
    assert (first.clips, first.skipped, first.no_speech, first.kept) == (9, 0, 1, 1)
    assert (first.uar_before, first.uar, first.passed) == (0.9, 0.9, True)
    assert (row.clips, row.skipped, row.no_speech) == (7, 2, 2)
    assert row.kept == pytest.approx(4 / 7)
    assert row.uar_before == 1
    assert row.uar == pytest.approx((1 + 1 / 4) / 2)
    # A loss of 0.375 is more than was allowed; that without a limit passes or fails by what is kept alone.
    assert (row.passed, rest[0].passed, rest[2].passed) == (False, False, False)
    assert (other.uar_before, other.uar, other.kept) == (0, pytest.approx(1 / 8), pytest.approx(4 / 7))
    assert other.passed
    assert len(robustness.below(rows, 0.6)) == 6
    lines = robustness.table(robustness.Field(rows, [robustness.Silent('zeros', 29, 0)], []))
    assert lines[1].split() == ['same', 'm', '9', '0', '1', '100.0', '90.0', '90.0', '+0.0', '95', 'yes']
    assert lines[3].split()[-5:] == ['62.5', '-37.5', '50,', '-37', 'no']


def test_a_model_on_some_clips_decides_on_the_same_changed_ones(recordings):
    """Its features, and the share decided as by the first model, are those of these clips in the whole run."""
    seen = {'all': [], 'some': []}

    def listening(name):
        return lambda cut: seen[name].append(cut.tobytes()) or logits(cut)

    def inverted(cut):
        seen['some'].append(cut.tobytes())
        return logits(cut) * (-1) ** (len(seen['some']) > 6)

    noise = change('noise', lambda samples, rng, others: samples + rng.integers(-50, 50, len(samples)).astype(np.int16))
    babble = change('babble', lambda samples, rng, others: samples // 2 + np.resize(others[0], len(samples)) // 2)
    never = change('never', lambda *_: None)
    engines = [{'all': listening('all'), 'some': inverted}]
    rows = run(recordings, noise, babble, never, engines=engines, some={'some': [2, 5, 7]})
    assert [(row.model, row.clips, row.skipped) for row in rows[::2]] == [('all', 9, 0)] * 2 + [('all', 0, 9)]
    assert [(row.model, row.clips, row.skipped) for row in rows[1::2]] == [('some', 3, 0)] * 2 + [('some', 0, 3)]
    assert set(seen['some']) <= set(seen['all'])
    assert len(set(seen['some'])) == 9
    # Clips as they are and with noise are decided as by the first model, those with babble the other way.
    assert [row.as_first for row in rows] == [None, 1, None, 0, None, None]
    assert robustness.untested(rows) == ['not tested: never applied to none of the clips']
    assert robustness.untested(rows[:4]) == []
    lines = robustness.table(robustness.Field(rows, [], []))
    assert lines[0].endswith(' as all %')
    assert lines[2].split()[-1] == '100.0'


def test_a_change_that_applies_to_nothing_is_a_row_without_numbers(recordings):
    [row] = run(recordings, change('never', lambda *_: None, keep=0.9))
    assert (row.clips, row.skipped, row.kept, row.uar, row.passed) == (0, 9, None, None, None)
    assert robustness.table(robustness.Field([row], [], []))[1].split() == ['never', 'm', '0', '9', '0', '90']


def test_draws_depend_on_seed_change_and_clip_alone(recordings):
    drawn = {}

    def apply(name, seed):
        def note(samples, rng, others):
            drawn[seed, name, len(samples)] = rng.integers(1 << 40)
            return samples

        return change(name, note)

    for seed in (0, 1):
        run(recordings, apply('a', seed), apply('b', seed), seed=seed)
    # Nine clips of different lengths, two changes, two seeds.
    assert len(set(drawn.values())) == len(drawn) == 36
    again = dict(drawn)
    drawn.clear()
    run(recordings, apply('b', 0), engines=ENGINES[:1])
    assert drawn == {key: again[key] for key in drawn}


def test_babble_is_of_other_speakers_where_there_are_enough_and_never_of_the_clip(recordings):
    seen = []

    def note(samples, rng, others):
        seen.append((samples.tobytes(), [other.tobytes() for other in others]))
        return samples

    names = {samples.tobytes(): clip for clip, samples in enumerate(recordings.samples)}
    many = dataclasses.replace(recordings, speaker=[*'aabcdefga'])
    for chosen in (many, recordings, dataclasses.replace(recordings, speaker=None)):
        seen.clear()
        run(chosen, change('babble', note))
        for samples, others in seen:
            clip, others = names[samples], [names[other] for other in others]
            assert clip not in others
            assert len(set(others)) == len(others) >= field.BABBLE_VOICES
            if chosen is many:
                who = [chosen.speaker[other] for other in others]
                assert len(set(who)) == len(who) >= 6
                assert chosen.speaker[clip] not in who
            elif chosen.speaker is not None:
                # One of each other speaker is among them.
                assert {chosen.speaker[other] for other in others} >= {'one', 'two', 'three'} - {chosen.speaker[clip]}


def test_the_card_has_few_rows(recordings):
    rows = robustness.summary(ENGINES, recordings, LABELS, show_progress=False)
    assert [row.change for row in rows] == list(robustness.SUMMARY)
    assert next(row for row in rows if row.change == 'zeros-around').kept == 1


def test_windows_of_silence_that_are_called_speech_are_counted_but_for_those_of_the_onset():
    babble = lambda seconds: np.tile(syllables(2), round(seconds / 2))
    zeros = np.zeros(16000 * 10, np.int16)
    sounds = (
        field.Silence('zeros', '', lambda rng: zeros),
        field.Silence('speech', '', lambda rng: babble(10)),
        field.Silence('late', '', lambda rng: np.concatenate([zeros, babble(2), zeros]), onset=len(zeros)),
        field.Silence('later', '', lambda rng: np.concatenate([zeros, babble(2), zeros]), onset=len(zeros) + 16000),
        field.Silence('drawn', '', lambda rng: (300 * rng.standard_normal(160000)).astype(np.int16)),
    )
    found = robustness.silences(INPUTS, sounds, show_progress=False)
    assert [(one.sound, one.windows) for one in found[:2]] == [('zeros', 19), ('speech', 19)]
    called = [one.called_speech for one in found]
    assert (called[0], called[1], called[4]) == (0, 19, 0)
    # Windows of 1 s every 0.5 s: speech is in some five or six, two or three of which hold the onset.
    assert 2 <= called[2] <= 4
    assert 2 <= called[3] <= 4


def test_what_is_known_of_a_voice_are_other_clips_of_it(recordings):
    """By an independent computation; the decided clip is not among them, and neutral ones are of class 0 alone."""
    rows = robustness.known(ENGINES, recordings, LABELS, seconds=(1, 60), show_progress=False)
    assert [(row.history, row.seconds) for row in rows] == [
        ('random', 1),
        ('random', 60),
        ('neutral', 1),
        ('neutral', 60),
    ]
    # The third speaker has no other clips; of the second, clips 5 and 7 have another neutral one, and 6 has none.
    assert [row.clips for row in rows] == [8, 8, 7, 7]
    for row, usable in zip(rows[1::2], (range(8), (0, 2, 4, 6)), strict=True):
        probabilities, before, truth, frames = [], [], [], []
        for clip in range(8):
            others = [one for one in usable if one != clip and recordings.speaker[one] == recordings.speaker[clip]]
            if not others:
                continue
            profile = None
            for one in others:
                profile = INPUTS.learned(recordings.codes[one], profile)
            for known, into in ((profile, probabilities), (None, before)):
                heard = [one.features for one in INPUTS.clip(recordings.codes[clip], known) if one.speech.there]
                into.append(decide(softmax(logits(np.stack(heard))))[0])
            truth.append(recordings.truth[clip])
            frames.append(profile.frames)
        assert row.learned_seconds == pytest.approx(np.mean(frames) / 100)
        for rows_, uar in ((probabilities, row.uar), (before, row.uar_before)):
            right = decisions(np.stack(rows_)) == truth
            assert uar == pytest.approx(np.mean([right[np.array(truth) == label].mean() for label in (0, 1)]))
    assert rows[0].learned_seconds == rows[2].learned_seconds == 1.0
    # Seconds that nobody's clips have are left out: 3 s of the voices' neutral clips, 5 s of all.
    most = [row.learned_seconds for row in rows[1::2]]
    rows_of_more = robustness.known(ENGINES, recordings, LABELS, seconds=(1, 60, 70, 80), show_progress=False)
    assert rows_of_more == rows
    assert max(most) < 60
    # Knowing a voice that is all of one class takes that class away.
    assert rows[0].uar_before == 1
    assert rows[3].uar < 1


def test_a_copy_of_a_clip_is_not_in_its_history(recordings):
    samples = [recordings.samples[0], recordings.samples[0].copy()]
    copies = Recordings(samples, recordings.truth[[0, 0]], INPUTS, ['one', 'one'])
    assert robustness.known(ENGINES, copies, LABELS, show_progress=False) == []


def test_without_speakers_nothing_is_known(recordings):
    alone = dataclasses.replace(recordings, speaker=None)
    assert robustness.known(ENGINES, alone, LABELS, show_progress=False) == []


def test_the_documentation_has_every_change_as_it_is():
    text = (ROOT / 'docs' / 'results.md').read_text()
    for one in (*field.CHANGES, *field.SILENCES):
        assert f'| `{one.name}` | {one.description} |' in text
