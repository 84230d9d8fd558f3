"""The way from audio to batches: statistics of training speakers only, a stream that depends on (seed, step) alone."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from helpers import recipe, tones, windows_of
from jax_reparam.data import pipeline, protocols
from jax_reparam.errors import InputError
from jax_reparam.frontend import features
from jax_reparam.frontend.inputs import Input
from jax_reparam.frontend.voice import VoiceConfig


@pytest.fixture(scope='module')
def config(tmp_path_factory):
    """A recipe over five speakers of tones."""
    root = tmp_path_factory.mktemp('tones')
    return recipe(tones(root / 'source'), root / 'cache')


@pytest.fixture(scope='module')
def data(config):
    """What the recipe loads."""
    return pipeline.load_data(config, show_progress=False)


def take(data, count, **kwargs):
    arguments = {'size': 8, 'seed': 0, 'start': 0, **kwargs}
    return list(itertools.islice(data.batches(**arguments), count))


def changed(data, *, features=None, **voice):
    """The data with another `VoiceConfig`, or fields of its features."""
    inputs = dataclasses.replace(data.inputs, voice=VoiceConfig(**{'most_seconds': 86400.0, **voice}))
    return dataclasses.replace(data, inputs=inputs, features=dataclasses.replace(data.features, **(features or {})))


def test_statistics_are_those_of_the_training_speakers_windows(data):
    zero = np.zeros(12, np.float32)
    bare = dataclasses.replace(data.inputs, mean=zero, std=zero + 1)
    heard = [one.features for clip in data.split.train for one in bare.clip(bare.codes(data.corpus.audio(clip)))]
    frames = np.concatenate(heard).astype(np.float64)
    np.testing.assert_allclose(data.inputs.mean, frames.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(data.inputs.std, frames.std(axis=0), rtol=1e-5)
    standardised = np.concatenate([heard.features for heard, _ in data.heard(data.split.train)])
    np.testing.assert_allclose(standardised.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(standardised.std(axis=0), 1, atol=1e-4)
    train, validation, test = (
        {data.corpus.speaker[clip] for clip in data.clips(part)} for part in ('train', 'validation', 'test')
    )
    assert not (train & validation) | (train & test) | (validation & test)


def test_the_mean_voice_is_that_of_the_training_speakers(data):
    sums, frames = np.zeros(12), 0
    for clip in data.split.train:
        profile = data.inputs.learned(data.inputs.codes(data.corpus.audio(clip)))
        sums, frames = sums + profile.sums, frames + profile.frames
    np.testing.assert_allclose(data.inputs.voice_mean, sums / (16 * frames), rtol=1e-5)
    assert frames > 0


def test_windows_of_a_part_come_with_their_clips(data):
    x, clip = windows_of(data, 'test')
    assert len(x) == len(clip) > len(data.clips('test'))
    assert set(clip) == set(range(len(data.clips('test'))))
    for position, index in enumerate(data.clips('test')):
        heard = data.inputs.clip(data.inputs.codes(data.corpus.audio(index)))
        np.testing.assert_array_equal(x[clip == position], [one.features for one in heard if one.speech.there])


def test_windows_come_with_what_is_known_of_the_speaker(data):
    clips = data.clips('test')
    history = lambda clip: data.profile(data.histories(clip))
    [(known, _)] = data.spoken(clips, history=history)
    expected = [heard.features for clip in clips for heard in data.inputs.windows(data.features[clip], history(clip))]
    np.testing.assert_array_equal(known, expected)
    assert not np.allclose(known, windows_of(data, 'test')[0])


def test_windows_without_speech_are_left_out(data, monkeypatch):
    """And where there are no others, that is said."""
    clips = data.clips('test')
    silent = {int(clips[1])}
    store = lambda data: type('Store', (), {'__getitem__': lambda _, clip: (0 if clip in silent else 1) * codes(clip)})
    codes = data.features.__getitem__
    quiet = dataclasses.replace(data, features=store(data)())
    [(_, clip)] = quiet.spoken(clips)
    assert set(clip) == {*range(len(clips))} - {1}
    assert len(list(quiet.heard(clips))) == len(list(data.heard(clips)))
    with pytest.raises(InputError, match='expected speech in at least one clip, found none'):
        next(quiet.spoken(clips[1:2]))


def test_the_stream_depends_on_seed_and_step_alone(data):
    data = changed(data, history=0.5)
    whole = take(data, 6, crop=0.2)
    later = take(data, 3, start=3, crop=0.2)
    for a, b in zip(whole[3:], later, strict=True):
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])
    other = take(data, 1, seed=1)
    assert not np.array_equal(whole[0]['codes'], other[0]['codes'])


def places(data):
    """Every cut of a training clip as it is in a batch: clip and frames."""
    return {
        (data.features[clip][start : start + frames]).tobytes(): (int(clip), start)
        for clip in data.split.train
        for frames in range(1, 65)
        for start in range(len(data.features[clip]) - frames + 1)
    }


def test_every_example_is_a_window_of_a_training_clip_with_its_label(data):
    found, lengths = places(data), data.features.lengths
    batch = take(data, 1, size=16)[0]
    assert batch['codes'].dtype == np.int8
    assert batch['codes'].shape == (16, 64, 12)
    for codes, frames, label in zip(batch['codes'], batch['frames'], batch['labels'], strict=True):
        clip, start = found[codes[:frames].tobytes()]
        assert data.corpus.label[clip] == label
        assert frames == min(64, lengths[clip])
        assert start == 0 or lengths[clip] > 64
    assert len(set(batch['labels'])) == 2
    assert (batch['frames'] < 64).any()
    assert (batch['voice_frames'] == 0).all()
    assert (batch['voice'] == 0).all()


@pytest.mark.parametrize('crop', [0.1, 0.49])
def test_a_crop_takes_some_of_either_end(data, crop):
    lengths, rng = data.features.lengths, np.random.default_rng(0)
    starts, ends = [], []
    for clip in data.split.train:
        for _ in range(50):
            first, frames, _ = data.draw(int(clip), crop, rng)
            assert 1 <= frames <= 64
            assert 0 <= first <= lengths[clip] - frames
            if lengths[clip] < 64:
                starts.append(first / lengths[clip])
                ends.append(1 - (first + frames) / lengths[clip])
    for cut in (starts, ends):
        assert min(cut) == 0
        assert 0.7 * crop < max(cut) <= crop


def told(data):
    """Voice frames by which the clips of a history can be told: a bit for each."""
    return {'voice_frames': 2 ** np.arange(len(data.features))}


def members(profile_frames, data):
    return {clip for clip in range(len(data.features)) if int(profile_frames) >> clip & 1}


def test_a_history_is_of_other_clips_of_the_speaker_in_the_same_part(data, monkeypatch):
    monkeypatch.setattr(Input, 'most_frames', 1 << 40)  # a day has fewer than there are bits of clips
    with_history = changed(data, history=1.0, features=told(data))
    rng, speaker = np.random.default_rng(0), data.corpus.speaker
    for part in (data.split.train, data.split.validation, data.split.test):
        for clip in map(int, part):
            others = {int(o) for o in part if speaker[o] == speaker[clip]} - {clip}
            drawn = [members(with_history.draw(clip, 0.0, rng)[2].frames, data) for _ in range(60)]
            assert set.union(*drawn) == others
            assert {len(one) for one in drawn} == set(range(1, len(others) + 1))
            assert set(data.histories(clip).tolist()) == others


def test_a_history_may_be_of_one_class(data):
    with_history = changed(data, history=1.0, one_class=1.0, features=told(data))
    rng, label, found = np.random.default_rng(0), data.corpus.label, set()
    clip = int(data.split.train[0])
    for _ in range(60):
        drawn = members(with_history.draw_history(clip, rng).frames, data)
        assert drawn <= set(data.histories(clip).tolist())
        [one] = {int(label[other]) for other in drawn}
        found.add((one, len(drawn)))
    assert {one for one, _ in found} == {0, 1}
    assert {count for one, count in found if one != label[clip]} == {1, 2, 3}
    assert {count for one, count in found if one == label[clip]} == {1, 2}


def test_a_history_ends_where_a_device_stops_learning(data):
    clips, frames = data.split.train[:4], data.features.voice_frames
    seconds = float(frames[clips[:2]].sum() - 1) * data.inputs.frontend.hop_ms / 1000
    assert changed(data, most_seconds=seconds).profile(clips).frames == frames[clips[:2]].sum()
    assert changed(data).profile(clips).frames == frames[clips].sum()


def test_nothing_of_other_parts_or_of_labels_reaches_a_training_batch(data):
    others = np.concatenate([data.split.validation, data.split.test])
    sums, frames = data.features.voice_sums.copy(), data.features.voice_frames.copy()
    sums[others], frames[others] = 12345, 678
    label = np.where(np.isin(np.arange(len(sums)), others), 1 - data.corpus.label, data.corpus.label)
    expected = take(changed(data, history=0.7), 4)
    poisoned = changed(data, history=0.7, features={'voice_sums': sums, 'voice_frames': frames})
    poisoned = dataclasses.replace(poisoned, corpus=dataclasses.replace(data.corpus, label=label))
    for a, b in zip(expected, take(poisoned, 4), strict=True):
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])
    relabelled = dataclasses.replace(
        changed(data, history=0.7), corpus=dataclasses.replace(data.corpus, label=1 - data.corpus.label)
    )
    for a, b in zip(expected, take(relabelled, 4), strict=True):
        np.testing.assert_array_equal(a['voice'], b['voice'])
        np.testing.assert_array_equal(a['labels'], 1 - b['labels'])


@pytest.mark.parametrize(('history', 'low', 'high'), [(0.0, 0, 0), (0.5, 0.35, 0.65), (1.0, 1, 1)])
def test_a_share_of_the_windows_has_a_history(data, history, low, high):
    batches = take(changed(data, history=history), 20)
    known = np.concatenate([batch['voice_frames'] > 0 for batch in batches])
    assert low <= known.mean() <= high
    voices = np.concatenate([batch['voice'] for batch in batches])
    np.testing.assert_array_equal((voices != 0).any(axis=1), known)
    assert voices.dtype == np.float32


def test_the_voice_of_a_batch_is_the_mean_of_the_clips_drawn(data):
    with_history = changed(data, history=1.0)
    clip = int(data.split.train[0])
    _, _, known = with_history.draw(clip, 0.0, np.random.default_rng(3))
    drawn = members(
        changed(data, history=1.0, features=told(data)).draw(clip, 0.0, np.random.default_rng(3))[2].frames, data
    )
    of = [data.inputs.learned(data.inputs.codes(data.corpus.audio(other))) for other in drawn]
    assert known.frames == sum(one.frames for one in of) > 0
    np.testing.assert_allclose(known.mean, sum(one.sums for one in of) / (16 * known.frames), rtol=1e-6)


def test_a_corpus_without_speakers_has_no_histories(data):
    nobody = dataclasses.replace(data.corpus, speaker=('',) * len(data.corpus))
    unknown = dataclasses.replace(changed(data, history=1.0), corpus=nobody)
    assert all(len(unknown.histories(int(clip))) == 0 for clip in data.split.train)
    assert (take(unknown, 1)[0]['voice_frames'] == 0).all()


def test_an_epoch_sees_every_training_clip_once(data):
    n = len(data.split.train)
    labels = np.concatenate([batch['labels'] for batch in take(data, n, size=2)])
    for epoch in (labels[:n], labels[n : 2 * n]):
        np.testing.assert_array_equal(np.bincount(epoch), np.bincount(data.labels('train')))


@pytest.mark.parametrize('count', [2, 4])
def test_processes_share_a_batch(data, count):
    """Side by side, the blocks of the processes are the batch of one process, bit for bit."""
    data = changed(data, history=0.5)
    whole = take(data, 5, start=2, crop=0.2)
    parts = [take(data, 5, start=2, crop=0.2, shard=(index, count)) for index in range(count)]
    for step in range(5):
        for name in whole[step]:
            np.testing.assert_array_equal(np.concatenate([part[step][name] for part in parts]), whole[step][name])


def test_windows_come_in_batches(data):
    x, clip = windows_of(data, 'test')
    batches = list(data.spoken(data.clips('test'), 4))
    assert [len(b) for b, _ in batches[:-1]] == [4] * (len(batches) - 1)
    np.testing.assert_array_equal(np.concatenate([b for b, _ in batches]), x)
    np.testing.assert_array_equal(np.concatenate([c for _, c in batches]), clip)


def test_statistics_of_a_large_mean_lose_nothing(rng):
    clips = [1e4 + rng.standard_normal((n, 3)) for n in (1, 7, 400)]
    mean, std = pipeline.statistics(iter(clips))
    np.testing.assert_allclose(mean, np.concatenate(clips).mean(axis=0), rtol=1e-7)
    np.testing.assert_allclose(std, np.concatenate(clips).std(axis=0), rtol=1e-5)


def test_speakers_are_decided_as_one(data):
    by_speaker = dataclasses.replace(
        data, split=dataclasses.replace(data.split, test=np.arange(12, 30), protocol=protocols.Protocol(
            'speaker', 'test', unit='speaker', join='vote'))
    )  # fmt: skip
    by_speaker = dataclasses.replace(
        by_speaker,
        corpus=dataclasses.replace(data.corpus, label=np.array([s == 's1' for s in data.corpus.speaker], int)),
    )
    names, unit = by_speaker.units('test')
    assert [names[u] for u in unit] == [data.corpus.speaker[i] for i in range(12, 30)]
    assert [bool(t) for t in by_speaker.truth('test')] == [name == 's1' for name in names]
    probabilities = np.tile([[0.9, 0.1]], (18, 1))
    probabilities[unit == names.index('s1')] = [0.2, 0.8]
    decided = by_speaker.decide('test', probabilities)
    assert decided.argmax(axis=1).tolist() == by_speaker.truth('test').tolist()


def test_features_are_computed_once(config, data, monkeypatch):
    def computed(*_):
        raise AssertionError('features were computed again')

    monkeypatch.setattr(features, 'log_mel', computed)
    again = pipeline.load_data(config, show_progress=False)
    np.testing.assert_array_equal(again.features[3], data.features[3])


def test_features_are_recomputed_when_the_frontend_changes(config, data):
    changed = config.with_changes({'frontend.n_mels': 10})
    assert pipeline.load_data(changed, show_progress=False).features[0].shape[1] == 10


def test_cache_dir(monkeypatch, tmp_path):
    monkeypatch.setenv('JAX_REPARAM_CACHE', str(tmp_path))
    assert pipeline.cache_dir('') == tmp_path
    assert pipeline.cache_dir('elsewhere').name == 'elsewhere'
