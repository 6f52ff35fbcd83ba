"""Figures for two classes: points, probabilities over a plane, ROC, calibration."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from scipy.stats import binom

from fitting import arguments, scores
from helpers.palette import COLORS, style

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
    x = arguments.finite_array("x", x, ndim=2)
    y = arguments.finite_array("y", y, ndim=1)
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
    grid_x = arguments.finite_array("grid_x", grid_x, ndim=1)
    grid_y = arguments.finite_array("grid_y", grid_y, ndim=1)
    values = arguments.finite_array("values", values, ndim=2).astype(float)
    kind = arguments.one_of("kind", kind, tuple(_MAPS))
    if values.shape != (grid_y.size, grid_x.size):
        raise ValueError(
            f"values: expected shape {(grid_y.size, grid_x.size)}, one row for each of "
            f"grid_y, got {values.shape}"
        )
    top = 1.0 if kind == "probability" else levels[-1]
    # Bands of one color each: close to a smooth surface, and a small file.
    bands = np.linspace(0, top, 21)
    ax.contourf(
        *(grid_x, grid_y, np.clip(values, 0, top), bands),
        **{"cmap": _MAPS[kind], "vmin": 0, "vmax": top, "antialiased": False},
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
    p = arguments.finite_array("p_draws", p_draws, ndim=2).astype(float)
    scores.auc(y, p)  # for its checks
    y = np.asarray(y)
    max_curves = arguments.positive_int("max_curves", max_curves)
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
    num_bins = arguments.positive_int("num_bins", num_bins)
    drawn = {
        label: (role, arguments.finite_array(f"aucs[{label!r}]", values, ndim=1))
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
