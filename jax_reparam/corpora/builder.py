"""What the TensorFlow Datasets builders of all corpora share."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from jax_reparam import audio
from jax_reparam.errors import InputError
from jax_reparam.progress import Progress

_T = TypeVar('_T')
Part = Literal['', 'train', 'validation', 'test']


@dataclasses.dataclass(frozen=True)
class Clip:
    """A clip as its source names it.

    Attributes:
      id: unique name.
      label: its class.
      speaker: who speaks.
      path: its file; None where the corpus makes the audio itself.
      group: the recording session or series it comes from; '' where the corpus has none.
      part: 'train', 'validation' or 'test' where the corpus itself says so; '' where not.
      start: where it begins in its file, in seconds.
      end: where it ends in its file, in seconds; None: with the file.
    """

    id: str
    label: str
    speaker: str
    path: epath.Path | None = None
    group: str = ''
    part: Part = ''
    start: float = 0.0
    end: float | None = None


@dataclasses.dataclass(frozen=True)
class Found:
    """What a source holds, by its names alone.

    Attributes:
      labels: the classes in order.
      clips: the clips, ascending by id.
      skipped: (id, reason) of the files that are no clips of the corpus.
    """

    labels: tuple[str, ...]
    clips: tuple[Clip, ...]
    skipped: tuple[tuple[str, str], ...] = ()


class SpeechBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Builds int16 mono audio at 16 kHz with label, speaker, id, group and times, in the order of the ids.

    A corpus derives from it and gives `find`; one that makes its audio also gives `fingerprints` and `load`. Clips that
    cannot be used, and clips whose audio an earlier one already holds, are left out; `skipped.tsv` beside the records
    says which and why.

    Attributes:
      LABELS: the classes in order; empty where the source names them.
      SYNTHETIC: whether no human speaks in it.
      DESCRIPTION: what it is, in a sentence.
      HOMEPAGE: where it comes from.
      LICENSE: how it may be used.
      CITATION: BibTeX.
    """

    VERSION = tfds.core.Version('2.0.0')
    RELEASE_NOTES: ClassVar[dict[str, str]] = {'2.0.0': 'Session or series, and times of a cut.'}
    LABELS: ClassVar[tuple[str, ...]] = ()
    SYNTHETIC: ClassVar[bool] = False
    DESCRIPTION: ClassVar[str] = ''
    HOMEPAGE: ClassVar[str | None] = None
    LICENSE: ClassVar[str | None] = None
    CITATION: ClassVar[str | None] = None

    def __init__(self, *, source: str | os.PathLike[str] = '', progress: bool = False, **kwargs: Any) -> None:
        """Constructs a builder.

        Args:
          source: folder or table of the corpus; '' where the corpus needs none, or to take TFDS's `manual_dir`.
          progress: whether to say on standard error how far it is.
          **kwargs: those of `tfds.core.DatasetBuilder`.
        """
        self._source = os.fspath(source)
        self._progress = progress
        super().__init__(**kwargs)

    @classmethod
    def find(cls, source: str) -> Found:
        """Lists the clips at `source` without opening them.

        Raises:
          InputError: the source is missing or laid out in another way.
        """
        raise NotImplementedError

    @classmethod
    def fingerprints(cls, clips: Sequence[Clip]) -> Iterator[str]:
        """Digests, one a clip, of all that decides its audio."""
        return _in_order(_hash_file, clips)

    @classmethod
    def load(cls, clips: Sequence[Clip]) -> Iterator[np.ndarray | audio.AudioError]:
        """The audio of the clips in their order, `[N]` int16; the error for one that cannot be used."""
        return _in_order(_decode_file, clips)

    @classmethod
    def digest(cls, found: Found) -> str:
        """The key of a prepared corpus: a digest of everything that decides its records."""
        total = hashlib.sha256()
        total.update(json.dumps([cls.name, str(cls.VERSION), audio.SAMPLE_RATE, found.labels, found.skipped]).encode())
        for clip, content in zip(found.clips, cls.fingerprints(found.clips), strict=True):
            about = [clip.id, clip.label, clip.speaker, clip.group, clip.part, clip.start, clip.end]
            total.update(json.dumps([*about, content]).encode())
        return total.hexdigest()

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.DESCRIPTION,
            homepage=self.HOMEPAGE,
            license=self.LICENSE,
            citation=self.CITATION,
            features=tfds.features.FeaturesDict(
                {
                    # As bytes: a list of int64 takes ten bytes for each negative sample.
                    'audio': tfds.features.Tensor(shape=(None,), dtype=np.int16, encoding='bytes'),
                    'label': tfds.features.ClassLabel(names=self.LABELS or self.find(self._source).labels),
                    'speaker': tfds.features.Text(),
                    'id': tfds.features.Text(),
                    'group': tfds.features.Text(),
                    'start': np.float64,
                    'end': np.float64,
                }
            ),
            supervised_keys=('audio', 'label'),
            # Record i is clip i, so that an index means the same clip everywhere.
            disable_shuffling=True,
            metadata=tfds.core.MetadataDict(),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        source = self._source
        if not source and self.MANUAL_DOWNLOAD_INSTRUCTIONS:
            source = os.fspath(dl_manager.manual_dir)
        return {'train': self._generate_examples(source)}

    def _generate_examples(self, source: str) -> Iterator[tuple[int, dict[str, Any]]]:
        found = self.find(source)
        kept: list[Clip] = []
        seconds: list[float] = []
        skipped = dict(found.skipped)
        _require_labels(found.labels, found.clips, skipped, source)
        first: dict[bytes, str] = {}
        bar = Progress(len(found.clips), f'preparing {self.name}', unit='clip', enabled=self._progress)
        for clip, samples in zip(found.clips, self.load(found.clips), strict=True):
            bar.update()
            if isinstance(samples, audio.AudioError):
                skipped[clip.id] = str(samples).removeprefix(f'{clip.id}: ')
                continue
            same = first.setdefault(hashlib.sha256(samples.tobytes()).digest(), clip.id)
            if same != clip.id:
                skipped[clip.id] = f'the same audio as {same}'
                continue
            seconds.append(len(samples) / audio.SAMPLE_RATE)
            yield (
                len(kept),
                {
                    'audio': samples,
                    'label': clip.label,
                    'speaker': clip.speaker,
                    'id': clip.id,
                    'group': clip.group,
                    'start': clip.start,
                    'end': clip.start + seconds[-1] if clip.end is None else clip.end,
                },
            )
            kept.append(clip)
        bar.close()
        _require_labels(found.labels, kept, skipped, source)
        self.info.metadata.update(
            labels=found.labels,
            label=[found.labels.index(clip.label) for clip in kept],
            speaker=[clip.speaker for clip in kept],
            id=[clip.id for clip in kept],
            group=[clip.group for clip in kept],
            part=[clip.part for clip in kept],
            seconds=seconds,
            skipped=sorted(skipped.items()),
            synthetic=self.SYNTHETIC,
        )
        # While it builds, TFDS's data_path is the folder that it renames at the end.
        lines = ''.join(f'{id_}\t{reason}\n' for id_, reason in sorted(skipped.items()))
        (self.data_path / 'skipped.tsv').write_text('id\treason\n' + lines)


def listing(folder: epath.Path) -> list[epath.Path]:
    """The entries of a folder, ascending, without hidden ones (`._x.wav` is what macOS leaves beside x.wav)."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith('.'))


def folder_of(source: str, name: str, layout: str) -> epath.Path:
    """The source as a folder that is there and holds something.

    Args:
      source: what the user gave.
      name: the corpus.
      layout: how the source should look, for the error.

    Raises:
      InputError: nothing was given, or there is no folder, or nothing in it.
    """
    if not source:
        raise InputError(f'{name}: expected its folder as the source ({layout}), found none given')
    path = epath.Path(source).expanduser()
    if not path.is_dir():
        found = 'a file' if path.exists() else 'nothing there'
        raise InputError(f'{source}: expected the folder of {name} ({layout}), found {found}')
    if not listing(path):
        raise InputError(f'{source}: expected the folder of {name} ({layout}), found an empty folder')
    return path


def _require_labels(labels: Sequence[str], clips: Sequence[Clip], skipped: Mapping[str, str], source: str) -> None:
    present = {clip.label for clip in clips}
    for label in labels:
        if label not in present:
            why = ''.join(
                f'; skipped {len(skipped):,}, first {i} ({reason})' for i, reason in list(skipped.items())[:1]
            )
            raise InputError(f'{source}: expected usable clips of every label, found none of {label!r}{why}')


def _hash_file(clip: Clip) -> str:
    assert clip.path is not None
    try:
        return hashlib.sha256(clip.path.read_bytes()).hexdigest()
    except OSError:
        return 'unreadable'


def _decode_file(clip: Clip) -> np.ndarray | audio.AudioError:
    assert clip.path is not None
    try:
        samples = audio.decode(clip.path.read_bytes(), clip.id)
        audio.check(samples, clip.id)
    except audio.AudioError as error:
        return error
    except OSError as error:
        return audio.AudioError(f'{clip.id}: expected a readable file, found: {error.strerror}')
    return samples


def _in_order(function: Callable[[Clip], _T], clips: Sequence[Clip]) -> Iterator[_T]:
    """Runs `function` on the clips in threads and gives the results in their order, working a few clips ahead."""
    workers = min(8, os.cpu_count() or 1)
    with ThreadPoolExecutor(workers) as pool:
        ahead: collections.deque[Future[_T]] = collections.deque()
        for clip in clips:
            ahead.append(pool.submit(function, clip))
            if len(ahead) > 4 * workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
