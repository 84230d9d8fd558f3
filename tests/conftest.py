"""Two CPU devices, quick compilation, strict shapes; a tiny trained model, and one export of it, to be read only."""

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

from helpers import recipe, tones
from jax_reparam import checkpoint
from jax_reparam.data import pipeline
from jax_reparam.export import folding
from jax_reparam.quantise.quantise import Calibration
from jax_reparam.train import loop

jax.config.update('jax_numpy_rank_promotion', 'raise')


def pytest_collection_modifyitems(items):
    """What needs an export (TFLM), firmware (TFLM) or a compiler is slow."""
    for item in items:
        if {'exported', 'write', 'zig'} & set(item.fixturenames):
            item.add_marker('slow')


@pytest.fixture
def rng():
    """A NumPy generator with a fixed seed."""
    return np.random.default_rng(0)


@pytest.fixture(scope='module')
def source(tmp_path_factory):
    """Five speakers of tones."""
    return tones(tmp_path_factory.mktemp('tones') / 'source')


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


@pytest.fixture(scope='session')
def config(tmp_path_factory):
    """A recipe for five speakers of tones."""
    root = tmp_path_factory.mktemp('corpus')
    # So long that no window's logits are close: fewer steps leave one that each processor's rounding decides.
    changes = {'train__steps': 45, 'train__eval_every': 45, 'train__average': 0.0}
    return recipe(tones(root / 'source'), root / 'cache', **changes)


@pytest.fixture(scope='session')
def workdir(config, tmp_path_factory):
    """A finished training run; training has moved every leaf."""
    path = tmp_path_factory.mktemp('run') / 'w'
    loop.train(config, path, show_progress=False)
    return path


@pytest.fixture(scope='session')
def data(config):
    return pipeline.load_data(config, show_progress=False)


@pytest.fixture(scope='session')
def variables(workdir):
    return checkpoint.load(workdir).variables


@pytest.fixture(scope='session')
def exported(workdir, tmp_path_factory):
    """An export of `workdir` that tests may read, not change."""
    return folding.fold_and_export(workdir, tmp_path_factory.mktemp('export') / 'out', show_progress=False)


@pytest.fixture(scope='session')
def inputs(exported):
    """How audio becomes the input of `exported`."""
    return exported.manifest.input


@pytest.fixture
def far_too_narrow(monkeypatch):
    """Quantised forms are calibrated on next to nothing: they load and run, and are wrong."""
    monkeypatch.setattr(folding, 'Calibration', lambda graph, windows: Calibration(graph, 1e-3 * windows))
