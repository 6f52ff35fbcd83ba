"""Scores of predicted probabilities of two classes: how good, and how sure.

Everywhere `y` holds classes 0 and 1, shape (n,), and `p` probabilities of class 1,
shape (..., n): draws, chains or members may come first, and each gets its own score.
"""

import numpy as np
from scipy.special import rel_entr, xlogy
from scipy.stats import rankdata

from fitting import arguments


def _checked(y: np.ndarray, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    y = arguments.finite_array("y", y, ndim=1)
    if not np.isin(y, (0, 1)).all():
        raise ValueError(f"y: expected classes 0 and 1, got {np.unique(y)[:5]}")
    p = _probabilities("p", p)
    if p.shape[-1:] != y.shape:
        raise ValueError(
            f"p: expected {y.size} columns, one for each of y, got shape {p.shape}"
        )
    return y.astype(bool), p


def _probabilities(name: str, value: np.ndarray) -> np.ndarray:
    """Return `value` as floats if all of it lies between 0 and 1."""
    p = arguments.finite_array(name, value).astype(float)
    if p.min() < 0 or p.max() > 1:
        raise ValueError(
            f"{name}: expected between 0 and 1, got {p.min():.4g} to {p.max():.4g}"
        )
    return p


def auc(y: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Area under the ROC curve: how often class 1 is ranked above class 0.

    Parameters
    ----------
    y : array of int, shape (n,)
        Classes; both must occur.
    p : array, shape (..., n)
        Probabilities of class 1.

    Returns
    -------
    numpy.ndarray, shape (...)
        Share of pairs, one row of each class, in which the row of class 1 has the
        higher probability; ties count one half.

    Notes
    -----
    The rank formula of Mann and Whitney; its reading as an area: Hanley and McNeil
    (1982).
    """
    y, p = _checked(y, p)
    ones, zeros = np.count_nonzero(y), np.count_nonzero(~y)
    if not (ones and zeros):
        raise ValueError(f"y: expected both classes, got {zeros} of 0 and {ones} of 1")
    ranks = rankdata(p, axis=-1)[..., y].sum(axis=-1)
    return (ranks - ones * (ones + 1) / 2) / (ones * zeros)


def log_score(y: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Mean log probability given to what happened, in nats; higher is better.

    Parameters
    ----------
    y : array of int, shape (n,)
        Classes.
    p : array, shape (..., n)
        Probabilities of class 1; for a posterior predictive score the mean over draws.

    Returns
    -------
    numpy.ndarray, shape (...)
        Minus infinity where something happened that had probability 0.

    Notes
    -----
    A strictly proper scoring rule: Gneiting and Raftery (2007).
    """
    y, p = _checked(y, p)
    with np.errstate(divide="ignore"):
        return np.log(np.where(y, p, 1 - p)).mean(axis=-1)


def brier_score(y: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Mean squared error of the probabilities; lower is better, 0 to 1.

    Parameters
    ----------
    y : array of int, shape (n,)
        Classes.
    p : array, shape (..., n)
        Probabilities of class 1.

    Returns
    -------
    numpy.ndarray, shape (...)

    Notes
    -----
    Brier (1950); strictly proper, too.
    """
    y, p = _checked(y, p)
    return ((p - y) ** 2).mean(axis=-1)


def calibration_bins(
    y: np.ndarray, p: np.ndarray, num_bins: int = 10
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sort predictions into bins of equal width and compare them with what happened.

    Parameters
    ----------
    y : array of int, shape (n,)
        Classes.
    p : array, shape (n,)
        Probabilities of class 1.
    num_bins : int
        Number of bins between 0 and 1.

    Returns
    -------
    predicted, observed : numpy.ndarray, shape (num_bins,)
        Mean probability and share of class 1 in each bin; NaN in empty ones.
    counts : numpy.ndarray of int, shape (num_bins,)
        Predictions in each bin.
    """
    y, p = _checked(y, p)
    if p.ndim != 1:
        raise ValueError(
            f"p: expected 1 dimension (average draws first), got shape {p.shape}"
        )
    num_bins = arguments.positive_int("num_bins", num_bins)
    bins = np.minimum((p * num_bins).astype(int), num_bins - 1)
    counts, sum_p, sum_y = (
        np.bincount(bins, weights, num_bins) for weights in (None, p, y)
    )
    with np.errstate(invalid="ignore"):
        return sum_p / counts, sum_y / counts, counts


def expected_calibration_error(
    y: np.ndarray, p: np.ndarray, num_bins: int = 10
) -> float:
    """Mean distance between predicted and observed shares over bins of equal width.

    Parameters
    ----------
    y : array of int, shape (n,)
        Classes.
    p : array, shape (n,)
        Probabilities of class 1.
    num_bins : int
        Number of bins between 0 and 1.

    Returns
    -------
    float
        Each bin weighs as much as it has predictions; lower is better. Even perfect
        probabilities get more than 0 from a finite sample, and more with more bins.

    Notes
    -----
    Naeini et al. (2015).
    """
    predicted, observed, counts = calibration_bins(y, p, num_bins)
    gaps = np.where(counts > 0, abs(predicted - observed), 0.0)
    return float((gaps * counts).sum() / counts.sum())


def entropy_parts(p: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    r"""Split the entropy of predictions into noise and ignorance, in nats.

    Parameters
    ----------
    p : array, shape (draws, ...)
        Probabilities of class 1 by posterior draws, draws first.

    Returns
    -------
    total : numpy.ndarray, shape (...)
        Entropy of the mean prediction, $H(\bar p)$, at most $\log 2$.
    aleatoric : numpy.ndarray, shape (...)
        Mean entropy of the draws: what stays however much data there is.
    epistemic : numpy.ndarray, shape (...)
        Their difference, the mutual information between class and parameters, 0 or
        more: what more data would take away.

    Notes
    -----
    The split: Depeweg et al. (2018). The difference is computed as the mean divergence
    of the draws from their mean, which cannot become negative by rounding.
    """
    p = _probabilities("p", p)
    if p.ndim == 0:
        raise ValueError("p: expected draws in the first dimension, got one number")
    mean = p.mean(axis=0)
    aleatoric = -(xlogy(p, p) + xlogy(1 - p, 1 - p)).mean(axis=0)
    # Elementwise p log(p / mean) may be negative; the sum of both classes is not.
    gap = (rel_entr(p, mean) + rel_entr(1 - p, 1 - mean)).mean(axis=0)
    epistemic = np.maximum(gap, 0.0)
    return aleatoric + epistemic, aleatoric, epistemic
