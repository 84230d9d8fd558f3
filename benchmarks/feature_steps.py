"""How far features of another processor may lie: python benchmarks/feature_steps.py OUT CLIPS...

TFLM computes features in float32, and another processor may round otherwise. Float64 stands for it here: printed is how
many features of the golden PCM, and of the clips, are another step of the model's input than TFLM's, and how far away.
"""

from __future__ import annotations

import sys
from pathlib import Path

import librosa
import numpy as np

from jax_reparam import audio, features, listen, predict
from jax_reparam.export import flatbuffer, frontend, manifest, tflm
from jax_reparam.firmware import golden


def exact(frames: np.ndarray, inputs: manifest.Input) -> np.ndarray:
    """Standardised log-mel of frames `[T, frame]`, all of it in float64."""
    config = inputs.frontend
    window = librosa.filters.get_window('hann', config.frame_length, fftbins=True)
    power = np.abs(np.fft.rfft(frames / 32768 * window, config.n_fft)) ** 2
    mel = np.log(power @ features.mel_matrix(config).T.astype(np.float64) + config.floor)
    return (mel - inputs.mean) / inputs.std


def main(out: str, *paths: str) -> None:
    forms = [form for form in manifest.read(out)['forms'] if form in manifest.QUANTISED]
    chosen = manifest.choose(out, forms[0])
    inputs, rate = chosen.input, chosen.input.frontend.sample_rate
    front = listen.frontend(out, chosen)
    clips = [audio.read(path, rate) for path in predict.recordings(paths) if isinstance(path, Path)]
    for name, recordings in (('golden PCM', [golden.signal(rate)]), (f'{len(clips)} clips', clips)):
        frames = np.concatenate([frontend.frames(samples, inputs) for samples in recordings])
        found, wanted = tflm.run(front, frames).logits, exact(frames, inputs)
        for form in forms:
            port = flatbuffer.graph(manifest.choose(out, form).model).input
            apart = np.abs(port.encode(found).astype(int) - port.encode(wanted).astype(int))
            print(
                f'{name}, {form} (a step is {port.scale:.2g}): {100 * np.mean(apart > 0):.4f} % of {apart.size:,} '
                f'features are another step, by {apart.max()} at most'
            )


if __name__ == '__main__':
    main(*sys.argv[1:])
