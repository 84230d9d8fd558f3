"""Training under jit over a mesh of all devices; a run that is stopped goes on where it was, bit for bit on a CPU."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jax_reparam import evaluation, models, pipeline, report
from jax_reparam.augment import AugmentConfig, augment
from jax_reparam.checkpoint import FOLDER, Checkpoints
from jax_reparam.errors import InputError, from_user
from jax_reparam.layers import HRFConfig
from jax_reparam.optimizer import TrainConfig, adamw
from jax_reparam.progress import Progress

Batch = Mapping[str, jax.Array]
EVAL_BATCH = 64


@flax.struct.dataclass
class State:
    """What a step changes.

    Attributes:
      step: steps done, a scalar.
      variables: `params` and `batch_stats`, as the optimizer leaves them.
      average: the moving average of `variables`, which is validated, kept and folded.
      optimizer: the optimizer's state.
    """

    step: jax.Array
    variables: Any
    average: Any
    optimizer: Any


StepFn = Callable[[State, Batch], tuple[State, dict[str, jax.Array]]]


def data_mesh() -> Mesh:
    """A mesh with one axis, `data`, over all devices."""
    # nn.Dropout raises under the Explicit axes that make_mesh now makes by default.
    return jax.make_mesh((jax.device_count(),), ('data',), axis_types=(AxisType.Auto,))


def init_state(model: nn.Module, optimizer: optax.GradientTransformation, example: jax.Array, seed: int) -> State:
    """The state at step 0, from features like `example` `[B, T, M]`."""
    variables = model.init(jax.random.key(seed), example)
    average = jax.tree.map(jnp.copy, variables)
    return State(jnp.zeros((), jnp.int32), variables, average, optimizer.init(variables['params']))


def make_step(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    *,
    label_smoothing: float = 0.0,
    class_weights: np.ndarray | None = None,
    augmentation: AugmentConfig | None = None,
    average: float = 0.0,
    seed: int = 0,
) -> StepFn:
    """The training step, not yet jitted: `(state, batch) -> (state, metrics)`.

    Dropout and augmentation depend on (seed, step) alone.

    Args:
      model: maps features and mask to logits.
      optimizer: of `params`.
      label_smoothing: share of the target spread over all classes.
      class_weights: `[C]`, the weight of a clip by its class; None weighs all alike.
      augmentation: of the features; None leaves them.
      average: decay of the moving average; it is smaller in the first steps, which else would stay in it for long.
      seed: of all randomness.
    """

    def step(state: State, batch: Batch) -> tuple[State, dict[str, jax.Array]]:
        key_augment, key_dropout = jax.random.split(jax.random.fold_in(jax.random.key(seed), state.step))
        x = batch['features'] if augmentation is None else augment(key_augment, batch['features'], augmentation)

        def loss(params: Any) -> tuple[jax.Array, tuple[jax.Array, Any]]:
            logits, updated = model.apply(
                {**state.variables, 'params': params},
                x,
                batch['mask'],
                train=True,
                rngs={'dropout': key_dropout},
                mutable=['batch_stats'],
            )
            targets = optax.smooth_labels(jax.nn.one_hot(batch['labels'], logits.shape[-1]), label_smoothing)
            losses = optax.softmax_cross_entropy(logits, targets)
            if class_weights is not None:
                losses = losses * jnp.asarray(class_weights)[batch['labels']]
            return losses.mean(), (logits, updated)

        grad = jax.value_and_grad(loss, has_aux=True)
        (value, (logits, updated)), gradient = grad(state.variables['params'])
        updates, opt_state = optimizer.update(gradient, state.optimizer, state.variables['params'])
        params = optax.apply_updates(state.variables['params'], updates)
        metrics = {
            'loss': value,
            'accuracy': (logits.argmax(-1) == batch['labels']).mean(),
            'grad_norm': optax.global_norm(gradient),
        }
        variables = {**state.variables, **updated, 'params': params}
        decay = jnp.minimum(average, (1 + state.step) / (10 + state.step))
        averaged = jax.tree.map(lambda a, v: a + (1 - decay) * (v - a), state.average, variables) if average else variables
        return State(state.step + 1, variables, averaged, opt_state), metrics

    return step


class Predictor:
    """Logits of windows in batches of one size, over all devices.

    Args:
      model: maps features and mask to logits.
      batch: windows a batch; a multiple of the number of devices.
    """

    def __init__(self, model: nn.Module, *, batch: int = EVAL_BATCH) -> None:
        self._batch = -(-batch // jax.device_count()) * jax.device_count()
        self._sharding = NamedSharding(data_mesh(), P('data'))
        self._apply = jax.jit(lambda variables, x, mask: model.apply(variables, x, mask, train=False))

    def __call__(self, variables: Any, windows: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
        """Maps windows `[W, T, M]`, and `mask` `[W, T]` (None: all frames are real), to logits `[W, C]`."""
        mask = np.ones(windows.shape[:2], bool) if mask is None else mask
        logits = []
        for first in range(0, len(windows), self._batch):
            rows = np.minimum(np.arange(first, first + self._batch), len(windows) - 1)
            x, m = (jax.device_put(a[rows], self._sharding) for a in (windows, mask))
            logits.append(np.asarray(self._apply(variables, x, m)))
        return np.concatenate(logits)[: len(windows)]


def balanced_weights(labels: np.ndarray, n_classes: int) -> np.ndarray:
    """Weights `[C]` inverse to the classes' counts, 1 on average over the clips; 0 for a class without clips."""
    counts = np.bincount(labels, minlength=n_classes)
    return np.where(counts > 0, len(labels) / np.maximum(counts, 1) / (counts > 0).sum(), 0.0).astype(np.float32)


def train(config: Mapping[str, Any], workdir: Path, *, show_progress: bool = True) -> dict[str, Any]:
    """Trains what a recipe says, or goes on with it, and scores the best checkpoint on the test part.

    Args:
      config: a recipe (`jax_reparam.config`), with `data.fold` a number.
      workdir: gets config.json, metrics.jsonl, TensorBoard events, checkpoints, plots and, at the end, result.json.
      show_progress: report on standard error.

    Returns:
      What result.json holds.

    Raises:
      InputError: bad data, or a workdir that holds a run of another recipe.
    """
    with from_user():
        settings = TrainConfig(**config['train'])
        hrf = HRFConfig(**config['hrf'])
        augmentation = AugmentConfig(**config['augment'])
        models.build(config['model'], config['hrf'], n_classes=1)
    if settings.batch_size % jax.device_count():
        raise InputError(
            f'train.batch_size: expected a multiple of the {jax.device_count()} devices, got {settings.batch_size}'
        )
    report.claim(workdir, config)
    result_file = workdir / report.RESULT_FILE
    if result_file.exists():
        return json.loads(result_file.read_text())

    data = pipeline.load_data(config, show_progress=show_progress)
    labels = data.corpus.labels
    model = models.build(config['model'], config['hrf'], n_classes=len(labels))
    optimizer = adamw(settings, hrf.decay)
    step_fn = make_step(
        model,
        optimizer,
        label_smoothing=settings.label_smoothing,
        class_weights=balanced_weights(data.labels('train'), len(labels)) if settings.class_weights else None,
        augmentation=augmentation,
        average=settings.average,
        seed=config['seed'],
    )
    meta = {
        'config': config,
        'labels': list(labels),
        'mean': data.mean.tolist(),
        'std': data.std.tolist(),
        'split': data.split.info,
        'corpus': {'name': data.corpus.name, 'key': data.corpus.key, 'synthetic': data.corpus.synthetic},
        'versions': report.versions(),
    }
    mesh = data_mesh()
    by_batch, replicated = NamedSharding(mesh, P('data')), NamedSharding(mesh, P())
    example = jnp.zeros((1, data.window.frames, config['frontend']['n_mels']))
    init = functools.partial(init_state, model, optimizer, example, config['seed'])
    state = jax.jit(init, out_shardings=replicated)()
    update = jax.jit(step_fn, in_shardings=(replicated, by_batch), out_shardings=replicated, donate_argnums=0)
    predict = Predictor(model)
    validation = data.windows('validation')

    def validate(variables: Any) -> dict[str, float]:
        logits = predict(variables, validation[0])
        probabilities = evaluation.clip_probabilities(logits, validation[1])
        truth = data.labels('validation')
        scores = evaluation.metrics(truth, probabilities, labels)
        loss = -np.log(np.maximum(probabilities[np.arange(len(truth)), truth], 1e-12)).mean()
        return {'validation_uar': scores['uar'], 'validation_wa': scores['wa'], 'validation_loss': float(loss)}

    checkpoints = Checkpoints(workdir / FOLDER)
    try:
        start = checkpoints.latest() or 0
        if start:
            state = checkpoints.restore(start, state)
        batches = data.batches(
            size=settings.batch_size,
            seed=config['seed'],
            start=start,
            shard=(jax.process_index(), jax.process_count()),
        )
        log = report.Log(workdir, start)
        bar = Progress(settings.steps, workdir.name, start=start, unit='step', enabled=show_progress)
        pending: tuple[int, dict[str, jax.Array]] | None = None
        note = ''
        for step in range(start + 1, settings.steps + 1):
            batch = {
                name: jax.make_array_from_process_local_data(by_batch, value) for name, value in next(batches).items()
            }
            state, metrics = update(state, batch)
            # Read one step late, so that the devices never wait for the host.
            if pending is not None:
                log.write(pending[0], {name: float(value) for name, value in pending[1].items()})
            pending = step, metrics
            if step % settings.eval_every == 0 or step == settings.steps:
                log.write(step, {name: float(value) for name, value in metrics.items()})
                pending = None
                scores = validate(state.average)
                log.write(step, scores)
                log.flush()
                # UAR moves in steps of a clip: the loss decides between equals.
                score = scores['validation_uar'] - 1e-3 * math.tanh(scores['validation_loss'])
                checkpoints.save(step, variables=state.variables, optimizer=state.optimizer, meta=meta, score=score)
                note = f'loss {float(metrics["loss"]):.3f}, validation UAR {100 * scores["validation_uar"]:.1f}'
            bar.update(note)
        bar.close()
        log.close()
        best = checkpoints.best()
        assert best is not None
        variables = checkpoints.restore(best, state).average
    finally:
        checkpoints.close()

    windows, clip = data.windows('test')
    probabilities = evaluation.clip_probabilities(predict(variables, windows), clip)
    scores = {
        'test': evaluation.metrics(data.labels('test'), probabilities, labels),
        'validation': validate(variables),
    }
    return report.finish(
        workdir,
        meta,
        scores,
        best_step=best,
        corpus=data.corpus,
        clips=data.clips('test'),
        probabilities=probabilities,
    )


def train_folds(config: Mapping[str, Any], workdir: Path, *, show_progress: bool = True) -> dict[str, Any]:
    """Trains every fold of a recipe's protocol under `workdir/fold_K` and pools the results; goes on where it was.

    Returns:
      What workdir/result.json holds (`report.summarise`).

    Raises:
      InputError: as `train`.
    """
    report.claim(workdir, config)
    folds = []
    for fold in range(pipeline.count_folds(config, show_progress=show_progress)):
        folds.append(workdir / f'fold_{fold}')
        train({**config, 'data': {**config['data'], 'fold': str(fold)}}, folds[-1], show_progress=show_progress)
    return report.summarise(workdir, folds)
