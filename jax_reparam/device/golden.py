"""Golden vectors: a made signal, and what Python with TFLM's interpreter makes of it, for checking a port."""

from __future__ import annotations

import dataclasses

import numpy as np

from jax_reparam.frontend import features, stream
from jax_reparam.frontend.inputs import Input
from jax_reparam.frontend.voice import Profile
from jax_reparam.graph import flatbuffer
from jax_reparam.runtime import tflm

SECONDS = 0.75
# Of the signal, so that quiet frames lie between loud ones.
SYLLABLES_A_SECOND = 5
# What the samples of the stream's second half are divided by, towards zero as in C++: 12 dB.
QUIETER = 4


@dataclasses.dataclass(frozen=True)
class Golden:
    """What goes in and what must come out.

    The stream is the PCM `repeats` times, zeros, and the PCM as often again, quieter, while its speaker is learned.

    Attributes:
      pcm: `[N]` int16.
      codes: of its frames, `[T, M]` int8.
      logits: over the window that they are, of a speaker whom nobody knows, `[C]` in the model's output type.
      known_logits: the same with the profile that the stream leaves.
      repeats: how often the PCM is fed before the zeros, and after them.
      silence: number of zeros.
      starts: first frame of each window of the stream, `[W]`.
      stream_logits: of those windows, `[W, C]`; zeros where nobody speaks.
      speech: frames of speech in them, `[W]`; 0: nobody speaks.
      learned: frames in the profile after each of them, `[W]`.
      profile: what the stream leaves.
    """

    pcm: np.ndarray
    codes: np.ndarray
    logits: np.ndarray
    known_logits: np.ndarray
    repeats: int
    silence: int
    starts: np.ndarray
    stream_logits: np.ndarray
    speech: np.ndarray
    learned: np.ndarray
    profile: Profile


def signal(sample_rate: int, seconds: float = SECONDS) -> np.ndarray:
    """A chirp, a hummed vowel and noise, `[N]` int16: made by a formula, so that it holds nobody's voice.

    A vowel is harmonics of a falling pitch under three formants. Loud and quiet parts, both ends of the spectrum.
    """
    time = np.arange(int(sample_rate * seconds)) / sample_rate
    chirp = np.sin(2 * np.pi * (100 * time + 0.5 * (0.45 * sample_rate - 100) / seconds * time**2))
    pitch = 180 - 60 * time / seconds
    phase = 2 * np.pi * np.cumsum(pitch) / sample_rate
    vowel = sum(
        np.sin(k * phase) * sum(np.exp(-(((k * pitch - formant) / 120) ** 2)) for formant in (700, 1200, 2600))
        for k in range(1, 20)
    )
    noise = np.random.default_rng(0).uniform(-1, 1, len(time))
    loudness = np.exp(-4 * (time / seconds - 0.4) ** 2)
    syllables = 0.01 + np.sin(np.pi * SYLLABLES_A_SECOND * time) ** 2
    mixed = loudness * (syllables * (0.25 * chirp + 0.3 * vowel) + 0.002 * noise)
    pcm: np.ndarray = np.rint(20000 * mixed / np.abs(mixed).max()).astype(np.int16)
    return pcm


def make(model: bytes, front: bytes, inputs: Input) -> Golden:
    """Runs the made signal through both models in TFLM.

    Raises:
      tflm.TFLMError: TFLM could not run one of them.
    """
    graph, config, window = flatbuffer.read(model), inputs.frontend, inputs.window
    # Shorter than a window, so that it is also heard as one that is not full; whole hops, so that frames come again.
    hops = min(int(1000 * SECONDS), 8 * window.frames * config.hop_ms // 10) // config.hop_ms
    pcm = signal(config.sample_rate, hops * config.hop_ms / 1000)
    # Two windows and a part of a hop: the ring goes round, and the last window is one that the end moves back.
    repeats = -(-(window.frames + window.hop) // hops) + 1
    silence = (window.frames + 2 * window.hop) * config.hop_length  # one window is zeros alone, at least

    speech = np.tile(pcm, repeats)
    quieter = np.trunc(speech / QUIETER).astype(np.int16)
    samples = np.concatenate([speech, np.zeros(silence, np.int16), quieter])
    once, streamed = features.frames(pcm, config), features.frames(samples, config)
    # Most frames come several times.
    distinct, place = np.unique(np.concatenate([once, streamed]), axis=0, return_inverse=True)
    codes = features.encode(tflm.run(front, distinct).logits)[place.reshape(-1)]
    codes, following = codes[: len(once)], iter(codes[len(once) :])

    profile, heard, learned = Profile.empty(config.n_mels), [], []
    listener = stream.Windows(inputs, lambda _: next(following))
    windows = [*listener.feed(samples), *listener.finish()]
    for each in windows:
        heard.append(inputs.hear(each.codes, profile))
        profile = profile.learn(each.codes, heard[-1].speech, inputs.rule, new=each.new, most=inputs.most_frames)
        learned.append(profile.frames)
    there = np.array([bool(each.speech.there) for each in heard])
    given = [inputs.hear(codes, known).features for known in (None, profile)]
    given += [each.features for each in heard if each.speech.there]
    logits = graph.output.encode(tflm.run(model, np.stack(given)).logits)
    stream_logits = np.zeros((len(windows), logits.shape[-1]), logits.dtype)
    stream_logits[there] = logits[2:]
    return Golden(
        pcm=pcm,
        codes=codes,
        logits=logits[0],
        known_logits=logits[1],
        repeats=repeats,
        silence=silence,
        starts=np.array([each.start for each in windows]),
        stream_logits=stream_logits,
        speech=np.array([each.speech.mask.sum() if each.speech.there else 0 for each in heard]),
        learned=np.array(learned),
        profile=profile,
    )
