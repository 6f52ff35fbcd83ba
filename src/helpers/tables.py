"""Tables of results as Markdown, readable in a notebook, on a page and on GitHub.

This is the only place that writes tables: notebooks and the page of results use it.
"""

import re
from collections.abc import Mapping, Sequence
from numbers import Number
from typing import Any

from IPython.display import Markdown

#: A word of at least four letters makes a column one of text; a TeX command is none.
WORD = re.compile(r"(?<!\\)\b[A-Za-z]{4}")


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
        The first column and columns with words are aligned left, numbers right.

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
    worded = [any(map(WORD.search, column)) for column in zip(*cells, strict=True)]
    left = [True, *worded[1:]]
    lines = [header, [":--" if each else "--:" for each in left], *cells]
    return Markdown("\n".join("| " + " | ".join(line) + " |" for line in lines))
