"""From a JAX function to .tflite files: jax2tf, then TensorFlow's converter. The one place that imports TensorFlow.

Its quantisers are called by themselves, and not through the converter, which would convert the function once more for
each form. They are no part of TensorFlow's public names, as is the option for one scale a linear layer that they take.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any, Literal

import jax
import numpy as np

from jax_reparam.errors import Error, one_line
from jax_reparam.system import captured_stderr

Function = Callable[[jax.Array], jax.Array]
Activations = Literal['int8', 'int16']


class ConversionError(Error):
    """TensorFlow's converter refused a graph; the message is one line."""


def to_float32(function: Function, shape: tuple[int, ...]) -> bytes:
    """Converts a model to a float32 .tflite file, as the converter leaves it (`graph.passes` makes it ready).

    Args:
      function: features `[1, frames, n_mels]` to logits `[1, C]`, with its parameters inside.
      shape: the features' fixed shape.

    Raises:
      ConversionError: the converter refused the graph.
    """
    with _tensorflow() as tf:
        from jax.experimental import jax2tf

        converted = jax2tf.convert(function, with_gradient=False, native_serialization_platforms=('cpu',))
        signature = [tf.TensorSpec(shape, tf.float32, name='features')]
        graph = tf.function(lambda x: {'logits': converted(x)}, input_signature=signature, autograph=False)
        converter = tf.lite.TFLiteConverter.from_concrete_functions([graph.get_concrete_function()], tf.Module())
        return bytes(_unless_refused(converter.convert))


def to_int8(float32: bytes) -> bytes:
    """Quantises a .tflite file: it computes in int8 throughout, input and output included.

    Weights of linear layers get one scale a tensor, which makes a smaller file; convolutions get one a channel, since
    they have few weights, whose rounding counts. `bias_correction` then takes off what rounding shifts.

    Args:
      float32: what `to_float32` makes, with the range of each tensor in it (`ranges.noted`).

    Raises:
      ConversionError: TensorFlow refused the graph.
    """
    with _tensorflow() as tf:
        from tensorflow.lite.python.convert import mlir_quantize

        types = {'input_data_type': tf.int8, 'output_data_type': tf.int8}
        return bytes(_unless_refused(mlir_quantize, float32, **types, disable_per_channel_for_dense_layers=True))


def to_int16(float32: bytes, windows: np.ndarray) -> bytes:
    """Quantises a .tflite file to int8 weights and int16 activations (16x8): twice the memory, 10 to 20 dB less noise.

    The quantiser for it is an older one, that takes windows and gives terms of a sum the range of the sum, which with
    16 bits is no matter.

    Args:
      float32: what `to_float32` makes of a graph without L2_NORMALIZATION and PADV2, which have no 16 bits.
      windows: standardised features, `[W, frames, n_mels]`, that span each tensor's range.

    Raises:
      ConversionError: TensorFlow refused the graph.
    """
    with _tensorflow() as tf:
        from tensorflow.lite.python.optimize.calibrator import Calibrator

        quantised = _unless_refused(
            _unless_refused(Calibrator, float32).calibrate_and_quantize,
            lambda: ([window[None]] for window in windows),
            tf.int16,
            tf.int16,
            allow_float=False,
            activations_type=tf.int16,
            bias_type=tf.int64,
            disable_per_channel_quantization_for_dense_layers=True,
        )
        return bytes(quantised)


@contextlib.contextmanager
def _tensorflow() -> Iterator[Any]:
    """TensorFlow, whose messages are held back."""
    os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
    with captured_stderr():
        import tensorflow as tf

        tf.config.set_visible_devices([], 'GPU')  # it would take all of the memory that JAX is using
        yield tf


def _unless_refused(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    try:
        return function(*args, **options)
    except Exception as error:  # TensorFlow's own kinds of error have no public names.
        raise ConversionError(f'TensorFlow refused the graph: {one_line(error)[:300]}') from error
