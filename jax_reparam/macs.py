"""Multiply-accumulates (MACs) of a function, counted in its jaxpr: shapes alone, nothing is computed.

Counted are the matrix products and convolutions whose operands depend on the input. A product of parameters or
constants alone (the composition of HRF factors, the projection of a table of positions) is done once, before a device
ever sees the model. Sums, means, normalisations and activations are not counted, as is usual in the field.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jax_reparam import models
from jax_reparam.config import ModelConfig

# Jaxprs and equations are used by their attributes and not named by their types, which move between versions of JAX.
Jaxpr = Any
Equation = Any

# What calls one jaxpr with its own inputs and outputs, and where that lies among its parameters.
_CALLS = {
    'jit': 'jaxpr',
    'pjit': 'jaxpr',  # jit by its name in other versions of JAX
    'remat2': 'jaxpr',  # of jax.checkpoint
    'checkpoint': 'jaxpr',  # likewise, in other versions
    'closed_call': 'call_jaxpr',
    'custom_jvp_call': 'call_jaxpr',
    'custom_vjp_call': 'call_jaxpr',
}


def count(function: Callable[[Any], Any], x: Any) -> int:
    """Counts the MACs of a function of one input.

    Args:
      function: traceable; what it closes over does not depend on its input.
      x: an array or `jax.ShapeDtypeStruct`, or a tree of them; shapes and types are all that is read.

    Raises:
      ValueError: the number of products is not fixed by shapes (`while`), or they lie in an equation not known here.
    """
    jaxpr = _open(jax.make_jaxpr(function)(x))
    return _count(jaxpr, [True] * len(jaxpr.invars))[0]


def of_model(model: ModelConfig, frames: int, n_mels: int, n_classes: int) -> int:
    """Counts the MACs of a plain (folded) model on one window.

    Args:
      model: a recipe's `model`.
      frames: length of the window, T; all its frames are real.
      n_mels: number of mel bands, M.
      n_classes: number of logits, C.

    Raises:
      ValueError: see `count`.
    """
    plain = models.build(model, n_classes=n_classes)
    x = jax.ShapeDtypeStruct((1, frames, n_mels), jnp.float32)
    # With the key inside, no device is ever asked for.
    variables = jax.eval_shape(lambda: plain.init(jax.random.key(0), jnp.zeros(x.shape, x.dtype)))
    jaxpr = _open(jax.make_jaxpr(plain.apply)(variables, x))
    return _count(jaxpr, [False] * (len(jaxpr.invars) - 1) + [True])[0]


def _count(jaxpr: Jaxpr, inputs: Sequence[bool]) -> tuple[int, list[bool]]:
    """MACs of a jaxpr, given which of its inputs depend on x; also which of its outputs do."""
    dependent = {var for var, depends in zip(jaxpr.invars, inputs, strict=True) if depends}
    macs = 0
    for equation in jaxpr.eqns:
        operands = [_is_variable(atom) and atom in dependent for atom in equation.invars]
        if not any(operands):
            continue
        found, outputs = _equation(equation, operands)
        macs += found
        dependent |= {var for var, depends in zip(equation.outvars, outputs, strict=True) if depends}
    return macs, [_is_variable(atom) and atom in dependent for atom in jaxpr.outvars]


def _equation(equation: Equation, operands: list[bool]) -> tuple[int, list[bool]]:
    """The same of one equation that has an operand that depends on x."""
    name, params = equation.primitive.name, equation.params
    if name in _CALLS:
        return _count(_open(params[_CALLS[name]]), operands)
    if name == 'scan':
        return _scan(params, operands)
    if name == 'cond':
        return _cond(params, operands)
    if name == 'while':
        raise ValueError('while: expected a number of rounds that shapes fix, got a loop that ends by a condition')
    outputs = [True] * len(equation.outvars)
    if name == 'dot_general':
        return _dot_general(equation), outputs
    if name == 'conv_general_dilated':
        return _conv_general_dilated(equation), outputs
    # Others have a jaxpr of their own, too, as the sum of a reduction. It must not hide products.
    for jaxpr in _inner(params):
        if _count(jaxpr, [True] * len(jaxpr.invars))[0]:
            raise ValueError(f'{name}: expected no products in it, since how often it runs is not known here')
    return 0, outputs


def _dot_general(equation: Equation) -> int:
    (contracting, _), _ = equation.params['dimension_numbers']
    shape = equation.invars[0].aval.shape
    return math.prod(equation.outvars[0].aval.shape) * math.prod(shape[axis] for axis in contracting)


def _conv_general_dilated(equation: Equation) -> int:
    # Products with the zeros of the padding are counted, as they are in every table of MACs.
    kernel = equation.invars[1].aval.shape
    out_channels = kernel[equation.params['dimension_numbers'].rhs_spec[0]]
    return math.prod(equation.outvars[0].aval.shape) * (math.prod(kernel) // out_channels)


def _scan(params: Mapping[str, Any], operands: list[bool]) -> tuple[int, list[bool]]:
    body, operands = _open(params['jaxpr']), list(operands)
    # JAX 0.12 keeps the three groups of operands (constants, carries, what is scanned) where it kept two counts before.
    first, carries = (
        (1 if group is None else len(group) for group in params['ft_in'][:2])
        if 'ft_in' in params
        else (params['num_consts'], params['num_carry'])
    )
    while True:
        macs, outputs = _count(body, operands)
        before = operands[first : first + carries]
        after = [old or new for old, new in zip(before, outputs[:carries], strict=True)]
        if after == before:
            return params['length'] * macs, after + outputs[carries:]
        # What one round makes dependent, the next one begins with.
        operands[first : first + carries] = after


def _cond(params: Mapping[str, Any], operands: list[bool]) -> tuple[int, list[bool]]:
    index, *rest = operands
    branches = [_count(_open(branch), rest) for branch in params['branches']]
    outputs = [index or any(depends) for depends in zip(*(outputs for _, outputs in branches), strict=True)]
    return max(macs for macs, _ in branches), outputs


def _inner(params: Mapping[str, Any]) -> list[Jaxpr]:
    values = [item for value in params.values() for item in (value if isinstance(value, (list, tuple)) else [value])]
    return [_open(value) for value in values if hasattr(value, 'eqns')]


def _open(jaxpr: Jaxpr) -> Jaxpr:
    """A jaxpr without the constants that it is closed over."""
    return getattr(jaxpr, 'jaxpr', jaxpr)


def _is_variable(atom: Any) -> bool:
    return not hasattr(atom, 'val')  # a literal has its value with it
