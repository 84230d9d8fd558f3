"""What HRF does to a layer, step by step: python benchmarks/diagnostics.py CONFIG[:CORPUS] --source S --out FILE.jsonl.

Trains the plain model and HRF on one fold with one seed, from one function (`hrf.init=orthonormal`), by the step of
`train.py`. FILE gets one JSON line per arm, site and 100 steps: the norm of the step's update dW of the kernel (HRF: of
the product) and of W, the stable rank |W|_F^2 / |W|_2^2, the singular values of W; of HRF also the condition of both
factors and the cosine between dW and the step that AdamW would take in the plain model: the gradient with respect to
the product at every step, through an AdamW of its own with the plain recipe's clipping and decay. Then one line for
each t: the cross-entropy of plain + t (folded HRF - plain), batch statistics included, over all windows of the training
and of the validation speakers. Both ends are moving averages, as they are validated and kept.

FILE.svg is drawn from these lines alone; where FILE is there, nothing is trained.
"""

from __future__ import annotations

import argparse
import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jax_reparam import models, reparam
from jax_reparam.config import PLAIN, Recipe, load_recipe
from jax_reparam.data import pipeline
from jax_reparam.progress import Progress
from jax_reparam.reparam import Params
from jax_reparam.train import loop, report, sites
from jax_reparam.train.optimizer import TINY, adamw

EVERY = 100
ALONG = tuple(t / 20 for t in range(-5, 26))
COLOURS = {'plain': '#1f77b4', 'hrf': '#d62728'}
Line = dict[str, Any]


class Watched(NamedTuple):
    """The state of a watched optimizer: its own, that of plain AdamW, and what the last step was."""

    own: optax.OptState
    plain: optax.OptState
    seen: dict[str, dict[str, jax.Array]]


def plain_gradient(gradient: Params, params: Params) -> Params:
    """The gradient of the folded model, from the one of the factors.

    That of V is U^T G + b_u g^T, where G and g are those of the folded kernel and bias, and U has rank D <= E.
    """
    if not isinstance(params, Mapping):
        return gradient
    if reparam.SITE not in params:
        return {name: plain_gradient(gradient[name], child) for name, child in params.items()}
    u, change = params[reparam.SITE]['kernel_u'], gradient[reparam.SITE]
    of_kernel = change['kernel_v'] - jnp.outer(params[reparam.SITE]['bias_u'], change['bias_v'])
    return {'kernel': jnp.linalg.solve(u @ u.T, u @ of_kernel), 'bias': change['bias_v']}


def watched(recipe: Recipe, at: Sequence[str]) -> optax.GradientTransformation:
    """The recipe's optimizer, whose state also holds what each step was at the sites."""
    own, plain = adamw(recipe), adamw(recipe.with_changes({'hrf.expansion': 0}))

    def init(params: Params) -> Watched:
        names = ('move', 'weight', 'cosine')
        zeros = {site: {name: jnp.zeros(()) for name in names} for site in at}
        return Watched(own.init(params), plain.init(reparam.dehrf(params)), zeros)

    def update(gradient: Params, state: Watched, params: Params) -> tuple[Params, Watched]:
        updates, own_state = own.update(gradient, state.own, params)
        folded = reparam.dehrf(params)
        reference, plain_state = plain.update(plain_gradient(gradient, params), state.plain, folded)
        seen = {}
        for site, move in sites.moves(updates, params, at).items():
            step, weight = (sites.moves(tree, folded, [site])[site] for tree in (reference, folded))
            norms = [jnp.sqrt(jnp.vdot(kernel, kernel)) for kernel in (move, step, weight)]
            cosine = jnp.vdot(move, step) / jnp.maximum(norms[0] * norms[1], TINY)
            seen[site] = {'move': norms[0], 'weight': norms[2], 'cosine': cosine}
        return updates, Watched(own_state, plain_state, seen)

    return optax.GradientTransformation(init, update)


def node(tree: Params, path: str) -> Params:
    """The part of nested dictionaries that lies at a path."""
    return functools.reduce(lambda part, name: part[name], path.split('/'), tree)


def shape(params: Params, site: str) -> Line:
    """What the kernel of a site is: stable rank and singular values, and of HRF the condition of the factors."""
    layer = node(params, site)
    values = np.linalg.svd(np.asarray(node(reparam.dehrf(params), site)['kernel'], np.float64), compute_uv=False)
    line: Line = {
        'stable_rank': shown(np.square(values).sum() / values[0] ** 2),
        'singular_values': [shown(value) for value in values],
    }
    for name, key in (('kernel_u', 'condition_u'), ('kernel_v', 'condition_v')):
        if reparam.SITE in layer:
            line[key] = shown(np.linalg.cond(np.asarray(layer[reparam.SITE][name], np.float64)))
    return line


def shown(value: Any) -> float:
    """A number with four digits."""
    return float(f'{float(value):.4g}')


def run(recipe: Recipe, data: pipeline.Data, arm: str, lines: list[Line]) -> Params:
    """Trains an arm, and adds its lines; returns the folded variables."""
    at, settings = sites.of(recipe), recipe.train
    model = models.build(recipe.model, recipe.hrf, n_classes=len(data.corpus.labels))
    optimizer = watched(recipe, at)
    weights = loop.balanced_weights(data.labels('train'), len(data.corpus.labels)) if settings.class_weights else None
    step = jax.jit(loop.make_step(recipe, model, optimizer, weights, recipe.seed, data.inputs), donate_argnums=0)
    example = jnp.zeros((1, recipe.window_config.frames, recipe.frontend.n_mels))
    state = jax.jit(lambda: loop.init_state(model, optimizer, example, recipe.seed))()
    batches = data.batches(size=settings.batch_size, seed=recipe.seed, start=0, crop=recipe.augment.crop)
    bar = Progress(settings.steps, arm, unit='step')
    for number in range(1, settings.steps + 1):
        state, metrics = step(state, next(batches))
        if number % EVERY == 0:
            params = jax.device_get(state.variables['params'])
            for site, seen in jax.device_get(state.optimizer.seen).items():
                told = {name: shown(value) for name, value in seen.items() if arm == 'hrf' or name != 'cosine'}
                lines.append({'arm': arm, 'site': site, 'step': number, **told, **shape(params, site)})
        bar.update(f'loss {float(metrics["loss"]):.3f}' if number % EVERY == 0 else '')
    bar.close()
    return jax.device_get(reparam.dehrf(state.average))


def along(recipe: Recipe, data: pipeline.Data, plain: Params, folded: Params) -> Iterator[Line]:
    """The loss on the line from the plain model to the folded one."""
    predict = loop.Predictor(models.build(recipe.model, PLAIN, n_classes=len(data.corpus.labels)))
    parts: tuple[pipeline.Part, ...] = ('train', 'validation')
    spoken = {part: next(data.spoken(data.clips(part))) for part in parts}
    for t in ALONG:
        variables = jax.tree.map(lambda a, b, t=t: a + np.float32(t) * (b - a), plain, folded)
        line = {'t': t}
        for part, (windows, clip) in spoken.items():
            logits = predict(variables, windows)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, data.labels(part)[clip])
            line[part] = shown(losses.mean())
        yield line


def draw(path: Path) -> None:
    """Draws the figure of a file of lines beside it."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    lines = [json.loads(text) for text in path.read_text().splitlines()]
    style: Any = {
        'svg.hashsalt': '',
        'svg.fonttype': 'none',
        'font.size': 9,
        'axes.spines.top': False,
        'axes.spines.right': False,
    }
    with mpl.rc_context(style):
        figure = Figure(figsize=(12, 6.4), layout='constrained')
        _plot(figure.subplots(2, 3), lines)
        figure.savefig(path.with_suffix('.svg'), metadata={'Date': None})


def _plot(axes: Any, lines: Sequence[Line]) -> None:
    steps = [line for line in lines if 'site' in line]
    places = list(dict.fromkeys(line['site'] for line in steps))
    panels: list[tuple[str, Callable[[Line], float], tuple[str, ...], str]] = [
        ('update over weight, |dW| / |W|', lambda line: line['move'] / line['weight'], ('plain', 'hrf'), 'log'),
        ("cosine of HRF's dW with plain's AdamW step", lambda line: line['cosine'], ('hrf',), 'linear'),
        ('stable rank of W', lambda line: line['stable_rank'], ('plain', 'hrf'), 'linear'),
    ]
    styles = dict(zip(places, ['-', '--', ':', '-.'] * len(places), strict=False))
    for axis, (title, value, arms, scale) in zip(axes[0], panels, strict=True):
        for arm in arms:
            for site in places:
                own = [line for line in steps if (line['arm'], line['site']) == (arm, site)]
                label = f'{arm} {site}'
                axis.plot([line['step'] for line in own], [value(line) for line in own], styles[site],
                          color=COLOURS[arm], label=label, lw=1.2)  # fmt: skip
        axis.set(title=title, xlabel='step', yscale=scale)
    axes[0, 0].legend(frameon=False, fontsize=7)
    spectrum, condition, loss = axes[1]
    for line in steps:
        if line['step'] == steps[-1]['step']:
            spectrum.plot(line['singular_values'], styles[line['site']], color=COLOURS[line['arm']], lw=1.2)
    spectrum.set(title=f'singular values of W at step {steps[-1]["step"]}', xlabel='index')
    for site in places:
        own = [line for line in steps if (line['arm'], line['site']) == ('hrf', site)]
        for key, colour in (('condition_u', '#2ca02c'), ('condition_v', '#9467bd')):
            label = f'{key[-1].upper()} {site}'
            condition.plot([line['step'] for line in own], [line[key] for line in own], styles[site], color=colour,
                           label=label, lw=1.2)  # fmt: skip
    condition.set(title='condition of the factors', xlabel='step', yscale='log')
    condition.legend(frameon=False, fontsize=7)
    ends = [line for line in lines if 't' in line]
    for part, colour in (('train', '#7f7f7f'), ('validation', '#000000')):
        loss.plot([line['t'] for line in ends], [line[part] for line in ends], color=colour, label=part, lw=1.2)
    loss.set(title='cross-entropy from plain (0) to folded HRF (1)', xlabel='t')
    loss.legend(frameon=False, fontsize=7)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='a recipe, and its corpus behind a colon')
    parser.add_argument('--source', default='', help="the corpus's folder")
    parser.add_argument('--fold', default='0')
    parser.add_argument('--steps', type=int, default=0, help="0 is the recipe's")
    parser.add_argument('--out', type=Path, required=True, metavar='FILE.jsonl')
    args = parser.parse_args()
    if not args.out.exists():
        path, _, corpus = args.config.partition(':')
        changes = {'data.source': args.source, 'data.fold': args.fold, 'hrf.init': 'orthonormal'}
        recipe = load_recipe(path, corpus).with_changes(changes)
        recipe = recipe.with_changes({'train.steps': args.steps or recipe.train.steps})
        if recipe.hrf.expansion < 1:
            raise SystemExit(f'hrf.expansion: expected 1 or more, found {recipe.hrf.expansion:g}')
        data = pipeline.load_data(recipe)
        told = {'config': args.config, 'fold': int(args.fold), 'seed': recipe.seed, 'steps': recipe.train.steps}
        lines: list[Line] = [{**told, 'device': jax.devices()[0].device_kind, 'versions': report.versions()}]
        ends = [
            run(recipe.with_changes(changes), data, arm, lines)
            for arm, changes in (('plain', {'hrf.expansion': 0}), ('hrf', {}))
        ]
        lines += along(recipe, data, *ends)
        report.write(args.out, ''.join(json.dumps(line) + '\n' for line in lines))
    draw(args.out)


if __name__ == '__main__':
    main()
