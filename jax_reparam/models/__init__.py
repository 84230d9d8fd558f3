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
from jax_reparam.models.conformer import Conformer, ConformerConfig
from jax_reparam.models.conv_transformer import ConvTransformer, ConvTransformerConfig
from jax_reparam.models.speech_former import SpeechFormer, SpeechFormerConfig

ARCHITECTURES: dict[str, tuple[Any, Any]] = {
    'conv_transformer': (ConvTransformer, ConvTransformerConfig),
    'conformer': (Conformer, ConformerConfig),
    'speech_former': (SpeechFormer, SpeechFormerConfig),
}


def parse(model: Mapping[str, Any]) -> tuple[str, Any]:
    """The architecture's name and its config, of a recipe's `model`.

    Raises:
      ValueError: an unknown architecture or field, or a value out of its range.
    """
    fields = dict(model)
    name = fields.pop('name', None)
    if name not in ARCHITECTURES:
        raise ValueError(f'model.name: expected one of {sorted(ARCHITECTURES)}, got {name!r}')
    config = ARCHITECTURES[name][1]
    known = {field.name for field in dataclasses.fields(config)}
    unknown = sorted(set(fields) - known)
    if unknown:
        raise ValueError(f'model.{unknown[0]}: expected one of {sorted(known)} for {name}')
    return name, config(**fields)


def build(model: Mapping[str, Any], hrf: Mapping[str, Any] | None = None, *, n_classes: int) -> nn.Module:
    """Builds the model that a config describes.

    Args:
      model: `name`, one of `ARCHITECTURES`, and the fields of that architecture's config.
      hrf: the fields of `HRFConfig`; None builds the plain model, whose tree `dehrf` makes.
      n_classes: number of logits C.

    Raises:
      ValueError: an unknown architecture or field, or a value out of its range.
    """
    name, config = parse(model)
    module = ARCHITECTURES[name][0]
    return module(config=config, hrf=PLAIN if hrf is None else HRFConfig(**hrf), n_classes=n_classes)
