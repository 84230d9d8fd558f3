"""The summary: counts by hand, the right export beside each recipe, and bad files named in one line."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest

from helpers import RECIPE, TINY
from jax_reparam import config, errors, manifest, summary
from jax_reparam.errors import InputError
from jax_reparam.frontend.features import FrontendConfig
from jax_reparam.frontend.inputs import Input
from jax_reparam.frontend.windows import WindowConfig
from jax_reparam.graph import flatbuffer

MODEL = {**TINY, 'layers': 1}


def write_recipe(path, **changes):
    """Writes a config file of the tiny recipe, whose corpus chooses the length of the window; returns its path."""
    recipe = {**RECIPE, 'model': MODEL, **changes}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"""from ml_collections import ConfigDict
from jax_reparam.errors import InputError
def get_config(corpus=''):
    if corpus not in ('', 'long'):
        raise InputError(f'expected a corpus, got {{corpus!r}}')
    recipe = ConfigDict({recipe!r})
    if corpus:
        recipe.window.seconds = 1.28
    return recipe
"""
    )
    return str(path)


def form(size, arena, *, frames=64, n_mels=12):
    """A form of two classes in the manifest; `arena` is None where TFLM was not there."""
    score = {'argmax_agreement': 1.0, 'differing': 0, 'snr_db': None, 'uar': 1.0, 'max_abs_diff': 0.0}
    port = {'dtype': 'float32', 'scale': None, 'zero_point': None}
    return manifest.Form(
        **{'file': 'x.tflite', 'bytes': size, 'sha256': 64 * '0'},
        ops={},
        input=flatbuffer.Port((1, frames, n_mels), **port),
        output=flatbuffer.Port((1, 2), **port),
        litert=None,
        tflm=None if arena is None else manifest.TFLMScore(**score, arena_bytes=arena),
        tflm_reason='not verified' if arena is None else None,
        made=manifest.Made(norm='l2'),
    )


def write_export(folder, age=0, *, model=MODEL, int8=True, arena=6789, failed=None, **sizes):
    """Writes a manifest for the tiny recipe, `age` seconds old; `sizes` are `frames` and `n_mels` of its windows."""
    forms = {'float32': form(99999, 88888, **sizes), **({'int8': form(12345, arena, **sizes)} if int8 else {})}
    frames, n_mels = sizes.get('frames', 64), sizes.get('n_mels', 12)
    ones = np.ones(n_mels, np.float32)
    parts = {name: ['s0'] for name in ('train_speakers', 'validation_speakers', 'test_speakers')}
    content = manifest.Manifest(
        model=json.loads(json.dumps(model)),
        labels=('a', 'b'),
        input=Input(FrontendConfig(n_mels=n_mels), WindowConfig(frames, frames), ones, ones),
        params=manifest.Params(training=2, folded=1),
        fold=manifest.Fold(sites=1, windows=1, max_abs_diff=0.0, argmax_agreement=1.0),
        forms=forms,
        recommended='int8' if int8 else None,
        failed=failed or {},
        device=manifest.Device(frontend=None, waveform=None, firmware=None),
        npu=None,
        kernels=(),
        reference_uar=1.0,
        protocol=manifest.Protocol(
            **{'name': 'loso', 'fold': 0, 'folds': 2, 'seed': 0, 'unit': 'clip', 'join': 'mean', 'turns': 0},
            **{'metric': 'uar', **parts, 'counts': {}, 'note': ''},
        ),
        corpus=manifest.Corpus(name='folder', key='0', synthetic=False),
        test=manifest.Test(windows=1, clips=1, of_clips=1, decisions=1),
        calibration=(),
        step=1,
        versions={},
    )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / manifest.FILE
    path.write_text(content.text())
    os.utime(path, (1_000_000_000 - age,) * 2)
    return folder


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def recipe(here):
    return write_recipe(here / 'tiny.py')


def run_json(capsys, *arguments):
    assert summary.main([*map(str, arguments), '--json']) == 0
    out, err = capsys.readouterr()
    assert err == ''
    return json.loads(out)


def export_of(capsys, *arguments):
    (entry,) = run_json(capsys, *arguments)['recipes']
    return entry['export']


def test_numbers_by_hand(recipe, capsys):
    content = run_json(capsys, recipe, f'{recipe}:long', '--classes', 3)
    short, long = content['recipes']
    assert content['classes'] == 3
    assert (short['recipe'], long['recipe']) == (recipe, f'{recipe}:long')
    assert (short['frames'], short['n_mels'], long['frames']) == (64, 12, 128)
    # C 4, D 16, F 24, E 4 D; three bands behind the convolutions.
    convolutions = (9 * 4 + 4) + (9 * 4 * 4 + 4) + 2 * 2 * 4
    projections = (3 * 4 * 16 + 16) + 4 * (16 * 16 + 16)
    norms, head = 3 * 2 * 16, (16 * 16 + 16) + (16 * 3 + 3)
    others = convolutions + projections + norms + head + (24 * 16 + 16)
    plain, factors = 16 * 24 + 24, (16 * 64 + 64) + (64 * 24 + 24)
    assert short['params'] == {'training': others + factors, 'folded': others + plain, 'plain': others + plain}
    assert long['params'] == short['params']
    tokens = 16
    stem = 32 * 6 * 4 * 9 + 16 * 3 * 4 * 9 * 4 + tokens * 12 * 16
    layer = 4 * tokens * 16**2 + 2 * tokens**2 * 16 + 2 * tokens * 16 * 24
    assert short['macs'] == stem + layer + 16**2 + 16 * 3
    assert short['export'] is None


def test_folded_is_counted_from_the_folded_tree(recipe, capsys, monkeypatch):
    monkeypatch.setattr('jax_reparam.reparam.dehrf', lambda tree: tree)
    (entry,) = run_json(capsys, recipe)['recipes']
    assert entry['params']['folded'] == entry['params']['training'] > entry['params']['plain']


def test_default_recipes_are_those_of_the_current_folder(here, capsys):
    for name in ('b', 'a'):
        write_recipe(here / 'configs' / f'{name}.py')
    assert [entry['recipe'] for entry in run_json(capsys)['recipes']] == ['configs/a.py', 'configs/b.py']


def test_no_recipes():
    with pytest.raises(InputError, match=r'configs/\*\.py: expected recipes there'):
        summary.main([])


def test_table(here, recipe, capsys):
    write_export(here / 'out')
    wide = write_recipe(here / 'wide.py', model={**MODEL, 'width': 256, 'ffn_width': 1024})
    assert summary.main([recipe, wide]) == 0
    header, first, second = capsys.readouterr().out.splitlines()
    assert header.split('  ')[0].strip() == 'recipe'
    cells = [recipe, '64 x 12', '4,984', '2,744', '2,744', '0.1 M', 'out', '12,345', '6,789']
    assert re.split('  +', first) == cells
    assert second.split()[-4:] == ['M', '-', '-', '-']
    # Numbers end, and names begin, in the same column.
    for name in ('training', 'folded', 'plain', 'MACs', 'arena bytes'):
        end = header.index(name) + len(name)
        assert [line[end - 1 : end + 1].strip() != '' for line in (first, second)] == [True, True]
        assert [line[end : end + 1].strip() for line in (first, second)] == ['', '']
    begin = header.index('export')
    assert (first[begin : begin + 3], second[begin]) == ('out', '-')


@pytest.mark.parametrize('place', ['out', 'runs/out', 'runs/a/out'])
def test_exports_are_found(here, recipe, capsys, place):
    write_export(here / place)
    assert export_of(capsys, recipe) == {'folder': place, 'int8_bytes': 12345, 'arena_bytes': 6789}


@pytest.mark.parametrize('place', ['.', '.hidden', '.venv/out', 'build/out', 'runs/checkpoints/out', 'a/b/c/d'])
def test_exports_are_not_looked_for_everywhere(here, recipe, capsys, place):
    write_export(here / place)
    assert export_of(capsys, recipe) is None


@pytest.mark.parametrize(
    'changes',
    [
        {'model': {**MODEL, 'width': 32}},
        {'model': {**MODEL, 'dropout': 0.2}},
        {'frames': 128},
        {'n_mels': 13},
    ],
)
def test_an_export_of_another_model_is_not_taken(here, recipe, capsys, changes):
    write_export(here / 'out', **changes)
    assert export_of(capsys, recipe, '--out', 'out') is None


def test_tuples_of_a_recipe_are_lists_in_its_export(here, capsys):
    model = {'name': 'speech_former', 'heads': 2, 'layers': (1, 1, 1, 1), 'expand': (1, 1, 1)}
    recipe = write_recipe(here / 'former.py', model=model)
    write_export(here / 'out', model=json.loads(json.dumps(model)))
    assert export_of(capsys, recipe)['folder'] == 'out'


def test_the_newest_export_is_taken(here, recipe, capsys):
    for name, age in (('a', 5), ('b', 0), ('c', 9)):
        write_export(here / name, age)
    assert export_of(capsys, recipe)['folder'] == 'b'
    assert export_of(capsys, recipe, '--out', 'c', '--out', 'a')['folder'] == 'a'


def test_a_form_that_failed_is_missing(here, recipe, capsys):
    failed = manifest.Failed(reasons=('int8 in TFLM: ...',), found=form(12345, 6789))
    write_export(here / 'out', int8=False, failed={'int8': failed})
    assert export_of(capsys, recipe) == {'folder': 'out', 'int8_bytes': None, 'arena_bytes': None}
    assert summary.main([recipe]) == 0
    assert capsys.readouterr().out.split()[-3:] == ['out', '-', '-']


def test_an_arena_that_was_not_measured_is_missing(here, recipe, capsys):
    write_export(here / 'out', arena=None)
    assert export_of(capsys, recipe) == {'folder': 'out', 'int8_bytes': 12345, 'arena_bytes': None}


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('{', 'expected a manifest in JSON'),
        ('{"format": 9}', 'format: expected 1, found 9'),
        ('{"format": 1}', 'model: expected a value, found none'),
    ],
)
def test_a_damaged_export_is_an_error_where_it_was_named(here, recipe, capsys, text, message):
    (here / 'out').mkdir()
    (here / 'out' / 'manifest.json').write_text(text)
    assert export_of(capsys, recipe) is None
    with pytest.raises(InputError, match=f'^out/manifest.json: {message}'):
        summary.main([recipe, '--out', 'out'])


def test_an_export_that_is_not_there(recipe):
    with pytest.raises(InputError, match=r'^nowhere: expected a folder that fold\.py wrote'):
        summary.main([recipe, '--out', 'nowhere'])


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('get_config = ', 'found SyntaxError: invalid syntax'),
        ('import no_such_module', "found ModuleNotFoundError: No module named 'no_such_module'"),
        ('', "found AttributeError: module 'bad' has no attribute 'get_config'"),
        ('def get_config(): ...', 'found TypeError: get_config.. takes 0 positional arguments'),
        ('def get_config(corpus): return {}', "found AttributeError: 'dict' object has no attribute 'to_dict'"),
    ],
)
def test_a_broken_recipe(here, text, message):
    (here / 'bad.py').write_text(text)
    with pytest.raises(InputError, match=rf'^bad\.py: expected a recipe \(.*\), {message}'):
        config.load_recipe('bad.py')


def test_a_recipe_that_is_none(here, recipe):
    (here / 'recipe.txt').write_text('')
    for path, message in (
        ('nowhere.py', 'expected a recipe, found no such file'),
        ('.', 'expected a recipe, found a folder'),
        ('recipe.txt', 'expected a recipe in Python'),
        (write_recipe(here / 'less.py', window=None), 'expected a recipe with the sections .*, found no window'),
    ):
        with pytest.raises(InputError, match=f'{path}: {message}'):
            config.load_recipe(path)
    with pytest.raises(InputError, match=r"tiny\.py: expected a corpus, got 'short'"):
        config.load_recipe(recipe, 'short')


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'model': {**MODEL, 'widht': 8}}, r'model\.widht: expected one of'),
        ({'model': {**MODEL, 'width': 15}}, r'model\.width: expected a multiple of 2 heads'),
        ({'hrf': {'expansion': 0.1}}, r'expected E >= min\(D, F\)'),
        ({'hrf': {'expand': 4}}, "unexpected keyword argument 'expand'"),
        ({'window': {'seconds': 1.0}}, "expected window and frontend of a recipe, found KeyError: 'hop_seconds'"),
        (
            {'window': {'seconds': 1.0, 'hop_seconds': 2.0}},
            'expected window and frontend of a recipe, found ValueError',
        ),
    ],
)
def test_a_recipe_whose_model_cannot_be_built(here, changes, message):
    path = write_recipe(here / 'odd.py', **changes)
    with pytest.raises(InputError, match=rf'^{path}: .*{message}') as caught:
        summary.main([path])
    assert '\n' not in str(caught.value)


def test_load_recipe_gives_plain_dictionaries(recipe):
    loaded = config.load_recipe(recipe, 'long')
    assert type(loaded) is type(loaded['model']) is dict
    assert loaded['model'] == MODEL
    assert loaded['window']['seconds'] == 1.28


def test_bad_input_is_one_line_and_exit_code_2(capsys):
    with pytest.raises(SystemExit) as end:
        errors.run(lambda: summary.main(['nowhere.py']))
    assert end.value.code == 2
    assert capsys.readouterr().err == 'error: nowhere.py: expected a recipe, found no such file\n'


@pytest.mark.parametrize('value', ['0', '-1', 'four'])
def test_classes_are_counted_from_one(recipe, value, capsys):
    with pytest.raises(SystemExit) as end:
        summary.main([recipe, '--classes', value])
    assert end.value.code == 2
    assert 'argument --classes' in capsys.readouterr().err


def test_help_loads_no_jax():
    code = (
        'import sys; from jax_reparam import summary; summary.parser().format_help(); '
        "sys.exit(', '.join(sys.modules.keys() & {'jax', 'flax', 'tensorflow', 'orbax'}) or 0)"
    )
    subprocess.run([sys.executable, '-c', code], check=True)
