"""Which of TFLM's registrations a model needs, as C++."""

from __future__ import annotations

from jax_reparam.errors import Error
from jax_reparam.graph import flatbuffer
from jax_reparam.graph.graph import Graph

_OPERATORS = """
    ADD AVERAGE_POOL_2D BATCH_MATMUL CAST CONCATENATION CONV_2D DEPTHWISE_CONV_2D DEQUANTIZE DIV EXPAND_DIMS
    FULLY_CONNECTED GATHER HARD_SWISH LOG LOGISTIC MAX_POOL_2D MAXIMUM MEAN MINIMUM MUL PACK PAD PADV2
    QUANTIZE REDUCE_MAX RELU RESHAPE RSQRT SLICE SOFTMAX SPLIT SPLIT_V SQUARED_DIFFERENCE SQUEEZE STRIDED_SLICE SUB SUM
    TANH TRANSPOSE UNPACK
"""
# Methods of TFLM's MicroMutableOpResolver, by operator: AddConv2D of CONV_2D; some are spelled otherwise.
METHODS = {name: f'Add{name.title().replace("_", "")}' for name in _OPERATORS.split()} | {
    'BATCH_MATMUL': 'AddBatchMatMul',
    'PADV2': 'AddPadV2',
    'SignalRfft': 'AddRfft',
}
# Operators with a registration for one type alone, which leaves the kernels of all others out of the program.
# sources/tflm.h has what an older TFLM lacks of them.
INT16_ONLY = frozenset({'ADD', 'BATCH_MATMUL', 'CONV_2D', 'DEPTHWISE_CONV_2D', 'FULLY_CONNECTED', 'SOFTMAX'}) | {
    'AVERAGE_POOL_2D',
    'MAX_POOL_2D',
}
INT8_ONLY = INT16_ONLY | {'MAXIMUM', 'MINIMUM', 'MUL', 'PAD', 'TRANSPOSE'}


class OperatorError(Error):
    """A model has an operator that TFLM's resolver is not known to have; the message is one line."""


def registrations(model: bytes) -> list[str]:
    """One call a operator, `AddConv2D(tflm::Register_CONV_2D_INT8())`, in the order of their names.

    A registration for one type is taken where every node of that operator reads that type.

    Raises:
      OperatorError: see there.
    """
    read: dict[str, set[str]] = {}
    for node in flatbuffer.read(model).nodes:
        read.setdefault(node.op, set()).add(node.input(0).dtype)
    if unknown := sorted(read.keys() - METHODS.keys()):
        raise OperatorError(f'firmware: expected operators that TFLM registers, found {", ".join(unknown)}')
    return [f'{METHODS[name]}({_only(name, types)})' for name, types in sorted(read.items())]


def oldest_tflm(graph: Graph) -> str:
    """The month from which on TFLM has all kernels of a model of the deploy forms, as text.

    That of November 2023 was tried with ConvTransformer and Conformer in int8. TRANSPOSE has 16 bits since commit
    39209b412.
    """
    wide = any(node.op == 'TRANSPOSE' and node.input(0).dtype == 'int16' for node in graph.nodes)
    return 'March 2025' if wide else 'November 2023'


def esp_nn_faults(graph: Graph) -> list[str]:
    """What of a model the kernels of ESP-NN would not stay within their buffers with, one line a node.

    Its softmax of int8 reserves 4 bytes for each row along the second axis and writes 4 for each element of a row; its
    convolutions take 4 axes. Of its other kernels nothing of the kind is known.
    """
    faults = []
    for node in graph.nodes:
        shape = node.input(0).shape
        if node.op == 'SOFTMAX' and node.input(0).dtype == 'int8' and shape[1] < shape[-1]:
            faults.append(f'SOFTMAX {list(shape)}: expected a second axis of {shape[-1]} or more, found {shape[1]}')
        if node.op in ('CONV_2D', 'DEPTHWISE_CONV_2D') and len(shape) != 4:
            faults.append(f'{node.op} {list(shape)}: expected 4 axes, found {len(shape)}')
    return faults


def _only(name: str, types: set[str]) -> str:
    if types == {'int8'} and name in INT8_ONLY:
        return f'tflm::Register_{name}_INT8()'
    if types == {'int16'} and name in INT16_ONLY:
        return f'tflm::Register_{name}_INT16()'
    if types == {'float32'} and name == 'SignalRfft':
        return 'tflm::Register_RFFT_FLOAT()'
    return ''
