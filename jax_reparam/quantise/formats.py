"""What the integers of each tensor mean: its bits, the real value of a step, and the integer that stands for zero.

    real = scale * (integer - zero_point)

8 bits take the whole range from -128 to 127, 16 bits are symmetric around 0. A tensor that is made in 8 bits and read
in 16 keeps its steps, so that nothing is rounded. It has a zero point of 0, too, where its steps hardly grow for that:
CAST, which keeps integers, then keeps values, and takes a tenth of QUANTIZE's instructions.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from jax_reparam.graph.graph import Graph, Node, Port, Tensor
from jax_reparam.quantise.ranges import Ranges
from jax_reparam.quantise.widths import MOVES

# Bits of a scale's mantissa.
SCALE_BITS = 12


def short(scale: ArrayLike) -> np.ndarray:
    """Scales, rounded up to 12 significant bits, so that float32 holds the product of two.

    Versions of TFLM multiply the scales of a product's inputs in float32 or in float64, and make the same of these.
    """
    mantissa, exponent = np.frexp(np.asarray(scale, np.float64))
    rounded: np.ndarray = np.ldexp(np.ceil(mantissa * 2**SCALE_BITS) / 2**SCALE_BITS, exponent)
    return rounded


@dataclasses.dataclass(frozen=True)
class Format:
    """Of one tensor's integers."""

    bits: int
    scale: float
    zero_point: int = 0

    @property
    def dtype(self) -> str:
        """The name of their type."""
        return f'int{self.bits}'

    @classmethod
    def of(cls, low: float, high: float, bits: int, *, wider: float = 1.0) -> Format:
        """That in which a range just fits; 0 is always in it, and stands for itself if steps are not `wider` for it."""
        low, high = min(low, 0.0), max(high, 0.0)
        ends = (high - low) / 255 or 1.0, max(-low, high) / (2 ** (bits - 1) - 1) or 1.0
        scale, symmetric = map(float, short(ends))
        if bits == 16 or symmetric <= wider * scale:
            return cls(bits, symmetric)
        return cls(bits, scale, int(np.clip(round(-128 - low / scale), -128, 127)))

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Real values in steps."""
        return Port(values.shape, self.dtype, self.scale, self.zero_point).encode(values.astype(np.float64))

    def tensor(self, like: Tensor, values: np.ndarray | None = None) -> Tensor:
        """A tensor of such integers: those of a constant's `values`, where they are given."""
        constant = None if values is None else self.encode(values)
        scale = np.array([self.scale], np.float32)
        return dataclasses.replace(like, dtype=self.dtype, scale=scale, zero_point=self.zero_point, constant=constant)


# What a kernel asks of its operator's integers. Operators that are in neither take and make any.
# - Output and first input (of CONCATENATION, all inputs) have one format.
ONE_FORMAT = MOVES | {'AVERAGE_POOL_2D', 'CONCATENATION', 'GATHER', 'MAX_POOL_2D', 'REDUCE_MAX'}
# - The output has this one.
FIXED: Mapping[tuple[str, int], Format] = {
    ('SOFTMAX', 8): Format(8, 2.0**-8, -128),
    ('LOGISTIC', 8): Format(8, 2.0**-8, -128),
    ('TANH', 8): Format(8, 2.0**-7),
    ('SOFTMAX', 16): Format(16, 2.0**-15),
    ('LOGISTIC', 16): Format(16, 2.0**-15),
    ('TANH', 16): Format(16, 2.0**-15),
}
# - It does not see a constant added to all that it reads, so what it reads may keep its zero when it is cast.
SHIFT_FREE = {'SOFTMAX'}

# By how much steps may grow for a zero point of 0.
WIDER = 1.125

# A tensor as it is held in some bits: one that is made in 16 and read in 8 is held in both.
Held: TypeAlias = tuple[Tensor, int]


def formats(graph: Graph, ranges: Ranges, bits: Mapping[Node, int]) -> dict[Held, Format]:
    """The format of each computed tensor in the bits of the nodes that make and read it.

    Args:
      graph: a float32 graph.
      ranges: of its tensors (`ranges.measured`).
      bits: of its nodes (`widths.assign`).

    Raises:
      ValueError: of tensors that have to share a format two are fixed, or one does not fit in.
    """
    made = {tensor: bits[node] for node in graph.nodes for tensor in node.outputs}
    readers = graph.readers()
    made[graph.inputs[0]] = max(bits[node] for node in readers[graph.inputs[0]])
    groups = {(tensor, width): [(tensor, width)] for tensor, width in made.items()}
    for node in graph.nodes:
        for tensor in node.reads:
            if tensor in made:
                groups.setdefault((tensor, bits[node]), [(tensor, bits[node])])
    fixed: dict[Held, Format] = {}
    for node in graph.nodes:
        output = node.output, bits[node]
        if form := FIXED.get((node.op, bits[node])):
            fixed[output] = form
        for tensor in _one_format(node):
            if tensor in made:
                _join(groups, output, (tensor, bits[node]))
    chosen: dict[Held, Format] = {}
    # First those of 8 bits, whose steps are kept where they are cast.
    for group in sorted({id(group): group for group in groups.values()}.values(), key=lambda group: group[0][1]):
        steps = {chosen[tensor, 8].scale for tensor, width in group if made[tensor] < width}
        largest = max(abs(end) for tensor, _ in group for end in ranges[tensor])
        if len(steps) == 1 and largest <= 2**15 * max(steps) and not fixed.keys() & set(group):
            chosen |= dict.fromkeys(group, Format(16, steps.pop()))
            continue
        cast = any(
            made[tensor] == width < bits[node] and node.op not in SHIFT_FREE
            for tensor, width in group
            for node in readers[tensor]
        )
        chosen |= dict.fromkeys(group, _of_group(group, ranges, fixed, wider=WIDER if cast else 1.0))
    for node in graph.nodes:
        if node.op == 'RSQRT':
            held = node.output, bits[node]
            portable = _portable(chosen[node.input(0), bits[node]], chosen[held])
            chosen |= dict.fromkeys(groups[held], portable)
    return chosen


def _one_format(node: Node) -> list[Tensor]:
    """Of what a node reads, that which has the format of its output."""
    if node.op == 'CONCATENATION':
        return node.reads
    if node.op in ONE_FORMAT:
        return [node.input(0)]
    if node.op == 'ADD' and any(t.constant is not None and t.constant.size == 1 for t in node.reads):
        # A number that is added to all, as a normalisation's epsilon: in equal steps nothing is rounded.
        return node.reads
    return []


def _join(groups: dict[Held, list[Held]], one: Held, other: Held) -> None:
    if groups[one] is not groups[other]:
        groups[one] += groups[other]
        for member in groups[other]:
            groups[member] = groups[one]


def _of_group(group: list[Held], ranges: Ranges, fixed: Mapping[Held, Format], *, wider: float) -> Format:
    [bits] = {bits for _, bits in group}
    spans = [ranges[tensor] for tensor, _ in group]
    low, high = min(low for low, _ in spans), max(high for _, high in spans)
    given = {fixed[held] for held in group if held in fixed}
    if not given:
        return Format.of(low, high, bits, wider=wider)
    form = given.pop()
    limits = np.iinfo(form.dtype)
    least, greatest = ((limit - form.zero_point) * form.scale for limit in (limits.min, limits.max))
    # Its own tensors reach to one step above, as a softmax does.
    if given or low < least - form.scale or high > greatest + form.scale:
        raise ValueError(f'{group[0][0].name!r}: expected a format of {form}, found one that is different')
    return form


def _portable(source: Format, output: Format) -> Format:
    """The least scale, not below that of `output`, with which RSQRT makes most of its integers the same in every TFLM.

    TFLM computes the multiplier 1 / (sqrt(input scale) * output scale) in float32 or in float64, by version and
    compiler. Every integer that RSQRT may read is tried with both. What it makes is multiplied by MUL, whose scales
    every version multiplies in float64, so this one need not be `short`.
    """
    limit = 2 ** (source.bits - 1)
    integers = np.arange(source.zero_point + 1, limit) - source.zero_point
    differing: dict[float, int] = {}
    for step in range(256):
        scale = np.float32(output.scale * (1 + step / 4096))
        single = 1 / np.float64(np.sqrt(np.float32(source.scale)) * scale)
        double = 1 / (math.sqrt(np.float32(source.scale)) * float(scale))
        made = (_rsqrt(integers, float(multiplier), output) for multiplier in (single, double))
        differing[float(scale)] = int(np.not_equal(*made).sum())
        if not differing[float(scale)]:
            break
    return dataclasses.replace(output, scale=min(differing, key=lambda scale: differing[scale]))


def _rsqrt(integers: np.ndarray, multiplier: float, output: Format) -> np.ndarray:
    """TFLM's RSQRT of positive integers, their zero point off, by its 31-bit multiplier: `[3, N]` int64.

    Of each integer it first takes 2^20 / sqrt(n) by Newton's iteration, which may be a step off; so the steps beside
    are in it, too.
    """
    mantissa, exponent = math.frexp(multiplier)
    inverse = np.rint(2**20 / np.sqrt(integers)).astype(np.int64) + np.array([[-1], [0], [1]])
    shift = 31 - (exponent - 20)
    rounded = (inverse * round(mantissa * 2**31) + (1 << (shift - 1))) >> shift
    limits = np.iinfo(output.dtype)
    clipped: np.ndarray = (rounded + output.zero_point).clip(limits.min, limits.max)
    return clipped
