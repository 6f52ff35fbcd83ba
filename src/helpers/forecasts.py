"""Scores of forecasts: how good, on the scale of what is forecast."""

from collections.abc import Sequence

import numpy as np

from fitting import arguments

#: Levels of the quantiles that give the median and the 50, 80 and 95 % intervals.
LEVELS = (0.025, 0.1, 0.25, 0.5, 0.75, 0.9, 0.975)


def weighted_interval_score(
    y: np.ndarray, quantiles: np.ndarray, levels: Sequence[float] = LEVELS
) -> np.ndarray:
    r"""Score quantiles of forecasts by what happened; lower is better.

    A quantile of level $\tau$ that was too high costs $1 - \tau$ times its error, one
    that was too low costs $\tau$ times its error. The score is twice the mean over the
    levels. With the median alone it is the absolute error; with ever more levels it
    becomes the continuous ranked probability score (CRPS).

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
