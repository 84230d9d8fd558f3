"""What a training run leaves in its folder beside its checkpoints.

`config.json`: the recipe. `metrics.jsonl`, and the same in `tensorboard/`: a line per step, and at each validation its
scores, `seconds` (wall time of the run, all its sessions) and `steps_per_second` (training alone). At the end
`predictions.csv`, `result.json` and the pictures: learning curves, confusion, recall by speaker.
"""

from __future__ import annotations

import contextlib
import csv
import importlib.metadata
import io
import json
import math
import os
import platform
import statistics
import struct
import time
import warnings
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
PICTURES = LEARNING, CONFUSION, SPEAKERS = 'learning.png', 'confusion.png', 'speakers.png'
# The lines of a learning curve are means over this share of all steps.
SMOOTHING = 0.1
# Of more speakers than this the picture has colours alone.
MANY_SPEAKERS = 40


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

    Attributes:
      seconds: what the run took up to `start`, as far as it was logged.
    """

    def __init__(self, workdir: Path, start: int, *, enabled: bool = True) -> None:
        from tensorboardX import summary
        from tensorboardX.proto import event_pb2

        self._path = workdir / METRICS_FILE if enabled else Path(os.devnull)
        self._scalar, self._event = summary.scalar, event_pb2.Event
        self.seconds = 0.0
        if self._path.is_file():
            write(self._path, ''.join(_lines(self._path, start)))
            self.seconds = max((line.get('seconds', 0.0) for line in _read(self._path)), default=0.0)
        self._file = self._path.open('a')
        self._events = None
        if enabled:
            self._events = _events(workdir, str(start))
            with system.naming(self._path):
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


def _lines(path: Path, last: float) -> Iterator[str]:
    """The lines of metrics.jsonl up to a step; one that a kill has cut, or damage made unreadable, is left out."""
    for line in path.read_text(errors='replace').splitlines(keepends=True):
        with contextlib.suppress(ValueError, TypeError, KeyError):
            if line.endswith('\n') and json.loads(line)['step'] <= last:
                yield line


def _read(path: Path) -> list[dict[str, float]]:
    """What the whole lines of metrics.jsonl hold."""
    return [json.loads(line) for line in _lines(path, math.inf)]


def _events(workdir: Path, name: str) -> Any:
    """A writer of TensorBoard events to a new file of the run's folder, whose name ends with `name`."""
    from tensorboardX import event_file_writer

    with system.naming(folder := workdir / 'tensorboard'):
        folder.mkdir(exist_ok=True)
        return event_file_writer.EventsWriter(str(folder / 'events'), f'.{name}')


class Clock:
    """Wall time of a run, and steps a second of its training, validation and compilation left out.

    Args:
      seconds: what the run took before this process (`Log.seconds`).
    """

    def __init__(self, seconds: float) -> None:
        self._began = time.monotonic() - seconds
        self._since = 0, self._began

    def go(self, step: int) -> None:
        """Starts to count steps after this one."""
        self._since = step, time.monotonic()

    def read(self, step: int) -> dict[str, float]:
        """`seconds` of the run up to this step, and `steps_per_second` since `go`, if there were any."""
        first, since = self._since
        now = time.monotonic()
        pace = {'steps_per_second': (step - first) / (now - since)} if step > first and now > since else {}
        return {'seconds': now - self._began, **pace}


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
    lines = _read(workdir / METRICS_FILE)
    plot_learning(workdir / LEARNING, lines, step, meta['split']['metric'], len(meta['labels']))
    paces = [line['steps_per_second'] for line in lines if 'steps_per_second' in line]
    result = {
        **({key: meta[key] for key in ('held_out', 'init') if key in meta}),
        'step': step,
        'seconds': max((line.get('seconds', 0.0) for line in lines), default=0.0),
        'steps_per_second': statistics.median(paces) if paces else None,
        'labels': meta['labels'],
        'protocol': meta['split'],
        'corpus': meta['corpus'],
        'steps': meta['config']['train']['steps'],
        'seed': meta['config']['seed'],
        'versions': meta['versions'],
    }
    if probabilities is None:
        _show(workdir, result['steps'])
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
    result = {**_headline(scores['test']), **scores, **result}
    _write_result(workdir, result, scores['test'], [workdir])


def summarise(workdir: Path, folds: Sequence[Path]) -> None:
    """Writes result.json over the folds of a protocol: metrics pooled over all decisions, and mean and deviation.

    Args:
      workdir: gets result.json, confusion.png and speakers.png.
      folds: the folders of the folds, each with its result.
    """
    results = [read_result(fold) for fold in folds]
    labels = results[0]['labels']
    _, truth, probabilities = _predictions(folds, labels)
    pooled = evaluation.metrics(truth, probabilities, labels)
    values = {name: np.array([result[name] for result in results]) for name in METRICS}
    protocol = results[0]['protocol']
    summary = {
        'pooled': pooled,
        'mean': {name: float(value.mean()) for name, value in values.items()},
        'std': {name: float(value.std()) for name, value in values.items()},
        'folds': [
            {**_headline(result), **{key: result.get(key) for key in ('protocol', 'step', 'seconds')}}
            for result in results
        ],
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
    _write_result(workdir, summary, pooled, folds)


def _note(notes: Sequence[str]) -> str:
    """The notes of all folds as one: each once, and whether it is of all folds."""
    parts = [note.split('; ') for note in notes]
    every = dict.fromkeys(part for of_fold in parts for part in of_fold if part)
    return '; '.join(
        part if all(part in of_fold for of_fold in parts) else f'in some folds {part}' for part in sorted(every)
    )


def _predictions(folds: Sequence[Path], labels: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What predictions.csv of some folds hold: the speakers `[u]`, the true classes `[u]`, probabilities `[u, C]`."""
    rows: list[dict[str, str]] = []
    for fold in folds:
        with (fold / PREDICTIONS_FILE).open(newline='') as file:
            rows += csv.DictReader(file)
    probabilities = [[float(row[label]) for label in labels] for row in rows]
    truth = [labels.index(row['label']) for row in rows]
    return np.array([row['speaker'] for row in rows]), np.array(truth), np.array(probabilities)


def _write_result(workdir: Path, result: Mapping[str, Any], scores: Mapping[str, Any], folds: Sequence[Path]) -> None:
    """Draws confusion and speakers, shows all pictures in TensorBoard, and writes result.json."""
    labels, synthetic = result['labels'], result['corpus']['synthetic']
    plot_confusion(workdir / CONFUSION, scores, labels, synthetic)
    if result['protocol']['unit'] == 'clip':  # a speaker of one decision has no recall
        plot_speakers(workdir / SPEAKERS, *_predictions(folds, labels), labels, synthetic)
    _show(workdir, result['steps'])
    write(workdir / RESULT_FILE, _strict(result))


def _show(workdir: Path, step: int) -> None:
    """Shows the pictures of a folder in TensorBoard."""
    from tensorboardX.proto import event_pb2, summary_pb2

    with contextlib.closing(_events(workdir, 'pictures')) as events:
        for path in (workdir / name for name in PICTURES):
            if path.exists():
                content = path.read_bytes()
                width, height = struct.unpack('>II', content[16:24])  # of a PNG's header
                image = summary_pb2.Summary.Image(
                    width=width, height=height, colorspace=4, encoded_image_string=content
                )
                shown = summary_pb2.Summary(value=[summary_pb2.Summary.Value(tag=path.stem, image=image)])
                events.write_event(event_pb2.Event(wall_time=time.time(), step=step, summary=shown))


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


def plot_learning(path: Path, lines: Sequence[Mapping[str, float]], chosen: int, metric: str, classes: int) -> None:
    """Draws loss and score over the steps, smoothed, with the values themselves faint behind.

    Args:
      path: the PNG.
      lines: those of metrics.jsonl.
      chosen: the step of the checkpoint that was scored.
      metric: the one that chose it, one of `METRICS`.
      classes: C.
    """
    width = SMOOTHING * max((line['step'] for line in lines), default=1)
    curves = (
        ('cross-entropy (nats)', 1, 'loss', 'validation_nll', 'training, augmented', 'validation'),
        ('%', 100, 'accuracy', f'validation_{metric}', 'training accuracy', f'validation {METRICS[metric]}'),
    )
    with _figure(path, 2, (9.6, 3.6)) as axes:
        for axis, (what, unit, *names) in zip(axes, curves, strict=True):
            for name, label, color in zip(names[:2], names[2:], _COLORS, strict=True):
                points = [(line['step'], unit * line[name]) for line in lines if name in line]
                if points:
                    steps, values = np.array(points).T
                    axis.plot(steps, values, color=color, alpha=0.25, linewidth=0.8)
                    axis.plot(steps, smoothed(steps, values, width), color=color, linewidth=1.8, label=label)
            axis.axvline(chosen, color='black', linestyle='--', linewidth=1, label=f'step {chosen:,}, chosen')
            axis.set_xlabel('training step')
            axis.set_ylabel(what)
            axis.set_xlim(left=0)
            axis.spines[['top', 'right']].set_visible(False)
            axis.grid(alpha=0.3, linewidth=0.5)
        axes[0].set_ylim(bottom=0)
        axes[1].set_ylim(0, 100)
        axes[1].axhline(100 / classes, color='gray', linestyle=':', linewidth=1, label='chance')
        for axis in axes:
            axis.legend(frameon=False, fontsize=8)
        axes[0].set_title(f'Lines: means over {max(1, round(width)):,} steps', fontsize=9, loc='left')


def smoothed(steps: np.ndarray, values: np.ndarray, width: float) -> np.ndarray:
    """The mean of the values `[n]` whose steps `[n]`, ascending, lie within half a `width` of each one's."""
    first = np.searchsorted(steps, steps - width / 2, side='left')
    last = np.searchsorted(steps, steps + width / 2, side='right')
    sums = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    return np.asarray((sums[last] - sums[first]) / (last - first))


def plot_confusion(path: Path, scores: Mapping[str, Any], labels: Sequence[str], synthetic: bool) -> None:
    """Draws a confusion matrix: of each true class, a row, the per cent and number of each decision.

    Args:
      path: the PNG.
      scores: of `evaluation.metrics`; what has no decision counts in a row's 100 %, and in no column.
      labels: the C classes.
      synthetic: whether nobody speaks in the corpus.
    """
    counts = np.asarray(scores['confusion'])
    support = np.array([scores['per_class'][label]['support'] for label in labels])
    shares = counts / np.maximum(support, 1)[:, None]
    size = 2 + 0.62 * len(labels)
    with _figure(path, 1, (size + 0.4, size)) as [axis]:
        _grid(axis, shares, counts)
        axis.set_xticks(range(len(labels)), labels, rotation=45, ha='right', rotation_mode='anchor')
        axis.set_yticks(range(len(labels)), [f'{label} ({n})' for label, n in zip(labels, support, strict=True)])
        axis.set_xlabel('predicted')
        axis.set_ylabel('true (number)')
        title = [f'UAR {100 * scores["uar"]:.1f} %', 'per cent of each row, and number']
        if scores['no_speech']:
            title.append(f'{scores["no_speech"]} without a decision')
        axis.set_title('\n'.join([*title, NOTICE] if synthetic else title), fontsize=9, loc='left')


def plot_speakers(
    path: Path,
    speakers: np.ndarray,
    truth: np.ndarray,
    probabilities: np.ndarray,
    labels: Sequence[str],
    synthetic: bool,
) -> None:
    """Draws the recall of each class by speaker, best on top; the mean over a speaker's classes comes first.

    Args:
      path: the PNG.
      speakers: of each decision, `[u]`.
      truth: the true classes, `[u]`.
      probabilities: `[u, C]`; rows of zeros are no decisions, and count as wrong.
      labels: the C classes.
      synthetic: whether nobody speaks in the corpus.
    """
    right = evaluation.decisions(probabilities) == truth
    names, who = np.unique(speakers, return_inverse=True)
    hits, counts = np.zeros((2, len(names), len(labels)))
    np.add.at(hits, (who, truth), right)
    np.add.at(counts, (who, truth), 1)
    recall = hits / np.where(counts, counts, np.nan)
    table = np.column_stack([np.nanmean(recall, axis=1), recall])
    numbers = np.column_stack([counts.sum(axis=1), counts]).astype(int)
    order = np.argsort(-table[:, 0], kind='stable')
    few = len(names) <= MANY_SPEAKERS
    with _figure(path, 1, (2.6 + 0.62 * len(labels), 1.6 + (0.42 if few else 0.12) * len(names))) as [axis]:
        _grid(axis, table[order], numbers[order] if few else None)
        axis.axvline(0.5, color='white', linewidth=6)
        axis.set_aspect('auto')
        axis.set_xticks(range(len(labels) + 1), ['UAR', *labels], rotation=45, ha='right', rotation_mode='anchor')
        axis.set_yticks(range(len(names)), names[order], fontsize=None if few else 6)
        axis.set_ylabel('test speaker')
        title = 'Recall in per cent, and number of clips' if few else 'Recall: white 0, dark 100 %; grey: no clips'
        axis.set_title('\n'.join([title, NOTICE] if synthetic else [title]), fontsize=9, loc='left')


_COLORS = ('#9467bd', '#1f77b4')


def _grid(axis: Any, shares: np.ndarray, counts: np.ndarray | None) -> None:
    """Shades the cells of a table by shares (NaN: nothing there), with per cent and counts in them."""
    axis.imshow(np.ma.masked_invalid(shares), cmap='Blues', vmin=0, vmax=1)
    axis.set_facecolor('#e8e8e8')
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0)
    rows, columns = shares.shape
    axis.set_xticks(np.arange(1, columns) - 0.5, minor=True)
    axis.set_yticks(np.arange(1, rows) - 0.5, minor=True)
    axis.tick_params(which='minor', length=0)
    axis.grid(which='minor', color='white', linewidth=1.5 if counts is not None else 0.5)
    if counts is None:
        return
    for (row, column), count in np.ndenumerate(counts):
        share = shares[row, column]
        if count:
            color = 'white' if share > 0.55 else 'black'
            axis.text(column, row - 0.1, f'{100 * share:.0f}', ha='center', va='center', fontsize=10, color=color)
            axis.text(column, row + 0.25, f'{count}', ha='center', va='center', fontsize=7, color=color)


@contextlib.contextmanager
def _figure(path: Path, columns: int, size: tuple[float, float]) -> Iterator[Any]:
    """Axes side by side, to draw on; their figure is then written to `path`."""
    # Not pyplot: it keeps figures in a global list and may look for a display.
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout='constrained')
    yield figure.subplots(1, columns, squeeze=False)[0]
    picture = io.BytesIO()
    with warnings.catch_warnings():
        # The font has no Chinese names, which are drawn as boxes.
        warnings.filterwarnings('ignore', 'Glyph .* missing from font')
        figure.savefig(picture, format='png', dpi=120)
    write(path, picture.getvalue())
