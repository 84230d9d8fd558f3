"""Features of a corpus on disk: computed once, in parallel, and read clip by clip.

Of each clip the active span is kept (`speech.active`); beside them, what it tells of its speaker (`voice.Profile`).

They lie in ArrayRecord files of `SHARD` clips each. A file is written under a temporary name and renamed, so that one
which can be seen is whole: work that was cut off goes on with the files that are missing. A digest lies beside it,
and a file that is damaged is made anew.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jax_reparam import schema, system, threads
from jax_reparam.corpora import Corpus
from jax_reparam.errors import one_line
from jax_reparam.frontend import features, speech
from jax_reparam.frontend.inputs import Input
from jax_reparam.progress import Progress

SHARD = 128
SUFFIX = '.array_record'


@dataclasses.dataclass(frozen=True, eq=False)
class Features:
    """The features of a corpus's clips, `[T, M]` int8 each (`features.encode`); each is read when it is asked for.

    Attributes:
      files: the ArrayRecord files, in order.
      lengths: frames T of each clip, `[n]` int64.
      voice_sums: `[n, M]`, and `voice_frames`, `[n]`: the profile of each clip's speaker, by that clip alone.
      n_mels: bands M.
    """

    files: tuple[str, ...]
    lengths: np.ndarray
    voice_sums: np.ndarray
    voice_frames: np.ndarray
    n_mels: int

    def __len__(self) -> int:
        """Number of clips n."""
        return len(self.lengths)

    def __getitem__(self, clip: int | np.integer) -> np.ndarray:
        """Reads one clip's features."""
        return np.frombuffer(self._records[int(clip)], np.int8).reshape(-1, self.n_mels)

    @functools.cached_property
    def _records(self) -> Any:
        from array_record.python import array_record_data_source

        return array_record_data_source.ArrayRecordDataSource(list(self.files))

    def __getstate__(self) -> dict[str, Any]:
        """The fields; a worker process opens the files itself."""
        return {key: value for key, value in self.__dict__.items() if key != '_records'}


def key(corpus: Corpus, inputs: Input) -> str:
    """A digest of all that decides them: corpus, frontend, speech, what is learned of it, and the code's version."""
    parameters = *map(schema.to_json, (inputs.frontend, inputs.rule, inputs.window)), inputs.most_frames
    what = json.dumps([features.VERSION, SHARD, corpus.key, *parameters], sort_keys=True)
    return hashlib.sha256(what.encode()).hexdigest()


def corpus_features(corpus: Corpus, inputs: Input, cache: Path, *, show_progress: bool = True) -> Features:
    """The features of every clip, computed where they are not there yet.

    Args:
      corpus: the prepared corpus.
      inputs: of a model; its statistics play no part.
      cache: they are kept in a folder below it.
      show_progress: report on standard error.
    """
    folder = cache / 'features' / f'{corpus.name.replace("/", "_")}-{key(corpus, inputs)[:16]}'
    starts = range(0, len(corpus), SHARD)
    files = [folder / f'{start // SHARD:05d}-of-{len(starts):05d}{SUFFIX}' for start in starts]
    beside = [_beside(file) for file in files]
    if not all(beside):
        with system.alone(folder):
            for stale in folder.glob('*.tmp'):
                stale.unlink()
            # Another process may have made some meanwhile.
            missing = [(start, file) for start, file in zip(starts, files, strict=True) if not _beside(file)]
            for _, file in missing:
                if file.exists():
                    print(f'{file}: expected features, found a damaged file; it is made anew', file=sys.stderr)
                    file.unlink()
            if missing:
                _compute(corpus, inputs, missing, show_progress)
        beside = [_beside(file) for file in files]
    found = [one for one in beside if one is not None]
    if len(found) < len(files):
        raise OSError(f'{folder}: features were written, and are not there')
    lengths, sums, frames = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
    return Features(tuple(map(str, files)), lengths, sums, frames, inputs.frontend.n_mels)


class _Beside(NamedTuple):
    """What lies beside a file of features: `Features` has the same of all clips."""

    lengths: np.ndarray
    voice_sums: np.ndarray
    voice_frames: np.ndarray


def _beside(file: Path) -> _Beside | None:
    """Reads what lies beside a file; None: the file is not there, or not as it was written."""
    try:
        with np.load(io.BytesIO(_numbers(file).read_bytes())) as content:
            digest, found = content['digest'], _Beside(*(content[name] for name in _Beside._fields))
        return found if _digest(file) == digest.tobytes() else None
    except Exception:  # NumPy, zip and zlib raise many kinds at damaged bytes
        return None


def _digest(file: Path) -> bytes:
    with file.open('rb') as stream:
        return hashlib.file_digest(stream, 'sha256').digest()


def _numbers(file: Path) -> Path:
    return file.with_suffix('.npz')


def _compute(corpus: Corpus, inputs: Input, missing: Sequence[tuple[int, Path]], show_progress: bool) -> None:
    features.filters(inputs.frontend)  # before the threads, which would each make it
    bar = Progress(len(missing), 'features', unit='file', enabled=show_progress)
    write = lambda start_and_file: _write(corpus, inputs, *start_and_file)
    for _ in threads.in_order(write, missing, threads.cores(len(missing))):
        bar.update()
    bar.close()


def _write(corpus: Corpus, inputs: Input, start: int, file: Path) -> None:
    """Writes the features of the clips from `start` on that belong in one file."""
    from array_record.python import array_record_module

    temporary, lengths, profiles = file.with_suffix('.tmp'), [], []
    try:
        # One record a group: a clip is read without its neighbours.
        writer = array_record_module.ArrayRecordWriter(str(temporary), 'group_size:1,uncompressed')
        for clip in range(start, min(start + SHARD, len(corpus))):
            codes = inputs.codes(corpus.audio(clip))
            active = speech.active(codes, inputs.rule)
            writer.write(active.tobytes())
            lengths.append(len(active))
            # Of the whole recording, as a device and `predict --speaker` hear it.
            profiles.append(inputs.learned(codes))
        writer.close()
    except RuntimeError as error:  # ArrayRecord's name for what the system refused
        raise OSError(f'{file}: the features could not be written: {one_line(error)[-160:]}') from error
    numbers = _numbers(file)
    with system.naming(file):
        beside = _Beside(
            np.array(lengths, np.int64),
            np.stack([one.sums for one in profiles]),
            np.array([one.frames for one in profiles]),
        )
        with (new := numbers.with_suffix('.npz.tmp')).open('wb') as stream:
            np.savez(stream, digest=np.frombuffer(_digest(temporary), np.uint8), **beside._asdict())
        # The records last: where they can be seen, all is there.
        new.replace(numbers)
        temporary.replace(file)
