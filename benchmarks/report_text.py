"""What the page of results looks like: numbers with units, tables, where they are from.

Nothing here knows what was measured.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

NONE = "–"  # was not measured
SPACE = "\N{NO-BREAK SPACE}"  # between a number and its unit
WIDEST = 36  # letters in a line of a table's cell
SCALES = {1e12: "T", 1e9: "G", 1e6: "M", 1e3: "k", 1: ""}
TIMES = {1: "s", 1e-3: "ms", 1e-6: "µs", 1e-9: "ns"}


def number(value: float | None, digits: int = 3) -> str:
    """Show a number with so many significant digits.

    Parameters
    ----------
    value : float or None
        None is shown as a dash.
    digits : int
        Whole numbers lose digits, too: 15,285 is shown as 15,300.

    Returns
    -------
    str
        With commas between thousands; as a power of ten below a thousandth.
    """
    if value is None or not math.isfinite(value):
        return NONE
    if value == 0:
        return "0"
    power = math.floor(math.log10(abs(float(f"{value:.{digits - 1}e}"))))
    if power < -3:
        text, _, exponent = f"{value:.1e}".partition("e")
        return f"${text} \\times 10^{{{int(exponent)}}}$"
    decimals = digits - 1 - power
    if isinstance(value, int):
        decimals = min(decimals, 0)
    return f"{round(value, decimals):,.{max(decimals, 0)}f}".replace("-", "−")


def scaled(value: float | None, unit: str) -> str:
    """Show an amount in bytes, or floating-point operations, with a prefix."""
    if value is None:
        return NONE
    size = next((size for size in SCALES if abs(value) >= 0.9995 * size), 1)
    shown = number(value / size if size > 1 else value)
    return f"{shown}{SPACE}{SCALES[size]}{unit}"


def seconds(value: float | None) -> str:
    """Show a time in the unit that suits it, from nanoseconds to seconds."""
    if value is None:
        return NONE
    unit = next((unit for unit in TIMES if abs(value) >= 0.9995 * unit), 1e-9)
    return f"{number(value / unit)}{SPACE}{TIMES[unit]}"


def millions(value: float | None) -> str:
    """Show a rate in millions."""
    return NONE if value is None else f"{number(value / 1e6)}{SPACE}million"


def several(items: Sequence[str]) -> str:
    """Put items in a sentence: "a, b and c"."""
    *most, last = items
    return f"{', '.join(most)} and {last}" if most else last


def span(values: Sequence[float], show: Any = number) -> str:
    """Show the least and the largest of some values, or the one that there is."""
    ends = list(dict.fromkeys([show(min(values)), show(max(values))]))
    return " to ".join(ends)


def table(rows: Sequence[Mapping[str, str]], label: str, caption: str) -> str:
    """Return a table with a caption that cross-references know.

    Parameters
    ----------
    rows : sequence of dict
        A dict per row; all have the same keys, which become the header.
    label : str
        What follows ``tbl-results-``.
    caption : str
        A sentence.

    Returns
    -------
    str
        Markdown, with a blank line at its end. Numbers are set to the right.
    """
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    rules = [_rule(name, cells) for name, cells in columns.items()]
    rules[0] = f":{rules[0].strip(':')}-"
    lines = [list(columns), rules, *zip(*columns.values(), strict=True)]
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{text}\n\n: {caption} {{#tbl-results-{label}}}\n\n"


def _rule(name: str, cells: Sequence[str]) -> str:
    """Return the line below a header: its length makes the width of the column."""
    words = max(name.split(), key=len, default="")
    shown = [re.sub(r"\\times|[${}^]", "", cell) for cell in cells]
    width = max(map(len, (words, *(cell[:WIDEST] for cell in shown))))
    numbers = all(cell == NONE or cell[:1] in "0123456789$" for cell in cells)
    return "-" * (width + 1) + ":" if numbers else ":" + "-" * (width + 1)


def section(title: str, label: str, *parts: str) -> str:
    """Return a section of the page: heading, paragraphs, tables."""
    body = "".join(part.rstrip() + "\n\n" for part in parts if part)
    return f"## {title} {{#sec-results-{label}}}\n\n{body}"


def origin(facts: Mapping[str, Any]) -> str:
    """Say by which command, when and on what the facts were measured."""
    versions = ", ".join(f"{k} {v}" for k, v in facts["versions"].items())
    device = f"device: {facts['device']}; " if "device" in facts else ""
    command = facts["command"]
    return f"`{command}`, {facts['date']}; {facts['hardware']}; {device}{versions}.\n\n"
