"""Scores of predicted probabilities of two classes: how good, and how sure.

In all functions `y` has the classes 0 and 1, shape (n,), and `p` the probabilities of
class 1, shape (..., n). Draws, chains or members of an ensemble come first in `p`, and
each gets a score of its own. Each function raises a TypeError or a ValueError if `y`
or `p` is anything else.
"""

import numpy as np
from scipy.special import rel_entr, xlogy
from scipy.stats import rankdata

from fitting import arguments


def _checked(y: np.ndarray, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return classes as booleans and probabilities as floats, if their shapes fit."""
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
    """Compute the area under the ROC curve: how often class 1 ranks above class 0.

    Parameters
    ----------
    y : array of int, shape (n,)
        Classes; both must occur.
    p : array, shape (..., n)
        Probabilities of class 1.

    Returns
    -------
    numpy.ndarray, shape (...)
        Share of all pairs of a row of class 1 and a row of class 0 in which the first
        has the higher probability; ties count one half.

    Notes
    -----
    The formula by ranks is that of Mann and Whitney (1947); Hanley and McNeil (1982)
    show that it is the area.
    """
    y, p = _checked(y, p)
    ones, zeros = np.count_nonzero(y), np.count_nonzero(~y)
    if not (ones and zeros):
        raise ValueError(f"y: expected both classes, got {zeros} of 0 and {ones} of 1")
    ranks = rankdata(p, axis=-1)[..., y].sum(axis=-1)
    return (ranks - ones * (ones + 1) / 2) / (ones * zeros)


def log_score(y: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Average the log probability of what happened, in nats; higher is better.

    Parameters
    ----------
    y : array of int, shape (n,)
        Classes.
    p : array, shape (..., n)
        Probabilities of class 1. For a posterior predictive score, average the draws
        first.

    Returns
    -------
    numpy.ndarray, shape (...)
        Mean over rows; minus infinity if something happened that had probability 0.

    Notes
    -----
    The score is strictly proper: Gneiting and Raftery (2007).
    """
    y, p = _checked(y, p)
    with np.errstate(divide="ignore"):
        return np.log(np.where(y, p, 1 - p)).mean(axis=-1)


def brier_score(y: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Average the squared error of the probabilities, 0 to 1; lower is better.

    Parameters
    ----------
    y : array of int, shape (n,)
        Classes.
    p : array, shape (..., n)
        Probabilities of class 1.

    Returns
    -------
    numpy.ndarray, shape (...)
        Mean over rows.

    Notes
    -----
    Brier (1950). The score is strictly proper, like the log score.
    """
    y, p = _checked(y, p)
    return ((p - y) ** 2).mean(axis=-1)


def calibration_bins(
    y: np.ndarray, p: np.ndarray, num_bins: int = 10
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compare predictions with what happened, in bins of equal width.

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
        Mean probability and share of class 1 in each bin; NaN in an empty bin.
    counts : numpy.ndarray of int, shape (num_bins,)
        Number of predictions in each bin.
    """
    y, p = _checked(y, p)
    if p.ndim != 1:
        raise ValueError(
            f"p: expected 1 dimension (average draws first), got shape {p.shape}"
        )
    num_bins = arguments.positive_int("num_bins", num_bins)
    bins = np.minimum((p * num_bins).astype(int), num_bins - 1)
    counts = np.bincount(bins, minlength=num_bins)
    with np.errstate(invalid="ignore"):  # 0 / 0 in an empty bin
        predicted = np.bincount(bins, p, num_bins) / counts
        observed = np.bincount(bins, y, num_bins) / counts
    return predicted, observed, counts


def expected_calibration_error(
    y: np.ndarray, p: np.ndarray, num_bins: int = 10
) -> float:
    """Average the distance between predicted and observed shares over bins.

    Parameters
    ----------
    y : array of int, shape (n,)
        Classes.
    p : array, shape (n,)
        Probabilities of class 1.
    num_bins : int
        Number of bins of equal width between 0 and 1.

    Returns
    -------
    float
        Mean with the number of predictions in each bin as weights; lower is better.
        Perfect probabilities get more than 0 from a finite sample, too, and more with
        more bins.

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
        Probabilities of class 1, one row for each posterior draw.

    Returns
    -------
    total : numpy.ndarray, shape (...)
        Entropy of the mean prediction, $H(\bar p)$, at most $\log 2$.
    aleatoric : numpy.ndarray, shape (...)
        Mean entropy of the draws: what would remain with any amount of data.
    epistemic : numpy.ndarray, shape (...)
        Their difference, the mutual information between class and parameters, at
        least 0: what more data would take away.

    Notes
    -----
    Depeweg et al. (2018) describe the split. The epistemic part is computed as the
    mean KL divergence of the draws from their mean: the difference of two entropies
    would lose more digits.
    """
    p = _probabilities("p", p)
    if p.ndim == 0:
        raise ValueError("p: expected draws in the first dimension, got one number")
    mean = p.mean(axis=0)
    aleatoric = -(xlogy(p, p) + xlogy(1 - p, 1 - p)).mean(axis=0)
    divergence = (rel_entr(p, mean) + rel_entr(1 - p, 1 - mean)).mean(axis=0)
    epistemic = np.maximum(divergence, 0.0)  # rounding can leave it just below 0
    return aleatoric + epistemic, aleatoric, epistemic
