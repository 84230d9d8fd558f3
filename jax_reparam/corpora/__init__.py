"""Corpora: a source folder (or nothing, for `synth`) becomes prepared, indexed int16 audio.

Each corpus is a TensorFlow Datasets builder in a file of its own; `prepare` runs it once and gives a `Corpus`, which
reads the records without TensorFlow.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import io
import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from jax_reparam import system
from jax_reparam.corpora import check, synth
from jax_reparam.errors import InputError, known

if TYPE_CHECKING:
    from jax_reparam.corpora.builder import SpeechBuilder

# Name to module and class of the builder; what follows a slash is its configuration.
_BUILDERS = {
    'synth': ('synth_builder', 'Synth'),
    'emodb': ('emodb', 'Emodb'),
    'ravdess': ('ravdess', 'Ravdess'),
    'iemocap': ('iemocap', 'Iemocap'),
    'iemocap/all': ('iemocap', 'Iemocap'),
    'm3ed': ('m3ed', 'M3ed'),
    'daic_woz': ('daic_woz', 'DaicWoz'),
    'nemo': ('nemo', 'Nemo'),
    'crema_d': ('tfds_audio', 'CremaD'),
    'savee': ('tfds_audio', 'Savee'),
    'folder': ('folder', 'Folder'),
}
NAMES = tuple(_BUILDERS)
# Labels that a line names.
_NAMED = 12


@dataclasses.dataclass(frozen=True, eq=False)
class Corpus:
    """A prepared corpus of n clips, in the order of their ids.

    Attributes:
      name: the corpus, one of `NAMES`.
      labels: the classes, in the order of their numbers.
      label: class number of each clip, `[n]` int64.
      speaker: who speaks in each clip.
      id: name of each clip, unique, ascending.
      group: recording session or series of each clip; '' where the corpus has none.
      part: 'train', 'validation' or 'test', where the corpus itself splits; '' where not.
      seconds: length of each clip, `[n]` float64.
      key: digest of everything that went in; two corpora with one key hold the same audio, labels and speakers.
      directory: the prepared records.
      skipped: (id, reason) of everything in the source that was left out.
      synthetic: True where no human speaks; numbers from such a corpus say nothing about emotions.
      warnings: (what, number of clips) of what the self-check warns of.
      mismatches: a phrase for each published count that this copy does not have.
    """

    name: str
    labels: tuple[str, ...]
    label: np.ndarray
    speaker: tuple[str, ...]
    id: tuple[str, ...]
    group: tuple[str, ...]
    part: tuple[str, ...]
    seconds: np.ndarray
    key: str
    directory: Path
    skipped: tuple[tuple[str, str], ...] = ()
    synthetic: bool = False
    warnings: tuple[tuple[str, int], ...] = ()
    mismatches: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Number of clips n."""
        return len(self.id)

    @property
    def report(self) -> Path:
        """The self-check of the preparation, Markdown."""
        return self.directory / 'report.md'

    def audio(self, i: int) -> np.ndarray:
        """Reads clip i, `[N]` int16 mono at `audio.SAMPLE_RATE`."""
        samples: np.ndarray = self._records[int(i)]['audio']
        return samples

    @functools.cached_property
    def _records(self) -> Any:
        import tensorflow_datasets as tfds

        return tfds.builder_from_directory(self.directory).as_data_source('train')

    def __getstate__(self) -> dict[str, Any]:
        """The fields; a worker process opens the records itself."""
        return {key: value for key, value in self.__dict__.items() if key != '_records'}


def prepare(
    name: str,
    *,
    source: str | os.PathLike[str] = '',
    data_dir: str | os.PathLike[str],
    accept_mismatch: bool = False,
    progress: bool = True,
    beam_runner: str = '',
    beam_options: Sequence[str] = (),
) -> Corpus:
    """Prepares a corpus, or finds it prepared before.

    The result is kept under `data_dir` by a digest of what went in, so a changed source is prepared anew and an
    unchanged one is not. A preparation that is killed leaves nothing that a later one could take for finished; of two
    at the same time the second waits for the first.

    A copy that has other counts than the corpus was published with is refused, every time, unless `accept_mismatch`
    says that it is meant: what was accepted once in one place is not found by another run that does not say so.

    Args:
      name: one of `NAMES`.
      source: the folder (or table, for `folder`) that holds the corpus; nothing for `synth`.
      data_dir: where prepared corpora are kept.
      accept_mismatch: whether to go on with a copy that has other counts than the published one.
      progress: whether to say on standard error what goes on.
      beam_runner: the Apache Beam runner that prepares it; '' for threads of this process (with options: DirectRunner).
      beam_options: flags of that runner.

    Raises:
      InputError: an unknown name, a source that is missing or laid out in another way, one in which some label has
        no usable clip, or a copy with other counts than the published ones.
    """
    builder = _builder(name)
    config = name.partition('/')[2]
    # As Path.expanduser, which raises where there is no such home.
    source = os.path.expanduser(source)  # noqa: PTH111
    found = builder.find(source, config)
    key = builder.digest(found)
    root = Path(os.path.expanduser(data_dir)) / f'{name.replace("/", "-")}-{key[:12]}'  # noqa: PTH111
    directory = root / builder.name / builder.config_of(config) / str(builder.VERSION)
    if not directory.is_dir():
        with system.alone(root):
            # Whoever held the lock before may have been killed, or may have finished: then there is nothing to build.
            for stale in directory.parent.glob('incomplete.*'):
                shutil.rmtree(stale)
            building = builder(
                source=source,
                config=config or None,
                accept_mismatch=accept_mismatch,
                progress=progress,
                data_dir=root,
                file_format='array_record',
            )
            try:
                _build(building, beam_runner, beam_options)
            except check.MismatchError as error:
                path = root / 'report.md'
                path.write_text(error.report)
                raise InputError(f'{error}; the report is {path}') from error
    corpus = _load(name, key, directory)
    if corpus.mismatches and not accept_mismatch:
        message = check.mismatch(source, name, corpus.mismatches)
        raise InputError(f'{message}; the report is {corpus.report}')
    if progress:
        print(_summary(corpus, found.doubts), file=sys.stderr)
    return corpus


def _builder(name: str) -> type[SpeechBuilder]:
    module, class_ = _BUILDERS[known('corpus', name, NAMES)]
    return cast('type[SpeechBuilder]', getattr(importlib.import_module(f'jax_reparam.corpora.{module}'), class_))


def _build(builder: SpeechBuilder, beam_runner: str, beam_options: Sequence[str]) -> None:
    """Runs the builder without the talk and bars of TensorFlow Datasets: ours say more."""
    import tensorflow_datasets as tfds

    how: dict[str, Any] = {}
    if beam_runner or beam_options:
        from jax_reparam.corpora import beam

        how = {'beam_runner': beam_runner or 'DirectRunner', 'beam_options': beam.options(beam_options)}
    tfds.display_progress_bar(False)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare(download_config=tfds.download.DownloadConfig(**how))
    finally:
        tfds.display_progress_bar(True)


def _load(name: str, key: str, directory: Path) -> Corpus:
    about = json.loads((directory / 'metadata.json').read_text())
    return Corpus(
        name=name,
        label=np.array(about['label'], np.int64),
        seconds=np.array(about['seconds'], np.float64),
        key=key,
        directory=directory,
        skipped=tuple((id_, reason) for id_, reason in about['skipped']),
        synthetic=about['synthetic'],
        warnings=tuple(about['warnings'].items()),
        **{field: tuple(about[field]) for field in ('labels', 'speaker', 'id', 'group', 'part', 'mismatches')},
    )


def _summary(corpus: Corpus, doubts: Sequence[str]) -> str:
    labels = ', '.join(corpus.labels[:_NAMED]) + (', ...' if len(corpus.labels) > _NAMED else '')
    line = (
        f'{corpus.name}: {len(corpus):,} clips, {len(set(corpus.speaker))} speakers, '
        f'{len(corpus.labels)} labels ({labels})'
    )
    if corpus.synthetic:
        line += f'; {synth.NOTICE}'
    for doubt in doubts:
        line += f'; warning: {doubt}'
    if corpus.skipped:
        id_, reason = corpus.skipped[0]
        line += f'; skipped {len(corpus.skipped):,}, first {id_} ({reason}); all in {corpus.directory / "skipped.tsv"}'
    if warnings := ', '.join(f'{count:,} {what}' for what, count in corpus.warnings if count):
        line += f'; clips {warnings}: see {corpus.report}'
    return line
