"""What a training run leaves in its folder: config, logs, result and plots."""

from __future__ import annotations

import contextlib
import csv
import importlib.metadata
import io
import json
import os
import platform
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from flax.traverse_util import flatten_dict

from jax_reparam import checkpoint, evaluation, schema, system
from jax_reparam.config import ALL, Recipe
from jax_reparam.corpora.synth import NOTICE
from jax_reparam.errors import InputError, one_line

if TYPE_CHECKING:
    from jax_reparam.data.pipeline import Data

# As the field writes them.
METRICS = {'uar': 'UAR', 'wa': 'WA', 'wf1': 'WF1', 'macro_f1': 'macro-F1'}
PACKAGES = ('jax_reparam', 'jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy', 'librosa')
# Keys of a recipe that a run may go on with in another place, and the one that may grow.
MOVABLE, STEPS = frozenset({'data.source', 'data.cache'}), 'train.steps'
RUN_FILE, METRICS_FILE, RESULT_FILE, PREDICTIONS_FILE = 'config.json', 'metrics.jsonl', 'result.json', 'predictions.csv'


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on."""
    numbers = {'python': platform.python_version()}
    for name in PACKAGES:
        try:
            numbers[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            numbers[name] = 'not installed'
    return numbers


def write(path: Path, content: str | bytes) -> None:
    """Writes a file under a temporary name, then renames it: what can be seen is whole.

    Who writes holds the workdir (`held`), so the name needs to be no other's.
    """
    temporary = _temporary(path)
    try:
        with system.naming(path):
            temporary.write_bytes(content.encode() if isinstance(content, str) else content)
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _temporary(path: Path) -> Path:
    return path.with_name(f'{path.name}.tmp')


@contextlib.contextmanager
def held(workdir: Path) -> Iterator[None]:
    """Makes a workdir and keeps other runs out of it; one that stays empty goes again.

    Raises:
      InputError: another run has it.
      OSError: it cannot be written.
    """
    try:
        with system.alone(workdir, wait=False):
            yield
    except system.HeldError as holder:
        raise InputError(f'{workdir}: expected a workdir that no other run writes, found {holder} at it') from holder
    finally:
        with contextlib.suppress(OSError):  # not empty
            workdir.rmdir()


def check(workdir: Path, recipe: Recipe) -> Recipe | None:
    """Checks that a recipe may be trained in a workdir; nothing is written.

    Where data and caches lie may be another place than before (the checkpoint's corpus key says whether it is the same
    corpus), and `train.steps` may be more.

    Returns:
      What was trained in it before; None: nothing.

    Raises:
      InputError: it holds a run of another recipe, or something that is no run.
    """
    checkpoint.check_path(workdir)
    path = workdir / RUN_FILE
    way_out = 'delete the folder or choose another --workdir'
    if not path.exists():
        ours = {system.LOCK, _temporary(path).name, 'fold_0'}  # of a run that was killed while it began
        if workdir.exists() and (not workdir.is_dir() or {child.name for child in workdir.iterdir()} - ours):
            raise InputError(f'{workdir}: expected a new folder or a training run, found something else; {way_out}')
        return None
    try:
        earlier = Recipe.from_json(json.loads(path.read_text()))
    except ValueError as error:
        raise InputError(f'{path}: expected a recipe in JSON, found {error}; {way_out}') from error
    expected, found = (flatten_dict(told.as_json(), sep='.') for told in (recipe, earlier))
    for key in sorted(expected.keys() | found.keys()):
        new, old = expected.get(key), found.get(key)
        if new != old and key not in MOVABLE and not (key == STEPS and new > old):
            raise InputError(
                f'{workdir}: expected a run of this recipe, found one with other values: '
                f'{key} (expected {new!r}, found {old!r}); {way_out}'
            )
    return earlier


def claim(workdir: Path, recipe: Recipe) -> None:
    """Makes `workdir`, which the caller holds, the folder of this recipe.

    Raises:
      InputError: see `check`.
    """
    if check(workdir, recipe) != recipe:
        write(workdir / RUN_FILE, _strict(recipe.as_json()))


def _strict(content: Any) -> str:
    """JSON as its standard has it, without NaN or Infinity."""
    return json.dumps(content, indent=2, allow_nan=False) + '\n'


def finished(workdir: Path, recipe: Recipe) -> dict[str, Any] | None:
    """The result of a run that has all steps of its recipe; None: it has not."""
    if not (workdir / RESULT_FILE).exists():
        return None
    result = read_result(workdir)
    return result if result.get('steps') == recipe.train.steps else None


class Log:
    """metrics.jsonl (one line a step) and TensorBoard events.

    The events are written one by one: tensorboardX's own writer keeps some in a queue, which a kill would lose.

    Args:
      workdir: the run's folder.
      start: the step the run goes on from; what was logged behind it is dropped.
      enabled: False writes nothing.
    """

    def __init__(self, workdir: Path, start: int, *, enabled: bool = True) -> None:
        from tensorboardX import event_file_writer, summary
        from tensorboardX.proto import event_pb2

        self._path = workdir / METRICS_FILE if enabled else Path(os.devnull)
        self._scalar, self._event = summary.scalar, event_pb2.Event
        if self._path.is_file():
            write(self._path, ''.join(_lines(self._path, start)))
        self._file = self._path.open('a')
        self._events = None
        if enabled:
            with system.naming(folder := workdir / 'tensorboard'):
                folder.mkdir(exist_ok=True)
                self._events = event_file_writer.EventsWriter(str(folder / 'events'), f'.{start}')
                begins = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
                self._events.write_event(event_pb2.Event(wall_time=time.time(), step=start + 1, session_log=begins))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Logs the values of a step, which are finite."""
        with system.naming(self._path):
            self._file.write(json.dumps({'step': step, **values}, allow_nan=False) + '\n')
            if self._events is not None:
                for name, value in values.items():
                    shown = self._scalar(name, value)
                    self._events.write_event(self._event(wall_time=time.time(), step=step, summary=shown))

    def flush(self) -> None:
        """Puts on disk what was logged."""
        with system.naming(self._path):
            self._file.flush()
            if self._events is not None:
                self._events.flush()

    def close(self) -> None:
        """Ends the log."""
        with system.naming(self._path):
            self._file.close()
            if self._events is not None:
                self._events.close()


def _lines(path: Path, last: int) -> Iterator[str]:
    """The lines of metrics.jsonl up to a step; one that a kill has cut, or damage made unreadable, is left out."""
    for line in path.read_text(errors='replace').splitlines(keepends=True):
        with contextlib.suppress(ValueError, TypeError, KeyError):
            if line.endswith('\n') and json.loads(line)['step'] <= last:
                yield line


def finish(
    workdir: Path,
    meta: Mapping[str, Any],
    scores: Mapping[str, Any],
    *,
    step: int,
    data: Data,
    probabilities: np.ndarray | None,
) -> None:
    """Writes predictions.csv, the plots and, last, result.json; where no clip tests, the curves and result.json.

    Args:
      workdir: the run's folder.
      meta: as in the checkpoint.
      scores: `test` and `validation` metrics (`evaluation.metrics`); none where no clip tests.
      step: that of the checkpoint that was scored.
      data: what was tested on.
      probabilities: of what the protocol decides, clips or speakers, in the order of `data.units('test')`, `[u, C]`;
        None where no clip tests.
    """
    result = {
        **({key: meta[key] for key in ('held_out', 'init') if key in meta}),
        'step': step,
        'labels': meta['labels'],
        'protocol': meta['split'],
        'corpus': meta['corpus'],
        'steps': meta['config']['train']['steps'],
        'seed': meta['config']['seed'],
        'versions': meta['versions'],
    }
    if probabilities is None:
        _plot_learning(workdir)
        write(workdir / RESULT_FILE, _strict(result))
        return
    table = io.StringIO()
    writer = csv.writer(table, lineterminator='\n')
    writer.writerow(['id', 'speaker', 'label', *meta['labels']])
    names, unit = data.units('test')
    first = data.clips('test')[np.unique(unit, return_index=True)[1]]
    for name, clip, row in zip(names, first, probabilities, strict=True):
        label = meta['labels'][data.corpus.label[clip]]
        writer.writerow([name, data.corpus.speaker[clip], label, *(f'{p:.6f}' for p in row)])
    write(workdir / PREDICTIONS_FILE, table.getvalue())
    _plot_learning(workdir)
    result = {**_headline(scores['test']), **scores, **result}
    _write_result(workdir, result, scores['test']['confusion'])


def summarise(workdir: Path, folds: Sequence[Path]) -> None:
    """Writes result.json over the folds of a protocol: metrics pooled over all decisions, and mean and deviation.

    Args:
      workdir: gets result.json and confusion.png.
      folds: the folders of the folds, each with its result.
    """
    results = [read_result(fold) for fold in folds]
    labels = results[0]['labels']
    truth, probabilities = [], []
    for fold in folds:
        with (fold / PREDICTIONS_FILE).open(newline='') as file:
            for row in csv.DictReader(file):
                truth.append(labels.index(row['label']))
                probabilities.append([float(row[label]) for label in labels])
    pooled = evaluation.metrics(np.array(truth), np.array(probabilities), labels)
    values = {name: np.array([result[name] for result in results]) for name in METRICS}
    protocol = results[0]['protocol']
    summary = {
        'pooled': pooled,
        'mean': {name: float(value.mean()) for name, value in values.items()},
        'std': {name: float(value.std()) for name, value in values.items()},
        'folds': [{**_headline(result), 'protocol': result['protocol'], 'step': result['step']} for result in results],
        'labels': labels,
        'protocol': {
            **{key: protocol[key] for key in ('name', 'unit', 'join', 'turns', 'metric')},
            'folds': len(folds),
            'note': _note([result['protocol']['note'] for result in results]),
        },
        'corpus': results[0]['corpus'],
        'steps': results[0]['steps'],
        'seed': results[0]['seed'],
        'versions': results[0]['versions'],
    }
    _write_result(workdir, summary, pooled['confusion'])


def _note(notes: Sequence[str]) -> str:
    """The notes of all folds as one: each once, and whether it is of all folds."""
    parts = [note.split('; ') for note in notes]
    every = dict.fromkeys(part for of_fold in parts for part in of_fold if part)
    return '; '.join(
        part if all(part in of_fold for of_fold in parts) else f'in some folds {part}' for part in sorted(every)
    )


def _write_result(workdir: Path, result: Mapping[str, Any], confusion: Sequence[Sequence[int]]) -> None:
    plot_confusion(workdir / 'confusion.png', confusion, result['labels'], result['corpus']['synthetic'])
    write(workdir / RESULT_FILE, _strict(result))


def read_result(workdir: Path) -> dict[str, Any]:
    """What a finished run's result.json holds.

    Raises:
      InputError: it is not what a run has written.
    """
    path = workdir / RESULT_FILE
    try:
        result = json.loads(path.read_text())
        schema.expect(isinstance(result, dict), 'it', 'an object', result)
        return dict(result)
    except ValueError as error:
        raise InputError(
            f'{path}: expected a result in JSON, found {one_line(error)}; delete it, and the same command makes it anew'
        ) from error


def headline(result: Mapping[str, Any]) -> str:
    """One line that says how a run (or a protocol) went, the protocol's own metric first, and what number it is."""
    protocol = result['protocol']
    if protocol['name'] == ALL:
        return '; '.join([protocol['note'], *_elsewhere(result.get('held_out')), f'step {result["step"]}'])
    names = sorted(METRICS, key=lambda name: name != protocol['metric'])
    count = len(result.get('folds', ()))
    if count > 1:
        parts = []
        for name in names:
            pooled, mean, std = (100 * result[key][name] for key in ('pooled', 'mean', 'std'))
            over = f', over {count} folds' if name == protocol['metric'] else ','
            parts.append(f'{METRICS[name]} pooled {pooled:.1f}{over} {mean:.1f} +- {std:.1f}')
        text = '; '.join(parts)
        scores = result['pooled']
    else:
        scores = result['pooled'] if count else result['test']
        text = 'test ' + ', '.join(f'{METRICS[name]} {100 * scores[name]:.1f}' for name in names)
    units = 'clips'
    if protocol['unit'] == 'speaker':
        units = f'speakers by {protocol["join"]} of at most {protocol["turns"]} clips each'
    notes = [protocol['note']] if protocol['note'] else []
    if result['corpus']['synthetic']:
        notes.append(NOTICE)
    return '; '.join([f'{text}{"; " if count > 1 else ", "}{scores["clips"]} {units}', *notes])


def _elsewhere(held_out: Mapping[str, Any] | None) -> list[str]:
    """What runs of the recipe with held-out speakers scored, if there are some."""
    if not held_out:
        return []
    uar, folds = 100 * held_out['scores']['uar'], held_out['folds']
    return [f'the same recipe, {held_out["protocol"]}: UAR pooled {uar:.1f} over {folds} folds']


def _headline(scores: Mapping[str, Any]) -> dict[str, float]:
    return {name: scores[name] for name in METRICS}


def _plot_learning(workdir: Path) -> None:
    lines = [json.loads(line) for line in _lines(workdir / METRICS_FILE, sys.maxsize)]
    with _figure(workdir / 'learning.png', 2, (9, 3.2)) as axes:
        for axis, names in zip(axes, (('loss', 'validation_nll'), ('accuracy', 'validation_uar')), strict=True):
            for name in names:
                points = [(line['step'], line[name]) for line in lines if name in line]
                if points:
                    axis.plot(*zip(*points, strict=True), label=name.replace('_', ' '), linewidth=1)
            axis.set_xlabel('step')
            axis.legend(frameon=False)


def plot_confusion(path: Path, confusion: Sequence[Sequence[int]], labels: Sequence[str], synthetic: bool) -> None:
    """Draws a confusion matrix, rows true classes, shaded by recall, with counts."""
    counts = np.asarray(confusion)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = 1.8 + 0.6 * len(labels)
    with _figure(path, 1, (size, size)) as [axis]:
        axis.imshow(shares, cmap='Blues', vmin=0, vmax=1)
        for (row, column), count in np.ndenumerate(counts):
            color = 'white' if shares[row, column] > 0.5 else 'black'
            axis.text(column, row, str(count), ha='center', va='center', fontsize=8, color=color)
        axis.set_xticks(range(len(labels)), labels, rotation=45, ha='right')
        axis.set_yticks(range(len(labels)), labels)
        axis.set_xlabel('predicted')
        axis.set_ylabel('true')
        if synthetic:
            axis.set_title(NOTICE, fontsize=8)


@contextlib.contextmanager
def _figure(path: Path, columns: int, size: tuple[float, float]) -> Iterator[Any]:
    """Axes side by side, to draw on; their figure is then written to `path`."""
    # Not pyplot: it keeps figures in a global list and may look for a display.
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout='constrained')
    yield figure.subplots(1, columns, squeeze=False)[0]
    picture = io.BytesIO()
    figure.savefig(picture, format='png', dpi=120)
    write(path, picture.getvalue())
