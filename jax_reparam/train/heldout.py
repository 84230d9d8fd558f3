"""What a model that all clips train takes from runs of the same recipe with held-out speakers: its step, and scores."""

from __future__ import annotations

import json
from pathlib import Path

from flax.traverse_util import flatten_dict

from jax_reparam import schema
from jax_reparam.config import PLACES, Recipe
from jax_reparam.errors import InputError
from jax_reparam.manifest import HeldOut
from jax_reparam.train import report

# Keys that tell apart the run and the one it takes its step from.
_APART = {*PLACES, 'data.protocol', 'data.fold'}


def read(recipe: Recipe, corpus_key: str) -> HeldOut:
    """Reads the run that `train.step_from` names.

    Args:
      recipe: of the run that takes its step from it.
      corpus_key: of its corpus.

    Raises:
      InputError: no such run, an unfinished one, one of a fold alone, of another recipe or of another corpus.
    """
    folder = Path(recipe.train.step_from)
    where = f'train.step_from: {folder}'
    for name in (report.RUN_FILE, report.RESULT_FILE):
        if not (folder / name).is_file():
            raise InputError(f'{where}: expected a finished run over all folds, found no {name}')
    try:
        earlier = Recipe.from_json(json.loads((folder / report.RUN_FILE).read_text()))
    except ValueError as error:
        raise InputError(f'{where}: expected a recipe in {report.RUN_FILE}, found {error}') from error
    expected, found = (flatten_dict(told.as_json(), sep='.') for told in (recipe, earlier))
    for key in sorted((expected.keys() | found.keys()) - _APART):
        if (wanted := expected.get(key)) != (there := found.get(key)):
            raise InputError(f'{where}: expected a run of this recipe, found {key} = {there!r} instead of {wanted!r}')
    result = report.read_result(folder)
    try:
        schema.expect('folds' in result, 'folds', 'those of a run with data.fold=all', result.get('protocol'))
        schema.expect(result['corpus']['key'] == corpus_key, 'corpus', 'the same clips', result['corpus']['name'])
        pooled = result['pooled']
        return schema.from_json(
            HeldOut,
            {
                'protocol': result['protocol']['name'],
                'folds': len(result['folds']),
                'seed': result['seed'],
                'steps': [fold['step'] for fold in result['folds']],
                'clips': pooled['clips'],
                'scores': {name: pooled[name] for name in report.METRICS},
                'mean': result['mean']['uar'],
                'std': result['std']['uar'],
                'confusion': [
                    [*row, scores['support'] - sum(row)]
                    for row, scores in zip(pooled['confusion'], pooled['per_class'].values(), strict=True)
                ],
            },
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f'{folder / report.RESULT_FILE}: expected the result of all folds, found {error}') from error
