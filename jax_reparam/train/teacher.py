"""Soft labels: the mean class probabilities of trained runs of the same fold (Hinton et al. 2015), as targets."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jax_reparam import checkpoint, models, reparam
from jax_reparam.checkpoint import Trained
from jax_reparam.config import Recipe
from jax_reparam.data import pipeline
from jax_reparam.errors import InputError
from jax_reparam.frontend.inputs import Input
from jax_reparam.reparam import Params

# Maps what the student is given, `[B, T, M]`, to probabilities `[B, C]`.
Teacher: TypeAlias = Callable[[jax.Array], jax.Array]


class Ensemble(struct.PyTreeNode):
    """The mean probabilities of some models; a pytree of their variables, so that `jit` may be given it.

    Attributes:
      models: plain ones.
      variables: of each.
    """

    models: tuple[nn.Module, ...] = struct.field(pytree_node=False)
    variables: tuple[Params, ...]

    def __call__(self, x: jax.Array) -> jax.Array:
        """A `Teacher`."""
        each = zip(self.models, self.variables, strict=True)
        logits: list[Any] = [model.apply(variables, x, train=False) for model, variables in each]
        return jax.nn.softmax(jnp.stack(logits)).mean(axis=0)


def load(recipe: Recipe, data: pipeline.Data) -> Ensemble | None:
    """The ensemble of the runs that `train.teacher` names; None: it names none.

    A teacher that has heard another speaker than the student in training knows the student's validation or test
    speaker, and would tell.

    Raises:
      InputError: a folder without a run, or a run of other training speakers, another corpus or another input.
    """
    runs = [checkpoint.load(path) for path in recipe.train.teacher]
    if not runs:
        return None
    for run in runs:
        _check(run, data)
    return Ensemble(
        tuple(models.build(run.recipe.model, n_classes=len(run.labels)) for run in runs),
        tuple(reparam.dehrf(run.variables) for run in runs),
    )


def _check(run: Trained, data: pipeline.Data) -> None:
    """Raises an `InputError` unless a run was trained on the clips, and is given the features, that `data` has."""
    told, own = run.meta['split'], json.loads(json.dumps(data.split.info))
    if run.labels != tuple(data.corpus.labels) or run.meta['corpus']['key'] != data.corpus.key:
        raise InputError(
            f'train.teacher: {run.path}: expected a run on this {data.corpus.name} (key {data.corpus.key[:12]}), '
            f'found {run.meta["corpus"]["name"]} (key {run.meta["corpus"]["key"][:12]})'
        )
    if told['train_speakers'] != own['train_speakers']:
        speakers = [','.join(map(str, info['train_speakers'])) for info in (own, told)]
        raise InputError(
            f'train.teacher: {run.path}: expected the training speakers of this run, {speakers[0]}, found {speakers[1]}'
        )
    # Where speakers are apart, another seed has the same clips of the same speakers.
    ignored = {'seed'} if data.split.protocol.apart == 'speaker' else set()
    for key in own.keys() - ignored:
        if told.get(key) != own[key]:
            raise InputError(
                f'train.teacher: {run.path}: expected the split of this run, found another {key}: {told.get(key)!r}'
            )
    if not _same(run.inputs, data.inputs):
        raise InputError(
            f'train.teacher: {run.path}: expected a run with the frontend, window, voice and statistics of this one, '
            'found others'
        )


def _same(one: Input, other: Input) -> bool:
    alike = all(getattr(one, name) == getattr(other, name) for name in ('frontend', 'window', 'voice'))
    # On another machine the last bit of the statistics may differ.
    arrays = ((getattr(one, name), getattr(other, name)) for name in ('mean', 'std', 'voice_mean'))
    return alike and all(np.allclose(a, b, rtol=1e-4, atol=1e-4) for a, b in arrays)
