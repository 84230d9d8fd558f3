"""How audio becomes a model's input: frontend, window and standardisation, the same in training and on a device."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from jax_reparam import schema
from jax_reparam.frontend.features import FrontendConfig, log_mel
from jax_reparam.frontend.windows import WindowConfig


@dataclasses.dataclass(frozen=True)
class Input:
    """How audio becomes the model's input.

    Attributes:
      frontend: of the log-mel features.
      window: length and spacing of windows, in frames.
      mean: `[M]` float32, taken off the features.
      std: `[M]` float32, the features are then divided by it.
    """

    frontend: FrontendConfig
    window: WindowConfig
    mean: np.ndarray
    std: np.ndarray

    def features(self, samples: np.ndarray) -> np.ndarray:
        """Standardised log-mel features of a recording, `[N]` int16 to `[T, M]`, as training has them."""
        return (log_mel(samples, self.frontend) - self.mean) / self.std

    def as_json(self) -> dict[str, Any]:
        """The manifest's `input`."""
        seconds = self.frontend.hop_ms / 1000
        return {
            **schema.to_json(self.frontend),
            'window_seconds': self.window.frames * seconds,
            'window_hop_seconds': self.window.hop * seconds,
            'frames': self.window.frames,
            'hop_frames': self.window.hop,
            'mean': [float(value) for value in self.mean],
            'std': [float(value) for value in self.std],
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Input:
        """Reads the manifest's `input`.

        Raises:
          KeyError: a field is missing.
        """
        names = (*schema.constants(FrontendConfig), *schema.field_types(FrontendConfig))
        return cls(
            frontend=schema.from_json(FrontendConfig, {name: values[name] for name in names}, 'input'),
            window=WindowConfig(frames=values['frames'], hop=values['hop_frames']),
            mean=np.asarray(values['mean'], np.float32),
            std=np.asarray(values['std'], np.float32),
        )
