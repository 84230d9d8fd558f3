"""Small things that many tests share."""

from __future__ import annotations

import dataclasses
import functools
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile

from jax_reparam import deploy, models, reparam
from jax_reparam.checkpoint import FOLDER, Checkpoints
from jax_reparam.config import (
    AugmentConfig,
    ConformerConfig,
    ConvTransformerConfig,
    DataConfig,
    Recipe,
    SpeechFormerConfig,
    TrainConfig,
    WindowSeconds,
)
from jax_reparam.deploy import convert, ops
from jax_reparam.frontend.features import FrontendConfig
from jax_reparam.frontend.inputs import Input
from jax_reparam.graph import flatbuffer
from jax_reparam.quantise import quantise as quantiser
from jax_reparam.runtime import litert, tflm

ROOT = Path(__file__).parent.parent
# Flags that make a recipe train in seconds.
SMALL = [
    '--config.model.width=16',
    '--config.model.heads=2',
    '--config.model.ffn_width=16',
    '--config.model.layers=1',
    '--config.frontend.n_mels=12',
    '--config.window.seconds=0.64',
    '--config.window.hop_seconds=0.32',
    '--config.train.batch_size=4',
    '--config.train.steps=2',
    '--config.train.eval_every=1',
]
# Models that train in seconds, of 12 mel bands.
TINY = ConvTransformerConfig(channels=4, width=16, layers=2, heads=2, ffn_width=24)
TINY_MODELS = {
    'conv_transformer': TINY,
    'conformer': (conformer := ConformerConfig(channels=4, width=16, layers=2, heads=2, ffn_width=24, kernel=5)),
    'conformer, no positions, relu': dataclasses.replace(conformer, positions='none', activation='relu'),
    'conv_transformer, statistics, deltas': dataclasses.replace(TINY, pooling='statistics', deltas=True),
    'speech_former': SpeechFormerConfig(layers=(2, 1, 1, 1), heads=4, expand=(1, 1, 2)),
}


def needs_tflm(test):
    """Marks a test that starts TFLM, in a child process."""
    return pytest.mark.slow(pytest.mark.skipif(tflm.missing() is not None, reason=str(tflm.missing()))(test))


MISSING = object()


def put(content, path, value):
    """Changes a value of nested objects in place; `path` are keys, and MISSING takes the last one out."""
    *most, last = path
    for key in most:
        content = content[key]
    if value is MISSING:
        del content[last]
    else:
        content[last] = value


def pattern(message):
    """A regular expression for a message in which `.*` stands for anything."""
    return '.*'.join(map(re.escape, message.split('.*')))


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


def drawn(shapes, seed=0):
    """Variables of these shapes, every leaf large and of both signs (but the variances): float32 values as float64.

    Logits are then of size 1 and differ from clip to clip, and no attention is uniform.
    """
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        names = [key.key for key in path]
        noise = rng.standard_normal(leaf.shape)
        if names[-1] == 'var':
            new = rng.uniform(0.3, 2, leaf.shape)
        elif names[-1] == 'scale':
            new = rng.choice([-1, 1], leaf.shape) * rng.uniform(0.5, 1.5, leaf.shape)
        elif names[-1].startswith('kernel'):
            # The mean over the tokens shrinks what the head sees.
            gain = 2 if 'head' in names else 1.8 if names[-2] in ('query', 'key', 'position', 'qkv') else 1.2
            new = gain * noise / np.sqrt(np.prod(leaf.shape[:-1]))
        else:
            new = 0.3 * noise
        return new.astype(np.float32).astype(np.float64)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def fold64(tree):
    """The folded tree in float64, as NumPy arrays."""
    with jax.enable_x64(True):
        return jax.tree.map(np.asarray, reparam.dehrf(tree))


# A recipe that trains in seconds on `tones`, with windows of 64 frames of 12 bands.
RECIPE = Recipe(
    dataclasses.replace(TINY, layers=1),
    frontend=FrontendConfig(n_mels=12),
    window=WindowSeconds(0.64, 0.32),
    data=DataConfig('folder'),
    augment=AugmentConfig(1, 2, 1, 8, stretch=0.1, warp=0.05, field=0),
    train=TrainConfig(
        steps=12, batch_size=8, learning_rate=3e-3, warmup_steps=2, class_weights=True, average=0.9, eval_every=4
    ),
)


# Changes that leave out what takes long to compile.
QUICK = {
    'augment__freq_masks': 0,
    'augment__time_masks': 0,
    'augment__stretch': 0.0,
    'augment__warp': 0.0,
    'model__dropout': 0.0,
    'model__attention_dropout': 0.0,
}


def tones(folder, *, labels=('high', 'low'), speakers=5, clips=3):
    """Makes `folder/LABEL/SPEAKER/n.wav`: noisy tones, the pitch being the label, of 0.4 to 1.5 s; returns it.

    They swell as syllables do: what does not is no speech.
    """
    rng = np.random.default_rng(0)
    for pitch, label in zip((1500, 300, 700), labels, strict=False):
        for speaker in range(speakers):
            for clip in range(clips):
                time = np.arange(rng.integers(6400, 24000)) / 16000
                sound = np.sin(2 * np.pi * pitch * (1 + speaker / 20) * time) + rng.standard_normal(len(time))
                sound *= 0.1 + 0.9 * np.abs(np.sin(2 * np.pi * 2 * time))
                path = folder / label / f's{speaker}' / f'{clip}.wav'
                path.parent.mkdir(parents=True, exist_ok=True)
                soundfile.write(path, (8000 * sound / 2).astype(np.int16), 16000)
    return folder


def syllables(seconds, seed=0, *, loud=0.1, voice=None):
    """Something that counts as speech: a buzz of 120 Hz in a formant or two, in syllables; `[N]` int16.

    Args:
      seconds: how long.
      seed: of the noise in it.
      loud: RMS, full scale being 1.
      voice: gains of three bands of it; None: all alike.
    """
    rng, time = np.random.default_rng(seed), np.arange(round(16000 * seconds)) / 16000
    sound = 0.02 * rng.standard_normal(len(time))
    for gain, pitches in zip(voice or (1, 1, 1), (range(1, 8), range(8, 16), range(16, 40)), strict=True):
        for k in pitches:
            sound += gain * np.sin(2 * np.pi * 120 * k * time + k * k) / k
    sound *= 0.02 + 0.98 * np.sin(2 * np.pi * 1.7 * time + seed) ** 2
    return np.rint(32767 * loud * sound / sound.std()).clip(-32768, 32767).astype(np.int16)


def plain_inputs(recipe):
    """What a recipe's model is given, with statistics that change nothing."""
    zero = np.zeros(recipe.frontend.n_mels, np.float32)
    return Input(recipe.frontend, recipe.window_config, zero, zero + 1, zero, recipe.voice)


def batch(rng, labels, frames=32, n_mels=12):
    """A training batch of random codes (`pipeline.Data.batches`)."""
    n = len(labels)
    return {
        'codes': rng.integers(-60, 60, (n, frames, n_mels)).astype(np.int8),
        'frames': np.full(n, frames, np.int32),
        'voice': np.zeros((n, n_mels), np.float32),
        'voice_frames': np.zeros(n, np.int32),
        'labels': np.array(labels, np.int32),
    }


def windows_of(data, part):
    """All windows of a part in which somebody speaks, and the position of the clip of each."""
    [(windows, clip)] = data.spoken(data.clips(part))
    return windows, clip


def recipe(source, cache, **changes):
    """`RECIPE` for a folder corpus; `changes` are `section__key=value`."""
    changes = {name.replace('__', '.'): value for name, value in changes.items()}
    return RECIPE.with_changes({'data.source': str(source), 'data.cache': str(cache), **changes})


def untimed(values):
    """A run's result, or a line of its metrics, without what the clock says."""
    return {name: value for name, value in values.items() if name not in ('seconds', 'steps_per_second')}


def run_without(command, arguments, names):
    """What a command prints in a process of its own; fails if it fails, complains, or has imported one of `names`."""
    code = (
        f'import sys; from jax_reparam.commands import module; code = module({command!r}).main({list(arguments)!r})\n'
        f'sys.exit(code or str([name for name in {tuple(names)!r} if name in sys.modules] or ""))'
    )
    found = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=False, env=os.environ)
    assert found.stderr.strip() == ''
    return found.stdout


def drawn_case(name, frames):
    """(windows, logits of the plain model, deploy form) of one of `TINY_MODELS` with random weights."""
    fields = TINY_MODELS[name]
    plain = models.build(fields, n_classes=3)
    variables = drawn(jax.eval_shape(plain.init, jax.random.key(0), jnp.zeros((1, 8, 12))))
    rng = np.random.default_rng(0)
    windows = 2 * (rng.standard_normal((12, frames, 12)) + rng.standard_normal((12, 1, 12))).astype(np.float32)
    logits = jax.jit(plain.apply)(jax.tree.map(np.float32, variables), windows)
    return windows, np.asarray(logits), deploy.build(fields, variables, frames)


@functools.cache
def drawn_calibration(name):
    """(windows of 61 frames, logits of the plain model, `Calibration`) of one of `TINY_MODELS`, to be read only."""
    windows, logits, function = drawn_case(name, 61)
    return windows, logits, quantiser.Calibration(float32(function, windows.shape), windows)


def float32(function, shape):
    """The graph of a function of one window `[1, frames, n_mels]`, as the converter leaves it."""
    return flatbuffer.read(convert.to_float32(function, (1, *shape[-2:])))


def quantise(function, windows, bits=8):
    """The same graph in integers; the windows set the ranges, `bits` are 8, 16, or by scope."""
    return quantised(float32(function, windows.shape), windows, bits).graph


def in_litert(graph, windows):
    """What LiteRT makes of a graph and windows."""
    return litert.load(flatbuffer.write(graph))(windows)


def attention(rng, heads=2, blocks=1):
    """Attention over features `[1, T, 16]`, and the mean of what it makes."""
    layer = {
        name: {'kernel': rng.standard_normal((16, 16)).astype(np.float32), 'bias': np.ones(16, np.float32)}
        for name in ('query', 'key', 'value')
    }
    return lambda x: ops.mean_over_time(ops.attention(layer, x[0, :, None], heads, blocks=blocks))


def quantised(graph, windows, bits=8):
    """A float32 graph quantised, and what it was made of."""
    calibration = quantiser.Calibration(graph, windows)
    return quantiser.quantise(calibration, {'': bits} if isinstance(bits, int) else bits)


def save(workdir, recipe, variables, data):
    """Writes `variables` as the checkpoint of step 7 under `workdir`; returns the folder."""
    meta = {
        'config': recipe.as_json(),
        'labels': list(data.corpus.labels),
        'input': data.inputs.as_json(),
        'split': data.split.info,
        'corpus': {'name': data.corpus.name, 'key': data.corpus.key, 'synthetic': False},
        'versions': {},
    }
    checkpoints = Checkpoints(workdir / FOLDER)
    checkpoints.save(7, variables=variables, state={'step': jnp.asarray(7)}, meta=meta, score=0.5, error=0.1)
    checkpoints.close()
    return workdir
