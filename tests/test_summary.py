"""The summary: counts by hand, the right export beside each recipe, and bad files named in one line."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest

from helpers import RECIPE
from jax_reparam import errors, schema, summary
from jax_reparam.config import SpeechFormerConfig
from jax_reparam.errors import InputError

MODEL = schema.to_json(RECIPE.model)


def write_recipe(path, **changes):
    """Writes a config file of the tiny recipe, whose corpus chooses the length of the window; returns its path."""
    recipe = {**RECIPE.as_json(), **changes}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"""from jax_reparam.config import Recipe
def get_config(corpus=''):
    recipe = Recipe.from_json({recipe!r})
    return recipe.with_changes({{'window.seconds': 1.28}}) if corpus == 'long' else recipe
"""
    )
    return str(path)


def write_export(folder, age=0, **changes):
    """Writes a manifest for the tiny recipe, `age` seconds old; returns the folder."""
    form = {'bytes': 12345, 'tflm': {'arena_bytes': 6789}}
    content = {
        'format': 1,
        'model': MODEL,
        'input': {'frames': 64, 'n_mels': 12},
        'forms': {'float32': {'bytes': 99999, 'tflm': {'arena_bytes': 88888}}, 'int8': form},
        'failed': {},
        **changes,
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / 'manifest.json'
    path.write_text(json.dumps(content))
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
        {'input': {'frames': 128, 'n_mels': 12}},
        {'input': {'frames': 64, 'n_mels': 13}},
    ],
)
def test_an_export_of_another_model_is_not_taken(here, recipe, capsys, changes):
    write_export(here / 'out', **changes)
    assert export_of(capsys, recipe, '--out', 'out') is None


def test_models_are_compared_not_their_json(here, capsys):
    model = schema.to_json(SpeechFormerConfig(heads=2, layers=(1, 1, 1, 1)))
    recipe = write_recipe(here / 'former.py', model=model)
    del model['expand']  # as an export of before has fewer fields
    write_export(here / 'out', model=model)
    assert export_of(capsys, recipe)['folder'] == 'out'


def test_the_newest_export_is_taken(here, recipe, capsys):
    for name, age in (('a', 5), ('b', 0), ('c', 9)):
        write_export(here / name, age)
    assert export_of(capsys, recipe)['folder'] == 'b'
    assert export_of(capsys, recipe, '--out', 'c', '--out', 'a')['folder'] == 'a'


def test_a_form_that_failed_is_missing(here, recipe, capsys):
    form = {'bytes': 12345, 'tflm': {'arena_bytes': 6789}, 'reasons': ['int8 in TFLM: ...']}
    write_export(here / 'out', forms={}, failed={'int8': form})
    assert export_of(capsys, recipe) == {'folder': 'out', 'int8_bytes': None, 'arena_bytes': None}
    assert summary.main([recipe]) == 0
    assert capsys.readouterr().out.split()[-3:] == ['out', '-', '-']


@pytest.mark.parametrize('tflm', [{'tflm': None, 'tflm_reason': 'not verified'}, {}])
def test_an_arena_that_was_not_measured_is_missing(here, recipe, capsys, tflm):
    write_export(here / 'out', forms={'int8': {'bytes': 5, **tflm}})
    assert export_of(capsys, recipe) == {'folder': 'out', 'int8_bytes': 5, 'arena_bytes': None}


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('{', 'expected a manifest in JSON'),
        ('{"format": 9}', 'expected manifest format 1, found 9'),
        ('{"format": 1}', "expected a whole manifest, found none of 'forms'"),
        ('{"format": 1, "forms": {}, "model": {}}', 'model.name: expected one of .*, found None'),
        (
            '{"format": 1, "forms": {}, "model": {"name": "conformer"}}',
            "expected a whole manifest, found none of 'input'",
        ),
        ('{"format": 1, "forms": []}', 'expected a whole manifest'),
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
