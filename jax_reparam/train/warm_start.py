"""Starting from another model (`train.init`): what is taken of it, what is new, and what it must not have heard."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from flax.traverse_util import unflatten_dict

from jax_reparam import checkpoint, manifest, reparam, schema
from jax_reparam.config import ModelConfig, Recipe
from jax_reparam.data import pipeline
from jax_reparam.errors import InputError
from jax_reparam.frontend.inputs import Input
from jax_reparam.manifest import Init
from jax_reparam.reparam import Params

# The layer that knows the labels.
CLASSIFIER = 'params/head/classifier'


@dataclasses.dataclass(frozen=True)
class WarmStart:
    """A model to start from.

    Attributes:
      variables: its `params` and `batch_stats`, in training form or folded, NumPy arrays.
      inputs: its frontend, and the statistics that its weights were trained with.
      keeps_labels: whether it has this run's labels, in their order.
      about: what result.json and checkpoints say of it.
    """

    variables: Params
    inputs: Input
    keeps_labels: bool
    about: Init

    @property
    def told(self) -> str:
        """What is taken, in one line."""
        about = self.about
        new = f'; new: {", ".join(about.new)}' if about.new else ''
        return f'starts from {about.path} (step {about.step}, trained on {about.corpus}){new}'

    def inform(self, data: pipeline.Data) -> pipeline.Data:
        """The data with this model's statistics: its weights know them, and those of a few clips would be noise."""
        own = self.inputs
        inputs = dataclasses.replace(data.inputs, mean=own.mean, std=own.std, voice_mean=own.voice_mean)
        return dataclasses.replace(data, inputs=inputs)

    def __call__(self, fresh: Params, key: jax.Array) -> Params:
        """This model's variables in the form of `fresh` ones, of which the classifier is kept where labels differ.

        Factors of the same shapes are taken as they are; other plain or factored layers are folded in float64 and
        become sites by `reparam.hrf`: the same function to rounding.

        Raises:
          InputError: there is a leaf too many or too few, or one of another shape.
        """
        own, fresh_leaves = (dict(checkpoint.leaves(tree)) for tree in (self.variables, fresh))
        if _shapes(own, self.keeps_labels) == _shapes(fresh_leaves, self.keeps_labels):
            return self._with_classifier(own, fresh_leaves)
        plain = dict(checkpoint.leaves(reparam.in_float64(reparam.dehrf, self.variables)))
        wanted = _shapes(dict(checkpoint.leaves(reparam.dehrf(jax.eval_shape(lambda: fresh)))), self.keeps_labels)
        found = _shapes(plain, self.keeps_labels)
        for name in sorted(wanted.keys() | found.keys()):
            if (shape := wanted.get(name, 'nothing')) != (there := found.get(name, 'nothing')):
                raise InputError(f'train.init: {self.about.path}: {name}: expected {shape}, found {there}')
        try:
            return reparam.hrf(self._with_classifier(plain, fresh_leaves), fresh, key)
        except ValueError as error:
            raise InputError(f'train.init: {self.about.path}: {error}') from error

    def _with_classifier(self, own: Mapping[str, Any], fresh: Mapping[str, Any]) -> Params:
        kept = {name: leaf for name, leaf in own.items() if self.keeps_labels or not _knows_labels(name)}
        new = {name: leaf for name, leaf in fresh.items() if _knows_labels(name) and not self.keeps_labels}
        return unflatten_dict(kept | new, sep='/')


def _knows_labels(name: str) -> bool:
    return name.startswith(f'{CLASSIFIER}/')


def _shapes(leaves: Mapping[str, Any], whole: bool) -> dict[str, tuple[int, ...]]:
    """Shapes by name; without the classifier unless `whole`."""
    return {name: tuple(leaf.shape) for name, leaf in leaves.items() if whole or not _knows_labels(name)}


def read(recipe: Recipe, data: pipeline.Data) -> WarmStart:
    """Reads the model that `train.init` names: a training folder, a folder that `fold.py` wrote, or a packaged name.

    Raises:
      InputError: no such model, one of another architecture or frontend, or one that has heard speakers whom this run
        holds out.
    """
    path = _located(recipe.train.init)
    if (path / manifest.FILE).is_file():
        exported = manifest.load(path)
        variables = checkpoint.read_safetensors(path / manifest.SAFETENSORS)
        model, labels, inputs, step = exported.architecture, exported.labels, exported.input, exported.step
        corpus, split = exported.corpus.name, dict(schema.to_json(exported.protocol))
    else:
        trained = checkpoint.load(path)
        variables, model, labels = trained.variables, trained.recipe.model, trained.labels
        inputs, step, corpus, split = (
            trained.inputs,
            trained.step,
            trained.meta['corpus']['name'],
            trained.meta['split'],
        )
    where = f'train.init: {path}'
    _check_same(where, 'model', _sizes(recipe.model), _sizes(model))
    _check_same(where, 'frontend', *(schema.to_json(frontend) for frontend in (recipe.frontend, inputs.frontend)))
    _check_apart(where, corpus, split, data)
    keeps = tuple(labels) == data.corpus.labels
    about = Init(
        path=str(path),
        digest=checkpoint.digest(variables),
        step=step,
        corpus=corpus,
        speakers=tuple(split['train_speakers']),
        new=() if keeps else (CLASSIFIER,),
    )
    return WarmStart(variables, inputs, keeps, about)


def _located(name: str) -> Path:
    packaged = manifest.PACKAGED.with_name(name) if Path(name).name == name else None
    return packaged if packaged and packaged.is_dir() and not Path(name).exists() else Path(name)


def _sizes(model: ModelConfig) -> dict[str, Any]:
    """What decides a model's function; dropout is of the training."""
    return {key: value for key, value in schema.to_json(model).items() if not key.endswith('dropout')}


def _check_same(where: str, section: str, expected: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    for key in sorted(expected.keys() | found.keys(), key=lambda key: (key != 'name', key)):
        if expected.get(key) != found.get(key):
            raise InputError(f'{where}: expected {section}.{key} {expected.get(key)}, found {found.get(key)}')


def _check_apart(where: str, corpus: str, split: Mapping[str, Any], data: pipeline.Data) -> None:
    """Refuses a model that has heard, or whose step was chosen on, those on whom this run is to choose or to score."""
    own = data.split.info
    if corpus.partition('/')[0] != data.corpus.name.partition('/')[0] or split == own:
        return
    trained = set(split['train_speakers'])
    heard = {*own['test_speakers']} & (trained | set(split['validation_speakers']))
    heard |= {*own['validation_speakers']} & trained
    if heard:
        raise InputError(
            f'{where}: expected a model that has not heard the speakers who test or validate here, found one that '
            f'knows {", ".join(sorted(heard))}; data.protocol=all holds nobody out'
        )
