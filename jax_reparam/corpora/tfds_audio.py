"""CREMA-D and SAVEE: prepared by TensorFlow Datasets' own builders, and brought to the form of all corpora here.

Reading them needs TensorFlow, because their features do; what is prepared from them does not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from jax_reparam.corpora.builder import Clip, Found, Part, Published, SpeechBuilder
from jax_reparam.errors import InputError, one_line
from jax_reparam.frontend import audio

# In the order of their names, which is that of the ids.
_PARTS: tuple[Part, ...] = ('test', 'train', 'validation')


class _TfdsAudio(SpeechBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Builds a corpus of TFDS that has audio, label and speaker_id; `source` is a TFDS data_dir.

    Attributes:
      INNER: the dataset's name in TFDS.
      PUBLISHED: its published counts.
    """

    INNER: ClassVar[str] = ''
    PUBLISHED: ClassVar[Published | None] = None
    BEAM = False
    MANUAL_DOWNLOAD_INSTRUCTIONS = 'MANUAL_DIR is the data_dir of TensorFlow Datasets in which the corpus is prepared.'

    @classmethod
    def find(cls, source: str, config: str = '') -> Found:
        """Lists the clips that TFDS has prepared in `source`."""
        if not source:
            raise InputError(f'{cls.name}: expected a data_dir of TensorFlow Datasets as the source, found none given')
        inner = _prepared(cls.INNER, source)
        names = inner.info.features['label'].names
        clips = []
        for part in _PARTS:
            for i, record in enumerate(_records(inner, part, 'label', 'speaker_id')):
                speaker = record['speaker_id'].decode()
                clips.append(Clip(f'{part}_{i:05d}', names[record['label']], speaker, inner.data_path, part=part))
        return Found(tuple(names), tuple(clips), published=cls.PUBLISHED)

    @classmethod
    def fingerprints(cls, clips: Sequence[Clip]) -> Iterator[str]:
        """The digest of all that TFDS has prepared; a clip's id says where in it the clip lies."""
        total = hashlib.sha256()
        path = clips[0].path
        assert path is not None
        for file in sorted(path.iterdir()):
            total.update(file.name.encode())
            with file.open('rb') as content:
                total.update(hashlib.file_digest(content, 'sha256').digest())
        for _ in clips:
            yield total.hexdigest()

    @classmethod
    def load(cls, clips: Sequence[Clip]) -> Iterator[np.ndarray | audio.AudioError]:
        """Reads the audio in the order of the clips."""
        path = clips[0].path
        assert path is not None
        inner = tfds.builder_from_directory(path)
        rate = inner.info.features['audio'].sample_rate
        for part in _PARTS:
            for record in _records(inner, part, 'audio'):
                # TFDS keeps 16-bit samples as int64.
                yield audio.mono([record['audio'].reshape(-1, 1).astype(np.int16)], rate, cls.name)


class CremaD(_TfdsAudio, skip_registration=True):  # type: ignore[call-arg]
    """Builds CREMA-D: 91 actors speak twelve English sentences; the part is TFDS's own, by speaker."""

    INNER = 'crema_d'
    LABELS = ('NEU', 'HAP', 'SAD', 'ANG', 'FEA', 'DIS')
    PUBLISHED = Published(clips=7438, parts={'train': 5144, 'validation': 738, 'test': 1556})
    DESCRIPTION = 'English sentences acted in six emotions.'
    HOMEPAGE = 'https://github.com/CheyneyComputerScience/CREMA-D'


class Savee(_TfdsAudio, skip_registration=True):  # type: ignore[call-arg]
    """Builds SAVEE: four male speakers of British English; the part is TFDS's own, by speaker."""

    INNER = 'savee'
    LABELS = ('anger', 'disgust', 'fear', 'happiness', 'neutral', 'sadness', 'surprise')
    DESCRIPTION = 'English sentences acted in seven emotions.'
    HOMEPAGE = 'http://kahlan.eps.surrey.ac.uk/savee/'


def _prepared(name: str, data_dir: str) -> Any:
    """TFDS's builder of what lies in `data_dir`; nothing is written there, and nothing downloaded."""
    folder = epath.Path(data_dir) / name
    found = 'no folder of that name in it'
    try:
        if folder.is_dir():
            builder = tfds.builder(name, data_dir=data_dir)
            if builder.is_prepared():
                return builder
            found = f'nothing prepared, or another version than {builder.version}, in {folder}'
    except Exception as error:  # TFDS and the reading of what it wrote raise what they like.
        raise InputError(f'{data_dir}: expected {name} as TFDS prepares it, found: {one_line(error)[:400]}') from error
    raise InputError(
        f'{data_dir}: expected a data_dir of TensorFlow Datasets with {name} prepared, found {found}; '
        f'prepare it there: tfds build {name} --data_dir={data_dir}'
    )


def _records(builder: Any, part: str, *fields: str) -> Iterator[dict[str, Any]]:
    """The records of a split in their order, with these fields alone."""
    decoders = tfds.decode.PartialDecoding(dict.fromkeys(fields, True))
    records: Iterator[dict[str, Any]] = tfds.as_numpy(
        builder.as_dataset(split=part, decoders=decoders, shuffle_files=False)
    )
    return records
