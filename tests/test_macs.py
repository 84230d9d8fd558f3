"""MACs: every kind of equation by hand, and the architectures by formula and against the figures of their design."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from helpers import TINY
from jax_reparam import macs, models
from jax_reparam.config import ConformerConfig, ConvTransformerConfig, HRFConfig, SpeechFormerConfig
from jax_reparam.layers import HRFDense
from jax_reparam.models.speech_former import spans

X = jax.ShapeDtypeStruct((5, 3), jnp.float32)
KERNEL = np.ones((3, 3), np.float32)
ONE = 5 * 3 * 3  # MACs of X @ KERNEL


@jax.custom_jvp
def jvp_product(x):
    return x @ KERNEL


@jax.custom_vjp
def vjp_product(x):
    return x @ KERNEL


jvp_product.defjvp(lambda primals, tangents: (jvp_product(*primals), tangents[0]))
vjp_product.defvjp(lambda x: (vjp_product(x), None), lambda _, gradient: (gradient,))


def rounds(length):
    return lambda x: lax.scan(lambda carry, _: (carry @ KERNEL, None), x, length=length)[0]


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
        (jax.checkpoint(lambda x: x @ KERNEL), ONE),
        (jvp_product, ONE),
        (vjp_product, ONE),
        (rounds(7), 7 * ONE),
        (jax.jit(jax.checkpoint(rounds(7))), 7 * ONE),
        (jax.vmap(lambda row: row @ KERNEL), ONE),
    ],
)
def test_products_are_counted(function, expected):
    assert macs.count(function, X) == expected


def test_an_array_does_as_well_as_its_shape():
    assert macs.count(lambda x: x @ KERNEL, np.ones((5, 3), np.float32)) == ONE


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

    assert macs.count(convolve, jax.ShapeDtypeStruct(shape, jnp.float32)) == expected


@pytest.mark.parametrize(
    ('function', 'expected'),
    [
        (lambda x: x @ (jnp.asarray(KERNEL) @ KERNEL), ONE),
        (lambda x: x + (jnp.ones((5, 3)) @ KERNEL), 0),
        (lambda x: x @ jax.jit(lambda kernel: kernel @ kernel)(jnp.asarray(KERNEL)), ONE),
        (lambda x: jnp.zeros_like(x) @ KERNEL, 0),
        # One of two results of a call depends on x.
        (lambda x: jax.jit(lambda x, c: (2 * x, 2 * c))(x, jnp.asarray(KERNEL))[1] @ KERNEL, 0),
        (lambda x: lax.while_loop(lambda a: a.sum() < 9, lambda a: a @ KERNEL, jnp.ones((5, 3))) + x, 0),
    ],
)
def test_products_that_do_not_depend_on_the_input_are_not_counted(function, expected):
    assert macs.count(function, X) == expected


def zeros_of(model, x):
    """A model's variables, all of them zero: their values do not matter here."""
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros(x.shape)))
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)


@pytest.mark.parametrize('forward', ['composed', 'two_step'])
def test_composing_the_factors_costs_nothing_two_steps_do(forward):
    layer = HRFDense(6, HRFConfig(expansion=4.0, forward=forward))
    variables = zeros_of(layer, X)
    expected = {'composed': 5 * 3 * 6, 'two_step': 5 * (3 * 12 + 12 * 6)}
    assert macs.count(lambda x: layer.apply(variables, x), X) == expected[forward]


def test_what_a_scan_carries_from_round_to_round_depends_on_the_input():
    def swap(carry, _):
        first, second, _ = carry
        # In round one the product is one of constants, in round two one of x, which came by way of `second`.
        return (second, second, first @ KERNEL), None

    def function(x):
        return lax.scan(swap, (jnp.ones_like(x), x, jnp.ones_like(x)), length=4)[0][2]

    # Counted in every round: the round's jaxpr is one for all.
    assert macs.count(function, X) == 4 * ONE


def test_constants_beside_a_scan_stay_constants():
    def function(x):
        constant = jnp.asarray(KERNEL)
        (kept, moved), rows = lax.scan(
            lambda carry, row: ((carry[0] @ constant, carry[1] + row), row @ constant), (constant, x[0]), x
        )
        return kept @ constant, moved @ constant, rows

    assert macs.count(function, X) == 5 * 9 + 9  # the rows, and `moved` at the end


@pytest.mark.parametrize('by', ['input', 'constant'])
def test_of_two_branches_the_dearer_one_is_counted(by):
    def function(x):
        which = x.sum() > 0 if by == 'input' else jnp.ones(3).sum() > 0
        return lax.cond(which, lambda x: x @ KERNEL @ KERNEL, lambda x: x @ KERNEL, x)

    assert macs.count(function, X) == 2 * ONE


def test_what_a_branch_gives_depends_on_what_chose_it():
    def function(x):
        chosen = lax.cond(x.sum() > 0, lambda: jnp.ones((2, 3)), lambda: jnp.zeros((2, 3)))
        return chosen @ KERNEL

    assert macs.count(function, X) == 2 * 3 * 3


def test_a_loop_of_unknown_length_is_refused():
    with pytest.raises(ValueError, match='while: expected a number of rounds'):
        macs.count(lambda x: lax.while_loop(lambda x: x.sum() < 9, lambda x: x @ KERNEL, x), X)


def test_products_in_an_unknown_equation_are_refused():
    def function(x):
        return lax.custom_linear_solve(lambda v: KERNEL @ v, x[0], solve=lambda matvec, b: matvec(b))

    with pytest.raises(ValueError, match='custom_linear_solve: expected no products in it'):
        macs.count(function, X)


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
    found = macs.of_model(ConvTransformerConfig(**fields), 400, 64, 4)
    assert found == conv_transformer(400, 64, 4, **fields)
    assert round(found / 1e6) == millions


def test_odd_sizes():
    fields = {'channels': 4, 'width': 16, 'layers': 2, 'heads': 2, 'ffn_width': 24}
    assert macs.of_model(TINY, 37, 11, 5) == conv_transformer(37, 11, 5, **fields)


@pytest.mark.parametrize('positions', ['none', 'relative'])
def test_conformer(positions):
    fields = {**CONFORMER_S, 'positions': positions}
    found = macs.of_model(ConformerConfig(**fields), 400, 64, 4)
    assert found == conformer(400, 64, 4, **fields)
    # The design's figure is the encoder's, without positions, on 100 tokens.
    assert round(conformer_encoder(100, 64, 4, 256, 15) / 1e6) == 43


def test_speech_former():
    found = macs.of_model(SpeechFormerConfig(), 651, 128, 4)
    stages = speech_former(651, 128, 4)
    assert found == sum(stages)
    assert round(found / 1e6, 1) == 144.5
    assert round(stages[0] / found, 2) == 0.76


def test_speech_former_xs():
    found = macs.of_model(SpeechFormerConfig(layers=(1, 1, 2, 2)), 400, 64, 4)
    stages = speech_former(400, 64, 4, layers=(1, 1, 2, 2))
    assert found == sum(stages)
    # The design says 11.4 M, which it is without the head: 11.448 M, and 11.451 M with it.
    assert round(sum(stages[:-1]) / 1e6, 1) == 11.4


def test_speech_former_widens():
    fields = {'layers': (1, 1, 1, 1), 'expand': (1, 3, 2)}
    assert macs.of_model(SpeechFormerConfig(**fields), 123, 16, 7) == sum(speech_former(123, 16, 7, **fields))


@pytest.mark.parametrize('model', [TINY, ConformerConfig(layers=1)], ids=lambda model: model.name)
def test_a_model_with_composed_factors_costs_what_the_plain_one_costs(model):
    trained = models.build(model, HRFConfig(), n_classes=4)
    x = jax.ShapeDtypeStruct((1, 40, 16), jnp.float32)
    variables = zeros_of(trained, x)
    assert macs.count(lambda x: trained.apply(variables, x), x) == macs.of_model(model, 40, 16, 4)
