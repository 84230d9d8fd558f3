"""nEMO: label and speaker of its table, and what is refused."""

import pytest

import trees
from jax_reparam import corpora
from jax_reparam.corpora.nemo import Nemo
from jax_reparam.errors import InputError


@pytest.fixture
def source(tmp_path):
    return trees.nemo(tmp_path / 'nemo')


def test_table_gives_label_and_speaker(source):
    found = Nemo.find(str(source))
    expected = {f'{s}_{label}_{n + 1}': (label, s) for s in ('KW', 'SB') for n, label in enumerate(trees.NEMO_LABELS)}
    assert {clip.id: (clip.label, clip.speaker) for clip in found.clips} == expected
    assert found.labels == trees.NEMO_LABELS
    assert (found.skipped, found.conflicts) == ({}, {})


def test_rows_that_cannot_be_used_are_reported(source):
    table = source / 'data.tsv'
    text = table.read_text(encoding='utf-8')
    row = '\t\t\t KW\tfemale\t21\n'
    table.write_text(
        text.replace('SB_fear_5\tfear', 'SB_fear_5\tanger')
        + f'KW_fear_9\tfear{row}KW_x_1\tbored{row}KW_anger_3.wav\tanger{row}KW_neutral_1\tsadness{row}',
        encoding='utf-8',
    )
    found = Nemo.find(str(source))
    assert len(found.clips) == 10
    assert set(dict(found.skipped)) == {'KW_fear_9', 'KW_x_1'}
    assert dict(found.conflicts) == {
        'SB_fear_5': 'listed as anger, and named fear',
        'KW_neutral_1': 'listed as neutral and as sadness',
    }


def test_prepared_at_16_khz(tmp_path, source):
    arguments = {'source': source, 'data_dir': tmp_path / 'data', 'progress': False}
    with pytest.raises(InputError, match=r'clips 12 \(published 4,481\), speakers 2 \(published 9\)'):
        corpora.prepare('nemo', **arguments)
    corpus = corpora.prepare('nemo', **arguments, accept_mismatch=True)
    assert len(corpus) == 12
    assert corpus.seconds == pytest.approx(0.35)
    assert len(corpus.audio(0)) == 5600


@pytest.mark.parametrize('column', ['file_id', 'emotion', 'speaker_id'])
def test_a_table_without_a_column(source, column):
    table = source / 'data.tsv'
    table.write_text(table.read_text(encoding='utf-8').replace(column, 'other'), encoding='utf-8')
    with pytest.raises(InputError, match=rf"data\.tsv: expected the columns .*, found no '{column}'"):
        Nemo.find(str(source))


def test_another_layout(source):
    (source / 'data.tsv').unlink()
    with pytest.raises(InputError, match=r'nemo: expected nEMO \(SOURCE/data\.tsv .*\), found no data\.tsv in it'):
        Nemo.find(str(source))
