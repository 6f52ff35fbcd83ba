"""Chain ladder: a triangle filled by development factors, with standard errors."""

from typing import NamedTuple

import numpy as np
import pandas as pd


def to_triangle(table: pd.DataFrame, column: str) -> np.ndarray:
    """Spread a column over cohorts (rows) and ages (columns), NaN where unseen.

    Parameters
    ----------
    table : pandas.DataFrame
        A cohort table, as `helpers.cohorts.cohort_table` makes it.
    column : str
        The column to spread, such as `revenue`; `chain_ladder` takes its cumulative
        sums over the ages: ``np.cumsum(to_triangle(table, "revenue"), axis=1)``.

    Returns
    -------
    numpy.ndarray, shape (num_cohorts, num_ages)

    Raises
    ------
    TypeError, ValueError
        If a column is missing, or a cohort has two rows for an age.
    """
    if not isinstance(table, pd.DataFrame) or not {"cohort", "age", column} <= {*table}:
        raise TypeError(f"table: expected a data frame with cohort, age and {column}")
    if table.duplicated(["cohort", "age"]).any():
        raise ValueError("table: expected one row for each cohort and age")
    return table.pivot(index="cohort", columns="age", values=column).to_numpy(float)


class Ladder(NamedTuple):
    """What chain ladder makes of a triangle.

    Attributes
    ----------
    filled : numpy.ndarray, shape (num_cohorts, num_ages)
        Cumulative numbers, with forecasts where the triangle has NaN.
    sd : numpy.ndarray, shape (num_cohorts,)
        Standard error of each cohort's last forecast.
    total_sd : float
        Standard error of the sum of all last forecasts.
    """

    filled: np.ndarray
    sd: np.ndarray
    total_sd: float


def chain_ladder(cumulative: np.ndarray, num_ages: int | None = None) -> Ladder:
    r"""Fill the lower triangle by development factors.

    From age $k$ to the next, a cohort grows by the factor
    $f_k = \sum_i C_{i,k+1} / \sum_i C_{ik}$, where the sums go over the cohorts that
    have been seen at both ages.

    Parameters
    ----------
    cumulative : array, shape (num_cohorts, num_seen)
        Cumulative numbers of each cohort at each age, NaN where unseen. Some cohort
        has been seen at all ages, and each at age 0.
    num_ages : int, optional
        Go on to as many ages: past the oldest one, $f_k - 1$ follows the power curve of
        $k$ that fits the second half of the factors. Its growth is taken for certain:
        standard errors are multiplied by it.

    Returns
    -------
    Ladder

    Raises
    ------
    TypeError, ValueError
        If the triangle has a gap before a number, is negative or falls, or if a factor
        would be 0 / 0.

    Notes
    -----
    Standard errors: Mack (1993). The power curve for the tail: Sherman (1984).
    """
    values = np.array(cumulative, float)
    if values.ndim != 2 or not values.size:
        raise ValueError(f"cumulative: expected a table, got shape {values.shape}")
    seen = np.isfinite(values)
    if not (seen[:, 0].all() and seen.any(0).all()):
        raise ValueError("cumulative: expected each cohort at age 0, and each age once")
    if (seen[:, 1:] & ~seen[:, :-1]).any():
        raise ValueError("cumulative: expected no gap before a number")
    growth = np.diff(values, axis=1)
    if (values[seen] < 0).any() or (growth[np.isfinite(growth)] < 0).any():
        raise ValueError("cumulative: expected numbers of at least 0 that do not fall")
    factors, noise = _factors(values, seen)
    for k in range(len(factors)):
        ahead = ~seen[:, k + 1]
        values[ahead, k + 1] = values[ahead, k] * factors[k]
    sd, total_sd = _errors(values, seen, factors, noise)
    if num_ages is not None and num_ages > values.shape[1]:
        growth = _tail(factors, num_ages)
        values = np.hstack([values, values[:, -1:] * growth])
        sd, total_sd = sd * growth[-1], total_sd * growth[-1]
    return Ladder(values, sd, total_sd)


def _factors(values: np.ndarray, seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the factor from each age to the next, and the variance around it."""
    num_factors = values.shape[1] - 1
    factors, noise = np.ones(num_factors), np.zeros(num_factors)
    for k in range(num_factors):
        now, then = values[seen[:, k + 1], k], values[seen[:, k + 1], k + 1]
        if not now.sum() > 0:
            raise ValueError(f"cumulative: no factor at age {k}, where all is 0")
        factors[k] = then.sum() / now.sum()
        some = now > 0
        if some.sum() > 1:
            squares = now[some] * (then[some] / now[some] - factors[k]) ** 2
            noise[k] = squares.sum() / (some.sum() - 1)
        elif k > 1:  # Mack's choice for the last factor
            least = min(noise[k - 1], noise[k - 2])
            ratio = noise[k - 1] ** 2 / noise[k - 2] if noise[k - 2] > 0 else 0.0
            noise[k] = min(ratio, least)
    return factors, noise


def _errors(
    filled: np.ndarray, seen: np.ndarray, factors: np.ndarray, noise: np.ndarray
) -> tuple[np.ndarray, float]:
    """Return Mack's standard errors of the last forecasts, and of their sum."""
    start, last = seen.sum(1) - 1, filled[:, -1]
    parts = np.zeros((len(filled), len(factors)))
    common = np.zeros(len(factors))  # the part of a factor's error that all share
    for k in range(len(factors)):
        ahead, used = start <= k, filled[seen[:, k + 1], k].sum()
        share = noise[k] / factors[k] ** 2
        common[k] = share / used
        with np.errstate(divide="ignore", invalid="ignore"):
            own = np.where(filled[:, k] > 0, share / filled[:, k], 0.0)
        parts[:, k] = np.where(ahead, own + common[k], 0.0)
    sd = last * np.sqrt(parts.sum(1))
    # Two cohorts share the errors of the factors that both still need.
    shared = np.append(np.cumsum(common[::-1])[::-1], 0)  # from an age to the last one
    both = np.outer(last, last) * shared[np.maximum.outer(start, start)]
    np.fill_diagonal(both, sd**2)
    return sd, float(np.sqrt(both.sum()))


def _tail(factors: np.ndarray, num_ages: int) -> np.ndarray:
    """Return the growth from the oldest age on, by a power curve of the factors."""
    age = np.arange(1, len(factors) + 1)
    used = (age > len(age) / 2) & (factors > 1)
    if used.sum() < 2:
        raise ValueError(
            f"num_ages: expected at most {len(factors) + 1} where fewer than two "
            "factors of the second half are above 1"
        )
    power = np.polyfit(np.log(age[used]), np.log(factors[used] - 1), 1)
    ahead = np.arange(len(factors) + 1, num_ages)
    return np.cumprod(1 + np.exp(np.polyval(power, np.log(ahead))))
