"""AdamW with a warm-up and a cosine, and weight decay and step sizes that know HRF sites."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jax_reparam import reparam
from jax_reparam.config import Recipe, TrainConfig
from jax_reparam.reparam import Params
from jax_reparam.train import sites

Decay = Literal['none', 'factors', 'product']
TINY = float(np.finfo(np.float32).tiny)


def schedule(config: TrainConfig) -> optax.Schedule:
    """Learning rate by step: linear warm-up, the peak as long as `train.hold` says, then a cosine to 0."""
    peak, warmup = config.learning_rate, min(config.warmup_steps, config.steps - 1)
    falls = min(warmup + round(config.hold * (config.steps - warmup)), config.steps - 1)
    parts = optax.linear_schedule(0.0, peak, warmup), optax.constant_schedule(peak)
    return optax.join_schedules([*parts, optax.cosine_decay_schedule(peak, config.steps - falls)], [warmup, falls])


def adamw(recipe: Recipe) -> optax.GradientTransformation:
    """The optimizer of a recipe.

    `train.site_rate` stands between Adam's scaling and the decay, so that it multiplies Adam's step alone;
    `train.site_decay` multiplies the decay alone. With `train.site_norms` the whole update has the recorded norm.

    Raises:
      InputError: recorded norms that cannot be read, or are not of this recipe's sites and steps.
    """
    config = recipe.train
    at = sites.of(recipe) if recipe.asks_for_sites else []
    site_rate = optax.stateless(lambda updates, _: sites.scaled(updates, dict.fromkeys(at, config.site_rate)))
    decay = add_decay(config.weight_decay, recipe.hrf.decay, factors=dict.fromkeys(at, config.site_decay))
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity(),
        optax.scale_by_adam(),
        # As one transform, so that every recipe's optimizer has a state of one form.
        optax.chain(site_rate, decay),
        optax.scale_by_learning_rate(schedule(config)),
        *([_with_norms(sites.read_norms(config.site_norms, at, config.steps))] if config.site_norms else []),
    )


def _with_norms(norms: Mapping[str, np.ndarray]) -> optax.GradientTransformation:
    """Gives the update of each plain kernel the norm that is recorded for the step, `[steps]` by the layer's path."""
    tables = {site: jnp.asarray(table) for site, table in norms.items()}

    def update(updates: Params, state: optax.ScaleByScheduleState, params: Params) -> tuple[Params, Any]:
        found = sites.norms(updates, params, list(tables))
        # An update of zero has no direction: it stays zero.
        factors = {site: table[state.count] / jnp.maximum(found[site], TINY) for site, table in tables.items()}
        return sites.scaled(updates, factors), optax.ScaleByScheduleState(state.count + 1)

    return optax.GradientTransformation(lambda params: optax.ScaleByScheduleState(jnp.zeros((), jnp.int32)), update)


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
            direction = sites.scaled(direction, factors)
        return jax.tree.map(lambda u, d: u + rate * d, updates, direction)

    return optax.stateless(update)


def decay_direction(params: Params, decay: Decay) -> Params:
    """The gradient of the decay penalty, a tree like `params`: kernels themselves, nothing for biases and norms.

    At an HRF site with factors U and V: nothing (`none`); U and V (`factors`), which pulls on the nuclear norm of U V
    and so towards low rank; or U V V^T and U^T U V (`product`), the gradient of |U V|^2 / 2, which decays the folded
    kernel as a plain layer's is decayed (Frobenius decay, Khodak et al. 2021).

    At the site of a convolution: nothing (`none`), or the kernels of all branches, as the plain convolution's kernel.
    A batch normalisation takes off the length of the kernel before it, in either form: decay of a kernel sets the size
    of its steps, and does not shrink the folded kernel (Zhang et al. 2019, "Three mechanisms of weight decay").
    """
    if not isinstance(params, Mapping):
        return jnp.zeros_like(params)
    direction = {name: child if name == 'kernel' else decay_direction(child, decay) for name, child in params.items()}
    if reparam.is_convolution(params):
        if decay != 'none':
            direction[reparam.SITE] = params[reparam.SITE]
    elif reparam.SITE in params:
        u, v = params[reparam.SITE]['kernel_u'], params[reparam.SITE]['kernel_v']
        if decay == 'factors':
            direction[reparam.SITE] |= {'kernel_u': u, 'kernel_v': v}
        elif decay == 'product':
            product = u @ v
            direction[reparam.SITE] |= {'kernel_u': product @ v.mT, 'kernel_v': u.mT @ product}
    return direction
