"""AdamW with a warm-up and a cosine, and weight decay and step sizes that know HRF sites."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

import jax
import jax.numpy as jnp
import optax
from flax.traverse_util import flatten_dict, unflatten_dict

from jax_reparam import models, reparam
from jax_reparam.config import Recipe, TrainConfig
from jax_reparam.reparam import Params

Decay = Literal['none', 'factors', 'product']
# The kernels of a site, plain or factorised, below its path.
_KERNELS = ('kernel', f'{reparam.SITE}/kernel_u', f'{reparam.SITE}/kernel_v')


def schedule(config: TrainConfig) -> optax.Schedule:
    """Learning rate by step: linear warm-up, then a cosine to 0."""
    warmup = min(config.warmup_steps, config.steps - 1)
    return optax.warmup_cosine_decay_schedule(0.0, config.learning_rate, warmup, config.steps)


def adamw(recipe: Recipe) -> optax.GradientTransformation:
    """The optimizer of a recipe.

    `train.site_rate` stands between Adam's scaling and the decay, so that it multiplies Adam's step alone;
    `train.site_decay` multiplies the decay alone.
    """
    config = recipe.train
    at = sites(recipe) if recipe.asks_for_sites else []
    site_rate = optax.stateless(lambda updates, _: scaled(updates, dict.fromkeys(at, config.site_rate)))
    decay = add_decay(config.weight_decay, recipe.hrf.decay, factors=dict.fromkeys(at, config.site_decay))
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity(),
        optax.scale_by_adam(),
        # As one transform, so that every recipe's optimizer has a state of one form.
        optax.chain(site_rate, decay),
        optax.scale_by_learning_rate(schedule(config)),
    )


def sites(recipe: Recipe) -> list[str]:
    """The paths, in `params`, of the layers that `hrf.sites` names: HRF's sites, in the plain model too."""
    # With E = D every layer that may be a site is one.
    model = models.build(recipe.model, dataclasses.replace(recipe.hrf, expansion=1.0), n_classes=2)
    example = jax.ShapeDtypeStruct((1, recipe.window_config.frames, recipe.frontend.n_mels), jnp.float32)
    return reparam.hrf_sites(jax.eval_shape(model.init, jax.random.key(0), example)['params'])


def scaled(tree: Params, factors: Mapping[str, float | jax.Array]) -> Params:
    """A tree like `params` with the kernels of some layers multiplied by a factor each.

    At an HRF site these are both factors `kernel_u` and `kernel_v`. Biases stay as they are.

    Args:
      tree: parameters, or updates of them.
      factors: by the layer's path.
    """
    leaves = flatten_dict(tree, sep='/')
    for site, factor in factors.items():
        for kernel in (f'{site}/{name}' for name in _KERNELS):
            if kernel in leaves:
                leaves[kernel] = factor * leaves[kernel]
    return unflatten_dict(leaves, sep='/')


def add_decay(rate: float, decay: Decay, *, factors: Mapping[str, float] | None = None) -> optax.GradientTransformation:
    """Adds `rate` times `decay_direction(params)` to the updates, as AdamW does (Loshchilov and Hutter 2019).

    Args:
      rate: of all kernels.
      decay: what decays at an HRF site.
      factors: by which the rate of some layers is multiplied, by path.
    """

    def update(updates: Params, params: Params) -> Params:
        direction = decay_direction(params, decay)
        if factors:
            direction = scaled(direction, factors)
        return jax.tree.map(lambda u, d: u + rate * d, updates, direction)

    return optax.stateless(update)


def decay_direction(params: Params, decay: Decay) -> Params:
    """The gradient of the decay penalty, a tree like `params`: kernels themselves, nothing for biases and norms.

    At an HRF site with factors U and V: nothing (`none`); U and V (`factors`), which pulls on the nuclear norm of U V
    and so towards low rank; or U V V^T and U^T U V (`product`), the gradient of |U V|^2 / 2, which decays the folded
    kernel as a plain layer's is decayed (Frobenius decay, Khodak et al. 2021).
    """
    if not isinstance(params, Mapping):
        return jnp.zeros_like(params)
    direction = {name: child if name == 'kernel' else decay_direction(child, decay) for name, child in params.items()}
    if reparam.SITE in params:
        u, v = params[reparam.SITE]['kernel_u'], params[reparam.SITE]['kernel_v']
        if decay == 'factors':
            direction[reparam.SITE] |= {'kernel_u': u, 'kernel_v': v}
        elif decay == 'product':
            product = u @ v
            direction[reparam.SITE] |= {'kernel_u': product @ v.mT, 'kernel_v': u.mT @ product}
    return direction
