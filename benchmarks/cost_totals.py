"""How far the prices of jax_reparam/export/cost.py miss measured totals: python benchmarks/cost_totals.py.

The counts are of TFLM with CMSIS-NN on an emulated Cortex-M4F: totals of four models, and two operators of one of them.
The files themselves are not at hand. DS-CNN's shapes are public; the transformers' (T tokens, D 64, FFN 256, 4 heads)
are inferred from their MACs and parameters, so that the work below is a reconstruction; MACs do not tell the heads. It
prints how far its MACs are from the published ones, and what the prices give for each measured figure.
"""

from __future__ import annotations

from jax_reparam.graph.cost import INT8

Work = dict[str, tuple[int, ...]]  # by operator: MACs or elements, elements written, and weights where they cost


def transformer(tokens: int, layers: int, stem: int, norm: str) -> Work:
    """Work of a ReLU encoder: D 64, FFN 256, 4 heads; a linear stem of `stem` inputs."""
    width, hidden, heads = 64, 256, 4
    values, norms, scores = tokens * width, 2 * layers + 1, heads * tokens**2
    linear = tokens * (layers * (4 * width**2 + 2 * width * hidden) + stem * width)
    written = values * (layers * 5 + 1) + tokens * layers * hidden
    work = {
        'BATCH_MATMUL': (layers * 2 * tokens**2 * width, layers * (scores + values)),
        'SOFTMAX': (layers * scores, 0),
        'ADD': (2 * layers * values, 0),
        'TRANSPOSE': (4 * layers * values, 0),
    }
    if norm == 'flax':  # two sums, SUB and the other operators that spread a value over a row
        work['SUM'] = (2 * norms * values + values, 0)
        work['SUB'] = (2 * norms * values, 0)
    if norm == 'matmul':  # two products with a column; SUB, the square and the product with RSQRT
        linear += 2 * norms * values
        written += 2 * norms * tokens
        work['SUB'] = (3 * norms * values, 0)
    return {'FULLY_CONNECTED': (linear, written), **work}


MODELS: dict[str, tuple[Work, float, float]] = {
    'DS-CNN': (
        {
            'CONV_2D': (125 * 64 * 40, 125 * 64),
            'CONV_2D 1 x 1': (125 * 64 * 4 * 64, 125 * 64 * 4, 64 * 64 * 4),
            'DEPTHWISE_CONV_2D': (125 * 64 * 4 * 9, 0),
            'FULLY_CONNECTED': (64 * 12, 12),
            'SOFTMAX': (12, 0),
        },
        2.66e6,
        7.7e6,
    ),
    '2 layers, flax': (transformer(64, 2, 40, 'flax'), 7.51e6, 37.3e6),
    '3 layers, LayerNorm': (transformer(25, 3, 160, 'matmul'), 4.26e6, 18.7e6),
    '3 layers, BatchNorm': (transformer(25, 3, 160, 'none'), 4.23e6, 16.4e6),
}
OPS = {'SOFTMAX': 10.4e6, 'SUM': 3.4e6}  # of the 2-layer model


def main() -> None:
    for name, (work, published, total) in MODELS.items():
        macs = sum(units[0] for op, units in work.items() if 'CONV_2D' in op or op.endswith(('CONNECTED', 'MATMUL')))
        found = sum(INT8[op].of(*units, spread=op == 'SUB') for op, units in work.items())
        print(
            f'{name:20} {macs / 1e6:5.2f} M MACs ({macs / published - 1:+.1%}), '
            f'{found / 1e6:5.1f} M instructions, measured {total / 1e6:4.1f} ({found / total - 1:+.1%})'
        )
    for op, count in OPS.items():
        elements, _ = MODELS['2 layers, flax'][0][op]
        print(f'{op}: {count / elements:.1f} an element in the 2-layer model, {INT8[op].instructions} alone')


if __name__ == '__main__':
    main()
