"""Linear layers (HRF) and convolutions in training form, folded away (`dehrf`) and made (`hrf`).

Training form   y = (x U + b_u) V + b_v,  U [D, E], V [E, F]
Folded form     y = x W + b,              W = U V [D, F],  b = b_u V + b_v

A *site* is a dictionary that holds the key `'hrf'`, and below it the factors `kernel_u`, `kernel_v` and, where there
are biases, `bias_u` and `bias_v`. Nothing else of a tree is looked at, so the functions here serve any tree of nested
dictionaries, whoever made it. They import no flax, change nothing in place, and are traceable.

A convolution is the other kind of site, a sum of branches with a batch normalisation in each (`*` convolves):

Training form   y = sum over b of (x * K_b - mean_b) g_b + bias_b,  g_b = scale_b / sqrt(var_b + epsilon)
Folded form     y = x * K + bias,  K = sum of g_b K_b,  bias = sum of (bias_b - mean_b g_b)

K_b is a kernel of the full window, or has one tap in its centre: a 1 x 1 convolution, or the identity. Such a site has
`kernels` (and `kernel_point`) below `'hrf'`, and beside that one dictionary with `scale` and `bias`, which has the name
of the plain model's normalisation; the running statistics lie at the same path of `batch_stats`.

Sources: Zhang, Dong, Xu, Han, "Re-Parameterization of Lightweight Transformer for On-Device Speech Emotion
Recognition", IEEE Internet of Things Journal 2024 (arXiv 2411.09339); the branches: Ding et al. 2021 (RepVGG, arXiv
2101.03697).
"""

from __future__ import annotations

import dataclasses
import functools
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

SITE = 'hrf'
# Of batch normalisations: what a fold divides by is the root of the running variance plus this.
EPSILON = 1e-5
_REQUIRED = frozenset({'kernel_u', 'kernel_v'})
_ALLOWED = _REQUIRED | {'bias_u', 'bias_v'}
_CONVOLUTION = frozenset({'kernels', 'kernel_point'})
_EXPECTED = (
    'expected a convolution in a module of whole variables (params, and batch_stats with its running statistics)'
)

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
    return _compose(factors, functools.partial(_matmul, precision=precision))


def _compose(factors: Mapping[str, Any], matmul: Callable[[Any, Any], Any]) -> dict[str, Any]:
    u, v = factors['kernel_u'], factors['kernel_v']
    folded = {'kernel': matmul(u, v)}
    bias = factors.get('bias_v')
    if 'bias_u' in factors:
        through = matmul(factors['bias_u'][..., None, :], v)[..., 0, :]
        bias = through if bias is None else through + bias
    if bias is not None:
        folded['bias'] = bias
    return folded


def _matmul(left: Array, right: Array, *, precision: jax.lax.PrecisionLike) -> Array:
    """The product `[..., D, F]`; on a mesh with explicit axes it is split as its rows and its columns were."""
    rows, columns = (jax.typeof(array).sharding for array in (left, right))
    if not any(kind == jax.sharding.AxisType.Explicit for kind in (*rows.mesh.axis_types, *columns.mesh.axis_types)):
        return jnp.matmul(left, right, precision=precision)
    spec = [*rows.spec[:-1], columns.spec[-1]]
    if spec[-1] in spec[:-1]:  # an axis splits one dimension
        spec[-1] = None
    mesh = columns.mesh if rows.mesh.empty else rows.mesh
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec))
    return jnp.einsum('...de,...ef->...df', left, right, precision=precision, out_sharding=sharding)


def dehrf(params: Params, *, strict: bool = False) -> Params:
    """Folds every HRF site of a tree: the training pytree in, the compact inference pytree out.

    Products are taken at the highest precision, in at least float32, and given back in the factors' dtype. Fold in
    float64 (`in_float64`) what is to be quantised; factors that are all float64 of NumPy stay so without it. Folding a
    folded tree returns an equal tree. Leaves may be `jax.ShapeDtypeStruct`, or boxes (`nn.Partitioned`): a kernel's
    names are those of its rows and its columns.

    At a convolution's site the normalisation of the plain model's tree becomes the identity (scale 1, bias 0, mean 0,
    variance 1 - epsilon), so that its running statistics are folded, too. Where there is such a site, fold the whole
    variables.

    Args:
      params: nested dictionaries (and lists or tuples) of arrays, `params` or whole `variables` (a dictionary with
        `params` and `batch_stats`).
      strict: raise if there is no site to fold.

    Returns:
      A new tree, in which the factors of each site have become `kernel` and `bias`. It has exactly the structure,
      shapes and dtypes that the plain model's `init` makes. A convolution's site has become `kernel` and `bias` and,
      beside it, its normalisation. All other leaves are the same objects.

    Raises:
      ValueError: the factors of a site do not fit, with the site's path, what was expected and what was found;
        they are no floating-point numbers, or their product is too large for their dtype; a site in something else
        than dictionaries, lists and tuples without names (a `TrainState`, a state of Optax: moments cannot be folded),
        or in a flattened tree; a convolution's site without its running statistics; or `strict` and no site found.
    """
    if strict and not hrf_sites(params):
        raise ValueError(f"dehrf: expected at least one site (a '{SITE}' entry with factors), found none")
    folded = _fold(params, ())
    if is_convolution(folded):
        raise ValueError(f'<root>: {_EXPECTED}')
    _fold_convolutions(folded, None, ())
    return folded


def hrf(params: Params, like: Params, key: Array) -> Params:
    """Unfolds plain layers into HRF sites: the inverse of `dehrf`, as a start for training.

    The result is the same function: `dehrf(hrf(params, like, key))` equals `params` to rounding (1e-12 in float64). Of
    the many factors of a kernel these are well conditioned (`factorise`); biases stay on V, those on U are 0. Float64
    of NumPy stays so without JAX's x64. Traceable: `like` gives names and shapes alone.

    Args:
      params: a plain tree, as `dehrf` returns it.
      like: a tree in training form, or its `jax.eval_shape`: its sites, E and boxes are taken.
      key: of the random bases; each site has its own by its path.

    Returns:
      A new tree like `like`, in the dtypes of `params`. All leaves outside sites are the same objects.

    Raises:
      ValueError: the trees do not fit, with the path, what was expected and what was found; or a site has
        E < min(D, F), or is no floating-point layer.
    """
    return _unfold(params, like, key, ())


def factorise(kernel: Any, inner: int, key: Array) -> tuple[Any, Any]:
    """Factors U `[..., D, E]` and V `[..., E, F]` whose product is `kernel` `[..., D, F]`, to rounding.

    U has orthonormal rows and V = U^T W where E >= D; else V has orthonormal columns and U = W V^T (E >= F then).
    Computed in at least float32, at the highest precision, and given back in the kernel's dtype.
    """
    *lead, d, f = kernel.shape
    narrow = d if inner >= d else f
    basis = jax.random.normal(key, (*lead, inner, narrow))
    xp: Any = np if isinstance(kernel, np.ndarray) and kernel.dtype == np.float64 else jnp
    wide = xp.asarray(kernel, xp.promote_types(kernel.dtype, xp.float32))
    # Signs make the basis uniform over all (Haar); QR alone prefers some.
    q, r = xp.linalg.qr(xp.asarray(basis, wide.dtype))
    q = q * xp.sign(xp.diagonal(r, axis1=-2, axis2=-1))[..., None, :]
    matmul = np.matmul if xp is np else functools.partial(_matmul, precision=jax.lax.Precision.HIGHEST)
    u, v = (q.mT, matmul(q, wide)) if inner >= d else (matmul(wide, q.mT), q)
    return u.astype(kernel.dtype), v.astype(kernel.dtype)


def in_float64(function: Callable[[Params], Params], tree: Params) -> Params:
    """What a function makes of a tree in float64, rounded once, at the end: leaves are float32 NumPy arrays."""
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)
        return jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), function(wide))


def hrf_sites(params: Params) -> list[str]:
    """The paths of all HRF sites in a tree, as `'encoder/layer_0/ffn_in'`, in the tree's order."""
    return ['/'.join(path) for path in _sites(params, ())]


def _children(node: Params) -> list[tuple[str, Params]]:
    """The named parts of any node of a tree; none of a leaf."""
    if isinstance(node, Mapping):
        return [(str(key), child) for key, child in node.items()]
    if isinstance(node, (list, tuple)):
        names = getattr(node, '_fields', range(len(node)))
        return [(str(name), child) for name, child in zip(names, node, strict=True)]
    if dataclasses.is_dataclass(node) and not isinstance(node, type):
        return [(field.name, getattr(node, field.name, None)) for field in dataclasses.fields(node)]
    parts = jax.tree.leaves(node, is_leaf=lambda part: part is not node)
    return [(str(index), child) for index, child in enumerate(parts) if child is not node]


def is_convolution(node: Params) -> bool:
    """Whether a part of a tree is the site of a convolution."""
    return _holds(node, _CONVOLUTION)


def _is_site(node: Params) -> bool:
    return _holds(node, _REQUIRED | _CONVOLUTION)


def _holds(node: Params, names: Set[str]) -> bool:
    return isinstance(node, Mapping) and isinstance(node.get(SITE), Mapping) and bool(names & set(node[SITE]))


def _sites(node: Params, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    if _is_site(node):
        yield path
    for key, child in _children(node):
        yield from _sites(child, (*path, key))


def _fold(node: Params, path: tuple[str, ...]) -> Params:
    if _is_site(node) and not is_convolution(node):
        return _fold_site(node, path)
    if isinstance(node, Mapping):
        _refuse_flat_keys(node, path)
        return {key: _fold(child, (*path, str(key))) for key, child in node.items()}
    if isinstance(node, (list, tuple)) and not hasattr(node, '_fields'):
        return type(node)(_fold(child, (*path, str(index))) for index, child in enumerate(node))
    # Of a training state only `params` can be folded: moments of factors are not those of their product. Optax keeps
    # them in named tuples.
    for key, child in _children(node):
        _refuse_sites(child, (*path, key), type(node).__name__)
    return node


def _unfold(node: Params, like: Params, key: Array, path: tuple[str, ...]) -> Params:
    if _is_site(like):
        return _unfold_site(node, like, key, path)
    if isinstance(like, Mapping):
        _check_keys(node, set(like), path)
        return {name: _unfold(child, like[name], key, (*path, str(name))) for name, child in node.items()}
    if isinstance(like, (list, tuple)):
        if type(node) is not type(like) or len(node) != len(like):
            raise ValueError(f'{_where(path)}: expected {_kind(like)}, got {_kind(node)}')
        pairs = zip(node, like, strict=True)
        return type(node)(_unfold(child, of, key, (*path, str(index))) for index, (child, of) in enumerate(pairs))
    own, expected = (getattr(_unboxed(leaf), 'shape', None) for leaf in (node, like))
    if own != expected or isinstance(node, (Mapping, list, tuple)):
        raise ValueError(f'{_where(path)}: expected {_kind(like)}, got {_kind(node)}')
    return node


def _unfold_site(node: Params, like: Mapping[str, Params], key: Array, path: tuple[str, ...]) -> dict[str, Params]:
    boxes, where = like[SITE], _where(path)
    if is_convolution(like):
        raise ValueError(f'{where}: expected sites of linear layers, got a convolution, whose branches only begin anew')
    shapes = {name: _unboxed(leaf) for name, leaf in boxes.items()}
    _check_site(shapes, where)
    biased = 'bias_v' in shapes
    if not biased and 'bias_u' in shapes:
        raise ValueError(f'{where}: expected bias_v beside bias_u, got {sorted(shapes)}')
    others = {name: child for name, child in like.items() if name != SITE}
    _check_keys(node, {*others, 'kernel', *(['bias'] if biased else [])}, path)
    plain = {name: _unboxed(node[name]) for name in ('kernel', 'bias') if name in node and name not in others}
    u, v = shapes['kernel_u'].shape, shapes['kernel_v'].shape
    for name, shape in (('kernel', (*u[:-1], v[-1])), ('bias', (*v[:-2], v[-1]))):
        if name in plain:
            _check_floating({name: plain[name]}, where)
            if plain[name].shape != shape:
                raise ValueError(f'{where}: expected {name} {shape}, got {tuple(plain[name].shape)}')
    if (inner := u[-1]) < min(u[-2], v[-1]):
        raise ValueError(f'{where}: expected E >= min(D, F) = {min(u[-2], v[-1])}, got E = {inner}')
    key = jax.random.fold_in(key, zlib.crc32('/'.join(path).encode()))
    factors = dict(zip(('kernel_u', 'kernel_v'), factorise(plain['kernel'], inner, key), strict=True))
    if biased:
        factors['bias_v'] = plain['bias']
    if 'bias_u' in shapes:
        zeros = np.zeros if isinstance(plain['bias'], np.ndarray) else jnp.zeros
        factors['bias_u'] = zeros(shapes['bias_u'].shape, plain['bias'].dtype)
    boxed = {
        name: box.replace_boxed(factors[name]) if hasattr(box, 'replace_boxed') else factors[name]
        for name, box in boxes.items()
    }
    return {SITE: boxed, **{name: _unfold(node[name], of, key, (*path, str(name))) for name, of in others.items()}}


def _check_keys(node: Params, expected: set[Any], path: tuple[str, ...]) -> None:
    found = set(node) if isinstance(node, Mapping) else None
    if found != expected:
        raise ValueError(f'{_where(path)}: expected {_kind(dict.fromkeys(expected))}, got {_kind(node)}')


def _kind(node: Params) -> str:
    """What a node of a tree is, for a message."""
    if isinstance(node, Mapping):
        return f'a dictionary of {", ".join(sorted(map(str, node))) or "nothing"}'
    if isinstance(node, (list, tuple)):
        return f'a {type(node).__name__} of {len(node)}'
    leaf = _unboxed(node)
    return f'an array {tuple(leaf.shape)}' if hasattr(leaf, 'shape') else type(leaf).__name__


def _refuse_sites(node: Params, path: tuple[str, ...], kind: str) -> None:
    if _is_site(node):
        raise ValueError(
            f'{_where(path)}: expected a site in dictionaries, lists and tuples alone (the params of a state), '
            f'got it in a {kind}'
        )
    if isinstance(node, Mapping):
        _refuse_flat_keys(node, path)
    for key, child in _children(node):
        _refuse_sites(child, (*path, key), kind)


def _refuse_flat_keys(node: Mapping[Any, Params], path: tuple[str, ...]) -> None:
    for key in node:
        parts = key if isinstance(key, tuple) else re.split('[/.]', str(key))
        if len(parts) > 1 and SITE in parts:
            raise ValueError(f'{_where(path)}: expected nested dictionaries, got the flattened key {key!r}')


def _fold_site(node: Mapping[str, Params], path: tuple[str, ...]) -> dict[str, Params]:
    boxes, where = node[SITE], _where(path)
    factors = {name: _unboxed(leaf) for name, leaf in boxes.items()}
    _check_site(factors, where)
    others = {key: _fold(child, (*path, str(key))) for key, child in node.items() if key != SITE}
    folded = _folded(_product, factors, where)
    clash = sorted(others.keys() & folded.keys())
    if clash:
        raise ValueError(f"{'/'.join(path)}: expected '{SITE}' alone, found it beside {clash}")
    return {**others, **{name: _boxed(name, leaf, boxes) for name, leaf in folded.items()}}


def _fold_convolutions(node: Params, statistics: Params, path: tuple[str, ...]) -> None:
    """Folds the convolutions of a tree that `_fold` has just made, in place; `statistics` lie where `node` lies."""
    for key, child in list(_items(node)):
        inner = (*path, str(key))
        if is_convolution(child):
            _fold_convolution(node, statistics, key, _where(inner))
        elif key == 'params' and isinstance(node, dict) and 'batch_stats' in node:
            _fold_convolutions(child, node['batch_stats'], inner)
        else:
            _fold_convolutions(child, _part(statistics, key), inner)


def _items(node: Params) -> Iterable[tuple[Any, Params]]:
    if isinstance(node, dict):
        return node.items()
    return enumerate(node) if type(node) in (list, tuple) else ()


def _part(node: Params, key: Any) -> Params:
    return dict(_items(node)).get(key)


def _fold_convolution(parent: Params, statistics: Params, key: str, where: str) -> None:
    """Puts the folded convolution in its site's place in `parent`, and the normalisation beside it, in place."""
    site, names = parent[key], [name for name in parent[key] if name != SITE]
    name = names[0] if len(names) == 1 else None
    norm, running = _part(site, name), _part(_part(statistics, key), name)
    if not isinstance(norm, dict) or set(norm) != {'scale', 'bias'}:
        raise ValueError(f"{where}: expected beside '{SITE}' one normalisation with scale and bias, got {names}")
    if not isinstance(parent, dict) or not isinstance(running, dict) or set(running) != {'mean', 'var'}:
        raise ValueError(f'{where}: {_EXPECTED}')
    if name in parent:
        raise ValueError(f"{where}: expected nothing in the place of its normalisation, found '{name}' beside it")
    leaves = {**site[SITE], **norm, **running}
    _check_convolution(site[SITE], leaves, where)
    folded = _folded(_branches_summed, leaves, where)
    parent[key] = {'kernel': folded['kernel'], 'bias': folded['bias']}
    parent[name] = {'scale': folded['scale'], 'bias': folded['shift']}
    del statistics[key]
    statistics[name] = {'mean': folded['mean'], 'var': folded['var']}


def _branches_summed(leaves: Mapping[str, Any], xp: Any) -> dict[str, Any]:
    """The one convolution that a sum of branches is, and the leaves of a normalisation that is the identity."""
    kernels, lead = leaves['kernels'], leaves['scale'].ndim - 1
    copies, *window, inputs, features = kernels.shape[lead:]
    scale, bias, mean, var = (  # [..., B F] to [..., B, F]
        leaves[name].reshape(*kernels.shape[:lead], -1, features) for name in ('scale', 'bias', 'mean', 'var')
    )
    gain = scale / xp.sqrt(var + EPSILON)
    tap = (*kernels.shape[:lead], 1, *(1 for _ in window), inputs, features)
    taps = [leaves['kernel_point'].reshape(tap)] if 'kernel_point' in leaves else []
    if copies + len(taps) < gain.shape[-2]:
        # The identity: output f reads input f, which is number f % I of the I inputs of its group.
        reads = np.arange(inputs)[:, None] == np.arange(features)[None] % inputs
        taps.append(xp.broadcast_to(xp.asarray(reads, kernels.dtype), tap))
    ends = [(0, 0)] * (lead + 1) + [((size - 1) // 2, size // 2) for size in window] + [(0, 0)] * 2
    stack = xp.concatenate([kernels, *(xp.pad(tap, ends) for tap in taps)], axis=lead)
    kernel = (stack * gain.reshape(*gain.shape[:-1], *(1 for _ in window), 1, features)).sum(axis=lead)
    shift = (bias - mean * gain).sum(axis=-2)
    one = xp.ones_like(shift)
    identity = {'scale': one, 'shift': 0 * one, 'mean': 0 * one, 'var': (1 - EPSILON) * one}
    return {'kernel': kernel, 'bias': shift, **identity}


def _folded(compute: Callable[[Mapping[str, Any], Any], dict[str, Any]], leaves: Mapping[str, Any], where: str) -> Any:
    """What `compute` makes of leaves with NumPy or JAX: in their dtype, summed in at least float32."""
    if all(isinstance(leaf, np.ndarray) and leaf.dtype == np.float64 for leaf in leaves.values()):
        folded = compute(leaves, np)  # JAX would round them to float32
    else:
        dtype = jnp.result_type(*leaves.values())

        def narrow(leaves: Mapping[str, Any]) -> dict[str, Any]:
            # A bfloat16 product would lose what float32 sums keep; float64 stays float64.
            wide = {name: jnp.asarray(leaf, jnp.promote_types(dtype, jnp.float32)) for name, leaf in leaves.items()}
            return {name: leaf.astype(dtype) for name, leaf in compute(wide, jnp).items()}

        if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves.values()):
            return jax.eval_shape(narrow, leaves)
        folded = narrow(leaves)
    for name, leaf in folded.items():
        # What is traced has no values yet.
        known = not any(isinstance(array, jax.core.Tracer) for array in (leaf, *leaves.values()))
        if known and not _finite(leaf) and all(map(_finite, leaves.values())):
            raise ValueError(f'{where}: expected a {name} within {leaf.dtype}, got a larger one: fold in a wider type')
    return folded


def _product(factors: Mapping[str, Any], xp: Any) -> dict[str, Any]:
    """The folded linear layer, from the factors at the highest precision."""
    return _compose(factors, np.matmul if xp is np else functools.partial(_matmul, precision=jax.lax.Precision.HIGHEST))


def _finite(leaf: Any) -> bool:
    return bool((np if isinstance(leaf, np.ndarray) else jnp).isfinite(leaf).all())


def _unboxed(leaf: Any) -> Any:
    """What a box (Flax's `AxisMetadata`, known by its method) holds; without the constraint that `unbox` would add."""
    return leaf.value if hasattr(leaf, 'replace_boxed') else leaf


def _boxed(name: str, leaf: Any, boxes: Mapping[str, Any]) -> Any:
    """A folded leaf in the box of the factors: the names of rows are U's, those of columns V's."""
    box: Any = boxes['kernel_u'] if name == 'kernel' else boxes.get('bias_v')
    if not hasattr(box, 'replace_boxed'):
        return leaf
    columns = boxes['kernel_v']
    if name == 'kernel' and hasattr(box, 'names') and hasattr(columns, 'names'):
        box = box.replace(names=(*box.names[:-1], columns.names[-1]))
    return box.replace_boxed(leaf)


def _where(path: tuple[str, ...]) -> str:
    return '/'.join(path) or '<root>'


def _check_floating(leaves: Mapping[str, Params], where: str) -> None:
    for name, leaf in leaves.items():
        if not hasattr(leaf, 'dtype') or not jnp.issubdtype(leaf.dtype, jnp.floating):
            found = getattr(leaf, 'dtype', type(leaf).__name__)
            raise ValueError(f'{where}: expected {name} in floating point, got {found}')


def _check_convolution(kernels: Mapping[str, Params], leaves: Mapping[str, Params], where: str) -> None:
    if 'kernels' not in kernels or set(kernels) - _CONVOLUTION:
        raise ValueError(f'{where}: expected kernels and optionally kernel_point, got {sorted(kernels)}')
    _check_floating(leaves, where)
    shapes = {name: tuple(leaf.shape) for name, leaf in leaves.items()}
    full, norm = shapes['kernels'], shapes['scale']
    lead = len(norm) - 1
    features = full[-1] if full else 0
    if lead < 0 or len(full) < lead + 4 or not features or full[:lead] != norm[:lead] or norm[-1] % features:
        raise ValueError(
            f'{where}: expected kernels [..., copies, *window, inputs, F] and scale [..., branches * F], '
            f'got {full} and {norm}'
        )
    for name in ('bias', 'mean', 'var'):
        if shapes[name] != norm:
            raise ValueError(f'{where}: expected {name} {norm} as scale, got {shapes[name]}')
    point = (*full[:lead], *(1,) * (len(full) - lead - 3), *full[-2:])
    if shapes.get('kernel_point', point) != point:
        raise ValueError(f'{where}: expected kernel_point {point}, got {shapes["kernel_point"]}')
    branches, least = norm[-1] // features, full[lead] + ('kernel_point' in shapes)
    if branches not in (least, least + 1):
        raise ValueError(
            f'{where}: expected a normalisation of {least} branches (or {least + 1}, with the identity), got {branches}'
        )


def _check_site(factors: Mapping[str, Params], where: str) -> None:
    unknown, missing = sorted(set(factors) - _ALLOWED), sorted(_REQUIRED - set(factors))
    if unknown or missing:
        raise ValueError(
            f'{where}: expected the factors kernel_u, kernel_v and optionally bias_u, bias_v, got {sorted(factors)}'
        )
    _check_floating(factors, where)
    shapes = {name: tuple(leaf.shape) for name, leaf in factors.items()}
    u, v = shapes['kernel_u'], shapes['kernel_v']
    stacked = ', with layers stacked on the first axes alone' if max(len(u), len(v)) > 2 else ''
    if len(u) < 2 or len(u) != len(v) or u[:-2] != v[:-2] or u[-1] != v[-2]:
        raise ValueError(f'{where}: expected kernel_u [..., D, E] and kernel_v [..., E, F]{stacked}, got {u} and {v}')
    for name, expected in (('bias_u', (*u[:-2], u[-1])), ('bias_v', (*v[:-2], v[-1]))):
        if name in shapes and shapes[name] != expected:
            raise ValueError(f'{where}: expected {name} {expected}{stacked}, got {shapes[name]}')
