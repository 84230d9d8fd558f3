"""Small corpora with the layouts of real ones, and made sound in them."""

import numpy as np
import pytest
import soundfile


@pytest.fixture
def write_clip():
    """Writes a file of noise that is like no other, and returns its int16 samples."""
    rng = np.random.default_rng(0)

    def write(path, seconds=0.2, sample_rate=16000):
        path.parent.mkdir(parents=True, exist_ok=True)
        samples = rng.integers(-8000, 8000, round(seconds * sample_rate)).astype(np.int16)
        soundfile.write(path, samples, sample_rate, subtype='PCM_16')
        return samples

    return write


@pytest.fixture
def make_folder(tmp_path, write_clip):
    """Makes `source/LABEL/SPEAKER/n.wav` and returns the source."""

    def make(labels=('anger', 'joy'), speakers=('ann', 'bob', 'cleo'), clips=2):
        source = tmp_path / 'source'
        for label in labels:
            for speaker in speakers:
                for n in range(clips):
                    write_clip(source / label / speaker / f'{n}.wav')
        return source

    return make
