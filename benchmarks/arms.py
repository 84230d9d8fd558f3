"""Compares training recipes over all folds and several seeds: python benchmarks/arms.py CONFIG[:CORPUS] --arm K=V,...

An arm is the recipe with some keys changed ('' is the recipe as it is). All folds and seeds of an arm are trained at
once, `vmap`ped into one program, which a GPU needs hardly longer for than for one of them; the step is that of
`train.py`. Batches are drawn as there (all clips in a new order each epoch, one window of each), in NumPy's order, and
what is scored is the moving average at the last step: no checkpoint is chosen.

One line of JSON an arm, in --out and on the terminal: UAR of each seed and fold on the validation speaker and, with
--test, on the test speaker; their mean and, over the seeds' means, its standard error; their mean cross-entropy; and
`flips`, the share of windows that would be decided otherwise if noise were added to the logits, 36 dB below them.

With --keep, what was scored lies in FOLDER/CONFIG[-ARM]/seed_S/fold_K, for fold.py. `train.py` cannot go on with it.

On a GPU most of the time is compilation; this shortens it:
XLA_FLAGS='--xla_gpu_autotune_level=0 --xla_gpu_enable_triton_gemm=false'
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import json
import math
import operator
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

import flax
import jax
import jax.numpy as jnp
import numpy as np

from jax_reparam import evaluation, models
from jax_reparam.checkpoint import FOLDER, Checkpoints
from jax_reparam.config import Recipe, load_recipe
from jax_reparam.data import pipeline
from jax_reparam.frontend import windows
from jax_reparam.train import loop
from jax_reparam.train.optimizer import adamw

CHUNK = 100  # steps a call
NOISE_DB = 36.0  # of the order of int8's (docs/export.md)
SECTIONS = ('model', 'hrf', 'augment', 'voice', 'train')  # what an arm may change


def convolve(x: jax.Array, kernel: jax.Array, strides: Any, padding: Any, **how: Any) -> jax.Array:
    """What the models ask of `jax.lax.conv_general_dilated`, as products that `vmap` only makes wider.

    Of a convolution it makes one with a group for each run, which cuDNN is slow at.

    Args:
      x: `[B, ..., I]`.
      kernel: `[..., I, O]`, or `[..., 1, I]` of a depthwise convolution.
      strides: along each axis between.
      padding: (before, behind) of each.
      **how: the number of groups; else what makes no difference here.
    """
    spatial = kernel.shape[:-2]
    x = jnp.pad(x, [(0, 0), *padding, (0, 0)])
    taps = []
    for tap in np.ndindex(spatial):
        at = (slice(t, t + n - k + 1, s) for t, n, k, s in zip(tap, x.shape[1:-1], spatial, strides, strict=True))
        taps.append(x[(slice(None), *at)])
    if how['feature_group_count'] > 1:
        parts = (part * kernel[tap][0] for part, tap in zip(taps, np.ndindex(spatial), strict=True))
        return functools.reduce(operator.add, parts)
    return jnp.concatenate(taps, axis=-1) @ kernel.reshape(-1, kernel.shape[-1])


def with_changes(recipe: Recipe, arm: str) -> Recipe:
    """The recipe with `section.key=value,...` changed; values are written as in flags of `train.py`."""
    changes = dict(change.split('=', 1) for change in filter(None, arm.split(',')))
    for key in changes:
        # The data are loaded once, for all arms.
        if key.partition('.')[0] not in SECTIONS:
            raise SystemExit(f'--arm: expected keys of {", ".join(SECTIONS)}, found {key!r}')
    try:
        return recipe.with_changes(changes)
    except ValueError as error:
        raise SystemExit(f'--arm: {error}') from error


def draw(data: pipeline.Data, recipe: Recipe, seed: int) -> dict[str, np.ndarray]:
    """What a run trains on, each `[steps, batch, ...]`: clips, first frames, frames, what is known of voices."""
    rng = np.random.default_rng(seed)
    clips, shape = data.clips('train'), (recipe.train.steps, recipe.train.batch_size)
    epochs = -(-math.prod(shape) // len(clips))
    order = np.concatenate([rng.permutation(clips) for _ in range(epochs)])[: math.prod(shape)]
    starts, frames, known = zip(*(data.draw(int(clip), recipe.augment.crop, rng) for clip in order), strict=True)
    drawn = {
        'clip': order,
        'start': np.array(starts),
        'frames': np.array(frames),
        'voice_frames': np.array([profile.frames for profile in known]),
    }
    of_clips = {name: values.astype(np.int32).reshape(shape) for name, values in drawn.items()}
    return {**of_clips, 'voice': np.stack([profile.mean for profile in known]).reshape(*shape, -1)}


@flax.struct.dataclass
class Bank:
    """The features of a corpus on the device."""

    clips: jax.Array  # [n, T, M] int8, each clip repeated so that a window never runs over its end
    label: jax.Array  # [n] int32
    mean: jax.Array  # [folds, M], of the training speakers
    std: jax.Array  # likewise
    voice_mean: jax.Array  # likewise
    frames: int = flax.struct.field(pytree_node=False)  # length of a window

    @classmethod
    def load(cls, folds: list[pipeline.Data]) -> Bank:
        """Of the folds of one corpus."""
        data = folds[0]
        frames = data.inputs.window.frames
        longest = frames + int(data.features.lengths.max())
        of_folds = lambda name: jnp.asarray(np.stack([getattr(fold.inputs, name) for fold in folds]))
        return cls(
            clips=jnp.asarray(np.stack([windows.cut(data.features[i], 0, longest) for i in range(len(data.corpus))])),
            label=jnp.asarray(data.corpus.label.astype(np.int32)),
            mean=of_folds('mean'),
            std=of_folds('std'),
            voice_mean=of_folds('voice_mean'),
            frames=frames,
        )

    def batch(self, drawn: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """A training batch of what was drawn for a step (`draw`)."""
        size = (self.frames, self.clips.shape[-1])
        cut = lambda clip, start: jax.lax.dynamic_slice(self.clips[clip], (start, 0), size)
        codes = jax.vmap(cut)(drawn['clip'], drawn['start'])
        return {**drawn, 'codes': codes, 'labels': self.label[drawn['clip']]}


def train(recipe: Recipe, bank: Bank, folds: list[pipeline.Data], seeds: int, say: Any) -> tuple[Any, Any]:
    """Trains `seeds` times all folds; returns the averaged variables, `[seeds * folds, ...]`, and the model."""
    settings = recipe.train
    model = models.build(recipe.model, recipe.hrf, n_classes=len(folds[0].corpus.labels))
    optimizer = adamw(recipe)
    fold = jnp.tile(jnp.arange(len(folds)), seeds)
    seed = jnp.repeat(jnp.arange(seeds), len(folds))
    each = [draw(data, recipe, s) for s in range(seeds) for data in folds]
    drawn = {name: np.stack([run[name] for run in each]) for name in each[0]}
    weights = None
    if settings.class_weights:
        of = [loop.balanced_weights(data.labels('train'), len(data.corpus.labels)) for data in folds]
        weights = jnp.tile(jnp.asarray(np.stack(of)), (seeds, 1))

    def init(seed: jax.Array) -> loop.State:
        return loop.init_state(model, optimizer, jnp.zeros((1, bank.frames, bank.clips.shape[-1])), seed)

    def steps(bank: Bank, state: Any, seed: Any, fold: Any, weights: Any, drawn: Any) -> Any:
        of_fold = {name: getattr(bank, name)[fold] for name in ('mean', 'std', 'voice_mean')}
        step = loop.make_step(recipe, model, optimizer, weights, seed, dataclasses.replace(folds[0].inputs, **of_fold))
        state, metrics = jax.lax.scan(lambda state, drawn: step(state, bank.batch(drawn)), state, drawn)
        return state, metrics['loss'].mean()

    state = jax.jit(jax.vmap(init))(seed)
    run = jax.jit(jax.vmap(steps, in_axes=(None, 0, 0, 0, 0, 0)), donate_argnums=1)
    for first in range(0, settings.steps, CHUNK):
        part = {name: jnp.asarray(values[:, first : first + CHUNK]) for name, values in drawn.items()}
        state, loss = run(bank, state, seed, fold, weights, part)
        say(f'step {min(first + CHUNK, settings.steps)}/{settings.steps}, loss {float(loss.mean()):.3f}')
    return state.average, model


def flips(logits: np.ndarray) -> float:
    """The share of rows `[W, C]` expected to change sides under noise `NOISE_DB` below them, two classes looked at."""
    noise = np.sqrt(np.square(logits).mean()) * 10 ** (-NOISE_DB / 20)
    second, first = np.sort(logits, axis=-1)[:, -2:].T
    return float(np.mean([0.5 * math.erfc(gap / (2 * noise)) for gap in first - second]))


def measure(
    recipe: Recipe,
    bank: Bank,
    folds: list[pipeline.Data],
    seeds: int,
    parts: list[pipeline.Part],
    folder: Path | None,
    say: Any,
) -> dict[str, Any]:
    """Trains an arm and scores it on `parts`; with a `folder`, keeps its runs there."""
    start = time.monotonic()
    folds = [dataclasses.replace(data, inputs=dataclasses.replace(data.inputs, voice=recipe.voice)) for data in folds]
    variables, model = train(recipe, bank, folds, seeds, say)
    variables = jax.device_get(variables)
    of_run = lambda run: jax.tree.map(operator.itemgetter(run), variables)
    predict = loop.Predictor(model)
    row: dict[str, Any] = {}
    for part in parts:
        scores, flipped = [], []
        for run in range(seeds * len(folds)):
            data = folds[run % len(folds)]
            clips = data.clips(part)
            [(features, clip)] = data.spoken(clips)
            logits = predict(of_run(run), features)
            probabilities = data.decide(part, evaluation.decide(evaluation.softmax(logits), clip, units=len(clips)))
            scores.append(evaluation.metrics(data.truth(part), probabilities, data.corpus.labels))
            flipped.append(flips(logits))
        uar = 100 * np.array([score['uar'] for score in scores]).reshape(seeds, -1)
        row[part] = {
            'uar': float(uar.mean()),
            'error': float(uar.mean(axis=1).std(ddof=1) / math.sqrt(seeds)) if seeds > 1 else None,
            'nll': float(np.mean([score['nll'] for score in scores])),
            'flips': float(np.mean(flipped)),
            'each': uar.round(2).tolist(),
        }
    if folder:
        for run, uar in enumerate(np.ravel(row['validation']['each'])):
            seed, fold = divmod(run, len(folds))
            meta = loop.describe(recipe.with_changes({'data.fold': str(fold), 'seed': seed}), folds[fold])
            with contextlib.closing(Checkpoints(folder / f'seed_{seed}' / f'fold_{fold}' / FOLDER)) as checkpoints:
                checkpoints.save(
                    recipe.train.steps, variables=of_run(run), state=None, meta=meta, score=uar / 100, error=0.0
                )
    return {**row, 'seconds': round(time.monotonic() - start, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='a recipe, and its corpus behind a colon')
    parser.add_argument('--source', default='', help="the corpus's folder")
    parser.add_argument('--arm', action='append', default=[], metavar='KEY=VALUE,...', help='may be repeated')
    parser.add_argument('--seeds', type=int, default=1)
    parser.add_argument('--folds', type=int, default=0, help='the first so many; 0 is all')
    parser.add_argument('--test', action='store_true', help='score the test speakers, too')
    parser.add_argument('--jobs', type=int, default=1, help='arms at a time')
    parser.add_argument('--keep', type=Path, metavar='FOLDER', help='write the trained models there')
    parser.add_argument('--out', type=Path, help='lines are added to this file; arms that are in it are left out')
    args = parser.parse_args()
    path, _, corpus = args.config.partition(':')
    recipe = load_recipe(path, corpus).with_changes({'data.source': args.source})
    count = args.folds or pipeline.count_folds(recipe, show_progress=False)
    folds = [
        pipeline.load_data(recipe.with_changes({'data.fold': str(fold)}), show_progress=False) for fold in range(count)
    ]
    bank = Bank.load(folds)
    parts: list[pipeline.Part] = ['validation', 'test'] if args.test else ['validation']
    done = args.out.read_text().splitlines() if args.out and args.out.exists() else []
    had = {(line['config'], line['arm'], line['seeds']) for line in map(json.loads, done)}

    def compare(arm: str) -> None:
        folder = args.keep and args.keep / '-'.join(filter(None, [Path(path).stem, arm]))
        if folder and folder.exists():
            raise SystemExit(f'{folder}: expected a new folder, found one')
        begun = time.monotonic()
        say = lambda note: print(f'{time.monotonic() - begun:6.1f} s  {arm or "as it is"}: {note}', flush=True)
        row = measure(with_changes(recipe, arm), bank, folds, args.seeds, parts, folder, say)
        line = {'config': args.config, 'arm': arm, 'seeds': args.seeds, 'device': jax.devices()[0].device_kind, **row}
        say(json.dumps({part: {k: v for k, v in row[part].items() if k != 'each'} for part in parts}))
        if args.out:
            with args.out.open('a') as file:
                file.write(json.dumps(line) + '\n')

    arms = [arm for arm in args.arm or [''] if (args.config, arm, args.seeds) not in had]
    with mock.patch.object(jax.lax, 'conv_general_dilated', convolve), ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(compare, arms))


if __name__ == '__main__':
    main()
