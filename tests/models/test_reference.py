"""The models against `reference.py`, which shares no code with them, at float64: every layer, length, mask and switch.

The leaves are large and of both signs, so that the attention is far from uniform and no part is lost in rounding; a
padded batch carries garbage behind its clips, and the reference never sees it.
"""

from __future__ import annotations

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers import drawn
from jax_reparam import models, reparam
from jax_reparam.config import ConformerConfig, ConvTransformerConfig, HRFConfig, SpeechFormerConfig

from . import reference

STEM_LENGTHS = (1, 2, 3, 7, 37)
FORMER_LENGTHS = (1, 4, 5, 6, 26, 103)  # merges of 5, 5 and 4: short, full and filled-up groups

CONV = {'channels': 4, 'width': 16, 'layers': 2, 'ffn_width': 24}
CONFORMER = {**CONV, 'heads': 2, 'kernel': 5}
FORMER = {'layers': (2, 1, 1, 1), 'heads': 4, 'expand': (1, 1, 1)}

CONFIGS = {
    'conv_transformer': ConvTransformerConfig,
    'conformer': ConformerConfig,
    'speech_former': SpeechFormerConfig,
}
CASES = {
    # name: (architecture, config, mel bands)
    'conv_transformer': ('conv_transformer', {**CONV, 'heads': 2}, 12),
    'conv_transformer, 4 heads, odd bands': ('conv_transformer', {**CONV, 'heads': 4}, 13),
    'conv_transformer, statistics': ('conv_transformer', {**CONV, 'heads': 2, 'pooling': 'statistics'}, 12),
    'conv_transformer, deltas': ('conv_transformer', {**CONV, 'heads': 2, 'deltas': True}, 13),
    'conformer': ('conformer', {**CONFORMER, 'positions': 'relative', 'activation': 'swish'}, 12),
    'conformer, relu, 4 heads': (
        'conformer',
        {**CONFORMER, 'positions': 'relative', 'activation': 'relu', 'heads': 4},
        13,
    ),
    'conformer, no positions': ('conformer', {**CONFORMER, 'positions': 'none', 'activation': 'swish'}, 12),
    'conformer, no positions, relu': ('conformer', {**CONFORMER, 'positions': 'none', 'activation': 'relu'}, 12),
    'conformer, statistics, deltas': (
        'conformer',
        {**CONFORMER, 'positions': 'none', 'activation': 'relu', 'pooling': 'statistics', 'deltas': True},
        12,
    ),
    'speech_former': ('speech_former', FORMER, 16),
    'speech_former, wider, surplus bands': (
        'speech_former',
        {**FORMER, 'layers': (1, 2, 1, 1), 'expand': (1, 1, 2)},
        18,
    ),
    'speech_former, 2 heads, hop 20': ('speech_former', {**FORMER, 'heads': 2, 'hop_ms': 20}, 17),
    # A window and a merge of one token, and eleven tokens in the utterance stage.
    'speech_former, hop 100': ('speech_former', {**FORMER, 'hop_ms': 100}, 16),
}


def lengths_of(case):
    return FORMER_LENGTHS if CASES[case][0] == 'speech_former' else STEM_LENGTHS


@functools.cache
def built(case):
    """The model under jit and its variables in float64."""
    name, config, bands = CASES[case]
    model = models.build(CONFIGS[name](**config), n_classes=3)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8, bands)))
    return jax.jit(model.apply), drawn(shapes)


@functools.cache
def branched(case, branches):
    """The same with branches in place of its convolutions."""
    name, config, bands = CASES[case]
    model = models.build(CONFIGS[name](**config), HRFConfig(sites=('convolution',), branches=branches), n_classes=3)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8, bands)))
    return jax.jit(model.apply), drawn(shapes)


def clips(case, batch, frames, seed=1):
    """A batch of float32 values in float64, each clip noise around its own spectrum, which outlives the means."""
    rng = np.random.default_rng(seed)
    bands = CASES[case][2]
    x = 2 * (rng.standard_normal((batch, frames, bands)) + rng.standard_normal((batch, 1, bands)))
    return x.astype(np.float32).astype(np.float64)


@functools.cache
def padded(case):
    """A batch of clips of every length and one without an end, garbage behind the others: x, mask, logits."""
    lengths = np.array([*lengths_of(case), max(lengths_of(case)) + 4])
    x = clips(case, len(lengths), max(lengths))
    mask = np.arange(max(lengths)) < lengths[:, None]
    x = np.where(mask[..., None], x, 25 * clips(case, *x.shape[:2], seed=2))
    return x, mask, reference_logits(case, x, mask)


def reference_logits(case, x, mask=None, variables=None):
    name, config, _ = CASES[case]
    return getattr(reference, name)(variables or built(case)[1], config, x, mask)


@pytest.mark.parametrize('case', CASES)
def test_padded_batch_in_float64(case):
    apply, variables = built(case)
    x, mask, expected = padded(case)
    with jax.enable_x64(True):
        got = np.asarray(apply(variables, x, mask))
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-9)
    assert np.std(expected, axis=0).min() > 0.05  # the clips differ: no logit hangs on dead units


@pytest.mark.parametrize('case', CASES)
def test_padded_batch_in_float32(case):
    apply, variables = built(case)
    x, mask, expected = padded(case)
    got = np.asarray(apply(*jax.tree.map(np.float32, (variables, x)), mask))
    assert got.dtype == np.float32
    # Measured: at most 2.3e-6 so; at most 1.3e-5 absolute, of a logit of 12.
    scale = np.maximum(1, np.abs(expected))
    np.testing.assert_allclose(got / scale, expected / scale, rtol=0, atol=1e-5)


@pytest.mark.parametrize('branches', [1, 2, 3, 5])
@pytest.mark.parametrize('case', ['conv_transformer, 4 heads, odd bands', 'conformer'])
def test_branches_and_what_they_fold_into(case, branches):
    """A padded batch: neither form may see what is behind a clip, at its ends least of all."""
    apply, variables = branched(case, branches)
    x, mask, _ = padded(case)
    expected = reference_logits(case, x, mask, variables)
    assert np.std(expected, axis=0).min() > 0.05
    with jax.enable_x64(True):
        folded = reparam.dehrf(variables, strict=True)
        np.testing.assert_allclose(apply(variables, x, mask), expected, rtol=0, atol=1e-11)
        np.testing.assert_allclose(built(case)[0](folded, x, mask), expected, rtol=0, atol=1e-11)
    chex.assert_trees_all_equal_shapes_and_dtypes(folded, built(case)[1])


@pytest.mark.parametrize('case', ['conv_transformer', 'conformer', 'speech_former, wider, surplus bands'])
def test_clips_without_a_mask_in_float64(case):
    apply, variables = built(case)
    for length in lengths_of(case):
        x = clips(case, 2, length)
        with jax.enable_x64(True):
            got = np.asarray(apply(variables, x))
        assert got.dtype == np.float64
        np.testing.assert_allclose(got, reference_logits(case, x), rtol=0, atol=1e-9, err_msg=f'{length} frames')
