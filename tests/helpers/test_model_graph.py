"""Model graphs: the drawing alone shows nodes, edges and plates, and can be read."""

import itertools
import sys

import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from matplotlib.patches import Ellipse, FancyBboxPatch

mpl.use("Agg")
import matplotlib.pyplot as plt

from helpers.model_graph import model_graph

# Models for the graph, with the edges and frames that each must show.


def flat(y):
    a, b = (numpyro.sample(name, dist.Normal(0, 1)) for name in "ab")
    numpyro.sample("y", dist.Normal(a, jnp.exp(b)), obs=y)


def skipping(y):
    a = numpyro.sample("a", dist.Normal(0, 1))
    b = numpyro.sample("b", dist.Normal(a, 1))
    numpyro.sample("y", dist.Normal(a + b, 1), obs=y)


def three_levels(y):
    m = numpyro.sample("m", dist.Normal(0, 1))
    t, s, r = (numpyro.sample(name, dist.HalfNormal(1)) for name in "tsr")
    with numpyro.plate("country", 2):
        a = numpyro.sample("a", dist.Normal(m, t))
        with numpyro.plate("school", 3):
            b = numpyro.sample("b", dist.Normal(a, s))
            with numpyro.plate("pupil", 4):
                numpyro.sample("y", dist.Normal(b, r), obs=y)


def outsiders(y):
    m = numpyro.sample("m", dist.Normal(0, 1))
    t = numpyro.sample("t", dist.HalfNormal(1))
    with numpyro.plate("N", 1000):
        z = numpyro.sample("z", dist.Normal(0, 1))
        x = numpyro.deterministic("x", m + t * z)
        numpyro.sample("y", dist.Normal(x, 1), obs=y)


def crossed(y):
    with numpyro.plate("row", 3, dim=-2):
        a = numpyro.sample("a", dist.Normal(0, 1))
    with numpyro.plate("column", 2, dim=-1):
        b = numpyro.sample("b", dist.Normal(0, 1))
    with numpyro.plate("row", 3, dim=-2), numpyro.plate("column", 2, dim=-1):
        numpyro.sample("y", dist.Normal(a + b, 1), obs=y)


def twice_framed(y):
    m = numpyro.sample("m", dist.Normal(0, 1))
    with numpyro.plate("empty", 7):
        pass
    with numpyro.plate("row", 3), numpyro.plate("column", 2):
        numpyro.sample("y", dist.Normal(m, 1), obs=y)


def many(y):
    weights = [numpyro.sample(name, dist.Normal(0, 1)) for name in "abcdef"]
    x = numpyro.deterministic("x", sum(weights))
    with numpyro.plate("N", 5):
        numpyro.sample("y", dist.Normal(x, 1), obs=y)


# Shape of the data, edges, and frames with the nodes inside.
GRAPHS = {
    flat: ((), "ay by", []),
    skipping: ((), "ab ay by", []),
    three_levels: (
        (4, 3, 2),
        "ab by ma ry sb ta",
        [("country: 2", "aby"), ("pupil: 4", "y"), ("school: 3", "by")],
    ),
    outsiders: ((1000,), "mx tx xy zx", [("N: 1,000", "xyz")]),
    crossed: (
        (3, 2),
        "ay by",
        [("column: 2", "b"), ("column: 2", "y"), ("row: 3", "ay")],
    ),
    many: ((5,), "ax bx cx dx ex fx xy", [("N: 5", "y")]),
    twice_framed: ((2, 3), "my", [("column: 2", "y"), ("row: 3", "y")]),
}
HALF = np.array([0.95, 0.45])  # of the axes of an ellipse


def read_graph(ax):
    """Read nodes, edges and frames from the drawing alone."""
    nodes, frames = {}, []
    texts = [text for text in ax.texts if text.get_text()]
    for ellipse in (patch for patch in ax.patches if isinstance(patch, Ellipse)):
        at = ellipse.get_center()
        (text,) = (t.get_text() for t in texts if t.get_position() == at)
        name, family = text.split("\n")
        nodes[name] = (np.array(at), family, ellipse.get_facecolor()[:3])

    def touched(point):
        gaps = {name: (point - at) / HALF for name, (at, *_) in nodes.items()}
        (name,) = (n for n, gap in gaps.items() if abs(np.hypot(*gap) - 1) < 1e-6)
        return name

    arrows = [text for text in ax.texts if not text.get_text()]
    edges = sorted(touched(arrow.xyann) + touched(arrow.xy) for arrow in arrows)
    for box in (p.get_bbox() for p in ax.patches if isinstance(p, FancyBboxPatch)):
        corner = (box.x1, box.y0)
        (label,) = (
            t for t in texts if np.ptp([t.get_position(), corner], 0).max() < 0.1
        )
        inside = sorted(name for name, (at, *_) in nodes.items() if box.contains(*at))
        frames.append((label.get_text(), "".join(inside), box))
    return nodes, edges, frames, texts


@pytest.mark.parametrize("model", GRAPHS, ids=lambda model: model.__name__)
def test_model_graph(monkeypatch, model):
    monkeypatch.setenv("PATH", "")  # no dot,
    monkeypatch.setitem(sys.modules, "graphviz", None)  # and not its Python package
    shape, expected_edges, expected_frames = GRAPHS[model]
    ax = model_graph(model, np.zeros(shape, "float32"))
    nodes, edges, frames, texts = read_graph(ax)
    assert edges == expected_edges.split()
    assert sorted(frame[:2] for frame in frames) == expected_frames
    assert set(nodes) == set("".join(edges))
    for name, (_, family, color) in nodes.items():
        positive = name in "tsr"
        known = {"x": "Deterministic"}.get(name, "HalfNormal" if positive else "Normal")
        assert family == known
        assert (color != (1, 1, 1)) == (name == "y")

    # Legible: no text on another, no edge behind a node, each node wholly inside or
    # outside of a frame, all inside the figure, parents above their children or, where
    # there are many, left of them.
    ax.figure.canvas.draw()
    extents = [text.get_window_extent() for text in texts]
    for one, other in itertools.combinations(extents, 2):
        assert not one.overlaps(other)
    for a, b in edges:
        (left, below), (right, above) = nodes[a][0], nodes[b][0]
        assert left < right if model is many else below > above
        line = np.linspace(nodes[a][0], nodes[b][0], 200)
        for name in set(nodes) - {a, b}:
            assert np.hypot(*((line - nodes[name][0]) / HALF).T).min() > 1
    for (_, inside, box), (name, (at, *_)) in itertools.product(frames, nodes.items()):
        if name in inside:
            assert (at - HALF > box.min).all()
            assert (at + HALF < box.max).all()
        else:
            assert ((at + HALF < box.min) | (at - HALF > box.max)).any()
    page = ax.figure.bbox
    for extent in (artist.get_window_extent() for artist in [*texts, *ax.patches]):
        assert (extent.min > page.min).all()
        assert (extent.max < page.max).all()
    plt.close("all")


def test_model_graph_on_given_axes():
    ax = plt.subplots()[1]
    assert model_graph(flat, y=np.float32(0), ax=ax) is ax
    assert len(plt.get_fignums()) == 1
    assert set(read_graph(ax)[0]) == set("aby")
    plt.close("all")


def test_model_graph_of_nothing():
    with pytest.raises(ValueError, match="model: expected at least one sample site"):
        model_graph(lambda: None)
