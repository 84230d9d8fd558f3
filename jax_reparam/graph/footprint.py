"""What a model takes of TFLM's arena on a 32-bit processor, by the rules of TFLM's allocator and of its kernels.

TFLM's Python package says what it took on a 64-bit host. Pointers are half as wide on a Cortex-M, and CMSIS-NN's
kernels take memory that the reference kernels do not. So the arena of a device is counted. The numbers are of TFLM of
August 2026 (commit 90b983c2) with its CMSIS-NN: `sizeof` of its structures as arm-none-eabi-gcc 12.2 lays them out for
a Cortex-M, and what its kernels ask for in Init and Prepare. `docs/results.md` has count and board side by side.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence

import numpy as np

from jax_reparam.graph import arena
from jax_reparam.graph.graph import Graph, Node, Tensor

# Allocators and planner, before anything of the model: SingleArenaBufferAllocator, GreedyMemoryPlanner, MicroAllocator,
# MicroBuiltinDataAllocator, SubgraphAllocations.
_FIXED = (36, 44, 36, 8, 8)
_POINTER = 4
_EVAL_TENSOR, _NODE = 12, 32  # TfLiteEvalTensor of every tensor, constants too; NodeAndRegistration
_TENSOR, _QUANTISATION = 32, 12  # TfLiteTensor and TfLiteAffineQuantization of each input and output of the model
# Only while it plans: ScratchBufferRequest, of which a node may ask for 12; AllocationInfo; of a buffer in the planner.
_REQUEST, _REQUESTS, _INFO, _PLANNED = 12, 12, 24, 40
# TfLite...Params, where TFLM's parser of the operator makes one: bytes and alignment.
_OPTIONS = {
    'ADD': (2, 1),
    'AVERAGE_POOL_2D': (40, 4),
    'BATCH_MATMUL': (3, 1),
    'CAST': (2, 1),
    'CONCATENATION': (8, 4),
    'CONV_2D': (28, 4),
    'DEPTHWISE_CONV_2D': (28, 4),
    'DIV': (1, 1),
    'FULLY_CONNECTED': (5, 1),
    'GATHER': (8, 4),
    'MAX_POOL_2D': (40, 4),
    'MEAN': (1, 1),
    'MUL': (1, 1),
    'PACK': (8, 4),
    'REDUCE_MAX': (1, 1),
    'RESHAPE': (36, 4),
    'SOFTMAX': (4, 4),
    'SPLIT': (4, 4),
    'SPLIT_V': (4, 4),
    'SQUEEZE': (36, 4),
    'STRIDED_SLICE': (24, 4),
    'SUB': (2, 1),
    'SUM': (1, 1),
    'UNPACK': (8, 4),
}
# What a kernel keeps of a node: OpData and the like; nothing for those that move or convert values as they are.
_KEPT = {
    'ADD': 60,
    'AVERAGE_POOL_2D': 36,
    'BATCH_MATMUL': 36,
    'CONCATENATION': 24,
    'CONV_2D': 60,
    'DEQUANTIZE': 32,
    'DEPTHWISE_CONV_2D': 60,
    'DIV': 28,
    'FULLY_CONNECTED': 72,
    'HARD_SWISH': 20,
    'LOGISTIC': 16,
    'MAX_POOL_2D': 36,
    'MEAN': 44,
    'MUL': 36,
    'PAD': 52,
    'PADV2': 52,
    'QUANTIZE': 32,
    'REDUCE_MAX': 44,
    'RELU': 28,
    'RSQRT': 28,
    'SOFTMAX': 64,
    'SQUARED_DIFFERENCE': 96,
    'STRIDED_SLICE': 84,
    'SUB': 52,
    'SUM': 44,
    'SignalRfft': 32,
    'TANH': 16,
} | dict.fromkeys(('CAST', 'EXPAND_DIMS', 'LOG', 'RESHAPE', 'SLICE', 'SPLIT', 'SPLIT_V', 'SQUEEZE', 'TRANSPOSE'), 0)
# Of an operator that is not in the table.
_OTHER = 96
_MATMUL_QUANTISATION = 28  # OpDataBatchMatmul::QuantizationInfo
# Of kissfft's state for a transform of n points: 10 n and this; and the values that a lookup table of softmax holds.
_FFT_STATE, _TABLE = 280, 513
# Of channels, that CMSIS-NN's depthwise kernel takes at once on a processor with Helium.
_BLOCK = 124


@dataclasses.dataclass(frozen=True)
class Footprint:
    """Bytes of an arena that starts and ends at a multiple of 16.

    Attributes:
      used: what the interpreter keeps, as its `arena_used_bytes()` says.
      needed: with what it takes for planning, in the same memory; a smaller arena is refused.
    """

    used: int
    needed: int


@dataclasses.dataclass(frozen=True)
class _Wanted:
    """What a kernel asks for in Prepare: kept bytes, one number a request, and scratch for the time that it runs."""

    kept: tuple[int, ...] = ()
    scratch: tuple[int, ...] = ()


def footprint(graph: Graph, *, helium: bool) -> Footprint:
    """The arena of a model as `flatbuffer.write` writes it, on a Cortex-M with CMSIS-NN.

    Args:
      graph: the model; its plan (`arena.arrange`) is followed, where it has one.
      helium: with the vector instructions of a Cortex-M55 or M85; else with those of a Cortex-M4, M7 or M33.
    """
    tensors = graph.used()
    wanted = [_wanted(node, helium) for node in graph.nodes]
    scratch = [(place, size) for place, want in enumerate(wanted) for size in want.scratch]
    tail = 0

    def keep(size: int, alignment: int = _POINTER) -> None:
        nonlocal tail
        tail = _up(tail + size, alignment)

    for size in _FIXED:
        keep(size)
    keep(_EVAL_TENSOR * len(tensors))
    keep(_NODE * len(graph.nodes))
    for node in graph.nodes:
        if node.op in _OPTIONS:
            keep(*_OPTIONS[node.op])
    for node in graph.nodes:
        for size in _at_init(node):
            keep(size, arena.ALIGNMENT)
    for want in wanted:
        for size in want.kept:
            keep(size, arena.ALIGNMENT)
    keep(_POINTER * len(scratch))
    computed = [tensor for tensor in tensors if tensor.constant is None]
    while_planning = _up(
        _up(_REQUEST * (len(scratch) + _REQUESTS), _POINTER) + _POINTER + _INFO * (len(tensors) + len(scratch)),
        arena.ALIGNMENT,
    )
    planning = tail + while_planning + _PLANNED * (len(computed) + len(scratch))
    for ends in (graph.inputs, graph.outputs):
        keep(_POINTER * len(ends), arena.ALIGNMENT)
        for tensor in ends:
            keep(_TENSOR)
            if tensor.scale is not None:
                keep(_QUANTISATION)
                keep(_POINTER * (1 + len(tensor.scale)))
    used = tail + _planned(graph, tensors, scratch)
    return Footprint(used=used, needed=max(used, planning))


def _at_init(node: Node) -> Iterator[int]:
    if kept := _KEPT.get(node.op, _OTHER):
        yield kept
    if node.op == 'SignalRfft':
        yield 10 * _points(node) + _FFT_STATE


def _wanted(node: Node, helium: bool) -> _Wanted:
    dtype, shape, output = node.input(0).dtype, node.input(0).shape, node.output.shape
    whole = dtype in ('int8', 'int16')
    match node.op:
        case 'FULLY_CONNECTED' if dtype == 'int8':
            weights = node.input(1)
            if by_pixel(node):
                one_scale = weights.scale is None or len(weights.scale) == 1
                return _Wanted(scratch=(8 * output[-1],) if one_scale else ())
            return _Wanted(kept=(4 * output[-1],) if helium else ())
        case 'BATCH_MATMUL':
            dims = 4 + 4 * len(output)
            kept: list[int] = []
            for transposed, tensor in ((node.options.adjX, node.input(0)), (not node.options.adjY, node.input(1))):
                if transposed:
                    kept += [_EVAL_TENSOR, 4 + 4 * len(tensor.shape), _bytes(tensor)]
            kept += [dims, _MATMUL_QUANTISATION] if whole else [dims]
            return _Wanted(tuple(kept), (4 * output[-1],) if helium and dtype == 'int8' else ())
        case 'CONV_2D' if whole:
            kernel = node.input(1).shape
            size = _columns(math.prod(kernel[1:]), dtype, helium)
            if dtype == 'int8' and kernel[1:3] == (1, 1):
                size = 0
            return _Wanted((4 * kernel[0],) * 2, (size,) if size else ())
        case 'DEPTHWISE_CONV_2D' if whole:
            kernel = node.input(1).shape
            size = _depthwise(shape[-1], kernel, helium) if dtype == 'int8' else 0
            return _Wanted((4 * kernel[-1],) * 2, (size,) if size else ())
        case 'SOFTMAX' if dtype == 'int16':
            return _Wanted(kept=(2 * _TABLE,) * 2)
        case 'AVERAGE_POOL_2D' if whole and not helium:
            return _Wanted(scratch=(4 * shape[-1],))
        case 'MEAN' | 'SUM' | 'REDUCE_MAX':
            loops = (4 * len(shape), 4 * math.prod(node.input(1).shape))
            return _Wanted(scratch=(4 * math.prod(output), *loops) if whole and node.op != 'REDUCE_MAX' else loops)
        case 'SignalRfft':
            return _Wanted(scratch=(4 * _points(node),))
    return _Wanted()


def by_pixel(node: Node) -> bool:
    """Whether CMSIS-NN runs a FULLY_CONNECTED as a convolution of single pixels."""
    return node.input(0).dtype == 'int8' and len(node.output.shape) > 2 and node.input(1).shape[-1] % 4 == 0


def _columns(length: int, dtype: str, helium: bool) -> int:
    """Scratch of a convolution: some columns of its input, of as many values as a kernel has, in whole vectors."""
    if helium:
        return 4 * 16 * -(-length * np.dtype(dtype).itemsize // 16)
    return 2 * 2 * (_up(length, 4) if dtype == 'int8' else length)


def _depthwise(channels: int, kernel: Sequence[int], helium: bool) -> int:
    """Scratch of an int8 depthwise convolution with a kernel `[1, height, width, F]`."""
    _, height, width, filters = kernel
    if helium and channels == 1 and filters > 1:  # runs as a convolution
        return _columns(height * width, 'int8', helium) + filters * height * width
    if channels != filters or (not helium and (height, width) == (3, 3)):
        return 0
    return 4 * _BLOCK * height * width if helium else 2 * channels * height * width


def _points(node: Node) -> int:
    """Of a Fourier transform; it makes pairs of half as many and one."""
    return node.output.shape[-1] - 2


def _planned(graph: Graph, tensors: Sequence[Tensor], scratch: Sequence[tuple[int, int]]) -> int:
    """Bytes of tensors and scratch as TFLM's greedy planner puts them.

    Planned ones lie where the plan says, others as low as they can: the largest first, of equal ones the last.
    """
    plan = graph.metadata.get(arena.NAME)
    places = [arena.ONLINE] * len(tensors) if plan is None else np.frombuffer(plan, np.int32)[3:].tolist()
    index = {tensor: place for place, tensor in enumerate(tensors)}
    life: dict[int, list[int]] = {}
    runs = [(-1, graph.inputs)]
    runs += [(time, [*node.reads, *node.outputs]) for time, node in enumerate(graph.nodes)]
    for time, touched in [*runs, (len(graph.nodes) - 1, graph.outputs)]:
        for tensor in touched:
            if tensor.constant is None:
                life.setdefault(index[tensor], [time, time])[1] = time
    # Place or ONLINE, bytes, first and last node.
    wanted = [(places[i], _up(_bytes(tensors[i]), arena.ALIGNMENT), *life[i]) for i in sorted(life)]
    wanted += [(arena.ONLINE, _up(size, arena.ALIGNMENT), time, time) for time, size in scratch]
    wanted.reverse()
    wanted.sort(key=lambda want: (want[0] == arena.ONLINE, -want[1]))
    placed: list[tuple[int, int, int, int]] = []
    for place, size, first, last in wanted:
        if place == arena.ONLINE:
            place = 0
            for start, length, *when in sorted(placed):
                if when[0] <= last and first <= when[1]:
                    if start - place >= size:
                        break
                    place = max(place, start + length)
        placed.append((place, size, first, last))
    return max(start + size for start, size, *_ in placed)


def _bytes(tensor: Tensor) -> int:
    return math.prod(tensor.shape) * np.dtype(tensor.dtype).itemsize


def _up(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment
