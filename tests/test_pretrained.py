"""The packaged model: whole, small, of today's recipe, and the one that was verified."""

from __future__ import annotations

import json
import runpy
import shutil

import numpy as np
import pytest

from helpers import ROOT
from jax_reparam import Recognizer, checkpoint, config, manifest, models
from jax_reparam.errors import Error
from jax_reparam.manifest import PACKAGED

REBUILD = runpy.run_path(str(ROOT / 'benchmarks' / 'pretrained.py'))


@pytest.fixture(scope='module')
def packaged():
    return manifest.load(PACKAGED)


def test_it_is_an_ordinary_export_without_firmware_and_checkpoint(packaged):
    files = {path.name: path for path in PACKAGED.iterdir()}
    assert sum(path.stat().st_size for path in files.values()) <= REBUILD['MOST_BYTES'] == 2_000_000
    entries = [*packaged.forms.values(), packaged.device.frontend, packaged.device.waveform, packaged.filters]
    for entry in entries:
        manifest.read_file(PACKAGED, entry)  # the digest
    others = {manifest.FILE, manifest.SAFETENSORS, manifest.LABELS, manifest.CARD, manifest.LAYERS}
    assert files.keys() == {entry.file for entry in entries} | others
    assert packaged.device.firmware is None
    assert {'float32', 'int8'} <= packaged.forms.keys()
    assert packaged.recommended


def test_its_recipe_is_todays(packaged):
    """Where this fails, the recipe has changed: `python benchmarks/pretrained.py EMODB` makes the model anew."""
    today = config.load_recipe(ROOT / REBUILD['RECIPE'], REBUILD['CORPUS']).with_changes({'data.protocol': 'all'})
    assert config.Recipe.from_json(packaged.recipe) == today


def test_all_speakers_have_trained_it_and_its_card_has_the_score_of_others(packaged):
    assert (packaged.corpus.name, packaged.protocol.name, packaged.test.part) == ('emodb', 'all', 'train')
    assert len(packaged.protocol.train_speakers) == packaged.held_out.folds == 10
    assert packaged.held_out.step == packaged.step
    card = (PACKAGED / manifest.CARD).read_text()
    assert f'UAR {100 * packaged.held_out.scores["uar"]:.1f} %' in card
    assert 'Burkhardt' in card


@pytest.mark.parametrize(('form', 'tolerance'), [('float32', 1e-4), ('int8', 0.05)])
def test_it_decides_as_it_did(form, tolerance):
    """The tolerance of float32 is that of an export; kernels of int8 round otherwise on other processors."""
    expected = json.loads((ROOT / REBUILD['DECIDED']).read_text())[form]
    found = Recognizer.load(form=form).predict(REBUILD['clip']())
    np.testing.assert_allclose(found.probabilities, list(expected.values()), atol=tolerance)
    assert found.label == max(expected, key=expected.get)


def test_its_weights_are_those_of_its_forms(packaged):
    codes = packaged.input.codes(REBUILD['clip']())
    windows = np.stack([heard.features for heard in packaged.input.windows(codes)])
    model = models.build(packaged.architecture, n_classes=len(packaged.labels))
    logits = model.apply(checkpoint.read_safetensors(PACKAGED / manifest.SAFETENSORS), windows)
    np.testing.assert_allclose(Recognizer.load(form='float32').logits(windows), logits, atol=1e-4)


def test_what_is_too_large_is_not_packaged(tmp_path):
    shutil.copytree(PACKAGED, tmp_path / 'out')
    (tmp_path / 'out' / manifest.FIRMWARE).mkdir()
    size = REBUILD['ship'](tmp_path / 'out', tmp_path / 'packaged')
    assert not (tmp_path / 'packaged' / manifest.FIRMWARE).exists()
    assert size == sum(path.stat().st_size for path in (tmp_path / 'packaged').iterdir())
    with pytest.raises(Error, match='expected at most 1,000 bytes, found'):
        REBUILD['ship'](tmp_path / 'out', tmp_path / 'packaged', most=1000)
    assert manifest.load(tmp_path / 'packaged')
