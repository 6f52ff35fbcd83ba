"""From a data frame, one row for each observation, to arrays with numbered groups."""

import numbers
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from fitting import frames

#: The first of all levels: whatever has no number of its own.
OTHER = "other"


class Panel(NamedTuple):
    """Columns of a data frame as tables: a row for each group, a column for each time.

    Attributes
    ----------
    groups : numpy.ndarray, shape (num_groups,)
        Name of each group, sorted.
    times : numpy.ndarray, shape (num_times,)
        Each time that occurs, sorted; at even distances, if asked for.
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


def _numbers(frame: pd.DataFrame, name: str, count: bool) -> np.ndarray:
    """Return a column as int32 or float32; refuse gaps and what does not fit."""
    column = frame[name]
    if column.dtype == bool:
        column = column.astype("int32")
    if not pd.api.types.is_any_real_numeric_dtype(column.dtype):
        what = f"column {name!r}, got {column.dtype}; .astype(float) makes some"
        raise TypeError(f"frame: expected real numbers in {what}")
    exact = column.to_numpy(float, na_value=np.nan)
    whole = count or pd.api.types.is_integer_dtype(column.dtype)
    kind = np.dtype("int32" if whole else "float32")
    gaps = int((~np.isfinite(exact)).sum())
    if gaps:
        raise ValueError(
            f"frame: column {name!r} has {gaps} missing or infinite values; drop "
            "these rows: they become unseen"
        )
    if count and (bad := exact[(exact < 0) | (exact % 1 != 0)]).size:
        raise ValueError(
            f"frame: expected counts (0, 1, 2, …) in column {name!r}, got {bad[0]:g} "
            f"and {bad.size - 1} more like it; correct these rows or drop them"
        )
    if exact.size and np.abs(exact).max() > (np.iinfo if whole else np.finfo)(kind).max:
        raise ValueError(f"frame: column {name!r} has numbers too large for {kind}")
    return exact.astype(kind)


def _evenly(when: pd.Series, time: str, every: Any) -> tuple[np.ndarray, pd.Index]:
    """Give numbers to times, in equal steps from the first one on."""
    dates = pd.api.types.is_datetime64_any_dtype(when.dtype)
    if not (dates or pd.api.types.is_any_real_numeric_dtype(when.dtype)):
        raise TypeError(
            f"frame: expected dates or numbers in column {time!r}, got {when.dtype}; "
            "pandas.to_datetime makes dates"
        )
    try:
        # A bare number of pandas are nanoseconds, which nobody means.
        sound = isinstance(every, numbers.Number) is not dates
        step = pd.Timedelta(every) if dates else float(every)
        sound &= bool(step > type(step)(0)) and (dates or bool(np.isfinite(step)))
    except (TypeError, ValueError):
        sound = False
    if not sound:
        kind = "a length of time, such as '7D'," if dates else "a number above 0"
        raise ValueError(f"every: expected {kind} for column {time!r}, got {every!r}")
    if when.empty:
        return np.zeros(0, int), pd.Index(when)
    if dates and when.dt.tz is not None:
        raise ValueError(
            f"frame: expected dates without a time zone in column {time!r}, got "
            f"{when.dt.tz}; .dt.tz_localize(None) drops it"
        )
    when = when if dates else when.astype(float)
    steps = ((when - when.min()) / step).to_numpy(float)
    at = np.rint(steps).astype(int)
    odd = when[np.abs(steps - at) > 1e-6]
    if len(odd):
        raise ValueError(
            f"frame: expected times {every} apart in column {time!r}, from "
            f"{when.min()} on, got {odd.iloc[0]} and {len(odd) - 1} more that lie "
            "between; move each to the start of its step, and add up what meets there"
        )
    if at.max() >= 10 * len(np.unique(at)) + 100:
        raise ValueError(
            f"frame: expected most steps of {every} in column {time!r} to have rows, "
            f"got {len(np.unique(at))} of {at.max() + 1} from {when.min()} to "
            f"{when.max()}; correct the times, or choose a longer step"
        )
    return at, pd.Index([when.min() + n * step for n in range(at.max() + 1)])


def to_panel(
    frame: pd.DataFrame,
    group: str,
    time: str,
    columns: Sequence[str],
    *,
    every: Any = None,
    counts: Sequence[str] = (),
) -> Panel:
    """Spread the rows of a data frame over groups and times.

    Parameters
    ----------
    frame : pandas.DataFrame
        At most one row for each group and time, in any order.
    group, time : str
        Names of the columns that say where a row belongs.
    columns : sequence of str
        Names of the columns to spread; numbers or truth values without gaps.
    every : str, pandas.Timedelta or number, optional
        Distance of two times, such as ``"7D"`` for weeks. The panel then has every time
        from the first to the last, although nobody may have a row for it.
    counts : sequence of str
        Those of the columns that must be counts: whole numbers, 0 or more.

    Returns
    -------
    Panel

    Raises
    ------
    TypeError, ValueError
        If a column is missing, has gaps or no numbers, or if a group has two rows for
        one time; if times lie between the steps, or counts are no counts.
    """
    for name, value in (("columns", columns), ("counts", counts)):
        if isinstance(value, str):
            raise TypeError(f"{name}: expected a list of names, got {value!r}")
    if unknown := [name for name in counts if name not in columns]:
        raise ValueError(f"counts: expected some of the columns, got {unknown}")
    frame = frames.data_frame("frame", frame, [group, time, *columns])
    frames.refuse_gaps("frame", frame, [group, time])
    whose, when = (
        part.astype(object) if part.dtype == "category" else part
        for part in (frame[group], frame[time])
    )
    row, groups = pd.factorize(whose, sort=True)
    if every is None:
        at, times = pd.factorize(when, sort=True)
    else:
        at, times = _evenly(when, time, every)
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
        numbers_of = _numbers(frame, name, name in counts)
        values[name] = np.zeros(seen.shape, numbers_of.dtype)
        values[name][row, at] = numbers_of
    return Panel(np.asarray(groups), np.asarray(times), seen, values)
