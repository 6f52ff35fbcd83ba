"""From a data frame, one row for each observation, to arrays with numbered groups."""

import numbers
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

#: The first of all levels: whatever has no number of its own.
OTHER = "other"


class Panel(NamedTuple):
    """Columns of a data frame as tables: a row for each group, a column for each time.

    Attributes
    ----------
    groups : numpy.ndarray, shape (num_groups,)
        Name of each group, sorted.
    times : numpy.ndarray, shape (num_times,)
        Each time that occurs, sorted.
    seen : numpy.ndarray of bool, shape (num_groups, num_times)
        Whether the data frame has a row for a group and a time.
    values : dict of numpy.ndarray, each of shape (num_groups, num_times)
        The columns, whole numbers as int32 and others as float32; 0 where nothing was
        seen.
    """

    groups: np.ndarray
    times: np.ndarray
    seen: np.ndarray
    values: dict[str, np.ndarray]


def _column(frame: Any, name: str) -> pd.Series:
    if not isinstance(frame, pd.DataFrame):
        raise TypeError(
            f"frame: expected a pandas DataFrame, got {type(frame).__name__}"
        )
    if name not in frame.columns:
        raise ValueError(
            f"frame: expected a column {name!r}, got {list(map(str, frame.columns))}"
        )
    if np.ndim(frame[name]) != 1:
        raise ValueError(f"frame: expected one column {name!r}, got several")
    return frame[name]


def number_groups(
    column: Any, levels: Sequence | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Give a number to each value of a column, and keep number 0 for all others.

    A model that has an unknown for each level has one for level 0, too. No training row
    uses it, so its posterior is the prior with the learned scale: what can be said of a
    new group. A missing value gets number 0 as well.

    Parameters
    ----------
    column : array or pandas.Series, shape (num_rows,)
        Names of groups.
    levels : sequence, optional
        The levels that an earlier call returned, to number new rows in the same way.
        Without them, every value that occurs becomes a level.

    Returns
    -------
    codes : numpy.ndarray of int32, shape (num_rows,)
        Number of each row's group.
    levels : numpy.ndarray of object, shape (num_levels,)
        Name of each number; the first is ``"other"``.

    Raises
    ------
    TypeError, ValueError
        If the column is not one-dimensional, mixes text and numbers, is of another kind
        than the levels, or has a value ``"other"``; if the levels repeat or do not
        start with ``"other"``.
    """
    names = _named("column", column)
    if levels is None:
        if OTHER in names.to_numpy():
            raise ValueError(f"column: expected no {OTHER!r}, which names level 0")
        levels = [OTHER, *sorted(names.dropna().unique())]
    elif isinstance(levels, str):
        raise TypeError(f"levels: expected a sequence of names, got {levels!r}")
    known = _named("levels", levels[1:])
    if list(levels[:1]) != [OTHER]:
        raise ValueError(
            f"levels: expected {OTHER!r} first, as an earlier call of number_groups "
            f"returned them, got {list(levels[:3])} …"
        )
    if not known.is_unique:
        raise ValueError(f"levels: expected different names, got {list(levels[:3])} …")
    kinds = {_kind(one.dropna().iloc[0]) for one in (names, known) if one.count()}
    if len(kinds) > 1:
        both = " and ".join(sorted(kinds))
        raise TypeError(f"column: expected names of the kind of the levels, got {both}")
    codes = pd.Index(known).get_indexer(pd.Index(names)) + 1
    return codes.astype("int32"), np.array([OTHER, *known], dtype=object)


def _kind(name: Any) -> str:
    return "number" if isinstance(name, numbers.Number) else type(name).__name__


def _named(what: str, values: Any) -> pd.Series:
    """Return names as Python objects; refuse those that cannot be compared."""
    if np.ndim(values) != 1:
        raise ValueError(f"{what}: expected one dimension, got {np.ndim(values)}")
    names = pd.Series(values).astype(object).reset_index(drop=True)
    names = names.where(names.notna(), None)  # pandas has several kinds of gaps
    kinds = sorted(set(map(_kind, names.dropna())))
    if len(kinds) > 1:
        raise TypeError(f"{what}: expected names of one kind, got {', '.join(kinds)}")
    return names


def _numbers(frame: pd.DataFrame, name: str) -> np.ndarray:
    """Return a column as int32 or float32; refuse gaps and what does not fit."""
    column = _column(frame, name)
    if not pd.api.types.is_any_real_numeric_dtype(column.dtype):
        what = f"column {name!r}, got {column.dtype}; .astype(float) makes some"
        raise TypeError(f"frame: expected real numbers in {what}")
    exact = column.to_numpy(float, na_value=np.nan)
    whole = pd.api.types.is_integer_dtype(column.dtype)
    kind = np.dtype("int32" if whole else "float32")
    gaps = int((~np.isfinite(exact)).sum())
    if gaps:
        raise ValueError(
            f"frame: column {name!r} has {gaps} missing or infinite values; drop "
            "these rows: they become unseen"
        )
    if exact.size and np.abs(exact).max() > (np.iinfo if whole else np.finfo)(kind).max:
        raise ValueError(f"frame: column {name!r} has numbers too large for {kind}")
    return exact.astype(kind)


def to_panel(
    frame: pd.DataFrame, group: str, time: str, columns: Sequence[str]
) -> Panel:
    """Spread the rows of a data frame over groups and times.

    Parameters
    ----------
    frame : pandas.DataFrame
        At most one row for each group and time.
    group, time : str
        Names of the columns that say where a row belongs.
    columns : sequence of str
        Names of the columns to spread; numbers without gaps.

    Returns
    -------
    Panel

    Raises
    ------
    TypeError, ValueError
        If a column is missing, has gaps or no numbers, or if a group has two rows for
        one time.
    """
    if isinstance(columns, str):
        raise TypeError(f"columns: expected a list of names, got {columns!r}")
    whose, when = (
        part.astype(object) if part.dtype == "category" else part
        for part in (_column(frame, group), _column(frame, time))
    )
    for name, places in ((group, whose), (time, when)):
        if places.isna().any():
            gaps = int(places.isna().sum())
            raise ValueError(
                f"frame: column {name!r} has {gaps} missing values; drop these rows or "
                "fill them"
            )
    row, groups = pd.factorize(whose, sort=True)
    at, times = pd.factorize(when, sort=True)
    seen = np.zeros((len(groups), len(times)), bool)
    seen[row, at] = True
    if seen.sum() != len(frame):
        twice = frame[frame.duplicated([group, time])].iloc[0]
        raise ValueError(
            f"frame: expected one row for each {group} and {time}, got several for "
            f"{group} {twice[group]}, {time} {twice[time]}; add them up first"
        )
    values = {}
    for name in columns:
        numbers_of = _numbers(frame, name)
        values[name] = np.zeros(seen.shape, numbers_of.dtype)
        values[name][row, at] = numbers_of
    return Panel(np.asarray(groups), np.asarray(times), seen, values)
