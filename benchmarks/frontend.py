"""Runs frontend.tflite in TFLM over recordings, and prints how far its log-mel is from training's and what it costs.

python benchmarks/frontend.py CLIP ... [--n-fft 512 1024] [--n-mels 64]

For each length of the Fourier transform: the largest difference over all frames and bands, the 99.9 % quantile of the
differences, and the same of training's features to those in double precision; then bytes and arena by the number of
bands that one FULLY_CONNECTED computes. Features are not standardised here: differences are those of the natural
logarithm. Needs the package tflite-micro.
"""

from __future__ import annotations

import argparse

import librosa
import numpy as np

from jax_reparam.device import frontend
from jax_reparam.frontend import audio, features
from jax_reparam.frontend.features import FrontendConfig
from jax_reparam.frontend.inputs import Input
from jax_reparam.frontend.windows import WindowConfig
from jax_reparam.runtime import tflm


def in_double(frames: np.ndarray, config: FrontendConfig) -> np.ndarray:
    """Log-mel of int16 frames in double precision."""
    hann = librosa.filters.get_window('hann', config.frame_length, fftbins=True)
    power = np.abs(np.fft.rfft(frames / 32768 * hann, config.n_fft)) ** 2
    return np.log(power @ features.mel_matrix(config).T.astype(np.float64) + config.floor)


def report(clips: list[np.ndarray], config: FrontendConfig) -> None:
    plain = np.zeros(config.n_mels, np.float32)
    inputs = Input(config, WindowConfig(), plain, plain + 1)
    frames = np.concatenate([frontend.frames(clip, inputs) for clip in clips])
    expected = np.concatenate([features.log_mel(clip, config) for clip in clips])
    apart = np.abs(tflm.run(frontend.build(inputs), frames).logits - expected)
    double = np.abs(in_double(frames, config) - expected)
    print(f'n_fft {config.n_fft}, {config.n_mels} bands: {len(clips)} clips, {len(frames):,} frames')
    print(f'  largest difference {apart.max():.1e}, 99.9 % within {np.quantile(apart, 0.999):.1e}')
    print(f'  training itself to double precision {double.max():.1e}, 99.9 % within {np.quantile(double, 0.999):.1e}')
    for group in (frontend.BANDS_IN_GROUP, 2 * frontend.BANDS_IN_GROUP, config.n_mels):
        model = frontend.build(inputs, group=group)
        print(f'  {group} bands a group: {len(model):,} bytes, arena {tflm.run(model, frames[:1]).arena_bytes:,}')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('clips', nargs='+', help='recordings')
    parser.add_argument('--n-fft', type=int, nargs='+', default=[512, 1024])
    parser.add_argument('--n-mels', type=int, default=64)
    args = parser.parse_args()
    clips = [audio.read(path) for path in args.clips]
    for n_fft in args.n_fft:
        report(clips, FrontendConfig(n_fft=n_fft, n_mels=args.n_mels))


if __name__ == '__main__':
    main()
