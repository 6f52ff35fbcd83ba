"""What the figures of the course share: their look, and curves of several notebooks.

The site shows stored figures on a light and on a dark page. On a dark page it inverts
their lightness, so colors keep their hue. Nothing that must be read may be lighter
than `COLORS["faint"]`. A figure that one notebook needs is drawn in that notebook.
"""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.font_manager import fontManager
from matplotlib_inline.backend_inline import set_matplotlib_formats

from fitting import arguments
from helpers.model_graph import model_graph as model_graph

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


FONTS = Path(__file__).with_name("fonts")  # those of the pages


def use_style() -> None:
    """Give all later figures of the session the style of the course."""
    set_matplotlib_formats("retina")
    for path in FONTS.glob("*.ttf"):
        fontManager.addfont(path)
    plt.rcParams.update(
        {
            "figure.figsize": (7.0, 3.4),
            "figure.dpi": 100,
            "figure.constrained_layout.use": True,
            "figure.facecolor": "white",
            "font.family": "Source Sans 3",
            "font.size": 11.5,
            "mathtext.fontset": "stix",
            "axes.titlesize": 11.5,
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
    """Return the line style of a role, to pass to `Axes.plot`.

    Parameters
    ----------
    role : str
        One of ``exact``, ``prior``, ``fit``, ``other``, ``third``, ``fourth``.

    Returns
    -------
    dict
        Keyword arguments: color, line style and width.

    Raises
    ------
    ValueError
        If there is no such role.
    """
    return dict(STYLES[arguments.one_of("role", role, tuple(STYLES))])


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

    Raises
    ------
    TypeError, ValueError
        If the grid or a density is no finite array, their shapes differ, or a role
        does not exist.
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
    """Average all `window` neighboring values of a trace.

    Parameters
    ----------
    values : array, shape (n,)
        A trace, such as the losses of a fit.
    window : int
        How many values to average, from 1 to n.

    Returns
    -------
    numpy.ndarray, shape (n - window + 1,)
        The first element is the mean of the first `window` values.

    Raises
    ------
    TypeError, ValueError
        If the values are no finite array, or the window does not fit into it.
    """
    values = arguments.finite_array("values", values, ndim=1).astype(float)
    window = arguments.positive_int("window", window, most=values.size)
    # A difference of cumulative sums would be faster, but one huge early loss would
    # spoil all later averages.
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
        Loss of each step in nats, as a fit returns it.
    window : int
        Steps in the moving average.
    label : str
        Name in the legend.
    role : str
        Style of the moving average, see `style`.
    show_steps : bool
        Whether to draw the noisy value of every step behind the average.

    Returns
    -------
    Axes
        The same `ax`.

    Raises
    ------
    TypeError, ValueError
        If the losses are no finite array, the window is longer than they are, or the
        role does not exist.
    """
    losses = arguments.finite_array("losses", losses, ndim=1)
    averages = -moving_average(losses, window)
    if show_steps:
        steps = np.arange(1, losses.size + 1)
        ax.plot(steps, -losses, color=COLORS["faint"], lw=0.6, ls="-", alpha=0.6)
    ax.plot(np.arange(window, losses.size + 1), averages, label=label, **style(role))
    ax.set_xlabel("step")
    ax.set_ylabel("ELBO (nats)")
    return ax
