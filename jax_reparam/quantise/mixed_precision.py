"""int8 with 16 bits where int8 is coarse or slow: both ends, softmaxes and sigmoids, the residual stream, few tokens.

Why these, and what each costs and gains, is in docs/export.md ("16 bits within int8").

8 bits become 16 by CAST, which keeps the integers: where zero is not 0 in 8 bits, all values are off by one constant. A
softmax does not see that, a layer's bias takes it back; what else is cast gets a zero of 0 if its steps hardly grow.
"""

from __future__ import annotations

from collections.abc import Set
from typing import Any

import numpy as np

from jax_reparam.graph import arena, cost, flatbuffer
from jax_reparam.graph.passes import optimise
from jax_reparam.quantise import bias_correction
from jax_reparam.quantise.regions import SAME_SCALE, TABLES, Regions
from jax_reparam.runtime import observe

# What TABLES make lies within 1 of 0: in steps of this size, and no others.
STEP = 2.0**-15
# Numbers of a constant for which a node that casts them takes more memory than a second byte.
_FEW = 256
# By how much steps may grow for a zero of 0.
_WIDER = 1.125
# And the arena, and the instructions, for less noise; for that of frames too, which is most of SpeechFormer's.
GROWS, GROWS_BY_FRAMES = 1.1, 1.2


def choose(quantised: bytes, float32: bytes, *, front: bool, worth: float = cost.PER_BYTE) -> bytes:
    """An int8 model with wide ends, and with all else that is worth its memory.

    `float32` is the same graph; `front` says whether its first normalisation is written for 16 bits (RSQRT). Tables are
    wide if they save `worth` instructions a window for each byte of arena. The rest is for less noise, and the first is
    taken by which arena and instructions grow by little enough: all that few tokens pass, and all before but attention
    (`GROWS_BY_FRAMES`); what few tokens pass, as much of it as that allows; sums, behind a wide front (`GROWS`).
    """
    regions = Regions(flatbuffer.tree(quantised))
    end, tails = len(regions.nodes), regions.tails()

    def plan(places: Set[int]) -> _Planned:
        return _Planned(widen(quantised, float32, places), places)

    ends = frozenset(regions.head() | (regions.front() if front else set()))
    plans = map(plan, dict.fromkeys((ends, ends | regions.tables(worth))))
    chosen = min(plans, key=lambda plan: plan.instructions + worth * plan.arena)
    more = [(GROWS, set(range(tail, end))) for tail in tails]
    if tails and regions.can_be_wide(0):
        more.insert(0, (GROWS_BY_FRAMES, more[0][1] | regions.but_attention()))
    if front:
        more.append((GROWS, regions.sums()))
    planned = ((most, plan(chosen.places | places)) for most, places in more)
    return next((plan for most, plan in planned if plan.fits(chosen, most)), chosen).form


class _Planned:
    """A form, the places of its wide nodes, and what it takes on a device: bytes of arena, instructions a window."""

    def __init__(self, form: bytes, places: Set[int]) -> None:
        optimised = optimise(form)
        self.form, self.places, self.arena = form, places, arena.arena(flatbuffer.tree(optimised))
        self.instructions = cost.of_model(optimised).instructions

    def fits(self, other: _Planned, most: float) -> bool:
        """Whether it takes at most so many times what another one does."""
        return self.arena <= most * other.arena and self.instructions <= most * other.instructions


def widen(quantised: bytes, float32: bytes, places: Set[int]) -> bytes:
    """Makes 16 bits of the 8 of some nodes of an int8 model, as the converter leaves it.

    `float32` is the same graph, of which biases are rounded anew; `places` are those of the nodes in the graph. Where
    8 bits become 16, nothing is rounded; but some tensors get a zero of 0, and steps wider by `_WIDER` at most.

    Raises:
      ValueError: the two are not the same graph; or what is to be joined would have different scales.
    """
    content, reference = flatbuffer.tree(quantised), flatbuffer.tree(float32)
    subgraph = content.subgraphs[0]
    references = {id(node): other for _, node, other in observe.pairs(content, reference)}
    widening = _Widening(content, reference, places)
    for place, node in enumerate(subgraph.operators):
        if place in places:
            widening.widen(place, references[id(node)])
        else:  # it reads what was converted back
            widening.nodes.append(node)
    subgraph.operators = widening.nodes
    subgraph.outputs = np.array([widening.exact.get(int(tensor), int(tensor)) for tensor in subgraph.outputs], np.int32)
    return flatbuffer.pack(content)


class _Widening:
    """The nodes of a graph of which some have 16 bits, and of conversions."""

    def __init__(self, content: Any, reference: Any, places: Set[int]) -> None:
        self._content, self._reference, self._regions, self._places = content, reference, Regions(content), places
        self.nodes: list[Any] = []
        # By int8 tensor the int16 one in its place, made by a node or by conversion; and one that is off by its zero.
        self.exact: dict[int, int] = {}
        self._off: dict[int, int] = {}

    def widen(self, place: int, other: Any) -> None:
        """Adds a node with 16 bits, and conversions of what it reads and makes; `other` is the float32 one."""
        name, node = self._regions.names[place], self._regions.nodes[place]
        inputs, output, behind = list(map(int, node.inputs)), int(node.outputs[0]), self._regions.behind(place)
        if name in observe.LINEAR:
            inputs = self._layer(name, inputs, list(map(int, other.inputs)))
        elif name == 'SOFTMAX':
            inputs = [self._shifted(inputs[0])[0]]
        else:
            inputs = [self._input(*tensors) for tensors in zip(inputs, map(int, other.inputs), strict=True)]
        if name in TABLES:
            scale = STEP
        elif name in SAME_SCALE:
            scale = self._scale(inputs[0])
            if name == 'CONCATENATION' and any(self._scale(tensor) != scale for tensor in inputs):
                raise ValueError(f'CONCATENATION {place}: expected one scale, got {list(map(self._scale, inputs))}')
        else:
            # With that its range fits around 0.
            scale = self._reach(output) / 32767
        self.exact[output] = flatbuffer.add_int16(self._content, output, scale)
        node.inputs, node.outputs = np.array(inputs, np.int32), np.array([self.exact[output]], np.int32)
        self.nodes.append(node)
        if not set(behind) <= self._places:
            self.nodes.append(flatbuffer.node(self._content, 'QUANTIZE', [self.exact[output]], output))

    def _layer(self, name: str, inputs: list[int], others: list[int]) -> list[int]:
        source, weights, *bias = inputs
        bias, others = ([tensor for tensor in tensors if tensor >= 0] for tensors in (bias, others))
        if name == 'FULLY_CONNECTED' and flatbuffer.is_constant(self._content, weights):
            source, zero = self._shifted(source)
        else:
            source, zero = self._input(source, others[0]), 0
        if not bias and not zero:
            return [source, weights]
        scale = flatbuffer.bias_scale(self._content, source, weights)
        values = flatbuffer.constant(self._reference, others[2]) if bias else np.zeros(1)
        steps = bias_correction.in_steps(self._content, source, weights, values, zero=zero)
        # A bias has 64 bits there.
        wide_bias = flatbuffer.add_like(self._content, bias[0] if bias else weights, steps.shape)
        self._tensor(wide_bias).quantization.scale = scale.astype(np.float32)
        flatbuffer.set_constant(self._content, wide_bias, steps)
        return [source, weights, wide_bias]

    def _input(self, tensor: int, other: int) -> int:
        """What stands for an int8 tensor with 16 bits; `other` is the float32 one."""
        if tensor in self.exact or flatbuffer.dtype(self._content, tensor) != 'int8':
            return self.exact.get(tensor, tensor)
        if flatbuffer.is_constant(self._content, tensor):
            self.exact[tensor] = self._constant(tensor, flatbuffer.constant(self._reference, other))
        elif self._zero(tensor) == 0 or self._centre(tensor):
            self._cast(tensor, self.exact)
        else:
            # A value is up to 255 steps from zero, of which 128 times as many fit.
            self.exact[tensor] = flatbuffer.add_int16(self._content, tensor, self._scale(tensor) / 128)
            self.nodes.append(flatbuffer.node(self._content, 'QUANTIZE', [tensor], self.exact[tensor]))
        return self.exact[tensor]

    def _shifted(self, tensor: int) -> tuple[int, int]:
        """What stands for a tensor with 16 bits, and what all its integers are too large by."""
        if tensor in self.exact:
            return self.exact[tensor], 0
        return self._cast(tensor, self._off), self._zero(tensor)

    def _cast(self, tensor: int, cast: dict[int, int]) -> int:
        """The same integers in 16 bits; `cast` holds what was cast before."""
        if tensor not in cast:
            cast[tensor] = flatbuffer.add_int16(self._content, tensor, self._scale(tensor))
            self.nodes.append(flatbuffer.node(self._content, 'CAST', [tensor], cast[tensor]))
        return cast[tensor]

    def _constant(self, tensor: int, values: np.ndarray) -> int:
        """A constant with 16 bits around 0; of many numbers, in 8 bits and cast."""
        if few := values.size <= _FEW:
            constant = flatbuffer.add_int16(self._content, tensor, self._reach(tensor) / 32767)
        else:
            constant = flatbuffer.add_like(self._content, tensor)
            self._set(constant, max(float(np.abs(values).max()), 1e-30) / 127)
        flatbuffer.set_constant(self._content, constant, flatbuffer.port(self._tensor(constant)).encode(values))
        return constant if few else self._cast(constant, {})

    def _centre(self, tensor: int) -> bool:
        """Gives a tensor a zero of 0, and all that show its values otherwise; says whether that was possible."""
        group, scale = self._regions.shown(tensor), self._reach(tensor) / 127
        if group is None or scale > _WIDER * self._scale(tensor) or group & (self.exact.keys() | self._off.keys()):
            return False
        for member in group:
            self._set(member, scale)
        return True

    def _set(self, tensor: int, scale: float) -> None:
        quantization = self._tensor(tensor).quantization
        quantization.scale, quantization.zeroPoint = np.array([scale], np.float32), np.array([0])

    def _reach(self, tensor: int) -> float:
        """How far from 0 the values of an int8 tensor can be."""
        zero = self._zero(tensor)
        return self._scale(tensor) * max(127 - zero, 128 + zero)

    def _scale(self, tensor: int) -> float:
        return float(self._tensor(tensor).quantization.scale[0])

    def _zero(self, tensor: int) -> int:
        return int(self._tensor(tensor).quantization.zeroPoint[0])

    def _tensor(self, tensor: int) -> Any:
        return self._content.subgraphs[0].tensors[tensor]
