"""Many short MCMC chains that start at a guide's draws and see whether they stay.

If the guide is the posterior, draws of it stay draws of it, however often a sampler
moves them. If it is not, their mean moves, or they spread out, or they contract.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax, random
from jax.flatten_util import ravel_pytree
from numpyro.handlers import seed, substitute, trace
from numpyro.infer.util import constrain_fn, potential_energy, unconstrain_fn

CHAINS, WIDE = 64, 16  # from the guide, and from the prior
STEPS, LEAPS = 16, 6  # in a round: steps of HMC, and gradients in each
ACCEPT = 0.75  # share of steps to accept
MOST_JOINT = 300  # unknowns whose covariance is learned; of more, the variances


class Target(NamedTuple):
    """A model's posterior in one vector of real numbers, and ways to draw.

    Attributes
    ----------
    log_density : callable
        From a vector to its log joint density, up to nothing: with the Jacobian.
    of_guide, of_prior : callable
        From a key to a vector.
    values : callable
        From a vector to a dict of sites, latent and deterministic, each as a vector.
    """

    log_density: Callable
    of_guide: Callable
    of_prior: Callable
    values: Callable


def target(
    rng_key: jax.Array,
    model: Callable,
    guide: Callable,
    params: dict[str, Any],
    args: tuple,
    kwargs: dict[str, Any],
) -> Target:
    """Return a posterior as `hmc` wants it."""
    fixed = substitute(model, data=params)
    seeded = seed(fixed, rng_key)  # of what is random beside the unknowns
    sites = trace(seeded).get_trace(*args, **kwargs)
    latent = [
        name
        for name, site in sites.items()
        if site["type"] == "sample" and not site["is_observed"]
    ]
    shown = latent + [n for n, site in sites.items() if site["type"] == "deterministic"]

    def drawn(function, key):
        found = trace(seed(function, key)).get_trace(*args, **kwargs)
        values = {name: found[name]["value"] for name in latent}
        return unconstrain_fn(seeded, args, kwargs, values)

    fitted = substitute(guide, data=params)
    shapes = jax.eval_shape(lambda key: drawn(fitted, key), rng_key)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    _, unravel = ravel_pytree(zeros)

    def values(vector):
        options = {"return_deterministic": True}
        found = constrain_fn(seeded, args, kwargs, unravel(vector), **options)
        return {name: jnp.ravel(found[name]) for name in shown}

    return Target(
        lambda vector: -potential_energy(seeded, args, kwargs, unravel(vector)),
        lambda key: ravel_pytree(drawn(fitted, key))[0],
        lambda key: ravel_pytree(drawn(fixed, key))[0],
        values,
    )


class Chains(NamedTuple):
    """Many chains of Hamiltonian Monte Carlo, in step with each other.

    Attributes
    ----------
    at : jax.Array, shape (chains, dim)
        Where they are.
    root : jax.Array, shape (dim, dim) or (dim,)
        Root of the covariance that the moves are shaped by.
    log_step : jax.Array
        Log of the step size.
    """

    at: jax.Array
    root: jax.Array
    log_step: jax.Array


def hmc(rng_key: jax.Array, log_density: Callable, chains: Chains) -> tuple:
    """Move all chains by one round.

    Parameters
    ----------
    rng_key : jax.Array
        One key.
    log_density : callable
        From a vector to a number.
    chains : Chains
        Where to start. The step size follows the share that is accepted.

    Returns
    -------
    Chains, jax.Array, jax.Array
        Where they ended; where they were after each step, shape (steps, chains, dim);
        and the log density there.
    """
    root = chains.root

    def placed(z):
        return root @ z if root.ndim == 2 else root * z

    slope_at = jax.vmap(jax.value_and_grad(lambda z: log_density(placed(z))))

    def move(carry, key):
        z, log_p, slope, log_step = carry
        momentum_key, step_key, accept_key = random.split(key, 3)
        jitter = random.uniform(step_key, (len(z), 1), minval=0.4, maxval=1.2)
        step = jnp.exp(log_step) * jitter
        momentum = random.normal(momentum_key, z.shape)

        def leap(carry, _):
            z, momentum, _, slope = carry
            momentum += step / 2 * slope
            z += step * momentum
            log_p, slope = slope_at(z)
            return (z, momentum + step / 2 * slope, log_p, slope), None

        start = z, momentum, log_p, slope
        (*new, new_log_p, new_slope), _ = lax.scan(leap, start, None, LEAPS)
        energy = new_log_p - log_p + ((momentum**2).sum(1) - (new[1] ** 2).sum(1)) / 2
        chance = jnp.where(jnp.isfinite(energy), jnp.exp(jnp.minimum(energy, 0)), 0)
        taken = random.uniform(accept_key, chance.shape) < chance
        z = jnp.where(taken[:, None], new[0], z)
        slope = jnp.where(taken[:, None], new_slope, slope)
        log_p = jnp.where(taken, new_log_p, log_p)
        log_step += 0.15 * (chance[:CHAINS].mean() - ACCEPT)
        return (z, log_p, slope, log_step), (jax.vmap(placed)(z), log_p)

    if root.ndim == 2:
        z = jax.scipy.linalg.solve_triangular(root, chains.at.T, lower=True).T
    else:
        z = chains.at / root
    start = z, *slope_at(z), chains.log_step
    end, (places, log_p) = lax.scan(move, start, random.split(rng_key, STEPS))
    return Chains(places[-1], root, end[-1]), places, log_p


def root_of(places: jax.Array, chains: int) -> jax.Array:
    """Return a root of the covariance of places, shrunk towards its diagonal."""
    dim = places.shape[-1]
    places = places.reshape(-1, dim)
    if dim > MOST_JOINT:
        return places.std(0)
    covariance = jnp.cov(places.T).reshape(dim, dim)
    share = chains / (chains + dim)
    diagonal = jnp.diag(jnp.diag(covariance))
    return jnp.linalg.cholesky(share * covariance + (1 - share + 1e-6) * diagonal)


def uphill(log_density: Callable, start: jax.Array, near: jax.Array, level: Any):
    """Lead wide starts uphill until they are as probable as the guide's draws.

    Parameters
    ----------
    log_density : callable
        From a vector to a number.
    start : jax.Array, shape (chains, dim)
        Draws of the prior.
    near : jax.Array, shape (draws, dim)
        Draws of the guide, which set the pace.
    level : float
        Log density at which a chain stops.

    Returns
    -------
    jax.Array, jax.Array
        Where they stopped, and the log density there.
    """
    steps = 150
    both = jax.vmap(jax.value_and_grad(log_density))
    pace = jnp.maximum(jnp.abs(start - near.mean(0)) / 10, near.std(0))

    def step(carry, i):  # Adam, at a rate of its own for each unknown
        at, mean, square = carry
        log_p, slope = both(at)
        known = jnp.isfinite(slope).all(1) & jnp.isfinite(log_p)
        slope = jnp.where(known[:, None], slope, 0)
        mean = 0.9 * mean + 0.1 * slope
        square = 0.95 * square + 0.05 * slope**2
        size = jnp.sqrt(square / (1 - 0.95 ** (i + 1))) + 1e-12
        rate = pace * (1 + jnp.cos(jnp.pi * i / steps)) / 2
        moved = at + rate * mean / (1 - 0.9 ** (i + 1)) / size
        return (jnp.where((log_p > level)[:, None], at, moved), mean, square), None

    zeros = jnp.zeros_like(start)
    (at, *_), _ = lax.scan(step, (start, zeros, zeros), jnp.arange(float(steps)))
    return at, jax.vmap(log_density)(at)
