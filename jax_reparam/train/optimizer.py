"""AdamW with a warm-up and a cosine, and weight decay that knows HRF sites."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import jax
import jax.numpy as jnp
import optax

from jax_reparam import reparam
from jax_reparam.config import TrainConfig
from jax_reparam.reparam import Params

Decay = Literal['none', 'factors', 'product']


def schedule(config: TrainConfig) -> optax.Schedule:
    """Learning rate by step: linear warm-up, then a cosine to 0."""
    warmup = min(config.warmup_steps, config.steps - 1)
    return optax.warmup_cosine_decay_schedule(0.0, config.learning_rate, warmup, config.steps)


def adamw(config: TrainConfig, decay: Decay) -> optax.GradientTransformation:
    """The optimizer of a recipe; `decay` is `hrf.decay`."""
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity(),
        optax.scale_by_adam(),
        add_decay(config.weight_decay, decay),
        optax.scale_by_learning_rate(schedule(config)),
    )


def add_decay(rate: float, decay: Decay) -> optax.GradientTransformation:
    """Adds `rate` times `decay_direction(params)` to the updates, as AdamW does (Loshchilov and Hutter 2019)."""
    return optax.stateless(
        lambda updates, params: jax.tree.map(lambda u, d: u + rate * d, updates, decay_direction(params, decay))
    )


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
