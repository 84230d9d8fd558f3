"""How each exported form is made of a folded model, and what is tried where the first method loses too much.

Which method makes a quantised form is decided on validation windows: test windows only say how good it is.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import numpy as np

from jax_reparam import deploy, manifest
from jax_reparam.deploy import convert
from jax_reparam.deploy.ops import Norm, SingleNorm
from jax_reparam.evaluation import Windows
from jax_reparam.graph import cost
from jax_reparam.graph.passes import optimise
from jax_reparam.quantise import bias_correction, gptq, mixed_precision, ranges
from jax_reparam.runtime import gates, litert


@dataclasses.dataclass(frozen=True)
class Method:
    """A method to make a quantised form.

    Attributes:
      norm: how normalisations are written (`deploy.ops.normalise`).
      mixed_precision: whether it has 16 bits where these pay (`mixed_precision`).
      every: how many-th of the calibration windows set the ranges: of fewer, ranges are narrower, and what is rare is
        clipped to them.
    """

    norm: Norm
    mixed_precision: bool = False
    every: int = 1


def methods(form: str, int8_norm: SingleNorm, *, narrow: bool = False) -> tuple[Method, ...]:
    """How a quantised form may be made, in the order in which it is tried.

    int16 and Ethos-U have no L2_NORMALIZATION, nor has a front of 16 bits; where int8 begins without it, it has more
    noise with it (docs/export.md). int16 is the remedy where int8 loses too much by all methods. For `int8_norm` and
    `narrow` see `Maker`.
    """
    first: Norm = 'mixed' if int8_norm == 'l2' and not narrow else int8_norm
    int8 = Method(first, not narrow), Method('rsqrt', not narrow), Method(first, not narrow, 8)
    return {
        'int8': tuple(dict.fromkeys(int8)),
        'int16': (Method('rsqrt'),),
        manifest.NPU_FORM: (Method('rsqrt'), Method('rsqrt', every=8)),
    }[form]


@dataclasses.dataclass(frozen=True)
class FormFile:
    """A form's file.

    Attributes:
      model: the .tflite file.
      how: it was made, and what was tried.
      unoptimised: the same graph as the converter leaves it.
      float32: and that from which it was quantised.
    """

    model: bytes
    how: manifest.Made
    unoptimised: bytes
    float32: bytes


def quantised(float32: bytes, windows: np.ndarray, seen: ranges.Ranges, activations: convert.Activations) -> bytes:
    """Makes integers of a `float32` .tflite file, as TensorFlow's quantisers leave them.

    Its tensors hold `seen` (`ranges.measured`) on `windows`, `[W, frames, n_mels]`, which set the ranges.

    Raises:
      ConversionError: TensorFlow refused the graph.
    """
    if activations == 'int8':
        return convert.to_int8(ranges.noted(float32, seen))
    return convert.to_int16(float32, windows[seen.extremes()])


@dataclasses.dataclass
class _Graph:
    """A function, its normalisations written in one way, as a float32 .tflite file; all is computed once."""

    function: deploy.Function
    norm: Norm
    calibration: np.ndarray
    _rounded: dict[tuple[convert.Activations, int], bytes] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def float32(self) -> bytes:
        shape = (1, *self.calibration.shape[1:])
        return convert.to_float32(lambda features: self.function(features, self.norm), shape)

    @functools.cached_property
    def _ranges(self) -> ranges.Ranges:
        return ranges.measured(self.float32, self.calibration)

    @functools.cached_property
    def _inputs(self) -> gptq.Covariances:
        return gptq.covariances(self.float32, self.calibration)

    def rounded(self, activations: convert.Activations, every: int) -> bytes:
        """Quantised with the ranges of every so many-th window, weights rounded together, biases not yet corrected."""
        if (activations, every) not in self._rounded:
            seen = self._ranges.of_every(every)
            model = quantised(self.float32, self.calibration[::every], seen, activations)
            self._rounded[activations, every] = gptq.rounded(model, self.float32, self._inputs)
        return self._rounded[activations, every]


@dataclasses.dataclass
class Maker:
    """Makes the forms of one model.

    Attributes:
      function: the deploy form.
      calibration: training windows, `[W, frames, n_mels]`.
      validation: what a method is chosen on.
      reference: the trained model's logits of `validation`, `[V, C]`.
      int8_norm: how int8 writes normalisations, see `deploy.int8_norm`.
      narrow: int8 is to have 8 bits alone, and not 16 where these pay (`mixed_precision`).
      worth: instructions a window that 16 bits have to save for each byte of arena.
    """

    function: deploy.Function
    calibration: np.ndarray
    validation: Windows
    reference: np.ndarray
    _: dataclasses.KW_ONLY
    int8_norm: SingleNorm = 'l2'
    narrow: bool = False
    worth: float = cost.PER_BYTE

    def __post_init__(self) -> None:
        norms: tuple[Norm, ...] = ('l2', 'rsqrt', 'mixed')
        # What several forms share.
        self._graphs = {norm: _Graph(self.function, norm, self.calibration) for norm in norms}
        self._tried: dict[bytes, tuple[bytes, manifest.Score]] = {}

    def make(self, name: str) -> FormFile:
        """Makes one of `manifest.FORM_FILES`.

        A quantised form is made by the first of its `methods`, if that keeps the decisions and the UAR of the
        validation windows (`gates`); else by the one with the best signal-to-noise ratio there.

        Raises:
          ConversionError: TensorFlow refused the graph.
        """
        if name == 'float32':
            float32 = self._graphs['l2'].float32
            return FormFile(optimise(float32), manifest.Made(norm='l2'), float32, float32)
        attempts = self._attempts(name)
        tried = [next(attempts)]
        if gates.failures(name, 'validation', tried[0][2], gates.uar(self.reference, self.validation)):
            tried += attempts
        # Not the first that passes: it may pass by luck, since only undecided windows change sides.
        model, method, _ = max(tried, key=lambda result: result[2].snr_db or 0.0)
        scores = tuple(manifest.Tried(**self._describe(method), **vars(score)) for _, method, score in tried)
        how = manifest.Made(**self._describe(method), tried=scores)
        # With 16 bits time counts for more than the last bytes of memory.
        return FormFile(optimise(model, fast=name == 'int16'), how, model, self._graphs[method.norm].float32)

    def _attempts(self, name: str) -> Iterator[tuple[bytes, Method, manifest.Score]]:
        for method in methods(name, self.int8_norm, narrow=self.narrow):
            graph = self._graphs[method.norm]
            model = graph.rounded('int16' if name == 'int16' else 'int8', method.every)
            if method.mixed_precision:
                front = method.norm == 'mixed'
                model = mixed_precision.choose(model, graph.float32, front=front, worth=self.worth)
            # Two forms may be made by the same method.
            if model not in self._tried:
                corrected = bias_correction.corrected(model, graph.float32, self.calibration)
                # As TFLM rounds, nearly, and several times as fast.
                logits = litert.load(corrected, reference=True)(self.validation.features)
                self._tried[model] = corrected, gates.score(self.reference, logits, self.validation)
            corrected, score = self._tried[model]
            yield corrected, method, score

    def _describe(self, method: Method) -> dict[str, Any]:
        return {'norm': method.norm, 'ranges': len(self.calibration[:: method.every])}
