"""Which recordings a user means: the audio files below a folder, or the rows of a table."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from jax_reparam.errors import InputError
from jax_reparam.frontend.audio import SUFFIXES, open_file

# Of pathlib, or of epath, which reads a cloud's folders, too, and has no types.
AnyPath = TypeVar('AnyPath', bound=Path)
_NAMES = {',': 'comma', ';': 'semicolon', '\t': 'tab'}


# What systems leave in folders beside hidden files: macOS's archives, and Synology's thumbnails.
_LEFT = ('__MACOSX', '@eaDir')


def shown(text: str) -> str:
    """The text on one line, with escapes for what a terminal or a table would take for something else.

    These are control characters, line breaks, and bytes of a name that are not UTF-8.
    """
    if text.isprintable():
        return text
    return ''.join(char if printable(char) else char.encode('unicode_escape').decode() for char in text)


def printable(text: str) -> bool:
    """Whether there is no control character or line break in it; the joiners of Persian and Hindi are none."""
    return all(char.isprintable() or char in '\u00a0\u202f\u200c\u200d' for char in text)


def listing(folder: AnyPath) -> list[AnyPath]:
    """The entries of a folder by name, without hidden ones and what systems leave there.

    `._x.wav` is what macOS leaves beside x.wav, and `__MACOSX` what its archives have beside their folder.
    """
    entries = (path for path in folder.iterdir() if not path.name.startswith('.') and path.name not in _LEFT)
    return sorted(entries, key=lambda path: path.name)


def files_below(folder: AnyPath) -> list[AnyPath]:
    """All files below a folder, at any depth, by name; hidden files and folders are passed over.

    Links to folders are followed, and no folder is listed twice, however many links lead to it: as itself, or else by
    the first link. A broken link, a pipe and a device are among the files: whoever reads one says so.
    """
    seen: set[str] = set()
    files: list[AnyPath] = []
    # Links wait until all folders that are no links are listed.
    folders = [folder]
    links: list[AnyPath] = []
    while folders or links:
        here = folders.pop() if folders else links.pop(0)
        if (real := os.path.realpath(here)) in seen:
            continue
        seen.add(real)
        for path in listing(here):
            if path.is_dir():
                (links if Path(os.fspath(path)).is_symlink() else folders).append(path)
            else:
                files.append(path)
    return sorted(files, key=lambda path: path.parts)


def below(folder: AnyPath) -> list[AnyPath]:
    """Those of `files_below` that are audio by their name (`audio.SUFFIXES`)."""
    return [path for path in files_below(folder) if path.suffix.lower() in SUFFIXES]


def rows(
    table: Path, columns: Sequence[str], *, optional: Sequence[str] = (), plain: bool = False
) -> Iterator[tuple[int, list[str]]]:
    """Reads a table: UTF-8, a line of column names first, with commas, semicolons or tabs between cells.

    A row has as many cells as there are names; empty ones behind them are passed over. In any other row a comma that
    lacks its quotes would have moved a word into another column.

    Args:
      table: the file.
      columns: those that are read, without regard to case; others are ignored.
      optional: columns that are read, too, if they are there.
      plain: whether quotation marks are text like any other, damaged UTF-8 is read as far as it goes, and cells may
        lack at the end of a row, as in the tables of published corpora.

    Yields:
      The number of a row's last line, from 1, and its cells of `columns` and `optional` without blanks around, '' where
      it has none.

    Raises:
      InputError: another encoding, a column that is missing or there twice, a row of another width, an open quotation
        mark, or (where not plain) a cell with a line break or control character in one of these columns.
    """
    try:
        with open_file(table) as file:
            text = file.read().decode('utf-8-sig', errors='replace' if plain else 'strict')
    except UnicodeDecodeError:
        raise InputError(f'{table}: expected a table in UTF-8, found another encoding') from None
    delimiter = max(',;\t', key=text.split('\n', 1)[0].count)
    lines = io.StringIO(text, newline='')
    reader = csv.reader(
        lines,
        delimiter=delimiter,
        skipinitialspace=True,
        quoting=csv.QUOTE_NONE if plain else csv.QUOTE_MINIMAL,
        strict=True,
    )
    try:
        names = [name.strip() for name in next(reader, [])]
        header = [name.lower() for name in names]
        width = max((place for place, name in enumerate(header, 1) if name), default=0)
        # Of what is no table the first line may be the whole file.
        there = shown(', '.join(names[:width]))[:100] or 'it'
        for column in (*columns, *optional):
            if (count := header.count(column.lower())) > 1 or (not count and column in columns):
                found = f'{count} columns {column!r}' if count else f'no {column!r}'
                raise InputError(f'{table}: expected the columns {", ".join(columns)}, found {found} in {there}')
        places = [header.index(column.lower()) if column.lower() in header else -1 for column in (*columns, *optional)]
        for cells in reader:
            line = reader.line_num
            if not any(cell.strip() for cell in cells):
                if cells:
                    yield line, [''] * len(places)
                continue
            if any(cell.strip() for cell in cells[width:]) or (len(cells) < width and not plain):
                raise InputError(
                    f'{table}: line {line}: expected {width} cells ({there}), found {len(cells)}; '
                    f'a {_NAMES[delimiter]} within a cell needs quotation marks around the cell'
                )
            cells += [''] * (width - len(cells))
            row = [shown(cells[place].strip()) if place >= 0 else '' for place in places]
            for name, place, cell in zip((*columns, *optional), places, row, strict=True):
                if not plain and place >= 0 and cell != cells[place].strip():
                    raise InputError(f'{table}: line {line}: expected one line of text as {name}, found {cell:.60}')
            yield line, row
    except csv.Error as error:
        raise InputError(f'{table}: line {reader.line_num}: expected a row of a table, found: {error}') from None
