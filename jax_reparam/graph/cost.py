"""What a model costs on a Cortex-M4F with CMSIS-NN: work per kind of operator, instructions (estimated) and arena.

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
from jax_reparam.graph.footprint import by_pixel, footprint
from jax_reparam.graph.graph import Graph, Node
from jax_reparam.table import aligned

# What a byte of arena is worth: instructions a window that it has to save, in forms for small memories and in others.
PER_BYTE, PER_BYTE_FAST = 1250, 600
# These cost what they read; all others what they write.
_READERS = ('SUM', 'MEAN', 'REDUCE_MAX', 'AVERAGE_POOL_2D')
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
      per_row: instructions per row: of a product's left side, of a convolution's kernel in a pixel (all its rows are
        one where they are gathered first), or of values that are copied at once.
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


# Figures of `measured` are what benchmarks/boards.py --nodes fits to all nodes of its models of that kind. A reshape
# shows the bytes of what it reads (`arena`), and copies none.
INT8: dict[str, Price] = {
    'FULLY_CONNECTED': Price(1.87, 'CMSIS-NN', 'measured', per_output=51.3),
    'FULLY_CONNECTED 1 x 1': Price(1.45, 'CMSIS-NN', 'measured', per_output=41.0),
    'BATCH_MATMUL': Price(2.03, 'CMSIS-NN', 'measured', per_output=48.7, per_row=123.0),
    'CONV_2D': Price(1.64, 'CMSIS-NN', 'measured', per_output=65.9, per_row=537.0),
    'CONV_2D 1 x 1': Price(1.43, 'CMSIS-NN', 'measured', per_output=41.3, per_weight=2.49),
    'DEPTHWISE_CONV_2D 3 x 3': Price(7.8, 'CMSIS-NN', 'measured'),
    'DEPTHWISE_CONV_2D': Price(10.3, 'CMSIS-NN', 'measured', per_row=22.0),
    'SOFTMAX': Price(524.0, 'CMSIS-NN', 'measured'),
    'TANH': Price(370.3, 'reference', 'kernel'),
    'LOGISTIC': Price(361.5, 'reference', 'kernel'),
    'SUB': Price(85.1, 'reference', 'kernel', spread=94.3),
    'SUM': Price(83.0, 'reference', 'kernel'),
    'MEAN': Price(83.0, 'reference', 'kernel'),
    'ADD': Price(81.2, 'CMSIS-NN', 'measured', spread=103.5),
    'QUANTIZE': Price(43.3, 'reference', 'measured'),
    'MUL': Price(35.9, 'CMSIS-NN', 'kernel', spread=56.1),
    'CAST': Price(4.02, 'reference', 'measured'),
    'TRANSPOSE': Price(5.88, 'CMSIS-NN', 'measured', per_row=2.27),
    'SLICE': Price(4.09, 'reference', 'measured', per_row=8.42),
    'CONCATENATION': Price(0.58, 'reference', 'measured', per_row=31.7),
    'PAD': Price(0.0, 'CMSIS-NN', 'measured', per_row=85.0),
    'PADV2': Price(0.0, 'CMSIS-NN', 'measured', per_row=85.0),
    'RESHAPE': Price(0.0, 'reference', 'measured'),
    # SUB's work and a product.
    'SQUARED_DIFFERENCE': Price(100.0, 'reference', 'assumed'),
    'RSQRT': Price(450.0, 'reference', 'assumed'),
    'AVERAGE_POOL_2D': Price(6.4, 'CMSIS-NN', 'measured'),
}
# TFLM gives every depthwise convolution of int16 to the kernel that fits any shape.
INT16: dict[str, Price] = {
    'FULLY_CONNECTED': Price(2.37, 'CMSIS-NN', 'measured', per_output=58.1),
    'BATCH_MATMUL': Price(1.9, 'CMSIS-NN', 'measured', per_output=42.3, per_row=108.0),
    'CONV_2D': Price(1.84, 'CMSIS-NN', 'measured', per_output=54.0, per_row=504.0),
    'CONV_2D 1 x 1': Price(1.8, 'CMSIS-NN', 'measured', per_output=54.9),
    'DEPTHWISE_CONV_2D': Price(39.8, 'CMSIS-NN', 'measured', per_row=463.0),
    'RSQRT': Price(435.0, 'reference', 'measured'),
    'SUB': Price(85.1, 'reference', 'kernel', spread=87.6),
    'SUM': Price(83.0, 'reference', 'kernel'),
    'MEAN': Price(83.0, 'reference', 'kernel'),
    'ADD': Price(78.5, 'CMSIS-NN', 'measured', spread=106.8),
    'MUL': Price(31.3, 'CMSIS-NN', 'measured', spread=52.6),
    'SOFTMAX': Price(51.8, 'CMSIS-NN', 'measured'),
    'QUANTIZE': Price(44.4, 'reference', 'measured'),
    'PAD': Price(46.6, 'reference', 'measured', per_row=13.9),
    'PADV2': Price(46.6, 'reference', 'measured', per_row=13.9),
    'TANH': Price(21.3, 'reference', 'kernel'),
    'LOGISTIC': Price(23.0, 'reference', 'measured'),
    'TRANSPOSE': Price(5.18, 'reference', 'measured', per_row=41.2),
    'SLICE': Price(4.11, 'reference', 'measured', per_row=8.45),
    'CONCATENATION': Price(1.12, 'reference', 'measured', per_row=35.1),
    'RESHAPE': Price(0.0, 'reference', 'measured'),
    'SQUARED_DIFFERENCE': Price(100.0, 'reference', 'assumed'),
    'AVERAGE_POOL_2D': Price(6.61, 'CMSIS-NN', 'measured'),
}
# By the type of what a node reads. A model whose input is of one of these types has a cost.
PRICES: dict[str, Mapping[str, Price]] = {'int8': INT8, 'int16': INT16}
# Operators without a price of their own run on reference kernels that visit each element.
OTHERS = Price(15.0, 'reference', 'assumed')


@dataclasses.dataclass(frozen=True)
class Row:
    """All nodes of one kind.

    Attributes:
      op: the operator; what CMSIS-NN has a kernel of its own for is a `CONV_2D 1 x 1`, a `FULLY_CONNECTED 1 x 1`, which
        runs as one, and a `DEPTHWISE_CONV_2D 3 x 3`, of as many filters as channels.
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
      arena_bytes: what TFLM keeps of the model in its arena, counted (`footprint`); 0 in manifests from before that.
    """

    processor: str
    macs: schema.Count
    instructions: schema.Count
    instructions_per_mac: schema.Amount | None
    assumed: schema.Share
    ops: tuple[Row, ...]
    arena_bytes: schema.Count = 0


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
        arena_bytes=footprint(graph, helium=False).used,
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
        else:
            rows = elements // output[-1]
    elif op == 'FULLY_CONNECTED' and by_pixel(node):
        op = 'FULLY_CONNECTED 1 x 1'
    elif op == 'DEPTHWISE_CONV_2D':
        _, height, width, filters = node.input(1).shape
        rows = height * elements // output[-1]
        if node.input(0).dtype == 'int8' and (height, width, filters) == (3, 3, shape[-1]):
            op = 'DEPTHWISE_CONV_2D 3 x 3'
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
        outputs=elements if count and node.op != 'DEPTHWISE_CONV_2D' else 0,
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
