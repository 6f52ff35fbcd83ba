"""Posteriors of one parameter on a grid, exact up to its steps, and their distances."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy.integrate import cumulative_trapezoid, trapezoid

from fitting import arguments


@dataclass(frozen=True)
class GridPosterior:
    """A one-parameter posterior, exact up to the grid.

    Attributes
    ----------
    grid : numpy.ndarray, shape (n,)
        Parameter values, increasing.
    log_density : numpy.ndarray, shape (n,)
        Normalized log density at each of them.
    log_evidence : float
        Log of the integral of the joint density, in nats.
    """

    grid: np.ndarray
    log_density: np.ndarray
    log_evidence: float

    @property
    def density(self) -> np.ndarray:
        """Normalized density on the grid."""
        return np.exp(self.log_density)

    @property
    def mean(self) -> float:
        """Posterior mean."""
        return float(trapezoid(self.grid * self.density, self.grid))

    @property
    def sd(self) -> float:
        """Posterior standard deviation."""
        spread = (self.grid - self.mean) ** 2
        return float(np.sqrt(trapezoid(spread * self.density, self.grid)))

    @cached_property
    def _cdf(self) -> np.ndarray:
        return cumulative_trapezoid(self.density, self.grid, initial=0.0)

    def cdf(self, value: float | np.ndarray) -> float | np.ndarray:
        """Posterior probability of the parameter being below `value`."""
        return np.interp(value, self.grid, self._cdf)

    def quantile(self, probability: float | np.ndarray) -> float | np.ndarray:
        """Value below which the parameter lies with the given probability."""
        p = np.asarray(probability, dtype=float)
        if not ((p > 0) & (p < 1)).all():
            raise ValueError(f"probability: expected between 0 and 1, got {p}")
        return np.interp(p, self._cdf, self.grid)


def _increasing(grid: np.ndarray) -> None:
    if not (np.diff(grid) > 0).all():
        at = int(np.argmax(np.diff(grid) <= 0))
        raise ValueError(
            f"grid: expected increasing values, got {grid[at]} before {grid[at + 1]}"
        )


def grid_posterior(
    log_joint: Callable[[np.ndarray], Any] | np.ndarray, grid: np.ndarray
) -> GridPosterior:
    r"""Normalize a joint density in one parameter by the trapezoid rule.

    Parameters
    ----------
    log_joint : callable or array, shape (n,)
        $\log p(D, \theta)$ at the grid values, or a function that returns it.
    grid : array, shape (n,)
        Increasing parameter values that cover the posterior; at least 50.

    Returns
    -------
    GridPosterior

    Raises
    ------
    TypeError, ValueError
        If the grid does not increase, cuts the posterior off (density at an end above
        a millionth of the peak) or is so coarse that one cell holds over a tenth of it.
    """
    grid = arguments.finite_array("grid", grid, ndim=1).astype(float)
    if grid.size < 50:
        raise ValueError(f"grid: expected at least 50 values, got {grid.size}")
    _increasing(grid)
    values = np.asarray(log_joint(grid) if callable(log_joint) else log_joint, float)
    if values.shape != grid.shape:
        raise ValueError(
            f"log_joint: expected shape {grid.shape} like grid, got {values.shape}"
        )
    if np.isnan(values).any() or np.isposinf(values).any():
        raise ValueError("log_joint: expected finite or -inf values, got NaN or +inf")
    peak = values.max()
    if peak == -np.inf:
        raise ValueError("log_joint: the joint density is 0 on the whole grid")
    edges = np.exp(values[[0, -1]] - peak)
    if edges.max() > 1e-6:
        raise ValueError(
            "grid: expected to cover the posterior, but the density at an end is "
            f"{edges.max():.1g} of its peak; widen it"
        )
    scaled = np.exp(values - peak)
    total = trapezoid(scaled, grid)
    cells = np.diff(grid) * (scaled[1:] + scaled[:-1]) / 2 / total
    if cells.max() > 0.1:
        raise ValueError(
            f"grid: too coarse, one cell holds {cells.max():.0%} of the posterior"
        )
    log_evidence = peak + np.log(total)
    return GridPosterior(grid, values - log_evidence, float(log_evidence))


def _on_grid(log_p: np.ndarray, log_q: np.ndarray, grid: np.ndarray) -> tuple:
    grid = arguments.finite_array("grid", grid, ndim=1)
    _increasing(grid)
    logs = []
    for name, value in (("log_p", log_p), ("log_q", log_q)):
        value = np.asarray(value, dtype=float)
        if value.shape != grid.shape:
            raise ValueError(
                f"{name}: expected shape {grid.shape} like grid, got {value.shape}"
            )
        mass = trapezoid(np.exp(value), grid)
        if not abs(mass - 1) < 0.02:
            raise ValueError(
                f"{name}: expected a density that integrates to 1 over the grid, "
                f"got {mass:.4g}"
            )
        logs.append(value)
    return *logs, grid


def total_variation(log_p: np.ndarray, log_q: np.ndarray, grid: np.ndarray) -> float:
    """Total variation distance of two densities given by their logs on one grid.

    Parameters
    ----------
    log_p, log_q : array, shape (n,)
        Log densities, each integrating to 1 over the grid (within 2 %).
    grid : array, shape (n,)
        Where they are evaluated.

    Returns
    -------
    float
        Half the integral of the absolute difference: the largest difference in
        probability that the two can assign to any event, from 0 to 1.

    Raises
    ------
    ValueError
        If shapes differ or a density does not integrate to 1 over the grid.
    """
    log_p, log_q, grid = _on_grid(log_p, log_q, grid)
    return float(trapezoid(np.abs(np.exp(log_p) - np.exp(log_q)), grid) / 2)


def kl_divergence(log_q: np.ndarray, log_p: np.ndarray, grid: np.ndarray) -> float:
    r"""Kullback–Leibler divergence $\mathrm{KL}(q\,\|\,p)$ of two gridded densities.

    Parameters
    ----------
    log_q, log_p : array, shape (n,)
        Log densities, each integrating to 1 over the grid (within 2 %).
    grid : array, shape (n,)
        Where they are evaluated.

    Returns
    -------
    float
        The divergence in nats; 0 if both are equal, infinite if `q` has mass where
        `p` has none.

    Raises
    ------
    ValueError
        If shapes differ or a density does not integrate to 1 over the grid.
    """
    log_p, log_q, grid = _on_grid(log_p, log_q, grid)
    q = np.exp(log_q)
    if (np.isneginf(log_p) & (q > 0)).any():
        return float("inf")
    gap = np.where(q > 0, log_q - np.where(q > 0, log_p, 0.0), 0.0)
    return float(trapezoid(q * gap, grid))
