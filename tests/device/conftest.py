"""A small int8 model of fresh weights, its frontend, and the firmware around both."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from helpers import TINY, float32
from jax_reparam import deploy, manifest, models
from jax_reparam.device import firmware, frontend, metadata
from jax_reparam.frontend.features import FrontendConfig
from jax_reparam.frontend.inputs import Input
from jax_reparam.frontend.voice import VoiceConfig
from jax_reparam.frontend.windows import WindowConfig
from jax_reparam.graph import flatbuffer, passes
from jax_reparam.quantise.quantise import Calibration, quantise
from jax_reparam.runtime import tflm

LABELS = ('anger', 'Überraschung', 'neutral')


@pytest.fixture(scope='session')
def fresh_inputs():
    """Windows of 48 frames every 20, of 12 bands, each of which has statistics of its own; it gets to know voices."""
    rng = np.random.default_rng(2)
    statistics = rng.uniform(-40, -5, 12), rng.uniform(15, 40, 12), rng.uniform(-30, 10, 12)
    mean, std, voice_mean = (values.astype(np.float32) for values in statistics)
    # Learning ends within a window of the golden stream, and has an effect before.
    voice = VoiceConfig(history=0.5, half_seconds=0.3, after_seconds=0.2, most_seconds=1.1)
    return Input(FrontendConfig(n_mels=12), WindowConfig(48, 20), mean, std, voice_mean, voice)


@pytest.fixture(scope='session')
def convert(fresh_inputs):
    """Makes the .tflite file of a conv_transformer.

    `int8` or `int16`; or int8 with 16 bits in attention too, `wide`, or without any, `narrow`.
    """
    windows = 3 * np.random.default_rng(0).standard_normal((8, 48, 12)).astype(np.float32)
    tiny = dataclasses.replace(TINY, layers=1)
    plain = models.build(tiny, n_classes=len(LABELS))
    rng = np.random.default_rng(1)
    fresh = jax.jit(plain.init)(jax.random.key(0), windows[:1])
    variables = jax.tree.map(lambda leaf: np.float32(leaf + 0.1 * np.abs(rng.standard_normal(leaf.shape))), fresh)
    calibration = Calibration(float32(deploy.build(tiny, variables, 48), windows.shape), windows)
    own = deploy.widths(tiny, 48)
    bits = {'int8': own, 'int16': {'': 16}, 'wide': own | {'layers/0/attention/softmax': 16}, 'narrow': {'': 8}}

    def run(form):
        made = passes.optimise(quantise(calibration, bits[form]).graph, fast=form == 'int16')
        return metadata.attach(flatbuffer.write(made), LABELS, fresh_inputs)

    return run


@pytest.fixture(scope='session')
def model(convert):
    """The model in int8."""
    return convert('int8')


@pytest.fixture(scope='session')
def front(fresh_inputs):
    """The frontend's .tflite file."""
    return frontend.build(fresh_inputs.frontend)


@pytest.fixture(scope='session')
def write(front, fresh_inputs, tmp_path_factory):
    """Writes `firmware/` around a model; gives the manifest's entry, and the folder.

    Where TFLM is missing, zeros stand for what it computes: the sources can still be compiled.
    """

    def run(form, model, inputs=fresh_inputs):
        place = tmp_path_factory.mktemp('exported')
        with pytest.MonkeyPatch.context() as patch:
            if tflm.missing() is not None:
                patch.setattr(tflm, 'run', _zeros)
                patch.setattr(tflm, 'fits', lambda model, arena_bytes: True)
            entry = firmware.write(place, form=form, model=model, frontend=front, labels=LABELS, inputs=inputs)
        return entry, place / manifest.FIRMWARE

    return run


@pytest.fixture(scope='session')
def written(write, model):
    """The firmware around the model in int8."""
    return write('int8', model)


@pytest.fixture(scope='session')
def written_wide(write, convert):
    """The firmware around the model in int8 with 16 bits in attention."""
    return write('int8', convert('wide'))


@pytest.fixture(scope='session')
def written_narrow(write, convert):
    """The firmware around the model in int8 of 8 bits alone."""
    return write('int8', convert('narrow'))


@pytest.fixture(scope='session')
def written16(write, convert):
    """The firmware around the model with activations of 16 bits."""
    return write('int16', convert('int16'))


@pytest.fixture(scope='session')
def zig(tmp_path_factory):
    """Runs `zig cc` or `zig c++`, with caches of its own."""
    caches = tmp_path_factory.mktemp('zig')
    places = {'ZIG_GLOBAL_CACHE_DIR': str(caches / 'global'), 'ZIG_LOCAL_CACHE_DIR': str(caches / 'local')}

    def run(*arguments):
        command = [sys.executable, '-m', 'ziglang', *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **places}, check=False)
        assert done.returncode == 0, done.stderr
        return done.stderr

    return run


@pytest.fixture(scope='session')
def flags():
    """Of every compiler: as strict as a device's, and where the declarations of TFLM's API are."""
    strict = ['-std=c++17', '-Wall', '-Wextra', '-Werror', '-fno-exceptions', '-fno-rtti', '-fno-threadsafe-statics']
    return [*strict, '-isystem', str(Path(__file__).parent / 'stubs')]


@pytest.fixture(scope='session')
def build(zig, flags):
    """Compiles a source with the firmware's headers and the declarations of TFLM's API; returns what was said."""

    def run(folder, source, output, *more):
        return zig('c++', *flags, *more, '-I', folder, '-c', '-o', output, source)

    return run


def _zeros(model, windows):
    width = flatbuffer.read(model).output.shape[-1]
    return tflm.Outcome(logits=np.zeros((len(windows), width), np.float32), arena_bytes=60_000)
