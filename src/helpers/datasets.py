"""Simulated data sets of the course: the truth behind each of them is known."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

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
