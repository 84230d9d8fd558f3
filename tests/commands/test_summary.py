"""The summary: counts by hand, the right export beside each recipe, and bad files named in one line."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from helpers import RECIPE, TINY
from jax_reparam import config, errors, manifest, models, schema
from jax_reparam.commands import summary
from jax_reparam.config import ConformerConfig, ConvTransformerConfig, SpeechFormerConfig
from jax_reparam.errors import InputError
from jax_reparam.frontend.features import FrontendConfig, filters
from jax_reparam.frontend.inputs import Input
from jax_reparam.frontend.windows import WindowConfig
from jax_reparam.graph.graph import Port
from jax_reparam.layers import HRFConfig, HRFDense
from jax_reparam.models.speech_former import spans

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


def form(size, arena, *, frames=64, n_mels=12):
    """A form of two classes in the manifest; `arena` is None where TFLM was not there."""
    score = {'argmax_agreement': 1.0, 'differing': 0, 'snr_db': None, 'uar': 1.0, 'max_abs_diff': 0.0}
    port = {'dtype': 'float32', 'scale': None, 'zero_point': None}
    return manifest.Form(
        **{'file': 'x.tflite', 'bytes': size, 'sha256': 64 * '0'},
        ops={},
        input=Port((1, frames, n_mels), **port),
        output=Port((1, 2), **port),
        litert=None,
        tflm=None if arena is None else manifest.TFLMScore(**score, arena_bytes=arena),
        tflm_reason='not verified' if arena is None else None,
        made=manifest.Made(),
    )


def write_export(folder, age=0, *, model=MODEL, int8=True, arena=6789, failed=None, **sizes):
    """Writes a manifest for the tiny recipe, `age` seconds old; `sizes` are `frames` and `n_mels` of its windows."""
    forms = {'float32': form(99999, 88888, **sizes), **({'int8': form(12345, arena, **sizes)} if int8 else {})}
    frames, n_mels = sizes.get('frames', 64), sizes.get('n_mels', 12)
    ones = np.ones(n_mels, np.float32)
    parts = {name: ['s0'] for name in ('train_speakers', 'validation_speakers', 'test_speakers')}
    arrays = filters(FrontendConfig(n_mels=n_mels)).to_bytes()
    content = manifest.Manifest(
        model=json.loads(json.dumps(model)),
        labels=('a', 'b'),
        input=Input(FrontendConfig(n_mels=n_mels), WindowConfig(frames, frames), ones, ones, ones),
        filters=manifest.file_of(manifest.FILTERS, arrays),
        params=manifest.ParamCount(training=2, folded=1),
        fold=manifest.Fold(sites=1, windows=1, max_abs_diff=0.0, argmax_agreement=1.0),
        forms=forms,
        recommended='int8' if int8 else None,
        failed=failed or {},
        device=manifest.Device(frontend=None, waveform=None, firmware=None),
        npu=None,
        kernels=(),
        reference_uar=1.0,
        field=(),
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
    (folder / manifest.FILTERS).write_bytes(arrays)
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


def test_branches_are_counted(here, capsys):
    (entry,) = run_json(capsys, write_recipe(here / 'branches.py', hrf={'sites': ['convolution'], 'branches': 3}))[
        'recipes'
    ]
    params = entry['params']
    assert params['folded'] == params['plain']
    # Two kernels, a 1 x 1 and three normalisations of 4 channels for a kernel, a bias and one normalisation, twice.
    plain = (9 * 4 + 4 + 2 * 4) + (9 * 4 * 4 + 4 + 2 * 4)
    branches = (2 * 9 * 4 + 4 + 3 * 2 * 4) + (2 * 9 * 4 * 4 + 4 * 4 + 3 * 2 * 4)
    assert params['training'] - params['plain'] == branches - plain


def test_folded_is_counted_from_the_folded_tree(recipe, capsys, monkeypatch):
    monkeypatch.setattr('jax_reparam.reparam.dehrf', lambda tree: tree)
    (entry,) = run_json(capsys, recipe)['recipes']
    assert entry['params']['folded'] == entry['params']['training'] > entry['params']['plain']


def test_the_default_is_all_recipes(here, monkeypatch, capsys):
    for name in ('b', 'a'):
        write_recipe(here / f'{name}.py')
    monkeypatch.setattr(config, 'RECIPES', here)
    assert [entry['recipe'] for entry in run_json(capsys)['recipes']] == ['a', 'b']


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
        ('{"format": 1}', r'expected format 5 \(export it anew with fold\.py\), found 1'),
        ('{"format": 5}', 'model: expected a value, found none'),
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
        'import sys; from jax_reparam.commands import summary; summary.parser().format_help(); '
        "sys.exit(', '.join(sys.modules.keys() & {'jax', 'flax', 'tensorflow', 'orbax'}) or 0)"
    )
    subprocess.run([sys.executable, '-c', code], check=True)


# Counting MACs: equations by hand, architectures by formula and against the figures of their design.
X = jax.ShapeDtypeStruct((5, 3), jnp.float32)
KERNEL = np.ones((3, 3), np.float32)
ONE = 5 * 3 * 3  # MACs of X @ KERNEL


def macs_of(function, x=X):
    return summary.count_macs(lambda _, x: function(x), None, x)


@jax.custom_jvp
def jvp_product(x):
    return x @ KERNEL


jvp_product.defjvp(lambda primals, tangents: (jvp_product(*primals), tangents[0]))


@pytest.mark.parametrize(
    ('function', 'expected'),
    [
        (lambda x: x @ KERNEL, ONE),
        (lambda x: KERNEL @ x.T, ONE),
        (lambda x: x @ x.T, 5 * 5 * 3),
        (lambda x: jnp.einsum('td,td->t', x, x), 5 * 3),
        (lambda x: jnp.einsum('t,td->td', x[:, 0], x), 5 * 3),  # nothing is summed
        (lambda x: (x - x.mean()) * lax.rsqrt(jnp.var(x) + 1e-5), 0),
        (lambda x: x * 2 + x.sum() - jnp.max(x), 0),
        (jax.jit(lambda x: x @ KERNEL), ONE),
        (jvp_product, ONE),
        (jax.jit(lambda x: jvp_product(x) @ KERNEL), 2 * ONE),
        (jax.vmap(lambda row: row @ KERNEL), ONE),
        # Products that do not depend on the input are not counted.
        (lambda x: x @ (jnp.asarray(KERNEL) @ KERNEL), ONE),
        (lambda x: x + (jnp.ones((5, 3)) @ KERNEL), 0),
        (lambda x: x @ jax.jit(lambda kernel: kernel @ kernel)(jnp.asarray(KERNEL)), ONE),
        (lambda x: jnp.zeros_like(x) @ KERNEL, 0),
        # One of two results of a call depends on x.
        (lambda x: jax.jit(lambda x, c: (2 * x, 2 * c))(x, jnp.asarray(KERNEL))[1] @ KERNEL, 0),
        (lambda x: lax.while_loop(lambda a: a.sum() < 9, lambda a: a @ KERNEL, jnp.ones((5, 3))) + x, 0),
    ],
)
def test_products_are_counted(function, expected):
    assert macs_of(function) == expected


@pytest.mark.parametrize(
    ('shape', 'kernel', 'options', 'expected'),
    [
        # [B, H, W, C], [h, w, C / groups, F]
        ((1, 8, 6, 4), (3, 3, 4, 10), {}, 8 * 6 * 10 * 9 * 4),
        ((1, 8, 6, 4), (3, 3, 4, 10), {'window_strides': (2, 2)}, 4 * 3 * 10 * 9 * 4),
        ((1, 8, 6, 4), (3, 3, 1, 4), {'feature_group_count': 4}, 8 * 6 * 4 * 9),
        ((2, 8, 6, 4), (5, 1, 2, 6), {'feature_group_count': 2}, 2 * 8 * 6 * 6 * 5 * 2),
    ],
)
def test_convolutions_are_counted(shape, kernel, options, expected):
    options = {'window_strides': (1, 1), 'padding': 'SAME', 'dimension_numbers': ('NHWC', 'HWIO', 'NHWC'), **options}

    def convolve(x):
        return lax.conv_general_dilated(x, np.ones(kernel, np.float32), **options)

    assert macs_of(convolve, jax.ShapeDtypeStruct(shape, jnp.float32)) == expected


@pytest.mark.parametrize(
    ('name', 'function'),
    [
        ('while', lambda x: lax.while_loop(lambda x: x.sum() < 9, lambda x: x @ KERNEL, x)),
        ('scan', lambda x: lax.scan(lambda carry, _: (carry @ KERNEL, None), x, length=7)[0]),
        ('cond', lambda x: lax.cond(x.sum() > 0, lambda x: x @ KERNEL, lambda x: x, x)),
    ],
)
def test_products_that_may_not_run_once_are_refused(name, function):
    with pytest.raises(ValueError, match=f'^{name}: expected no products in it'):
        macs_of(function)


@pytest.mark.parametrize('forward', ['composed', 'two_step'])
def test_composing_the_factors_costs_nothing_two_steps_do(forward):
    layer = HRFDense(6, HRFConfig(expansion=4.0, forward=forward))
    variables = jax.eval_shape(layer.init, jax.random.key(0), X)
    expected = {'composed': 5 * 3 * 6, 'two_step': 5 * (3 * 12 + 12 * 6)}
    assert summary.count_macs(layer.apply, variables, X) == expected[forward]


def stem(frames, mels, channels, width):
    """MACs of two 3x3 convolutions of stride 2 and a linear layer, and the number of tokens."""
    total, inputs = 0, 1
    for _ in range(2):
        frames, mels = math.ceil(frames / 2), math.ceil(mels / 2)
        total += frames * mels * channels * 9 * inputs
        inputs = channels
    return total + frames * mels * channels * width, frames


def conv_transformer(frames, mels, classes, *, channels, width, layers, heads, ffn_width):
    del heads  # they share the width
    total, tokens = stem(frames, mels, channels, width)
    attention = 4 * tokens * width**2 + 2 * tokens**2 * width
    return total + layers * (attention + 2 * tokens * width * ffn_width) + width**2 + width * classes


def conformer(frames, mels, classes, *, channels, width, layers, heads, ffn_width, kernel, positions):
    del heads
    total, tokens = stem(frames, mels, channels, width)
    total += conformer_encoder(tokens, width, layers, ffn_width, kernel)
    if positions == 'relative':
        # Each query with each of 2 T - 1 distances; their projection is a constant.
        total += layers * tokens * (2 * tokens - 1) * width
    return total + width**2 + width * classes


def conformer_encoder(tokens, width, layers, ffn_width, kernel):
    ffn = 2 * 2 * tokens * width * ffn_width
    attention = 4 * tokens * width**2 + 2 * tokens**2 * width
    convolution = tokens * (2 * width**2 + kernel * width + width**2)
    return layers * (ffn + attention + convolution)


def speech_former(frames, mels, classes, *, layers=(2, 2, 4, 4), expand=(1, 1, 1)):
    """MACs of the four stages, each with the merge behind it, and of the head."""
    windows, merges = spans(10)
    tokens, width, stages = frames, mels, []
    for stage, count in enumerate(layers):
        seen = windows[stage] if stage < 3 else tokens
        linear = 3 * width**2 + width**2 + 2 * width * (width // 2)
        stages.append(count * tokens * (linear + 2 * seen * width))
        if stage < 3:
            tokens = math.ceil(tokens / merges[stage])
            stages[-1] += tokens * width * width * expand[stage]
            width *= expand[stage]
    return [*stages, width * (width // 2) + (width // 2) * (width // 4) + (width // 4) * classes]


CONV_TRANSFORMERS = {
    # name: (config, MACs in M by the design)
    'XS': ({'channels': 8, 'width': 64, 'layers': 2, 'heads': 4, 'ffn_width': 128}, 11),
    'S': ({'channels': 16, 'width': 96, 'layers': 4, 'heads': 4, 'ffn_width': 384}, 59),
    'L': ({'channels': 32, 'width': 256, 'layers': 12, 'heads': 8, 'ffn_width': 1024}, 1035),
}
CONFORMER_S = {'channels': 16, 'width': 64, 'layers': 4, 'heads': 4, 'ffn_width': 256, 'kernel': 15}


@pytest.mark.parametrize('size', CONV_TRANSFORMERS)
def test_conv_transformer(size):
    fields, millions = CONV_TRANSFORMERS[size]
    found = summary.model_macs(ConvTransformerConfig(**fields), 400, 64, 4)
    assert found == conv_transformer(400, 64, 4, **fields)
    assert round(found / 1e6) == millions


def test_odd_sizes():
    fields = {name: getattr(TINY, name) for name in ('channels', 'width', 'layers', 'heads', 'ffn_width')}
    assert summary.model_macs(TINY, 37, 11, 5) == conv_transformer(37, 11, 5, **fields)


@pytest.mark.parametrize('positions', ['none', 'relative'])
def test_conformer(positions):
    fields = {**CONFORMER_S, 'positions': positions}
    found = summary.model_macs(ConformerConfig(**fields), 400, 64, 4)
    assert found == conformer(400, 64, 4, **fields)
    # The design's figure is the encoder's, without positions, on 100 tokens.
    assert round(conformer_encoder(100, 64, 4, 256, 15) / 1e6) == 43


def test_speech_former():
    found = summary.model_macs(SpeechFormerConfig(), 651, 128, 4)
    stages = speech_former(651, 128, 4)
    assert found == sum(stages)
    assert round(found / 1e6, 1) == 144.5
    assert round(stages[0] / found, 2) == 0.76


def test_speech_former_xs():
    found = summary.model_macs(SpeechFormerConfig(layers=(1, 1, 2, 2)), 400, 64, 4)
    stages = speech_former(400, 64, 4, layers=(1, 1, 2, 2))
    assert found == sum(stages)
    # The design says 11.4 M, which it is without the head: 11.448 M, and 11.451 M with it.
    assert round(sum(stages[:-1]) / 1e6, 1) == 11.4


def test_speech_former_widens():
    fields = {'layers': (1, 1, 1, 1), 'expand': (1, 3, 2)}
    assert summary.model_macs(SpeechFormerConfig(**fields), 123, 16, 7) == sum(speech_former(123, 16, 7, **fields))


@pytest.mark.parametrize('model', [TINY, ConformerConfig(layers=1)], ids=lambda model: model.name)
def test_a_model_with_composed_factors_costs_what_the_plain_one_costs(model):
    trained = models.build(model, HRFConfig(expansion=4.0), n_classes=4)
    x = jax.ShapeDtypeStruct((1, 40, 16), jnp.float32)
    variables = jax.eval_shape(trained.init, jax.random.key(0), x)
    assert summary.count_macs(trained.apply, variables, x) == summary.model_macs(model, 40, 16, 4)
