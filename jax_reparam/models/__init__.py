"""The architectures, one Linen module per file; their sizes are in `jax_reparam.config`.

Every model is made of sizes (`config`), its training form (`hrf`) and the number of logits C (`n_classes`). It maps
standardised log-mel features `[B, T, M]` and a mask `[B, T]` (True at real frames; None where all are)
to logits `[B, C]`, by `model.apply(variables, x, mask, train=False)`.
"""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn

from jax_reparam.config import (
    PLAIN,
    ConformerConfig,
    ConvTransformerConfig,
    HRFConfig,
    ModelConfig,
    SpeechFormerConfig,
)
from jax_reparam.models.conformer import Conformer
from jax_reparam.models.conv_transformer import ConvTransformer
from jax_reparam.models.speech_former import SpeechFormer

_MODULES: dict[type, Callable[..., nn.Module]] = {
    ConvTransformerConfig: ConvTransformer,
    ConformerConfig: Conformer,
    SpeechFormerConfig: SpeechFormer,
}


def build(model: ModelConfig, hrf: HRFConfig | None = None, *, n_classes: int) -> nn.Module:
    """Builds the model of a recipe's sizes and training form; without the latter the plain one, of `dehrf`'s tree."""
    return _MODULES[type(model)](config=model, hrf=PLAIN if hrf is None else hrf, n_classes=n_classes)
