"""HRF's sites: which they are, how far steps move their kernels, and a plain model that is given HRF's distances."""

from __future__ import annotations

import dataclasses
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from helpers import RECIPE, TINY_MODELS, drawn, pattern
from jax_reparam import models, reparam
from jax_reparam.config import SITES, HRFConfig
from jax_reparam.errors import InputError
from jax_reparam.frontend.features import FrontendConfig
from jax_reparam.train import sites
from jax_reparam.train.optimizer import adamw

SITE = 'layer_0/ffn/ffn_in'


def of_model(recipe, hrf, bands=12):
    model = models.build(recipe.model, hrf, n_classes=3)
    return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, bands)))['params']


@pytest.mark.parametrize('name', TINY_MODELS)
def test_sites_are_those_that_hrf_would_have(name):
    recipe = dataclasses.replace(RECIPE, model=TINY_MODELS[name], frontend=FrontendConfig(n_mels=16))
    for hrf in (HRFConfig(expansion=4), HRFConfig(expansion=4, sites=SITES)):
        expected = reparam.hrf_sites(of_model(recipe, hrf, 16))
        assert sites.of(dataclasses.replace(recipe, hrf=dataclasses.replace(hrf, expansion=0))) == expected


def test_a_move_is_the_difference_of_the_kernels(rng):
    leaf = lambda *shape: jnp.asarray(rng.standard_normal(shape))
    with jax.enable_x64(True):
        params = {'a': {'hrf': {'kernel_u': leaf(4, 8), 'kernel_v': leaf(8, 5)}}, 'b': {'kernel': leaf(3, 2)}}
        updates = jax.tree.map(lambda a: leaf(*a.shape), params)
        after = reparam.dehrf(optax.apply_updates(params, updates))
        before = reparam.dehrf(params)
        for site, move in sites.moves(updates, params, ['a', 'b']).items():
            np.testing.assert_allclose(move, after[site]['kernel'] - before[site]['kernel'], rtol=0, atol=1e-12)
        norms = sites.norms(updates, params, ['a', 'b'])
        assert float(norms['b']) == pytest.approx(np.sqrt(np.sum(np.square(updates['b']['kernel']))))


def test_a_small_move_is_not_rounded_away(rng):
    """In float32: W moves by 1e-9 of itself."""
    params = {'a': {'hrf': {'kernel_u': jnp.ones((4, 8)), 'kernel_v': jnp.ones((8, 5))}}}
    updates = jax.tree.map(lambda leaf: 1e-9 * leaf, params)
    assert float(sites.norms(updates, params, ['a'])['a']) == pytest.approx(2e-9 * 8 * np.sqrt(20), rel=1e-5)


def written(path, norms, site=SITE):
    lines = [{'step': step, 'loss': 1.0, sites.NORM + site: norm} for step, norm in enumerate(norms, 1)]
    path.write_text(''.join(json.dumps(line) + '\n' for line in [*lines, {'step': len(lines), 'validation_uar': 0.5}]))
    return str(path)


def test_a_plain_model_moves_its_sites_as_far_as_recorded(tmp_path):
    steps = 4
    files = [written(tmp_path / f'{k}.jsonl', [k * step for step in range(1, 1 + steps)]) for k in (1, 3)]
    plain = RECIPE.with_changes({'hrf.expansion': 0, 'train.steps': steps, 'train.warmup_steps': 0})
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), drawn(of_model(plain, plain.hrf)))
    ours, theirs = adamw(plain.with_changes({'train.site_norms': ','.join(files)})), adamw(plain)
    state, reference = ours.init(params), theirs.init(params)
    for step in range(1, 1 + steps):
        gradient = jax.tree.map(lambda leaf, step=step: jnp.sin(step * leaf), params)
        updates, state = jax.jit(ours.update)(gradient, state, params)
        plain_updates, reference = jax.jit(theirs.update)(gradient, reference, params)
        expected = sites.scaled(plain_updates, {SITE: 2 * step / sites.norms(plain_updates, params, [SITE])[SITE]})
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-9), updates, expected)
        assert float(sites.norms(updates, params, [SITE])[SITE]) == pytest.approx(2 * step, rel=1e-5)


def test_a_step_of_length_zero_stays_zero(tmp_path):
    plain = RECIPE.with_changes({'hrf.expansion': 0, 'train.steps': 2})  # the warm-up begins at rate 0
    ours = adamw(plain.with_changes({'train.site_norms': written(tmp_path / 'norms', [0.0, 1.0])}))
    params = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), of_model(plain, plain.hrf))
    updates, _ = jax.jit(ours.update)(params, ours.init(params), params)
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(updates))


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (None, 'train.site_norms: .*norms: expected a run with train.log_site_norms, found no such file'),
        ('{"step": 1}\n{"st', 'train.site_norms: .*norms: line 2: expected an object of a step'),
        ('[3]\n', 'expected site_norm/layer_0/ffn/ffn_in at each of 3 steps (train.steps), found it at 0, the last 0'),
        ([1.0, 2.0], 'norms: expected site_norm/.* at each of 3 steps (train.steps), found it at 2, the last 2'),
        ([1.0] * 4, 'norms: expected site_norm/.* at each of 3 steps (train.steps), found it at 4, the last 4'),
    ],
)
def test_norms_of_another_run_are_refused(tmp_path, content, message):
    path = tmp_path / 'norms'
    if isinstance(content, str):
        path.write_text(content)
    elif content:
        written(path, content)
    with pytest.raises(InputError) as caught:
        sites.read_norms([str(path)], [SITE], 3)
    assert re.search(pattern(message), str(caught.value))
    assert '\n' not in str(caught.value)
