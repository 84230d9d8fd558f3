"""Transformer re-parameterization (HRF / deHRF) for speech emotion recognition on a microcontroller.

`dehrf` folds a training pytree and `hrf` unfolds a plain one; `HRFDense` and `HRFConfig` make one; `add_decay` is
weight decay that knows its sites, for any optax chain. They are loaded when first used, so that commands that need
neither jax nor flax start at once.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from jax_reparam._version import __version__

if TYPE_CHECKING:
    from jax_reparam.config import HRFConfig
    from jax_reparam.layers import HRFDense
    from jax_reparam.reparam import dehrf, hrf, hrf_sites
    from jax_reparam.train.optimizer import add_decay

__all__ = ['HRFConfig', 'HRFDense', '__version__', 'add_decay', 'dehrf', 'hrf', 'hrf_sites']

_HOME = {
    'HRFConfig': 'config',
    'HRFDense': 'layers',
    'add_decay': 'train.optimizer',
    'dehrf': 'reparam',
    'hrf': 'reparam',
    'hrf_sites': 'reparam',
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(importlib.import_module(f'{__name__}.{_HOME[name]}'), name)
