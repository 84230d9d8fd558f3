"""Trains the runs of a study: one by one on a CPU, all folds and seeds of an arm in one program elsewhere.

The step and the batches are those of `train.loop`: `train.py` with a run's recipe trains the same, up to rounding. What
is scored is the moving average at the last step; no checkpoint is chosen.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import operator
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jax_reparam import checkpoint, evaluation, models, system
from jax_reparam.checkpoint import FOLDER, Checkpoints
from jax_reparam.config import Recipe
from jax_reparam.data import feature_store, packed, pipeline
from jax_reparam.errors import InputError
from jax_reparam.layers import Branches
from jax_reparam.progress import Progress
from jax_reparam.reparam import Params
from jax_reparam.study import planning
from jax_reparam.study.planning import Line, Lines, Phase, Plan, Run
from jax_reparam.train import loop, report, teacher
from jax_reparam.train.optimizer import adamw

PARTS: tuple[pipeline.Part, ...] = ('validation', 'test')
# Of probabilities in a line.
DIGITS = 6
# Steps between two looks at the losses, and steps whose mean is called the final loss.
LOOK = 100
# Before a worker looks again whether another one has finished.
_SECONDS = 5.0
_STATISTICS = ('mean', 'std', 'voice_mean')


def products(next_fun: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
    """Computes the convolutions of a model as matrix products (`flax.linen.intercept_methods`).

    `vmap` makes a product over runs one wider product. It makes a convolution over runs one with a group for each run,
    which GPUs are slow at.
    """
    module, method = context.module, context.method_name
    if isinstance(module, Branches) and method == 'convolve' and module.shape.groups == 1:
        x, kernel, padding = args
        return _product(x, kernel, module.shape.strides, padding)
    # A depthwise convolution is a sum of products already.
    if (
        not isinstance(module, nn.Conv)
        or method != '__call__'
        or module.is_initializing()
        or module.feature_group_count > 1
    ):
        return next_fun(*args, **kwargs)
    kernel = cast(jax.Array, module.get_variable('params', 'kernel'))
    bias: Any = module.get_variable('params', 'bias')
    strides = np.broadcast_to(module.strides or 1, kernel.ndim - 2).tolist()
    y = _product(args[0], kernel, strides, cast(Any, module.padding))
    return y if bias is None else y + bias.reshape((1,) * (y.ndim - 1) + (-1,))


def _product(x: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: Sequence[tuple[int, int]]) -> jax.Array:
    """A convolution of `[B, ..., C]` with `[*window, C, F]`."""
    spatial = kernel.shape[:-2]
    x = jax.lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *((*ends, 0) for ends in padding), (0, 0, 0)])
    taps = []
    for tap in np.ndindex(spatial):
        at = (slice(t, t + n - k + 1, s) for t, n, k, s in zip(tap, x.shape[1:-1], spatial, strides, strict=True))
        taps.append(x[(slice(None), *at)])
    return jnp.concatenate(taps, axis=-1) @ kernel.reshape(-1, kernel.shape[-1])


class Arm:
    """The programs of one arm; fold and seed are arguments of theirs, so that all its runs share one compilation.

    Args:
      recipe: of any run of the arm.
      data: likewise.
      runs: trained together.
    """

    def __init__(self, recipe: Recipe, data: pipeline.Data, runs: int) -> None:
        self.runs, self.steps = runs, recipe.train.steps
        self.model = models.build(recipe.model, recipe.hrf, n_classes=len(data.corpus.labels))
        self.predict = loop.Predictor(self.model)
        optimizer = adamw(recipe)
        example = jnp.zeros((1, data.inputs.window.frames, recipe.frontend.n_mels))

        def start(seed: jax.Array) -> loop.State:
            return loop.init_state(self.model, optimizer, example, seed)

        def update(state: loop.State, batch: loop.Batch, seed: Any, statistics: Any, weights: Any, teach: Any) -> Any:
            inputs = dataclasses.replace(data.inputs, **statistics)
            step = loop.make_step(recipe, self.model, optimizer, weights, seed, inputs, teach)
            state, metrics = step(state, batch)
            return state, {name: metrics[name] for name in ('loss', 'grad_norm')}

        self._start = jax.jit(start if runs == 1 else jax.vmap(start))
        self._update = jax.jit(update if runs == 1 else jax.vmap(update), donate_argnums=0)

    def train(
        self, recipes: Sequence[Recipe], folds: Sequence[pipeline.Data], told: Callable[[float], None]
    ) -> tuple[list[Params], np.ndarray, np.ndarray]:
        """Trains its runs.

        Args:
          recipes: of the runs, which differ in fold and seed alone, and in the runs that teach them.
          folds: the data of each.
          told: called after each step, with a loss at times.

        Returns:
          The averaged variables of each run; losses and gradient norms `[steps, runs]`, which end at the first look at
          which no run's losses are finite.
        """
        settings, classes = recipes[0].train, len(folds[0].corpus.labels)
        join = (lambda values: values[0]) if self.runs == 1 else np.stack
        stack = lambda trees: jax.tree.map(lambda *leaves: join(leaves), *trees)
        seed = join([np.uint32(recipe.seed) for recipe in recipes])
        statistics = stack([{name: getattr(data.inputs, name) for name in _STATISTICS} for data in folds])
        weights = None
        if settings.class_weights:
            weights = join([loop.balanced_weights(data.labels('train'), classes) for data in folds])
        batches = [
            data.batches(size=settings.batch_size, seed=recipe.seed, start=0, crop=recipe.augment.crop)
            for recipe, data in zip(recipes, folds, strict=True)
        ]
        unread: list[dict[str, jax.Array]] = []
        metrics: list[dict[str, np.ndarray]] = []
        # Around the calls, since the programs are traced at the first.
        with nn.intercept_methods(products) if self.runs > 1 else contextlib.nullcontext():
            teach = stack([teacher.load(recipe, data) for recipe, data in zip(recipes, folds, strict=True)])
            state = self._start(seed)
            for number in range(1, settings.steps + 1):
                batch = stack([next(of_run) for of_run in batches])
                state, values = self._update(state, batch, seed, statistics, weights, teach)
                unread.append(values)
                if number % LOOK == 0 or number == settings.steps:
                    metrics += jax.device_get(unread)
                    unread.clear()
                    if not np.isfinite(metrics[-1]['loss']).any():
                        break
                told(float(np.mean(metrics[-1]['loss'])) if metrics else math.nan)
        average = jax.device_get(state.average)
        of_run = lambda run: average if self.runs == 1 else jax.tree.map(operator.itemgetter(run), average)
        losses, norms = (
            np.reshape([one[name] for one in metrics], (len(metrics), self.runs)) for name in ('loss', 'grad_norm')
        )
        return [of_run(run) for run in range(self.runs)], losses, norms


class Worker:
    """Trains runs of a plan.

    Args:
      plan: the study.
      sources: by corpus, the folder where it lies.
      cache: of prepared corpora and features; '' is the usual one.
      keep: a folder that gets a checkpoint of each run, for `fold.py`; None: none is kept.
      show_progress: report on standard error.
    """

    def __init__(
        self,
        plan: Plan,
        sources: Mapping[str, str],
        *,
        cache: str = '',
        keep: Path | None = None,
        show_progress: bool = True,
    ) -> None:
        self.plan, self.keep, self.show = plan, keep, show_progress
        self.lines = Lines(plan.lines)
        self.device = jax.devices()[0].device_kind
        self._places = {
            corpus: {'data.source': sources.get(corpus, ''), 'data.cache': cache} for corpus in plan.study.corpora
        }
        self._arms: dict[str, Arm] = {}
        self._data: dict[str, pipeline.Data] = {}

    def speakers(self, which: tuple[str, str]) -> dict[int, list[str]]:
        """The test speakers of every fold of a recipe's protocol.

        Raises:
          InputError: no such corpus, or one whose protocol draws its parts by the seed.
        """
        recipe = self._placed(self.plan.recipes[which])
        speakers = {}
        for fold in range(pipeline.count_folds(recipe, show_progress=self.show)):
            of_fold = recipe.with_changes({'data.fold': str(fold)})
            _, split = pipeline.load_split(of_fold, show_progress=False)
            drawn = 'drawn' in (split.protocol.test, split.protocol.validation)
            if drawn or not (len(split.validation) and len(split.test)):
                name, expected = split.info['name'], 'one that tests and validates, and draws nothing'
                raise InputError(f'{self.plan.path}: data.protocol: expected {expected}, found {name}')
            speakers[fold] = split.info['test_speakers']
        return speakers

    def pack(self, folder: Path) -> list[Path]:
        """Writes the features of every corpus to a file of its own, for a machine where the corpus is not."""
        folder.mkdir(parents=True, exist_ok=True)
        paths: dict[Path, str] = {}
        for which, recipe in self.plan.recipes.items():
            path = folder / f'{which[1].replace("/", "_")}{packed.SUFFIX}'
            data = pipeline.load_data(self._placed(recipe), show_progress=self.show)
            key = feature_store.key(data.corpus, data.inputs)
            if paths.setdefault(path, key) != key:
                raise InputError(f'{path}: expected recipes of one frontend, found several')
            packed.write(path, data.corpus, data.features, key)
        return list(paths)

    def work(self, phases: Sequence[Phase] = planning.PHASES, together: int | None = None) -> int:
        """Trains what is left of a study, until all of it is done; other workers may do so at the same time.

        Args:
          phases: the others are left out.
          together: runs per program, at most; None: one on a CPU, as many as there are elsewhere.

        Returns:
          The number of runs that it trained.

        Raises:
          InputError: see `Plan`; or an arm cannot be chosen without tuning runs, which are not asked for; or nothing
            says where to keep the runs that teach others.
        """
        taught = [name for name, family in self.plan.study.families.items() if family.teacher]
        if taught and not self.keep:
            raise InputError(f'{self.plan.path}: families.{taught[0]}.teacher: expected --keep FOLDER, found none')
        together = together or (1 if self.device == 'cpu' else 1 << 16)
        speakers = {which: self.speakers(which) for which in self.plan.recipes}
        trained = 0
        while left := self._left(phases, speakers):
            runs = [run for run in left if run is not None]
            if not runs:
                raise InputError(
                    f'{self.lines.path}: expected all tuning runs, found fewer; train --phase tuning first'
                )
            with contextlib.ExitStack() as claims:
                if ours := self._claim(runs, together, claims):
                    for line in self._train(ours):
                        self.lines.append(line)
                    trained += len(ours)
                    continue
            time.sleep(_SECONDS)  # other workers train them
        return trained

    def _left(self, phases: Sequence[Phase], speakers: Mapping[tuple[str, str], Any]) -> list[Run | None]:
        done = self.lines.done(self.device)
        left: list[Run | None] = []
        for which in self.plan.recipes:
            if 'tuning' in phases:
                left += self.plan.tuning(which, tuple(speakers[which]))
        for which in self.plan.recipes:
            if set(phases) - {'tuning'}:
                left += (
                    run
                    for run in self.plan.compared(which, speakers[which], done)
                    if run is None or run.phase in phases
                )
        return [run for run in left if run is None or run.identity not in done]

    def _claim(self, runs: Sequence[Run], together: int, claims: contextlib.ExitStack) -> list[Run]:
        """Those of some runs that no other worker has, are of one arm, and are to be trained now."""
        ours: dict[str, Run] = {}
        done = self.lines.done(self.device)
        for run in runs:
            if len(ours) == together:
                break
            if not run.teachers <= done.keys():
                continue
            if run.identity in ours or (ours and _arm(run) != _arm(next(iter(ours.values())))):
                continue
            if claims.enter_context(_claimed(self.lines.path, run.identity)):
                ours[run.identity] = run
        # Another worker may have finished some before they were claimed here.
        done = self.lines.done(self.device) if ours else {}
        return [run for run in ours.values() if run.identity not in done]

    def _placed(self, recipe: Recipe) -> Recipe:
        teachers = [str((self.keep or Path()) / place) for place in recipe.train.teacher]
        return recipe.with_changes({**self._places[recipe.data.corpus], 'train.teacher': teachers})

    def _of(self, run: Run) -> pipeline.Data:
        # Nothing is drawn by the seed (`speakers`), so that all seeds share what is loaded.
        same = run.recipe.with_changes({'seed': 0})
        key = planning.digest([value for name, value in same.as_json().items() if name in _OF_DATA])
        if key not in self._data:
            self._data[key] = pipeline.load_data(self._placed(same), show_progress=self.show and not self._data)
        data = self._data[key]
        info = {**data.split.info, 'seed': run.recipe.seed}
        return dataclasses.replace(data, split=dataclasses.replace(data.split, info=info))

    def _train(self, runs: Sequence[Run]) -> Iterator[Line]:
        began = time.monotonic()
        folds = [self._of(run) for run in runs]
        name = f'{_arm(runs[0])} {len(runs)}'
        if name not in self._arms:
            self._arms[name] = Arm(runs[0].recipe, folds[0], len(runs))
        arm = self._arms[name]
        recipes = [self._placed(run.recipe) for run in runs]
        title = runs[0].title if len(runs) == 1 else f'{runs[0].family}, {len(runs)} runs'
        bar = Progress(arm.steps, title, unit='step', enabled=self.show)
        with contextlib.closing(bar):
            told = lambda loss: bar.update('' if math.isnan(loss) else f'loss {loss:.3f}')
            variables, losses, norms = arm.train(recipes, folds, told)
        for number, (run, data) in enumerate(zip(runs, folds, strict=True)):
            line = {**self._about(run, data), 'parameters': checkpoint.count(variables[number]['params'])}
            try:
                line |= self._scored(arm, run, data, variables[number], losses[:, number], norms[:, number])
            except loop.DivergedError as error:
                line['failed'] = str(error)
            yield {**line, 'seconds': round((time.monotonic() - began) / len(runs), 1)}

    def _about(self, run: Run, data: pipeline.Data) -> dict[str, Any]:
        info = data.split.info
        config: Any = jax.config
        return {
            'study': self.plan.study.digest,
            'commit': commit(),
            'phase': run.phase,
            'family': run.family,
            'arm': dict(run.arm),
            'name': run.name,
            'corpus': data.corpus.name,
            'fold': run.fold,
            'folds': info['folds'],
            'seed': run.seed,
            'key': run.recipe.seed,
            'recipe': run.recipe.as_json(),
            'digests': {
                'recipe': run.identity,
                'corpus': data.corpus.key,
                'features': feature_store.key(data.corpus, data.inputs),
            },
            'labels': list(data.corpus.labels),
            'speakers': {part: info[f'{part}_speakers'] for part in ('train', 'validation', 'test')},
            'device': self.device,
            'precision': config.jax_default_matmul_precision or 'default',
            'versions': report.versions(),
            'steps': run.recipe.train.steps,
        }

    def _scored(
        self, arm: Arm, run: Run, data: pipeline.Data, variables: Params, losses: np.ndarray, norms: np.ndarray
    ) -> dict[str, Any]:
        finite = np.isfinite(losses)
        if not finite.all():
            raise loop.DivergedError(f'step {finite.argmin() + 1}: expected finite numbers, found another loss')
        clip = run.recipe.train.clip_norm
        scored: dict[str, Any] = {
            'loss': round(float(losses[-LOOK:].mean()), DIGITS),
            'clipped': round(float((norms > clip).mean()), DIGITS) if clip else 0.0,
            **{part: self._clips(arm, variables, data, part) for part in PARTS},
        }
        if self.keep:
            self._save(self.keep, run, data, variables, scored)
        return scored

    def _clips(self, arm: Arm, variables: Params, data: pipeline.Data, part: pipeline.Part) -> dict[str, Any]:
        clips = data.clips(part)
        return {
            'id': [data.corpus.id[clip] for clip in clips],
            'speaker': [data.corpus.speaker[clip] for clip in clips],
            'label': data.labels(part).tolist(),
            'probabilities': loop.clips(arm.predict, variables, data, part).round(DIGITS).tolist(),
        }

    def _save(self, keep: Path, run: Run, data: pipeline.Data, variables: Params, scored: Mapping[str, Any]) -> None:
        meta = loop.describe(self._placed(run.recipe), data)
        probabilities = data.decide('validation', np.array(scored['validation']['probabilities']))
        scores = evaluation.metrics(data.truth('validation'), probabilities, data.corpus.labels)
        with contextlib.closing(Checkpoints(keep / run.place / FOLDER)) as checkpoints:
            checkpoints.save(run.recipe.train.steps, variables=variables, state=None, meta=meta, score=scores['uar'])


# The sections of a recipe that decide what `pipeline.load_data` gives.
_OF_DATA = ('data', 'frontend', 'window', 'voice')


def _arm(run: Run) -> str:
    """A digest of what all runs of an arm have in common."""
    teachers = [str(number) for number in range(len(run.teachers))]
    alike = run.recipe.with_changes({'seed': 0, 'data.fold': '0', 'train.teacher': teachers})
    return planning.digest(alike.as_json())


@contextlib.contextmanager
def _claimed(lines: Path, identity: str) -> Iterator[bool]:
    """Keeps a run from other workers; yields False if one of them has it."""
    folder = lines.with_suffix('.running') / identity
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(system.alone(folder, wait=False))
        except (system.HeldError, FileNotFoundError):  # the latter: it is just being given back
            yield False
            return
        yield True
    for one in (folder, folder.parent):
        with contextlib.suppress(OSError):  # not empty
            one.rmdir()


@functools.cache
def commit(package: Path = Path(__file__).parents[1]) -> str:
    """The commit of a package's checkout, with `-dirty` if the package differs from it; '' outside a checkout.

    What lies beside the package does not count: a study's results grow while it runs.
    """

    def git(*words: str) -> str:
        return subprocess.run(['git', '-C', package, *words], capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git('rev-parse', 'HEAD') + ('-dirty' if git('status', '--porcelain', '.') else '')
    except (OSError, subprocess.CalledProcessError):
        return ''
