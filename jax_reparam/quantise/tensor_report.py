"""Where a loss comes from: every tensor of a quantised model beside that of the float32 one, worst first.

And before quantisation: what folding does to the range of each HRF site's kernel. `fold.py` writes both to LAYERS.md,
and what is worst to the manifest.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jax_reparam import evaluation, reparam
from jax_reparam.graph import flatbuffer
from jax_reparam.manifest import Kernel, Layer, Site
from jax_reparam.reparam import Params
from jax_reparam.runtime import observe
from jax_reparam.table import aligned

# Of test windows; each runs twice for each form.
WINDOWS = 8
# Tensors of a form in the manifest.
WORST = 10
# These compute nothing: their tensors are those of another node.
MOVES = ('RESHAPE', 'TRANSPOSE', 'SLICE', 'STRIDED_SLICE', 'SPLIT', 'CONCATENATION', 'PAD', 'PADV2', 'EXPAND_DIMS')


def report(quantised: bytes, float32: bytes, windows: np.ndarray, *, params: Params | None = None) -> list[Layer]:
    """Compares every tensor that a node makes.

    Args:
      quantised: the .tflite file, int8 or int16, as the converter leaves it: what is exported has other nodes.
      float32: the same graph in float32.
      windows: standardised features, `[W, frames, n_mels]`.
      params: the parameters in it, to name modules by; None names none.

    Returns:
      Rows, the worst SNR first, those without one last.

    Raises:
      ValueError: the two are not the same graph.
    """
    pairs = _pairs(flatbuffer.tree(quantised), flatbuffer.tree(float32), params)
    observed = observe.observe(quantised, [pair.tensor for pair in pairs], windows)
    expected = observe.observe(float32, [pair.reference for pair in pairs], windows)
    compared = [
        [_compared(pair.port, values[pair.tensor], references[pair.reference]) for pair in pairs]
        for values, references in zip(observed, expected, strict=True)
    ]
    rows = []
    for pair, of_windows in zip(pairs, zip(*compared, strict=True), strict=True):
        signal, noise, seen_low, seen_high, clipped = zip(*of_windows, strict=True)
        assert pair.port.scale is not None
        low, high = _limits(pair.port)
        rows.append(
            Layer(
                node=pair.node,
                op=pair.op,
                module=pair.module,
                shape=pair.port.shape,
                snr_db=evaluation.snr_db(sum(signal), sum(noise)),
                scale=pair.port.scale,
                low=low,
                high=high,
                seen_low=min(seen_low),
                seen_high=max(seen_high),
                clipped=sum(clipped) / (len(windows) * math.prod(pair.port.shape)),
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
        factors = factors[reparam.SITE]
        u, v, product = map(_kernel, (factors['kernel_u'], factors['kernel_v'], kernel['kernel']))
        result.append(Site(path=path, kernel_u=u, kernel_v=v, kernel=product))
    return result


def computed(rows: Iterable[Layer]) -> list[Layer]:
    """The rows of operators that compute, in their order: those that move values alone repeat another row."""
    return [row for row in rows if row.op not in MOVES]


def text(kernels: Sequence[Site], forms: Mapping[str, Sequence[Layer]]) -> str:
    """LAYERS.md, of what `sites` gave and, by form, what `report` gave."""
    parts = [
        """# Where a loss comes from

Tensors of each quantised form beside those of the same graph in float32, worst signal-to-noise ratio (SNR) first; the
error of all layers before is in it. A low SNR alone is no loss: a tensor that is close to 0 throughout has one, too.
`module` is the layer that the operator is, or comes behind. Operators that only move values are left out.
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


@dataclasses.dataclass(frozen=True)
class _Pair:
    """A tensor with that of the float32 graph: the node that makes it, and both indices."""

    node: int
    op: str
    module: str
    port: flatbuffer.Port
    tensor: int
    reference: int


def _limits(port: flatbuffer.Port) -> tuple[float, float]:
    limits = np.iinfo(port.dtype)
    return float(port.decode(np.array(limits.min))), float(port.decode(np.array(limits.max)))


def _compared(port: flatbuffer.Port, value: np.ndarray, truth: np.ndarray) -> tuple[float, float, float, float, int]:
    """Sums of squares of a tensor and of its error, its least and greatest value, and how many are clipped."""
    assert port.scale is not None
    low, high = _limits(port)
    clipped = (truth < low - port.scale / 2) | (truth > high + port.scale / 2)
    noise = float(((value - truth) ** 2).sum())
    return float((truth**2).sum()), noise, float(truth.min()), float(truth.max()), int(clipped.sum())


def _pairs(content: Any, reference: Any, params: Params | None) -> list[_Pair]:
    modules = _modules(reference, params)
    places = {id(node): place for place, node in enumerate(content.subgraphs[0].operators)}
    pairs = []
    for op, node, other_node in observe.pairs(content, reference):
        for tensor, other in zip(node.outputs, other_node.outputs, strict=True):
            port = flatbuffer.port(content.subgraphs[0].tensors[tensor])
            if port.scale is not None:
                pairs.append(_Pair(places[id(node)], op, modules[int(other)], port, int(tensor), int(other)))
    return pairs


def _modules(reference: Any, params: Params | None) -> dict[int, str]:
    """The path in `params` of the layer that makes each tensor of a float32 graph, or of the last one before it.

    A layer is known by its constant: the converter turns kernels round, but writes no other numbers.
    """
    paths: dict[bytes, str] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        columns = np.asarray(leaf, np.float32)
        if columns.ndim >= 2:  # where heads go in groups, a node has some of a kernel's columns
            name = jax.tree_util.keystr(path[:-1], simple=True, separator='/')
            paths |= {column.tobytes(): name for column in np.moveaxis(columns, -1, 0)}
    modules: dict[int, tuple[int, str]] = {}
    for place, (op, node) in enumerate(flatbuffer.named_nodes(reference)):
        behind = max((modules[int(index)] for index in node.inputs if int(index) in modules), default=(-1, ''))
        if op in observe.LINEAR and flatbuffer.is_constant(reference, int(node.inputs[1])):
            kernel = flatbuffer.constant(reference, int(node.inputs[1]))
            column = kernel[0, ..., 0] if op == 'DEPTHWISE_CONV_2D' else kernel[0]
            behind = (place, paths[key]) if (key := column.tobytes()) in paths else behind
        modules |= {int(output): behind for output in node.outputs}
    return {tensor: name for tensor, (_, name) in modules.items()}


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
