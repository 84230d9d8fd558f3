"""A packed corpus trains what the corpus trains."""

from __future__ import annotations

import numpy as np
import pytest

from helpers import pattern
from jax_reparam.data import feature_store, packed, pipeline
from jax_reparam.errors import InputError


@pytest.fixture
def path(data, tmp_path):
    path = tmp_path / 'folder.npz'
    packed.write(path, data.corpus, data.features, feature_store.key(data.corpus, data.inputs))
    return path


def test_a_packed_corpus_is_the_corpus_without_its_sound(config, data, path):
    again = pipeline.load_data(config.with_changes({'data.source': str(path)}), show_progress=False)
    assert again.inputs.as_json() == data.inputs.as_json()
    assert again.split.info == data.split.info
    for name in ('name', 'labels', 'speaker', 'id', 'group', 'part', 'key', 'synthetic'):
        assert getattr(again.corpus, name) == getattr(data.corpus, name)
    ours, theirs = (next(one.batches(size=8, seed=3, start=2, crop=0.1)) for one in (data, again))
    for name in ours:
        assert np.array_equal(ours[name], theirs[name])
    assert [one.name for one in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ('changes', 'found'),
    [
        ({'frontend.hop_ms': 8}, 'folder.npz: expected features of this frontend and window, found others'),
        ({'data.corpus': 'emodb'}, 'folder.npz: expected emodb, found folder'),
    ],
)
def test_features_of_another_recipe_are_refused(config, path, changes, found):
    with pytest.raises(InputError, match=pattern(found)):
        pipeline.load_data(config.with_changes({'data.source': str(path), **changes}), show_progress=False)


def test_a_damaged_file_is_named(config, path):
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(InputError, match=pattern('folder.npz: expected a packed corpus, found')):
        pipeline.load_data(config.with_changes({'data.source': str(path)}), show_progress=False)
