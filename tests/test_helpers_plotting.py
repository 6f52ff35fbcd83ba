"""Figures: what is drawn is what was given; the palette can be told apart."""

import itertools
import sys

import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from matplotlib.colors import to_rgb
from matplotlib.patches import Ellipse, FancyBboxPatch
from scipy import stats

mpl.use("Agg")
import matplotlib.pyplot as plt

from helpers import plotting, scores
from helpers.plotting import COLORS, STYLES


@pytest.fixture
def ax():
    yield plt.subplots()[1]
    plt.close("all")


GRID = np.linspace(0, 4, 50)


def test_densities(ax):
    curves = {"prior": ("prior", np.exp(-GRID)), "q": ("fit", GRID * np.exp(-GRID))}
    assert plotting.densities(ax, GRID, curves) is ax
    for line, (label, (role, density)) in zip(ax.lines, curves.items(), strict=True):
        assert line.get_label() == label
        np.testing.assert_array_equal(line.get_data(), (GRID, density))
        assert line.get_color() == STYLES[role]["color"]
        assert line.get_linewidth() == STYLES[role]["linewidth"]
    assert [text.get_text() for text in ax.get_legend().texts] == ["prior", "q"]
    assert ax.get_ylabel() == "density"
    assert ax.get_ylim()[0] == 0


def test_moving_average():
    values = np.random.default_rng(0).normal(size=30)
    for window in (1, 2, 7, 30):
        expected = np.convolve(values, np.full(window, 1 / window), "valid")
        found = plotting.moving_average(values, window)
        np.testing.assert_allclose(found, expected, atol=1e-14)
    values[0] = 1e20  # must not spoil the averages that do not hold it
    np.testing.assert_allclose(
        plotting.moving_average(values, 7)[1:], plotting.moving_average(values[1:], 7)
    )


@pytest.mark.parametrize("show_steps", [True, False])
def test_elbo_curve(ax, show_steps):
    losses = jnp.asarray(np.random.default_rng(0).normal(50, 5, 40))
    options = {"window": 10, "label": "mean field", "role": "other"}
    assert plotting.elbo_curve(ax, losses, show_steps=show_steps, **options) is ax
    *steps, average = ax.lines
    np.testing.assert_array_equal(average.get_xdata(), np.arange(10, 41))
    expected = [-np.mean(losses[i - 10 : i]) for i in range(10, 41)]
    np.testing.assert_allclose(average.get_ydata(), expected, rtol=1e-5)
    assert average.get_label() == "mean field"
    assert average.get_color() == COLORS["other"]
    assert len(steps) == show_steps
    for line in steps:
        np.testing.assert_array_equal(line.get_xdata(), np.arange(1, 41))
        np.testing.assert_array_equal(line.get_ydata(), -losses)
        assert line.get_label().startswith("_")  # not in the legend
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("step", "ELBO (nats)")


def test_rank_histogram(ax):
    ranks = np.r_[0, 99, np.random.default_rng(0).integers(0, 100, 298)]
    same = plotting.rank_histogram(ax, ranks, num_draws=99, num_bins=20)
    assert same is ax
    band, *bars = ax.patches
    assert [bar.get_height() for bar in bars] == list(np.bincount(ranks // 5))
    assert [bar.get_x() for bar in bars] == list(np.arange(20) * 5 - 0.5)
    low, high = band.get_y(), band.get_y() + band.get_height()
    chance = stats.binom(300, 1 / 20)
    assert chance.cdf(low - 1) < 0.005 <= chance.cdf(low)
    assert chance.cdf(high - 1) < 0.995 <= chance.cdf(high)
    assert set(ax.lines[0].get_ydata()) == {15}
    assert band.get_label() == "99 % band"
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("rank of the truth", "data sets")


@pytest.mark.parametrize("covariance", [[[2, 1.2], [1.2, 1]], [[1, -0.9], [-0.9, 4]]])
def test_gaussian_ellipse(ax, covariance):
    mean = np.array([1.0, -2.0])
    call = {"radii": (1.0, 2.5), "label": "q", "role": "third"}
    assert plotting.gaussian_ellipse(ax, mean, covariance, **call) is ax
    inner, outer = ax.lines
    for line, radius in ((inner, 1.0), (outer, 2.5)):
        points = line.get_xydata()
        gap = points - mean
        distance = np.einsum("ni,ij,nj->n", gap, np.linalg.inv(covariance), gap)
        np.testing.assert_allclose(np.sqrt(distance), radius, rtol=0.01)
        assert len(points) > 20
        assert (points > ax.viewLim.min).all()
        assert (points < ax.viewLim.max).all()
        assert line.get_color() == COLORS["third"]
    assert ax.get_legend_handles_labels()[1] == ["q"]


LABELS = np.array([0, 0, 1, 1, 0, 1])
PROBS = np.array([[0.1, 0.4, 0.4, 0.8, 0.3, 0.9], [0.6, 0.1, 0.2, 0.7, 0.3, 0.3]])


def test_class_points(ax):
    points = np.arange(12.0).reshape(6, 2)
    assert plotting.class_points(ax, points, LABELS) is ax
    zero, one = ax.collections
    np.testing.assert_array_equal(zero.get_offsets(), points[LABELS == 0])
    np.testing.assert_array_equal(one.get_offsets(), points[LABELS == 1])
    assert ax.get_legend_handles_labels()[1] == ["class 0", "class 1"]
    # Told apart without color: by shape and by filling.
    assert len(zero.get_paths()[0].vertices) != len(one.get_paths()[0].vertices)
    assert len(zero.get_facecolor()) == 0
    assert len(one.get_facecolor()) == 1


@pytest.mark.parametrize("kind", ["probability", "uncertainty"])
def test_decision_surface(ax, kind):
    across, up = np.linspace(0, 1, 11), np.linspace(5, 6, 7)
    values = np.tile(across, (7, 1))
    options = {"levels": (0.25, 0.5, 0.7), "kind": kind}
    assert plotting.decision_surface(ax, across, up, values, **options) is ax
    surface, lines = ax.collections
    top = 1 if kind == "probability" else 0.7
    assert surface.get_clim() == (0, top)
    edges = surface.levels  # the value at a point is its first coordinate
    assert (edges[0], edges[-1]) == (0, top)
    for low, high, path in zip(edges, edges[1:], surface.get_paths(), strict=False):
        at = path.vertices[:, 0]
        assert at.min() == pytest.approx(low)
        assert at.max() == pytest.approx(1 if high == top else high)
    for level, path in zip(lines.levels, lines.get_paths(), strict=True):
        np.testing.assert_allclose(path.vertices[:, 0], level)
    assert [text.get_text() for text in ax.texts] == ["0.25", "0.5", "0.7"]
    thick = lines.get_linewidths()[1] > lines.get_linewidths()[0]
    assert thick == (kind == "probability")
    # Contour lines and points must be seen on every color of the surface.
    shades = surface.cmap(np.linspace(0, 1, 21))[:, :3]
    assert (
        min(contrast(shade, np.array(to_rgb(COLORS["exact"]))) for shade in shades) > 7
    )
    for role in ("fit", "other"):
        assert (
            min(contrast(shade, np.array(to_rgb(COLORS[role]))) for shade in shades) > 2
        )


def test_decision_surface_colors_what_is_above_the_last_level(ax):
    values = np.linspace(0, 0.65, 9, dtype="float32").reshape(3, 3)
    values[2] = 0.65  # clipped to 0.6 in this precision, it is above 0.6 in double
    look = {"levels": (0.1, 0.6), "kind": "uncertainty"}
    plotting.decision_surface(ax, np.arange(3), np.arange(3), values, **look)
    corners = ax.collections[0].get_paths()[-1].vertices.tolist()
    assert [0.0, 2.0] in corners
    assert [2.0, 2.0] in corners


def test_roc_curves(ax):
    assert plotting.roc_curves(ax, LABELS, PROBS, label="BNN", role="other") is ax
    *draws, mean, chance = ax.lines
    for line, p in zip([*draws, mean], [*PROBS, PROBS.mean(axis=0)], strict=True):
        thresholds = np.append(np.inf, np.unique(p)[::-1])
        false = [(p[LABELS == 0] >= t).mean() for t in thresholds]
        true = [(p[LABELS == 1] >= t).mean() for t in thresholds]
        np.testing.assert_allclose(line.get_data(), (false, true))
        area = np.trapezoid(line.get_ydata(), line.get_xdata())
        assert area == pytest.approx(scores.auc(LABELS, p))
    assert mean.get_label() == "BNN"
    assert mean.get_color() == COLORS["other"]
    assert chance.get_label() == "chance"
    assert all(line.get_label().startswith("_") for line in draws)


def test_roc_curves_are_limited(ax):
    plotting.roc_curves(ax, LABELS, np.tile(PROBS, (50, 1)), max_curves=7)
    assert len(ax.lines) == 7 + 2


def test_auc_distribution(ax):
    draws = np.random.default_rng(0).beta(90, 10, (2, 500))
    curves = {"train": ("fit", draws[0]), "test": ("other", draws[1])}
    assert plotting.auc_distribution(ax, curves, num_bins=12) is ax
    assert ax.get_legend_handles_labels()[1] == ["train", "test"]
    for patch, (role, values) in zip(ax.patches[::-1], curves.values(), strict=False):
        assert patch.get_edgecolor()[:3] in [
            to_rgb(COLORS[r]) for r in ("fit", "other")
        ]
        assert role in STYLES
        assert patch.get_xy()[:, 0].min() <= values.min()
        assert patch.get_xy()[:, 0].max() >= values.max()
    assert "ROC" in ax.get_xlabel()


def test_calibration_curve(ax):
    rng = np.random.default_rng(0)
    p = rng.uniform(0.2, 1, 2_000)
    y = (rng.uniform(size=p.size) < p).astype(int)
    assert plotting.calibration_curve(ax, y, p, num_bins=5, label="BNN") is ax
    curve = ax.lines[-1]
    predicted, observed, counts = scores.calibration_bins(y, p, 5)
    assert counts[0] == 0
    np.testing.assert_allclose(curve.get_data(), (predicted[1:], observed[1:]))
    assert ax.get_legend_handles_labels()[1] == ["BNN"]
    for (x, low), (_, high) in ax.collections[0].get_segments():
        chance = stats.binom(counts[int(x * 5)], x)
        assert low < x < high
        assert chance.ppf(0.975) == pytest.approx(high * counts[int(x * 5)])


TWO, EYE = np.zeros(2), np.eye(2)
BAD_INPUT = [
    ("densities", (GRID[:0], {}), {}, ValueError, "grid: expected data, got none"),
    ("densities", (EYE, {}), {}, ValueError, "grid: expected 1 dimension.*got 2"),
    (
        *("densities", (GRID, {"q": ("fit", GRID[1:])}), {}, ValueError),
        r"curves\['q'\]: expected shape \(50,\) like grid, got \(49,\)",
    ),
    (
        *("densities", (GRID, {"q": ("fit", GRID * np.nan)}), {}, ValueError),
        r"curves\['q'\]: expected finite numbers, got 50 NaN",
    ),
    (
        *("densities", (GRID, {"q": ("blue", GRID)}), {}, ValueError),
        "role: expected one of 'exact', 'prior', .*, got 'blue'",
    ),
    ("elbo_curve", (GRID,), {"window": 51}, ValueError, "window: .*most 50, got 51"),
    ("elbo_curve", (GRID,), {"window": 0}, ValueError, "window: .*least 1, got 0"),
    ("elbo_curve", (GRID,), {"role": 3}, ValueError, "role: .*got 3"),
    ("elbo_curve", (GRID * np.nan,), {}, ValueError, "losses: .*finite.*got 50 NaN or"),
    ("elbo_curve", ("loss",), {}, TypeError, "losses: .*numbers, got 'loss'"),
    (
        "rank_histogram",
        ([0, 20],),
        {"num_draws": 19},
        ValueError,
        "ranks: .*0 to 19, g",
    ),
    ("rank_histogram", ([-1],), {"num_draws": 19}, ValueError, "ranks: .*got -1 to -1"),
    (
        "rank_histogram",
        ([0.3],),
        {"num_draws": 19},
        ValueError,
        "ranks: .*whole number",
    ),
    ("rank_histogram", ([],), {"num_draws": 19}, ValueError, "ranks: expected data"),
    ("rank_histogram", ([1],), {"num_draws": 0}, ValueError, "num_draws: .*1, got 0"),
    (
        *("rank_histogram", ([1],), {"num_draws": 100}, ValueError),
        r"num_bins: expected a divisor of num_draws \+ 1 = 101, got 20",
    ),
    ("class_points", (EYE, LABELS), {}, ValueError, r"x: .*\(6, 2\), got \(2, 2\)"),
    (
        *("decision_surface", (GRID, GRID[:3], EYE), {}, ValueError),
        r"values: expected shape \(3, 50\), one row .*, got \(2, 2\)",
    ),
    (
        *("decision_surface", (TWO, TWO, EYE), {"kind": "sure"}, ValueError),
        "kind: expected one of 'probability', 'uncertainty', got 'sure'",
    ),
    ("roc_curves", (LABELS, PROBS[0]), {}, ValueError, "p_draws: expected 2 dim"),
    ("roc_curves", (LABELS, PROBS * 2), {}, ValueError, "p: expected between 0 and 1"),
    ("roc_curves", (LABELS, PROBS[:, :3]), {}, ValueError, "p: expected 6 columns"),
    ("roc_curves", (LABELS, PROBS), {"max_curves": 0}, ValueError, "max_curves: .*0"),
    ("auc_distribution", ({},), {}, ValueError, "aucs: .*at least one.*got none"),
    (
        *("auc_distribution", ({"a": ("fit", [np.nan])},), {}, ValueError),
        r"aucs\['a'\]: expected finite",
    ),
    ("calibration_curve", (LABELS, PROBS), {}, ValueError, "p: expected 1 dimension"),
    ("gaussian_ellipse", (GRID, EYE), {}, ValueError, r"\(2,\) and \(2, 2\), got \(50"),
    ("gaussian_ellipse", (TWO, TWO), {}, ValueError, "covariance: .*2 dim.*got 1"),
    (
        "gaussian_ellipse",
        (TWO, -EYE),
        {},
        ValueError,
        "covariance: .*positive definite",
    ),
    (
        *("gaussian_ellipse", (TWO, [[1, 0.9], [0, 1]]), {}, ValueError),
        "covariance: expected symmetric",
    ),
]


@pytest.mark.parametrize(("name", "args", "kwargs", "error", "message"), BAD_INPUT)
def test_bad_input(ax, name, args, kwargs, error, message):
    with pytest.raises(error, match=message):
        getattr(plotting, name)(ax, *args, **kwargs)


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
    ax = plotting.model_graph(model, np.zeros(shape, "float32"))
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


def test_model_graph_on_given_axes(ax):
    assert plotting.model_graph(flat, y=np.float32(0), ax=ax) is ax
    assert len(plt.get_fignums()) == 1
    assert set(read_graph(ax)[0]) == set("aby")


def test_model_graph_of_nothing():
    with pytest.raises(ValueError, match="model: expected at least one sample site"):
        plotting.model_graph(lambda: None)


def test_use_style_and_roles():
    with plt.rc_context():
        plotting.use_style()
        assert plt.rcParams["figure.facecolor"] == "white"
        assert plt.rcParams["savefig.facecolor"] == "white"
        assert plt.rcParams["figure.constrained_layout.use"]
        cycle = plt.rcParams["axes.prop_cycle"].by_key()
    assert cycle["color"] == [COLORS[r] for r in ("fit", "other", "third", "fourth")]
    assert len(set(cycle["linestyle"])) == len(cycle["linestyle"])
    plotting.style("fit")["color"] = "red"  # a copy
    assert plotting.style("fit")["color"] == COLORS["fit"]
    with pytest.raises(ValueError, match=r"role: expected one of .*, got 'faint'"):
        plotting.style("faint")


# The palette, as sRGB triples from 0 to 1.
PALETTE = {name: np.array(to_rgb(color)) for name, color in COLORS.items()}


def linear(color):
    return np.where(color <= 0.04045, color / 12.92, ((color + 0.055) / 1.055) ** 2.4)


def contrast(one, other):
    """WCAG 2.2."""
    low, high = sorted(linear(c) @ [0.2126, 0.7152, 0.0722] for c in (one, other))
    return (high + 0.05) / (low + 0.05)


def on_dark(color):
    """CSS invert(1) hue-rotate(180deg): the matrix of the Filter Effects module."""
    weights = np.array([0.213, 0.715, 0.072])
    return np.clip((2 * np.outer(np.ones(3), weights) - np.eye(3)) @ (1 - color), 0, 1)


@pytest.mark.parametrize("name", COLORS)
def test_contrast_in_both_themes(name):
    color = PALETTE[name]
    assert contrast(color, np.ones(3)) >= 3
    assert contrast(on_dark(color), np.zeros(3)) >= 3
    # The hue survives: the order of the channels is the same.
    if np.ptp(color) > 0.1:
        assert list(np.argsort(on_dark(color))) == list(np.argsort(color))


# Machado, Oliveira and Fernandes (2009), full severity, for linear RGB.
VISION = {
    "common": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
}


def oklab(color):
    """Ottosson (2020); a distance of 0.02 is about the least that one notices."""
    cones = [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
    opponent = [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
    return opponent @ np.cbrt(cones @ np.clip(color, 0, 1))


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("vision", VISION)
def test_roles_differ_in_color(vision, theme):
    change = on_dark if theme == "dark" else np.asarray
    seen = {r: oklab(VISION[vision] @ linear(change(PALETTE[r]))) for r in STYLES}
    for one, other in itertools.combinations(STYLES, 2):
        distance = np.linalg.norm(seen[one] - seen[other])
        least = 0.1 if vision == "common" else 0.035
        assert distance > least, (one, other)


def test_roles_differ_in_line_style():
    dashes = [str(look["linestyle"]) for look in STYLES.values()]
    assert len(set(dashes)) == len(STYLES)
    assert {
        role: look["color"] for role, look in STYLES.items()
    }.items() <= COLORS.items()
