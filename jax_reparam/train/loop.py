"""Training under jit over a mesh of all devices; a run that is stopped goes on where it was, bit for bit on a CPU.

The devices may belong to several processes, each of which runs this program and reads its share of every batch.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jax_reparam import checkpoint, evaluation, models, schema
from jax_reparam.checkpoint import FOLDER, Checkpoints
from jax_reparam.config import AugmentConfig, Recipe, load_recipe
from jax_reparam.data import export_data, pipeline
from jax_reparam.errors import Error, InputError, deferred, from_user
from jax_reparam.frontend import speech
from jax_reparam.frontend.inputs import Input
from jax_reparam.frontend.voice import Profile
from jax_reparam.manifest import HeldOut, Init
from jax_reparam.progress import Progress
from jax_reparam.reparam import Params
from jax_reparam.train import heldout, processes, report, sites, teacher, warm_start
from jax_reparam.train.augment import field, mixup, spec_augment
from jax_reparam.train.optimizer import adamw
from jax_reparam.train.warm_start import WarmStart

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
    variables: Params
    average: Params
    optimizer: optax.OptState


StepFn = Callable[[State, Batch], tuple[State, dict[str, jax.Array]]]


def shardings() -> tuple[NamedSharding, NamedSharding]:
    """Over all devices: of arrays whose first axis is split, and of those that each device holds whole."""
    # nn.Dropout raises under the Explicit axes that make_mesh now makes by default.
    mesh = jax.make_mesh((jax.device_count(),), ('data',), axis_types=(AxisType.Auto,))
    return NamedSharding(mesh, P('data')), NamedSharding(mesh, P())


def init_state(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    example: jax.Array,
    seed: int | jax.Array,
    begin: WarmStart | None = None,
) -> State:
    """The state at step 0, from features like `example` `[B, T, M]`; with `begin`, that model's variables."""
    key = jax.random.key(seed)
    variables = model.init(key, example)
    if begin is not None:
        variables = begin(variables, jax.random.fold_in(key, 1))
    average = jax.tree.map(jnp.copy, variables)
    return State(jnp.zeros((), jnp.int32), variables, average, optimizer.init(variables['params']))


def make_step(
    recipe: Recipe,
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    class_weights: np.ndarray | jax.Array | None,
    seed: int | jax.Array,
    inputs: Input,
    teach: teacher.Teacher | None = None,
) -> StepFn:
    """The training step of a recipe, not yet jitted: `(state, batch) -> (state, metrics)`.

    Dropout and augmentation depend on (seed, step) alone.

    Args:
      recipe: its `train`, `augment` and `voice` are what the step is told.
      model: maps features and mask to logits.
      optimizer: of `params`.
      class_weights: `[C]`, the weight of a clip by its class; None weighs all alike.
      seed: of all randomness.
      inputs: of the model; its `mean`, `std` and `voice_mean` may be traced.
      teach: what `teacher.load` gives for the recipe; its variables may be traced.

    Raises:
      ValueError: the recipe has a teacher, and none is given.
    """
    settings = recipe.train
    if settings.teacher and teach is None:
        raise ValueError(f'teach: expected the teacher that the recipe names, {",".join(settings.teacher)}, got none')
    logged = sites.of(recipe) if settings.log_site_norms else []

    def step(state: State, batch: Batch) -> tuple[State, dict[str, jax.Array]]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        key_augment, key_dropout = jax.random.split(key)
        x = varied(key_augment, batch, recipe.augment, inputs)
        mask = jnp.ones(x.shape[:2], bool)
        targets = optax.smooth_labels(jax.nn.one_hot(batch['labels'], model.n_classes), settings.label_smoothing)
        if class_weights is not None:
            targets = targets * jnp.asarray(class_weights)[batch['labels']][:, None]
        if recipe.augment.mixup:
            # The third of three keys.
            x, targets = mixup(jax.random.fold_in(key, 2), (x, targets), recipe.augment.mixup)
        if teach is not None:
            # Each row adds up to the weight of its clip.
            targets = teach(x) * targets.sum(axis=-1, keepdims=True)

        def loss(params: Params) -> tuple[jax.Array, tuple[jax.Array, Params]]:
            logits, updated = model.apply(
                {**state.variables, 'params': params},
                x,
                mask,
                train=True,
                rngs={'dropout': key_dropout},
                mutable=['batch_stats'],
            )
            return optax.softmax_cross_entropy(logits, targets).mean(), (logits, updated)

        grad = jax.value_and_grad(loss, has_aux=True)
        (value, (logits, updated)), gradient = grad(state.variables['params'])
        updates, opt_state = optimizer.update(gradient, state.optimizer, state.variables['params'])
        params = optax.apply_updates(state.variables['params'], updates)
        metrics = {
            'loss': value,
            'accuracy': (logits.argmax(-1) == batch['labels']).mean(),
            'grad_norm': optax.tree.norm(gradient),
        }
        norms = sites.norms(updates, state.variables['params'], logged)
        metrics |= {f'{sites.NORM}{site}': norm for site, norm in norms.items()}
        variables = {**state.variables, **updated, 'params': params}
        averaged = variables
        if settings.average:
            # Less in the first steps, which else would stay in it for long.
            decay = jnp.minimum(settings.average, (1 + state.step) / (4 + state.step))
            averaged = jax.tree.map(lambda a, v: a + (1 - decay) * (v - a), state.average, variables)
        return State(state.step + 1, variables, averaged, opt_state), metrics

    return step


def varied(key: jax.Array, batch: Batch, config: AugmentConfig, inputs: Input) -> jax.Array:
    """A batch (`pipeline.Data.batches`), augmented, as a model is given it: `[B, T, M]` float32, standardised."""
    key_field, key_mask = jax.random.split(key)
    codes, frames, colour = field(key_field, batch['codes'], batch['frames'], config, inputs.frontend)
    rule = inputs.rule
    x, _ = jax.vmap(lambda codes, frames: speech.normalise(codes, frames, rule, jnp))(codes, frames)
    # The microphone that was drawn has recorded what is known of the voice, too.
    colour = colour - colour[:, slice(*rule.level_bands)].mean(axis=1, keepdims=True)
    share = jax.vmap(lambda frames: inputs.share(frames, jnp))(batch['voice_frames'])
    voice = jnp.maximum(batch['voice'] + colour, -rule.clamp)  # no frame of it could be lower
    x = x - (share[:, None] * (voice - inputs.voice_mean[None]))[:, None]
    return spec_augment(key_mask, (x - inputs.mean[None, None]) / inputs.std[None, None], config)


class Predictor:
    """Logits of windows in batches of one size, over all devices.

    Args:
      model: maps features and mask to logits.
      batch: windows a batch; raised to a multiple of the number of devices.
    """

    def __init__(self, model: nn.Module, *, batch: int = EVAL_BATCH) -> None:
        self.batch = -(-batch // jax.device_count()) * jax.device_count()
        self._sharding, everywhere = shardings()

        def apply(variables: Params, x: jax.Array, mask: jax.Array) -> Any:
            # By default GPUs and TPUs multiply in fewer bits, and would score another model than the folded one.
            with jax.default_matmul_precision('float32'):
                return model.apply(variables, x, mask, train=False)

        # Every process reads all logits, whoever computed them.
        self._apply = jax.jit(apply, out_shardings=everywhere)

    def __call__(self, variables: Params, windows: np.ndarray) -> np.ndarray:
        """Maps windows `[W, T, M]`, all of whose frames are real, to logits `[W, C]`."""
        mask = self._place(np.ones((self.batch, windows.shape[1]), bool))
        logits = []
        for first in range(0, len(windows), self.batch):
            rows = np.minimum(np.arange(first, first + self.batch), len(windows) - 1)
            logits.append(np.asarray(self._apply(variables, self._place(windows[rows]), mask)))
        return np.concatenate(logits)[: len(windows)]

    def _place(self, batch: np.ndarray) -> jax.Array:
        return jax.make_array_from_callback(batch.shape, self._sharding, lambda rows: batch[rows])


def balanced_weights(labels: np.ndarray, n_classes: int) -> np.ndarray:
    """Weights `[C]` inverse to the classes' counts, 1 on average over the clips; 0 for a class without clips."""
    counts = np.bincount(labels, minlength=n_classes)
    return np.where(counts > 0, len(labels) / np.maximum(counts, 1) / (counts > 0).sum(), 0.0).astype(np.float32)


def describe(
    recipe: Recipe, data: pipeline.Data, *, held_out: HeldOut | None = None, init: Init | None = None
) -> dict[str, Any]:
    """What travels in every checkpoint of a run (`checkpoint.Trained.meta`).

    Args:
      recipe: of the run.
      data: its data, with the statistics that the model is given.
      held_out: see `heldout.read`.
      init: see `warm_start.read`.
    """
    return {
        'config': recipe.as_json(),
        'labels': list(data.corpus.labels),
        'input': data.inputs.as_json(),
        'split': data.split.info,
        'corpus': {'name': data.corpus.name, 'key': data.corpus.key, 'synthetic': data.corpus.synthetic},
        'versions': report.versions(),
        **({'held_out': schema.to_json(held_out)} if held_out else {}),
        **({'init': schema.to_json(init)} if init else {}),
    }


def train(recipe: Recipe, workdir: Path, *, show_progress: bool = True) -> dict[str, Any]:
    """Trains what a recipe says, or goes on with it, and scores the chosen checkpoint on the test part.

    Args:
      recipe: with `data.fold` a number.
      workdir: gets config.json, metrics.jsonl, TensorBoard events, checkpoints, plots and, at the end, result.json,
        whose content is returned.
      show_progress: report on standard error.

    Raises:
      InputError: bad data, or a workdir that holds a run of another recipe.
    """
    size, devices = recipe.train.batch_size, jax.device_count()
    if size % devices:
        raise InputError(f'train.batch_size: expected a multiple of the {devices} devices, found {size}')
    report.check(workdir, recipe)
    if (result := report.finished(workdir, recipe)) is not None:
        return result
    show_progress = show_progress and processes.first()
    with _held(workdir):
        data = pipeline.load_data(recipe, show_progress=show_progress)
        if show_progress and (note := data.split.info['note']):
            print(f'{workdir}: {note}', file=sys.stderr)
        held_out = heldout.read(recipe, data.corpus.key) if recipe.train.step_from else None
        begins = recipe.train.init and checkpoint.last(workdir / FOLDER) is None
        begin = warm_start.read(recipe, data) if begins else None
        optimizer, teach = adamw(recipe), teacher.load(recipe, data)
        # The recipe's words are right: now, not before, the workdir becomes this run's.
        processes.in_turn(lambda: report.claim(workdir, recipe), f'claim {workdir}')
        data, before = _as_before(workdir / FOLDER, data)
        if begin is not None:
            data = begin.inform(data)
            if show_progress:
                print(begin.told, file=sys.stderr)
        meta = describe(recipe, data, held_out=held_out, init=None if begin is None else begin.about)
        meta |= {'init': before['init']} if 'init' in before else {}
        end = held_out.step if held_out else recipe.train.steps
        model = models.build(recipe.model, recipe.hrf, n_classes=len(data.corpus.labels))
        predict = Predictor(model)
        chosen, variables = _fit(
            recipe, workdir, data, model, optimizer, teach, predict, meta, begin, end, show_progress
        )
        scores: dict[str, Any] = {}
        probabilities = None
        if data.held_out:
            test, probabilities = evaluate(predict, variables, data, 'test')
            scores = {'test': test, 'validation': evaluate(predict, variables, data, 'validation')[0]}
        if processes.first():
            report.finish(workdir, meta, scores, step=chosen, data=data, probabilities=probabilities)
        processes.wait(f'finish {workdir}')
        return report.read_result(workdir)


def _held(workdir: Path) -> contextlib.AbstractContextManager[None]:
    """Keeps other runs out of the workdir; the first of several processes does so for all."""
    return report.held(workdir) if processes.first() else contextlib.nullcontext()


def evaluate(
    predict: Predictor,
    variables: Params,
    data: pipeline.Data,
    part: pipeline.Part,
    history: Callable[[int], Profile] | None = None,
) -> tuple[dict[str, Any], np.ndarray]:
    """Scores a part of the data, a batch of windows at a time; `history` as for `pipeline.Data.spoken`.

    Returns:
      Metrics (`evaluation.metrics`) over what the protocol decides, clips or speakers, and the probabilities of these,
      `[u, C]`, in the order of `data.units(part)`.
    """
    probabilities = data.decide(part, clips(predict, variables, data, part, history))
    return evaluation.metrics(data.truth(part), probabilities, data.corpus.labels), probabilities


def clips(
    predict: Predictor,
    variables: Params,
    data: pipeline.Data,
    part: pipeline.Part,
    history: Callable[[int], Profile] | None = None,
) -> np.ndarray:
    """The mean class probabilities of a part's clips, `[n, C]`; see `evaluate`."""
    batches = [
        (predict(variables, windows), clip) for windows, clip in data.spoken(data.clips(part), predict.batch, history)
    ]
    logits, clip = map(np.concatenate, zip(*batches, strict=True))
    _check_finite({f'logits of the {part} part': logits})
    return evaluation.decide(evaluation.softmax(logits), clip, units=len(data.clips(part)))


def _fit(
    recipe: Recipe,
    workdir: Path,
    data: pipeline.Data,
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    teach: teacher.Teacher | None,
    predict: Predictor,
    meta: Mapping[str, Any],
    begin: WarmStart | None,
    end: int,
    show_progress: bool,
) -> tuple[int, Params]:
    """Runs the steps that are left, up to `end`; returns step and (averaged) variables of the chosen checkpoint."""
    settings = recipe.train
    by_batch, replicated = shardings()
    example = jnp.zeros((1, recipe.window_config.frames, recipe.frontend.n_mels))
    state = jax.jit(lambda: init_state(model, optimizer, example, recipe.seed, begin), out_shardings=replicated)()
    weights = balanced_weights(data.labels('train'), len(data.corpus.labels)) if settings.class_weights else None
    step = make_step(recipe, model, optimizer, weights, recipe.seed, data.inputs, teach)
    update = jax.jit(step, in_shardings=(replicated, by_batch), out_shardings=replicated, donate_argnums=0)
    with contextlib.ExitStack() as stack:
        checkpoints = stack.enter_context(contextlib.closing(Checkpoints(workdir / FOLDER)))
        start = checkpoints.latest() or 0
        if start:
            state = checkpoints.restore(start, state)
        shard = (jax.process_index(), jax.process_count())
        batches = data.batches(
            size=settings.batch_size, seed=recipe.seed, start=start, crop=recipe.augment.crop, shard=shard
        )
        bar = Progress(end, workdir.name, start=start, unit='step', enabled=show_progress)
        stack.enter_context(contextlib.closing(bar))
        log = stack.enter_context(contextlib.closing(report.Log(workdir, start, enabled=processes.first())))
        clock = report.Clock(log.seconds)
        kept = export_data.Kept.of(data).arrays()
        interrupted: Callable[[], bool] = lambda: False
        # Metrics are read one step late, so that the devices never wait for the host.
        unread: list[tuple[int, dict[str, jax.Array]]] = []
        for number in range(start + 1, end + 1):
            local = next(batches).items()
            batch = {name: jax.make_array_from_process_local_data(by_batch, value) for name, value in local}
            state, metrics = update(state, batch)
            unread.append((number, metrics))
            if number == start + 1:  # compiled: from now on there is something to save
                interrupted = stack.enter_context(deferred())
                clock.go(number)
            # Several processes would each stop at another step.
            stops = interrupted() and jax.process_count() == 1
            due = number % settings.eval_every == 0 or number == end
            saving, validating = due or stops, due and data.held_out
            while len(unread) > (0 if saving else 1):
                at, values = unread.pop(0)
                told = {name: float(value) for name, value in values.items()}
                with _diverging(workdir, at, checkpoints):
                    _check_finite(told)
                log.write(at, told)
            if saving:
                with _diverging(workdir, number, checkpoints):
                    _check_finite(dict(checkpoint.leaves(state.variables)))
                log.write(number, clock.read(number))
            note, score, error = '', None, 0.0
            if validating:
                with _diverging(workdir, number, checkpoints):
                    scores, probabilities = evaluate(predict, state.average, data, 'validation')
                metric = data.split.protocol.metric
                shown = dict.fromkeys(('uar', 'wa', metric, 'nll'))
                log.write(number, {f'validation_{name}': scores[name] for name in shown})
                score = scores[metric]
                error = evaluation.standard_error(data.truth('validation'), probabilities, data.corpus.labels, metric)
                validated = f'{report.METRICS[metric]} {100 * score:.1f}'
                note = f'loss {float(metrics["loss"]):.3f}, validation {validated}'
            if saving:
                log.flush()
                checkpoints.save(
                    number, variables=state.average, state=state, meta=meta, score=score, error=error, export=kept
                )
                clock.go(number)
            if stops:
                raise KeyboardInterrupt(f'interrupted; step {number} is saved, and the same command goes on from it')
            bar.update(note)
        chosen = checkpoints.chosen() if data.held_out else checkpoints.latest()
        assert chosen is not None
        return chosen, checkpoints.restore(chosen, state).average


def _as_before(folder: Path, data: pipeline.Data) -> tuple[pipeline.Data, dict[str, Any]]:
    """The data with the statistics of the run's checkpoints, and what these say of it (`describe`), if there are some.

    Damaged ones get another name.

    Raises:
      InputError: all are damaged, or they are of another corpus or split.
    """
    damaged = checkpoint.damaged(folder)
    processes.wait(f'check {folder}')
    if processes.first():
        for path, error in damaged.items():
            print(f'{error}; set aside as {checkpoint.set_aside(path).name}', file=sys.stderr)
    processes.wait(f'set aside in {folder}')
    last = checkpoint.last(folder)
    if damaged and last is None:
        raise InputError(f'{folder}: expected a whole checkpoint to go on from, found none; delete it to begin anew')
    if last is None:
        return data, {}
    trained = checkpoint.load(last)
    return export_data.as_trained(trained, data), trained.meta


class DivergedError(Error):
    """Training has left the finite numbers."""


def _check_finite(values: Mapping[str, Any]) -> None:
    """Raises a `DivergedError` that names the first of some values, by name, that is not finite."""
    for name, value in values.items():
        found = np.asarray(value)
        if not (finite := np.isfinite(found)).all():
            raise DivergedError(f'expected finite numbers, found {name} = {found[~finite].flat[0]}')


@contextlib.contextmanager
def _diverging(workdir: Path, step: int, checkpoints: Checkpoints) -> Iterator[None]:
    """Says of a `DivergedError` of the block where it was, and what is left."""
    try:
        yield
    except DivergedError as error:
        last = checkpoints.latest()
        left = f'the checkpoint of step {last} is kept' if last else 'no checkpoint was written'
        raise DivergedError(f'{workdir}: step {step}: {error}; {left}; try a lower train.learning_rate') from error


def fit(
    config: Recipe | str | Path,
    workdir: str | Path,
    *,
    changes: Mapping[str, Any] | None = None,
    show_progress: bool = True,
) -> dict[str, Any]:
    """Trains a recipe as `jax-reparam train` does, or goes on with it; returns what result.json holds.

    Args:
      config: a recipe, its name or file, `transformer_xs:emodb` or `configs/transformer_xs.py:emodb`.
      workdir: folder of the run; see `train`, and `train_folds` where `data.fold` is `all`.
      changes: values of the recipe by key, as `{'train.steps': 300}`.
      show_progress: report on standard error.

    Raises:
      InputError: no such recipe or key, bad data, or a workdir that holds a run of another recipe.
    """
    if not isinstance(config, Recipe):
        path, _, corpus = str(config).partition(':')
        config = load_recipe(path, corpus)
    with from_user():
        recipe = config.with_changes(changes or {})
    start = train_folds if recipe.data.fold == 'all' else train
    return start(recipe, Path(workdir), show_progress=show_progress)


def train_folds(recipe: Recipe, workdir: Path, *, show_progress: bool = True) -> dict[str, Any]:
    """As `train`, for every fold of a protocol in `workdir/fold_K`; then pools the results (`report.summarise`)."""
    report.check(workdir, recipe)
    with _held(workdir):
        folds = []
        for fold in range(pipeline.count_folds(recipe, show_progress=show_progress)):
            folds.append(workdir / f'fold_{fold}')
            train(recipe.with_changes({'data.fold': str(fold)}), folds[-1], show_progress=show_progress)
            # After the first, whose data has shown that the recipe's words are right.
            processes.in_turn(lambda: report.claim(workdir, recipe), f'claim {workdir} {fold}')
        if processes.first():
            report.summarise(workdir, folds)
        processes.wait(f'summarise {workdir}')
        return report.read_result(workdir)
