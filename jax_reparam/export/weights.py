"""The folded model's parameters: an Orbax checkpoint that `checkpoint.load` reads, and safetensors."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jax_reparam import checkpoint
from jax_reparam.checkpoint import Trained


def leaves(tree: Any, prefix: str = '') -> Iterator[tuple[str, Any]]:
    """All leaves of nested dictionaries with their paths, as `'params/layer_0/ffn/ffn_in/kernel'`."""
    for key, child in tree.items():
        path = f'{prefix}/{key}' if prefix else str(key)
        if isinstance(child, Mapping):
            yield from leaves(child, path)
        else:
            yield path, child


def count(tree: Any) -> int:
    """Number of values in a tree."""
    return sum(np.size(leaf) for _, leaf in leaves(tree))


def plain_recipe(config: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe of the folded model: the same, without HRF."""
    return {**config, 'hrf': {**config['hrf'], 'expansion': 0}}


def write_checkpoint(path: Path, folded: Mapping[str, Any], trained: Trained) -> None:
    """Writes `path/STEP` in the form of a training checkpoint, less the optimizer's state."""
    import orbax.checkpoint as ocp

    args = ocp.args
    meta = {**trained.meta, 'format': checkpoint.FORMAT, 'config': plain_recipe(trained.config)}
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as writer:
        content = args.Composite(variables=args.StandardSave(folded), meta=args.JsonSave(meta))
        writer.save((path / str(trained.step)).absolute(), args=content)


def write_safetensors(path: Path, folded: Mapping[str, Any], trained: Trained) -> None:
    """Writes the leaves under their paths; the file's metadata holds config, labels, mean and std, as JSON texts."""
    from safetensors.numpy import save

    metadata = {
        'config': json.dumps(plain_recipe(trained.config)),
        'labels': json.dumps(list(trained.labels)),
        'mean': json.dumps(trained.mean.tolist()),
        'std': json.dumps(trained.std.tolist()),
        'step': str(trained.step),
    }
    # safetensors writes the memory as it lies: a transposed view would come out wrong.
    path.write_bytes(save({name: np.ascontiguousarray(leaf) for name, leaf in leaves(folded)}, metadata=metadata))
