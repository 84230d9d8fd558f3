"""Rounding a layer's weights together: what one weight is rounded off by, the next ones make up for.

Inputs of a layer go together, most of all the neighbours that a convolution of a spectrogram sees. Weights that are
rounded each to its nearest step add up their errors over such inputs; here the steps are chosen so that the layer's
*output* is nearest to that of the float32 model: one weight after another, the error of each spread over those that
are still to come (Frantar et al. 2022, GPTQ, section 3). Where each channel has a scale, the best of some is taken. The
first convolution gains most: it has nine weights a channel, too few for their errors to cancel by chance.

Means are left to `bias_correction`: what counts here is how the output varies.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np

from jax_reparam import evaluation
from jax_reparam.graph.graph import LAYERS, Graph, Node, Tensor
from jax_reparam.quantise.formats import short
from jax_reparam.runtime import observe

# Of the calibration windows.
WINDOWS = 32
# Times the smallest scale that clips no weight, where each channel has its own.
SCALES = np.linspace(1, 1.5, 64)
# Added to the variance of each input, as a share of their mean: one that never varies says nothing about its weight.
DAMPING = 1e-3
LIMIT = 127

# Operator, input tensor and the kernel's shape for one channel: layers that agree in these see the same inputs.
View: TypeAlias = tuple[str, Tensor, tuple[int, ...]]
# Of each group of inputs, `[G, K, K]`.
Covariances: TypeAlias = Mapping[View, np.ndarray]


def layers(graph: Graph) -> list[Node]:
    """The linear layers and convolutions of a graph, whose kernels are constants."""
    return [node for node in graph.nodes if node.op in LAYERS and node.input(1).constant is not None]


def covariances(graph: Graph, windows: np.ndarray) -> Covariances:
    """How the inputs of a float32 graph's `layers` vary together on `windows`, `[W, frames, n_mels]`.

    At most `WINDOWS` of them are used, evenly spaced.
    """
    views = {_view(node) for node in layers(graph)}
    sums: dict[View, Any] = dict.fromkeys(views, 0.0)
    sources = list(dict.fromkeys(source for _, source, _ in views))
    for seen in observe.observe(graph, sources, evaluation.evenly(windows, WINDOWS)):
        for operator, source, shape in views:
            x = _inputs(operator, seen[source], shape)
            sums[operator, source, shape] += x.transpose(0, 2, 1) @ x
    return {view: _covariance(total) for view, total in sums.items()}


def rounded(layer: Node, inputs: Covariances) -> Tensor:
    """The kernel of a float32 layer in int8: its linear layers have one scale, its convolutions one a channel.

    Linear layers make a smaller file so; convolutions have few weights, whose rounding counts.
    """
    kernel = layer.input(1)
    rows = _rows(layer.op, kernel.values.astype(np.float64), len(inputs[_view(layer)]))
    largest = np.abs(rows).max(axis=2).reshape(-1)
    if layer.op == 'FULLY_CONNECTED':
        largest = largest.max(keepdims=True)
    smallest = np.where(largest > 0, largest, 1.0) / LIMIT
    # TFLM multiplies the scales of a convolution in float64 in every version.
    scales = short(smallest) if layer.op == 'FULLY_CONNECTED' else smallest
    steps, scales = nearest(rows, inputs[_view(layer)], scales)
    constant = _kernel(layer.op, steps, kernel.shape)
    axis = 3 if layer.op == 'DEPTHWISE_CONV_2D' else 0
    return dataclasses.replace(
        kernel, dtype='int8', scale=scales.astype(np.float32), zero_point=0, axis=axis, constant=constant
    )


def _view(layer: Node) -> View:
    return layer.op, layer.input(0), layer.input(1).shape[1:]


def nearest(rows: np.ndarray, covariance: np.ndarray, scales: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rounds rows of weights so that their products with the inputs vary as they should.

    Args:
      rows: `[G, R, K]`, R rows of K weights for each of G groups of inputs.
      covariance: of each group's inputs, `[G, K, K]`.
      scales: the smallest that clip nothing: one for all rows `[1]`, or one for each `[G * R]`.

    Returns:
      Steps `[G, R, K]`, -127 to 127, and the scales chosen.
    """
    groups, count, taps = rows.shape
    # What varies most comes first: what comes later makes up for it.
    order = np.argsort(-np.diagonal(covariance, axis1=1, axis2=2), axis=1, kind='stable')
    rows = np.take_along_axis(rows, order[:, None], axis=2)
    covariance = np.take_along_axis(np.take_along_axis(covariance, order[:, :, None], axis=1), order[:, None], axis=2)
    size = np.trace(covariance, axis1=1, axis2=2) / taps
    covariance = covariance + (DAMPING * size + np.finfo(np.float64).tiny)[:, None, None] * np.eye(taps)
    spread = np.linalg.cholesky(np.linalg.inv(covariance)).transpose(0, 2, 1)
    best, chosen, least = np.zeros_like(rows), np.zeros((groups, count)), np.full((groups, count), np.inf)
    one = len(scales) == 1
    smallest = np.broadcast_to(scales if one else scales.reshape(groups, count), (groups, count)).astype(np.float64)
    for factor in SCALES[:1] if one else SCALES:
        scale = (smallest * factor)[..., None]
        steps = _in_turn(rows, scale, spread)
        off = rows - steps * scale
        error = np.einsum('grk,gkl,grl->gr', off, covariance, off)
        better = error < least
        least[better], best[better], chosen[better] = error[better], steps[better], scale[better, 0]
    steps = np.empty_like(best)
    np.put_along_axis(steps, order[:, None], best, axis=2)
    return steps, chosen.reshape(-1)[:1] if one else chosen.reshape(-1)


def _in_turn(rows: np.ndarray, scale: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """Steps of weights that are rounded one after another, each with the errors of those before in it."""
    rows, steps = rows.copy(), np.empty_like(rows)
    for tap in range(rows.shape[-1]):
        here = rows[..., tap : tap + 1]
        steps[..., tap : tap + 1] = np.clip(np.rint(here / scale), -LIMIT, LIMIT)
        error = (here - steps[..., tap : tap + 1] * scale) / spread[:, None, None, tap, tap]
        rows[..., tap + 1 :] -= error * spread[:, None, tap, tap + 1 :]
    return steps


def _covariance(sums: np.ndarray) -> np.ndarray:
    """From sums of products, with a column of ones at the end, `[G, K + 1, K + 1]` to `[G, K, K]`."""
    count, totals = sums[:, -1:, -1:], sums[:, :-1, -1:]
    covariance: np.ndarray = sums[:, :-1, :-1] / count - totals @ totals.transpose(0, 2, 1) / count**2
    return covariance


def _inputs(operator: str, x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """What the weights of one channel of a kernel, of some shape, are multiplied by, and a one: `[G, N, K + 1]`."""
    if operator == 'FULLY_CONNECTED':
        x = x.reshape(1, -1, shape[-1])
    else:
        # Strides are left out: what lies between says as much.
        high, wide = shape[:2]
        x = np.pad(x[0], ((high // 2, (high - 1) // 2), (wide // 2, (wide - 1) // 2), (0, 0)))
        x = np.lib.stride_tricks.sliding_window_view(x, (high, wide), axis=(0, 1))
        if operator == 'CONV_2D':
            x = x.transpose(0, 1, 3, 4, 2).reshape(1, -1, high * wide * shape[2])
        else:
            x = x.transpose(2, 0, 1, 3, 4).reshape(x.shape[2], -1, high * wide)
    return np.concatenate([x, np.ones((*x.shape[:2], 1))], axis=2)


def _rows(operator: str, kernel: np.ndarray, inputs: int) -> np.ndarray:
    """A kernel as rows `[G, R, K]`, in the order of its channels."""
    if operator == 'DEPTHWISE_CONV_2D':
        return kernel.reshape(-1, inputs, kernel.shape[3] // inputs).transpose(1, 2, 0)
    return kernel.reshape(1, len(kernel), -1)


def _kernel(operator: str, rows: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The inverse of `_rows`, as int8."""
    if operator == 'DEPTHWISE_CONV_2D':
        rows = rows.transpose(2, 0, 1)
    return rows.reshape(shape).astype(np.int8)
