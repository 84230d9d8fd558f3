"""Features on disk: right, whole, and computed only where they are missing."""

from __future__ import annotations

import contextlib
import dataclasses

import numpy as np
import pytest

from helpers import tones
from jax_reparam import corpora, system, threads
from jax_reparam.data import feature_store
from jax_reparam.frontend import features
from jax_reparam.frontend.features import FrontendConfig

FRONTEND = FrontendConfig(n_mels=12)


@pytest.fixture(scope='module')
def corpus(tmp_path_factory):
    root = tmp_path_factory.mktemp('corpus')
    return corpora.prepare('folder', source=tones(root / 'source'), data_dir=root, progress=False)


@pytest.fixture(autouse=True)
def small_files(monkeypatch):
    monkeypatch.setattr(feature_store, 'SHARD', 7)


def store(corpus, cache):
    return feature_store.corpus_features(corpus, FRONTEND, cache, show_progress=False)


@pytest.mark.parametrize('workers', [1, 2])
def test_features_are_those_of_the_clips(corpus, tmp_path, monkeypatch, workers):
    monkeypatch.setattr(threads, 'cores', lambda _: workers)
    found = store(corpus, tmp_path)
    assert len(found) == len(corpus) == 30
    assert len(found.files) == 5
    for clip in range(len(corpus)):
        expected = features.log_mel(corpus.audio(clip), FRONTEND)
        np.testing.assert_array_equal(found[clip], expected)
        assert found.lengths[clip] == len(expected)


def test_what_was_cut_off_goes_on_with_what_is_missing(corpus, tmp_path, monkeypatch):
    real, calls = features.log_mel, []

    def broken(audio, frontend):
        calls.append(1)
        if len(calls) >= 18:
            raise KeyboardInterrupt
        return real(audio, frontend)

    monkeypatch.setattr(features, 'log_mel', broken)
    monkeypatch.setattr(threads, 'cores', lambda _: 1)
    with pytest.raises(KeyboardInterrupt):
        store(corpus, tmp_path)
    (folder,) = (tmp_path / 'features').iterdir()
    # Two whole files, and one under its temporary name.
    assert len(list(folder.glob('*.array_record'))) == 2
    (folder / '00009-of-00010.tmp').write_text('of a process that was killed')
    calls.clear()
    monkeypatch.setattr(features, 'log_mel', lambda *args: (calls.append(2), real(*args))[1])
    found = store(corpus, tmp_path)
    assert len(calls) == 30 - 14
    np.testing.assert_array_equal(found[29], real(corpus.audio(29), FRONTEND))
    assert list(folder.glob('*.tmp')) == []


def test_of_two_processes_the_second_finds_what_the_first_made(corpus, tmp_path, monkeypatch):
    real = system.alone

    @contextlib.contextmanager
    def late(folder):
        monkeypatch.undo()
        store(corpus, tmp_path)
        with real(folder):
            yield

    monkeypatch.setattr(feature_store, 'SHARD', 128)
    monkeypatch.setattr(system, 'alone', late)
    assert len(store(corpus, tmp_path)) == len(corpus)


@pytest.mark.parametrize('change', ['corpus', 'frontend', 'version'])
def test_the_key_names_all_that_decides_them(corpus, monkeypatch, change):
    before = feature_store.key(corpus, FRONTEND)
    other, frontend = corpus, FRONTEND
    if change == 'corpus':
        other = dataclasses.replace(corpus, key='other')
    elif change == 'frontend':
        frontend = dataclasses.replace(FRONTEND, floor=1e-6)
    else:
        monkeypatch.setattr(features, 'VERSION', features.VERSION + 1)
    assert feature_store.key(other, frontend) != before
