"""How each exported form is made of a folded model, and what is tried where the first way loses too much.

Which way a quantised form is made is decided on validation windows: test windows only say how good it is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from jax_reparam.deploy.ops import Norm
from jax_reparam.export import biases, convert, gates, interpret, manifest, rounding
from jax_reparam.export.samples import Windows
from jax_reparam.export.tidy import tidy

# The deploy form with its parameters inside: features `[1, frames, n_mels]` to logits `[1, C]`.
Deployed = Callable[[jax.Array, Norm], jax.Array]


@dataclasses.dataclass(frozen=True)
class Way:
    """One way to make a quantised form.

    Attributes:
      norm: how normalisations are written (`deploy.ops.unit`).
      share: of the calibration windows, those that set the ranges: of fewer, ranges are narrower, and what is rare is
        clipped to them.
    """

    norm: Norm
    share: float = 1.0


# int16 and Ethos-U have no L2_NORMALIZATION. int16 is itself the remedy where int8 loses too much by all of its ways.
WAYS: dict[str, tuple[Way, ...]] = {
    'int8': (Way('l2'), Way('rsqrt'), Way('l2', share=1 / 8)),
    'int16': (Way('rsqrt'),),
    manifest.NPU_FORM: (Way('rsqrt'), Way('rsqrt', share=1 / 8)),
}


@dataclasses.dataclass(frozen=True)
class Made:
    """A form's file.

    Attributes:
      model: the .tflite file.
      how: the manifest's `made`: `norm`, `ranges` (how many windows set them) and `tried` (each way with its score on
        validation windows).
      untidied: the same graph as the converter leaves it.
      float32: and that from which it was quantised.
    """

    model: bytes
    how: dict[str, Any]
    untidied: bytes
    float32: bytes


def quantised(
    function: convert.Function,
    windows: np.ndarray,
    activations: convert.Activations = 'int8',
    *,
    float32: bytes | None = None,
    ranges: np.ndarray | None = None,
) -> bytes:
    """Makes a form that computes in integers, as the converter leaves it, with weights and biases rounded anew.

    Args:
      function: features `[1, frames, n_mels]` to logits `[1, C]`, with its parameters inside.
      windows: calibration windows, `[W, frames, n_mels]`.
      activations: see `convert.quantise`.
      float32: what `convert.to_float32` makes of the function, where that is known.
      ranges: windows that set the ranges; None: `windows`.

    Raises:
      ConversionError: TensorFlow refused the graph.
    """
    model = convert.quantise(function, windows if ranges is None else ranges, activations)
    float32 = float32 or convert.to_float32(function, (1, *windows.shape[1:]))
    return biases.corrected(rounding.rounded(model, float32, windows), float32, windows)


def integer(function: convert.Function, windows: np.ndarray, activations: convert.Activations = 'int8') -> bytes:
    """The same made ready for a device (`tidy`), which changes no number."""
    return tidy(quantised(function, windows, activations))


class Maker:
    """Makes the forms of one model.

    Args:
      function: the deploy form.
      calibration: training windows, `[W, frames, n_mels]`.
      validation: what a way is chosen on.
      reference: the trained model's logits of `validation`, `[V, C]`.
    """

    def __init__(self, function: Deployed, calibration: np.ndarray, validation: Windows, reference: np.ndarray) -> None:
        self._function, self._calibration = function, calibration
        self._validation, self._reference = validation, reference
        self._float32: dict[Norm, bytes] = {}
        self._tried: dict[tuple[convert.Activations, Way], tuple[bytes, gates.Score]] = {}

    def make(self, name: str) -> Made:
        """Makes one of `manifest.FORM_FILES`.

        A quantised form is made in the first way of `WAYS`, if that keeps the decisions and the UAR of the validation
        windows (`gates`); else in the one with the best signal-to-noise ratio there.

        Raises:
          ConversionError: TensorFlow refused the graph.
        """
        if name == 'float32':
            return Made(tidy(self._graph('l2')), {'norm': 'l2'}, self._graph('l2'), self._graph('l2'))
        ways = self._ways(name)
        tried = [next(ways)]
        if gates.failures(name, 'validation', tried[0][2], gates.uar(self._reference, self._validation)):
            tried += ways
        # Not the first that passes: it may pass by luck, since only undecided windows change sides.
        model, way, _ = max(tried, key=lambda result: result[2].snr_db or 0.0)
        scores = [{**self._describe(way), **score.as_json()} for _, way, score in tried]
        return Made(tidy(model), {**self._describe(way), 'tried': scores}, model, self._graph(way.norm))

    def _ways(self, name: str) -> Iterator[tuple[bytes, Way, gates.Score]]:
        activations: convert.Activations = 'int16' if name == 'int16' else 'int8'
        for way in WAYS[name]:
            # Two forms may be made in the same way.
            if (activations, way) not in self._tried:
                self._tried[activations, way] = self._try(activations, way)
            model, score = self._tried[activations, way]
            yield model, way, score

    def _try(self, activations: convert.Activations, way: Way) -> tuple[bytes, gates.Score]:
        model = quantised(
            self._bound(way.norm),
            self._calibration,
            activations,
            float32=self._graph(way.norm),
            ranges=self._ranges(way),
        )
        # As TFLM rounds, nearly, and several times as fast.
        logits = interpret.load(model, reference=True)(self._validation.features)
        return model, gates.score(self._reference, logits, self._validation)

    def _graph(self, norm: Norm) -> bytes:
        if norm not in self._float32:
            self._float32[norm] = convert.to_float32(self._bound(norm), (1, *self._calibration.shape[1:]))
        return self._float32[norm]

    def _bound(self, norm: Norm) -> convert.Function:
        return lambda features: self._function(features, norm)

    def _ranges(self, way: Way) -> np.ndarray:
        return self._calibration[:: round(1 / way.share)]

    def _describe(self, way: Way) -> dict[str, Any]:
        return {'norm': way.norm, 'ranges': len(self._ranges(way))}
