"""Corpora: a source folder (or nothing, for `synth`) becomes prepared, indexed int16 audio.

Each corpus is a TensorFlow Datasets builder in a file of its own; `prepare` runs it once and gives a `Corpus`, which
reads the records without TensorFlow.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import io
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jax_reparam.corpora import synth
from jax_reparam.errors import InputError

if TYPE_CHECKING:
    from jax_reparam.corpora.builder import SpeechBuilder

NAMES = ('synth', 'emodb', 'ravdess', 'folder')


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

    def __len__(self) -> int:
        """Number of clips n."""
        return len(self.id)

    def audio(self, i: int) -> np.ndarray:
        """Reads clip i, `[N]` int16 mono at `audio.SAMPLE_RATE`."""
        return self._records[int(i)]['audio']

    @functools.cached_property
    def _records(self) -> Any:
        import tensorflow_datasets as tfds

        return tfds.builder_from_directory(self.directory).as_data_source('train')

    def __getstate__(self) -> dict[str, Any]:
        """The fields; a worker process opens the records itself."""
        return {key: value for key, value in self.__dict__.items() if key != '_records'}


def prepare(
    name: str, *, source: str | os.PathLike[str] = '', data_dir: str | os.PathLike[str], progress: bool = True
) -> Corpus:
    """Prepares a corpus, or finds it prepared before.

    The result is kept under `data_dir` by a digest of what went in, so a changed source is prepared anew and an
    unchanged one is not. A preparation that is killed leaves nothing that a later one could take for finished; of two
    at the same time the second waits for the first.

    Args:
      name: one of `NAMES`.
      source: the folder (or table, for `folder`) that holds the corpus; nothing for `synth`.
      data_dir: where prepared corpora are kept.
      progress: whether to say on standard error what goes on.

    Raises:
      InputError: an unknown name, a source that is missing or laid out in another way, or one in which some label has
        no usable clip.
    """
    builder = _builder(name)
    source = os.fspath(source)
    found = builder.find(source)
    key = builder.digest(found)
    root = Path(data_dir).expanduser() / f'{name}-{key[:12]}'
    directory = root / name / str(builder.VERSION)
    if not directory.is_dir():
        with _lock(root):
            # Whoever held the lock before may have been killed, or may have finished: then there is nothing to build.
            for stale in directory.parent.glob('incomplete.*'):
                shutil.rmtree(stale)
            _build(builder(source=source, progress=progress, data_dir=root, file_format='array_record'))
    corpus = _load(name, key, directory)
    if progress:
        print(_summary(corpus), file=sys.stderr)
    return corpus


def _builder(name: str) -> type[SpeechBuilder]:
    if name == 'synth':
        from jax_reparam.corpora.synth_builder import Synth

        return Synth
    if name == 'emodb':
        from jax_reparam.corpora.emodb import Emodb

        return Emodb
    if name == 'ravdess':
        from jax_reparam.corpora.ravdess import Ravdess

        return Ravdess
    if name == 'folder':
        from jax_reparam.corpora.folder import Folder

        return Folder
    near = difflib.get_close_matches(name, NAMES, n=1)
    hint = f'; did you mean {near[0]!r}?' if near else ''
    raise InputError(f'corpus: expected one of {", ".join(NAMES)}, found {name!r}{hint}')


def _build(builder: SpeechBuilder) -> None:
    """Runs the builder without the talk and bars of TensorFlow Datasets: ours say more."""
    import tensorflow_datasets as tfds

    tfds.display_progress_bar(False)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare()
    finally:
        tfds.display_progress_bar(True)


@contextlib.contextmanager
def _lock(root: Path) -> Iterator[None]:
    """Holds the one right to write under `root`; the system gives it back when the process ends, however it ends."""
    import fcntl

    root.mkdir(parents=True, exist_ok=True)
    with (root / 'lock').open('w') as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _load(name: str, key: str, directory: Path) -> Corpus:
    clips = json.loads((directory / 'metadata.json').read_text())
    return Corpus(
        name=name,
        labels=tuple(clips['labels']),
        label=np.array(clips['label'], np.int64),
        speaker=tuple(clips['speaker']),
        id=tuple(clips['id']),
        group=tuple(clips['group']),
        part=tuple(clips['part']),
        seconds=np.array(clips['seconds'], np.float64),
        key=key,
        directory=directory,
        skipped=tuple((id_, reason) for id_, reason in clips['skipped']),
        synthetic=clips['synthetic'],
    )


def _summary(corpus: Corpus) -> str:
    line = f'{corpus.name}: {len(corpus):,} clips, {len(set(corpus.speaker))} speakers, {len(corpus.labels)} labels'
    if corpus.synthetic:
        line += f'; {synth.NOTICE}'
    if corpus.skipped:
        id_, reason = corpus.skipped[0]
        line += f'; skipped {len(corpus.skipped):,}, first {id_} ({reason}); all in {corpus.directory / "skipped.tsv"}'
    return line
