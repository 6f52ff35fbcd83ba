"""Checks of data frames."""

from collections.abc import Sequence
from typing import Any

import pandas as pd


def data_frame(name: str, value: Any, columns: Sequence[str]) -> pd.DataFrame:
    """Return `value` if it is a pandas data frame that has each of these columns once.

    Parameters
    ----------
    name : str
        Name of the argument, for errors.
    value
        What came.
    columns : sequence of str
        Names of the columns that are needed.

    Raises
    ------
    TypeError, ValueError
        If it is none, or if a column is missing or occurs several times.
    """
    if not isinstance(value, pd.DataFrame):
        kind = f"{type(value).__module__}.{type(value).__name__}"
        cure = "; .to_pandas() makes one" if hasattr(value, "to_pandas") else ""
        raise TypeError(f"{name}: expected a pandas DataFrame, got {kind}{cure}")
    for column in columns:
        if column not in value.columns:
            raise ValueError(
                f"{name}: expected a column {column!r}, got "
                f"{list(map(str, value.columns))}"
            )
        if value[column].ndim != 1:
            raise ValueError(f"{name}: expected one column {column!r}, got several")
    return value


def refuse_gaps(name: str, frame: pd.DataFrame, columns: Sequence[str]) -> None:
    """Refuse a data frame with missing values in one of these columns.

    Parameters
    ----------
    name : str
        Name of the argument, for errors.
    frame : pandas.DataFrame
        What came.
    columns : sequence of str
        Names of the columns that must have no gaps.

    Raises
    ------
    ValueError
        If there are gaps; the message names the first column that has some.
    """
    for column in columns:
        if gaps := int(frame[column].isna().sum()):
            raise ValueError(
                f"{name}: column {column!r} has {gaps} missing values; drop these rows "
                "or fill them"
            )
