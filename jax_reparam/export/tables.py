"""Softmaxes and sigmoids of int8 by the tables of 16 bits, where that saves enough time for the memory that it takes.

TFLM and CMSIS-NN compute exponentials of int8 one by one, those of int16 they read from tables: with both conversions
in a third or a quarter of the instructions (docs/verification.md). What goes in is converted exactly, what comes out
rounded to the steps that it had, so the accuracy stays that of int8.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from jax_reparam.export import cost, flatbuffer, memory
from jax_reparam.export.tidy import tidy

# Operators whose int16 kernels look up; they make what lies within 1 of 0, in steps of this size alone.
OPERATORS = ('SOFTMAX', 'LOGISTIC', 'TANH')
STEP = 2.0**-15
# Shares of all instructions that one operator has to save for its two conversions, and that all have to save together.
ONE_SAVES, ALL_SAVE = 0.01, 1 / 6
# How much more arena that may take.
GROWS = 1 / 4


def taken(model: bytes) -> bytes:
    """An int8 model, as the converter leaves it, with tables where they pay; else the model as it is."""
    wide = widened(model)
    spent = [cost.of_model(form).instructions for form in (model, wide)]
    if spent[1] > (1 - ALL_SAVE) * spent[0]:
        return model
    arenas = [memory.arena(flatbuffer.tree(tidy(form))) for form in (model, wide)]
    return wide if arenas[1] <= (1 + GROWS) * arenas[0] else model


def widened(model: bytes) -> bytes:
    """Puts conversions to 16 bits and back around each of `OPERATORS` for which it saves enough time."""
    content = flatbuffer.tree(model)
    subgraph, least = content.subgraphs[0], ONE_SAVES * cost.of_model(model).instructions
    nodes = []
    for name, node in zip(flatbuffer.operator_names(content), subgraph.operators, strict=True):
        source, output = int(node.inputs[0]), int(node.outputs[0])
        port = flatbuffer.port(subgraph.tensors[source])
        if name not in OPERATORS or port.dtype != 'int8' or port.scale is None or _saved(content, name, output) < least:
            nodes.append(node)
            continue
        # A value is up to 255 steps from zero, of which 128 times as many fit: nothing is rounded.
        read = flatbuffer.add_int16(content, source, port.scale / 128)
        made = flatbuffer.add_int16(content, output, STEP)
        node.inputs, node.outputs = np.array([read], np.int32), np.array([made], np.int32)
        nodes += [
            flatbuffer.node(content, 'QUANTIZE', [source], read),
            node,
            flatbuffer.node(content, 'QUANTIZE', [made], output),
        ]
    subgraph.operators = nodes
    return flatbuffer.pack(content)


def _saved(content: Any, name: str, output: int) -> float:
    """Instructions that an operator takes less so."""
    tables = sum(cost.INT16[kind].instructions for kind in (name, 'QUANTIZE')) + cost.INT8['QUANTIZE'].instructions
    return math.prod(flatbuffer.shape(content, output)) * (cost.INT8[name].instructions - tables)
