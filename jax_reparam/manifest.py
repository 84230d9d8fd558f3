"""manifest.json: what an exported folder holds, what goes in and comes out, and how each form was verified.

docs/export.md describes every field. Imports neither TensorFlow nor JAX: prediction reads it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jax_reparam.errors import InputError
from jax_reparam.frontend.inputs import Input
from jax_reparam.graph.flatbuffer import Graph, Port

FORMAT = 1
FILE = 'manifest.json'
# int8 of operators that an Ethos-U has; what Vela compiles.
NPU_FORM = 'int8_npu'
FORM_FILES = {name: f'model_{name}.tflite' for name in ('float32', 'int8', 'int16', NPU_FORM)}
# Forms for a microcontroller, the one that needs the least memory first.
QUANTISED = ('int8', 'int16')
# Forms that are held to the trained model's decisions, and may be accepted although they miss them.
GATED = (*QUANTISED, NPU_FORM)


def form(name: str, model: bytes, graph: Graph) -> dict[str, Any]:
    """The part of a form's entry that the file itself tells."""
    return {
        'file': FORM_FILES[name],
        'bytes': len(model),
        'sha256': hashlib.sha256(model).hexdigest(),
        'ops': graph.ops,
        'input': _port(graph.input),
        'output': _port(graph.output),
    }


def recommended(forms: Mapping[str, Any], prefer: str | None = None) -> str | None:
    """Of the manifest's `forms` the one for a microcontroller: one that passed before one that was accepted."""
    found = [name for name in QUANTISED if name in forms]
    return min(found, key=lambda name: ('accepted' in forms[name], name != prefer), default=None)


def _port(port: Port) -> dict[str, Any]:
    return {**dataclasses.asdict(port), 'shape': list(port.shape)}


def dumps(content: Mapping[str, Any]) -> str:
    """The manifest as text; a number that JSON does not know is a fault of ours."""
    return json.dumps(content, indent=2, allow_nan=False) + '\n'


def read(folder: str | Path) -> dict[str, Any]:
    """Reads a folder's manifest.

    Raises:
      InputError: none there, damaged, or of another format.
    """
    path = Path(folder) / FILE
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise InputError(f'{folder}: expected a folder that fold.py wrote, found no {FILE}') from None
    except (OSError, ValueError) as error:
        raise InputError(f'{path}: expected a manifest in JSON, found: {error}') from error
    found = content.get('format') if isinstance(content, dict) else None
    if found != FORMAT:
        raise InputError(f'{path}: expected manifest format {FORMAT}, found {found!r}')
    return content


@dataclasses.dataclass(frozen=True)
class Chosen:
    """One form of an exported folder, and how to use it.

    Attributes:
      form: its name.
      model: its .tflite file.
      labels: class names in the order of the logits.
      input: how audio becomes the model's input.
      content: the whole manifest.
    """

    form: str
    model: bytes
    labels: tuple[str, ...]
    input: Input
    content: Mapping[str, Any]


def choose(folder: str | Path, form: str | None = None) -> Chosen:
    """Reads one form of an exported folder; None is the one that it recommends.

    Raises:
      InputError: no such folder or form, or a file that is not the one that was verified.
    """
    content = read(folder)
    try:
        forms, labels, inputs = content['forms'], tuple(content['labels']), Input.from_json(content['input'])
        form = form or content['recommended'] or 'float32'
        if form not in forms:
            raise InputError(f'{folder}: expected form {form}, found {", ".join(forms) or "none"}')
        return Chosen(form, file(folder, forms[form]), labels, inputs, content)
    except (KeyError, TypeError) as error:
        raise InputError(f'{Path(folder) / FILE}: expected a whole manifest, found none of {error}') from error


def file(folder: str | Path, entry: Mapping[str, Any]) -> bytes:
    """The file that an entry of the manifest is about, a form or a part of `device`.

    Raises:
      InputError: missing, or not the one that was verified.
      KeyError: the entry is not whole.
    """
    path, digest = Path(folder) / entry['file'], entry['sha256']
    try:
        found = path.read_bytes()
    except OSError as error:
        raise InputError(f'{path}: expected the model, found: {error.strerror}') from error
    if hashlib.sha256(found).hexdigest() != digest:
        raise InputError(f'{path}: expected the file that was verified (SHA-256 {digest[:12]}), found another')
    return found
