"""Folding and exporting a checkpoint: what is written, what is refused, and what happens when a form is wrong."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json

import jax
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from helpers import float32, moved, save, windows_of
from jax_reparam import checkpoint, deploy, manifest, models, reparam
from jax_reparam.deploy import convert
from jax_reparam.device import metadata
from jax_reparam.errors import InputError
from jax_reparam.export import card, folder, folding
from jax_reparam.field.robustness import Row
from jax_reparam.frontend.voice import VoiceConfig
from jax_reparam.graph import flatbuffer
from jax_reparam.graph.passes import optimise
from jax_reparam.quantise import tensor_report
from jax_reparam.quantise.quantise import Calibration, quantise
from jax_reparam.runtime import tflm
from jax_reparam.train import loop

pytestmark = pytest.mark.slow


def test_manifest_has_the_schema_and_every_form_passed(exported, config, data, variables):
    content = json.loads((exported.path / 'manifest.json').read_text())
    assert exported.failures == []
    assert content == json.loads(json.dumps(exported.manifest.as_json()))
    assert content['format'] == 5
    assert content['model'] == config.as_json()['model']
    assert content['labels'] == ['high', 'low']
    assert {'sample_rate', 'window_seconds', 'hop_ms', 'n_mels', 'mean', 'std', 'voice_mean', 'voice'} <= content[
        'input'
    ].keys()
    assert content['input']['window_seconds'] == pytest.approx(0.64)
    folded = reparam.dehrf(variables['params'])
    assert content['params'] == {'training': checkpoint.count(variables['params']), 'folded': checkpoint.count(folded)}
    windows = sum(len(windows_of(data, part)[0]) for part in ('test', 'validation'))
    assert content['fold'].keys() == {'sites', 'windows', 'max_abs_diff', 'argmax_agreement'}
    assert (content['fold']['sites'], content['fold']['windows']) == (config.model.layers, windows)
    assert content['fold']['argmax_agreement'] == 1
    assert content['protocol'] == json.loads(json.dumps(data.split.info))
    assert 0 <= content['reference_uar'] <= 1
    assert content['failed'] == {}
    assert list(content['forms']) == ['float32', 'int8', 'int16']
    assert content['recommended'] == 'int8'
    for name, form in content['forms'].items():
        model = (exported.path / form['file']).read_bytes()
        assert form['file'] == f'model_{name}.tflite'
        assert form['bytes'] == len(model)
        assert form['sha256'] == hashlib.sha256(model).hexdigest()
        assert form['ops'] == flatbuffer.read(model).ops
        expected = ('int8', 'int16') if name == 'int8' else (name, name)
        assert (form['input']['dtype'], form['output']['dtype']) == expected
        for runtime in ('litert', 'tflm'):
            assert form[runtime]['differing'] == 0
            assert form[runtime]['snr_db'] > (100 if name == 'float32' else 20)
            assert 0 <= form[runtime]['uar'] <= 1
        assert 1000 < form['tflm']['arena_bytes'] < 1_000_000
    assert content['forms']['int8']['input']['scale'] > 0


def test_the_folder_holds_what_it_should(exported):
    only_for_an_npu = {*manifest.NPU_FILES.values(), manifest.FORM_FILES[manifest.NPU_FORM]}
    assert {path.name for path in exported.path.iterdir()} == folder.OURS - only_for_an_npu
    assert exported.manifest.npu is None
    assert (exported.path / 'labels.txt').read_text() == 'high\nlow\n'
    card = (exported.path / 'MODEL_CARD.md').read_text()
    assert 'conv_transformer' in card
    assert f'{exported.manifest.forms["int8"].bytes:,}' in card


@pytest.mark.parametrize(
    ('history', 'told'), [(0.0, 'not trained with histories: adaptation is off'), (0.5, 'trained with histories')]
)
def test_the_card_says_what_the_field_and_a_voice_do_in_plain_words(exported, workdir, history, told):
    rows = [
        Row('telephone', 'int8', 4, 0, 0, 0.25, 0.9, 0.3, 0.5, 0.05, passed=False),
        Row('room-0.3', 'int8', 4, 0, 0, 1.0, 0.9, 0.9, 0.8, passed=True),
        Row('level-30', 'int8', 4, 0, 0, 1.0, 0.9, 0.9),
    ]
    inputs = dataclasses.replace(exported.manifest.input, voice=VoiceConfig(history=history))
    content = dataclasses.replace(exported.manifest, field=tuple(rows), input=inputs)
    found = card.text(content, checkpoint.load(workdir).recipe).splitlines()
    assert '| telephone line | 4 | 25.0 % | 90.0 % | 30.0 % | 50 % kept, at most 5 points lost: missed |' in found
    assert '| room with echo | 4 | 100.0 % | 90.0 % | 90.0 % | 80 % kept: passed |' in found
    assert '| quiet voice | 4 | 100.0 % | 90.0 % | 90.0 % |  |' in found
    assert f'- Voice: {told}.' in found


def test_both_checkpoints_hold_the_folded_model(exported, variables):
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables)
        expected = {name: np.asarray(leaf) for name, leaf in checkpoint.leaves(reparam.dehrf(wide))}
    orbax = checkpoint.load(exported.path / 'checkpoint')
    tensors = load_file(exported.path / 'model.safetensors')
    assert tensors.keys() == expected.keys() == dict(checkpoint.leaves(orbax.variables)).keys()
    for name, leaf in checkpoint.leaves(orbax.variables):
        np.testing.assert_array_equal(tensors[name], leaf)
        np.testing.assert_allclose(leaf, expected[name], rtol=1e-7)
        assert leaf.dtype == np.float32
    with safe_open(exported.path / 'model.safetensors', 'numpy') as file:
        assert json.loads(file.metadata()['labels']) == ['high', 'low']
        assert json.loads(file.metadata()['config'])['hrf']['expansion'] == 0
    assert orbax.recipe.hrf.expansion == 0


def test_the_calibration_windows_are_training_windows(exported, data):
    ids = {data.corpus.id[clip] for clip in data.clips('train')}
    assert exported.manifest.calibration
    assert {clip for clip, _ in exported.manifest.calibration} <= ids


def joined(ops):
    """Which of the two conversions there is depends on ranges."""
    ops = dict(ops)
    return ops | {'CAST': ops.get('CAST', 0) + ops.pop('QUANTIZE', 0)}


def test_the_folded_export_is_the_plain_one(exported, config, data):
    windows, _ = windows_of(data, 'train')
    plain = models.build(config.model, n_classes=2)
    # Moved, since the converter drops a bias of zero.
    fresh = moved(plain.init(jax.random.key(1), windows[:1]))
    assert exported.manifest.params.folded == checkpoint.count(fresh['params'])
    frames = windows.shape[1]
    graph = float32(deploy.build(config.model, fresh, frames), windows.shape)
    int8 = quantise(Calibration(graph, windows[:4]), deploy.widths(config.model, frames)).graph
    for name, made in (('float32', graph), ('int8', int8)):
        ready, form = optimise(made), exported.manifest.forms[name]
        assert joined(ready.ops) == joined(form.ops)
        model = metadata.attach(flatbuffer.write(ready), exported.manifest.labels, exported.manifest.input)
        assert abs(len(model) - form.bytes) <= 64


@pytest.fixture(scope='module')
def small(workdir, tmp_path_factory):
    """An export verified on few windows, for an NPU, and with a fast int8."""
    out = tmp_path_factory.mktemp('small') / 'out'
    return folding.fold_and_export(workdir, out, limit=6, accelerator='ethos-u55-128', fast=True, show_progress=False)


def test_fewer_windows_can_be_asked_for(small):
    assert 1 <= small.manifest.test.windows <= 6
    assert small.manifest.test.clips < small.manifest.test.of_clips


def test_for_an_npu_a_form_is_made_and_compiled_that_lies_on_it_as_a_whole(small):
    assert (small.failures, small.usable) == ([], True)
    form, entry = small.manifest.forms[manifest.NPU_FORM], small.manifest.npu
    assert form.made.bits == {'': 8}
    assert {form.input.dtype, form.output.dtype} == {'int8'}
    assert form.made.validation.argmax_agreement == 1
    assert form.litert.argmax_agreement == 1
    assert (entry.accelerator, entry.form, entry.left) == ('ethos-u55-128', manifest.NPU_FORM, ())
    assert (entry.share, entry.mac_share, entry.cpu_ops) == (1, 1, 0)
    model = (small.path / 'model_ethos-u55-128_vela.tflite').read_bytes()
    assert (entry.bytes, entry.sha256) == (len(model), hashlib.sha256(model).hexdigest())
    assert flatbuffer.read(model).ops == {'ethos-u': 1}
    assert metadata.read(model)['labels'] == ['high', 'low']
    placed = 'compiled by Vela for ethos-u55-128: 100.0 % of the operators'
    assert placed in (small.path / 'MODEL_CARD.md').read_text()
    assert placed in card.summary(small.path, small.manifest)[4]


def test_the_preferred_form_gets_the_firmware_and_int8_is_made_as_asked(exported, workdir, tmp_path):
    out = folding.fold_and_export(
        workdir, tmp_path / 'out', limit=2, prefer='int16', only_int8=True, show_progress=False
    )
    assert out.failures == []
    assert (out.manifest.recommended, out.manifest.device.firmware.form) == ('int16', 'int16')
    forms, others = out.manifest.forms, exported.manifest.forms
    assert (forms['int8'].made.bits, forms['int8'].output.dtype) == ({'': 8}, 'int8')
    assert (others['int8'].made.bits, others['int8'].output.dtype) == (
        deploy.widths(exported.manifest.architecture, 64),
        'int16',
    )
    assert forms['int16'].made.bits == {'': 16}
    assert forms['float32'].made.bits is None


def test_speed_may_be_asked_for(small):
    assert small.manifest.forms['int8'].made.bits == deploy.widths(small.manifest.architecture, 64, fast=True)


@pytest.mark.parametrize('name', ['npu', manifest.NPU_FORM])
def test_an_npu_model_that_was_asked_for_and_is_not_there_is_a_failure(exported, name):
    assert exported.usable
    missed = dataclasses.replace(exported.manifest, failed={name: manifest.Failed(reasons=('x',))})
    assert not dataclasses.replace(exported, manifest=missed).usable


def test_each_quantised_form_has_its_worst_tensors(exported, variables):
    text = (exported.path / 'LAYERS.md').read_text()
    for name in manifest.QUANTISED:
        rows = exported.manifest.forms[name].layers
        assert len(rows) == tensor_report.WORST
        assert [row.snr_db for row in rows] == sorted(row.snr_db for row in rows)
        assert {row.module.split('/')[0] for row in rows} <= {'stem', 'front', 'layers', 'norm', 'head', ''}
        assert f'## {name}\n' in text
    [site] = exported.manifest.kernels
    ffn_in = variables['params']['layer_0']['ffn']['ffn_in']
    assert (site.path, site.path in text) == ('params/layer_0/ffn/ffn_in', True)
    assert site.kernel_u.largest == pytest.approx(np.abs(ffn_in['hrf']['kernel_u']).max())
    assert site.kernel.largest == pytest.approx(np.abs(reparam.compose(ffn_in['hrf'])['kernel']).max(), rel=1e-5)


@pytest.mark.usefixtures('far_too_narrow')
def test_a_wrong_form_is_left_out_unless_it_is_accepted(workdir, tmp_path):
    out = folding.fold_and_export(workdir, tmp_path / 'out', accept=['int16'], show_progress=False)
    assert any(reason.startswith('int8 in TFLM: expected the same decision') for reason in out.failures)
    assert list(out.manifest.forms) == ['float32', 'int16']
    assert out.manifest.failed['int8'].found.tflm.argmax_agreement < 0.99
    assert not (out.path / 'model_int8.tflite').exists()
    assert (out.path / 'model_float32.tflite').exists()
    assert out.accepted == list(out.manifest.forms['int16'].accepted)
    assert out.accepted[0].startswith('int16 in TFLM: expected the same decision')
    assert (out.manifest.recommended, out.usable) == ('int16', True)
    assert out.manifest.device.firmware.form == 'int16'
    text = (out.path / 'MODEL_CARD.md').read_text()
    assert 'Left out: int8 in TFLM' in text
    assert 'Kept on request: int16 in TFLM' in text
    assert 'except int16, see above' in text


def test_a_form_that_the_converter_refuses_is_named(workdir, tmp_path, monkeypatch):
    def refuse(*_):
        raise convert.ConversionError('TensorFlow refused the graph: no such operator')

    monkeypatch.setattr(convert, 'to_float32', refuse)
    out = folding.fold_and_export(workdir, tmp_path / 'out', show_progress=False)
    assert out.failures[:3] == [
        f'{name}: TensorFlow refused the graph: no such operator' for name in ('float32', 'int8', 'int16')
    ]
    assert (out.manifest.forms, out.usable) == ({}, False)


def test_tflm_that_dies_fails_the_form(workdir, tmp_path, monkeypatch):
    def die(model, windows, **_):
        raise tflm.TFLMError('TFLM ended its process with SIGABRT.')

    monkeypatch.setattr(tflm, 'run', die)
    accept = ['int8', 'int16']  # no gate: there is nothing that runs
    out = folding.fold_and_export(workdir, tmp_path / 'out', accept=accept, show_progress=False)
    names = ('float32', 'int8', 'int16', 'frontend')
    assert out.failures == [f'{name}: TFLM ended its process with SIGABRT.' for name in names]
    assert (out.manifest.forms, out.usable) == ({}, False)


def test_tflm_missing_is_said_and_no_failure(workdir, tmp_path, monkeypatch):
    monkeypatch.setattr(tflm, 'PACKAGE', 'tflite_micro_that_is_not_there')
    out = folding.fold_and_export(workdir, tmp_path / 'out', show_progress=False)
    assert out.failures == []
    for form in out.manifest.forms.values():
        assert form.tflm is None
        assert form.tflm_reason.startswith('not verified: ')
        assert form.litert.argmax_agreement >= 0.9  # 16 of 17 windows in int8
    assert 'not verified' in (out.path / 'MODEL_CARD.md').read_text()


def test_branches_train_and_fold_into_a_model_that_passes(config, tmp_path):
    recipe = config.with_changes({'hrf.sites': 'ffn_in,convolution', 'hrf.branches': 4})
    loop.train(recipe, tmp_path / 'w', show_progress=False)
    out = folding.fold_and_export(tmp_path / 'w', tmp_path / 'out', show_progress=False)
    assert out.failures == []
    assert (out.manifest.fold.sites, out.manifest.fold.argmax_agreement) == (3, 1)
    assert [site.path for site in out.manifest.kernels] == ['params/layer_0/ffn/ffn_in']
    # What is left of a convolution's normalisation does nothing.
    folded = checkpoint.load(out.path / 'checkpoint').variables
    np.testing.assert_array_equal(folded['params']['stem']['conv_norm_1']['scale'], 1)
    np.testing.assert_array_equal(folded['batch_stats']['stem']['conv_norm_1']['mean'], 0)


def test_a_fold_that_loses_a_bias_exports_nothing(workdir, tmp_path, monkeypatch):
    real = reparam.dehrf

    def lossy(tree):
        folded = real(tree)
        folded['params']['layer_0']['ffn']['ffn_in']['bias'] *= 0
        return folded

    monkeypatch.setattr(reparam, 'dehrf', lossy)
    with pytest.raises(folding.FoldError, match='expected logits within'):
        folding.fold_and_export(workdir, tmp_path / 'out', show_progress=False)
    assert list(tmp_path.iterdir()) == []


def test_a_leaf_that_is_not_finite_is_named(tmp_path, config, variables, data):
    broken = copy.deepcopy(variables)
    broken['params']['layer_0']['ffn']['ffn_in']['hrf']['kernel_u'][3, 2] = np.nan
    save(tmp_path / 'w', config, broken, data)
    with pytest.raises(InputError, match=r'params/layer_0/ffn/ffn_in/hrf/kernel_u: expected finite values, found 1 of'):
        folding.fold_and_export(tmp_path / 'w', tmp_path / 'out', show_progress=False)


def test_a_plain_model_needs_plain(tmp_path, exported):
    source = exported.path / 'checkpoint'
    with pytest.raises(InputError, match='expected a model with HRF sites, found a plain one; --plain'):
        folding.fold_and_export(source, tmp_path / 'out', show_progress=False)
    again = folding.fold_and_export(source, tmp_path / 'out', plain=True, limit=2, show_progress=False)
    assert again.manifest.fold.sites == 0
    for name, form in again.manifest.forms.items():
        assert form.sha256 == exported.manifest.forms[name].sha256


def test_a_checkpoint_of_another_model_is_refused(tmp_path, config, variables, data):
    other = config.with_changes({'model.ffn_width': 32})
    save(tmp_path / 'w', other, variables, data)
    message = r'params/layer_0/ffn/ffn_in/hrf/bias_v: expected \(32,\) by its recipe, found \(24,\)'
    with pytest.raises(InputError, match=message):
        folding.fold_and_export(tmp_path / 'w', tmp_path / 'out', show_progress=False)
