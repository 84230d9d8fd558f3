"""Where a loss comes from: every tensor of a quantised model beside its float32 twin, worst first.

And before quantisation: what folding does to the range of each HRF site's kernel.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jax_reparam import reparam
from jax_reparam.export import flatbuffer, twin


@dataclasses.dataclass(frozen=True)
class Row:
    """One tensor over some windows.

    Attributes:
      node: the operator's place in the quantised graph.
      op: the operator that makes it.
      shape: of the tensor.
      snr_db: power of the float32 tensor over that of the difference; None where nothing differs, or all is 0. The
        error of all layers before is in it.
      low: least value that the quantised tensor can hold.
      high: largest value that it can hold.
      seen_low: least value in float32.
      seen_high: largest value in float32.
      clipped: share of the float32 values beyond what the tensor can hold by more than half a step, 0 to 1.
    """

    node: int
    op: str
    shape: tuple[int, ...]
    snr_db: float | None
    low: float
    high: float
    seen_low: float
    seen_high: float
    clipped: float

    def as_json(self) -> dict[str, Any]:
        """The manifest's entry."""
        return {**dataclasses.asdict(self), 'shape': list(self.shape)}


@dataclasses.dataclass(frozen=True)
class Site:
    """One HRF site: the factors, and the kernel that they fold into.

    Attributes:
      path: the site.
      largest: largest absolute value of `kernel_u`, `kernel_v` and the folded kernel.
      kurtosis: of the same; 3 for a normal distribution, the larger the rarer the values that set the range.
      int8_snr_db: of the same, rounded to int8 with one scale a tensor.
    """

    path: str
    largest: tuple[float, float, float]
    kurtosis: tuple[float, float, float]
    int8_snr_db: tuple[float, float, float]


def report(
    quantised: bytes, float32: bytes, windows: np.ndarray, *, progress: Callable[[], None] = lambda: None
) -> list[Row]:
    """Compares every tensor that a node makes.

    Args:
      quantised: the .tflite file, int8 or int16.
      float32: the same graph in float32.
      windows: standardised features, `[W, frames, n_mels]`.
      progress: called after each window.

    Returns:
      Rows, the worst SNR first, those without one last.

    Raises:
      ValueError: the two are not the same graph.
    """
    pairs = _pairs(flatbuffer.tree(quantised), flatbuffer.tree(float32))
    sums = [_Sums(pair.port) for pair in pairs]
    found = twin.observe(quantised, [pair.tensor for pair in pairs], windows)
    expected = twin.observe(float32, [pair.twin for pair in pairs], windows)
    for some, others in zip(found, expected, strict=True):
        for total, pair in zip(sums, pairs, strict=True):
            total.add(some[pair.tensor], others[pair.twin].astype(np.float64))
        progress()
    rows = [
        Row(
            node=pair.node,
            op=pair.op,
            shape=pair.port.shape,
            snr_db=_decibels(total.signal, total.noise),
            low=total.low,
            high=total.high,
            seen_low=total.seen_low,
            seen_high=total.seen_high,
            clipped=total.clipped / max(1, total.count),
        )
        for pair, total in zip(pairs, sums, strict=True)
    ]
    return sorted(rows, key=lambda row: (math.inf if row.snr_db is None else row.snr_db, row.node))


def sites(params: Any) -> list[Site]:
    """What folding does to the kernels of a training pytree, site by site, in the tree's order."""
    folded = reparam.dehrf(params)
    result = []
    for path in reparam.hrf_sites(params):
        factors, kernel = params, folded
        for key in filter(None, path.split('/')):
            factors, kernel = factors[key], kernel[key]
        factors = factors[reparam.SITE]
        three = [np.asarray(leaf, np.float64) for leaf in (factors['kernel_u'], factors['kernel_v'], kernel['kernel'])]
        result.append(Site(path, _three(_largest, three), _three(_kurtosis, three), _three(_int8_snr, three)))
    return result


def table(rows: Sequence[Row]) -> list[str]:
    """The rows as lines of text."""
    cells = [['node', 'operator', 'shape', 'SNR dB', 'range', 'seen', 'clipped']]
    cells += [
        [
            str(row.node),
            row.op,
            'x'.join(map(str, row.shape)),
            '' if row.snr_db is None else f'{row.snr_db:.1f}',
            f'{row.low:.4g} to {row.high:.4g}',
            f'{row.seen_low:.4g} to {row.seen_high:.4g}',
            f'{row.clipped:.2%}',
        ]
        for row in rows
    ]
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    return ['  '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]


@dataclasses.dataclass(frozen=True)
class _Pair:
    """A tensor with its twin: the node that makes it, and both indices."""

    node: int
    op: str
    port: flatbuffer.Port
    tensor: int
    twin: int


class _Sums:
    """What is added up of one tensor, window after window."""

    def __init__(self, port: flatbuffer.Port) -> None:
        assert port.scale is not None
        limits = np.iinfo(port.dtype)
        self.low, self.high = (float(port.decode(np.array(limit))) for limit in (limits.min, limits.max))
        self._half = port.scale / 2
        self.signal = self.noise = 0.0
        self.seen_low, self.seen_high = math.inf, -math.inf
        self.clipped = self.count = 0

    def add(self, value: np.ndarray, truth: np.ndarray) -> None:
        self.signal += float((truth**2).sum())
        self.noise += float(((value - truth) ** 2).sum())
        self.seen_low = min(self.seen_low, float(truth.min()))
        self.seen_high = max(self.seen_high, float(truth.max()))
        self.clipped += int(((truth < self.low - self._half) | (truth > self.high + self._half)).sum())
        self.count += truth.size


def _pairs(content: Any, reference: Any) -> list[_Pair]:
    named = [
        [
            (index, op, node)
            for index, (op, node) in enumerate(
                zip(flatbuffer.operator_names(tree), tree.subgraphs[0].operators, strict=True)
            )
            if op != 'QUANTIZE'
        ]
        for tree in (content, reference)
    ]
    nodes, twins = named
    shapes = [
        [(op, tuple(tree.subgraphs[0].tensors[node.outputs[0]].shape)) for _, op, node in one]
        for tree, one in zip((content, reference), named, strict=True)
    ]
    if shapes[0] != shapes[1]:
        raise ValueError(f'expected the operators of the float32 graph, got others: {len(nodes)}, {len(twins)}')
    pairs = []
    for (index, op, node), (_, _, other_node) in zip(nodes, twins, strict=True):
        for tensor, other in zip(node.outputs, other_node.outputs, strict=True):
            port = flatbuffer.port(content.subgraphs[0].tensors[tensor])
            if port.scale is not None:
                pairs.append(_Pair(index, op, port, int(tensor), int(other)))
    return pairs


def _decibels(signal: float, noise: float) -> float | None:
    return 10 * math.log10(signal / noise) if signal > 0 and noise > 0 and math.isfinite(noise) else None


def _three(function: Callable[[np.ndarray], float], kernels: Sequence[np.ndarray]) -> tuple[float, float, float]:
    u, v, product = (function(kernel) for kernel in kernels)
    return u, v, product


def _largest(kernel: np.ndarray) -> float:
    return float(np.abs(kernel).max())


def _kurtosis(kernel: np.ndarray) -> float:
    centred = kernel - kernel.mean()
    variance = float((centred**2).mean())
    return float((centred**4).mean()) / variance**2 if variance else 0.0


def _int8_snr(kernel: np.ndarray) -> float:
    """Infinite where rounding changes nothing."""
    step = np.abs(kernel).max() / 127 or 1.0
    found = _decibels(float((kernel**2).sum()), float(((np.rint(kernel / step) * step - kernel) ** 2).sum()))
    return math.inf if found is None else found
