"""Labels and feature parameters inside the .tflite files."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from jax_reparam import manifest
from jax_reparam.device import metadata
from jax_reparam.graph import arena, flatbuffer
from jax_reparam.runtime import litert, tflm

FORMS = ('model_float32.tflite', 'model_int8.tflite', 'model_waveform_float32.tflite')


@pytest.fixture(scope='module')
def model(exported):
    return (exported.path / 'model_int8.tflite').read_bytes()


@pytest.mark.parametrize('file', FORMS)
def test_every_form_says_what_it_is(exported, file):
    found = metadata.read((exported.path / file).read_bytes())
    expected = exported.manifest.input.as_json()
    assert found['labels'] == list(exported.manifest.labels) == ['high', 'low']
    assert found['input']['hop_frames'] == 32
    assert found['input'] == {name: expected[name] for name in found['input']}
    statistics = {'mean', 'std', 'voice_mean', 'voice'}
    assert set(expected) - set(found['input']) == statistics | {'window_seconds', 'window_hop_seconds'}


def test_labels_keep_their_order_and_their_letters(model, inputs):
    for labels in (['zorn', 'Überraschung', 'a"b'], ['a"b', 'Überraschung', 'zorn']):
        assert metadata.read(metadata.attach(model, labels, inputs))['labels'] == labels


def test_the_second_entry_replaces_the_first(model, inputs):
    again = metadata.attach(model, ['x', 'y'], inputs)
    assert metadata.read(again)['labels'] == ['x', 'y']
    assert len(again) == len(metadata.attach(again, ['x', 'y'], inputs))


def test_what_others_noted_stays(model, inputs):
    graph = flatbuffer.read(model)
    graph.metadata['another'] = b'text'
    again = flatbuffer.read(metadata.attach(flatbuffer.write(graph), ['x', 'y'], inputs)).metadata
    assert again.pop(metadata.NAME) != graph.metadata.pop(metadata.NAME)
    assert again == graph.metadata
    assert set(again) == {arena.NAME, 'another'}


def test_it_adds_no_more_than_its_text(model, inputs):
    graph = flatbuffer.read(model)
    del graph.metadata[metadata.NAME]
    bare = flatbuffer.write(graph)
    text = json.dumps({'labels': ['a'], 'input': dataclasses.asdict(inputs.frontend)})
    assert len(metadata.attach(bare, ['a'], inputs)) - len(bare) < len(text) + 200
    with pytest.raises(ValueError, match=r"expected metadata 'jax_reparam' in the \.tflite file, got none"):
        metadata.read(bare)


def test_outputs_do_not_move(model, inputs, rng):
    windows = rng.standard_normal((2, 64, 12)).astype(np.float32)
    other = metadata.attach(model, ['a', 'b'], inputs)
    np.testing.assert_array_equal(litert.load(model)(windows), litert.load(other)(windows))
    if tflm.missing() is None:
        np.testing.assert_array_equal(tflm.run(model, windows).logits, tflm.run(other, windows).logits)


def test_the_manifest_counts_the_bytes_with_it(exported, model):
    assert exported.manifest.forms['int8'].bytes == len(model)
    assert manifest.read_file(exported.path, exported.manifest.forms['int8']) == model
