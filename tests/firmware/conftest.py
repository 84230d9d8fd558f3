"""A small int8 model of fresh weights, its frontend, and the firmware around both."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from helpers import TINY
from jax_reparam import deploy, firmware, models
from jax_reparam.export import flatbuffer, forms, frontend, metadata, tflm
from jax_reparam.export.manifest import Input
from jax_reparam.features import FrontendConfig
from jax_reparam.windows import WindowConfig

LABELS = ('anger', 'Überraschung', 'neutral')


@pytest.fixture(scope='session')
def inputs():
    """Windows of 24 frames every 10, of 12 bands; every band has a mean and a deviation of its own."""
    rng = np.random.default_rng(2)
    mean, std = rng.uniform(-8, -5, 12), rng.uniform(1.5, 4, 12)
    return Input(FrontendConfig(n_mels=12), WindowConfig(24, 10), mean.astype(np.float32), std.astype(np.float32))


@pytest.fixture(scope='session')
def model(inputs):
    """The .tflite file of a conv_transformer in int8."""
    windows = 3 * np.random.default_rng(0).standard_normal((8, 24, 12)).astype(np.float32)
    plain = models.build({**TINY, 'layers': 1}, n_classes=len(LABELS))
    rng = np.random.default_rng(1)
    fresh = jax.jit(plain.init)(jax.random.key(0), windows[:1])
    variables = jax.tree.map(lambda leaf: np.float32(leaf + 0.1 * np.abs(rng.standard_normal(leaf.shape))), fresh)
    params = jax.tree.map(np.asarray, deploy.prepare({**TINY, 'layers': 1}, variables, 24))
    function = lambda features: deploy.apply({**TINY, 'layers': 1}, params, features)
    return metadata.attach(forms.integer(function, windows), LABELS, inputs)


@pytest.fixture(scope='session')
def front(inputs):
    """The frontend's .tflite file."""
    return frontend.build(inputs)


@pytest.fixture(scope='session')
def written(model, front, inputs, tmp_path_factory):
    """The manifest's entry, and the folder `firmware/`.

    Where TFLM is missing, zeros stand for what it computes: the sources can still be compiled.
    """
    place = tmp_path_factory.mktemp('exported')
    with pytest.MonkeyPatch.context() as patch:
        if tflm.missing() is not None:
            patch.setattr(tflm, 'run', _zeros)
        entry = firmware.write(place, form='int8', model=model, frontend=front, labels=LABELS, inputs=inputs)
    return entry, place / firmware.FOLDER


def _zeros(model, windows):
    width = flatbuffer.graph(model).output.shape[-1]
    return tflm.Outcome(logits=np.zeros((len(windows), width), np.float32), arena_bytes=60_000)
