"""From a data frame, one row for each observation, to arrays with numbered groups."""

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
    ValueError
        If the column is not one-dimensional, has a value ``"other"``, or the levels
        repeat or do not start with ``"other"``.
    """
    if np.ndim(column) != 1:
        raise ValueError(f"column: expected one dimension, got {np.ndim(column)}")
    names = pd.Series(np.asarray(column, dtype=object))
    if levels is None:
        known = sorted(names.dropna().unique())
        if OTHER in known:
            raise ValueError(f"column: expected no {OTHER!r}, which names level 0")
        levels = [OTHER, *known]
    index = pd.Index(np.asarray(levels, dtype=object))
    if not index.is_unique or not len(index) or index[0] != OTHER:
        raise ValueError(
            f"levels: expected different names, {OTHER!r} first, as an earlier call of "
            f"number_groups returned them, got {list(levels[:3])} …"
        )
    codes = index.get_indexer(pd.Index(names))
    return np.where(codes < 0, 0, codes).astype("int32"), index.to_numpy()


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
    whose, when = _column(frame, group), _column(frame, time)
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
        column = _column(frame, name)
        try:
            numbers = column.to_numpy(float, na_value=np.nan)
        except (TypeError, ValueError):
            raise TypeError(f"frame: expected numbers in column {name!r}") from None
        if not np.isfinite(numbers).all():
            raise ValueError(
                f"frame: column {name!r} has {int((~np.isfinite(numbers)).sum())} "
                "missing or infinite values; drop these rows: they become unseen"
            )
        whole = pd.api.types.is_integer_dtype(column.dtype)
        if whole and numbers.size and np.abs(numbers).max() > np.iinfo("int32").max:
            raise ValueError(f"frame: column {name!r} has numbers too large for int32")
        values[name] = np.zeros(seen.shape, "int32" if whole else "float32")
        values[name][row, at] = numbers
    return Panel(np.asarray(groups), np.asarray(times), seen, values)
