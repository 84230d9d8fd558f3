"""The model card: front matter that hubs can read, results only where they are evidence, confusion, licence, limits."""

from __future__ import annotations

import dataclasses

import pytest
import yaml

from helpers import ROOT
from jax_reparam import checkpoint
from jax_reparam.corpora import NAMES, terms
from jax_reparam.export import card


@pytest.fixture
def shown(exported, workdir):
    """The card of `exported` with some fields of its manifest changed: (front matter, text behind it)."""

    def show(**changes):
        content = dataclasses.replace(exported.manifest, **changes)
        empty, front, text = card.text(content, checkpoint.load(workdir).recipe).split('---\n', 2)
        assert empty == ''
        return yaml.safe_load(front), text

    return show


def of_corpus(exported, name, synthetic=False):
    return dataclasses.replace(exported.manifest.corpus, name=name, synthetic=synthetic)


def test_the_front_matter_has_what_hubs_ask_for(exported, shown):
    front, _ = shown(corpus=of_corpus(exported, 'emodb'))
    assert front['language'] == ['de']
    assert front['license'] == 'cc0-1.0'
    assert front['library_name'] == 'jax-reparam'
    assert front['pipeline_tag'] == 'audio-classification'
    assert {'speech-emotion-recognition', 'tflite', 'conv_transformer'} <= {*front['tags']}
    [model] = front['model-index']
    [result] = model['results']
    assert model['name'] == 'conv_transformer emodb'
    assert result['task']['type'] == 'audio-classification'
    assert (result['dataset']['type'], result['dataset']['name']) == ('emodb', 'EMO-DB')
    protocol = exported.manifest.protocol
    assert (
        f'{protocol.name}, fold 0 of {protocol.folds}: 6 decisions; speakers not heard in training: 1'
        in result['dataset']['config']
    )
    [metric] = result['metrics']
    assert (metric['type'], metric['args']) == ('recall', {'average': 'macro'})
    assert metric['name'].endswith('(UAR) of int8 in TFLM')
    assert metric['value'] == pytest.approx(exported.manifest.forms['int8'].tflm.uar, abs=1e-4)


def test_synthetic_speech_is_no_evidence(exported, shown):
    front, text = shown(corpus=of_corpus(exported, 'synth', synthetic=True))
    assert 'model-index' not in front
    assert front['license'] == 'apache-2.0'
    assert 'no evidence about emotions' in text


@pytest.mark.parametrize('part', ['train_speakers', 'validation_speakers'])
def test_a_speaker_that_was_heard_before_is_no_evidence(exported, shown, part):
    protocol = exported.manifest.protocol
    heard = {part: (*getattr(protocol, part), *protocol.test_speakers)}
    front, _ = shown(protocol=dataclasses.replace(protocol, **heard))
    assert 'model-index' not in front


def test_what_was_not_measured_is_no_result(shown, exported):
    device = dataclasses.replace(exported.manifest.device, firmware=None)
    front, text = shown(recommended=None, forms={}, device=device)
    assert 'model-index' not in front
    assert 'No form passed.' in text
    front, _ = shown(protocol=dataclasses.replace(exported.manifest.protocol, test_speakers=()))
    assert 'model-index' not in front


def test_a_licence_of_its_own_has_a_name_and_a_link(exported, shown):
    front, text = shown(corpus=of_corpus(exported, 'iemocap/all'))
    assert (front['license'], front['license_name']) == ('other', 'by-signed-agreement-for-research')
    assert front['license_link'] == terms.TERMS['iemocap'].source
    assert f'Its licence: by signed agreement, for research, <{front["license_link"]}>.' in text
    assert 'Please cite Busso et al. 2008.' in text


def test_of_recordings_of_your_own_nothing_is_claimed(shown):
    front, text = shown()
    assert front['license'] == 'unknown'
    assert not {'language', 'datasets', 'license_link'} & front.keys()
    assert 'The corpus: recordings of your own. Its licence: known to whoever made the recordings.' in text


def test_the_confusion_is_that_of_the_recommended_form(exported, shown):
    form = exported.manifest.forms['int8']
    assert [sum(row) for row in form.confusion] == [3, 3]
    recalls = [row[i] / sum(row) for i, row in enumerate(form.confusion)]
    assert sum(recalls) / 2 == pytest.approx(form.tflm.uar)
    forms = {'int8': dataclasses.replace(form, confusion=((2, 1, 1), (0, 0, 0)))}
    _, text = shown(forms=forms)
    lines = text.splitlines()
    assert '| true class | high | low | no speech | recall |' in lines
    assert '| high | 2 | 1 | 1 | 50.0 % of 4 |' in lines
    assert '| low | 0 | 0 | 0 | none there |' in lines
    _, text = shown(forms={'int8': dataclasses.replace(form, confusion=((2, 1, 0), (0, 4, 0)))})
    assert '| low | 0 | 4 | 100.0 % of 4 |' in text


def test_limits_and_law_are_told_in_the_same_words_everywhere(shown):
    for text in (shown()[1], (ROOT / 'README.md').read_text()):
        assert card.LIMITS in text
    for words in ('acted', 'decision about a person', '2024/1689, Article 5(1)(f)', 'no\n  legal advice'):
        assert words in card.LIMITS


def test_every_corpus_has_its_terms():
    assert terms.TERMS.keys() == {name.partition('/')[0] for name in NAMES}
    for name, about in terms.TERMS.items():
        assert about.licence, name
        if name not in ('synth', 'folder'):
            assert about.source.startswith('http'), name
            assert all(len(language) == 2 for language in about.languages), name
            assert about.languages, name
            assert about.reference, name
