"""A model for a device as a graph: nodes that read and make tensors. `flatbuffer` reads and writes its file."""

from __future__ import annotations

import collections
import copy
import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from jax_reparam.schema import Positive, Size

# Operators that give the values of another tensor in another type.
CONVERSIONS = ('QUANTIZE', 'CAST')
# Those with a constant kernel, and mostly a bias, as second and third input.
LAYERS = ('FULLY_CONNECTED', 'CONV_2D', 'DEPTHWISE_CONV_2D')


@dataclasses.dataclass(frozen=True)
class Port:
    """What a tensor holds: an input or output of a graph, as the manifest has it.

    Attributes:
      shape: its shape, batch included.
      dtype: `float32`, `int8` or `int16`.
      scale: real value of one step; None where the tensor is float.
      zero_point: the integer that stands for 0.0; None where the tensor is float.
    """

    shape: tuple[Size, ...]
    dtype: str
    scale: Positive | None
    zero_point: int | None

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Real values to what the tensor holds: rounded to the nearest step and clipped, or as they are."""
        if self.scale is None or self.zero_point is None:
            return values.astype(self.dtype)
        limits = np.iinfo(self.dtype)
        steps: np.ndarray = np.rint(values / np.float32(self.scale)) + self.zero_point
        return steps.clip(limits.min, limits.max).astype(self.dtype)

    def decode(self, values: np.ndarray, dtype: type[np.floating] = np.float32) -> np.ndarray:
        """What the tensor holds to real values, float32, or float64 for sums over many."""
        real: np.ndarray = values.astype(dtype)
        if self.scale is not None and self.zero_point is not None:
            real = (real - self.zero_point) * dtype(self.scale)
        return real


@dataclasses.dataclass(eq=False)
class Tensor:
    """One tensor; nodes hold the object itself.

    Attributes:
      shape: its shape.
      dtype: `float32`, `int8`, `int16`, `int32` or `int64`.
      scale: real value of a step, `[1]` or one a channel, float32; None where it is not quantised.
      zero_point: the integer that stands for 0.0.
      axis: of the channels, where each has a scale.
      constant: its values; None where they are computed or given.
      name: as in the file.
    """

    shape: tuple[int, ...]
    dtype: str
    scale: np.ndarray | None = None
    zero_point: int = 0
    axis: int = 0
    constant: np.ndarray | None = None
    name: str = ''

    @classmethod
    def of(cls, values: np.ndarray) -> Tensor:
        """A constant that is not quantised."""
        return cls(values.shape, values.dtype.name, constant=values)

    def like(self, **changes: Any) -> Tensor:
        """A computed tensor like this one, without a name."""
        return dataclasses.replace(self, **{'constant': None, 'name': '', **changes})

    def set(self, values: np.ndarray) -> None:
        """Makes it a constant of these values, with their shape and type."""
        self.shape, self.dtype, self.constant = values.shape, values.dtype.name, values

    @property
    def port(self) -> Port:
        """What it holds; the first scale, where there is one a channel."""
        if self.scale is None:
            return Port(self.shape, self.dtype, scale=None, zero_point=None)
        return Port(self.shape, self.dtype, scale=float(self.scale[0]), zero_point=self.zero_point)

    @property
    def values(self) -> np.ndarray:
        """A constant's values."""
        assert self.constant is not None, self.name
        return self.constant


@dataclasses.dataclass(eq=False)
class Node:
    """One operator.

    Attributes:
      op: its name, `FULLY_CONNECTED`; of a custom operator its own.
      inputs: what it reads; None for what it does without, as a layer without a bias.
      outputs: what it makes.
      options: the schema's table of its options, None where it has none (`flatbuffer.options`).
      custom: options of a custom operator; None where it is a builtin one.
      version: of a builtin operator.
    """

    op: str
    inputs: list[Tensor | None]
    outputs: list[Tensor]
    options: Any = None
    custom: bytes | None = None
    version: int = 1

    @property
    def output(self) -> Tensor:
        """The first thing that it makes; most make one."""
        return self.outputs[0]

    @property
    def reads(self) -> list[Tensor]:
        """What it reads, without gaps."""
        return [tensor for tensor in self.inputs if tensor is not None]

    def input(self, place: int) -> Tensor:
        """What it reads at a place where it reads something."""
        tensor = self.inputs[place]
        assert tensor is not None, (self.op, place)
        return tensor

    @property
    def bias(self) -> Tensor | None:
        """Of one of `LAYERS`."""
        return self.inputs[2] if len(self.inputs) > 2 else None


@dataclasses.dataclass(eq=False)
class Graph:
    """A model with one graph.

    Attributes:
      nodes: in an order in which they can run.
      inputs: what is given.
      outputs: what is asked for.
      tensors: in the order of the file, where it was read from one; those in use that are not in it follow.
      metadata: notes of the file.
    """

    nodes: list[Node]
    inputs: list[Tensor]
    outputs: list[Tensor]
    tensors: list[Tensor] = dataclasses.field(default_factory=list)
    metadata: dict[str, bytes] = dataclasses.field(default_factory=dict)

    def copy(self) -> Graph:
        """The same graph of other nodes and tensors; constants' values are shared."""
        tensors = self.used()
        other = {tensor: dataclasses.replace(tensor) for tensor in tensors}

        def copied(node: Node) -> Node:
            inputs = [None if tensor is None else other[tensor] for tensor in node.inputs]
            outputs = [other[tensor] for tensor in node.outputs]
            return dataclasses.replace(node, inputs=inputs, outputs=outputs, options=copy.copy(node.options))

        return Graph(
            [copied(node) for node in self.nodes],
            [other[tensor] for tensor in self.inputs],
            [other[tensor] for tensor in self.outputs],
            [other[tensor] for tensor in tensors],
            dict(self.metadata),
        )

    def used(self) -> list[Tensor]:
        """The tensors that a node or a caller reads or makes, in the order in which a file holds them."""
        used = dict.fromkeys([*self.inputs, *(t for node in self.nodes for t in (*node.reads, *node.outputs))])
        used |= dict.fromkeys(self.outputs)
        return list({tensor: None for tensor in self.tensors if tensor in used} | used)

    def readers(self) -> dict[Tensor, list[Node]]:
        """By tensor the nodes that read it, once for each time that they do."""
        by_tensor: dict[Tensor, list[Node]] = collections.defaultdict(list)
        for node in self.nodes:
            for tensor in node.reads:
                by_tensor[tensor].append(node)
        return by_tensor

    def makers(self) -> dict[Tensor, Node]:
        """By tensor the node that makes it."""
        return {tensor: node for node in self.nodes for tensor in node.outputs}

    def replace(self, old: Node, new: Sequence[Node]) -> None:
        """Puts nodes in another one's place."""
        place = next(place for place, node in enumerate(self.nodes) if node is old)
        self.nodes[place : place + 1] = new

    @property
    def ops(self) -> dict[str, int]:
        """The number of nodes by operator, most frequent first."""
        counts = collections.Counter(node.op for node in self.nodes)
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))

    @property
    def input(self) -> Port:
        """What the one input holds, `[1, frames, n_mels]`."""
        return self.inputs[0].port

    @property
    def output(self) -> Port:
        """What the one output holds, `[1, C]`."""
        return self.outputs[0].port
