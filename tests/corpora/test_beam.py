"""On Apache Beam the records, their order and the index are the same as without."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

import trees
from jax_reparam import corpora
from jax_reparam.corpora import beam, builder
from jax_reparam.errors import InputError


def test_without_the_package_it_says_how_to_get_it(monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None if name == 'apache_beam' else real(name))
    with pytest.raises(InputError, match=r"^beam: expected the package apache_beam of the extra 'beam', found none; "):
        beam.options([])


@pytest.mark.slow
@pytest.mark.filterwarnings('default')  # Beam's own
@pytest.mark.parametrize(('name', 'make'), [('daic_woz', trees.daic_woz), ('m3ed', trees.m3ed)])
def test_the_same_records_in_the_same_order(tmp_path, monkeypatch, name, make):
    pytest.importorskip('apache_beam', reason='the extra beam, which constraints.txt has no room for')
    source = make(tmp_path / 'source')
    monkeypatch.setattr(builder, 'SHARD_SECONDS', 5.0)  # several files
    arguments = {'source': source, 'accept_mismatch': True, 'progress': False}
    plain = corpora.prepare(name, data_dir=tmp_path / 'plain', **arguments)
    other = corpora.prepare(name, data_dir=tmp_path / 'beam', beam_runner='DirectRunner', **arguments)
    for file in ('metadata.json', 'report.md', 'skipped.tsv'):
        assert (other.directory / file).read_bytes() == (plain.directory / file).read_bytes()
    for mine, theirs in zip(plain._records, other._records, strict=True):
        assert mine.keys() == theirs.keys()
        for field in mine:
            np.testing.assert_array_equal(mine[field], theirs[field])
    assert not (other.directory / 'measured').exists()


def test_a_corpus_that_comes_in_one_stream_refuses_it(tmp_path):
    import tensorflow_datasets as tfds

    from jax_reparam.corpora.synth_builder import Synth

    builder = Synth(data_dir=tmp_path, file_format='array_record')
    config = tfds.download.DownloadConfig(beam_runner='DirectRunner')
    with pytest.raises(InputError, match='synth: expected no Beam runner'):
        builder.download_and_prepare(download_config=config)
