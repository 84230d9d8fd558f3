"""From a JAX function to a float32 .tflite file by jax2tf and TensorFlow's converter. The one import of TensorFlow."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

import jax

from jax_reparam.errors import Error, one_line
from jax_reparam.system import captured_stderr

Function = Callable[[jax.Array], jax.Array]


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
