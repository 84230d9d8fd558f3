"""Features on disk: right, whole, and computed only where they are missing."""

from __future__ import annotations

import contextlib
import dataclasses
import pickle
import resource
from pathlib import Path

import numpy as np
import pytest

from helpers import tones
from jax_reparam import corpora, system, threads
from jax_reparam.data import feature_store
from jax_reparam.frontend import features, speech
from jax_reparam.frontend.features import FrontendConfig
from jax_reparam.frontend.inputs import Input
from jax_reparam.frontend.voice import VoiceConfig
from jax_reparam.frontend.windows import WindowConfig

FRONTEND = FrontendConfig(n_mels=12)
ZERO = np.zeros(12, np.float32)
# Few frames of speech, so that some clips have more.
INPUTS = Input(FRONTEND, WindowConfig(50, 25), ZERO, ZERO + 1, ZERO, VoiceConfig(most_seconds=0.6))


@pytest.fixture(scope='module')
def corpus(tmp_path_factory):
    root = tmp_path_factory.mktemp('corpus')
    return corpora.prepare('folder', source=tones(root / 'source'), data_dir=root, progress=False)


@pytest.fixture(autouse=True)
def small_files(monkeypatch):
    monkeypatch.setattr(feature_store, 'SHARD', 7)


def store(corpus, cache):
    return feature_store.corpus_features(corpus, INPUTS, cache, show_progress=False)


@pytest.mark.parametrize('workers', [1, 2])
def test_features_are_those_of_the_clips(corpus, tmp_path, monkeypatch, workers):
    monkeypatch.setattr(threads, 'cores', lambda _: workers)
    found = store(corpus, tmp_path)
    assert len(found) == len(corpus) == 30
    assert len(found.files) == 5
    for clip in range(len(corpus)):
        codes = features.encode(features.log_mel(corpus.audio(clip), FRONTEND))
        active = speech.active(codes, INPUTS.rule)
        np.testing.assert_array_equal(found[clip], active)
        assert found[clip].dtype == np.int8
        assert found.lengths[clip] == len(active)
        profile = INPUTS.learned(codes)
        np.testing.assert_array_equal(found.voice_sums[clip], profile.sums)
        assert found.voice_frames[clip] == profile.frames
    assert (found.voice_frames > 0).all()
    assert found.voice_frames.max() == INPUTS.most_frames


def test_a_clip_without_speech_is_kept_whole_and_teaches_nothing(corpus, tmp_path, monkeypatch):
    real = corpora.Corpus.audio
    silent = lambda self, clip: 0 * real(self, clip) if clip == 4 else real(self, clip)
    monkeypatch.setattr(corpora.Corpus, 'audio', silent)
    found = store(corpus, tmp_path)
    assert found.voice_frames[4] == 0
    assert (found.voice_sums[4] == 0).all()
    assert found.lengths[4] == features.frame_count(len(real(corpus, 4)), FRONTEND)


def test_they_travel_to_a_worker_process(corpus, tmp_path):
    found = store(corpus, tmp_path)
    expected = found[3]
    again = pickle.loads(pickle.dumps(found))
    np.testing.assert_array_equal(again[3], expected)


def test_what_was_cut_off_goes_on_with_what_is_missing(corpus, tmp_path, monkeypatch):
    real, calls = features.log_mel, []

    def broken(*arguments):
        calls.append(1)
        if len(calls) >= 18:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(features, 'log_mel', broken)
    monkeypatch.setattr(threads, 'cores', lambda _: 1)
    with pytest.raises(KeyboardInterrupt):
        store(corpus, tmp_path)
    (folder,) = (tmp_path / 'features').iterdir()
    # Two whole files, and one under its temporary name.
    assert len(list(folder.glob('*.array_record'))) == 2
    assert len(list(folder.glob('*.npz'))) == 2
    (folder / '00009-of-00010.tmp').write_text('of a process that was killed')
    (folder / '00003-of-00005.npz').write_text('not whole')
    (folder / '00004-of-00005.npz.tmp').write_text('not whole')
    calls.clear()
    monkeypatch.setattr(features, 'log_mel', lambda *args: (calls.append(2), real(*args))[1])
    found = store(corpus, tmp_path)
    assert len(calls) == 30 - 14
    expected = store(corpus, tmp_path / 'anew')
    for clip in (0, 6, 7, 13, 14, 29):
        np.testing.assert_array_equal(found[clip], expected[clip])
    for name in ('lengths', 'voice_sums', 'voice_frames'):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
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


@pytest.mark.parametrize('change', ['corpus', 'frontend', 'speech', 'window', 'voice', 'version'])
def test_the_key_names_all_that_decides_them(corpus, monkeypatch, change):
    before = feature_store.key(corpus, INPUTS)
    other, inputs = corpus, INPUTS
    if change == 'corpus':
        other = dataclasses.replace(corpus, key='other')
    elif change == 'frontend':
        inputs = dataclasses.replace(INPUTS, frontend=dataclasses.replace(FRONTEND, fmin=50.0))
    elif change == 'speech':
        monkeypatch.setattr(speech, 'BELOW_DB', 20.0)
        speech.Rule.of.cache_clear()
    elif change == 'window':
        inputs = dataclasses.replace(INPUTS, window=WindowConfig(50, 50))
    elif change == 'voice':
        inputs = dataclasses.replace(INPUTS, voice=VoiceConfig(most_seconds=0.5))
    else:
        monkeypatch.setattr(features, 'VERSION', features.VERSION + 1)
    assert feature_store.key(other, inputs) != before
    # The statistics follow from the features.
    assert feature_store.key(corpus, dataclasses.replace(inputs, mean=ZERO + 1)) == feature_store.key(corpus, inputs)
    speech.Rule.of.cache_clear()


def damages():
    """Ways in which a file is damaged, seeded: flips of a bit, cuts, and no content."""
    rng = np.random.default_rng(0)

    def flip(content):
        place = int(rng.integers(len(content)))
        return content[:place] + bytes([content[place] ^ 1 << int(rng.integers(8))]) + content[place + 1 :]

    return [flip] * 12 + [lambda content: content[: int(rng.integers(len(content)))]] * 3 + [lambda content: b'']


def test_a_damaged_file_is_named_and_made_anew(corpus, tmp_path, capsys):
    expected = store(corpus, tmp_path)
    rows = [expected[clip] for clip in range(len(corpus))]
    for number, damage in enumerate(damages()):
        file = Path(expected.files[number % 5])
        file = file.with_suffix('.npz') if number % 2 else file
        file.write_bytes(damage(file.read_bytes()))
        found = store(corpus, tmp_path)
        for name in ('lengths', 'voice_sums', 'voice_frames'):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
        for clip, row in enumerate(rows):
            np.testing.assert_array_equal(found[clip], row)
        text = capsys.readouterr().err
        if text:  # else the bit that was changed is one that nobody reads
            assert (
                text
                == f'{file.with_suffix(".array_record")}: expected features, found a damaged file; it is made anew\n'
            )
        else:
            assert file.suffix == '.npz'


def test_a_full_disk_is_named(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(threads, 'cores', lambda _: 1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match=r'00000-of-00005\.array_record'):
            store(corpus, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert len(store(corpus, tmp_path)) == len(corpus)
