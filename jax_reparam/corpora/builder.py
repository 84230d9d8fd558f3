"""What the TensorFlow Datasets builders of all corpora share."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from jax_reparam import threads
from jax_reparam.corpora import check, terms
from jax_reparam.corpora.found import Clip, Found, Part, Published, by_id, decode
from jax_reparam.errors import InputError
from jax_reparam.frontend import audio, audio_files
from jax_reparam.progress import Progress

__all__ = ['Clip', 'Found', 'Part', 'Published', 'SpeechBuilder', 'by_id', 'first_missing', 'folder_of']

# Audio in a file of records, 64 MiB: TFDS keeps the records of a file in memory until it is written.
SHARD_SECONDS = 2048.0

WORKERS = threads.cores(8)


class SpeechBuilder(tfds.core.ShardBasedBuilder, skip_registration=True):  # type: ignore[call-arg,misc]
    """Builds int16 mono audio at 16 kHz with label, speaker, id, group and times, in the order of the ids.

    A corpus derives from it and gives `find`; one that makes its audio also gives `fingerprints` and `load`. A first
    pass decodes and measures every clip, `check.review` decides on all of them together, and a second one writes those
    that are used: a clip with two labels can then be left out wherever its copy lies. Beside the records are
    `skipped.tsv`, what was left out and why, and `report.md`, the self-check. Given a Beam runner or options in TFDS's
    `DownloadConfig`, both passes are Beam pipelines, and give the same records in the same order.

    Attributes:
      LABELS: the classes in order; empty where the source names them.
      SYNTHETIC: whether no human speaks in it.
      BEAM: whether its clips can be read each for itself, as Beam's workers do.
      DESCRIPTION: what it is, in a sentence.
      HOMEPAGE: where it comes from.
      CITATION: BibTeX.
    """

    VERSION = tfds.core.Version('2.0.0')
    RELEASE_NOTES: ClassVar[dict[str, str]] = {'2.0.0': 'Session or series, and times of a cut.'}
    LABELS: ClassVar[tuple[str, ...]] = ()
    SYNTHETIC: ClassVar[bool] = False
    BEAM: ClassVar[bool] = True
    DESCRIPTION: ClassVar[str] = ''
    HOMEPAGE: ClassVar[str | None] = None
    CITATION: ClassVar[str | None] = None

    def __init__(
        self,
        *,
        source: str | os.PathLike[str] = '',
        accept_mismatch: bool = False,
        progress: bool = False,
        **kwargs: Any,
    ) -> None:
        """Constructs a builder.

        Args:
          source: folder or table of the corpus; '' where the corpus needs none, or to take TFDS's `manual_dir`.
          accept_mismatch: whether to go on with a copy that has other counts than the published one.
          progress: whether to say on standard error how far it is.
          **kwargs: those of `tfds.core.DatasetBuilder`.
        """
        self._source = os.fspath(source)
        self._accept_mismatch = accept_mismatch
        self._progress = progress
        self._beam: tuple[Any, Any] | None = None
        super().__init__(**kwargs)

    @classmethod
    def find(cls, source: str, config: str = '') -> Found:
        """Lists the clips at `source` without opening them.

        Args:
          source: folder or table of the corpus.
          config: one of its `BUILDER_CONFIGS`, by name; '' for the first, or where it has none.

        Raises:
          InputError: the source is missing or laid out in another way.
        """
        raise NotImplementedError

    @classmethod
    def config_of(cls, name: str) -> str:
        """The configuration's name, the first one's for '', or '' where the corpus has none."""
        return name or (cls.BUILDER_CONFIGS[0].name if cls.BUILDER_CONFIGS else '')

    @classmethod
    def label_names(cls, config: str = '') -> tuple[str, ...]:
        """The classes in order; empty where the source names them."""
        del config
        return cls.LABELS

    @classmethod
    def fingerprints(cls, clips: Sequence[Clip]) -> Iterator[str]:
        """Digests, one a clip, of all that decides its audio; a recording that many clips are cut from is read once."""
        paths = list(dict.fromkeys(clip.path for clip in clips))
        digests = dict(zip(paths, threads.in_order(_hash_file, paths, WORKERS), strict=True))
        for clip in clips:
            yield digests[clip.path]

    @classmethod
    def load(cls, clips: Sequence[Clip]) -> Iterator[np.ndarray | audio.AudioError]:
        """The audio of the clips in their order, `[N]` int16; the error for one that cannot be read."""
        return threads.in_order(decode, clips, WORKERS)

    @classmethod
    def digest(cls, found: Found) -> str:
        """The key of a prepared corpus: a digest of everything that decides its records."""
        total = hashlib.sha256()
        left_out = list(found.skipped.items()), list(found.conflicts.items())
        about_all = [cls.name, str(cls.VERSION), audio.SAMPLE_RATE, found.labels, *left_out]
        total.update(json.dumps(about_all).encode())
        for clip, content in zip(found.clips, cls.fingerprints(found.clips), strict=True):
            about = [clip.id, clip.label, clip.speaker, clip.group, clip.part, clip.start, clip.end, clip.cut]
            total.update(json.dumps([*about, content]).encode())
        return total.hexdigest()

    def _info(self) -> tfds.core.DatasetInfo:
        config = self._config_name()
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.DESCRIPTION,
            homepage=self.HOMEPAGE,
            license=terms.of(self.name).licence,
            citation=self.CITATION,
            features=tfds.features.FeaturesDict(
                {
                    # As bytes: a list of int64 takes ten bytes for each negative sample.
                    'audio': tfds.features.Tensor(shape=(None,), dtype=np.int16, encoding='bytes'),
                    'label': tfds.features.ClassLabel(
                        names=self.label_names(config) or self.find(self._source, config).labels
                    ),
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

    def _config_name(self) -> str:
        return self.builder_config.name if self.builder_config else ''

    def _download_and_prepare(self, dl_manager: Any, download_config: Any) -> None:
        if download_config.beam_runner:
            if not self.BEAM:
                raise InputError(f'{self.name}: expected no Beam runner, for its audio comes in one stream, found one')
            self._beam = download_config.beam_runner, download_config.beam_options
        with tempfile.TemporaryFile(dir=self.data_path) as self._spool:
            super()._download_and_prepare(dl_manager, download_config)
        # On Beam, TFDS takes the lengths of more than ten files in the order of their numbers as texts: 0, 1, 10, 2.
        splits = [split.replace(shard_lengths=self._lengths) for split in self.info.splits.values()]
        self.info.set_splits(tfds.core.splits.SplitDict(splits))

    def _shard_iterators_per_split(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        source = self._source
        if not source and self.MANUAL_DOWNLOAD_INSTRUCTIONS:
            source = os.fspath(dl_manager.manual_dir)
        found = self.find(source, self._config_name())
        _require_labels(found.labels, found.clips, {**found.skipped, **found.conflicts}, source)
        read: Callable[[Clip], np.ndarray | audio.AudioError]
        if self._beam is None:
            measured, read = self._measure(found.clips)
        else:
            from jax_reparam.corpora import beam

            # A worker on another machine sees the source alone.
            measured, read = beam.measure(found.clips, self.data_path / 'measured', *self._beam), decode
        shards = _shards(self._settle(source, found, measured), measured)
        self._lengths = [len(shard) for shard in shards]
        return {'train': [functools.partial(_records, [found.clips[i] for i in shard], read) for shard in shards]}

    def _measure(self, clips: Sequence[Clip]) -> tuple[list[check.Measured], Callable[[Clip], np.ndarray]]:
        """Measures the clips and spools their audio; the function returned reads that of a clip."""
        measured = []
        spans: dict[str, tuple[int, int]] = {}
        bar = Progress(len(clips), f'preparing {self.name}', unit='clip', enabled=self._progress)
        with contextlib.closing(bar):
            for clip, samples in zip(clips, self.load(clips), strict=True):
                measured.append(check.measure(samples, clip.id))
                if not measured[-1].error:
                    assert isinstance(samples, np.ndarray)
                    spans[clip.id] = self._spool.tell(), samples.nbytes
                    self._spool.write(samples.tobytes())
                bar.update()

        def read(clip: Clip) -> np.ndarray:
            start, count = spans[clip.id]
            self._spool.seek(start)
            return np.frombuffer(self._spool.read(count), np.int16)

        return measured, read

    def _settle(self, source: str, found: Found, measured: Sequence[check.Measured]) -> tuple[int, ...]:
        """Says which clips are used, and writes the index and the report.

        Raises:
          InputError: some label has no usable clip, or the counts are not those published and that is not accepted.
        """
        result = check.review(found, measured)
        report = check.report(self.name, found, measured, result)
        if result.mismatches and not self._accept_mismatch:
            raise check.MismatchError(check.mismatch(source, self.name, result.mismatches), report)
        used = [found.clips[i] for i in result.kept]
        _require_labels(found.labels, used, result.skipped, source)
        self.info.metadata.update(
            labels=found.labels,
            label=[found.labels.index(clip.label) for clip in used],
            **{key: [getattr(clip, key) for clip in used] for key in ('speaker', 'id', 'group', 'part')},
            seconds=[measured[i].seconds for i in result.kept],
            skipped=list(result.skipped.items()),
            warnings=check.summary(result),
            mismatches=result.mismatches,
            synthetic=self.SYNTHETIC,
        )
        # While it builds, TFDS's data_path is the folder that it renames at the end.
        lines = ''.join(f'{id_}\t{reason}\n' for id_, reason in result.skipped.items())
        (self.data_path / 'skipped.tsv').write_text('id\treason\n' + lines)
        (self.data_path / 'report.md').write_text(report)
        return result.kept


def _shards(kept: Sequence[int], measured: Sequence[check.Measured]) -> list[list[int]]:
    """Cuts the clips that are used into those of each file."""
    shards: list[list[int]] = [[]]
    seconds = 0.0
    for i in kept:
        if seconds > SHARD_SECONDS:
            shards.append([])
            seconds = 0.0
        shards[-1].append(i)
        seconds += measured[i].seconds
    return shards


def _records(
    clips: Sequence[Clip], read: Callable[[Clip], np.ndarray | audio.AudioError]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The records of a file: each clip with its audio `[N]` int16."""
    for clip in clips:
        samples = read(clip)
        if isinstance(samples, audio.AudioError):
            raise samples  # it could be read when it was measured
        record = {key: getattr(clip, key) for key in ('label', 'speaker', 'id', 'group', 'start')}
        # A cut may end before its transcript says so: with the recording.
        end = clip.start + len(samples) / audio.SAMPLE_RATE if clip.end is None or clip.cut else clip.end
        yield clip.id, {**record, 'audio': samples, 'end': end}


def folder_of(source: str, name: str, layout: str) -> epath.Path:
    """The source of a corpus as a folder; `layout` says in the errors how it should look.

    Raises:
      InputError: nothing was given, or there is no folder, or nothing in it.
    """
    if not source:
        raise InputError(f'{name}: expected its folder as the source ({layout}), found none given')
    path = epath.Path(source).expanduser()
    if not path.is_dir():
        found = 'a file' if path.exists() else 'nothing there'
        raise InputError(f'{source}: expected the folder of {name} ({layout}), found {found}')
    if not audio_files.listing(path):
        raise InputError(f'{source}: expected the folder of {name} ({layout}), found an empty folder')
    return path


def first_missing(folder: epath.Path, name: str, expected: Sequence[str], layout: str) -> None:
    """Refuses a source that lacks something; `layout` says in the error how it should look.

    Raises:
      InputError: names the first of `expected`, paths below the folder, that is not there.
    """
    for path in expected:
        if not (folder / path).exists():
            raise InputError(f'{folder}: expected {name} ({layout}), found no {path} in it')


def _require_labels(labels: Sequence[str], clips: Sequence[Clip], skipped: Mapping[str, str], source: str) -> None:
    present = {clip.label for clip in clips}
    if missing := [label for label in labels if label not in present]:
        first = next((f'; skipped {len(skipped):,}, first {i} ({reason})' for i, reason in skipped.items()), '')
        raise InputError(f'{source}: expected usable clips of every label, found none of {missing[0]!r}{first}')


def _hash_file(path: epath.Path | None) -> str:
    assert path is not None
    try:
        with audio.open_file(path) as file:
            return hashlib.file_digest(file, 'sha256').hexdigest()  # type: ignore[arg-type]
    except OSError:
        return 'unreadable'
