"""The builder of the embedded corpus; `synth` says what it is and speaks it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

import numpy as np

from jax_reparam.corpora import synth
from jax_reparam.corpora.builder import Clip, Found, SpeechBuilder, by_id
from jax_reparam.errors import InputError
from jax_reparam.frontend import audio


class Synth(SpeechBuilder):
    """Builds `synth`. Nothing that is measured on it is evidence about emotions."""

    LABELS = synth.LABELS
    SYNTHETIC = True
    BEAM = False
    DESCRIPTION = f'Sentences in several voices and emotions; {synth.NOTICE}.'

    @classmethod
    def find(cls, source: str, config: str = '') -> Found:
        """Lists the clips; there is no source."""
        if source:
            raise InputError(f'synth: expected no source, found {source!r}')
        return Found(cls.LABELS, by_id(Clip(spec.id, spec.label, spec.speaker) for spec in synth.specs()))

    @classmethod
    def fingerprints(cls, clips: Sequence[Clip]) -> Iterator[str]:
        """What each clip is made from, and the versions of what makes it."""
        versions = json.dumps(synth.versions())
        for spec in _specs(clips):
            yield f'{spec} {versions}'

    @classmethod
    def load(cls, clips: Sequence[Clip]) -> Iterator[np.ndarray | audio.AudioError]:
        """Speaks the clips."""
        return synth.render_all(_specs(clips))


def _specs(clips: Sequence[Clip]) -> list[synth.Spec]:
    specs = {spec.id: spec for spec in synth.specs()}
    return [specs[clip.id] for clip in clips]
