"""How far features of another processor may lie: python benchmarks/feature_steps.py OUT CLIPS...

TFLM computes features in float32, and another processor may round otherwise. Float64 stands for it here: printed is how
many features of the golden PCM, and of the clips, are another step of the model's input than TFLM's, and how far away.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from frontend import in_double  # beside this file

from jax_reparam import listen, manifest, predict
from jax_reparam.device import frontend, golden
from jax_reparam.frontend import audio
from jax_reparam.runtime import tflm


def main(out: str, *paths: str) -> None:
    exported = manifest.load(out)
    forms = {name: form for name, form in exported.forms.items() if name in manifest.QUANTISED}
    inputs, rate = exported.input, exported.input.frontend.sample_rate
    front = listen.frontend(out, exported)
    clips = [audio.read(path, rate) for path in predict.recordings(paths) if isinstance(path, Path)]
    for name, recordings in (('golden PCM', [golden.signal(rate)]), (f'{len(clips)} clips', clips)):
        frames = np.concatenate([frontend.frames(samples, inputs) for samples in recordings])
        found, wanted = tflm.run(front, frames).logits, (in_double(frames, inputs.frontend) - inputs.mean) / inputs.std
        for form_name, form in forms.items():
            port = form.input
            apart = np.abs(port.encode(found).astype(int) - port.encode(wanted).astype(int))
            print(
                f'{name}, {form_name} (a step is {port.scale:.2g}): {100 * np.mean(apart > 0):.4f} % of {apart.size:,} '
                f'features are another step, by {apart.max()} at most'
            )


if __name__ == '__main__':
    main(*sys.argv[1:])
