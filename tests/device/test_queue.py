"""The queue between the audio task and the one that computes: nothing is read twice, torn or silently lost."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from jax_reparam.device import firmware

pytestmark = pytest.mark.slow
SOURCE = Path(__file__).parent / 'queue.cc'
HEADER = 'sample_queue.h'


@pytest.fixture
def queue(zig, tmp_path):
    """Builds the two threads around the queue's header; returns a function that runs them."""

    def build(change=lambda text: text):
        text = (Path(firmware.__file__).parent / 'sources' / HEADER).read_text()
        (tmp_path / HEADER).write_text(change(text))
        flags = ['-std=c++17', '-Wall', '-Wextra', '-Werror', '-O2', '-fno-exceptions', '-I', tmp_path]
        zig('c++', *flags, '-c', '-o', tmp_path / 'queue.o', SOURCE)
        zig('cc', '-o', tmp_path / 'queue', tmp_path / 'queue.o', '-lpthread')

        def run(samples, seed, *words):
            command = [tmp_path / 'queue', str(samples), str(seed), *words]
            return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

        return run

    return build


def test_a_writer_that_waits_loses_nothing(queue):
    run = queue()
    for seed in range(3):
        done = run(300_000, seed, 'patient')
        assert (done.returncode, done.stdout) == (0, '300000 read, 0 lost\n')


def test_what_is_lost_is_counted(queue):
    run = queue()
    for seed in range(3):
        done = run(300_000, seed)
        read, lost = (int(part.split()[0]) for part in done.stdout.split(', '))
        assert done.returncode == 0
        assert read + lost == 300_000
        assert min(read, lost) > 0


@pytest.mark.parametrize(
    ('old', 'new'),
    [
        ('kSize = kCapacity + 1', 'kSize = kCapacity'),
        ('std::min(taken, kSize - end)', 'taken'),
        ('static_cast<std::uint32_t>(count - taken)', '1u'),
        ('(index + count) % kSize', '(index + count + (count > 50)) % kSize'),
    ],
)
def test_what_is_wrong_is_seen(queue, old, new):
    def change(text):
        assert old in text
        return text.replace(old, new)

    assert queue(change)(300_000, 0).returncode != 0
