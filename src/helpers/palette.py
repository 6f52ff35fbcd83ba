"""The look of all figures: colors and line styles by role, and Matplotlib's settings.

Figures are stored on white. The site multiplies them into a light page and inverts
their lightness on a dark one, so colors keep their hue in both; use no gray that is
lighter than `COLORS["faint"]` for anything that must be read.
"""

from typing import Any

import matplotlib.pyplot as plt
from matplotlib_inline.backend_inline import set_matplotlib_formats

from fitting import arguments

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
    return dict(STYLES[arguments.one_of("role", role, tuple(STYLES))])
