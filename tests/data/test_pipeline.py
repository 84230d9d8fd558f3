"""The way from audio to batches: statistics of training speakers only, a stream that depends on (seed, step) alone."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from helpers import recipe, tones
from jax_reparam.data import pipeline, protocols
from jax_reparam.frontend import features, windows


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


def test_statistics_are_those_of_the_training_speakers(data):
    frames = np.concatenate([data.log_mel[clip] for clip in data.split.train]).astype(np.float64)
    np.testing.assert_allclose(data.mean, frames.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(data.std, frames.std(axis=0), rtol=1e-5)
    standardised = np.concatenate([data.standardised(clip) for clip in data.split.train])
    np.testing.assert_allclose(standardised.mean(axis=0), 0, atol=1e-4)
    train, validation, test = (
        {data.corpus.speaker[clip] for clip in data.clips(part)} for part in ('train', 'validation', 'test')
    )
    assert not (train & validation) | (train & test) | (validation & test)


def test_windows_of_a_part_come_with_their_clips(data):
    x, clip = data.windows('test')
    assert len(x) == len(clip) > len(data.clips('test'))
    assert set(clip) == set(range(len(data.clips('test'))))
    for position, index in enumerate(data.clips('test')):
        expected = windows.split([data.standardised(index)], data.window)[0]
        np.testing.assert_array_equal(x[clip == position], expected)


def test_the_stream_depends_on_seed_and_step_alone(data):
    whole = take(data, 6)
    later = take(data, 3, start=3)
    for a, b in zip(whole[3:], later, strict=True):
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])
    other = take(data, 1, seed=1)
    assert not np.array_equal(whole[0]['features'], other[0]['features'])


def test_every_example_is_a_window_of_a_training_clip_with_its_label(data):
    places = {}
    for clip in data.split.train:
        features = data.standardised(clip)
        for start in range(max(1, len(features) - 64 + 1)):
            places[windows.cut(features, start, 64).tobytes()] = data.corpus.label[clip]
    batch = take(data, 1, size=16)[0]
    assert [places[window.tobytes()] for window in batch['features']] == batch['labels'].tolist()
    assert len(set(batch['labels'])) == 2


def test_an_epoch_sees_every_training_clip_once(data):
    n = len(data.split.train)
    labels = np.concatenate([batch['labels'] for batch in take(data, n, size=2)])
    for epoch in (labels[:n], labels[n : 2 * n]):
        np.testing.assert_array_equal(np.bincount(epoch), np.bincount(data.labels('train')))


@pytest.mark.parametrize('count', [2, 4])
def test_processes_share_a_batch(data, count):
    """Side by side, the blocks of the processes are the batch of one process, bit for bit."""
    whole = take(data, 5, start=2)
    parts = [take(data, 5, start=2, shard=(index, count)) for index in range(count)]
    for step in range(5):
        for name in whole[step]:
            np.testing.assert_array_equal(np.concatenate([part[step][name] for part in parts]), whole[step][name])


def test_windows_come_in_batches(data):
    x, clip = data.windows('test')
    batches = list(data.window_batches('test', 4))
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
    np.testing.assert_array_equal(again.log_mel[3], data.log_mel[3])


def test_features_are_recomputed_when_the_frontend_changes(config, data):
    changed = config.with_changes({'frontend.n_mels': 10})
    assert pipeline.load_data(changed, show_progress=False).log_mel[0].shape[1] == 10


def test_cache_dir(monkeypatch, tmp_path):
    monkeypatch.setenv('JAX_REPARAM_CACHE', str(tmp_path))
    assert pipeline.cache_dir('') == tmp_path
    assert pipeline.cache_dir('elsewhere').name == 'elsewhere'
