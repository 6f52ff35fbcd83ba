"""Tables of results as Markdown, readable in a notebook, on a page and on GitHub.

This is the only place that writes tables: notebooks and the page of results use it.
"""

import re
from collections.abc import Mapping, Sequence
from numbers import Number
from typing import Any

from IPython.display import Markdown

#: A cell is text if it has a word of at least four letters (a TeX command is none), or
#: begins with any word; a unit behind a number makes no text of it.
WORD = re.compile(r"(?<!\\)\b[A-Za-z]{4}|^[`*]*(?!NaN\b|nan\b|inf\b)[A-Za-z]")
#: What takes no room on a page.
MARKUP = re.compile(r"\\[a-z]+ |[$`*{}^]")
#: If a line of a table is longer, Pandoc takes the widths of columns from the dashes.
LONGEST = 72


def _shown(value: Any, digits: int) -> str:
    """Return the text of one cell."""
    if getattr(value, "shape", None) == ():
        value = value.item()  # a NumPy or JAX scalar
    if isinstance(value, bool) or not isinstance(value, Number):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    text = f"{float(value):#.{digits}g}"
    if "e" in text:
        mantissa, exponent = text.split("e")
        return f"${mantissa.rstrip('.')} \\times 10^{{{int(exponent)}}}$"
    return text.rstrip(".").replace("-", "−")


def _width(header: str, column: Sequence[str]) -> int:
    """Return the width of a column, in characters; its header may take two lines."""
    words = max(map(len, header.split()), default=0)
    cells = (len(MARKUP.sub("", cell)) for cell in column)
    return max(3, words, -(-len(header) // 2), *cells)


def table(rows: Sequence[Mapping[str, Any]], *, digits: int = 3) -> Markdown:
    """Show rows of results as a table.

    Parameters
    ----------
    rows : sequence of dict
        One dict per row; all have the same keys in the same order. They become the
        header.
    digits : int
        Significant digits of floats; whole numbers keep all their digits.

    Returns
    -------
    IPython.display.Markdown
        The first column and columns with words are aligned left, numbers right. In a
        wide table, columns are as wide as what they hold.

    Raises
    ------
    ValueError
        If there are no rows, or their keys differ.
    """
    if not rows:
        raise ValueError("rows: expected at least one, got none")
    header = list(rows[0])
    for index, row in enumerate(rows):
        if list(row) != header:
            raise ValueError(f"rows[{index}]: expected keys {header}, got {list(row)}")
    cells = [[_shown(row[name], digits) for name in header] for row in rows]
    columns = list(zip(*cells, strict=True))
    worded = [any(map(WORD.search, column)) for column in columns]
    lines = ["| " + " | ".join(line) + " |" for line in [header, *cells]]
    widths = [3] * len(header)
    if max(map(len, lines)) > LONGEST:
        widths = list(map(_width, header, columns))
    dashes = [
        ":" + "-" * (width - 1) if left else "-" * (width - 1) + ":"
        for left, width in zip([True, *worded[1:]], widths, strict=True)
    ]
    lines.insert(1, "| " + " | ".join(dashes) + " |")
    return Markdown("\n".join(lines))
