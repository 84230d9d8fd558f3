"""Times preparation, from WAV files to log-mel features, beside a plain loop over librosa; and measures its memory.

python benchmarks/prepare.py [--clips 240] [--seconds 5] [--rate 48000] [--runs 5] [--memory-hours 1]

The audio is made: noise, written to a temporary folder. The loop is librosa.load(sr=16000), melspectrogram with the
same frame, hop and bands, and a logarithm, one file after another, with BLAS as it is and with BLAS on one thread; the
faster of the two is what the others are compared with. Ours is audio.read and features.log_mel in 1 and 2 threads, and
in 2 processes. They take turns, and the median of the runs is shown, and the processor time of a clip, which other jobs
on the machine move less. Memory is the peak of a process of its own that prepares a corpus of n and of 10 n hours
(16 kHz), and then computes its features.
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
from pathlib import Path

import librosa
import numpy as np
import soundfile
import threadpoolctl

from jax_reparam import corpora, threads
from jax_reparam.data import feature_store
from jax_reparam.frontend import audio, features
from jax_reparam.frontend.features import FrontendConfig

FRONTEND = FrontendConfig()


def make(folder: Path, clips: range, seconds: float, rate: int) -> list[Path]:
    """Writes clips of noise as LABEL/SPEAKER/n.wav."""
    files = [folder / 'ab'[clip % 2] / f's{clip % 7}' / f'{clip:06d}.wav' for clip in clips]
    for clip, file in zip(clips, files, strict=True):
        noise = 3000 * np.random.default_rng(clip).standard_normal(int(rate * seconds))
        file.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(file, noise.astype(np.int16), rate)
    return files


def loop(file: Path) -> np.ndarray:
    samples, rate = librosa.load(file, sr=16000)
    frame, hop = FRONTEND.frame_length, FRONTEND.hop_length
    mel = librosa.feature.melspectrogram(
        y=samples, sr=rate, n_fft=FRONTEND.n_fft, win_length=frame, hop_length=hop, n_mels=FRONTEND.n_mels
    )
    return np.log(mel + FRONTEND.floor)


def ours(file: Path) -> None:
    features.log_mel(audio.read(file), FRONTEND)


def in_threads(function: Callable[[Path], object], files: list[Path], count: int) -> None:
    for _ in threads.in_order(function, files, count):
        pass


def loops(files: list[Path], blas: int | None) -> None:
    with threadpoolctl.threadpool_limits(blas):
        for file in files:
            loop(file)


def start_worker() -> None:
    threadpoolctl.threadpool_limits(1)


def peak(source: str, cache: str, queue: multiprocessing.Queue) -> None:
    found = []
    corpus = corpora.prepare('folder', source=source, data_dir=cache, progress=False)
    found.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    feature_store.corpus_features(corpus, FRONTEND, Path(cache), show_progress=False)
    found.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    queue.put(found)


def memory(folder: Path, hours: float) -> None:
    context = multiprocessing.get_context('spawn')
    made = 0
    for size in (hours, 10 * hours):
        clips = round(size * 720)
        make(folder / 'source', range(made, clips), 5.0, 16000)
        made = clips
        queue = context.Queue()
        child = context.Process(target=peak, args=(str(folder / 'source'), str(folder / 'cache'), queue))
        child.start()
        prepared, computed = queue.get()
        child.join()
        print(f'{size:g} h: peak memory {prepared:.0f} MiB preparing, {computed:.0f} MiB with the features')


def speed(folder: Path, args: argparse.Namespace) -> None:
    files = make(folder, range(args.clips), args.seconds, args.rate)
    with multiprocessing.get_context('spawn').Pool(2, start_worker) as pool:
        variants: dict[str, Callable[[], object]] = {
            'librosa loop': lambda: loops(files, None),
            'librosa loop, BLAS on 1 thread': lambda: loops(files, 1),
            'ours, 1 thread': lambda: in_threads(ours, files, 1),
            'ours, 2 threads': lambda: in_threads(ours, files, 2),
            'ours, 2 processes': lambda: pool.map(ours, files, chunksize=8),
            '  decode and resample, 2 threads': lambda: in_threads(audio.read, files, 2),
        }
        loop(files[0])
        began = time.process_time()
        ours(files[0])
        print(
            f'first clip: {time.process_time() - began:.2f} s of processor (NUMBA_CACHE_DIR=$(mktemp -d) compiles anew)'
        )
        pool.map(ours, files)
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in variants}
        for _ in range(args.runs):
            for name, run in variants.items():
                wall, processor = time.perf_counter(), time.process_time()
                run()
                times[name].append((time.perf_counter() - wall, time.process_time() - processor))
    print(
        f'{platform.machine()}, {args.clips} clips of {args.seconds:g} s at {args.rate} Hz, median of {args.runs} runs'
    )
    took = {name: [statistics.median(column) for column in zip(*rows, strict=True)] for name, rows in times.items()}
    plain = min(took[name][0] for name in list(variants)[:2])
    for name, (wall, processor) in took.items():
        hours = args.clips * args.seconds / 3600 / (wall / 60)
        own = '' if 'processes' in name else f'{1000 * processor / args.clips:6.2f} ms of processor a clip'
        print(f'{name:34} {hours:6.1f} h of audio a minute   x {plain / wall:.2f} {own}')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--clips', type=int, default=240, help='clips to time')
    parser.add_argument('--seconds', type=float, default=5.0, help='length of a clip')
    parser.add_argument('--rate', type=int, default=48000, help='samples per second of the clips')
    parser.add_argument('--runs', type=int, default=5, help='each variant is timed so often; 0: not at all')
    parser.add_argument('--memory-hours', type=float, default=1.0, help='n; memory at n and 10 n hours; 0: not at all')
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    try:
        if args.runs:
            speed(folder / 'speed', args)
        if args.memory_hours:
            memory(folder / 'memory', args.memory_hours)
    finally:
        shutil.rmtree(folder)


if __name__ == '__main__':
    main()
