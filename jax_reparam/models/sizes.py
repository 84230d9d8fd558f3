"""Checks that the architectures' configs share."""

from __future__ import annotations

from typing import Any


def check_sizes(config: Any, *names: str) -> None:
    """Checks that the named fields are at least 1, and that a `width` among them is a multiple of `heads`.

    Raises:
      ValueError: one is not.
    """
    for name in names:
        if getattr(config, name) < 1:
            raise ValueError(f'model.{name}: expected at least 1, got {getattr(config, name)}')
    if 'width' in names and config.width % config.heads:
        raise ValueError(f'model.width: expected a multiple of {config.heads} heads, got {config.width}')
