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
    """A data_dir in which TFDS's CREMA-D can be prepared from made clips, and a count of how often it was."""
    from tensorflow_datasets.audio.crema_d import CremaD as Inner

    prepared = []
    files = {}
    for part, speakers in SPEAKERS.items():
        names = [f'{speaker}_DFA_{label}_XX' for speaker in speakers for label in LABELS]
        files[part] = [(str(tmp_path / 'wav' / f'{name}.wav'), name) for name in names]
        for n, name in enumerate(names):
            trees.write(tmp_path / 'wav' / f'{name}.wav', trees.sound(0.35, 100 * int(name[:4]) + n))

    def splits(self, dl_manager):
        prepared.append(1)
        return {part: self._generate_examples(names) for part, names in files.items()}

    monkeypatch.setattr(Inner, '_split_generators', splits)
    return tmp_path, prepared


@pytest.mark.filterwarnings('ignore:::pydub')
def test_prepared_with_tfds_own_builder(crema_d):
    folder, prepared = crema_d
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
    assert len(prepared) == 1


@pytest.mark.filterwarnings('ignore:::pydub')
def test_the_published_counts_of_crema_d(crema_d):
    folder, _ = crema_d
    with pytest.raises(InputError, match=r'clips 24 \(published 7,438\), part train 12 \(published 5,144\)'):
        corpora.prepare('crema_d', source=folder / 'tfds', data_dir=folder / 'data', progress=False)


def test_savee_without_its_archive(tmp_path):
    with pytest.raises(InputError, match=r'expected savee as TensorFlow Datasets prepares it, found: .*AudioData\.zip'):
        Savee.find(str(tmp_path / 'tfds'))


def test_no_source():
    with pytest.raises(InputError, match='crema_d: expected a data_dir of TensorFlow Datasets'):
        CremaD.find('')


def test_names_and_labels_are_those_of_tfds(tmp_path):
    for builder in (CremaD, Savee):
        inner = tfds.builder(builder.INNER, data_dir=tmp_path)
        assert builder.name == inner.name
        assert tuple(inner.info.features['label'].names) == builder.LABELS
        assert np.issubdtype(inner.info.features['audio'].np_dtype, np.integer)
