"""Two CPU devices, quick compilation, strict shapes, and small things that many tests need."""

from __future__ import annotations

import os

# Most programs here run a few times: compiling them takes longer than they do, and a third of it without LLVM's passes.
os.environ['XLA_FLAGS'] = ' '.join(
    (
        '--xla_force_host_platform_device_count=2',
        '--xla_backend_optimization_level=0',
        os.environ.get('XLA_FLAGS', ''),
    )
)
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')

import jax
import numpy as np
import pytest

jax.config.update('jax_numpy_rank_promotion', 'raise')


@pytest.fixture
def rng():
    """A NumPy generator with a fixed seed."""
    return np.random.default_rng(0)


@pytest.fixture(scope='session', autouse=True)
def compiled(tmp_path_factory):
    """What a test or its child process compiles, later ones take from disk: many train the same small models.

    Each worker has its own folder, since JAX does not write its files whole.
    """
    options = {
        'jax_compilation_cache_dir': str(tmp_path_factory.mktemp('compiled')),
        'jax_persistent_cache_min_compile_time_secs': 0.1,
        'jax_persistent_cache_min_entry_size_bytes': -1,
    }
    os.environ.update({name.upper(): str(value) for name, value in options.items()})
    for name, value in options.items():
        jax.config.update(name, value)
