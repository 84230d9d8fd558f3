"""The embedded corpus: what is in it, that it is the same every time, and that its prosody moves as its table says."""

import collections
import dataclasses
import importlib.util
import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jax_reparam import threads
from jax_reparam.corpora import espeak, synth
from jax_reparam.errors import InputError

needs_espeak = pytest.mark.skipif(
    importlib.util.find_spec('espeakng_loader') is None, reason='the extra `demo` is not installed'
)


@pytest.fixture(scope='module')
def spoken() -> dict[str, list[np.ndarray]]:
    """Two sentences of four speakers in every emotion, by label."""
    chosen = [
        spec for spec in synth.specs() if spec.speaker in ('s01', 's02', 's03', 's08') and spec.id[-2:] in ('03', '05')
    ]
    clips = collections.defaultdict(list)
    for spec, audio in zip(chosen, synth.render_all(chosen), strict=True):
        clips[spec.label].append(audio)
    return clips


def test_specs_are_balanced_and_speakers_say_the_same_in_every_emotion() -> None:
    specs = synth.specs()
    assert len(specs) == 600
    assert len({spec.speaker for spec in specs}) == 15
    assert [spec.id for spec in specs] == sorted({spec.id for spec in specs})
    assert set(collections.Counter(spec.label for spec in specs).values()) == {120}
    said = collections.defaultdict(set)
    for spec in specs:
        said[spec.speaker, spec.label].add(spec.text)
    for speaker in synth.SPEAKERS:
        assert len({frozenset(said[speaker.name, label]) for label in synth.LABELS}) == 1


def test_specs_are_the_same_every_time() -> None:
    assert synth.specs() == synth.specs()


@needs_espeak
def test_audio_is_the_same_in_any_order_and_process(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = synth.specs()[::97]
    monkeypatch.setattr(threads, 'cores', lambda _: 1)
    first = list(synth.render_all(chosen))
    monkeypatch.setattr(threads, 'cores', lambda _: 2)
    second = list(synth.render_all(chosen[::-1]))[::-1]
    for spec, a, b in zip(chosen, first, second, strict=True):
        np.testing.assert_array_equal(a, b, err_msg=spec.id)
    np.testing.assert_array_equal(next(synth.render_all([chosen[3]])), first[3])


@needs_espeak
def test_audio_is_like_a_recording(spoken: dict[str, list[np.ndarray]]) -> None:
    for audio in itertools.chain(*spoken.values()):
        assert audio.dtype == np.int16
        assert 1.4 < len(audio) / synth.SAMPLE_RATE < 6.0
        assert 500 < np.abs(audio.astype(np.int32)).max() < 32767
        assert audio[: synth.SAMPLE_RATE // 50].any()  # The room is heard before the speaker is.


@needs_espeak
def test_pitch_range_rate_and_level_follow_the_table(spoken: dict[str, list[np.ndarray]]) -> None:
    """Means over the same speakers and sentences, against neutral."""
    measured = {label: np.mean([_measure(audio) for audio in clips], 0) for label, clips in spoken.items()}
    pitch, span, seconds, level, tilt = (
        {k: v[i] - measured['neutral'][i] for k, v in measured.items()} for i in range(5)
    )
    # Murray and Arnott: pitch is much to very much higher in happiness, anger and fear, slightly lower in sadness.
    assert min(pitch['happy'], pitch['angry'], pitch['fearful']) > np.log(1.15)
    assert np.log(0.8) < pitch['sad'] < 0.0
    # Its range is much wider in happiness and anger, slightly narrower in sadness.
    assert min(span['happy'], span['angry']) > np.log(1.25)
    assert span['sad'] < 0.0
    # Speech is slower in sadness and faster in the others; louder in happiness and anger, softer in sadness.
    assert seconds['sad'] > np.log(1.05)
    assert max(seconds['happy'], seconds['angry'], seconds['fearful']) < 0.0
    assert min(level['happy'], level['angry']) > 1.0
    assert level['sad'] < -1.0
    # A tense voice is brighter than a breathy one.
    assert tilt['angry'] > 0.0 > tilt['sad']


def _measure(audio: np.ndarray) -> tuple[float, float, float, float, float]:
    """Log mean F0, log F0 range, log duration, level in dB, and level above 1.5 kHz against below in dB."""
    rate = synth.SAMPLE_RATE
    wave = audio / 32768.0
    frames = np.lib.stride_tricks.sliding_window_view(wave, 640)[::160] * np.hanning(640)
    spectra = np.abs(np.fft.rfft(frames, 2048)) ** 2
    correlation = np.fft.irfft(spectra)[:, :320]
    shortest = rate // 420
    # A window's own autocorrelation falls with the lag and would favour short ones.
    window = np.fft.irfft(np.abs(np.fft.rfft(np.hanning(640), 2048)) ** 2)[:320]
    correlation /= np.maximum(window, 0.05 * window[0])
    lags = shortest + correlation[:, shortest:240].argmax(1)
    clarity = correlation[np.arange(len(lags)), lags] / np.maximum(correlation[:, 0], 1e-12)
    loud = correlation[:, 0] > 0.1 * correlation[:, 0].max()
    pitch = rate / lags[(clarity > 0.7) & loud]
    low, high = np.percentile(pitch, [10, 90])
    mean = spectra[loud].mean(0)
    edge = int(1500 / rate * 2048)
    decibels = 10 * np.log10([np.mean(wave**2), mean[edge:].sum() / mean[:edge].sum()])
    return np.log(pitch.mean()), np.log(high - low), np.log(len(audio)), decibels[0], decibels[1]


def test_a_missing_package_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'espeakng_loader', None)
    with pytest.raises(InputError, match=r"pip install '\.\[demo\]'"):
        next(synth.render_all(synth.specs()[:1]))


@needs_espeak
@pytest.mark.parametrize(
    ('change', 'found'), [({'text': ''}, 'all zero'), ({'language': 'nowhere'}, "there is no voice 'nowhere'")]
)
def test_a_clip_that_cannot_be_spoken_is_named(change: dict[str, str], found: str) -> None:
    good = synth.specs()[0]
    bad = dataclasses.replace(good, id='s99_sad_01', **change)
    with pytest.raises(InputError, match=f's99_sad_01.*{found}'):
        list(synth.render_all([good, bad, good]))


@needs_espeak
def test_an_engine_that_ends_names_the_clip(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv('TMPDIR', str(tmp_path))  # A killed process leaves its folder behind.
    spec = synth.specs()[0]
    with synth._Engine() as engine:
        engine._process.kill()
        engine._process.wait()
        with pytest.raises(InputError, match=spec.id):
            engine.speak(spec)


def test_a_child_that_crashes_is_reported_and_the_next_one_speaks() -> None:
    # In a process of its own: this one has threads, and must not fork.
    code = """
import os, espeak
class Engine:
    def speak(self, text):
        if text == 'crash': os.kill(os.getpid(), 9)
        return text.encode()
try: espeak._speak_in_child(Engine(), {'text': 'crash'})
except RuntimeError as error: print(error)
print(espeak._speak_in_child(Engine(), {'text': 'hello'}).decode())
"""
    folder = Path(espeak.__file__).parent
    done = subprocess.run([sys.executable, '-S', '-c', code], cwd=folder, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ['the process that spoke was killed by signal 9', 'hello']


@needs_espeak
def test_versions_name_the_library() -> None:
    versions = synth.versions()
    assert versions['synth'] == synth.VERSION
    assert versions['espeak-ng'][0].isdigit()


def test_prosody_scales_from_neutral_to_full() -> None:
    angry = synth.PROSODY['angry']
    assert synth._scale(angry, 0.0) == synth.NEUTRAL
    assert dataclasses.astuple(synth._scale(angry, 1.0)) == pytest.approx(dataclasses.astuple(angry))
    half = synth._scale(angry, 0.5)
    assert half.pitch == pytest.approx(angry.pitch**0.5)
    assert half.level == pytest.approx(angry.level / 2)
