"""High-Rank Factorization folded away: `dehrf` and the algebra of one site.

Training form   y = (x U + b_u) V + b_v,  U [D, E], V [E, F]
Folded form     y = x W + b,              W = U V [D, F],  b = b_u V + b_v

A *site* is a dictionary that holds the key `'hrf'`, and below it the factors `kernel_u`, `kernel_v` and, where there
are biases, `bias_u` and `bias_v`. Nothing else of a tree is looked at, so the functions here serve any tree of nested
dictionaries, whoever made it. They import no flax, change nothing in place, and are traceable.

Source: Zhang, Dong, Xu, Han, "Re-Parameterization of Lightweight Transformer for On-Device Speech Emotion Recognition",
IEEE Internet of Things Journal 2024 (arXiv 2411.09339).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

SITE = 'hrf'
_REQUIRED = frozenset({'kernel_u', 'kernel_v'})
_ALLOWED = _REQUIRED | {'bias_u', 'bias_v'}

Array = jax.Array
# A tree of parameters: nested dictionaries (and lists or tuples) of arrays, in training form or folded.
Params: TypeAlias = Any


def compose(factors: Mapping[str, Array], *, precision: jax.lax.PrecisionLike = None) -> dict[str, Array]:
    """Composes the factors of one site into the one linear layer that they are.

    Args:
      factors: `kernel_u` `[..., D, E]`, `kernel_v` `[..., E, F]` and, optionally, `bias_u` `[..., E]` and `bias_v`
        `[..., F]`. Leading axes (layers stacked by `nn.scan` or `nn.vmap`) are batch axes.
      precision: of the matrix products; None is the backend's default, which on accelerators is a reduced one.

    Returns:
      `kernel` `[..., D, F]`, and `bias` `[..., F]` if the site has any bias, in the factors' dtype.
    """
    u, v = factors['kernel_u'], factors['kernel_v']
    folded = {'kernel': jnp.matmul(u, v, precision=precision)}
    bias = factors.get('bias_v')
    if 'bias_u' in factors:
        through = jnp.matmul(factors['bias_u'][..., None, :], v, precision=precision)[..., 0, :]
        bias = through if bias is None else through + bias
    if bias is not None:
        folded['bias'] = bias
    return folded


def dehrf(params: Params, *, strict: bool = False) -> Params:
    """Folds every HRF site of a tree: the training pytree in, the compact inference pytree out.

    Products are taken at the highest precision, in at least float32, and given back in the factors' dtype. Fold in
    float64 (`in_float64`) what is to be quantised. Folding a folded tree returns an equal tree.

    Args:
      params: nested dictionaries (and lists or tuples) of arrays, `params` or whole `variables`.
      strict: raise if there is no site to fold.

    Returns:
      A new tree, in which each site `{'hrf': {'kernel_u', 'bias_u', 'kernel_v', 'bias_v'}}` has become
      `{'kernel', 'bias'}`: exactly the tree, shapes and dtypes that the plain model's `init` makes. All other leaves
      are the same objects.

    Raises:
      ValueError: the factors of a site do not fit, with the site's path, what was expected and what was found;
        or `strict` and no site found.
    """
    if strict and not hrf_sites(params):
        raise ValueError(f"dehrf: expected at least one site (a '{SITE}' entry with factors), found none")
    return _fold(params, ())


def in_float64(function: Callable[[Params], Params], tree: Params) -> Params:
    """What a function makes of a tree in float64, rounded once, at the end: leaves are float32 NumPy arrays."""
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)
        return jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), function(wide))


def hrf_sites(params: Params) -> list[str]:
    """The paths of all HRF sites in a tree, as `'encoder/layer_0/ffn_in'`, in the tree's order."""
    return ['/'.join(path) for path in _sites(params, ())]


def _children(node: Params) -> list[tuple[str, Params]]:
    if isinstance(node, Mapping):
        return [(str(key), child) for key, child in node.items()]
    if isinstance(node, (list, tuple)):
        return [(str(index), child) for index, child in enumerate(node)]
    return []


def _is_site(node: Params) -> bool:
    return isinstance(node, Mapping) and isinstance(node.get(SITE), Mapping) and bool(_REQUIRED & set(node[SITE]))


def _sites(node: Params, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    if _is_site(node):
        yield path
    for key, child in _children(node):
        yield from _sites(child, (*path, key))


def _fold(node: Params, path: tuple[str, ...]) -> Params:
    if _is_site(node):
        return _fold_site(node, path)
    if isinstance(node, Mapping):
        return {key: _fold(child, (*path, str(key))) for key, child in node.items()}
    if isinstance(node, (list, tuple)):
        children = [_fold(child, (*path, str(index))) for index, child in enumerate(node)]
        return type(node)(*children) if hasattr(node, '_fields') else type(node)(children)
    return node


def _fold_site(node: Mapping[str, Params], path: tuple[str, ...]) -> dict[str, Params]:
    factors = node[SITE]
    _check_site(factors, '/'.join(path) or '<root>')
    others = {key: _fold(child, (*path, str(key))) for key, child in node.items() if key != SITE}
    dtype = jnp.result_type(*factors.values())
    # A bfloat16 product would lose what float32 sums keep; float64 stays float64.
    wide = {name: jnp.asarray(leaf, jnp.promote_types(dtype, jnp.float32)) for name, leaf in factors.items()}
    folded = {name: leaf.astype(dtype) for name, leaf in compose(wide, precision=jax.lax.Precision.HIGHEST).items()}
    clash = sorted(others.keys() & folded.keys())
    if clash:
        raise ValueError(f"{'/'.join(path)}: expected '{SITE}' alone, found it beside {clash}")
    return {**others, **folded}


def _check_site(factors: Mapping[str, Params], where: str) -> None:
    unknown, missing = sorted(set(factors) - _ALLOWED), sorted(_REQUIRED - set(factors))
    if unknown or missing:
        raise ValueError(
            f'{where}: expected the factors kernel_u, kernel_v and optionally bias_u, bias_v, got {sorted(factors)}'
        )
    u, v = jnp.shape(factors['kernel_u']), jnp.shape(factors['kernel_v'])
    if len(u) < 2 or len(u) != len(v) or u[:-2] != v[:-2] or u[-1] != v[-2]:
        raise ValueError(f'{where}: expected kernel_u [..., D, E] and kernel_v [..., E, F], got {u} and {v}')
    for name, expected in (('bias_u', (*u[:-2], u[-1])), ('bias_v', (*v[:-2], v[-1]))):
        if name in factors and jnp.shape(factors[name]) != expected:
            raise ValueError(f'{where}: expected {name} {expected}, got {jnp.shape(factors[name])}')
