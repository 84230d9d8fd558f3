"""HRF's sites in a tree of parameters: which they are, how far a step moves their kernels, and recorded distances."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jax_reparam import models, reparam, system
from jax_reparam.config import Recipe
from jax_reparam.errors import InputError
from jax_reparam.reparam import Params
from jax_reparam.train import report

# Of a step's metrics, the norm of the update of a site's kernel; the site's path follows.
NORM = 'site_norm/'
_PLAIN, _U, _V = 'kernel', f'{reparam.SITE}/kernel_u', f'{reparam.SITE}/kernel_v'


def of(recipe: Recipe) -> list[str]:
    """The paths, in `params`, of the layers that `hrf.sites` names: HRF's sites, in the plain model too."""
    # With E = D every layer that may be a site is one.
    model = models.build(recipe.model, dataclasses.replace(recipe.hrf, expansion=1.0), n_classes=2)
    example = jax.ShapeDtypeStruct((1, recipe.window_config.frames, recipe.frontend.n_mels), jnp.float32)
    return reparam.hrf_sites(jax.eval_shape(model.init, jax.random.key(0), example)['params'])


def scaled(tree: Params, factors: Mapping[str, float | jax.Array]) -> Params:
    """A tree like `params` with the kernels of some layers multiplied by a factor each.

    At an HRF site these are all that it is made of, as both factors `kernel_u` and `kernel_v`. Biases stay as they are.

    Args:
      tree: parameters, or updates of them.
      factors: by the layer's path.
    """
    leaves = flatten_dict(tree, sep='/')
    for path, leaf in leaves.items():
        layer, _, name = path.rpartition('/')
        site = layer.removesuffix(f'/{reparam.SITE}')
        if name.startswith('kernel') and site in factors:
            leaves[path] = factors[site] * leaf
    return unflatten_dict(leaves, sep='/')


def moves(updates: Params, params: Params, sites: Sequence[str]) -> dict[str, jax.Array]:
    """How a step moves the kernel `[D, F]` of each site; at HRF's sites the product of the factors.

    The product's move is computed from the updates. A difference of two products would round late, small steps away.

    Args:
      updates: what is added to `params`.
      params: before the step.
      sites: their paths. Those with neither a kernel nor two factors are left out: a product is all that can be
        followed here.
    """
    change, old = flatten_dict(updates, sep='/'), flatten_dict(params, sep='/')

    def of_site(site: str) -> jax.Array:
        if f'{site}/{_PLAIN}' in change:
            kernel: jax.Array = change[f'{site}/{_PLAIN}']
            return kernel
        u, v, du, dv = (tree[f'{site}/{name}'] for tree in (old, change) for name in (_U, _V))
        matmul = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
        return matmul(du, v) + matmul(u + du, dv)

    return {site: of_site(site) for site in sites if {f'{site}/{_PLAIN}', f'{site}/{_U}'} & change.keys()}


def norms(updates: Params, params: Params, sites: Sequence[str]) -> dict[str, jax.Array]:
    """The Frobenius norm of each move (`moves`), by path."""
    return {site: jnp.sqrt(jnp.sum(jnp.square(move))) for site, move in moves(updates, params, sites).items()}


def read_norms(paths: Sequence[str], sites: Sequence[str], steps: int) -> dict[str, np.ndarray]:
    """The mean over some runs of the norms that they recorded (`train.log_site_norms`).

    Args:
      paths: folders of runs, or files like their metrics.jsonl: a JSON object per step.
      sites: paths of the sites that are asked for.
      steps: of the run that replays them.

    Returns:
      By site the norm of each step, `[steps]` float32.

    Raises:
      InputError: a file that has not the norm of every site at every step, and of no step beyond.
    """
    runs = [_read(Path(path), sites, steps) for path in paths]
    return {site: np.array([run[site] for run in runs], np.float32).mean(axis=0) for site in sites}


def _read(path: Path, sites: Sequence[str], steps: int) -> dict[str, list[float]]:
    path = path / report.METRICS_FILE if path.is_dir() else path
    if not path.is_file():
        raise InputError(f'train.site_norms: {path}: expected a run with train.log_site_norms, found no such file')
    with system.naming(path):
        lines = path.read_text(errors='replace').splitlines()
    found: dict[str, dict[int, float]] = {site: {} for site in sites}
    for number, text in enumerate(lines, 1):
        try:
            line = json.loads(text)
            for site in sites:
                if NORM + site in line:
                    found[site][int(line['step'])] = float(line[NORM + site])
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(f'train.site_norms: {path}: line {number}: expected an object of a step') from error
    for site, by_step in found.items():
        if sorted(by_step) != list(range(1, steps + 1)):
            raise InputError(
                f'train.site_norms: {path}: expected {NORM}{site} at each of {steps} steps (train.steps), '
                f'found it at {len(by_step)}, the last {max(by_step, default=0)}'
            )
    return {site: [by_step[step] for step in range(1, steps + 1)] for site, by_step in found.items()}
