"""Checkpoints by Orbax: `W/checkpoints/STEP` holds variables, training state and all that is needed to use them.

The chosen one and the last are kept. Each is written to a temporary name and renamed, and renamed before it is
deleted, so one that can be seen is whole. `meta` travels in every checkpoint: config, labels, the training speakers'
statistics, split, versions, and digests of all else that was saved: what is read is held against them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import hashlib
import json
import operator
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jax_reparam import system
from jax_reparam.config import Recipe
from jax_reparam.errors import InputError, one_line
from jax_reparam.frontend.inputs import Input
from jax_reparam.reparam import Params

FORMAT = 4
FOLDER = 'checkpoints'
# Checkpoints that are being deleted.
_REMOVED = 'removed'
# In a path TensorStore takes them for a pattern: it writes there, and then finds nothing.
_PATTERN = '[]\\'
_OTHER = 'not what was saved'


class DamagedError(InputError):
    """A checkpoint is not what was saved."""

    def __init__(self, path: Path, found: str) -> None:
        super().__init__(f'{path}: expected a whole checkpoint, found a damaged one ({found})')


@dataclasses.dataclass(frozen=True)
class Trained:
    """A trained model as it lies in a checkpoint.

    Attributes:
      variables: `{'params': ..., 'batch_stats': ...}`, NumPy arrays.
      recipe: what it was trained with.
      meta: as it is stored: `config` (the recipe), `labels` (ordered), `input` (`Input`), `split`, `corpus`,
        `versions`, `digests`.
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

    def export(self) -> dict[str, np.ndarray] | None:
        """What the checkpoint carries of the corpus for an export (`data.export_data`); None: nothing.

        Raises:
          DamagedError: it is not what was saved.
        """
        with _reading(self.path):
            return _read(self.path, 'export', self.meta) if (self.path / 'export').is_dir() else None


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

        check_path(directory)
        rank = operator.itemgetter('rank')
        self._ocp, self._directory, self._read_back = ocp, directory.absolute(), False
        self._export: Any = None
        self._handler, handlers = _linking_handler(), ocp.handlers.DefaultCheckpointHandlerRegistry()
        handlers.add('export', ocp.args.StandardSave, self._handler)
        if create:
            self._remove()
        self._manager = ocp.CheckpointManager(
            self._directory,
            handler_registry=handlers,
            options=ocp.CheckpointManagerOptions(
                create=create,
                read_only=not create,
                cleanup_tmp_directories=create,
                # A folder is renamed at once, and deleted file by file.
                todelete_subdir=_REMOVED if create else None,
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
        self,
        step: int,
        *,
        variables: Params,
        state: Any,
        meta: Mapping[str, Any],
        score: float | None,
        error: float = 0.0,
        export: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        """Writes a checkpoint, then removes those that are neither chosen nor the last.

        Args:
          step: the training step.
          variables: `params` and `batch_stats` to evaluate and to fold.
          state: all that training needs to go on, a pytree of arrays; None: it will not.
          meta: see `Trained`.
          score: on validation; the larger the better. None: there is none, and another one is chosen if it can be.
          error: standard error of the score.
          export: what an export needs of the corpus; None: it will read the corpus. The very object of the save before
            is not written again: its files get links.

        Raises:
          OSError: it cannot be written (a full disk, say); the checkpoints before it stay whole.
        """
        args = self._ocp.args
        trees = {'variables': variables, 'state': state, 'export': export}
        trees = {name: tree for name, tree in trees.items() if tree is not None}
        selection = self._selection(step, score, error)
        before = self._directory / str(self.latest()) / 'export'
        self._handler.source = before if export is self._export and before.is_dir() else None
        with _writing(self._directory / str(step)):
            items = {name: args.StandardSave(tree) for name, tree in trees.items()}
            items['meta'] = args.JsonSave(_sealed({**meta, 'selection': selection}, trees))
            self._manager.save(step, args=args.Composite(**items), metrics=selection)
        self._export = export
        if jax.process_index() == 0:
            self._remove()
        if state is not None and not self._read_back:
            self.restore(step, state)  # a file system that does not give back what was written shows now
            self._read_back = True

    def _selection(self, step: int, score: float | None, error: float) -> dict[str, float]:
        """What stays with a checkpoint: its rank (a later one has a higher), the best score so far, what is enough."""
        latest = self.latest()
        before = {} if latest is None else dict(self._manager.metrics(latest))
        if score is None:
            return {**before, 'rank': 0.0}
        if 'best' not in before or score > before['best']:
            before = {'best': score, 'enough': score - error}
        return {**before, 'rank': float(step) if score >= before['enough'] else 0.0}

    def restore(self, step: int, state: Any) -> Any:
        """The state of a checkpoint, placed and typed like `state`.

        Raises:
          DamagedError: it is not what was saved.
        """
        path = self._directory / str(step)
        with _reading(path):
            saved = dict(_named(_read(path, 'state', _meta(path))))
            placed = [_placed(saved[name], leaf) for name, leaf in _named(state)]
            return jax.tree.unflatten(jax.tree.structure(state), placed)

    def _remove(self) -> None:
        shutil.rmtree(self._directory / _REMOVED, ignore_errors=True)

    def close(self) -> None:
        """Ends the manager's threads."""
        self._manager.close()


def _linking_handler() -> Any:
    """Orbax's handler of arrays, which instead of writing them links to the files below `source`, if that is a folder.

    A checkpoint stays whole when another is moved, or deleted.
    """
    import orbax.checkpoint as ocp

    class Linking(ocp.StandardCheckpointHandler):  # type: ignore[misc]  # Orbax has no types
        source: Path | None = None

        async def async_save(self, *args: Any, **kwargs: Any) -> Any:
            return [] if self.source else await super().async_save(*args, **kwargs)

        def finalize(self, directory: Path) -> None:
            if self.source:
                # Not what Orbax writes into every folder.
                ignore = shutil.ignore_patterns('commit_success.txt')
                shutil.copytree(self.source, directory, ignore=ignore, copy_function=_link, dirs_exist_ok=True)
            else:
                super().finalize(directory)

    return Linking()


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        shutil.copyfile(source, target)


def load(path: str | Path) -> Trained:
    """Reads a trained model for evaluation or folding: the chosen one of a run, from one device or many.

    Args:
      path: a training folder `W`, its `W/checkpoints`, or one `W/checkpoints/STEP`.

    Raises:
      InputError: no checkpoint there, or one of another form.
      DamagedError: it is not what was saved.
    """
    step_dir = _step_folder(Path(path))
    with _reading(step_dir):
        meta = _meta(step_dir)
    if meta.get('format') != FORMAT:
        raise InputError(f'{step_dir}: expected checkpoint format {FORMAT}, found {meta.get("format")}')
    with _reading(step_dir):
        _check_meta(step_dir, meta)
        variables = _read(step_dir, 'variables', meta)
    try:
        recipe = Recipe.from_json(meta.get('config'))
        Input.from_json(meta.get('input'))
    except ValueError as error:
        raise InputError(f'{step_dir / "meta"}: {error}') from error
    return Trained(variables, recipe, meta, int(step_dir.name), step_dir)


def check_path(path: Path) -> None:
    """Refuses a folder in which checkpoints could be written but not read.

    Raises:
      InputError: the name of the folder, or of one above it.
    """
    if bad := sorted(set(str(path.absolute())) & set(_PATTERN)):
        raise InputError(f'{path}: expected a path without {" ".join(_PATTERN)}, found {" ".join(bad)} in it')


def _step_folder(path: Path) -> Path:
    if not path.exists():
        raise InputError(f'{path}: expected a training folder or a checkpoint, found nothing')
    check_path(path)
    if path.name.isdigit() and (path / 'meta').is_dir():
        return path.absolute()
    folder = path / FOLDER if (path / FOLDER).is_dir() else path
    if not (steps := _steps(folder)):
        raise InputError(f'{path}: expected {FOLDER}/STEP with variables and meta, found no checkpoint')
    # Not by the manager, which reads them all and does not say which of them is damaged.
    ranks = {step: _rank(folder / str(step)) for step in steps}
    return (folder / str(max(steps, key=lambda step: (ranks[step], step)))).absolute()


def _steps(folder: Path) -> list[int]:
    return sorted(int(child.name) for child in folder.iterdir() if child.name.isdigit()) if folder.is_dir() else []


def last(folder: Path) -> Path | None:
    """The last checkpoint of a run, by its folder `W/checkpoints`; None: there is none."""
    steps = _steps(folder)
    return folder / str(steps[-1]) if steps else None


def _rank(path: Path) -> float:
    """The rank of a checkpoint; one that was not chosen by training has 0."""
    with _reading(path):
        return float(_meta(path).get('selection', {}).get('rank', 0))


def damaged(folder: Path) -> dict[Path, DamagedError]:
    """What of a run's checkpoints is not what was saved.

    Returns:
      The folder of a checkpoint, or of its item `export` where that alone is damaged: training goes on without it, and
      the other checkpoint may have the same file.
    """
    found = {}
    for step in _steps(folder):
        path = folder.absolute() / str(step)
        try:
            meta = load(path).meta
            with _reading(path):
                for item in meta['digests'].keys() - {'meta', 'variables', 'export'}:
                    _read(path, item, meta)
                if _json(path / 'metrics', 'metrics') != meta['selection']:
                    raise DamagedError(path, f'metrics: {_OTHER}')
        except DamagedError as error:
            found[path] = error
            continue
        try:
            load(path).export()
        except DamagedError as error:
            found[path / 'export'] = error
    return found


def set_aside(path: Path) -> Path:
    """Gives a folder that `damaged` found a name that is none of a checkpoint or item, and returns it."""
    place = path.with_name(f'{path.name}.damaged')
    shutil.rmtree(place, ignore_errors=True)
    return path.rename(place)


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Makes one line of what Orbax and TensorStore raise: each of the many kinds means that the files are not whole."""
    failed: InputError | None = None
    # Threads of theirs say it too, in tracebacks, and so do futures that nobody asks, when they are deleted.
    _hush()
    with system.captured_stderr():
        try:
            yield
        except InputError as error:
            failed = error
        except Exception as error:
            failed = DamagedError(path, one_line(error)[:200])
        if failed:
            gc.collect()
    if failed:
        raise failed


def _hush() -> None:
    """From now on reads of TensorStore that go on when another has failed say nothing when they end."""
    if getattr(sys.unraisablehook, 'hushed', False):
        return
    others = sys.unraisablehook

    def hook(unraisable: sys.UnraisableHookArgs) -> None:
        error = unraisable.exc_value
        if not (isinstance(error, RuntimeError) and str(error) == 'Event loop is closed'):
            others(unraisable)

    hook.hushed = True  # type: ignore[attr-defined]
    sys.unraisablehook = hook


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        with system.naming(path):
            yield
    except ValueError as refused:  # TensorStore's name for what the system refused
        raise OSError(f'{path}: the checkpoint could not be written: {one_line(refused)[-160:]}') from refused


def _meta(path: Path) -> dict[str, Any]:
    return _json(path / 'meta')


def _json(path: Path, file: str | None = None) -> dict[str, Any]:
    import orbax.checkpoint as ocp

    with ocp.Checkpointer(ocp.JsonCheckpointHandler(*filter(None, [file]))) as reader:
        return dict(reader.restore(path))


def _read(path: Path, item: str, meta: Mapping[str, Any]) -> dict[str, Any]:
    """The arrays of an item, in NumPy, wherever they were saved."""
    import orbax.checkpoint as ocp

    with ocp.PyTreeCheckpointer() as reader:
        tree = reader.metadata(path / item).item_metadata.tree
        numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        found: dict[str, Any] = reader.restore(path / item, restore_args=numpy)
    _check(path, item, found, meta)
    return found


def _sealed(meta: Mapping[str, Any], trees: Mapping[str, Any]) -> dict[str, Any]:
    """`meta` with the format and with digests of the trees and of itself."""
    meta = {key: value for key, value in meta.items() if key != 'digests'} | {'format': FORMAT}
    digests = {name: digest(tree) for name, tree in trees.items()}
    return {**meta, 'digests': {**digests, 'meta': _digest_of_text({**meta, 'digests': digests})}}


def _check_meta(path: Path, meta: Mapping[str, Any]) -> None:
    digests = dict(meta['digests'])
    own = digests.pop('meta')
    if own != _digest_of_text({**meta, 'digests': digests}):
        raise DamagedError(path, f'meta: {_OTHER}')


def _check(path: Path, item: str, tree: Any, meta: Mapping[str, Any]) -> None:
    if digest(tree) != meta['digests'].get(item):
        raise DamagedError(path, f'{item}: {_OTHER}')


def _digest_of_text(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, allow_nan=False).encode()).hexdigest()


def digest(tree: Any) -> str:
    """A digest of the names, types, shapes and values of a tree's leaves; every process has all of each.

    It is the same for a tree of dataclasses and for the dictionaries that Orbax makes of it.
    """
    total = hashlib.sha256()
    for name, leaf in sorted(_named(tree), key=operator.itemgetter(0)):
        values = np.asarray(leaf)
        total.update(json.dumps([name, str(values.dtype), values.shape]).encode())
        total.update(np.ascontiguousarray(values).tobytes())
    return total.hexdigest()


def _named(tree: Any) -> list[tuple[str, Any]]:
    """The leaves of any tree in its order, each with the names that lead to it."""
    named = jax.tree_util.tree_leaves_with_path(tree)
    return [(jax.tree_util.keystr(path, simple=True, separator='/'), leaf) for path, leaf in named]


def _placed(values: np.ndarray, like: jax.Array) -> jax.Array:
    """Values on the devices, of all processes, on which `like` is."""
    if (values.shape, values.dtype) != (like.shape, like.dtype):
        raise ValueError(f'expected {like.dtype} {like.shape}, found {values.dtype} {values.shape}')
    return jax.make_array_from_callback(like.shape, like.sharding, lambda part: values[part])


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
    meta = _sealed({**trained.meta, 'config': plain_recipe(trained.meta['config'])}, {'variables': folded})
    with _writing(path), ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as writer:
        content = args.Composite(variables=args.StandardSave(folded), meta=args.JsonSave(meta))
        writer.save((path / str(trained.step)).absolute(), args=content)


def read_safetensors(path: Path) -> Params:
    """Reads the tree that `write_safetensors` wrote, NumPy arrays.

    Raises:
      InputError: no such file, or a damaged one.
    """
    from safetensors.numpy import load_file

    try:
        tree: Params = unflatten_dict(load_file(path), sep='/')
    except Exception as error:  # the library's own, and those of the system
        raise InputError(f'{path}: expected a model, found: {one_line(error)[:200]}') from error
    return tree


def write_safetensors(path: Path, folded: Params, trained: Trained) -> None:
    """Writes the leaves under their paths; the file's metadata holds config, labels and input, as JSON texts."""
    from safetensors.numpy import save

    metadata = {
        'config': json.dumps(plain_recipe(trained.recipe.without_places().as_json())),
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
