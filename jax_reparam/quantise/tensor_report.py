"""Where a loss comes from: every tensor of a quantised model beside that of the float32 one, worst first.

And before quantisation: what folding does to the range of each HRF site's kernel. `fold.py` writes both to LAYERS.md,
and what is worst to the manifest.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from jax_reparam import evaluation, reparam
from jax_reparam.graph.graph import Port
from jax_reparam.manifest import Kernel, Layer, Site
from jax_reparam.quantise import widths
from jax_reparam.quantise.quantise import Quantised
from jax_reparam.reparam import Params
from jax_reparam.runtime import observe
from jax_reparam.table import aligned

# Of test windows; each runs twice for each form.
WINDOWS = 8
# Tensors of a form in the manifest.
WORST = 10


def report(quantised: Quantised, windows: np.ndarray) -> list[Layer]:
    """Compares every tensor that a node makes on standardised features, `[W, frames, n_mels]`.

    Returns:
      Rows, the worst SNR first, those without one last.
    """
    nodes = [(place, node) for place, node in enumerate(quantised.graph.nodes) if node in quantised.origins]
    outputs = [node.output for _, node in nodes]
    references = [quantised.origins[node].output for _, node in nodes]
    observed = observe.observe(quantised.graph, outputs, windows)
    expected = observe.observe(quantised.float32, references, windows)
    compared = [
        [
            _compared(tensor.port, seen[tensor], truth[reference])
            for tensor, reference in zip(outputs, references, strict=True)
        ]
        for seen, truth in zip(observed, expected, strict=True)
    ]
    rows = []
    for (place, node), of_windows in zip(nodes, zip(*compared, strict=True), strict=True):
        signal, noise, seen_low, seen_high, clipped = zip(*of_windows, strict=True)
        port = node.output.port
        assert port.scale is not None
        low, high = _limits(port)
        rows.append(
            Layer(
                node=place,
                op=node.op,
                module=next(iter(widths.scopes(quantised.origins[node].output.name)), ''),
                shape=port.shape,
                snr_db=evaluation.snr_db(sum(signal), sum(noise)),
                scale=port.scale,
                low=low,
                high=high,
                seen_low=min(seen_low),
                seen_high=max(seen_high),
                clipped=sum(clipped) / (len(windows) * math.prod(port.shape)),
            )
        )
    return sorted(rows, key=lambda row: (math.inf if row.snr_db is None else row.snr_db, row.node))


def sites(params: Params) -> list[Site]:
    """What folding does to the kernels of a training pytree, site by site, in the tree's order."""
    folded = reparam.dehrf(params)
    result = []
    for path in reparam.hrf_sites(params):
        factors, kernel = params, folded
        for key in filter(None, path.split('/')):
            factors, kernel = factors[key], kernel[key]
        if reparam.is_convolution(factors):  # branches have no two factors to set beside the kernel
            continue
        factors = factors[reparam.SITE]
        u, v, product = map(_kernel, (factors['kernel_u'], factors['kernel_v'], kernel['kernel']))
        result.append(Site(path=path, kernel_u=u, kernel_v=v, kernel=product))
    return result


def computed(rows: Iterable[Layer]) -> list[Layer]:
    """The rows of operators that compute, in their order: those that move values alone repeat another row."""
    return [row for row in rows if row.op not in widths.MOVES | {'CONCATENATION'}]


def text(kernels: Sequence[Site], forms: Mapping[str, Sequence[Layer]]) -> str:
    """LAYERS.md, of what `sites` gave and, by form, what `report` gave."""
    parts = [
        """# Where a loss comes from

Tensors of each quantised form beside those of the same graph in float32, worst signal-to-noise ratio (SNR) first; the
error of all layers before is in it. A low SNR alone is no loss: a tensor that is close to 0 throughout has one, too.
`module` is the part of the model that the operator belongs to, by its named scope. Operators that only move values are
left out.
"""
    ]
    if kernels:
        parts += [
            """## Weights before and after deHRF

Largest absolute value and SNR when rounded to int8 with one scale, of the two factors and of the kernel
that they fold into.
""",
            *_indented(_kernel_table(kernels)),
        ]
    for name, rows in forms.items():
        parts += [f'## {name}\n', *_indented(table(computed(rows)))]
    return '\n'.join(parts)


def _indented(lines: Iterable[str]) -> list[str]:
    return [*(f'    {line}' for line in lines), '']


def _kernel_table(sites: Sequence[Site]) -> list[str]:
    cells = [
        ['site', *(f'{head}, {name}' for head in ('largest', 'SNR dB') for name in ('kernel_u', 'kernel_v', 'folded'))]
    ]
    for site in sites:
        kernels = (site.kernel_u, site.kernel_v, site.kernel)
        decibels = ('inf' if kernel.int8_snr_db is None else f'{kernel.int8_snr_db:.1f}' for kernel in kernels)
        cells.append([site.path, *(f'{kernel.largest:.3g}' for kernel in kernels), *decibels])
    return aligned(cells, left=range(len(cells[0])))


def table(rows: Sequence[Layer]) -> list[str]:
    """The rows as lines of text."""
    cells = [['node', 'operator', 'module', 'shape', 'SNR dB', 'range', 'step', 'seen', 'clipped']]
    cells += [
        [
            str(row.node),
            row.op,
            row.module,
            'x'.join(map(str, row.shape)),
            '' if row.snr_db is None else f'{row.snr_db:.1f}',
            f'{row.low:.4g} to {row.high:.4g}',
            f'{row.scale:.3g}',
            f'{row.seen_low:.4g} to {row.seen_high:.4g}',
            f'{row.clipped:.2%}',
        ]
        for row in rows
    ]
    return aligned(cells, left=range(len(cells[0])))


def _limits(port: Port) -> tuple[float, float]:
    limits = np.iinfo(port.dtype)
    return float(port.decode(np.array(limits.min))), float(port.decode(np.array(limits.max)))


def _compared(port: Port, value: np.ndarray, truth: np.ndarray) -> tuple[float, float, float, float, int]:
    """Sums of squares of a tensor and of its error, its least and greatest value, and how many are clipped."""
    assert port.scale is not None
    low, high = _limits(port)
    clipped = (truth < low - port.scale / 2) | (truth > high + port.scale / 2)
    noise = float(((value - truth) ** 2).sum())
    return float((truth**2).sum()), noise, float(truth.min()), float(truth.max()), int(clipped.sum())


def _kernel(leaf: np.ndarray) -> Kernel:
    kernel = np.asarray(leaf, np.float64)
    largest, centred = float(np.abs(kernel).max()), kernel - kernel.mean()
    variance = float((centred**2).mean())
    step = largest / 127 or 1.0
    noise = np.rint(kernel / step) * step - kernel
    return Kernel(
        largest=largest,
        kurtosis=float((centred**4).mean()) / variance**2 if variance else 0.0,
        int8_snr_db=evaluation.snr_db(float((kernel**2).sum()), float((noise**2).sum())),
    )
