"""Emotions of recordings and of streams, by an exported model: `Recognizer`, `Stream`.

They need what `fold.py` wrote and no more: neither TensorFlow nor JAX is imported.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from jax_reparam.errors import InputError
from jax_reparam.evaluation import decide, softmax
from jax_reparam.frontend import audio, speech, windows
from jax_reparam.frontend.inputs import Heard, Input, Recording
from jax_reparam.frontend.speech import Speech
from jax_reparam.frontend.stream import Window, Windows
from jax_reparam.frontend.voice import Profile
from jax_reparam.manifest import PACKAGED, Manifest, Protocol, open_form
from jax_reparam.progress import Progress
from jax_reparam.runtime import litert, tflm


@dataclasses.dataclass(frozen=True)
class Part:
    """The decision on one window of a recording that is heard as a stream.

    Attributes:
      start: where it starts, in seconds.
      end: where it ends; not behind the end of the recording.
      probabilities: `[C]`; zeros where nobody speaks.
    """

    start: float
    end: float
    probabilities: np.ndarray


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The decision on one recording.

    Attributes:
      probabilities: `[C]`, the mean over the windows of its active span in which somebody speaks; zeros where there is
        none.
      seconds: length of the recording.
      speech_share: the share of its frames that are speech.
      too_quiet: whether its speech drowns in the floor of the features.
      clipping: whether it was recorded too loud.
      over_time: every window of the whole recording, where it was asked for.
      labels: the C classes.
    """

    probabilities: np.ndarray
    seconds: float
    speech_share: float
    too_quiet: bool
    clipping: bool
    over_time: tuple[Part, ...] = ()
    labels: tuple[str, ...] = ()

    @property
    def label(self) -> str | None:
        """The most probable class; None where nobody speaks."""
        return self.labels[int(self.probabilities.argmax())] if self.speech else None

    @property
    def speech(self) -> bool:
        """Whether somebody speaks."""
        return bool(self.probabilities.any())


@dataclasses.dataclass
class Recognizer:
    """A form of an exported model: `Recognizer.load().predict(samples, rate).label`.

    Attributes:
      manifest: of the export.
      form: its name.
      logits: maps windows `[W, frames, n_mels]` to logits `[W, C]`.
      profile: what is known of the speaker; `adapt` and the user change it, `predict` does not.
    """

    manifest: Manifest
    form: str
    logits: Callable[[np.ndarray], np.ndarray]
    profile: Profile | None = None

    @classmethod
    def load(cls, folder: str | Path = PACKAGED, form: str | None = None) -> Recognizer:
        """Loads a form from a folder that `fold.py` wrote; None is the one that it recommends.

        No folder is the packaged model: ConvTransformer XS, trained on all ten speakers of EMO-DB (German, acted).

        Raises:
          InputError: no such folder or form, or a file that is not the one that was verified.
        """
        manifest, name, model = open_form(folder, form)
        return cls(manifest, name, litert.load(model))

    @classmethod
    @contextlib.contextmanager
    def in_tflm(cls, folder: str | Path, form: str | None = None) -> Iterator[Recognizer]:
        """The same, run by TFLM in a child process that ends with the block.

        Raises:
          InputError: see `load`; or TFLM is not there, or does not run the model.
        """
        manifest, name, model = open_form(folder, form)
        tflm.need('--tflm')
        try:
            with tflm.started(model) as session:
                yield cls(manifest, name, lambda cut: np.stack([session.run(window) for window in cut]))
        except tflm.TFLMError as error:
            raise InputError(f'{folder}: expected a model that TFLM runs, found: {error}') from error

    @property
    def learned_seconds(self) -> float:
        """Seconds of the speaker's speech that are known."""
        return 0.0 if self.profile is None else self.manifest.input.seconds(self.profile.frames)

    def adapt(self, samples: np.ndarray | Iterator[np.ndarray], rate: int | None = None) -> float:
        """Learns from one recording of the speaker, given as to `predict`; returns `learned_seconds`.

        It ends after `VoiceConfig.most_seconds` of speech. `profile = None` forgets.

        Raises:
          InputError: other samples.
        """
        self.profile = self.manifest.input.learned(self._recording(samples, rate).codes, self.profile)
        return self.learned_seconds

    def predict(
        self,
        samples: np.ndarray | Iterator[np.ndarray],
        rate: int | None = None,
        *,
        profile: Profile | None = None,
        over_time: bool = False,
        show_progress: bool = False,
    ) -> Prediction:
        """Decides on one recording.

        Args:
          samples: `[N]` int16, or float with a full scale of 1; one channel. Or an iterator over blocks of them at the
            frontend's rate (`frontend.audio.blocks`): a recording of hours then needs little memory.
          rate: samples per second; others than the frontend's 16,000 are resampled (soxr). None: the frontend's.
          profile: what is known of its speaker; None: what `adapt` has learned.
          over_time: also for each window of the recording, as it would be heard live.
          show_progress: report on standard error how far a long recording is.

        Raises:
          InputError: other samples: two channels, another type, none, some that are not finite.
        """
        inputs = self.manifest.input
        profile = self.profile if profile is None else profile
        recording = self._recording(samples, rate)
        codes, frames, hop = recording.codes, inputs.window.frames, inputs.frontend.hop_ms / 1000
        seconds = recording.samples / inputs.frontend.sample_rate
        found = dict(speech.windows_of(codes, inputs.window, inputs.rule))
        span = speech.active_span(codes, inputs.rule, found.items() if inputs.rule.scan == inputs.window else None)
        starts = [span.start + int(start) for start in windows.starts(span.stop - span.start, inputs.window)]
        live = list(found) if over_time else []
        bar = Progress(
            len(starts) + len(live),
            'windows',
            unit='window',
            enabled=show_progress and seconds >= audio.LONG_SECONDS,
        )

        # One window at a time: all of a long recording take more memory than the recording.
        def row(start: int, end: int) -> np.ndarray:
            known = found.get(start) if end == min(start + frames, len(codes)) else None
            probabilities = self._decide(inputs.hear(codes[start:end], profile, known))
            bar.update()
            return probabilities

        probabilities = decide(np.stack([row(start, min(start + frames, span.stop)) for start in starts]))[0]
        parts = [
            Part(start * hop, min((start + frames) * hop, seconds), row(start, min(start + frames, len(codes))))
            for start in live
        ]
        bar.close()
        told = _told(recording, found, inputs)
        return Prediction(probabilities, seconds, *told, over_time=tuple(parts), labels=self.manifest.labels)

    def _recording(self, samples: np.ndarray | Iterator[np.ndarray], rate: int | None) -> Recording:
        """Features of a recording; what is no recording would give some, too."""
        inputs = self.manifest.input
        own = inputs.frontend.sample_rate
        blocks = samples if isinstance(samples, Iterator) else iter([samples])
        if blocks is samples and rate not in (None, own):
            raise InputError(f'rate: expected {own} for blocks of samples, found {rate}')
        found = inputs.recording(audio.samples_of(block, rate, 'samples', own) for block in blocks)
        if not found.samples:
            raise InputError('samples: expected audio, found 0 samples')
        return found

    def _decide(self, heard: Heard) -> np.ndarray:
        """Probabilities of a window, `[C]`; the model does not run where nobody speaks."""
        if not heard.speech.there:
            return np.zeros(len(self.manifest.labels))
        row: np.ndarray = softmax(self.logits(heard.features[None]))[0]
        return row


def _told(recording: Recording, windows_found: Mapping[int, Speech], inputs: Input) -> tuple[float, bool, bool]:
    """The share of a recording's frames that are speech; whether all of it is too quiet; whether any of it clips."""
    spoken, quiet, clipping = np.zeros(len(recording.codes), bool), [], []
    for start, found in windows_found.items():
        end = start + len(found.mask)
        clipping.append(speech.clipping(found, recording.full_scale[start:end], inputs.frontend))
        if found.there:
            spoken[start:end] |= found.mask
            quiet.append(speech.too_quiet(found, inputs.rule))
    return float(spoken.mean()), bool(quiet) and all(quiet), any(clipping)


@dataclasses.dataclass(frozen=True)
class Decision:
    """The decision on one window of a stream.

    Attributes:
      start: where the window starts, in seconds.
      end: where it ends; not after the end of the stream.
      probabilities: `[C]`, of the window alone; zeros where nobody speaks.
      smoothed: `[C]`, with those of the windows before it in which somebody spoke; zeros before the first.
      speech_share: the share of the window's frames that are speech.
      too_quiet: whether its speech drowns in the floor of the features.
      clipping: whether it is too loud for the microphone (`speech.clipping`).
      profile: what is known of the voice after the window.
    """

    start: float
    end: float
    probabilities: np.ndarray
    smoothed: np.ndarray
    speech_share: float
    too_quiet: bool
    clipping: bool
    profile: Profile


class Stream:
    """Decides on each window of a stream as soon as it is full, as the firmware does.

    Attributes:
      profile: what is known of the voice so far.
    """

    def __init__(
        self,
        recognizer: Recognizer,
        *,
        smoothing: float = 0.0,
        learn: bool = False,
        frame_codes: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> None:
        """Starts a stream with what `recognizer` knows of the voice.

        Args:
          recognizer: the model.
          smoothing: weight of the smoothed probabilities so far, 0 to less than 1; the window's own have the rest.
          learn: learn the voice from each window after it was decided.
          frame_codes: the codes `[M]` int8 of a frame's samples `[frame]` int16; None: the frontend in NumPy.
        """
        self._recognizer, self._smoothing, self._learn = recognizer, smoothing, learn
        inputs = recognizer.manifest.input
        self._windows = Windows(inputs, frame_codes or (lambda samples: inputs.codes(samples)[0]))
        self._samples, self._smoothed = 0, np.zeros(len(recognizer.manifest.labels))
        known = recognizer.profile
        self.profile = Profile.empty(inputs.frontend.n_mels) if known is None else known

    def feed(self, samples: np.ndarray) -> Iterator[Decision]:
        """Takes the next samples, `[N]` int16 at the frontend's rate, any N, and decides on each window they complete.

        Raises:
          InputError: samples of another type or shape; the stream is as it was.
        """
        if len(samples):
            samples = audio.samples_of(samples, None, 'samples', self._recognizer.manifest.input.frontend.sample_rate)
        self._samples += len(samples)
        yield from map(self._decide, self._windows.feed(samples))

    def finish(self) -> Iterator[Decision]:
        """Ends the stream; decides on what no window held."""
        yield from map(self._decide, self._windows.finish())

    def _decide(self, window: Window) -> Decision:
        inputs, labels = self._recognizer.manifest.input, self._recognizer.manifest.labels
        frontend, rule, seconds = inputs.frontend, inputs.rule, inputs.frontend.hop_ms / 1000
        heard = inputs.hear(window.codes, self.profile)
        found, share, probabilities = heard.speech, 0.0, np.zeros(len(labels))
        if found.there:
            probabilities = softmax(self._recognizer.logits(heard.features[None]))[0]
            old, new = self._smoothing * self._smoothed, (1 - self._smoothing) * probabilities
            self._smoothed = old + new if self._smoothed.any() else probabilities
            share = float(found.mask.sum() / window.frames)
        if self._learn:
            self.profile = self.profile.learn(window.codes, found, rule, new=window.new, most=inputs.most_frames)
        return Decision(
            window.start * seconds,
            min((window.start + inputs.window.frames) * seconds, self._samples / frontend.sample_rate),
            probabilities,
            self._smoothed,
            share,
            speech.too_quiet(found, rule),
            speech.clipping(found, window.full_scale, frontend),
            self.profile,
        )


def together(predictions: Sequence[Prediction], protocol: Protocol) -> tuple[np.ndarray, int]:
    """One decision over all recordings of a speaker, as the model's protocol makes it.

    Returns:
      `[C]`, zeros where nobody speaks in any; and the number of recordings that were used: the longest of those in
      which somebody speaks.
    """
    spoken = [one for one in predictions if one.speech]
    order = sorted(range(len(spoken)), key=lambda i: -spoken[i].seconds)
    used = sorted(order[: protocol.turns or None])
    rows = [spoken[i].probabilities for i in used] or [predictions[0].probabilities]
    return decide(np.stack(rows), join=protocol.join)[0], len(used)
