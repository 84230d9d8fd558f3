"""The operations of the deploy forms, each by plain loops."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_reparam.deploy import ops


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def softmax(logits):
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


def projections(rng, width):
    return {
        name: {'kernel': rng.standard_normal((width, width)) / 2, 'bias': rng.standard_normal(width)}
        for name in ('query', 'key', 'value')
    }


def project(layer, x):
    return [x @ layer[name]['kernel'] + layer[name]['bias'] for name in ('query', 'key', 'value')]


@pytest.mark.parametrize('slot', [0.0, 0.7])
def test_unit_rows(rng, slot):
    x = rng.standard_normal((5, 6)) * np.exp(rng.standard_normal((5, 1)))
    longer = np.concatenate([x, np.full((5, 1), slot)], axis=1)
    got = ops.normalise(jnp.asarray(x)[:, None], slot=slot)[:, 0]
    np.testing.assert_allclose(got, x / np.linalg.norm(longer, axis=-1, keepdims=True), rtol=1e-12)


def test_linear_with_a_bias_by_token(rng):
    x, kernel, bias = rng.standard_normal((5, 4)), rng.standard_normal((4, 3)), rng.standard_normal((5, 3))
    got = ops.linear({'kernel': kernel, 'bias': bias}, x[:, None])
    np.testing.assert_allclose(got[:, 0], x @ kernel + bias, rtol=1e-12)


def test_mean_over_time(rng):
    x = rng.standard_normal((7, 3))
    np.testing.assert_allclose(ops.mean_over_time(jnp.asarray(x)[:, None]), x.mean(0, keepdims=True), rtol=1e-12)


@pytest.mark.parametrize('time', [1, 4, 5, 11])
def test_merge_fills_up_with_zeros(rng, time):
    x = rng.standard_normal((time, 3))
    got = np.asarray(ops.merge(jnp.asarray(x)[:, None], 5))[:, 0]
    assert got.shape == (-(-time // 5), 3)
    for group in range(len(got)):
        np.testing.assert_allclose(got[group], x[5 * group : 5 * group + 5].sum(0) / 5, rtol=1e-12)


@pytest.mark.parametrize('time', [1, 3, 9])
def test_depthwise_by_plain_loops(rng, time):
    x, kernel, bias = rng.standard_normal((time, 3)), rng.standard_normal((5, 1, 3)), rng.standard_normal(3)
    got = ops.depthwise({'kernel': kernel, 'bias': bias}, x[:, None])[:, 0]
    for t in range(time):
        expected = bias.copy()
        for tap in range(5):
            if 0 <= t + tap - 2 < time:
                expected += kernel[tap, 0] * x[t + tap - 2]
        np.testing.assert_allclose(got[t], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize('blocks', [1, 2, 4])
@pytest.mark.parametrize('relative', [False, True])
@pytest.mark.parametrize('time', [1, 2, 7])
def test_attention_by_plain_loops(rng, time, relative, blocks):
    width, heads, depth = 8, 4, 2
    layer, x = projections(rng, width), rng.standard_normal((time, width))
    q, k, v = project(layer, x)
    table = rng.standard_normal((heads, 2 * time - 1, depth))
    if relative:
        layer['positions'] = table
    got = ops.attention(layer, x[:, None], heads, blocks=blocks)[:, 0]
    for head in range(heads):
        s = slice(depth * head, depth * head + depth)
        for i in range(time):
            logits = np.array([q[i, s] @ k[j, s] for j in range(time)])
            if relative:
                # The table begins with the largest distance i - j = T - 1.
                logits += [q[i, s] @ table[head, time - 1 - (i - j)] for j in range(time)]
            np.testing.assert_allclose(got[i, s], softmax(logits) @ v[:, s], rtol=0, atol=1e-12)


@pytest.mark.parametrize('window', [1, 3, 5, 9])
@pytest.mark.parametrize('time', [1, 3, 4, 8, 13])
def test_windowed_attention_by_plain_loops(rng, time, window):
    width, heads, depth = 6, 2, 3
    layer, x = projections(rng, width), rng.standard_normal((time, width))
    q, k, v = project(layer, x)
    got = ops.windowed_attention(layer, x[:, None], heads, window)[:, 0]
    assert got.shape == (time, width)
    for head in range(heads):
        s = slice(depth * head, depth * head + depth)
        for i in range(time):
            seen = range(i - window // 2, i + window // 2 + 1)
            keys = np.array([k[j, s] if 0 <= j < time else np.zeros(depth) for j in seen])
            values = np.array([v[j, s] if 0 <= j < time else np.zeros(depth) for j in seen])
            np.testing.assert_allclose(got[i, s], softmax(keys @ q[i, s]) @ values, rtol=0, atol=1e-12)


def test_band_and_back(rng):
    scores = rng.standard_normal((2, 4, 8))
    band = np.asarray(ops.band(jnp.asarray(scores), 5))
    for i in range(4):
        np.testing.assert_array_equal(band[:, i], scores[:, i, i : i + 5])
    back = np.asarray(ops.from_band(jnp.asarray(band), 8))
    for i in range(4):
        np.testing.assert_array_equal(back[:, i, i : i + 5], band[:, i])
        np.testing.assert_array_equal(np.delete(back[:, i], range(i, i + 5), axis=-1), 0)
