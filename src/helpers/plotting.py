"""All figures of the course: functions that draw on an `Axes`, in one style.

The palette, the model graph and the figures for classification have modules of their
own; notebooks find all of them here.
"""

import numpy as np
from matplotlib.axes import Axes
from scipy.stats import binom

from fitting import arguments
from helpers.class_figures import auc_distribution as auc_distribution
from helpers.class_figures import calibration_curve as calibration_curve
from helpers.class_figures import class_points as class_points
from helpers.class_figures import decision_surface as decision_surface
from helpers.class_figures import roc_curves as roc_curves
from helpers.graphs import model_graph as model_graph
from helpers.palette import COLORS, style
from helpers.palette import STYLES as STYLES
from helpers.palette import use_style as use_style


def densities(
    ax: Axes, grid: np.ndarray, curves: dict[str, tuple[str, np.ndarray]]
) -> Axes:
    """Draw named densities over one grid, each in the style of its role.

    Parameters
    ----------
    ax : Axes
        Where to draw.
    grid : array, shape (n,)
        Parameter values.
    curves : dict
        ``{label: (role, density)}`` with a density of shape (n,) each.

    Returns
    -------
    Axes
        The same `ax`.
    """
    grid = arguments.finite_array("grid", grid, ndim=1)
    for label, (role, density) in curves.items():
        density = arguments.finite_array(f"curves[{label!r}]", density, ndim=1)
        if density.shape != grid.shape:
            raise ValueError(
                f"curves[{label!r}]: expected shape {grid.shape} like grid, "
                f"got {density.shape}"
            )
        ax.plot(grid, density, label=label, **style(role))
    ax.set_ylim(bottom=0)
    ax.set_ylabel("density")
    ax.legend()
    return ax


def moving_average(values: np.ndarray, window: int) -> np.ndarray:
    """Average each run of `window` values.

    Parameters
    ----------
    values : array, shape (n,)
        A trace, such as the losses of a fit.
    window : int
        Length of the runs, from 1 to n.

    Returns
    -------
    numpy.ndarray, shape (n - window + 1,)
    """
    values = arguments.finite_array("values", values, ndim=1).astype(float)
    window = arguments.positive_int("window", window)
    if window > values.size:
        raise ValueError(f"window: expected at most {values.size}, got {window}")
    # Not by differences of a cumulative sum: one huge early loss would spoil the rest.
    return np.lib.stride_tricks.sliding_window_view(values, window).mean(axis=-1)


def elbo_curve(
    ax: Axes,
    losses: np.ndarray,
    *,
    window: int = 50,
    label: str = "ELBO",
    role: str = "fit",
    show_steps: bool = True,
) -> Axes:
    """Draw the ELBO (minus the loss) over the steps, with its moving average.

    Parameters
    ----------
    ax : Axes
        Where to draw.
    losses : array, shape (steps,)
        Loss of each step, as a fit returns it.
    window : int
        Steps in the moving average.
    label : str
        Name in the legend.
    role : str
        Style of the moving average, see `style`.
    show_steps : bool
        Draw the noisy value of every step behind it.

    Returns
    -------
    Axes
        The same `ax`.
    """
    losses = arguments.finite_array("losses", losses, ndim=1)
    smooth = -moving_average(losses, window)
    if show_steps:
        steps = np.arange(1, losses.size + 1)
        ax.plot(steps, -losses, color=COLORS["faint"], lw=0.6, ls="-", alpha=0.6)
    ax.plot(np.arange(window, losses.size + 1), smooth, label=label, **style(role))
    ax.set_xlabel("step")
    ax.set_ylabel("ELBO (nats)")
    return ax


def rank_histogram(
    ax: Axes, ranks: np.ndarray, *, num_draws: int, num_bins: int = 20
) -> Axes:
    """Draw simulation-based calibration ranks with the band that chance allows.

    Parameters
    ----------
    ax : Axes
        Where to draw.
    ranks : array of int, shape (n,)
        Rank of the truth among `num_draws` posterior draws, from 0 to `num_draws`.
    num_draws : int
        Draws behind each rank; `num_draws` + 1 should be a multiple of `num_bins`.
    num_bins : int
        Number of bars.

    Returns
    -------
    Axes
        The same `ax`.

    Notes
    -----
    Simulation-based calibration: Talts et al. (2018). The band holds 99 % of the
    counts of one bar if the ranks are uniform.
    """
    ranks = arguments.finite_array("ranks", ranks, ndim=1)
    num_draws = arguments.positive_int("num_draws", num_draws)
    num_bins = arguments.positive_int("num_bins", num_bins)
    if ranks.min() < 0 or ranks.max() > num_draws or (ranks != np.round(ranks)).any():
        raise ValueError(
            f"ranks: expected whole numbers from 0 to {num_draws}, "
            f"got {ranks.min()} to {ranks.max()}"
        )
    if (num_draws + 1) % num_bins:
        raise ValueError(
            f"num_bins: expected a divisor of num_draws + 1 = {num_draws + 1}, "
            f"got {num_bins}"
        )
    low, high = binom.ppf([0.005, 0.995], ranks.size, 1 / num_bins)
    ax.axhspan(low, high, color=COLORS["faint"], alpha=0.3, lw=0, label="99 % band")
    edges = np.linspace(0, num_draws + 1, num_bins + 1) - 0.5
    ax.hist(ranks, edges, color=COLORS["fit"], edgecolor="white", lw=0.8)
    ax.axhline(ranks.size / num_bins, color=COLORS["exact"], lw=1, ls="-")
    ax.set_xlabel("rank of the truth")
    ax.set_ylabel("data sets")
    return ax


def gaussian_ellipse(
    ax: Axes,
    mean: np.ndarray,
    covariance: np.ndarray,
    *,
    role: str = "fit",
    label: str = "",
    radii: tuple[float, ...] = (1.0, 2.0),
) -> Axes:
    """Draw contours of a two-dimensional Gaussian.

    Parameters
    ----------
    ax : Axes
        Where to draw.
    mean : array, shape (2,)
        Its center.
    covariance : array, shape (2, 2)
        Its covariance.
    role, label : str
        Style (see `style`) and name in the legend.
    radii : tuple of float
        Mahalanobis distances of the contours, in standard deviations.

    Returns
    -------
    Axes
        The same `ax`.
    """
    mean = arguments.finite_array("mean", mean, ndim=1)
    covariance = arguments.finite_array("covariance", covariance, ndim=2)
    if mean.shape != (2,) or covariance.shape != (2, 2):
        raise ValueError(
            "mean, covariance: expected shapes (2,) and (2, 2), got "
            f"{mean.shape} and {covariance.shape}"
        )
    if not np.allclose(covariance, covariance.T) or (
        np.linalg.eigvalsh(covariance).min() <= 0
    ):
        raise ValueError(
            f"covariance: expected symmetric and positive definite, got {covariance}"
        )
    turn = np.linspace(0, 2 * np.pi, 201)
    circle = np.stack([np.cos(turn), np.sin(turn)])
    contour = np.linalg.cholesky(covariance) @ circle
    for index, radius in enumerate(radii):
        name = label if index == 0 else "_nolegend_"
        ax.plot(*(mean[:, None] + radius * contour), label=name, **style(role))
    return ax
