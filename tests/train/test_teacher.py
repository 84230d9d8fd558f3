"""Teachers: their mean probabilities are the targets, and a run that knows other speakers is none."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers import RECIPE, batch, plain_inputs, recipe, save, tones
from jax_reparam import models
from jax_reparam.config import AugmentConfig, HRFConfig
from jax_reparam.data import pipeline
from jax_reparam.errors import InputError
from jax_reparam.train import loop, teacher
from jax_reparam.train.optimizer import adamw


@pytest.fixture(scope='module')
def source(tmp_path_factory):
    """Tones, and a cache."""
    root = tmp_path_factory.mktemp('teacher')
    return tones(root / 'source', clips=2), root / 'cache'


@pytest.fixture(scope='module')
def teachers(source, tmp_path_factory):
    """Two runs of one fold with two seeds, of other sizes and forms: their folders, and (model, variables) of each."""
    folder, told = tmp_path_factory.mktemp('runs'), []
    for seed, layers in ((0, 1), (5, 2)):
        own = recipe(*source, seed=seed, model__layers=layers, hrf__expansion=4 * seed)
        model = models.build(own.model, own.hrf, n_classes=2)
        variables = jax.jit(model.init)(jax.random.key(seed), jnp.zeros((1, 64, 12)))
        told.append((save(folder / str(seed), own, variables, load(own)), model, variables))
    return told


def load(own):
    return pipeline.load_data(own, show_progress=False)


def test_it_gives_the_mean_of_the_probabilities(rng, source, teachers):
    own = recipe(*source, seed=9, train__teacher=','.join(str(folder) for folder, _, _ in teachers))
    x = rng.standard_normal((3, 64, 12)).astype(np.float32)
    each = [jax.nn.softmax(jax.jit(model.apply)(variables, x)) for _, model, variables in teachers]
    ensemble = teacher.load(own, load(own))
    got = jax.jit(lambda x: ensemble(x))(x)
    np.testing.assert_allclose(got, np.mean(each, axis=0), atol=1e-5)
    assert not np.allclose(each[0], each[1], atol=1e-2)
    assert teacher.load(recipe(*source), load(recipe(*source))) is None


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'data__fold': '1'}, r'expected the training speakers of this run, s\d,.*, found s\d,'),
        ({'voice__history': 0.25}, 'expected a run with the frontend, window, voice and statistics of this one'),
        ({'window__hop_seconds': 0.16}, 'expected a run with the frontend, window, voice and statistics of this one'),
    ],
)
def test_a_run_that_has_learnt_from_others_is_refused(source, teachers, changes, message):
    own = recipe(*source, train__teacher=str(teachers[0][0]), **changes)
    with pytest.raises(InputError, match=message) as caught:
        teacher.load(own, load(own))
    assert str(caught.value).startswith('train.teacher: ')
    assert '\n' not in str(caught.value)


def test_a_run_on_another_corpus_is_refused(source, teachers):
    own = recipe(*source, train__teacher=str(teachers[0][0]))
    data = load(own)
    other = dataclasses.replace(data, corpus=dataclasses.replace(data.corpus, key='0' * 64))
    with pytest.raises(InputError, match=r'expected a run on this folder \(key 000000000000\), found folder \(key'):
        teacher.load(own, other)


def test_the_targets_are_what_it_says_of_the_augmented_window(rng):
    """Of the very window that the student is given, mixed too; the label only has a say in the clip's weight."""
    told = dataclasses.replace(
        RECIPE,
        model=dataclasses.replace(RECIPE.model, dropout=0.0, attention_dropout=0.0),
        augment=AugmentConfig(freq_masks=0, time_masks=0, field=0, mixup=1.0),
        train=dataclasses.replace(RECIPE.train, teacher=('a',)),
    )
    model, optimizer, inputs = models.build(told.model, HRFConfig(), n_classes=3), adamw(told), plain_inputs(told)
    data = batch(rng, [0, 1, 2, 0], frames=64)
    seen = []

    def teach(x):
        jax.debug.callback(seen.append, x)
        return jax.nn.softmax(x[:, 0, :3])

    state = loop.init_state(model, optimizer, jnp.zeros((1, 64, 12)), 0)
    weights = np.full(3, 0.5, np.float32)
    _, metrics = jax.jit(loop.make_step(told, model, optimizer, weights, 0, inputs, teach))(state, data)
    jax.effects_barrier()
    [x] = seen
    logits, _ = jax.jit(lambda x: model.apply(state.variables, x, train=True, mutable=['batch_stats']))(x)
    expected = np.mean(-0.5 * (jax.nn.softmax(x[:, 0, :3]) * jax.nn.log_softmax(logits)).sum(axis=1))
    assert float(metrics['loss']) == pytest.approx(float(expected), rel=1e-5)
    with pytest.raises(ValueError, match='expected the teacher that the recipe names, a, got none'):
        loop.make_step(told, model, optimizer, weights, 0, inputs)
