"""The embedded corpus: sentences spoken by eSpeak NG, with published rules of emotional prosody.

It exists so that the whole way from audio to a microcontroller can be tried without a corpus of one's own. It is made
by rule: what a model scores on it says that the program works, and nothing about emotions (`NOTICE`).

Sources of the rules; docs/synth.md has the table of what each supports, and names the numbers that are our choice:
  Murray and Arnott (1993), Toward the simulation of emotion in synthetic speech: a review of the literature on human
    vocal emotion, Journal of the Acoustical Society of America 93(2), 1097-1108, Table I.
  Burkhardt and Sendlmeier (2000), Verification of acoustical correlates of emotional speech using formant-synthesis,
    ISCA Workshop on Speech and Emotion, 151-156; their rules of joy and fear as in Table 1 of Schroeder (2001),
    Emotional speech synthesis: a review, Eurospeech, 561-564.
  Burkhardt (2009), Rule-based voice quality variation with formant synthesis, Interspeech,
    doi:10.21437/Interspeech.2009-499.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jax_reparam import threads
from jax_reparam.errors import InputError, need
from jax_reparam.frontend.audio import SAMPLE_RATE

VERSION = '1'
NOTICE = 'synthetic speech (eSpeak NG, prosody by rule): no evidence about emotions'


@dataclasses.dataclass(frozen=True)
class Prosody:
    """What an emotion changes against neutral speech, at full strength.

    Attributes:
      pitch: factor on the mean fundamental frequency (F0).
      range: factor on the range of F0, in Hz.
      rate: factor on the speaking rate.
      level: added to the level of the speech, in dB.
      tilt: added to the slope of the voice's spectrum above 600 Hz, in dB per octave: tense is positive.
      breath: strength of the noise in the voice, 0 to 1.
      flutter: irregular movement of F0, in eSpeak's units; 2 is its default.
      roughness: every other glottal cycle weaker, in eSpeak's units; 2 is its default, 7 creaks.
      lips: factor on the first two formants (spread lips raise them).
      stress: added to the level of stressed vowels and taken from unstressed ones, in eSpeak's units.
      consonants: factor on the strength of consonants, a stand-in for precise or slurred articulation.
    """

    pitch: float = 1.0
    range: float = 1.0
    rate: float = 1.0
    level: float = 0.0
    tilt: float = 0.0
    breath: float = 0.0
    flutter: float = 2.0
    roughness: float = 2.0
    lips: float = 1.0
    stress: float = 0.0
    consonants: float = 1.0


NEUTRAL = Prosody()
PROSODY: dict[str, Prosody] = {
    'neutral': NEUTRAL,
    'happy': Prosody(pitch=1.5, range=2.0, rate=1.3, level=4.0, tilt=0.5, breath=0.2, lips=1.1),
    'sad': Prosody(pitch=0.9, range=0.7, rate=0.85, level=-5.0, tilt=-2.5, breath=0.6, roughness=3.0, consonants=0.7),
    'angry': Prosody(pitch=1.6, range=2.0, rate=1.1, level=6.0, tilt=2.5, roughness=5.0, stress=3.0, consonants=1.3),
    'fearful': Prosody(pitch=1.8, range=1.2, rate=1.3, tilt=-1.5, breath=0.5, flutter=14.0, consonants=1.15),
}
LABELS: tuple[str, ...] = tuple(PROSODY)

# Strength of an emotion in one clip: this range, times the speaker's own expressiveness. 1 is the table above.
_STRENGTH = (0.35, 1.0)
_EXPRESSIVENESS = (0.75, 1.15)


@dataclasses.dataclass(frozen=True)
class Speaker:
    """A made-up speaker.

    Attributes:
      name: as in the clips' `speaker`.
      language: voice of eSpeak NG.
      pitch: mean F0 of neutral speech, in Hz.
      tract: factor on all formants; a shorter vocal tract has higher ones.
      rate: neutral speaking rate, in words per minute.
    """

    name: str
    language: str
    pitch: float
    tract: float
    rate: float


# Low and high voices in both languages, in an order in which any few neighbours are mixed.
SPEAKERS: tuple[Speaker, ...] = (
    Speaker('s01', 'en', 112.0, 1.00, 162.0),
    Speaker('s02', 'de', 204.0, 1.14, 158.0),
    Speaker('s03', 'en-us', 192.0, 1.12, 170.0),
    Speaker('s04', 'de', 104.0, 0.98, 150.0),
    Speaker('s05', 'en-gb-scotland', 126.0, 1.03, 156.0),
    Speaker('s06', 'de', 186.0, 1.10, 165.0),
    Speaker('s07', 'en', 214.0, 1.16, 160.0),
    Speaker('s08', 'de', 118.0, 1.02, 160.0),
    Speaker('s09', 'en-us', 98.0, 0.96, 152.0),
    Speaker('s10', 'de', 222.0, 1.17, 156.0),
    Speaker('s11', 'en-gb-x-rp', 178.0, 1.09, 155.0),
    Speaker('s12', 'de', 132.0, 1.04, 168.0),
    Speaker('s13', 'en-gb-scotland', 200.0, 1.13, 166.0),
    Speaker('s14', 'de', 110.0, 0.99, 154.0),
    Speaker('s15', 'en-us', 121.0, 1.01, 164.0),
)

# The same everyday sentences for every emotion, so that the words say nothing about the label.
TEXTS: dict[str, tuple[str, ...]] = {
    'en': (
        'The keys are on the kitchen table.',
        'She will call us again on Monday morning.',
        'The train to the coast leaves at nine.',
        'They have painted the garden door green.',
        'I put the letter next to the bread, under the lamp.',
        'We walked along the river to the bridge, and then we took the bus.',
        'The blue box with the old photographs is still in the cupboard behind the stairs.',
        'When the shop opens tomorrow, he wants to buy two chairs and a small lamp for the hall.',
    ),
    'de': (
        'Der Schlüssel liegt auf dem Tisch im Flur.',
        'Am Montag ruft sie uns noch einmal an.',
        'Der Zug an die Küste fährt um neun.',
        'Sie haben die Gartentür grün gestrichen.',
        'Ich habe den Brief neben das Brot gelegt, unter die Lampe.',
        'Wir gingen am Fluss entlang bis zur Brücke und nahmen dann den Bus.',
        'Die blaue Kiste mit den alten Fotos steht noch immer im Schrank hinter der Treppe.',
        'Wenn der Laden morgen öffnet, kauft er zwei Stühle und eine kleine Lampe für den Flur.',
    ),
}


@dataclasses.dataclass(frozen=True)
class Spec:
    """All that one clip is made from.

    Attributes:
      id: name of the clip, speaker_label_sentence; it also seeds the clip's noise.
      label: emotion, one of `LABELS`.
      speaker: name of the speaker.
      text: what is said.
      language: voice of eSpeak NG.
      voice: the lines of a voice variant for eSpeak NG.
      rate: words per minute.
      level: level of the speech against full scale, in dB.
      noise: level of the room's noise against full scale, in dB.
      microphone: slope of the microphone: above 0 it is bright, below 0 dull.
      silence: seconds before and after the speech.
    """

    id: str
    label: str
    speaker: str
    text: str
    language: str
    voice: str
    rate: int
    level: float
    noise: float
    microphone: float
    silence: tuple[float, float]


def specs() -> list[Spec]:
    """The 600 clips of the corpus: 15 speakers x 5 emotions x 8 sentences, in the order of their ids."""
    return [
        _spec(speaker, label, number)
        for speaker in SPEAKERS
        for label in sorted(LABELS)
        for number in range(len(TEXTS[speaker.language[:2]]))
    ]


def render_all(clips: Sequence[Spec]) -> Iterator[np.ndarray]:
    """Speaks clips, in order, each in a fresh child process: bit for bit the same every time.

    Args:
      clips: the clips.

    Yields:
      `[N]` int16, 16 kHz.

    Raises:
      InputError: eSpeak NG is missing or did not speak; the message names the clip.
    """
    make = lambda engine, spec: record(engine.speak(spec), engine.sample_rate, spec)
    with contextlib.ExitStack() as stack:
        engines = [stack.enter_context(_Engine()) for _ in range(threads.cores(min(4, len(clips))))]
        yield from threads.in_order_by(engines, make, clips)


def versions() -> dict[str, str]:
    """Versions of what the samples depend on besides this file: part of the key of a cached corpus.

    Raises:
      InputError: eSpeak NG is missing.
    """
    import soxr

    with _Engine() as engine:
        return {'synth': VERSION, 'espeak-ng': engine.version, 'soxr': soxr.__version__}


class _Engine:
    """A process that runs espeak.py; the context manager starts and ends it."""

    def __init__(self) -> None:
        need('synth', 'demo')
        import espeakng_loader

        # Isolated and without site-packages: the script needs the standard library only, and starts fast. It runs by
        # path, because `-m` would import the packages it lies in.
        script = str(Path(__file__).with_name('espeak.py'))
        paths = espeakng_loader.get_library_path(), espeakng_loader.get_data_path()
        self._command = [sys.executable, '-I', '-S', script, *paths]

    def __enter__(self) -> _Engine:
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        try:
            header, _ = self._read()
        except InputError:
            self.__exit__()
            raise
        self.version: str = header['version']
        self.sample_rate: int = header['sample_rate']
        return self

    def __exit__(self, *_: object) -> None:
        # communicate closes standard input, which ends the process, and reads what nobody will want any more.
        self._process.communicate()

    def _read(self) -> tuple[dict[str, Any], bytes]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        header: dict[str, Any] = json.loads(line) if line else {'error': 'its process ended', 'bytes': 0}
        samples = self._process.stdout.read(header['bytes'])
        if 'error' in header or len(samples) != header['bytes']:
            raise InputError(f'eSpeak NG: expected an answer, found: {header.get("error", "half of one")}')
        return header, samples

    def speak(self, spec: Spec) -> np.ndarray:
        """Returns the speech alone, `[N]` int16 at `sample_rate`."""
        request = {'text': spec.text, 'language': spec.language, 'voice': spec.voice, 'rate': spec.rate}
        try:
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(request).encode() + b'\n')
            self._process.stdin.flush()
            _, samples = self._read()
        except (InputError, OSError) as error:
            raise InputError(f'{spec.id}: {error}') from error
        speech = np.frombuffer(samples, np.int16)
        if not speech.any():
            raise InputError(f'{spec.id}: expected speech from eSpeak NG, found {len(speech)} samples, all zero')
        return speech


def record(speech: np.ndarray, sample_rate: int, spec: Spec) -> np.ndarray:
    """Makes a recording of speech: level, microphone, silence around it and the noise of a room.

    Args:
      speech: `[N]` int16 at `sample_rate`, not all zero.
      sample_rate: samples per second of `speech`.
      spec: what to make of it.

    Returns:
      `[M]` int16 at 16 kHz.
    """
    import soxr

    # Double precision throughout: the last bit of a float64 does not reach the int16, so that neither the order of a
    # sum nor the version of NumPy shows in the samples.
    wave = soxr.resample(speech.astype(np.float64) / 32768.0, sample_rate, SAMPLE_RATE, quality='VHQ')
    wave = np.convolve(wave, [1.0, -spec.microphone])
    wave *= _amplitude(spec.level) / math.sqrt(float(np.mean(wave**2)))
    before, after = (round(seconds * SAMPLE_RATE) for seconds in spec.silence)
    wave = np.pad(wave, (before, after))
    wave += _amplitude(spec.noise) * _room_noise(len(wave), _random('noise', spec.id))
    peak = float(np.abs(wave).max())
    if peak > 0.99:
        wave *= 0.99 / peak
    return np.rint(wave * 32767.0).astype(np.int16)


def _spec(speaker: Speaker, label: str, number: int) -> Spec:
    identity = f'{speaker.name}_{label}_{number + 1:02d}'
    person, clip = _random('speaker', speaker.name), _random('clip', identity)
    expressiveness = person.uniform(*_EXPRESSIVENESS)
    effort, gain, microphone, noise, breath = (person.uniform(-1.0, 1.0) for _ in range(5))
    prosody = _scale(PROSODY[label], expressiveness * clip.uniform(*_STRENGTH))
    # No one says a thing twice in the same way: pitch, range, rate, level and voice differ from clip to clip.
    pitch, span, rate, level, tilt, flutter = (clip.uniform(-1.0, 1.0) for _ in range(6))
    voice = _voice(
        pitch=speaker.pitch * prosody.pitch * 1.08**pitch,
        span=0.35 * speaker.pitch * prosody.range * 1.25**span,
        tract=speaker.tract,
        prosody=dataclasses.replace(
            prosody,
            tilt=prosody.tilt + 0.8 * effort + 0.8 * tilt,
            breath=prosody.breath + 0.1 * (1.0 + breath),
            flutter=prosody.flutter + 1.0 + flutter,
        ),
    )
    return Spec(
        id=identity,
        label=label,
        speaker=speaker.name,
        text=TEXTS[speaker.language[:2]][number],
        language=speaker.language,
        voice=voice,
        rate=round(speaker.rate * prosody.rate * 1.08**rate),
        level=-28.0 + prosody.level + 2.0 * gain + 2.5 * level,
        noise=-62.0 + 5.0 * noise + clip.uniform(-3.0, 3.0),
        microphone=0.25 * microphone,
        silence=(clip.uniform(0.05, 0.25), clip.uniform(0.05, 0.25)),
    )


def _scale(prosody: Prosody, strength: float) -> Prosody:
    """Moves every field from neutral towards `prosody`: factors as powers, everything else linearly."""
    factors = {'pitch', 'range', 'rate', 'lips', 'consonants'}
    fields: dict[str, float] = {}
    for field in dataclasses.fields(Prosody):
        full, neutral = getattr(prosody, field.name), getattr(NEUTRAL, field.name)
        fields[field.name] = full**strength if field.name in factors else neutral + strength * (full - neutral)
    return Prosody(**fields)


def _voice(*, pitch: float, span: float, tract: float, prosody: Prosody) -> str:
    """Writes a voice variant for eSpeak NG: the voice of one clip.

    eSpeak takes the F0 of its lowest and highest tone. For a statement the mean F0 is 0.92 lowest + 0.79 (highest -
    lowest) within 3 %, measured on 100 clips; the two follow from the wanted mean and span.
    """
    low = (pitch - 0.79 * span) / 0.92
    loud, soft = 22 + prosody.stress, 18 - prosody.stress
    formants = {n: tract * (prosody.lips if n in (1, 2) else 1.0) for n in range(9)}
    # The response at 600, 1200 and 2000 Hz is eSpeak's default; the slope turns it about 600 Hz.
    response = [(600, 170.0), (1200, 135.0), (2000, 110.0), (4000, 110.0)]
    tone = [(f, min(255.0, a * _amplitude(prosody.tilt * math.log2(f / 600)))) for f, a in response]
    breath = [20.0 * prosody.breath] * 8
    lines = [
        'language variant',
        'name clip',
        f'pitch {low:.0f} {low + span:.0f}',
        *(f'formant {n} {100 * factor:.0f} 100 100' for n, factor in formants.items()),
        'tone ' + ' '.join(f'{f} {a:.0f}' for f, a in tone),
        'breath ' + ' '.join(f'{strength:.0f}' for strength in breath),
        f'flutter {prosody.flutter:.0f}',
        f'roughness {prosody.roughness:.0f}',
        f'consonants {100 * prosody.consonants:.0f} {100 * prosody.consonants:.0f}',
        f'stressAmp {soft:.0f} {soft:.0f} 20 20 20 {loud:.0f} {loud:.0f} {loud:.0f}',
    ]
    return '\n'.join(lines) + '\n'


def _amplitude(decibels: float) -> float:
    return math.pow(10.0, decibels / 20.0)


class _Uniform:
    """Random numbers that only depend on a key: Philox's raw stream, which NumPy keeps as it is for good."""

    def __init__(self, key: int) -> None:
        self._bits = np.random.Philox(key=key)

    def array(self, count: int) -> np.ndarray:
        """`[count]` float64 in [0, 1), the upper 53 bits of the stream."""
        return (self._bits.random_raw(count) >> np.uint64(11)) * 2.0**-53

    def uniform(self, low: float, high: float) -> float:
        """One number between `low` and `high`."""
        return low + (high - low) * float(self.array(1)[0])


def _random(purpose: str, name: str) -> _Uniform:
    digest = hashlib.blake2b(f'{VERSION}/{purpose}/{name}'.encode(), digest_size=16).digest()
    return _Uniform(int.from_bytes(digest, 'little'))


def _room_noise(count: int, random: _Uniform) -> np.ndarray:
    """Noise whose power falls by 3 dB per octave, with a mean square of 1, `[count]` float64."""
    spectrum = np.fft.rfft(random.array(count) - 0.5)
    # Below 50 Hz the power is level: rooms are loud there, microphones are not.
    spectrum /= np.sqrt(np.maximum(np.fft.rfftfreq(count, 1.0 / SAMPLE_RATE), 50.0))
    spectrum[0] = 0.0
    noise = np.fft.irfft(spectrum, count)
    return noise / math.sqrt(float(np.mean(noise**2)))
