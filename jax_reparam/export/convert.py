"""From a JAX function to .tflite files: jax2tf, then TensorFlow's converter. The one place that imports TensorFlow."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Literal

import jax
import numpy as np

from jax_reparam.export.quiet import captured_stderr

Function = Callable[[jax.Array], jax.Array]
Activations = Literal['int8', 'int16']


class ConversionError(RuntimeError):
    """TensorFlow's converter refused a graph; the message is one line."""


def to_float32(function: Function, shape: tuple[int, ...]) -> bytes:
    """Converts a model to a float32 .tflite file, as the converter leaves it (`tidy` makes it ready).

    Args:
      function: features `[1, frames, n_mels]` to logits `[1, C]`, with its parameters inside.
      shape: the features' fixed shape.

    Raises:
      ConversionError: the converter refused the graph.
    """
    with captured_stderr():
        return _convert(_converter(function, shape))


def quantise(function: Function, windows: np.ndarray, activations: Activations = 'int8') -> bytes:
    """Converts a model to a .tflite file that computes in integers throughout, input and output included.

    Weights are int8. Those of linear layers get one scale a tensor, which makes a smaller file; convolutions get one a
    channel, since they have few weights, whose rounding counts. `biases` then takes off what rounding shifts.

    Args:
      function: see `to_float32`.
      windows: standardised features for calibration, `[W, frames, n_mels]`; every tensor's range is the true minimum
        and maximum over them.
      activations: `int8`, or `int16` (known as 16x8) for twice the memory and some 10 dB less noise; the latter needs a
        graph without L2_NORMALIZATION and PADV2.

    Raises:
      ConversionError: the converter refused the graph.
    """
    with captured_stderr():
        import tensorflow as tf

        ops = {
            'int8': tf.lite.OpsSet.TFLITE_BUILTINS_INT8,
            'int16': tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8,
        }
        converter = _converter(function, (1, *windows.shape[1:]))
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([window[None]] for window in windows)
        converter.target_spec.supported_ops = [ops[activations]]
        converter.inference_input_type = converter.inference_output_type = getattr(tf, activations)
        converter._experimental_disable_per_channel_quantization_for_dense_layers = True
        # It has no 16 bits: left on, the windows would run once for it and once more for the one that has.
        converter.experimental_new_quantizer = activations == 'int8'
        return _convert(converter)


def _converter(function: Function, shape: tuple[int, ...]) -> Any:
    os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
    import tensorflow as tf
    from jax.experimental import jax2tf

    tf.config.set_visible_devices([], 'GPU')  # it would take all of the memory that JAX is using
    converted = jax2tf.convert(function, with_gradient=False, native_serialization_platforms=('cpu',))
    signature = [tf.TensorSpec(shape, tf.float32, name='features')]
    graph = tf.function(lambda features: {'logits': converted(features)}, input_signature=signature, autograph=False)
    return tf.lite.TFLiteConverter.from_concrete_functions([graph.get_concrete_function()], tf.Module())


def _convert(converter: Any) -> bytes:
    try:
        return bytes(converter.convert())
    except Exception as error:  # The converter's own kind of error has no public name.
        reason = ' '.join(str(error).split())
        raise ConversionError(f'TensorFlow refused the graph: {reason[:300]}') from error
