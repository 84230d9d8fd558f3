"""Small things that many tests share."""

from __future__ import annotations

import jax
import numpy as np

from jax_reparam import reparam

# A ConvTransformer that trains in seconds.
TINY = {'name': 'conv_transformer', 'channels': 4, 'width': 16, 'layers': 2, 'heads': 2, 'ffn_width': 24}


def moved(tree, seed=0, scale=0.1):
    """The tree with every leaf moved: a fresh bias is zero, and a fold that loses a zero looks right."""
    leaves, structure = jax.tree.flatten(tree)
    rng = np.random.default_rng(seed)
    out = []
    for leaf in leaves:
        leaf = np.asarray(leaf)
        # Away from zero and never negative for the variances, which lie in the same tree.
        out.append((leaf + scale * np.abs(rng.standard_normal(leaf.shape)) + 0.01).astype(leaf.dtype))
    return jax.tree.unflatten(structure, out)


def fold64(tree):
    """The folded tree in float64, as NumPy arrays."""
    with jax.enable_x64(True):
        return jax.tree.map(np.asarray, reparam.dehrf(tree))
