"""How audio becomes a model's input: frontend, window and standardisation, the same in training and on a device."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from jax_reparam import schema
from jax_reparam.frontend.features import FrontendConfig, log_mel
from jax_reparam.frontend.windows import WindowConfig
from jax_reparam.schema import Positive, Size


@dataclasses.dataclass(frozen=True)
class _Written:
    """What the manifest's `input` holds beside the fields of the frontend."""

    window_seconds: Positive
    window_hop_seconds: Positive
    frames: Size
    hop_frames: Size
    mean: np.ndarray
    std: np.ndarray


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

    def __post_init__(self) -> None:
        bands = self.frontend.n_mels
        for name in ('mean', 'std'):
            values = getattr(self, name)
            schema.expect(values.shape == (bands,), name, f'{bands} numbers', len(values))
        schema.expect(bool((self.std > 0).all()), 'std', 'numbers above 0', float(self.std.min()))

    def features(self, samples: np.ndarray) -> np.ndarray:
        """Standardised log-mel features of a recording, `[N]` int16 to `[T, M]`, as training has them."""
        features: np.ndarray = (log_mel(samples, self.frontend) - self.mean) / self.std
        return features

    def as_json(self) -> dict[str, Any]:
        """The manifest's `input`."""
        seconds, window = self.frontend.hop_ms / 1000, self.window
        written = _Written(
            window.frames * seconds, window.hop * seconds, window.frames, window.hop, self.mean, self.std
        )
        return {**schema.to_json(self.frontend), **schema.to_json(written)}

    @classmethod
    def from_json(cls, content: Any, key: str = 'input') -> Input:
        """Reads the manifest's `input`.

        Raises:
          ValueError: `KEY.frames: expected ..., found ...`: a wrong type, a number out of its bounds, or numbers that
            do not go together.
        """
        schema.expect(isinstance(content, dict), key, 'an object', content)
        own = {name: item for name, item in content.items() if name in schema.field_types(_Written)}
        for name in schema.field_types(FrontendConfig):
            if name not in content:
                raise ValueError(f'{key}.{name}: expected a value, found none')
        frontend = schema.from_json(FrontendConfig, {name: content[name] for name in content if name not in own}, key)
        written = schema.from_json(_Written, own, key)
        try:
            return cls(frontend, WindowConfig(written.frames, written.hop_frames), written.mean, written.std)
        except ValueError as error:
            raise ValueError(f'{key}.{error}') from error
