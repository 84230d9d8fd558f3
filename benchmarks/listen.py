"""What `listen` hears against what `predict` finds, window by window: python benchmarks/listen.py OUT CLIPS...

First `predict --tflm`, where the two differ in who computes the features (TFLM's frontend, NumPy as in training); then
`predict` as it is, where LiteRT runs the model.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import numpy as np

from jax_reparam import listen, manifest, predict
from jax_reparam.frontend import audio
from jax_reparam.runtime import tflm


def main(out: str, *paths: str) -> None:
    clips = [path for path in predict.recordings(paths) if isinstance(path, Path)]
    exported, form, model_file = manifest.open_form(out)
    inputs = exported.input
    heard, same_times, lengths = [], 0, []
    expected: dict[str, list[np.ndarray]] = {'predict --tflm': [], 'predict': []}
    with contextlib.ExitStack() as stack:
        front = stack.enter_context(tflm.started(listen.frontend(out, exported)))
        model = stack.enter_context(tflm.started(model_file))
        recognizers = (stack.enter_context(predict.Recognizer.in_tflm(out)), predict.Recognizer.load(out))
        for path in clips:
            samples = audio.read(path, inputs.frontend.sample_rate)
            for rows, recognizer in zip(expected.values(), recognizers, strict=True):
                wanted = recognizer.predict(samples)
                rows += list(wanted.over_time)
            found = list(listen.decisions([samples], inputs, frame_features=front.run, logits=model.run))
            same_times += [(one.start, one.end) for one in found] == [*zip(wanted.starts, wanted.ends, strict=True)]
            heard += [one.probabilities for one in found]
            lengths.append(len(found))
    print(f'{form}: {len(clips)} clips, {sum(n > 1 for n in lengths)} of them longer than a window')
    print(f'same windows (start and end in seconds): {same_times} of {len(clips)} clips')
    for name, rows in expected.items():
        apart = np.abs(np.stack(heard) - np.stack(rows)).max(axis=1)
        other = np.argmax(rows, axis=1) != np.argmax(heard, axis=1)
        margins = np.diff(np.sort(rows, axis=1)[other][:, -2:], axis=1).ravel()
        print(
            f'{name}: {len(rows)} windows, {sum(other)} of another label (there the best two are at most '
            f'{margins.max(initial=0):.4f} apart), {sum(apart == 0)} equal; largest difference of a probability: '
            f'median {np.median(apart):.4f}, 99 % within {np.quantile(apart, 0.99):.4f}, all within {apart.max():.4f}'
        )


if __name__ == '__main__':
    main(*sys.argv[1:])
