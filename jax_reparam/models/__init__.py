"""The architectures, one file each: a frozen config and a Linen module.

Every model maps standardised log-mel features `[B, T, M]` and a mask `[B, T]` (True at real frames; None where all are)
to logits `[B, C]`, by `model.apply(variables, x, mask, train=False)`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn

from jax_reparam.layers import PLAIN, HRFConfig
from jax_reparam.models.conv_transformer import ConvTransformer, ConvTransformerConfig

ARCHITECTURES = {'conv_transformer': (ConvTransformer, ConvTransformerConfig)}


def build(
    model: Mapping[str, Any], hrf: Mapping[str, Any] | None = None, *, n_classes: int, deploy: bool = False
) -> nn.Module:
    """Builds the model that a config describes.

    Args:
      model: `name`, one of `ARCHITECTURES`, and the fields of that architecture's config.
      hrf: the fields of `HRFConfig`; None builds the plain model, whose tree `dehrf` makes.
      n_classes: number of logits C.
      deploy: the form that is exported, for B = 1 and no mask: the same function, of the parameters that `to_deploy`
        makes, which have the plain model's tree.

    Raises:
      ValueError: an unknown architecture or field, or a value out of its range.
    """
    fields = dict(model)
    name = fields.pop('name', None)
    if name not in ARCHITECTURES:
        raise ValueError(f'model.name: expected one of {sorted(ARCHITECTURES)}, got {name!r}')
    module, config = ARCHITECTURES[name]
    known = {field.name for field in dataclasses.fields(config)}
    unknown = sorted(set(fields) - known)
    if unknown:
        raise ValueError(f'model.{unknown[0]}: expected one of {sorted(known)} for {name}')
    return module(
        config=config(**fields), hrf=PLAIN if hrf is None else HRFConfig(**hrf), n_classes=n_classes, deploy=deploy
    )


def to_deploy(model: Mapping[str, Any], variables: Mapping[str, Any]) -> dict[str, Any]:
    """The variables of the deploy form, from those of the plain (folded) model; exact, pure and traceable."""
    module, _ = ARCHITECTURES[model['name']]
    return module.to_deploy(variables)
