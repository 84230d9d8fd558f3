"""Labels and feature parameters inside a .tflite file: one Metadata entry with a JSON text.

Runtimes that do not look for it, TFLM among them, load the file as before.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from jax_reparam import schema
from jax_reparam.frontend.inputs import Input
from jax_reparam.graph import flatbuffer

NAME = 'jax_reparam'


def attach(model: bytes, labels: Sequence[str], inputs: Input) -> bytes:
    """The same model with the class names, in the order of its outputs, and what its features are.

    The statistics are left out: they are constants of the firmware and of the waveform model, and fill kilobytes.

    Raises:
      ValueError: not a .tflite file.
    """
    window = {'frames': inputs.window.frames, 'hop_frames': inputs.window.hop}
    content = {'labels': list(labels), 'input': {**schema.to_json(inputs.frontend), **window}}
    text = json.dumps(content, ensure_ascii=False, separators=(',', ':')).encode()
    graph = flatbuffer.read(model)
    graph.metadata[NAME] = text
    return flatbuffer.write(graph)


def read(model: bytes) -> dict[str, Any]:
    """What `attach` put into a model: `labels` and `input`.

    Raises:
      ValueError: not a .tflite file, or one without it.
    """
    note = flatbuffer.read(model).metadata.get(NAME)
    if note is None:
        raise ValueError(f'expected metadata {NAME!r} in the .tflite file, got none')
    content: dict[str, Any] = json.loads(note)
    return content
