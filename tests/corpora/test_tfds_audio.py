"""CREMA-D and SAVEE: read from what TFDS's own builders prepare."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow_datasets as tfds

import trees
from jax_reparam import corpora
from jax_reparam.corpora.tfds_audio import CremaD, Savee
from jax_reparam.errors import InputError

LABELS = ('NEU', 'HAP', 'SAD', 'ANG', 'FEA', 'DIS')
SPEAKERS = {'train': ('1001', '1002'), 'validation': ('1003',), 'test': ('1004',)}


@pytest.fixture
def crema_d(tmp_path, monkeypatch):
    """A data_dir in which TFDS's CREMA-D was prepared from made clips."""
    from tensorflow_datasets.audio.crema_d import CremaD as Inner

    files = {}
    for part, speakers in SPEAKERS.items():
        names = [f'{speaker}_DFA_{label}_XX' for speaker in speakers for label in LABELS]
        files[part] = [(str(tmp_path / 'wav' / f'{name}.wav'), name) for name in names]
        for n, name in enumerate(names):
            trees.write(tmp_path / 'wav' / f'{name}.wav', trees.sound(0.35, 100 * int(name[:4]) + n))

    def splits(self, dl_manager):
        return {part: self._generate_examples(names) for part, names in files.items()}

    monkeypatch.setattr(Inner, '_split_generators', splits)
    Inner(data_dir=tmp_path / 'tfds').download_and_prepare()
    return tmp_path


@pytest.mark.filterwarnings('ignore:::pydub')
def test_prepared_with_tfds_own_builder(crema_d):
    folder = crema_d
    arguments = {'source': folder / 'tfds', 'data_dir': folder / 'data', 'accept_mismatch': True, 'progress': False}
    corpus = corpora.prepare('crema_d', **arguments)
    assert corpus.labels == LABELS
    assert len(corpus) == 24
    assert list(corpus.id) == sorted(corpus.id)
    for i in range(24):
        part = corpus.id[i].partition('_')[0]
        assert (corpus.part[i], corpus.speaker[i] in SPEAKERS[part]) == (part, True)
    written = {
        trees.sound(0.35, 100 * int(speaker) + 6 * s + n).tobytes(): (speaker, label, part)
        for part, speakers in SPEAKERS.items()
        for s, speaker in enumerate(speakers)
        for n, label in enumerate(LABELS)
    }
    for i in range(24):
        about = written.pop(corpus.audio(i).tobytes())
        assert about == (corpus.speaker[i], corpus.labels[corpus.label[i]], corpus.part[i])
    assert corpora.prepare('crema_d', **arguments).key == corpus.key


@pytest.mark.filterwarnings('ignore:::pydub')
def test_the_published_counts_of_crema_d(crema_d):
    folder = crema_d
    with pytest.raises(InputError, match=r'clips 24 \(published 7,438\), part train 12 \(published 5,144\)'):
        corpora.prepare('crema_d', source=folder / 'tfds', data_dir=folder / 'data', progress=False)


@pytest.mark.parametrize('builder', [CremaD, Savee])
@pytest.mark.parametrize('found', ['foreign', 'gone', 'empty'])
def test_what_is_not_prepared_is_neither_downloaded_nor_written(tmp_path, builder, found, monkeypatch):
    monkeypatch.setattr(tfds.core.DatasetBuilder, 'download_and_prepare', None)
    source = tmp_path / 'x'
    if found != 'gone':
        (source / (builder.INNER if found == 'empty' else 'photos')).mkdir(parents=True)
    before = sorted(tmp_path.rglob('*'))
    name = builder.INNER
    with pytest.raises(InputError, match=f'{source}: expected a data_dir .*; prepare it there: tfds build {name} --da'):
        builder.find(str(source))
    assert sorted(tmp_path.rglob('*')) == before


def test_no_source():
    with pytest.raises(InputError, match='crema_d: expected a data_dir of TensorFlow Datasets'):
        CremaD.find('')


def test_names_and_labels_are_those_of_tfds(tmp_path):
    for builder in (CremaD, Savee):
        inner = tfds.builder(builder.INNER, data_dir=tmp_path)
        assert builder.name == inner.name
        assert tuple(inner.info.features['label'].names) == builder.LABELS
        assert np.issubdtype(inner.info.features['audio'].np_dtype, np.integer)
