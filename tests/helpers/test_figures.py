"""Figures: what is drawn is what was given; the palette can be told apart."""

import itertools

import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.colors import to_rgb

mpl.use("Agg")
import matplotlib.pyplot as plt

from helpers import figures
from helpers.figures import COLORS, STYLES


@pytest.fixture
def ax():
    yield plt.subplots()[1]
    plt.close("all")


GRID = np.linspace(0, 4, 50)


def test_densities(ax):
    curves = {"prior": ("prior", np.exp(-GRID)), "q": ("fit", GRID * np.exp(-GRID))}
    assert figures.densities(ax, GRID, curves) is ax
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
        found = figures.moving_average(values, window)
        np.testing.assert_allclose(found, expected, atol=1e-14)
    values[0] = 1e20  # must not spoil the averages that do not hold it
    np.testing.assert_allclose(
        figures.moving_average(values, 7)[1:], figures.moving_average(values[1:], 7)
    )


@pytest.mark.parametrize("show_steps", [True, False])
def test_elbo_curve(ax, show_steps):
    losses = jnp.asarray(np.random.default_rng(0).normal(50, 5, 40))
    options = {"window": 10, "label": "mean field", "role": "other"}
    assert figures.elbo_curve(ax, losses, show_steps=show_steps, **options) is ax
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


BAD_INPUT = [
    ("densities", (GRID[:0], {}), {}, ValueError, "grid: expected data, got none"),
    ("densities", (np.eye(2), {}), {}, ValueError, "grid: expected 1 dim.*got 2"),
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
]


@pytest.mark.parametrize(("name", "args", "kwargs", "error", "message"), BAD_INPUT)
def test_bad_input(ax, name, args, kwargs, error, message):
    with pytest.raises(error, match=message):
        getattr(figures, name)(ax, *args, **kwargs)


def test_use_style_and_roles():
    with plt.rc_context():
        figures.use_style()
        assert plt.rcParams["figure.facecolor"] == "white"
        assert plt.rcParams["savefig.facecolor"] == "white"
        assert plt.rcParams["figure.constrained_layout.use"]
        cycle = plt.rcParams["axes.prop_cycle"].by_key()
    assert cycle["color"] == [COLORS[r] for r in ("fit", "other", "third", "fourth")]
    assert len(set(cycle["linestyle"])) == len(cycle["linestyle"])
    figures.style("fit")["color"] = "red"  # a copy
    assert figures.style("fit")["color"] == COLORS["fit"]
    with pytest.raises(ValueError, match=r"role: expected one of .*, got 'faint'"):
        figures.style("faint")


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
