"""Times the training step with and without `malloc.keep_all`, in processes that take turns step by step.

python benchmarks/allocator.py [configs/transformer_xs.py configs/transformer_s.py ...] [--steps 30]

Prints, of each, the median step time, processor time and page faults a step, and the most memory the process had.
The last also has huge pages, which glibc takes from a variable alone.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import time
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from jax_reparam import system

CONFIGS = Path(__file__).parent.parent / 'configs'
CLASSES, WARM_UP = 7, 10
# By name: whether freed memory is kept, and GLIBC_TUNABLES.
VARIANTS = {'glibc': (False, ''), 'kept': (True, ''), 'kept, huge': (True, 'glibc.malloc.hugetlb=1')}


def steps(path: Path, keep: bool, turns: Connection) -> None:
    """Does a step whenever it is told so; answers with seconds, processor seconds, page faults and bytes at most."""
    if keep:
        system.keep_all()
    import jax
    import train_step

    from jax_reparam.config import load_recipe

    config = load_recipe(path)
    batch = train_step.random_batch(config, CLASSES)
    step, state = train_step.compile_step(config, batch, CLASSES)
    turns.send(f'{jax.device_count()} x {jax.devices()[0].device_kind}, jax {jax.__version__}')
    while turns.recv():
        before, began = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        state, _ = step(state, batch)
        jax.block_until_ready(state)
        wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF)
        busy = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        turns.send((wall, busy, after.ru_minflt - before.ru_minflt, 1024 * after.ru_maxrss))


def measure(path: Path, count: int) -> dict[str, np.ndarray]:
    """By name, what `steps` answers, `[count, 4]`."""
    spawn = multiprocessing.get_context('spawn')
    turns, processes = {}, []
    for name, (keep, tunables) in VARIANTS.items():
        os.environ['GLIBC_TUNABLES'] = tunables
        turns[name], child = spawn.Pipe()
        processes.append(spawn.Process(target=steps, args=(path, keep, child)))
        processes[-1].start()
    about = {turn.recv() for turn in turns.values()}
    print(f'{path.stem}: {about.pop()}')
    answers: dict[str, list[tuple[float, ...]]] = {name: [] for name in turns}
    for _ in range(WARM_UP + count):
        for name, turn in turns.items():
            turn.send(True)
            answers[name].append(turn.recv())
    for turn in turns.values():
        turn.send(False)
    for process in processes:
        process.join()
    return {name: np.array(found[WARM_UP:]) for name, found in answers.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('configs', nargs='*', type=Path, default=[CONFIGS / f'transformer_{s}.py' for s in ('xs', 's')])
    parser.add_argument('--steps', type=int, default=30, help='timed steps of each')
    args = parser.parse_args()
    for path in args.configs:
        found = measure(path, args.steps)
        default = np.median(found['glibc'][:, 0])
        for name, values in found.items():
            wall, busy, faults, most = np.median(values, axis=0)
            print(
                f'  {name:10} {1000 * wall:8.1f} ms  x {wall / default:.2f}  {1000 * busy:8.1f} ms of processors'
                f'  {faults:9,.0f} page faults  {most / 2**20:7.0f} MiB at most'
            )


if __name__ == '__main__':
    main()
