"""The deploy form of each architecture: the folded model's function for one window, written so that it exports well.

The training forms take batches and masks; exported as they are they cost more operators, more memory and more noise in
int8, or do not load at all (docs/export.md). A deploy form is a pure function of parameters that `prepare` makes from
the folded model's, exactly; it equals the folded model to rounding.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeAlias

import jax

from jax_reparam import reparam
from jax_reparam.config import ConformerConfig, ConvTransformerConfig, ModelConfig, SpeechFormerConfig
from jax_reparam.deploy import conformer, conv_transformer, speech_former
from jax_reparam.reparam import Params

# A deploy form with its parameters inside: maps features `[1, T, M]` to logits `[1, C]`.
Function: TypeAlias = Callable[[jax.Array], jax.Array]

_FORMS: dict[type, Any] = {
    ConvTransformerConfig: conv_transformer,
    ConformerConfig: conformer,
    SpeechFormerConfig: speech_former,
}


def build(model: ModelConfig, variables: Params, frames: int) -> Function:
    """The deploy form of a folded model, a function with its parameters inside: computed in float64, as float32.

    Args:
      model: a recipe's `model`.
      variables: `params` and `batch_stats` of the plain (folded) model.
      frames: of a window, T.

    Raises:
      ValueError: see `prepare`.
    """
    params = reparam.in_float64(lambda tree: prepare(model, tree, frames), variables)
    return functools.partial(apply, model, params)


def prepare(model: ModelConfig, variables: Params, frames: int) -> Params:
    """The deploy form's parameters: what `build` makes, but pure and traceable, and in the precision of `variables`.

    Normalisations, scales and positions are absorbed into the layers around them (`absorb`).

    Raises:
      ValueError: more frames than it takes.
    """
    return _FORMS[type(model)].prepare(model, {'batch_stats': {}, **variables}, frames)


def apply(model: ModelConfig, params: Params, features: jax.Array) -> jax.Array:
    """The deploy form's logits `[1, C]` of one window of standardised log-mel features, `[1, T, M]`.

    Its parts are named (`jax.named_scope`): the names reach the exported graph, where `widths` speaks of them.

    Args:
      model: a recipe's `model`.
      params: what `prepare` made for T frames.
      features: the window.
    """
    logits: jax.Array = _FORMS[type(model)].apply(model, params, features)
    return logits


def widths(model: ModelConfig, frames: int, *, fast: bool = False) -> dict[str, int]:
    """The bits, 8 or 16, that each part of the int8 form computes in, by the part's scope; the longest prefix counts.

    Args:
      model: a recipe's `model`.
      frames: of a window, T.
      fast: 16 bits also where they save time alone, at the price of arena.
    """
    chosen: dict[str, int] = _FORMS[type(model)].widths(model, frames, fast)
    return chosen
