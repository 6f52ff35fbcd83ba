"""Forecasts: sales and plans in one table, and scores of what was forecast."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from fitting import arguments, frames

#: Levels of the quantiles that give the median and the 50, 80 and 95 % intervals.
LEVELS = (0.025, 0.1, 0.25, 0.5, 0.75, 0.9, 0.975)


def sales_and_plan(sales: pd.DataFrame, plan: pd.DataFrame) -> pd.DataFrame:
    """Put what was sold and what is planned into one table, ready for a panel.

    Parameters
    ----------
    sales : pandas.DataFrame
        A row for each series and week in which it was on sale, also where it sold
        nothing: a week without a row counts as not on sale. Columns `series`, `group`
        (of the series), `date`, `price` (above 0), `sales`, `sold_out` (true or
        false); others are left out.
    plan : pandas.DataFrame
        The same for the weeks to come, without `sales` and `sold_out`.

    Returns
    -------
    pandas.DataFrame
        All rows with the six columns. `group` is a number, in the order of the names
        of groups. `price` is divided by the usual price of the series: the median of
        its past, or of its plan where it has no past. Planned rows have sales of 0.

    Raises
    ------
    TypeError, ValueError
        If a column is missing or has gaps, a price is not above 0, a series has
        several groups, `sold_out` is not true or false, or the plan does not come
        after the sales.
    """
    columns = ["series", "group", "date", "price", "sales", "sold_out"]
    for name, frame, needed in (("sales", sales, 6), ("plan", plan, 4)):
        frames.data_frame(name, frame, columns[:needed])
        frames.refuse_gaps(name, frame, columns[:needed])
        if not (frame["price"] > 0).all():
            raise ValueError(
                f"{name}: expected prices above 0, got {frame['price'].min()}"
            )
    if not sales["sold_out"].isin([True, False]).all():
        raise ValueError("sales: expected true or false in column 'sold_out'")
    if len(sales) and len(plan) and plan["date"].min() <= sales["date"].max():
        raise ValueError(
            "plan: expected dates after the last one of the sales, "
            f"{sales['date'].max()}, got {plan['date'].min()}"
        )
    both = pd.concat(
        [sales[columns], plan[columns[:4]].assign(sales=0, sold_out=False)]
    )
    both["sold_out"] = both["sold_out"].astype(bool)
    several = both.groupby("series")["group"].nunique() > 1
    if several.any():
        raise ValueError(
            f"sales, plan: expected one group for each series, got several for "
            f"{several.idxmax()}"
        )
    both["group"] = pd.factorize(both["group"], sort=True)[0]
    usual = [frame.groupby("series")["price"].median() for frame in (sales, plan)]
    both["price"] /= both["series"].map(usual[0].combine_first(usual[1]))
    return both.reset_index(drop=True)


def weighted_interval_score(
    y: np.ndarray, quantiles: np.ndarray, levels: Sequence[float] = LEVELS
) -> np.ndarray:
    r"""Score quantiles of forecasts by what happened; lower is better.

    A quantile of level $\tau$ that was too high costs $1 - \tau$ times its error, one
    that was too low costs $\tau$ times its error. The score is twice the mean over the
    levels. With the median alone it is the absolute error; with ever more levels,
    evenly spaced, it becomes the continuous ranked probability score (CRPS).

    Parameters
    ----------
    y : array, shape (...)
        What happened.
    quantiles : array, shape (num_levels, ...)
        Forecasts, a quantile of each level.
    levels : sequence of float
        Levels of the quantiles, between 0 and 1, ascending and symmetric about 1/2.

    Returns
    -------
    numpy.ndarray, shape (...)
        A score for each number, in the units of `y`.

    Raises
    ------
    TypeError, ValueError
        If an argument has gaps or another shape, if levels are not as described, or if
        a quantile lies below one of a lower level.

    Notes
    -----
    Bracher et al. (2021). The score is proper: nobody expects a better one from
    quantiles that they do not believe.
    """
    y = arguments.finite_array("y", y).astype(float)
    quantiles = arguments.finite_array("quantiles", quantiles).astype(float)
    tau = arguments.finite_array("levels", levels, ndim=1).astype(float)
    inside = tau.size and tau.min() > 0 and tau.max() < 1
    if not inside or (np.diff(tau) <= 0).any() or not np.allclose(tau + tau[::-1], 1):
        raise ValueError(
            "levels: expected numbers between 0 and 1, ascending and symmetric about "
            f"1/2, such as {LEVELS}, got {tuple(levels)}"
        )
    if quantiles.shape != (tau.size, *y.shape):
        raise ValueError(
            f"quantiles: expected shape {(tau.size, *y.shape)}, for each level a row "
            f"of the shape of y, got {quantiles.shape}"
        )
    if (np.diff(quantiles, axis=0) < 0).any():
        raise ValueError(
            "quantiles: expected no quantile below one of a lower level; sort them "
            "along the first axis"
        )
    error = y - quantiles
    tau = tau.reshape(-1, *[1] * y.ndim)
    return 2 * np.maximum(tau * error, (tau - 1) * error).mean(axis=0)


def naive_scale(y: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Average how much each series changes from one time to the next.

    Errors divided by it can be averaged over series large and small. Of absolute
    errors, this is the MASE: 1 is as good as the last value, one step ahead.

    Parameters
    ----------
    y : array, shape (num_series, num_times)
        Series, for the times before the forecast.
    seen : array of bool, shape (num_series, num_times)
        Whether the series has a value. A change counts where both times have one.

    Returns
    -------
    numpy.ndarray, shape (num_series,)
        Mean absolute change. NaN for a series that never changes or has no two values
        in a row: its errors have no scale, so leave it out of the average.

    Raises
    ------
    TypeError, ValueError
        If shapes differ, or `y` has gaps where `seen` is true.

    Notes
    -----
    Hyndman and Koehler (2006).
    """
    seen = np.asarray(seen)
    if seen.dtype != bool or seen.ndim != 2 or seen.shape != np.shape(y):
        raise ValueError(
            "seen: expected truth values of the shape of y, (series, times), got "
            f"{seen.dtype} of shape {seen.shape} for y of shape {np.shape(y)}"
        )
    y = arguments.finite_array("y", np.where(seen, y, 0)).astype(float)
    both = seen[:, 1:] & seen[:, :-1]
    change = np.where(both, np.abs(np.diff(y, axis=1)), 0).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        scale = change / both.sum(axis=1)
    return np.where(scale > 0, scale, np.nan)
