"""Transformer re-parameterization (HRF / deHRF) for speech emotion recognition on a microcontroller.

To use a model: `Recognizer` decides on recordings, `Stream` on sound as it comes. To make one: `fit` trains a recipe,
`fold_and_export` folds, exports and verifies it. To use HRF in a model of your own: `HRFDense` and `HRFConfig` are its
layer, `dehrf` folds a training pytree, `hrf` unfolds a plain one, `hrf_sites` names its sites, and `add_decay` is
weight decay that knows them, for any optax chain.

Names are loaded when first used: `Recognizer`, `Stream` and `HRFConfig` need neither jax nor flax.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from jax_reparam._version import __version__

if TYPE_CHECKING:
    from jax_reparam.config import HRFConfig
    from jax_reparam.export.folding import fold_and_export
    from jax_reparam.layers import HRFDense
    from jax_reparam.recognizer import Recognizer, Stream
    from jax_reparam.reparam import dehrf, hrf, hrf_sites
    from jax_reparam.train.loop import fit
    from jax_reparam.train.optimizer import add_decay

__all__ = [
    'HRFConfig',
    'HRFDense',
    'Recognizer',
    'Stream',
    '__version__',
    'add_decay',
    'dehrf',
    'fit',
    'fold_and_export',
    'hrf',
    'hrf_sites',
]

_HOME = {
    'HRFConfig': 'config',
    'HRFDense': 'layers',
    'Recognizer': 'recognizer',
    'Stream': 'recognizer',
    'add_decay': 'train.optimizer',
    'dehrf': 'reparam',
    'fit': 'train.loop',
    'fold_and_export': 'export.folding',
    'hrf': 'reparam',
    'hrf_sites': 'reparam',
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(importlib.import_module(f'{__name__}.{_HOME[name]}'), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
