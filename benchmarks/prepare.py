"""Times preparation, from WAV files to log-mel features, beside a plain loop over librosa; and measures its memory.

python benchmarks/prepare.py [--clips 240] [--seconds 5] [--memory-clips 300] [--runs 3]

The audio is made: noise at 48 kHz, written to a temporary folder. `loop` is librosa.load(sr=16000), melspectrogram with
the same frame, hop and bands, and a logarithm, one file after another. Ours is audio.read and features.log_mel in 1 and
2 threads. They take turns, and the median of the runs is shown. Memory is the peak of a process of its own that
computes the features of a corpus of n and of 10 n clips, decoding and resampling each.
"""

from __future__ import annotations

import argparse
import multiprocessing
import platform
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import librosa
import numpy as np
import soundfile
import threadpoolctl

from jax_reparam import audio, feature_store, features
from jax_reparam.corpora import Corpus
from jax_reparam.features import FrontendConfig

RATE = 48000
FRONTEND = FrontendConfig()


def make(folder: Path, clips: int, seconds: float) -> list[Path]:
    rng = np.random.default_rng(0)
    files = [folder / f'{clip:04d}.wav' for clip in range(clips)]
    for file in files:
        soundfile.write(file, (3000 * rng.standard_normal(int(RATE * seconds))).astype(np.int16), RATE)
    return files


def loop(file: Path) -> np.ndarray:
    samples, rate = librosa.load(file, sr=16000)
    frame, hop = FRONTEND.frame_length, FRONTEND.hop_length
    mel = librosa.feature.melspectrogram(
        y=samples, sr=rate, n_fft=FRONTEND.n_fft, win_length=frame, hop_length=hop, n_mels=FRONTEND.n_mels
    )
    return np.log(mel + FRONTEND.floor)


def ours(file: Path) -> np.ndarray:
    return features.log_mel(audio.read(file), FRONTEND)


def threads(function: Callable[[Path], np.ndarray], files: list[Path], count: int) -> None:
    with threadpoolctl.threadpool_limits(1), ThreadPoolExecutor(count) as pool:
        for _ in pool.map(function, files):
            pass


class Files(Corpus):
    """A corpus whose clips are decoded from the same few files over and over."""

    def audio(self, i: int) -> np.ndarray:
        """Decodes the file of clip i."""
        files = sorted(self.directory.glob('*.wav'))
        return audio.read(files[int(i) % len(files)])


def peak(folder: str, clips: int, seconds: float, queue: multiprocessing.Queue) -> None:
    corpus = Files(
        name='made',
        labels=('noise',),
        label=np.zeros(clips, np.int64),
        speaker=('',) * clips,
        id=tuple(f'{clip:06d}' for clip in range(clips)),
        group=('',) * clips,
        part=('',) * clips,
        seconds=np.full(clips, seconds),
        key=str(clips),
        directory=Path(folder),
    )
    feature_store.corpus_features(corpus, FRONTEND, Path(folder) / 'cache', workers=2, show_progress=False)
    queue.put(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def peaks(folder: Path, clips: int, seconds: float) -> list[float]:
    context = multiprocessing.get_context('spawn')
    found = []
    for count in (clips, 10 * clips):
        queue = context.Queue()
        child = context.Process(target=peak, args=(str(folder), count, seconds, queue))
        child.start()
        found.append(queue.get())
        child.join()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--clips', type=int, default=240, help='clips to time')
    parser.add_argument('--seconds', type=float, default=5.0, help='length of a clip')
    parser.add_argument('--memory-clips', type=int, default=300, help='n; memory is measured at n and 10 n')
    parser.add_argument('--runs', type=int, default=3, help='each variant is timed so often')
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    try:
        files = make(folder, args.clips, args.seconds)
        variants: dict[str, Callable[[], None]] = {
            'librosa loop': lambda: [loop(file) for file in files] and None,
            'ours, 1 thread': lambda: threads(ours, files, 1),
            'ours, 2 threads': lambda: threads(ours, files, 2),
            '  decode and resample, 2 threads': lambda: threads(audio.read, files, 2),
        }
        loop(files[0]), ours(files[0])
        times: dict[str, list[float]] = {name: [] for name in variants}
        for _ in range(args.runs):
            for name, run in variants.items():
                began = time.perf_counter()
                run()
                times[name].append(time.perf_counter() - began)
        print(
            f'{platform.machine()}, {args.clips} clips of {args.seconds:g} s at {RATE} Hz, median of {args.runs} runs'
        )
        plain = statistics.median(times['librosa loop'])
        for name, values in times.items():
            took = statistics.median(values)
            hours = args.clips * args.seconds / 3600 / (took / 60)
            print(f'{name:34} {hours:6.1f} h of audio a minute   x {plain / took:.2f}')
        small, large = peaks(folder, args.memory_clips, args.seconds)
        print(f'peak memory: {small:.0f} MiB at {args.memory_clips} clips, {large:.0f} MiB at {10 * args.memory_clips}')
    finally:
        shutil.rmtree(folder)


if __name__ == '__main__':
    main()
