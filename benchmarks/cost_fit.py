"""Fits the prices of jax_reparam/export/cost.py to measured instruction counts: python benchmarks/cost_fit.py.

The counts are of TFLM with CMSIS-NN on an emulated Cortex-M4F: totals of four models, and two operators of one of them.
The files themselves are not at hand. DS-CNN's shapes are public; the transformers' (T tokens, D 64, FFN 256, 4 heads)
are inferred from their MACs and parameters, so that the work below is a reconstruction. It prints how far its MACs are
from the published ones, the prices, and what the fit gives for each measured figure.
"""

from __future__ import annotations

import numpy as np
import scipy.optimize

# Prices that nothing was measured for: those of cost.py.
ADD, TRANSPOSE = 20.0, 10.0
KINDS = ('product', 'convolution', 'softmax', 'sum', 'reference')


def transformer(tokens: int, layers: int, stem: int, norm: str) -> dict[str, float]:
    """Work of a ReLU encoder: D 64, FFN 256, 4 heads; a linear stem of `stem` inputs."""
    width, hidden, heads = 64, 256, 4
    values, norms = tokens * width, 2 * layers + 1
    linear = tokens * (layers * (4 * width**2 + 2 * width * hidden) + stem * width)
    attention = layers * 2 * tokens**2 * width
    work = {
        'product': linear + attention,
        'softmax': layers * heads * tokens**2,
        'sum': 0,
        'reference': 0,
        'assumed': 2 * layers * values * ADD + 4 * layers * values * TRANSPOSE,
    }
    if norm == 'flax':  # two sums, SUB and the other operators that spread a value over a row
        work['sum'] = 2 * norms * values + values
        work['reference'] = 2 * norms * values
    if norm == 'matmul':  # two products with a column; SUB, the square and the product with RSQRT
        work['product'] += 2 * norms * values
        work['reference'] = 3 * norms * values
    return work


DS_CNN = {'convolution': 125 * 64 * (40 + 4 * (9 + 64)), 'product': 64 * 12, 'softmax': 12, 'assumed': 0.0}
TOTALS = {
    'DS-CNN': (DS_CNN, 2.66e6, 7.7e6),
    '2 layers, flax': (transformer(64, 2, 40, 'flax'), 7.51e6, 37.3e6),
    '3 layers, LayerNorm': (transformer(25, 3, 160, 'matmul'), 4.26e6, 18.7e6),
    '3 layers, BatchNorm': (transformer(25, 3, 160, 'none'), 4.23e6, 16.4e6),
}
OPS = {'softmax': 10.4e6, 'sum': 3.4e6}  # of the 2-layer model


def main() -> None:
    rows, targets = [], []
    for work, _, total in TOTALS.values():
        rows.append([work.get(kind, 0) / total for kind in KINDS])
        targets.append((total - work['assumed']) / total)
    two_layers = TOTALS['2 layers, flax'][0]
    for kind, count in OPS.items():
        rows.append([two_layers[kind] / count if kind == other else 0.0 for other in KINDS])
        targets.append(1.0)
    prices, _ = scipy.optimize.nnls(np.array(rows), np.array(targets))
    print('prices:', ', '.join(f'{kind} {price:.2f}' for kind, price in zip(KINDS, prices, strict=True)))
    for kind, count in OPS.items():
        print(f'{kind}: {count / two_layers[kind]:.1f} an element where it was measured alone')
    for name, (work, published, total) in TOTALS.items():
        macs = work['product'] + work.get('convolution', 0)
        found = sum(work.get(kind, 0) * price for kind, price in zip(KINDS, prices, strict=True)) + work['assumed']
        print(
            f'{name:20} {macs / 1e6:5.2f} M MACs ({macs / published - 1:+.1%}), '
            f'{found / 1e6:5.1f} M instructions, measured {total / 1e6:4.1f} ({found / total - 1:+.1%})'
        )


if __name__ == '__main__':
    main()
