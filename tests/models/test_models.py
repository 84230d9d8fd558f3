"""Every architecture: published sizes, exact folding at every choice of sites, masks that hide, errors that name."""

from __future__ import annotations

import dataclasses
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers import TINY, TINY_MODELS, drawn, moved
from jax_reparam import models, reparam
from jax_reparam.config import SITES, ConformerConfig, ConvTransformerConfig, HRFConfig, SpeechFormerConfig
from jax_reparam.models import speech_former

# name: (model, mel bands, parameters with 4 classes)
SIZES = {
    'ConvTransformer XS': (
        ConvTransformerConfig(channels=8, width=64, layers=2, heads=4, ffn_width=128),
        64,
        80_444,
    ),
    'ConvTransformer S': (ConvTransformerConfig(), 64, 484_468),
    'ConvTransformer L': (
        ConvTransformerConfig(channels=32, width=256, layers=12, heads=8, ffn_width=1024),
        64,
        9_685_476,
    ),
    'SpeechFormer S': (SpeechFormerConfig(), 128, 1_059_428),
    'SpeechFormer B': (SpeechFormerConfig(expand=(1, 1, 2)), 128, 2_095_300),
    'SpeechFormer XS': (SpeechFormerConfig(layers=(1, 1, 2, 2)), 64, 142_580),
}
CONFORMER_S = ConformerConfig()
CONFORMER_L = ConformerConfig(channels=32, width=256, layers=6, heads=4, ffn_width=1024, kernel=31)
LINEAR = tuple(site for site in SITES if site != 'convolution')
SITE_CHOICES = [sites for count in range(1, 5) for sites in itertools.combinations(LINEAR, count)]
BRANCHES = HRFConfig(sites=('convolution',))
WITH_CONVOLUTIONS = ('conv_transformer', 'conformer')
SITE_CHOICES += [('convolution',), ('ffn_in', 'convolution'), SITES]


def shapes(model, bands, frames=400):
    return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, frames, bands)))


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize('name', SIZES)
def test_sizes(name):
    fields, bands, expected = SIZES[name]
    assert count(shapes(models.build(fields, n_classes=4), bands)['params']) == expected


@pytest.mark.parametrize(
    ('fields', 'positions', 'expected'),
    [
        (CONFORMER_S, 'none', 388_352),
        (CONFORMER_L, 'none', 9_137_664),
        # The published figures leave relative positions out: a projection and two biases a block.
        (CONFORMER_S, 'relative', 388_352 + 4 * (64 * 64 + 2 * 64)),
        (CONFORMER_L, 'relative', 9_137_664 + 6 * (256 * 256 + 2 * 256)),
    ],
)
def test_conformer_encoder_sizes(fields, positions, expected):
    params = shapes(models.build(dataclasses.replace(fields, positions=positions), n_classes=4), 64)['params']
    assert count({name: tree for name, tree in params.items() if name.startswith('layer_')}) == expected


def sites_of(fields):
    """The number of layers of each kind."""
    if fields.name == 'speech_former':
        layers = sum(fields.layers)
        return {'ffn_in': layers, 'ffn_out': layers, 'attention': 2 * layers, 'pointwise': 3, 'convolution': 0}
    layers = fields.layers
    once = {'ffn_in': layers, 'ffn_out': layers, 'attention': 4 * layers, 'pointwise': 1, 'convolution': 2}
    if fields.name == 'conformer':
        twice = {'ffn_in': 2 * layers, 'ffn_out': 2 * layers, 'pointwise': 2 * layers + 1}
        return {**once, **twice, 'convolution': layers + 2}
    return once


@pytest.mark.parametrize(
    ('name', 'sites'),
    [
        pytest.param(name, sites, id=f'{name}-{"+".join(sites)}')
        for name, fields in TINY_MODELS.items()
        for sites in SITE_CHOICES
        if any(sites_of(fields)[site] for site in sites)
    ],
)
def test_every_choice_of_sites_folds(rng, name, sites):
    """The folded tree is the plain model's, and its logits are those of the training form."""
    fields = TINY_MODELS[name]
    x = 2 * (rng.standard_normal((4, 21, 12)) + rng.standard_normal((4, 1, 12)))  # each clip with a spectrum of its own
    trained, plain = (models.build(fields, hrf, n_classes=3) for hrf in (HRFConfig(sites=sites), None))
    tree = shapes(trained, 12, 21)
    assert len(reparam.hrf_sites(tree)) == sum(sites_of(fields)[site] for site in sites)
    with jax.enable_x64(True):
        # Not jitted: compiling each of these would take most of the time of all tests.
        for seed in range(10):
            variables = drawn(tree, seed)
            expected = np.asarray(trained.apply(variables, x))
            if np.ptp(expected, axis=0).max() > 0.05:
                break
        folded = reparam.dehrf(variables, strict=True)
        chex.assert_trees_all_equal_shapes(folded, shapes(plain, 12, 21))
        got = np.asarray(plain.apply(folded, x))
    assert np.ptp(expected, axis=0).max() > 0.05  # the clips differ: the logits do not hang on dead units
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize('forward', ['composed', 'two_step'])
@pytest.mark.parametrize('expansion', [1.0, 4.0])
def test_folded_logits_equal_in_float64(rng, forward, expansion):
    with jax.enable_x64(True):
        x = rng.standard_normal((3, 37, 12))
        trained = models.build(TINY, HRFConfig(expansion, forward), n_classes=5)
        variables = drawn(shapes(trained, 12))
        folded = reparam.dehrf(variables, strict=True)
        got = jax.jit(models.build(TINY, n_classes=5).apply)(folded, x)
        np.testing.assert_allclose(got, jax.jit(trained.apply)(variables, x), rtol=0, atol=1e-11)


@pytest.mark.parametrize('name', TINY_MODELS)
def test_folded_logits_equal_in_float32(rng, name):
    x = rng.standard_normal((3, 37, 12)).astype(np.float32)
    trained = models.build(TINY_MODELS[name], HRFConfig(sites=SITES), n_classes=5)
    variables = jax.tree.map(np.float32, drawn(shapes(trained, 12)))
    got = jax.jit(models.build(TINY_MODELS[name], n_classes=5).apply)(reparam.dehrf(variables), x)
    np.testing.assert_allclose(got, jax.jit(trained.apply)(variables, x), atol=1e-5)


@pytest.mark.parametrize(
    ('name', 'hrf'), [*((name, None) for name in TINY_MODELS), *((name, BRANCHES) for name in WITH_CONVOLUTIONS)]
)
def test_what_is_padded_behind_a_clip_changes_nothing(rng, name, hrf):
    """200 pairs of length and padding: a clip's logits are those of the clip alone, whatever stands behind it."""
    model = models.build(TINY_MODELS[name], hrf, n_classes=3)
    variables = jax.tree.map(np.float32, drawn(shapes(model, 12)))
    apply = jax.jit(model.apply)
    longest, pairs = 48, 200
    lengths = rng.integers(1, longest + 1, pairs)
    clips = rng.standard_normal((pairs, longest, 12)).astype(np.float32)
    logits = []
    for _ in range(2):
        # The padding ends at a length of its own: behind it the batch is padded once more, with zeros.
        ends = np.maximum(lengths, rng.integers(1, longest + 1, pairs))
        padded = np.where(np.arange(longest)[None, :, None] < ends[:, None, None], clips, 0)
        behind = np.arange(longest)[None] >= lengths[:, None]
        padded[behind] = 30 * np.where(padded[behind] == 0, 0, rng.standard_normal((int(behind.sum()), 12)))
        logits.append(np.asarray(apply(variables, padded, ~behind)))
    np.testing.assert_allclose(logits[0], logits[1], atol=1e-5)
    assert np.std(logits[0], axis=0).min() > 0.05
    for pair in range(0, pairs, 67):
        alone = apply(variables, clips[pair : pair + 1, : lengths[pair]])
        np.testing.assert_allclose(logits[0][pair : pair + 1], alone, atol=1e-5)


@pytest.mark.parametrize('hrf', [None, BRANCHES], ids=['plain', 'branches'])
@pytest.mark.parametrize('name', WITH_CONVOLUTIONS)
def test_padding_does_not_reach_the_batch_statistics(rng, name, hrf):
    model = models.build(dataclasses.replace(TINY_MODELS[name], dropout=0.0, attention_dropout=0.0), hrf, n_classes=3)
    x = rng.standard_normal((2, 20, 12)).astype(np.float32)
    variables = moved(jax.jit(model.init)(jax.random.key(0), x))
    mask = np.broadcast_to(np.arange(32)[None] < 20, (2, 32))

    @jax.jit
    def statistics(x, mask):
        rngs = {'dropout': jax.random.key(1)}
        return model.apply(variables, x, mask, train=True, rngs=rngs, mutable=['batch_stats'])[1]

    padded = [np.pad(x, ((0, 0), (0, 12), (0, 0)), constant_values=value) for value in (0.0, 50.0)]
    chex.assert_trees_all_close(statistics(padded[0], mask), statistics(padded[1], mask), atol=1e-5)
    chex.assert_trees_all_close(statistics(padded[0], mask), statistics(x, None), atol=1e-5)


def test_spans_follow_from_the_hop():
    assert speech_former.spans(10) == ((5, 9, 9), (5, 5, 4))
    # 20 ms: 2.5 frames make 3 and 2, a token is then 40 ms long.
    assert speech_former.spans(20) == ((3, 11, 9), (2, 6, 4))
    assert speech_former.spans(5) == ((11, 9, 9), (10, 5, 4))


def test_more_frames_than_positions_are_refused():
    model = models.build(TINY_MODELS['speech_former'], n_classes=3)
    shapes(model, 12, 2000)
    with pytest.raises(ValueError, match=r'speech_former: expected at most 2000 frames .* got 2001'):
        shapes(model, 12, 2001)


def test_fewer_bands_than_heads_are_refused():
    with pytest.raises(ValueError, match=r'expected at least 4 mel bands \(heads\), got 3'):
        shapes(models.build(TINY_MODELS['speech_former'], n_classes=3), 3)
