"""What a model costs on a Cortex-M4F with CMSIS-NN: work per kind of operator, and an estimate of instructions.

The work is read from the .tflite file. The rest is an estimate: instructions of a node are its work times a price
(`PRICES`), and every price says where it comes from. An interpreter's own instructions are left out.
docs/results.md has them, and the command that measures them.
"""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

from jax_reparam import schema
from jax_reparam.graph.graph import Graph, Node
from jax_reparam.table import aligned

# What a byte of arena is worth: instructions a window that it has to save, in forms for small memories and in others.
PER_BYTE, PER_BYTE_FAST = 1250, 600
# These cost what they read; all others what they write.
_READERS = ('SUM', 'MEAN', 'REDUCE_MAX')
# These copy a row, or the elements of one, at a time.
_MOVERS = ('PAD', 'PADV2', 'SLICE', 'TRANSPOSE')
# Products of activations take so many of a row at a time, and those left over one by one.
_VECTOR = 4


@dataclasses.dataclass(frozen=True)
class Price:
    """What one unit of an operator's work costs.

    Attributes:
      instructions: per MAC where the operator has MACs, else per element.
      kernel: whose kernel runs in TFLM built with CMSIS-NN.
      source: `measured`: fits what whole models took on the emulated board (`benchmarks/boards.py --nodes`); `kernel`:
        of the kernel alone, built by itself and counted under QEMU (2026-11-26), since none of these models has it;
        `assumed`: nothing was measured, it may be off by a factor of two or more.
      per_output: instructions per element written, beside those of MACs.
      per_weight: instructions per weight, however many rows it meets.
      per_row: instructions per row: of a product's left side, or copied at once.
      spread: in place of `instructions` where one input has fewer elements than the other; None: the same. TFLM takes
        a reference kernel for it.
    """

    instructions: float
    kernel: Literal['CMSIS-NN', 'reference']
    source: Literal['measured', 'kernel', 'assumed']
    per_output: float = 0.0
    per_weight: float = 0.0
    per_row: float = 0.0
    spread: float | None = None

    def as_json(self) -> dict[str, Any]:
        """All fields, `spread` where it is None too."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class Work:
    """What a node does, in units of its price.

    Attributes:
      op: as in `Row`.
      dtype: of what it reads.
      spread: one input has fewer elements than the other.
      macs: MACs.
      elements: written, or read where the operator reduces.
      units: MACs as the kernel computes them, else elements.
      outputs, weights, rows: see `Price`; 0 where the operator has no such term.
    """

    op: str
    dtype: str
    spread: bool
    macs: int
    elements: int
    units: int
    outputs: int
    weights: int
    rows: int

    def instructions(self, price: Price) -> float:
        """What it costs at a price."""
        each = price.spread if self.spread and price.spread is not None else price.instructions
        terms = (self.outputs * price.per_output, self.weights * price.per_weight, self.rows * price.per_row)
        return self.units * each + sum(terms)


# Figures of `measured` are what benchmarks/kernels/kernels.py prints. Where an operator was counted on several shapes,
# the figure is of the one that our models have most of.
INT8: dict[str, Price] = {
    'FULLY_CONNECTED': Price(1.85, 'CMSIS-NN', 'measured', per_output=53.3),
    'BATCH_MATMUL': Price(2.04, 'CMSIS-NN', 'measured', per_output=51.0),
    'CONV_2D': Price(1.38, 'CMSIS-NN', 'measured', per_output=148.4),
    'CONV_2D 1 x 1': Price(1.38, 'CMSIS-NN', 'measured', per_output=41.7, per_weight=3.58),
    'DEPTHWISE_CONV_2D': Price(11.34, 'CMSIS-NN', 'measured'),
    'SOFTMAX': Price(521.8, 'CMSIS-NN', 'measured'),
    'TANH': Price(370.3, 'reference', 'measured'),
    'LOGISTIC': Price(361.5, 'reference', 'measured'),
    'SUB': Price(85.1, 'reference', 'measured', spread=94.3),
    'SUM': Price(83.0, 'reference', 'measured'),
    'MEAN': Price(83.0, 'reference', 'measured'),
    'ADD': Price(81.1, 'CMSIS-NN', 'measured', spread=103.5),
    'L2_NORMALIZATION': Price(55.4, 'reference', 'measured'),
    'QUANTIZE': Price(43.8, 'reference', 'measured'),
    'MUL': Price(35.9, 'CMSIS-NN', 'measured', spread=56.1),
    'CAST': Price(4.0, 'reference', 'measured'),
    'TRANSPOSE': Price(5.9, 'CMSIS-NN', 'measured'),
    'SLICE': Price(6.0, 'reference', 'measured'),
    'CONCATENATION': Price(2.1, 'reference', 'measured'),
    'PAD': Price(1.6, 'CMSIS-NN', 'measured'),
    'PADV2': Price(1.6, 'CMSIS-NN', 'measured'),
    'RESHAPE': Price(0.5, 'reference', 'measured'),
    # SUB's work and a product; the inverse root of a row of L2_NORMALIZATION and two products.
    'SQUARED_DIFFERENCE': Price(100.0, 'reference', 'assumed'),
    'RSQRT': Price(450.0, 'reference', 'assumed'),
    'AVERAGE_POOL_2D': Price(10.0, 'CMSIS-NN', 'assumed'),
}
# TFLM gives every depthwise convolution of int16 to the kernel that fits any shape.
INT16: dict[str, Price] = {
    'FULLY_CONNECTED': Price(2.36, 'CMSIS-NN', 'measured', per_output=59.3),
    'BATCH_MATMUL': Price(1.93, 'CMSIS-NN', 'measured', per_output=43.4),
    'CONV_2D': Price(1.59, 'CMSIS-NN', 'measured', per_output=130.5),
    'CONV_2D 1 x 1': Price(1.81, 'CMSIS-NN', 'measured', per_output=54.5),
    'DEPTHWISE_CONV_2D': Price(31.22, 'CMSIS-NN', 'measured'),
    'RSQRT': Price(426.1, 'reference', 'measured'),
    'SUB': Price(85.1, 'reference', 'measured', spread=87.6),
    'SUM': Price(83.0, 'reference', 'measured'),
    'MEAN': Price(83.0, 'reference', 'measured'),
    'ADD': Price(78.4, 'CMSIS-NN', 'measured', spread=116.7),
    'MUL': Price(30.8, 'CMSIS-NN', 'measured', spread=55.9),
    'SOFTMAX': Price(50.5, 'CMSIS-NN', 'measured'),
    'QUANTIZE': Price(43.4, 'reference', 'measured'),
    'PAD': Price(38.8, 'reference', 'measured'),
    'PADV2': Price(38.8, 'reference', 'measured'),
    'TANH': Price(21.3, 'reference', 'measured'),
    'LOGISTIC': Price(20.5, 'reference', 'measured'),
    'TRANSPOSE': Price(7.3, 'reference', 'measured'),
    'SLICE': Price(6.0, 'reference', 'measured'),
    'CONCATENATION': Price(2.7, 'reference', 'measured'),
    'RESHAPE': Price(1.1, 'reference', 'measured'),
    'SQUARED_DIFFERENCE': Price(100.0, 'reference', 'assumed'),
    'AVERAGE_POOL_2D': Price(10.0, 'CMSIS-NN', 'assumed'),
}
# By the type of what a node reads. A model whose input is of one of these types has a cost.
PRICES: dict[str, Mapping[str, Price]] = {'int8': INT8, 'int16': INT16}
# Operators without a price of their own run on reference kernels that visit each element.
OTHERS = Price(15.0, 'reference', 'assumed')


@dataclasses.dataclass(frozen=True)
class Row:
    """All nodes of one kind.

    Attributes:
      op: the operator; a convolution of single pixels, which has a kernel of its own, is a `CONV_2D 1 x 1`.
      dtype: of what it reads.
      nodes: how many.
      macs: products with a constant or of two activations.
      elements: written, or read where the operator reduces.
      instructions: estimated.
      share: of the model's instructions, 0 to 1.
      price: what the estimate rests on.
    """

    op: str
    dtype: str
    nodes: schema.Count
    macs: schema.Count
    elements: schema.Count
    instructions: schema.Count
    share: schema.Share
    price: Price


@dataclasses.dataclass(frozen=True)
class Cost:
    """A model's cost on one window, as the manifest has it.

    Attributes:
      processor: what it is estimated for.
      macs: MACs.
      instructions: estimated.
      instructions_per_mac: None where there is no MAC.
      assumed: share of the instructions whose price nothing was measured for, 0 to 1.
      ops: the kinds of nodes, dearest first.
    """

    processor: str
    macs: schema.Count
    instructions: schema.Count
    instructions_per_mac: schema.Amount | None
    assumed: schema.Share
    ops: tuple[Row, ...]


def of_graph(graph: Graph, prices: Mapping[str, Mapping[str, Price]] = PRICES) -> Cost:
    """Counts the work of a quantised model, and estimates its instructions.

    Raises:
      ValueError: its input is of a type that has no prices.
    """
    input_dtype = graph.input.dtype
    if input_dtype not in prices:
        raise ValueError(f'expected a model of {" or ".join(prices)}, whose kernels have prices, got {input_dtype}')
    priced: dict[tuple[str, str, Price], list[Work]] = collections.defaultdict(list)
    for work in map(work_of, graph.nodes):
        price = prices.get(work.dtype, {}).get(work.op, OTHERS)
        priced[work.op, work.dtype, price].append(work)
    rows = []
    for (op, dtype, price), nodes in priced.items():
        counts, sizes = sum(work.macs for work in nodes), sum(work.elements for work in nodes)
        spent = round(sum(work.instructions(price) for work in nodes))
        rows.append(Row(op, dtype, len(nodes), counts, sizes, spent, 0.0, price))
    instructions, products = sum(row.instructions for row in rows), sum(row.macs for row in rows)
    rows = [dataclasses.replace(row, share=row.instructions / max(1, instructions)) for row in rows]
    rows.sort(key=lambda row: (-row.instructions, row.op, row.dtype))
    return Cost(
        processor='Cortex-M4F, CMSIS-NN, estimated',
        macs=products,
        instructions=instructions,
        instructions_per_mac=instructions / products if products else None,
        assumed=sum(row.share for row in rows if row.price.source == 'assumed'),
        ops=tuple(rows),
    )


def work_of(node: Node) -> Work:
    """What a node of a quantised model does."""
    op, shape, output, count = node.op, node.input(0).shape, node.output.shape, macs(node)
    elements = math.prod(shape if op in _READERS else output)
    units, weights, rows = count or elements, 0, 0
    if op == 'CONV_2D':
        kernel = node.input(1).shape
        if kernel[1:3] == (1, 1) == (node.options.strideH, node.options.strideW):
            op, weights = 'CONV_2D 1 x 1', math.prod(kernel)
    elif op == 'BATCH_MATMUL':
        depth = count // elements
        units, rows = elements * -(-depth // _VECTOR) * _VECTOR, elements // output[-1]
    elif op == 'CONCATENATION':
        rows = len(node.inputs) * math.prod(output[: node.options.axis % len(output)])
    elif op in _MOVERS:
        rows = elements // output[-1]
    return Work(
        op=op,
        dtype=node.input(0).dtype,
        spread=len({math.prod(tensor.shape) for tensor in node.reads[:2]}) > 1,
        macs=count,
        elements=elements,
        units=units,
        outputs=elements if count and op != 'DEPTHWISE_CONV_2D' else 0,
        weights=weights,
        rows=rows,
    )


def macs(node: Node) -> int:
    """MACs of a node; 0 where it has none. Products with a convolution's padding count, as in every table of MACs."""
    out = math.prod(node.output.shape)
    match node.op:
        case 'FULLY_CONNECTED' | 'CONV_2D':  # kernel [F, D] or [F, height, width, D]
            return out * math.prod(node.input(1).shape[1:])
        case 'BATCH_MATMUL':
            return out * node.input(0).shape[-2 if node.options.adjX else -1]
        case 'DEPTHWISE_CONV_2D':  # kernel [1, height, width, F]
            return out * math.prod(node.input(1).shape[1:3])
    return 0


def table(cost: Cost) -> list[str]:
    """The cost as lines of text."""
    rows = [['operator', 'nodes', 'MACs', 'elements', 'instructions', 'share', 'kernel', 'price']]
    rows += [
        [
            row.op if row.dtype == 'int8' else f'{row.op} {row.dtype}',
            f'{row.nodes:,}',
            f'{row.macs:,}',
            f'{row.elements:,}',
            f'{row.instructions:,}',
            f'{row.share:.1%}',
            row.price.kernel,
            _tag(row.price),
        ]
        for row in cost.ops
    ]
    per_mac = f'{cost.instructions / cost.macs:.2f} a MAC' if cost.macs else ''
    nodes = sum(row.nodes for row in cost.ops)
    rows.append(['all', f'{nodes:,}', f'{cost.macs:,}', '', f'{cost.instructions:,}', '', '', per_mac])
    return aligned(rows, left=(0, 6, 7))


def _tag(price: Price) -> str:
    outputs = f' + {price.per_output:g} an output' if price.per_output else ''
    outputs += f' + {price.per_weight:g} a weight' if price.per_weight else ''
    outputs += f' + {price.per_row:g} a row' if price.per_row else ''
    spread = f' (spread {price.spread:g})' if price.spread is not None else ''
    return f'{price.instructions:g}{outputs}{spread} {price.source}'
