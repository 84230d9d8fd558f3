"""Checkpoints by Orbax: `W/checkpoints/STEP` holds variables, training state and all that is needed to use them.

The chosen one and the last are kept. Each is written to a temporary name and renamed, so one that can be seen
is whole. `meta` travels in every checkpoint: config, labels, the training speakers' statistics, split, versions.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import operator
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from jax_reparam.config import Recipe
from jax_reparam.errors import InputError, one_line
from jax_reparam.frontend.inputs import Input
from jax_reparam.reparam import Params

FORMAT = 2
FOLDER = 'checkpoints'


@dataclasses.dataclass(frozen=True)
class Trained:
    """A trained model as it lies in a checkpoint.

    Attributes:
      variables: `{'params': ..., 'batch_stats': ...}`, NumPy arrays.
      recipe: what it was trained with.
      meta: as it is stored: `config` (the recipe), `labels` (ordered), `input` (`Input`), `split`, `corpus`,
        `versions`.
      step: the training step.
      path: the folder it was read from.
    """

    variables: dict[str, Any]
    recipe: Recipe
    meta: dict[str, Any]
    step: int
    path: Path

    @property
    def labels(self) -> tuple[str, ...]:
        """The class names, in the order of the logits."""
        return tuple(self.meta['labels'])

    @property
    def inputs(self) -> Input:
        """How audio becomes the model's input, with the statistics of the training speakers."""
        return Input.from_json(self.meta['input'])


class Checkpoints:
    """The checkpoints of one training run: the chosen one and the last.

    Chosen is the latest whose validation score is within one standard error of the best (the one-standard-error rule,
    Breiman et al. 1984, section 3.4.3). Validation has few speakers, and the best of many looks at them is the best by
    chance.

    Args:
      directory: `W/checkpoints`.
      create: make the folder.
    """

    def __init__(self, directory: Path, *, create: bool = True) -> None:
        import orbax.checkpoint as ocp
        from orbax.checkpoint.checkpoint_managers import preservation_policy as keep

        rank = operator.itemgetter('rank')
        self._ocp = ocp
        self._manager = ocp.CheckpointManager(
            directory.absolute(),
            item_names=('variables', 'state', 'meta'),
            options=ocp.CheckpointManagerOptions(
                create=create,
                read_only=not create,
                cleanup_tmp_directories=create,
                enable_async_checkpointing=False,
                best_fn=rank,
                preservation_policy=keep.AnyPreservationPolicy([keep.LatestN(1), keep.BestN(get_metric_fn=rank, n=1)]),
            ),
        )

    def latest(self) -> int | None:
        """The step of the last checkpoint, None where there is none."""
        step: int | None = self._manager.latest_step()
        return step

    def chosen(self) -> int | None:
        """The step of the chosen checkpoint, None where there is none."""
        step: int | None = self._manager.best_step()
        return step

    def save(
        self, step: int, *, variables: Params, state: Any, meta: Mapping[str, Any], score: float, error: float
    ) -> None:
        """Writes a checkpoint, then removes those that are neither chosen nor the last.

        Args:
          step: the training step.
          variables: `params` and `batch_stats` to evaluate and to fold.
          state: all that training needs to go on, a pytree of arrays; None: it will not.
          meta: see `Trained`.
          score: on validation; the larger the better.
          error: standard error of the score.

        Raises:
          OSError: it cannot be written (a full disk, say); the checkpoints before it stay whole.
        """
        args = self._ocp.args
        items = {'variables': args.StandardSave(variables), 'meta': args.JsonSave({'format': FORMAT, **meta})}
        if state is not None:
            items['state'] = args.StandardSave(state)
        try:
            self._manager.save(step, args=args.Composite(**items), metrics=self._rank(step, score, error))
        except ValueError as refused:  # TensorStore's name for what the system refused
            where, reason = self._manager.directory, one_line(refused)[-160:]
            raise OSError(f'{where}: checkpoint {step} could not be written: {reason}') from refused

    def _rank(self, step: int, score: float, error: float) -> dict[str, float]:
        """What stays with a checkpoint: its rank (a later one has a higher), the best score so far, what is enough."""
        best = enough = -math.inf
        if (latest := self.latest()) is not None:
            before = self._manager.metrics(latest)
            best, enough = before['best'], before['enough']
        if score > best:
            best, enough = score, score - error
        return {'rank': float(step) if score >= enough else 0.0, 'best': best, 'enough': enough}

    def restore(self, step: int, state: Any) -> Any:
        """The state of a checkpoint, placed and typed like `state`."""
        args = self._ocp.args
        return self._manager.restore(step, args=args.Composite(state=args.StandardRestore(state)))['state']

    def close(self) -> None:
        """Ends the manager's threads."""
        self._manager.close()


def load(path: str | Path) -> Trained:
    """Reads a trained model for evaluation or folding: the chosen one of a run, from one device or many.

    Args:
      path: a training folder `W`, its `W/checkpoints`, or one `W/checkpoints/STEP`.

    Raises:
      InputError: no checkpoint there, or one that is damaged or of another form.
    """
    step_dir = _step_folder(Path(path))
    import orbax.checkpoint as ocp

    try:
        with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as reader:
            meta = reader.restore(step_dir / 'meta')
        with ocp.PyTreeCheckpointer() as reader:
            tree = reader.metadata(step_dir / 'variables').item_metadata.tree
            numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
            variables = reader.restore(step_dir / 'variables', restore_args=numpy)
    except Exception as error:  # Orbax and TensorStore raise many kinds; each means that the files are not whole.
        raise InputError(f'{step_dir}: expected a whole checkpoint, found a damaged one ({error})') from error
    if meta.get('format') != FORMAT:
        raise InputError(f'{step_dir}: expected checkpoint format {FORMAT}, found {meta.get("format")}')
    try:
        recipe = Recipe.from_json(meta.get('config'))
        Input.from_json(meta.get('input'))
    except ValueError as error:
        raise InputError(f'{step_dir / "meta"}: {error}') from error
    return Trained(variables, recipe, meta, int(step_dir.name), step_dir)


def _step_folder(path: Path) -> Path:
    if not path.exists():
        raise InputError(f'{path}: expected a training folder or a checkpoint, found nothing')
    if (path / 'variables').is_dir():
        return path.absolute()
    folder = path / FOLDER if (path / FOLDER).is_dir() else path
    steps = [child for child in folder.iterdir() if child.name.isdigit()] if folder.is_dir() else []
    if not steps:
        raise InputError(f'{path}: expected {FOLDER}/STEP with variables and meta, found no checkpoint')
    with contextlib.closing(Checkpoints(folder, create=False)) as checkpoints:
        chosen = checkpoints.chosen()
    return (folder / str(chosen if chosen is not None else max(int(step.name) for step in steps))).absolute()


def leaves(tree: Params) -> Iterable[tuple[str, Any]]:
    """All leaves of nested dictionaries with their paths, as `'params/layer_0/ffn/ffn_in/kernel'`."""
    flat: dict[str, Any] = flatten_dict(tree, sep='/')
    return flat.items()


def count(tree: Params) -> int:
    """Number of values in a tree."""
    return sum(np.size(leaf) for leaf in jax.tree.leaves(tree))


def plain_recipe(config: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe of the folded model: the same, without HRF."""
    return {**config, 'hrf': {**config['hrf'], 'expansion': 0}}


def write_checkpoint(path: Path, folded: Params, trained: Trained) -> None:
    """Writes `path/STEP` in the form of a training checkpoint, less the optimizer's state."""
    import orbax.checkpoint as ocp

    args = ocp.args
    meta = {**trained.meta, 'format': FORMAT, 'config': plain_recipe(trained.meta['config'])}
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as writer:
        content = args.Composite(variables=args.StandardSave(folded), meta=args.JsonSave(meta))
        writer.save((path / str(trained.step)).absolute(), args=content)


def write_safetensors(path: Path, folded: Params, trained: Trained) -> None:
    """Writes the leaves under their paths; the file's metadata holds config, labels and input, as JSON texts."""
    from safetensors.numpy import save

    metadata = {
        'config': json.dumps(plain_recipe(trained.meta['config'])),
        'labels': json.dumps(list(trained.labels)),
        'input': json.dumps(trained.meta['input']),
        'step': str(trained.step),
    }
    # safetensors writes the memory as it lies: a transposed view would come out wrong.
    content = save({name: np.ascontiguousarray(leaf) for name, leaf in leaves(folded)}, metadata=metadata)
    # The library orders its header by chance. The same model is to give the same bytes.
    size = int.from_bytes(content[:8], 'little')
    header = json.dumps(json.loads(content[8 : 8 + size]), sort_keys=True, separators=(',', ':')).encode()
    header += b' ' * (-len(header) % 8)
    path.write_bytes(len(header).to_bytes(8, 'little') + header + content[8 + size :])
