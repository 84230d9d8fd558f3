"""The API for whoever only uses a model: any rate, floats, a label, a stream, and one line for what is no recording."""

from __future__ import annotations

import numpy as np
import pytest

from helpers import syllables
from jax_reparam import Recognizer, Stream
from jax_reparam.errors import InputError
from jax_reparam.frontend import audio


@pytest.fixture(scope='module')
def recognizer():
    return Recognizer.load(form='float32')


@pytest.mark.parametrize('kind', [np.int16, np.float32, np.float64])
@pytest.mark.parametrize('rate', [None, 16000, 8000, 44100])
def test_any_rate_and_floats(recognizer, kind, rate):
    samples = syllables(1.5)
    samples = samples if kind == np.int16 else (samples / 32768).astype(kind)
    found = recognizer.predict(samples, rate)
    expected = recognizer.predict(audio.samples_of(samples, rate, 'it'))
    np.testing.assert_array_equal(found.probabilities, expected.probabilities)
    assert found.seconds == pytest.approx(len(samples) / (rate or 16000), abs=1e-3)
    assert found.label == recognizer.manifest.labels[found.probabilities.argmax()]


def test_another_rate_is_another_sound(recognizer):
    samples = syllables(1.5)
    own, other = (recognizer.predict(samples, rate).probabilities for rate in (16000, 22050))
    assert np.abs(own - other).max() > 0.01


def test_silence_has_no_label(recognizer):
    found = recognizer.predict(np.zeros(16000))
    assert (found.label, found.speech) == (None, False)


def test_a_voice_is_learned_at_any_rate(recognizer):
    seconds = recognizer.adapt(syllables(3.0), 16000)
    recognizer.profile = None
    assert recognizer.adapt(syllables(3.0) / 32768, 16000) == seconds > 0
    recognizer.profile = None
    assert recognizer.adapt(syllables(3.0), 32000) < seconds
    recognizer.profile = None


@pytest.mark.parametrize(('samples', 'rate', 'message'), [
    (np.zeros((2, 16000), np.int16), None, r'samples: expected \[N\] int16, or float .*, found \[2, 16000\] int16'),
    (np.zeros(16000, np.uint8), None, r'found \[16000\] uint8'),
    (np.zeros(0), None, 'samples: expected audio, found 0 samples'),
    (np.full(100, np.inf), None, 'samples: expected finite samples, found 100'),
    (np.zeros(16000), -1, 'samples: expected a sample rate of 1,000 to 768,000 Hz, found -1'),
])  # fmt: skip
def test_what_is_no_recording_is_one_line(recognizer, samples, rate, message):
    for call in (recognizer.predict, recognizer.adapt):
        with pytest.raises(InputError, match=message):
            call(samples, rate)


def test_a_stream_decides_as_the_recording_and_refuses_what_is_no_sound(recognizer):
    samples, stream = syllables(9.0), Stream(recognizer)
    found = []
    for piece in np.array_split(samples, 7):
        with pytest.raises(InputError, match=r'samples: expected \[N\] int16, or float'):
            list(stream.feed(piece[:, None]))
        found += stream.feed(piece)
    found += [*stream.feed(samples[:0]), *stream.finish()]
    parts = recognizer.predict(samples, over_time=True).over_time
    assert [(one.start, one.end) for one in found] == [(part.start, part.end) for part in parts]
    for one, part in zip(found, parts, strict=True):
        np.testing.assert_allclose(one.probabilities, part.probabilities, atol=1e-6)
