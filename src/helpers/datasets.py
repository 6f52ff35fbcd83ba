"""Data sets of the course, simulated: the truth behind each of them is known."""

import jax
import numpy as np

from helpers import _validate


def log_gamma_sample(
    rng_key: jax.Array, concentration: float, num_samples: int, rate: float = 1.0
) -> jax.Array:
    r"""Draw the *logarithms* of independent gamma variates.

    For a small concentration the variates themselves underflow to 0, which no gamma
    likelihood can digest; their logarithms do not.

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
        For a key, a count or a parameter that is not what it should be.

    Notes
    -----
    `jax.random.loggamma` uses the rejection sampler of Marsaglia and Tsang (2000),
    with its boost for concentrations below 1 done on the log scale.
    """
    _validate.key("rng_key", rng_key)
    concentration = _validate.positive("concentration", concentration)
    num_samples = _validate.positive_int("num_samples", num_samples)
    rate = _validate.positive("rate", rate)
    draws = jax.random.loggamma(rng_key, concentration, (num_samples,))
    return draws - np.log(rate)
