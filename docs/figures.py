"""Draws the figures of docs and README, each for light and dark pages: python docs/figures.py.

`method-*.svg` is drawn here; `arena-*.svg` is plotted from the lines in `benchmarks/results` that `points` names.
"""

from __future__ import annotations

import dataclasses
import io
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
STATIC = ROOT / 'docs/_static'
LINES = ROOT / 'benchmarks/results'
# The classical baseline that trains on as many speakers as our models do.
BASELINE = 'ComParE and SVM, 8 speakers'
# Sizes that the figure of the method is drawn with: one HRF site of ConvTransformer XS.
D, E, F = 64, 256, 128
# Models whose names do not stand to the right of their points, where another would be in the way.
BESIDE = {
    'ConvTransformer XS': (0, -16, 'center'),
    'Conformer XS': (-9, -4, 'right'),
    'SpeechFormer S': (-9, -4, 'right'),
}


@dataclasses.dataclass(frozen=True)
class Palette:
    """Colours of one kind of page."""

    ink: str
    faint: str
    trained: str
    folded: str
    plain: str
    on_colour: str


PALETTES = {
    'light': Palette('#1f2328', '#59636e', '#0969da', '#1a7f37', '#d0d7de', '#ffffff'),
    'dark': Palette('#e6edf3', '#9198a1', '#4493f8', '#3fb950', '#3d444d', '#0d1117'),
}


def method(colours: Palette) -> str:
    """The training form, the fold and the deployed form of one feed-forward network, as SVG."""
    parts = [
        *_column(colours, 150, 'Training form', 'two linear layers, no bottleneck', [(D, E, 'U'), (E, F, 'V')]),
        *_fold(colours),
        *_column(colours, 690, 'Deployed form', 'the plain model: same outputs', [(D, F, 'W')]),
    ]
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 840 404" width="840" height="404" role="img" '
        'font-family="system-ui, sans-serif" font-size="14">\n'
        '<title>High-Rank Factorization: two linear layers in training are folded into one for inference</title>\n'
        + '\n'.join(parts)
        + '\n</svg>\n'
    )


def _column(
    colours: Palette, x: int, title: str, caption: str, layers: Sequence[tuple[int, int, str]]
) -> Iterator[str]:
    """One feed-forward network from top to bottom; `layers` are those at the HRF site: widths in and out, and name."""
    top, bottom = 92, 224
    height = (bottom - top - 8 * (len(layers) - 1)) / len(layers)
    colour = colours.trained if len(layers) > 1 else colours.folded
    yield _text(colours.ink, x, 24, title, size=18, weight=600)
    yield _text(colours.faint, x, 44, caption)
    yield _line(colours.faint, x, 56, x, top - 4, arrow=True)
    yield _text(colours.ink, x + 12, 76, f'x  [tokens, D = {D}]', anchor='start', size=13)
    for place, (wide_in, wide_out, name) in enumerate(layers):
        y = top + place * (height + 8)
        yield _layer(colour, x, y, wide_in, wide_out, height)
        yield _text(colours.on_colour, x, y + height / 2 + 6, name, size=17, weight=600)
    if len(layers) > 1:
        yield _text(colours.ink, x + E / 2 + 8, top + height + 9, f'E = {E}', anchor='start', size=13)
    yield _text(colours.ink, x + F / 2 + 10, bottom + 2, f'F = {F}', anchor='start', size=13)
    yield _line(colours.faint, x, bottom + 4, x, 244, arrow=True)
    yield f'<rect x="{x - 52}" y="246" width="104" height="26" rx="13" fill="none" stroke="{colours.faint}"/>'
    yield _text(colours.ink, x, 264, 'activation', size=13)
    yield _line(colours.faint, x, 272, x, 288, arrow=True)
    yield _layer(colours.plain, x, 290, F, D, 44)
    yield _text(colours.ink, x, 317, 'second layer', size=12)
    yield _line(colours.faint, x, 336, x, 354, arrow=True)
    count = sum(rows * columns + columns for rows, columns, _ in layers)
    yield _text(colours.ink, x, 372, 'y', size=13)
    yield _text(colour, x, 396, f'{count:,} parameters at the site', weight=600)


def _fold(colours: Palette) -> Iterator[str]:
    yield _line(colours.ink, 360, 158, 600, 158, arrow=True, width=2.5)
    yield _text(colours.ink, 475, 144, 'dehrf(params)', size=17, weight=600, family='ui-monospace, monospace')
    yield _text(colours.ink, 475, 186, 'W = U V', size=16)
    yield _text(colours.ink, 475, 210, 'b = b\u1d64 V + b\u1d65', size=16)
    yield _text(colours.faint, 475, 240, 'exact: nothing non-linear')
    yield _text(colours.faint, 475, 258, 'stands between U and V')


def _layer(colour: str, x: int, y: float, wide_in: int, wide_out: int, height: float) -> str:
    """A trapezoid whose edges are as wide as the layer's input and output."""
    left, right = x - wide_in / 2, x + wide_in / 2
    points = f'{left},{y} {right},{y} {x + wide_out / 2},{y + height} {x - wide_out / 2},{y + height}'
    return f'<polygon points="{points}" fill="{colour}"/>'


def _line(colour: str, x0: float, y0: float, x1: float, y1: float, *, arrow: bool = False, width: float = 1.5) -> str:
    line = f'<path d="M{x0},{y0} L{x1},{y1}" stroke="{colour}" stroke-width="{width}"/>'
    if not arrow:
        return line
    a = 2 + 2 * width
    head = f'{x1 - a},{y1 - a} {x1 + a},{y1 - a}' if x0 == x1 else f'{x1 - a},{y1 - a} {x1 - a},{y1 + a}'
    return line + f'<polygon points="{x1},{y1} {head}" fill="{colour}"/>'


def _text(
    colour: str, x: float, y: float, text: str, *, anchor: str = 'middle', size: int = 14, weight: int = 400,
    family: str = '',
) -> str:  # fmt: skip
    font = f' font-family="{family}"' if family else ''
    return (
        f'<text x="{x:g}" y="{y:g}" fill="{colour}" text-anchor="{anchor}" font-size="{size}" font-weight="{weight}"'
        f'{font}>{text}</text>'
    )


def points() -> list[dict[str, Any]]:
    """What the plot shows: models with a UAR, an arena, or both, and whether today's features were measured.

    UAR in percent is the mean over the ten folds of EMO-DB, a speaker each.
    """
    from jax_reparam.study import evidence

    lines = {name: _read(f'{name}.jsonl') for name in ('peers', 'exports', 'field', 'study_baselines')}
    arena = {line['recipe']: line['arena_bytes'] for line in lines['exports'] if line['form'] == 'int8'}
    folds = [
        next(row['uar_before'] for row in line['rows'] if row['change'] == 'surround')
        for line in lines['field']
        if Path(line['out']).name.startswith('emodb-A-transformer_xs_') and line['runtime'] == 'TFLM'
    ]
    baselines = evidence.whole([line for line in lines['study_baselines'] if line['phase'] == evidence.BASELINE])
    return [
        {'name': 'ConvTransformer XS', 'uar': 100 * sum(folds) / len(folds), 'arena_bytes': arena['transformer_xs'],
         'today': True},
        *({'arena_bytes': arena.get(line.get('recipe')), 'today': False, **line} for line in lines['peers']),
        {'name': BASELINE, 'uar': 100 * baselines[BASELINE].score('speaker_uar')},
    ]  # fmt: skip


def _read(name: str) -> list[Any]:
    return [json.loads(line) for line in (LINES / name).read_text().splitlines()]


def peers(lines: Iterable[Mapping[str, Any]], colours: Palette) -> str:
    """UAR against arena, as SVG.

    Args:
      lines: see `points`; with `arena_bytes` and `uar` a point, with one of them a line.
      colours: of the page.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    style: Any = {
        'svg.hashsalt': 'jax_reparam',
        'svg.fonttype': 'none',
        'font.family': 'sans-serif',
        'font.sans-serif': ['system-ui', 'DejaVu Sans'],
        'text.color': colours.ink,
        'axes.labelcolor': colours.ink,
        'axes.edgecolor': colours.faint,
        'xtick.color': colours.ink,
        'ytick.color': colours.ink,
    }
    with mpl.rc_context(style):
        figure = Figure(figsize=(8.4, 4.4), layout='constrained')
        axes = figure.add_subplot()
        axes.set_xscale('log')
        axes.set_xlim(40, 900)
        axes.set_ylim(50, 80)
        axes.set_xticks([50, 100, 200, 400, 800], ['50', '100', '200', '400', '800'])
        axes.minorticks_off()
        axes.grid(color=colours.plain, linewidth=0.6)
        axes.spines[['top', 'right']].set_visible(False)
        axes.set_xlabel('arena of the int8 model in TFLM, KB')
        axes.set_ylabel('EMO-DB, leave one speaker out: UAR, %')
        for line in lines:
            uar: Any = line.get('uar')
            arena: Any = line.get('arena_bytes')
            if uar is None:
                axes.axvline(arena / 1000, color=colours.faint, linestyle=':')
                axes.annotate(
                    f'{line["name"]}: no comparable UAR ', (arena / 1000, 51), ha='right', color=colours.faint
                )
            elif arena is None:
                axes.axhline(uar, color=colours.faint, linestyle='--')
                axes.annotate(f'{line["name"]}: {uar:.1f}', (41, uar + 0.5), color=colours.faint)
            else:
                today = line['today']
                colour = colours.folded if today else colours.trained
                axes.plot(
                    arena / 1000, uar, 'o', markersize=9, color=colour, markerfacecolor=colour if today else 'none'
                )
                right, up, side = BESIDE.get(line['name'], (9, -4, 'left'))
                axes.annotate(
                    f'{line["name"]}, {uar:.1f}',
                    (arena / 1000, uar),
                    xytext=(right, up),
                    textcoords='offset points',
                    ha=side,
                )
        axes.plot([], [], 'o', color=colours.folded, label="measured on today's features")
        axes.plot([], [], 'o', color=colours.trained, mfc='none', label='measured on earlier features')
        axes.legend(loc='lower left', frameon=False)
        file = io.StringIO()
        figure.savefig(file, format='svg', transparent=True, metadata={'Date': None})
    return '\n'.join(line.rstrip() for line in file.getvalue().splitlines()) + '\n'


def figures() -> Iterator[tuple[Path, str]]:
    """Every figure: its file and what it holds."""
    lines = points()
    for page, colours in PALETTES.items():
        yield STATIC / f'method-{page}.svg', method(colours)
        yield STATIC / f'arena-{page}.svg', peers(lines, colours)


if __name__ == '__main__':
    for path, content in figures():
        path.write_text(content)
        print(path.relative_to(ROOT), file=sys.stderr)
