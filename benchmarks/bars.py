"""What a benchmark must reach, and whether it did."""

from typing import Any


def bar(
    measured: float, *, at_most: float | None = None, at_least: float | None = None
) -> dict[str, Any]:
    """Compare a figure with its bar, one of the two."""
    limit, sign = (at_most, "<=") if at_least is None else (at_least, ">=")
    met = measured <= limit if at_least is None else measured >= limit
    return {"measured": measured, "bar": f"{sign} {limit:g}", "met": bool(met)}


def holds(found: bool) -> dict[str, Any]:
    """Tell of something that is so or not."""
    return {"measured": bool(found), "bar": "yes", "met": bool(found)}


def say(bars: dict[str, dict[str, Any]]) -> None:
    """Print a line for each bar."""
    print()
    for name, each in bars.items():
        met = "met" if each["met"] else "MISSED"
        print(f"{met:<7}{each['measured']!s:>10}  ({each['bar']})  {name}")
