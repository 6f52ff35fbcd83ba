"""One look for all figures: a style, a palette, and functions that draw on an `Axes`.

Figures are stored on white. The site multiplies them into a light page and inverts
their lightness on a dark one, so colors keep their hue in both; use no gray that is
lighter than `COLORS["faint"]` for anything that must be read.
"""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib_inline.backend_inline import set_matplotlib_formats
from scipy.stats import binom

from helpers import _validate, scores
from helpers.graphs import model_graph as model_graph

#: Colors by role, distinguishable with every common color vision (after Okabe and Ito,
#: 2008). Each role has a line style of its own in `STYLES`: color never speaks alone.
COLORS = {
    "exact": "#000000",
    "prior": "#767676",
    "fit": "#0072B2",
    "other": "#D55E00",
    "third": "#007A5A",
    "fourth": "#AA4488",
    "faint": "#8C8C8C",
}
STYLES = {
    "exact": {"color": COLORS["exact"], "linestyle": "-", "linewidth": 1.2},
    "prior": {"color": COLORS["prior"], "linestyle": ":", "linewidth": 2.0},
    "fit": {"color": COLORS["fit"], "linestyle": "--", "linewidth": 2.2},
    "other": {"color": COLORS["other"], "linestyle": "-.", "linewidth": 2.2},
    "third": {"color": COLORS["third"], "linestyle": (0, (1, 1)), "linewidth": 2.4},
    "fourth": {"color": COLORS["fourth"], "linestyle": (0, (6, 2)), "linewidth": 2.0},
}


def use_style() -> None:
    """Give all later figures of the session the style of the course."""
    set_matplotlib_formats("retina")
    plt.rcParams.update(
        {
            "figure.figsize": (7.0, 3.4),
            "figure.dpi": 100,
            "figure.constrained_layout.use": True,
            "figure.facecolor": "white",
            "font.size": 11,
            "axes.titlesize": 11,
            "axes.titleweight": "bold",
            "axes.titlelocation": "left",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.prop_cycle": plt.cycler(
                color=[COLORS[r] for r in ("fit", "other", "third", "fourth")],
                linestyle=["-", "--", "-.", (0, (1, 1))],
            ),
            "legend.frameon": False,
            "lines.linewidth": 1.8,
            "savefig.facecolor": "white",
        }
    )


def style(role: str) -> dict[str, Any]:
    """Return the line style of a role in the palette, to pass to `Axes.plot`.

    Parameters
    ----------
    role : str
        One of ``exact``, ``prior``, ``fit``, ``other``, ``third``, ``fourth``.

    Returns
    -------
    dict
        Keyword arguments: color, line style and width.
    """
    return dict(STYLES[_validate.one_of("role", role, tuple(STYLES))])


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
    grid = _validate.finite_array("grid", grid, ndim=1)
    for label, (role, density) in curves.items():
        density = _validate.finite_array(f"curves[{label!r}]", density, ndim=1)
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
    values = _validate.finite_array("values", values, ndim=1).astype(float)
    window = _validate.positive_int("window", window)
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
    losses = _validate.finite_array("losses", losses, ndim=1)
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
    ranks = _validate.finite_array("ranks", ranks, ndim=1)
    num_draws = _validate.positive_int("num_draws", num_draws)
    num_bins = _validate.positive_int("num_bins", num_bins)
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
    mean = _validate.finite_array("mean", mean, ndim=1)
    covariance = _validate.finite_array("covariance", covariance, ndim=2)
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


# Tints, on which points and lines of the full colors can be seen. White in the middle
# or at the low end: on a dark page that becomes the darkest, all hues kept.
_MAPS = {
    "probability": LinearSegmentedColormap.from_list(
        "probability", ["#B0D4EA", "white", "#F8D0B4"]
    ),
    "uncertainty": LinearSegmentedColormap.from_list(
        "uncertainty", ["white", "#E4BFD7"]
    ),
}


def class_points(ax: Axes, x: np.ndarray, y: np.ndarray, *, size: float = 18) -> Axes:
    """Draw points of two classes, told apart by color, shape and filling.

    Parameters
    ----------
    ax : Axes
        Where to draw.
    x : array, shape (n, 2)
        Points.
    y : array of int, shape (n,)
        Class of each, 0 or 1.
    size : float
        Area of a point, in square points.

    Returns
    -------
    Axes
        The same `ax`.
    """
    x = _validate.finite_array("x", x, ndim=2)
    y = _validate.finite_array("y", y, ndim=1)
    if x.shape != (y.size, 2):
        raise ValueError(f"x: expected shape ({y.size}, 2), got {x.shape}")
    looks = [
        {"marker": "o", "facecolors": "none", "edgecolors": COLORS["fit"]},
        {"marker": "^", "color": COLORS["other"], "linewidths": 0},
    ]
    for label, look in enumerate(looks):
        ax.scatter(*x[y == label].T, s=size, label=f"class {label}", **look)
    ax.set_xlabel("$x_1$")
    ax.set_ylabel("$x_2$")
    return ax


def decision_surface(
    ax: Axes,
    grid_x: np.ndarray,
    grid_y: np.ndarray,
    values: np.ndarray,
    *,
    levels: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.9),
    kind: str = "probability",
) -> Axes:
    """Draw predictions over a plane: colors, and contour lines that carry their value.

    Parameters
    ----------
    ax : Axes
        Where to draw.
    grid_x, grid_y : array, shape (columns,) and (rows,)
        Coordinates, increasing.
    values : array, shape (rows, columns)
        What is predicted at each point of the grid.
    levels : tuple of float
        Values of the contour lines, increasing; the one at 0.5 of probabilities, the
        decision boundary, is drawn thicker.
    kind : str
        ``probability``: colors from 0 to 1, white at one half; ``uncertainty``: from
        white at 0 to the last of `levels`.

    Returns
    -------
    Axes
        The same `ax`.
    """
    grid_x = _validate.finite_array("grid_x", grid_x, ndim=1)
    grid_y = _validate.finite_array("grid_y", grid_y, ndim=1)
    values = _validate.finite_array("values", values, ndim=2)
    kind = _validate.one_of("kind", kind, tuple(_MAPS))
    if values.shape != (grid_y.size, grid_x.size):
        raise ValueError(
            f"values: expected shape {(grid_y.size, grid_x.size)}, one row for each of "
            f"grid_y, got {values.shape}"
        )
    top = 1.0 if kind == "probability" else levels[-1]
    ax.pcolormesh(
        *(grid_x, grid_y, values),
        **{"cmap": _MAPS[kind], "vmin": 0, "vmax": top, "shading": "gouraud"},
    )
    boundary = kind == "probability"
    widths = [2.2 if boundary and level == 0.5 else 0.9 for level in levels]
    lines = ax.contour(
        grid_x, grid_y, values, levels, colors=COLORS["exact"], linewidths=widths
    )
    ax.clabel(lines, fmt="%.3g", fontsize=9)
    ax.set_xlabel("$x_1$")
    ax.set_ylabel("$x_2$")
    return ax


def _roc(y: np.ndarray, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return false and true positive rates for all thresholds, from none to all."""
    order = np.argsort(-p, kind="stable")
    last = np.append(np.flatnonzero(np.diff(p[order])), p.size - 1)  # of equal ones
    hits, tried = np.cumsum(y[order])[last], last + 1
    true, false = hits / hits[-1], (tried - hits) / (y.size - hits[-1])
    return np.append(0.0, false), np.append(0.0, true)


def roc_curves(
    ax: Axes,
    y: np.ndarray,
    p_draws: np.ndarray,
    *,
    max_curves: int = 100,
    label: str = "mean prediction",
    role: str = "fit",
) -> Axes:
    """Draw the ROC curve of each posterior draw, and that of the mean prediction.

    Parameters
    ----------
    ax : Axes
        Where to draw.
    y : array of int, shape (n,)
        Classes 0 and 1.
    p_draws : array, shape (draws, n)
        Probabilities of class 1.
    max_curves : int
        Draw at most so many thin curves, evenly picked.
    label, role : str
        Name and style (see `style`) of the curve of the mean.

    Returns
    -------
    Axes
        The same `ax`.
    """
    p = _validate.finite_array("p_draws", p_draws, ndim=2).astype(float)
    scores.auc(y, p)  # for its checks
    y = np.asarray(y)
    max_curves = _validate.positive_int("max_curves", max_curves)
    look = style(role)
    picked = np.unique(np.linspace(0, len(p) - 1, max_curves).astype(int))
    for index in picked:
        ax.plot(*_roc(y, p[index]), color=look["color"], lw=0.5, ls="-", alpha=0.25)
    ax.plot(*_roc(y, p.mean(axis=0)), label=label, **look)
    ax.plot([0, 1], [0, 1], label="chance", **style("prior"))
    ax.set_xlabel("false positive rate")
    ax.set_ylabel("true positive rate")
    ax.legend(loc="lower right")
    return ax


def auc_distribution(
    ax: Axes, aucs: dict[str, tuple[str, np.ndarray]], *, num_bins: int = 30
) -> Axes:
    """Draw posterior distributions of the area under the ROC curve.

    Parameters
    ----------
    ax : Axes
        Where to draw.
    aucs : dict
        ``{label: (role, values)}`` with one value per posterior draw.
    num_bins : int
        Bars over the range of all values.

    Returns
    -------
    Axes
        The same `ax`.
    """
    num_bins = _validate.positive_int("num_bins", num_bins)
    drawn = {
        label: (role, _validate.finite_array(f"aucs[{label!r}]", values, ndim=1))
        for label, (role, values) in aucs.items()
    }
    if not drawn:
        raise ValueError("aucs: expected at least one distribution, got none")
    every = np.concatenate([values for _, values in drawn.values()])
    edges = np.histogram_bin_edges(every, num_bins)
    for label, (role, values) in drawn.items():
        ax.hist(
            values, edges, density=True, histtype="step", label=label, **style(role)
        )
    ax.set_xlabel("area under the ROC curve")
    ax.set_ylabel("posterior density")
    ax.legend(loc="upper left")
    return ax


def calibration_curve(
    ax: Axes,
    y: np.ndarray,
    p: np.ndarray,
    *,
    num_bins: int = 10,
    label: str = "",
    role: str = "fit",
) -> Axes:
    """Draw observed against predicted shares, with what chance allows around equality.

    Parameters
    ----------
    ax : Axes
        Where to draw.
    y : array of int, shape (n,)
        Classes 0 and 1.
    p : array, shape (n,)
        Probabilities of class 1.
    num_bins : int
        Bins of equal width; empty ones are left out.
    label, role : str
        Name and style (see `style`) of the curve.

    Returns
    -------
    Axes
        The same `ax`.

    Notes
    -----
    A bar holds 95 % of the shares that would be observed in its bin if all predictions
    in it were right and equal (Bröcker and Smith, 2007, without the resampling).
    """
    predicted, observed, counts = scores.calibration_bins(y, p, num_bins)
    full = counts > 0
    predicted, observed, counts = predicted[full], observed[full], counts[full]
    low, high = binom.ppf([[0.025], [0.975]], counts, predicted) / counts
    ax.plot([0, 1], [0, 1], **style("prior"), label="_nolegend_")
    ax.vlines(predicted, low, high, color=COLORS["faint"], lw=4, alpha=0.5)
    ax.plot(predicted, observed, marker="o", ms=5, label=label, **style(role))
    ax.set_xlabel("predicted probability of class 1")
    ax.set_ylabel("observed share")
    return ax
