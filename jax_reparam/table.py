"""Tables of text, as commands print them and LAYERS.md holds them."""

from __future__ import annotations

from collections.abc import Container, Sequence


def aligned(rows: Sequence[Sequence[str]], *, left: Container[int], widths: Sequence[int] | None = None) -> list[str]:
    """Rows of cells as lines of text, with two blanks between columns and none at the end of a line.

    Args:
      rows: each with as many cells as the first.
      left: places of the columns that are aligned left, from 0; the others, numbers, are aligned right.
      widths: characters of each column; None: as many as its longest cell has.
    """
    if widths is None:
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        '  '.join(
            cell.ljust(width) if place in left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
