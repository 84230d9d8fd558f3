"""How audio becomes a model's input: frontend, window and standardisation, the same in training and on a device."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from jax_reparam import schema
from jax_reparam.frontend.features import FrontendConfig, log_mel
from jax_reparam.frontend.windows import WindowConfig

# What `Input.as_json` writes.
_FRONTEND = schema.field_types(FrontendConfig)
_JSON = dataclasses.make_dataclass(
    '_JSON',
    [
        *((name, {int: schema.Size, float: schema.Amount}.get(kind, kind)) for name, kind in _FRONTEND.items()),
        *((name, schema.Positive) for name in ('window_seconds', 'window_hop_seconds')),
        *((name, schema.Size) for name in ('frames', 'hop_frames')),
        *((name, np.ndarray) for name in ('mean', 'std')),
    ],
)


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
            **dataclasses.asdict(self.frontend),
            'window_seconds': self.window.frames * seconds,
            'window_hop_seconds': self.window.hop * seconds,
            'frames': self.window.frames,
            'hop_frames': self.window.hop,
            'mean': [float(value) for value in self.mean],
            'std': [float(value) for value in self.std],
        }

    @classmethod
    def from_json(cls, content: Any, key: str = 'input') -> Input:
        """Reads the manifest's `input`.

        Raises:
          ValueError: `KEY.frames: expected ..., found ...`: a wrong type, a number out of its bounds, or numbers that
            do not go together.
        """
        found = vars(schema.from_json(_JSON, content, key))
        frontend = FrontendConfig(**{name: found[name] for name in _FRONTEND})
        frame, bands = frontend.frame_length, frontend.n_mels
        for name, holds, expected in (
            ('sample_rate', frame and frontend.hop_length, 'a sample or more in a frame and in a hop'),
            ('n_fft', frontend.n_fft >= frame and frontend.n_fft.bit_count() == 1, f'a power of 2, at least {frame}'),
            ('fmax', frontend.fmin < frontend.fmax, f'more than fmin, {frontend.fmin:g}'),
            ('hop_frames', found['hop_frames'] <= found['frames'], f'at most {found["frames"]} frames'),
        ):
            if not holds:
                raise ValueError(f'{key}.{name}: expected {expected}, found {found[name]}')
        for name in ('mean', 'std'):
            if len(found[name]) != bands:
                raise ValueError(f'{key}.{name}: expected {bands} numbers, found {len(found[name])}')
        if not (found['std'] > 0).all():
            raise ValueError(f'{key}.std: expected numbers above 0, found {found["std"].min():g}')
        return cls(frontend, WindowConfig(found['frames'], found['hop_frames']), found['mean'], found['std'])
