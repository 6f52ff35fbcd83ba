"""A problem whose answer is known: logistic regression with very many rows.

Its posterior is close to a Gaussian, which Newton's method finds. So the distance
between a fitted guide and the posterior can be computed, in nats.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, DTypeLike
from scipy.special import expit

Blocks = Callable[[], Iterable[tuple[np.ndarray, np.ndarray]]]


class GaussianPosterior(NamedTuple):
    """A posterior of `dim` coefficients, taken as a Gaussian.

    Attributes
    ----------
    mode : numpy.ndarray, shape (dim,)
        Where its density is highest.
    precision : numpy.ndarray, shape (dim, dim)
        Inverse of its covariance.
    """

    mode: np.ndarray
    precision: np.ndarray

    @property
    def best_scale(self) -> np.ndarray:
        """Widths of the closest mean-field guide, shape (dim,)."""
        return 1 / np.sqrt(np.diag(self.precision))


def logistic_rows(
    rng: np.random.Generator,
    num_rows: int,
    coefficients: ArrayLike,
    *,
    dtype: DTypeLike = "float32",
) -> tuple[np.ndarray, np.ndarray]:
    """Simulate the rows of a logistic regression, in random order.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of randomness.
    num_rows : int
        Number of rows, at least 1.
    coefficients : array, shape (dim,)
        True coefficients, at least three. The first is the intercept.
    dtype : dtype
        Precision of the draws and of the result, ``"float32"`` or ``"float64"``.

    Returns
    -------
    x : numpy.ndarray, shape (num_rows, dim)
        Features, standard normal. Column 0 is constant 1; columns 1 and 2 have
        correlation 0.6.
    y : numpy.ndarray, shape (num_rows,)
        Labels, 0 or 1, of the same type.

    Raises
    ------
    ValueError
        If there are no rows, or fewer than three coefficients.
    """
    beta = np.asarray(coefficients)
    if num_rows < 1:
        raise ValueError(f"num_rows: expected at least 1, got {num_rows}")
    if beta.ndim != 1 or beta.size < 3:
        raise ValueError(f"coefficients: expected shape (3 or more,), got {beta.shape}")
    x = rng.standard_normal((num_rows, beta.size), dtype=dtype)
    x[:, 0] = 1
    x[:, 2] = 0.6 * x[:, 1] + 0.8 * x[:, 2]
    y = rng.random(num_rows) < expit(x @ beta)
    return x, y.astype(dtype)


def newton(blocks: Blocks, *, tolerance: float = 1e-6) -> GaussianPosterior:
    """Find mode and curvature of a logistic regression by Newton's method.

    The prior of each coefficient is standard normal. Each step adds up the slope and
    the curvature of the log posterior over blocks of rows, in double precision, so the
    memory does not depend on the number of rows.

    Parameters
    ----------
    blocks : callable
        ``blocks()`` returns an iterable of pairs: features of shape (rows, dim) and
        labels of shape (rows,). It is called once per step.
    tolerance : float
        The search stops after a step shorter than this, in posterior standard
        deviations.

    Returns
    -------
    GaussianPosterior
        The mode, and the precision at the last but one point of the search.

    Raises
    ------
    ValueError
        If there are no blocks, or the steps do not become short.

    Notes
    -----
    The Laplace approximation: Bishop (2006), Pattern Recognition and Machine Learning,
    sections 4.3.3 and 4.4.
    """
    mode: Any = 0.0
    for _ in range(50):
        slope, precision = -mode, 0.0
        for x, y in blocks():
            x = np.asarray(x, float)
            p = expit(x @ np.broadcast_to(mode, x.shape[1]))
            slope = slope + x.T @ (np.asarray(y) - p)
            precision = precision + (x.T * (p * (1 - p))) @ x
        if np.ndim(precision) != 2:
            raise ValueError("blocks: expected at least one block of rows, got none")
        precision = precision + np.eye(len(precision))
        step = np.linalg.solve(precision, slope)
        mode = mode + step
        if np.sqrt(step @ precision @ step) < tolerance:
            return GaussianPosterior(mode, precision)
    raise ValueError("newton: the steps did not become short; are all rows finite?")


def kl_parts(params: dict[str, Any], posterior: GaussianPosterior) -> tuple[Any, Any]:
    """Split the divergence KL(guide, posterior) into its center and its width part.

    Both are zero at the best mean-field guide. The rest of the divergence is the price
    of leaving out correlations, which no optimizer can lower.

    Parameters
    ----------
    params : dict
        ``"loc"`` and ``"scale"`` of independent normals, each of shape (..., dim).
    posterior : GaussianPosterior
        What to compare with.

    Returns
    -------
    center, width : float or numpy.ndarray, shape (...)
        The two parts, in nats.

    Raises
    ------
    ValueError
        If the guide has another number of coefficients than the posterior.

    Notes
    -----
    The closed form for two Gaussians; notebook 05 takes it apart.
    """
    mode, precision = posterior
    loc, scale = (np.asarray(params[name], float) for name in ("loc", "scale"))
    if loc.shape != scale.shape or loc.shape[-1:] != mode.shape:
        raise ValueError(
            f"params: expected loc and scale of shape (..., {len(mode)}), "
            f"got {loc.shape} and {scale.shape}"
        )
    off, ratio = loc - mode, scale**2 * np.diag(precision)
    center = np.einsum("...i,ij,...j", off, precision, off) / 2
    return center, (ratio - 1 - np.log(ratio)).sum(-1) / 2
