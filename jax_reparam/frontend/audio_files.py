"""Which recordings a user means: the audio files below a folder, or the rows of a table."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from jax_reparam.errors import InputError
from jax_reparam.frontend.audio import SUFFIXES

# Of pathlib, or of epath, which reads a cloud's folders, too, and has no types.
AnyPath = TypeVar('AnyPath', bound=Path)


def listing(folder: AnyPath) -> list[AnyPath]:
    """The entries of a folder by name, without hidden ones (`._x.wav` is what macOS leaves beside x.wav)."""
    return sorted((path for path in folder.iterdir() if not path.name.startswith('.')), key=lambda path: path.name)


def below(folder: AnyPath, _above: frozenset[str] = frozenset()) -> list[AnyPath]:
    """The WAV and FLAC files below a folder, at any depth, by name; hidden files and folders are passed over.

    Links to folders are followed, but not to one that the link itself lies in. A broken link is among the files:
    whoever reads it says so.
    """
    above = _above | {os.path.realpath(folder)}
    files = []
    for path in listing(folder):
        if path.is_dir():
            if os.path.realpath(path) not in above:
                files += below(path, above)
        elif path.suffix.lower() in SUFFIXES:
            files.append(path)
    return files


def rows(
    table: Path, columns: Sequence[str], *, optional: Sequence[str] = (), plain: bool = False
) -> Iterator[tuple[int, list[str]]]:
    """Reads a table: UTF-8, a line of column names first, with commas, semicolons or tabs between cells.

    Args:
      table: the file.
      columns: those that are read, without regard to case; others are ignored.
      optional: columns that are read, too, if they are there.
      plain: whether quotation marks are text like any other, and damaged UTF-8 is read as far as it goes.

    Yields:
      The number of a row's last line, from 1, and its cells of `columns` and `optional` without blanks around, '' where
      it has none.

    Raises:
      InputError: another encoding, a column that is missing, or a line that is none of a table.
    """
    try:
        text = table.read_bytes().decode('utf-8-sig', errors='replace' if plain else 'strict')
    except UnicodeDecodeError:
        raise InputError(f'{table}: expected a table in UTF-8, found another encoding') from None
    reader = csv.DictReader(
        io.StringIO(text, newline=''),
        delimiter=max(',;\t', key=text.split('\n', 1)[0].count),
        skipinitialspace=True,
        quoting=csv.QUOTE_NONE if plain else csv.QUOTE_MINIMAL,
    )
    try:
        there = ', '.join(reader.fieldnames or ['it'])
        of = {name.lower(): name for name in reader.fieldnames or ()}
        for column in columns:
            if column.lower() not in of:
                # Of what is no table the first line may be the whole file.
                raise InputError(
                    f'{table}: expected the columns {", ".join(columns)}, found no {column!r} in {there:.100}'
                )
        names = [of.get(column.lower(), column) for column in (*columns, *optional)]
        for row in reader:
            yield reader.line_num, [(row.get(name) or '').strip() for name in names]
    except csv.Error as error:
        raise InputError(f'{table}: line {reader.reader.line_num}: expected a row of a table, found: {error}') from None
