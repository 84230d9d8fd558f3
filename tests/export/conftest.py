"""A tiny trained model and one export of it, for all tests that only read them."""

from __future__ import annotations

import jax.numpy as jnp
import pytest

from helpers import recipe, tones
from jax_reparam import checkpoint, pipeline, training
from jax_reparam.checkpoint import FOLDER, Checkpoints
from jax_reparam.export import folding, forms, ranges
from jax_reparam.export.manifest import Input


def save(workdir, config, variables, data):
    """Writes `variables` as the checkpoint of step 7 under `workdir`; returns the folder."""
    meta = {
        'config': config,
        'labels': list(data.corpus.labels),
        'mean': data.mean.tolist(),
        'std': data.std.tolist(),
        'split': data.split.info,
        'corpus': {'name': data.corpus.name, 'key': data.corpus.key, 'synthetic': False},
        'versions': {},
    }
    checkpoints = Checkpoints(workdir / FOLDER)
    checkpoints.save(7, variables=variables, state={'step': jnp.asarray(7)}, meta=meta, score=0.5, error=0.1)
    checkpoints.close()
    return workdir


@pytest.fixture(scope='session')
def config(tmp_path_factory):
    """A recipe for five speakers of tones."""
    root = tmp_path_factory.mktemp('corpus')
    changes = {'train__steps': 30, 'train__eval_every': 30, 'train__average': 0.0}
    return recipe(tones(root / 'source'), root / 'cache', **changes)


@pytest.fixture(scope='session')
def workdir(config, tmp_path_factory):
    """A finished training run; training has moved every leaf."""
    path = tmp_path_factory.mktemp('run') / 'w'
    training.train(config, path, show_progress=False)
    return path


@pytest.fixture(scope='session')
def data(config, workdir):
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
    return Input.from_json(exported.manifest['input'])


@pytest.fixture
def far_too_narrow(monkeypatch):
    """Quantised forms are calibrated on next to nothing: they load and run, and are wrong."""
    quantised, measured = forms.quantised, ranges.measured
    monkeypatch.setattr(ranges, 'measured', lambda float32, windows: measured(float32, 1e-3 * windows))
    monkeypatch.setattr(forms, 'quantised', lambda float32, windows, *rest: quantised(float32, 1e-3 * windows, *rest))
