"""The manifest: what is written is what is read, and whatever is wrong with it is one line that names file and key."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import shutil

import pytest

from helpers import MISSING, pattern, put
from jax_reparam import errors, manifest
from jax_reparam.commands import listen, predict, verify
from jax_reparam.errors import InputError


@pytest.fixture
def damaged(exported, tmp_path):
    """Writes a changed copy of an export's manifest; `path` are keys, and MISSING takes the last one out."""

    def write(path, value):
        content = json.loads((exported.path / manifest.FILE).read_text())
        put(content, path, value)
        (tmp_path / manifest.FILE).write_text(json.dumps(content))
        return tmp_path

    return write


def test_it_comes_back(exported):
    written = json.loads((exported.path / manifest.FILE).read_text())
    found = manifest.load(exported.path)
    assert found.as_json() == written == exported.manifest.as_json()
    assert manifest.Manifest.from_json(written).forms == exported.manifest.forms
    assert found.text() == manifest.load(exported.path).text()


def test_what_failed_comes_back(exported):
    form = dataclasses.replace(exported.manifest.forms['int8'], tflm=None, tflm_reason='not here', cost=None)
    placement = manifest.Placement(
        accelerator='ethos-u55-128',
        npu_ops=7,
        cpu_ops=3,
        left=(('SUM', 'Unsupported opType'),),
        sram_bytes=2560,
        flash_bytes=1536,
        milliseconds=2.0,
        macs=1234,
        mac_share=0.9,
        share=0.7,
    )
    device = exported.manifest.device
    failed = {
        'int8': manifest.Failed(reasons=('a', 'b'), found=form),
        'int16': manifest.Failed(reasons=('c',)),
        'frontend': manifest.Failed(reasons=('d',), found=of(manifest.FrontendCheck, device.frontend)),
        'waveform': manifest.Failed(reasons=('e',), found=of(manifest.WaveformCheck, device.waveform)),
        'npu': manifest.Failed(reasons=('f',), found=placement),
    }
    content = json.loads(dataclasses.replace(exported.manifest, failed=failed).text())
    assert content['failed']['int16'] == {'reasons': ['c']}
    assert content['failed']['npu'] == {**manifest.schema.to_json(placement), 'reasons': ['f']}
    assert not content['failed']['int8'].keys() & {'cost', 'accepted'}
    assert manifest.Manifest.from_json(content).failed == failed


def of(kind, entry):
    """The part of an entry that a class before it has."""
    return kind(**{field.name: getattr(entry, field.name) for field in dataclasses.fields(kind)})


@pytest.mark.parametrize(
    ('path', 'value', 'message'),
    [
        # A wrong type.
        (['step'], '7', "step: expected a whole number, found '7'"),
        (['step'], True, 'step: expected a whole number, found True'),
        (['labels'], 'high', "labels: expected a list, found 'high'"),
        (['labels', 1], 2, 'labels[1]: expected a text, found 2'),
        (['forms'], [], 'forms: expected an object, found []'),
        (['forms', 'int8'], None, 'forms.int8: expected an object, found None'),
        (['forms', 'int8', 'ops', 'ADD'], 'x', "forms.int8.ops.ADD: expected a whole number, found 'x'"),
        (['forms', 'int8', 'tflm'], 3, 'forms.int8.tflm: expected an object, found 3'),
        (['forms', 'int8', 'made', 'bits', ''], 'x', "forms.int8.made.bits.: expected a whole number, found 'x'"),
        (['failed', 'int8'], ['x'], "failed.int8: expected an object, found ['x']"),
        (['failed', 'int8'], {'reasons': 'x'}, "failed.int8.reasons: expected a list, found 'x'"),
        (['kernels', 0, 'kernel_u', 'largest'], None, 'kernels[0].kernel_u.largest: expected a number, found None'),
        (['protocol', 'join'], 'max', "protocol.join: expected one of 'mean', 'vote', found 'max'"),
        (['calibration', 0], ['x'], "calibration[0]: expected 2 values, found ['x']"),
        (['corpus', 'synthetic'], 0, 'corpus.synthetic: expected true or false, found 0'),
        (['input', 'mean', 3], 'x', "input.mean[3]: expected a number, found 'x'"),
        # Out of its bounds.
        (['step'], -1, 'step: expected at least 0, found -1'),
        (['forms', 'int8', 'bytes'], -1, 'forms.int8.bytes: expected at least 0, found -1'),
        (['forms', 'int8', 'tflm', 'uar'], 1.5, 'forms.int8.tflm.uar: expected 0 to 1, found 1.5'),
        (['forms', 'int8', 'litert', 'snr_db'], float('inf'), 'forms.int8.litert.snr_db: expected a number, found inf'),
        (['forms', 'int8', 'input', 'scale'], 0, 'forms.int8.input.scale: expected more than 0, found 0'),
        (['forms', 'int8', 'cost', 'ops', 0, 'share'], -0.1, 'forms.int8.cost.ops[0].share: expected 0 to 1'),
        (['forms', 'int8', 'layers', 0, 'clipped'], 2, 'forms.int8.layers[0].clipped: expected 0 to 1, found 2'),
        (['reference_uar'], float('nan'), 'reference_uar: expected a number, found nan'),
        (['reference_uar'], 10**400, 'reference_uar: expected a number, found 1000'),
        (['fold', 'max_abs_diff'], -1e-9, 'fold.max_abs_diff: expected at least 0, found -1e-09'),
        (['input', 'sample_rate'], 8000, 'input.sample_rate: expected 16000, found 8000'),
        (['input', 'frames'], 0, 'input.frames: expected at least 1, found 0'),
        (['input', 'hop_frames'], 65, 'input.hop_frames: expected 1 to 64 frames (the window), found 65'),
        (['input', 'n_fft'], 500, 'input.n_fft: expected a power of two of at least a frame of 400 samples, found 500'),
        (['input', 'n_fft'], 256, 'input.n_fft: expected a power of two of at least a frame of 400 samples, found 256'),
        (['input', 'fmax'], 20.0, 'input.fmin: expected less than fmax, 20, found 20.0'),
        (['input', 'mean'], [0.0], 'input.mean: expected 12 numbers, found 1'),
        (['input', 'std'], [0.0] * 12, 'input.std: expected numbers above 0, found 0'),
        (['input', 'std', 0], 1e300, 'input.std[0]: expected a number of 32 bits, found 1e+300'),
        # What does not go together.
        (['labels'], ['high', 'high'], "labels: expected names, no two the same, found ['high', 'high']"),
        (['labels'], ['a', 'b', 'c'], 'forms.float32.output.shape: expected (1, 3), found (1, 2)'),
        (['forms', 'int8', 'input', 'shape'], [1, 9, 12], 'forms.int8.input.shape: expected (1, 64, 12)'),
        (['forms', 'int8', 'confusion', 0], [1, 2], 'forms.int8.confusion: expected 2 rows of 3, found others'),
        (['forms', 'int8', 'confusion', 0, 0], -1, 'forms.int8.confusion[0][0]: expected at least 0, found -1'),
        (['recommended'], 'int4', "recommended: expected one of the forms (float32, int8, int16), found 'int4'"),
        (['device', 'firmware', 'form'], 'x', 'device.firmware.form: expected one of the forms'),
        # Missing, and unknown.
        (['corpus'], MISSING, 'corpus: expected a value, found none'),
        (['forms', 'int8', 'sha256'], MISSING, 'forms.int8.sha256: expected a value, found none'),
        (['forms', 'int8', 'tflm', 'arena_bytes'], MISSING, 'forms.int8.tflm.arena_bytes: expected a value'),
        (['device', 'waveform'], MISSING, 'device.waveform: expected a value, found none'),
        (['failed', 'int8'], {}, 'failed.int8.reasons: expected a value, found none'),
        (['input', 'n_mels'], MISSING, 'input.n_mels: expected a value, found none'),
        (['forms', 'int8', 'byte'], 1, "forms.int8: expected one of .*, found 'byte'; did you mean 'bytes'?"),
        (['forms', 'int4'], 'int8', 'forms.int4: expected an object'),
        (['failed', 'npu'], {'reasons': [], 'x': 1}, "failed.npu: expected one of .*, found 'x'"),
        (['more'], 1, "keys: expected one of .*, found 'more'"),
        # A path that leaves the folder, and a digest that is none.
        (['forms', 'int8', 'file'], '/etc/passwd', "forms.int8.file: expected a path in the folder"),
        (['forms', 'int8', 'file'], '../x', "forms.int8.file: expected a path in the folder, found '../x'"),
        (['forms', 'int8', 'file'], 'a/../../x', 'forms.int8.file: expected a path in the folder'),
        (['forms', 'int8', 'file'], 'a\\..\\x', 'forms.int8.file: expected a path in the folder'),
        (['forms', 'int8', 'file'], 'C:\\x', 'forms.int8.file: expected a path in the folder'),
        (['forms', 'int8', 'file'], 'a\0', 'forms.int8.file: expected a path in the folder'),
        (['forms', 'int8', 'file'], '', "forms.int8.file: expected a path in the folder, found ''"),
        (['device', 'firmware', 'folder'], '..', "device.firmware.folder: expected a path in the folder, found '..'"),
        (['device', 'frontend', 'sha256'], 'abc', "device.frontend.sha256: expected 64 hexadecimal digits"),
        # Another format.
        (['format'], 1, 'expected format 5 (export it anew with fold.py), found 1'),
        (['format'], MISSING, 'expected format 5 (export it anew with fold.py), found None'),
        (['format'], True, 'expected format 5 (export it anew with fold.py), found True'),
        (['format'], 5.0, 'format: expected a whole number, found 5.0'),
    ],
)  # fmt: skip
def test_damage_is_one_line_that_names_file_and_key(damaged, path, value, message):
    folder = damaged(path, value)
    with pytest.raises(InputError) as caught:
        manifest.load(folder)
    text = str(caught.value)
    assert re.match(pattern(f'{folder}/manifest.json: {message}'), text)
    assert '\n' not in text


def test_a_form_of_another_name_is_refused(damaged, exported):
    form = json.loads((exported.path / manifest.FILE).read_text())['forms']['int8']
    with pytest.raises(InputError, match=r"manifest\.json: forms: expected one of .*, found 'int4'; did you mean"):
        manifest.load(damaged(['forms', 'int4'], form))


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        (None, 'expected a folder that fold.py wrote, found no manifest.json'),
        ('{"format": 1', 'manifest.json: expected a manifest in JSON, found: '),
        ('[' * 100_000, 'manifest.json: expected a manifest in JSON, found: '),
        ('[]', 'manifest.json: expected an object, found list'),
        ('{"format": 9}', 'manifest.json: expected format 5 (export it anew with fold.py), found 9'),
        ('{"format": 1}', 'manifest.json: expected format 5 (export it anew with fold.py), found 1'),
    ],
)
def test_what_is_no_manifest_is_refused(tmp_path, text, message):
    if text is not None:
        (tmp_path / 'manifest.json').write_text(text)
    with pytest.raises(InputError, match=re.escape(message)):
        manifest.load(tmp_path)


@pytest.mark.parametrize('command', [predict, listen, verify])
def test_a_command_says_it_and_ends_with_2(damaged, command, capsys):
    folder = damaged(['forms', 'int8', 'bytes'], 'many')
    arguments = {
        predict: ['--model', folder, 'x.wav'],
        listen: ['--model', folder, '--file', 'x.wav'],
        verify: [folder, '--clips', 'x'],
    }[command]
    with pytest.raises(SystemExit) as end:
        errors.run(lambda: command.main([str(argument) for argument in arguments]))
    assert end.value.code == 2
    line = f"error: {folder}/manifest.json: forms.int8.bytes: expected a whole number, found 'many'\n"
    assert capsys.readouterr() == ('', line)


def test_a_number_that_json_does_not_know_is_not_written(exported):
    with pytest.raises(ValueError, match='not JSON compliant'):
        dataclasses.replace(exported.manifest, reference_uar=float('inf')).text()


def test_a_file_is_that_of_its_entry(tmp_path):
    (tmp_path / 'x').write_bytes(b'abc')
    entry = manifest.file_of('x', b'abc')
    assert entry == manifest.File(file='x', bytes=3, sha256=hashlib.sha256(b'abc').hexdigest())
    assert manifest.read_file(tmp_path, entry) == b'abc'
    (tmp_path / 'x').write_bytes(b'abd')
    with pytest.raises(InputError, match=rf'x: expected the file that was verified \(SHA-256 {entry.sha256[:12]}\)'):
        manifest.read_file(tmp_path, entry)
    (tmp_path / 'x').unlink()
    with pytest.raises(InputError, match='x: expected a file of the model, found: No such file'):
        manifest.read_file(tmp_path, entry)


def test_the_form_is_the_one_that_is_asked_for_or_recommended(exported, tmp_path):
    assert [manifest.open_form(exported.path, name)[1] for name in (None, 'int16')] == ['int8', 'int16']
    shutil.copytree(exported.path, tmp_path / 'out')
    content = dataclasses.replace(exported.manifest, recommended=None)
    (tmp_path / 'out' / manifest.FILE).write_text(content.text())
    _, name, model = manifest.open_form(tmp_path / 'out')
    assert (name, model) == ('float32', (exported.path / 'model_float32.tflite').read_bytes())
    with pytest.raises(InputError, match='out: expected form int8_npu, found float32, int8, int16'):
        manifest.open_form(tmp_path / 'out', 'int8_npu')


@pytest.mark.parametrize(
    ('names', 'accepted', 'prefer', 'expected'),
    [
        (['float32', 'int16', 'int8'], [], None, 'int8'),
        (['float32', 'int16'], [], None, 'int16'),
        (['int8', 'int16'], ['int8'], None, 'int16'),
        (['int8', 'int16'], ['int8', 'int16'], None, 'int8'),
        (['float32', manifest.NPU_FORM], [], None, None),
        (['int8', 'int16'], [], 'int16', 'int16'),
        (['int8', 'int16'], ['int16'], 'int16', 'int8'),
    ],
)
def test_what_passed_is_recommended_before_what_was_accepted(exported, names, accepted, prefer, expected):
    form = exported.manifest.forms['int8']
    forms = {name: dataclasses.replace(form, accepted=('x',) if name in accepted else None) for name in names}
    assert manifest.recommended(forms, prefer) == expected
