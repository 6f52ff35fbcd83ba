"""Draw a NumPyro model as a graph, without graphviz."""

import unicodedata
from collections.abc import Callable
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Ellipse, FancyBboxPatch
from numpyro.handlers import seed, trace
from numpyro.infer.inspect import get_model_relations


def _letter(name: str) -> str:
    """Return the Greek letter that a site is named after, or the name as it is."""
    name_of_letter = "lamda" if name == "lambda" else name  # as Unicode spells it
    try:
        return unicodedata.lookup(f"GREEK SMALL LETTER {name_of_letter}")
    except KeyError:
        return name


def _rows(parents: dict[str, list[str]]) -> dict[str, int]:
    """Give each node a row: below its parents, as near to its children as possible."""
    row: dict[str, int] = {}
    for name in reversed(parents):  # parents come before their children
        below = [row[child] for child, above in parents.items() if name in above]
        row[name] = min(below, default=0) - 1
    return {name: row[name] - min(row.values()) for name in parents}


def _frames(plates: dict[str, list[str]], at: dict[str, tuple]) -> dict[str, tuple]:
    """Frame each plate (left, bottom, right, top); inner plates have closer frames."""
    frames, names = {}, list(plates)
    for index, name in enumerate(names):
        inside = set(plates[name])
        level = sum(inside > set(plates[n]) for n in names)
        level += sum(inside == set(plates[n]) for n in names[index + 1 :])
        xs, ys = zip(*(at[member] for member in inside), strict=True)
        left, right = min(xs) - 1.1 - 0.1 * level, max(xs) + 1.1 + 0.1 * level
        top = max(ys) + 0.53 + 0.1 * level
        frames[name] = (left, min(ys) - 0.72 - 0.25 * level, right, top)
    return frames


def _passes(node: tuple, start: tuple, end: tuple) -> bool:
    """Return whether an edge passes through the ellipse of a node, or close by."""
    center, a, b = (complex(x / 0.95, y / 0.45) for x, y in (node, start, end))
    share = ((center - a) * (b - a).conjugate()).real / abs(b - a) ** 2
    return abs(a + min(max(share, 0), 1) * (b - a) - center) < 1.1


def _clutter(parents: dict, plates: dict, at: dict[str, tuple]) -> float:
    """Score a layout: hidden or wrongly framed nodes cost most, then long edges."""
    frames = _frames(plates, at)
    wrong = 0
    for name, (left, bottom, right, top) in frames.items():
        boxes = {n: (x - 1, y - 0.5, x + 1, y + 0.5) for n, (x, y) in at.items()}
        boxes = {n: box for n, box in boxes.items() if n not in plates[name]}
        boxes |= {n: f for n, f in frames.items() if not {*plates[n]} & {*plates[name]}}
        for x0, y0, x1, y1 in boxes.values():
            wrong += x0 < right and left < x1 and y0 < top and bottom < y1
    edges = [(parent, name) for name, above in parents.items() for parent in above]
    for a, b in edges:
        wrong += sum(_passes(at[n], at[a], at[b]) for n in at if n not in (a, b))
    length = sum(abs(at[a][0] - at[b][0]) for a, b in edges)
    names = list(at)  # in the order of the model, best kept from left to right
    swaps = sum(
        at[a][1] == at[b][1] and at[a][0] > at[b][0]
        for index, a in enumerate(names)
        for b in names[index:]
    )
    aside = sum(abs(x) for x, _ in at.values())
    return 100 * wrong + length + 0.3 * swaps + 0.01 * aside


def _layout(parents: dict, plates: dict) -> dict[str, tuple]:
    """Place all nodes: center each row, then move nodes as long as the score falls."""
    row = _rows(parents)
    mates = {name: [n for n in row if row[n] == row[name]] for name in row}
    reach = max(map(len, mates.values()))
    height = 1.5 + 0.2 * max(len(plates) - 1, 0)
    at = {
        name: (2.4 * peers.index(name) - 1.2 * (len(peers) - 1), -height * row[name])
        for name, peers in mates.items()
    }
    best, before = _clutter(parents, plates, at), np.inf
    while best < before:
        before = best
        for name, peers in mates.items():
            for slot in 1.2 * np.arange(-reach, reach + 1):
                moved = {n: at[name] for n in peers if abs(at[n][0] - slot) < 2.3}
                trial = at | moved | {name: (slot, at[name][1])}
                if np.diff(sorted(trial[n][0] for n in peers)).min(initial=9) < 2.3:
                    continue
                cost = _clutter(parents, plates, trial)
                if cost < best - 1e-9:
                    at, best = trial, cost
    if reach > 4:  # too wide to read: let the graph run from left to right instead
        turn = 0.95 / 0.45  # axes of an ellipse: edges still clear the same nodes
        at = {name: (-y * turn, -x / turn) for name, (x, y) in at.items()}
    return at


def model_graph(
    model: Callable, *model_args: Any, ax: Axes | None = None, **model_kwargs: Any
) -> Axes:
    """Draw a NumPyro model as a graph, without any system package.

    An ellipse is a random variable with the family of its distribution, shaded if it
    is observed. A frame is a plate with its size. Sites that are named after a Greek
    letter, such as ``theta``, show it.

    Parameters
    ----------
    model : callable
        A NumPyro model.
    *model_args, **model_kwargs
        The arguments of the model.
    ax : Axes, optional
        Where to draw; a new figure of fitting size by default.

    Returns
    -------
    Axes
        `ax`, or the axes of the new figure.

    Raises
    ------
    ValueError
        If the model has no sample site.
    """
    found = get_model_relations(model, model_args, model_kwargs)
    if not found["sample_sample"]:
        raise ValueError("model: expected at least one sample site, got none")
    with trace() as sites, seed(rng_seed=0):
        model(*model_args, **model_kwargs)
    sizes = {n: s["args"][0] for n, s in sites.items() if s["type"] == "plate"}
    plates = {name: nodes for name, nodes in found["plate_sample"].items() if nodes}
    place = _layout(found["sample_sample"], plates)
    frames = _frames(plates, place)
    if ax is None:
        corners = [(x - 1, y - 0.6, x + 1, y + 0.6) for x, y in place.values()]
        box = np.array(corners + list(frames.values()))
        _, ax = plt.subplots(figsize=box[:, 2:].max(0) - box[:, :2].min(0) + 0.2)
    for name, (left, bottom, right, top) in frames.items():
        look = {"boxstyle": "round,pad=0,rounding_size=0.1", "fill": False}
        corner = (left, bottom)
        ax.add_patch(FancyBboxPatch(corner, right - left, top - bottom, **look))
        plate = name.split("__CLONE")[0]  # a plate that crosses another has two frames
        text = f"{plate}: {sizes[plate]:,}"
        ax.text(right - 0.08, bottom + 0.05, text, ha="right", va="bottom", fontsize=10)
    arrow = {"arrowstyle": "-|>", "color": "black", "shrinkA": 0, "shrinkB": 0}
    for name, parents in found["sample_sample"].items():
        for parent in parents:
            gap = np.subtract(place[parent], place[name])
            rim = gap / np.hypot(gap[0] / 0.95, gap[1] / 0.45)  # on the ellipse
            ends = {"xy": place[name] + rim, "xytext": place[parent] - rim}
            ax.annotate("", **ends, arrowprops=arrow)
        shade = "#C8C8C8" if name in found["observed"] else "white"
        ax.add_patch(Ellipse(place[name], 1.9, 0.9, fc=shade, ec="black", zorder=3))
        text = f"{_letter(name)}\n{found['sample_dist'][name]}"
        ax.text(*place[name], text, ha="center", va="center", fontsize=10, zorder=4)
    ax.set_aspect("equal")
    ax.autoscale_view()
    ax.axis("off")
    return ax
