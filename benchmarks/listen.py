"""What `listen` hears against what `predict` finds, window by window: python benchmarks/listen.py OUT CLIPS...

The two differ in features (TFLM's frontend, training's librosa) and in the runtime (TFLM, LiteRT). The second line has
TFLM over training's features, so the runtime alone.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import numpy as np

from jax_reparam import audio, features, listen, predict, windows
from jax_reparam.evaluation import softmax
from jax_reparam.export import manifest, tflm


def main(out: str, *paths: str) -> None:
    clips = [path for path in predict.recordings(paths) if isinstance(path, Path)]
    chosen, recognizer = manifest.choose(out), predict.Recognizer.load(out)
    inputs, found, same_times = chosen.input, {'listen': [], 'TFLM on training features': []}, 0
    expected, lengths = [], []
    with contextlib.ExitStack() as stack:
        front = stack.enter_context(tflm.started(listen.frontend(out, chosen)))
        model = stack.enter_context(tflm.started(chosen.model))
        for path in clips:
            samples = audio.read(path, inputs.frontend.sample_rate)
            wanted = recognizer.predict(samples)
            heard = list(listen.decisions([samples], inputs, frame_features=front.run, logits=model.run))
            same_times += [(one.start, one.end) for one in heard] == [*zip(wanted.starts, wanted.ends, strict=True)]
            frames = (features.log_mel(samples, inputs.frontend) - inputs.mean) / inputs.std
            cut = windows.split(frames, inputs.window)
            found['listen'] += [one.probabilities for one in heard]
            found['TFLM on training features'] += list(softmax(np.stack([model.run(one) for one in cut])))
            expected += list(wanted.over_time)
            lengths.append(len(cut))
    print(f'{chosen.form}: {len(clips)} clips, {sum(n > 1 for n in lengths)} of them longer than a window')
    print(f'same windows (start and end in seconds): {same_times} of {len(clips)} clips')
    for name, rows in found.items():
        apart = np.abs(np.stack(rows) - np.stack(expected)).max(axis=1)
        other = np.argmax(rows, axis=1) != np.argmax(expected, axis=1)
        margins = np.diff(np.sort(expected, axis=1)[other][:, -2:], axis=1).ravel()
        print(
            f'{name}: {len(rows)} windows, {sum(other)} of another label (there the best two are at most '
            f'{margins.max(initial=0):.4f} apart), largest difference of a probability: median {np.median(apart):.4f}, '
            f'99 % within {np.quantile(apart, 0.99):.4f}, all within {apart.max():.4f}'
        )


if __name__ == '__main__':
    main(*sys.argv[1:])
