"""A corpus's features in one file, without its sound: what a study on another machine needs of it.

`--source CORPUS=FILE.npz` reads such a file in place of the corpus's folder. EMO-DB takes 7.6 MB.
"""

from __future__ import annotations

import dataclasses
import functools
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jax_reparam import system
from jax_reparam.corpora import Corpus
from jax_reparam.data.feature_store import Features
from jax_reparam.errors import InputError, one_line

SUFFIX = '.npz'
_TEXTS = ('speaker', 'id', 'group', 'part')


@dataclasses.dataclass(frozen=True, eq=False)
class Packed(Features):
    """Features that are held in memory.

    Attributes:
      codes: of each clip, `[T, M]` int8.
      key: `feature_store.key` of them.
    """

    codes: Sequence[np.ndarray] = ()
    key: str = ''

    def __getitem__(self, clip: int | np.integer) -> np.ndarray:
        """One clip's features."""
        return self.codes[int(clip)]


def write(path: Path, corpus: Corpus, features: Features, key: str) -> None:
    """Writes a corpus and its features under a temporary name, then renames the file.

    Args:
      path: ends with `.npz`.
      corpus: whose sound is left out.
      features: of all its clips.
      key: `feature_store.key` of them.
    """
    content = {
        'name': np.array(corpus.name),
        'labels': np.array(corpus.labels),
        'corpus_key': np.array(corpus.key),
        'features_key': np.array(key),
        'synthetic': np.array(corpus.synthetic),
        'label': corpus.label,
        'seconds': corpus.seconds,
        **{name: np.array(getattr(corpus, name)) for name in _TEXTS},
        'codes': np.concatenate([features[clip] for clip in range(len(corpus))]),
        **{name: getattr(features, name) for name in ('lengths', 'voice_sums', 'voice_frames')},
    }
    packed = io.BytesIO()
    np.savez_compressed(packed, **content)
    temporary = path.with_name(f'{path.name}.tmp')
    with system.naming(path):
        temporary.write_bytes(packed.getvalue())
        temporary.replace(path)


@functools.lru_cache(maxsize=4)
def read(path: Path) -> tuple[Corpus, Packed]:
    """Reads what `write` wrote.

    Raises:
      InputError: there is no such file, or it is another one.
    """
    try:
        with np.load(io.BytesIO(path.read_bytes())) as content:
            texts = {name: tuple(content[name].tolist()) for name in (*_TEXTS, 'labels')}
            corpus = Corpus(
                name=str(content['name']),
                label=content['label'],
                seconds=content['seconds'],
                key=str(content['corpus_key']),
                directory=path.parent,
                synthetic=bool(content['synthetic']),
                **texts,
            )
            codes, lengths = content['codes'], content['lengths']
            features = Packed(
                files=(),
                lengths=lengths,
                voice_sums=content['voice_sums'],
                voice_frames=content['voice_frames'],
                n_mels=codes.shape[1],
                codes=np.split(codes, np.cumsum(lengths)[:-1]),
                key=str(content['features_key']),
            )
    except Exception as error:  # NumPy and zip raise many kinds at damaged bytes
        raise InputError(f'{path}: expected a packed corpus, found {one_line(error)}') from error
    return corpus, features
