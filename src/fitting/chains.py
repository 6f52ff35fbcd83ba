"""Many short MCMC chains that start at a guide's draws and see whether they stay.

If the guide is the posterior, draws of it stay draws of it, however often a sampler
moves them. If it is not, their mean moves, or they spread out, or they contract.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax, random
from jax.flatten_util import ravel_pytree
from numpyro.handlers import seed, substitute, trace
from numpyro.infer.util import constrain_fn, potential_energy, unconstrain_fn
from numpyro.primitives import Messenger

from fitting import arguments, checks

FROM_GUIDE, FROM_PRIOR = 64, 16  # chains
CHAINS = FROM_GUIDE + FROM_PRIOR
MOVES, LEAPS = 4, 6  # moves of HMC between two places that are kept, gradients in each
KEPT = 4  # places in a round, whose covariance shapes the next ones
ROUNDS, LEAST_ROUNDS = 12, 4  # the second half is looked at
ACCEPT = 0.75  # share of moves that are to be accepted
MOST_JOINT = 300  # numbers whose covariance is learned; of more, the variances
MOST_NUMBERS = 50_000  # of an unknown vector: of more, chains take much memory
MOST_READ = 1_000  # numbers of a site that are looked at, evenly spaced in it
CLIMB = 150  # steps uphill, from draws of the prior
AT_ONCE = 20  # draws of the guide
WIDE = 10_000  # draws for the widths of a guide, whose tails may be heavy,
MOST_WIDE = 20_000_000  # with at most this many numbers


class WholePlates(Messenger):
    """Let subsampled plates take all rows."""

    def process_message(self, msg: dict) -> None:
        """Give a plate its row numbers."""
        if msg["type"] != "plate" or msg["value"] is not None:
            return
        size, subsample_size = msg["args"]
        if size != subsample_size:
            msg["value"] = jnp.arange(size)


class Posterior(NamedTuple):
    """A posterior over one vector of real numbers, and how to draw and read vectors.

    Attributes
    ----------
    log_density : callable
        From a vector to the log joint density of model and vector, with its Jacobian.
    of_guide, of_prior : callable
        From a key to a vector.
    values : callable
        From a vector to its sites, unknowns and deterministic ones, in one dimension.
    unravel : callable
        From a vector to its unknowns, unconstrained, by name.
    counted : numpy.ndarray of bool, shape (dim,)
        False where a mask hides a number: it has neither prior nor data.
    """

    log_density: Callable
    of_guide: Callable
    of_prior: Callable
    values: Callable
    unravel: Callable
    counted: np.ndarray


def _counted(site: dict, shape: tuple[int, ...]) -> np.ndarray:
    """Return which numbers of an unknown no mask hides, in a shape of its values."""
    batch = site["fn"].batch_shape
    counted = np.ones(batch, bool)
    for mask in checks.masks_of(site["fn"]):
        counted = counted & np.broadcast_to(np.asarray(mask), batch)
    counted = counted.reshape(batch + (1,) * (len(shape) - len(batch)))
    return np.broadcast_to(counted, shape)


def posterior(model: Callable, guide: Callable, args: tuple, kwargs: dict) -> Posterior:
    """Return the posterior of a model, to be reached from a guide.

    Parameters
    ----------
    model, guide : callable
        NumPyro model and guide, with their parameters.
    args, kwargs
        What they are called with.
    """
    seeded = seed(model, random.key(0))  # for plates and constants that ask for a key
    drawing = substitute(seeded, substitute_fn=checks.feasible)
    sites = trace(drawing).get_trace(*args, **kwargs)
    latent = list(checks.unknowns(sites))
    shown = latent + [n for n, site in sites.items() if site["type"] == "deterministic"]

    def free(sites: dict) -> dict[str, jax.Array]:
        values = {name: sites[name]["value"] for name in latent}
        return unconstrain_fn(seeded, args, kwargs, values)

    unconstrained = free(sites)
    _, unravel = ravel_pytree(unconstrained)
    counted, places = {}, {}
    for name in latent:
        counted[name] = _counted(sites[name], jnp.shape(unconstrained[name]))
        places[name] = np.flatnonzero(
            _counted(sites[name], jnp.shape(sites[name]["value"]))
        )

    def of_guide(key: jax.Array) -> jax.Array:
        return ravel_pytree(free(trace(seed(guide, key)).get_trace(*args, **kwargs)))[0]

    def of_prior(key: jax.Array) -> jax.Array:
        drawing = substitute(seed(model, key), substitute_fn=checks.feasible)
        return ravel_pytree(free(trace(drawing).get_trace(*args, **kwargs)))[0]

    def values(vector: jax.Array) -> dict[str, jax.Array]:
        options = {"return_deterministic": True}
        found = constrain_fn(seeded, args, kwargs, unravel(vector), **options)
        flat = {name: jnp.ravel(found[name]) for name in shown}
        flat |= {name: flat[name][at] for name, at in places.items()}
        some = {
            n: np.linspace(0, v.size - 1, min(v.size, MOST_READ))
            for n, v in flat.items()
        }
        return {
            name: flat[name][at.astype(int)] for name, at in some.items() if at.size
        }

    def log_joint(vector: jax.Array) -> jax.Array:
        return -potential_energy(seeded, args, kwargs, unravel(vector))

    flags = np.asarray(ravel_pytree(counted)[0], bool)
    return Posterior(log_joint, of_guide, of_prior, values, unravel, flags)


class Chains(NamedTuple):
    """Chains of Hamiltonian Monte Carlo in step with each other.

    Attributes
    ----------
    at : jax.Array, shape (chains, dim)
        Where they are.
    root : jax.Array, shape (dim, dim) or (dim,)
        Root of the covariance that shapes the moves.
    log_step : jax.Array, shape ()
        Log of the step size.
    """

    at: jax.Array
    root: jax.Array
    log_step: jax.Array


def climb(
    log_density: Callable, start: jax.Array, near: jax.Array, level: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Lead starts uphill (Adam) until they are as probable as draws of the guide.

    Parameters
    ----------
    log_density : callable
        From a vector to a number.
    start : jax.Array, shape (chains, dim)
        Draws of the prior.
    near : jax.Array, shape (draws, dim)
        Draws of the guide, which set the pace.
    level : jax.Array, shape ()
        Log density at which a start stops.

    Returns
    -------
    jax.Array, jax.Array
        Where they are in the end, and the log density there.
    """
    both = jax.vmap(jax.value_and_grad(log_density))
    pace = jnp.maximum(jnp.abs(start - near.mean(0)) / 10, near.std(0))

    def step(carry, i):
        at, mean, square = carry
        log_p, slope = both(at)
        known = jnp.isfinite(slope).all(1) & jnp.isfinite(log_p)
        slope = jnp.where(known[:, None], slope, 0)
        mean = 0.9 * mean + 0.1 * slope
        square = 0.95 * square + 0.05 * slope**2
        size = jnp.sqrt(square / (1 - 0.95 ** (i + 1))) + 1e-12
        rate = pace * (1 + jnp.cos(jnp.pi * i / CLIMB)) / 2
        moved = at + rate * mean / (1 - 0.9 ** (i + 1)) / size
        return (jnp.where((log_p > level)[:, None], at, moved), mean, square), None

    zeros = jnp.zeros_like(start)
    (at, *_), _ = lax.scan(step, (start, zeros, zeros), jnp.arange(float(CLIMB)))
    return at, jax.vmap(log_density)(at)


def advance(
    rng_key: jax.Array, chains: Chains, log_density: Callable
) -> tuple[Chains, jax.Array]:
    """Move all chains some times; the step size follows the share accepted.

    Parameters
    ----------
    rng_key : jax.Array
        One key.
    chains : Chains
        Where to start.
    log_density : callable
        From a vector to a number.

    Returns
    -------
    Chains, jax.Array
        Where they end, and the log density there.
    """
    root = chains.root

    def placed(z: jax.Array) -> jax.Array:
        return root @ z if root.ndim == 2 else root * z

    both = jax.vmap(jax.value_and_grad(lambda z: log_density(placed(z))))

    def move(carry, key):
        z, log_p, slope, log_step = carry
        momentum_key, step_key, accept_key = random.split(key, 3)
        jitter = random.uniform(step_key, (len(z), 1), minval=0.4, maxval=1.2)
        step = jnp.exp(log_step) * jitter
        momentum = random.normal(momentum_key, z.shape)

        def leap(carry, _):
            z, momentum, _, slope = carry
            half = momentum + step / 2 * slope
            z = z + step * half
            log_p, slope = both(z)
            return (z, half + step / 2 * slope, log_p, slope), None

        end, _ = lax.scan(leap, (z, momentum, log_p, slope), None, LEAPS)
        kinetic = ((momentum**2).sum(1) - (end[1] ** 2).sum(1)) / 2
        gain = end[2] - log_p + kinetic
        chance = jnp.where(jnp.isfinite(gain), jnp.exp(jnp.minimum(gain, 0)), 0)
        taken = random.uniform(accept_key, chance.shape) < chance
        z = jnp.where(taken[:, None], end[0], z)
        slope = jnp.where(taken[:, None], end[3], slope)
        log_p = jnp.where(taken, end[2], log_p)
        log_step += 0.15 * (chance[:FROM_GUIDE].mean() - ACCEPT)
        return (z, log_p, slope, log_step), None

    if root.ndim == 2:
        z = jax.scipy.linalg.solve_triangular(root, chains.at.T, lower=True).T
    else:
        z = chains.at / root
    start = (z, *both(z), chains.log_step)
    (z, log_p, _, log_step), _ = lax.scan(move, start, random.split(rng_key, MOVES))
    return Chains(jax.vmap(placed)(z), root, log_step), log_p


def root_of(places: jax.Array) -> jax.Array:
    """Return a root of the covariance of places, shrunk towards its diagonal."""
    dim = places.shape[-1]
    rows = places[:, :FROM_GUIDE].reshape(-1, dim)
    if dim > MOST_JOINT:
        return rows.std(0)
    covariance = jnp.cov(rows.T).reshape(dim, dim)
    share = len(rows) / (len(rows) + 4 * dim)
    diagonal = jnp.diag(jnp.diag(covariance))
    return jnp.linalg.cholesky(share * covariance + (1 - share + 1e-6) * diagonal)


def moved(
    rng_key: jax.Array, log_density: Callable, near: jax.Array, at: jax.Array
) -> Iterator[tuple[jax.Array, jax.Array]]:
    """Move chains in rounds, each shaped by where they were in the two before.

    Parameters
    ----------
    rng_key : jax.Array
        One key.
    log_density : callable
        From a vector to a number.
    near : jax.Array, shape (draws, dim)
        Draws of the guide, which shape the first round.
    at : jax.Array, shape (chains, dim)
        Where to start: those from the guide, then those from the prior.

    Yields
    ------
    jax.Array, jax.Array
        Places, shape (chains, dim), and the log density there.
    """
    dim = at.shape[1]
    spread = jnp.maximum(near.std(0), 1e-12)
    root = jnp.diag(spread) if dim <= MOST_JOINT else spread
    chains = Chains(at, root, jnp.log(jnp.asarray(0.5 / dim**0.25, at.dtype)))
    run = partial(advance, log_density=log_density)
    run = arguments.hoisted(run, rng_key, chains)
    places = []
    for i, key in enumerate(random.split(rng_key, ROUNDS * KEPT)):
        chains, log_p = jax.block_until_ready(run(key, chains))
        yield chains.at, log_p
        places = [*places, chains.at][-2 * KEPT :]
        if (i + 1) % KEPT == 0:
            most = jnp.log(1.2 / dim**0.25) if i < KEPT else jnp.inf
            log_step = jnp.minimum(chains.log_step, most).astype(at.dtype)
            chains = Chains(chains.at, root_of(jnp.stack(places)), log_step)


class Found(NamedTuple):
    """What draws of the guide and short chains say about each site.

    Attributes
    ----------
    of_guide : dict of numpy.ndarray, shape (draws, numbers)
        Values at draws of the guide.
    of_chains : dict of numpy.ndarray, shape (steps, chains, numbers)
        Values at chains from the guide.
    of_others : dict of numpy.ndarray, shape (steps, chains, numbers)
        Values at chains from the prior that became as probable as the guide's draws,
        and were about as probable as the chains from the guide in the end.
    arrived : int
        How many chains from the prior became as probable as the guide's draws.
    stuck : float
        Share of the variance that is between chains, in the direction of all unknowns
        in which they differ most.
    eps : float
        Relative rounding of the numbers.
    """

    of_guide: dict[str, np.ndarray]
    of_chains: dict[str, np.ndarray]
    of_others: dict[str, np.ndarray]
    arrived: int
    stuck: float
    eps: float


def _read(read: Callable, places: Iterable) -> dict[str, np.ndarray]:
    """Return the sites at places, with the axes of the places."""
    found = [read(at) for at in places]
    return {
        n: np.stack([np.asarray(each[n], float) for each in found]) for n in found[0]
    }


def _of_guide(
    rng_key: jax.Array, target: Posterior, dim: int, num_draws: int
) -> dict[str, np.ndarray]:
    """Return the sites at many draws of the guide."""

    def draw(keys: jax.Array) -> dict[str, jax.Array]:
        return jax.vmap(lambda key: target.values(target.of_guide(key)))(keys)

    count = min(WIDE, max(num_draws, MOST_WIDE // dim))
    keys = random.split(rng_key, (-(-count // CHAINS), CHAINS))
    return _read(arguments.hoisted(draw, keys[0]), keys)


class CannotTellError(Exception):
    """Chains cannot say anything about this posterior; the message says why."""


def slowest(places: np.ndarray) -> float:
    """Return the share of variance between chains in the direction of the slowest.

    Half of the chains say which direction that is, the others how large the share is:
    else chance alone would find one among many numbers.

    Parameters
    ----------
    places : array, shape (steps, chains, dim)
        Where chains were.
    """
    mean, sd = places.mean((0, 1), dtype=float), places.std((0, 1), dtype=float)
    scaled = (places - mean) / np.where(sd > 0, sd, 1)
    first, others = np.array_split(scaled, 2, axis=1)
    means = first.mean(0)
    direction = np.linalg.svd(means - means.mean(0), full_matrices=False)[2][0]
    along = others @ direction
    return float(along.mean(0).var() / max(along.var(), 1e-30))


def _refuse_rounded(target: Posterior, near: np.ndarray, places: np.ndarray) -> None:
    """Raise an error if an unknown hardly varies beside the rounding of its numbers."""
    width = np.maximum(near.std(0, dtype=float), places.std((0, 1), dtype=float))
    least = 4 * np.finfo(near.dtype).eps * np.abs(places.mean((0, 1), dtype=float))
    rounded = target.unravel(jnp.asarray(width <= least, near.dtype))
    if names := [name for name, at in rounded.items() if at.any()]:
        raise CannotTellError(
            f"{names}: values are so large beside their sds that rounding hides these. "
            "Shift and scale these unknowns, or compute in 64 bits (jax.config.update("
            '"jax_enable_x64", True) before anything else)'
        )


def _too_slow(seconds: float, max_seconds: float) -> CannotTellError:
    return CannotTellError(
        f"short chains need some {seconds:,.0f} s here, and max_seconds is "
        f"{max_seconds:g}; compare with NUTS on a subset of the rows or groups"
    )


def explore(
    rng_key: jax.Array, target: Posterior, num_draws: int, max_seconds: float
) -> Found:
    """Draw from a guide, and move chains from there and from the prior.

    Parameters
    ----------
    rng_key : jax.Array
        One key.
    target : Posterior
        What to explore.
    num_draws : int
        Number of draws of the guide, at least.
    max_seconds : float
        Time for the chains, apart from compilation.

    Returns
    -------
    Found

    Raises
    ------
    CannotTellError
        If time, numbers or digits do not suffice.
    """
    guide_key, wide_key, prior_key, chain_key = random.split(rng_key, 4)

    def draw(keys: jax.Array) -> tuple[jax.Array, jax.Array]:
        at = jax.vmap(target.of_guide)(keys)
        return at, jax.vmap(target.log_density)(at)

    keys = random.split(guide_key, (-(-num_draws // AT_ONCE), AT_ONCE))
    batches = map(arguments.hoisted(draw, keys[0]), keys)
    drawn = [jax.block_until_ready(next(batches))]  # compiles
    dim = drawn[0][0].shape[1]
    if not dim:
        raise CannotTellError("the model has no unknown numbers")
    if dim > MOST_NUMBERS:
        raise CannotTellError(
            f"its {dim:,} unknown numbers are more than {MOST_NUMBERS:,}"
        )
    began = time.perf_counter()
    drawn.append(jax.block_until_ready(next(batches)))
    each = (time.perf_counter() - began) / AT_ONCE
    # A gradient takes about three densities; half of the time is kept for the chains.
    if (seconds := each * 3 * MOVES * LEAPS * CHAINS * 2) > max_seconds:
        raise _too_slow(seconds * KEPT * LEAST_ROUNDS / 2, max_seconds)
    near, log_p = (
        jnp.concatenate(parts) for parts in zip(*drawn, *batches, strict=True)
    )
    possible = jnp.isfinite(log_p) & jnp.isfinite(near).all(1)
    if possible.sum() < CHAINS:
        raise CannotTellError(
            f"{int((~possible).sum()):,} of {len(near):,} draws of the guide have no "
            "finite density"
        )
    near, log_p = near[possible], log_p[possible]
    # What a mask hides stays as the guide draws it.
    hidden, center, spread = ~target.counted, near.mean(0), near.std(0) + 1e-12

    def of_hidden(at: jax.Array) -> jax.Array:
        return -jnp.where(hidden, ((at - center) / spread) ** 2, 0).sum(-1) / 2

    def log_density(at: jax.Array) -> jax.Array:
        return target.log_density(at) + of_hidden(at)

    log_p += of_hidden(near)
    rounding = float(jnp.abs(log_p).mean() * jnp.finfo(log_p.dtype).eps)
    if rounding > 0.25:
        raise CannotTellError(
            f"log densities near {float(log_p.mean()):.3g} are rounded to "
            f"{rounding:.1g} nats: compute in 64 bits (jax.config.update("
            '"jax_enable_x64", True) before anything else)'
        )

    def from_prior(keys: jax.Array, near: jax.Array, level: jax.Array) -> tuple:
        return climb(log_density, jax.vmap(target.of_prior)(keys), near, level)

    keys = random.split(prior_key, FROM_PRIOR)
    level, varies = log_p.mean(), log_p.std()
    inputs = keys, near, level - varies
    others, log_others = arguments.hoisted(from_prior, *inputs)(*inputs)
    arrived = np.asarray(log_others > level - 3 * varies - 1)
    others = jnp.where(arrived[:, None], others, near[FROM_GUIDE:CHAINS])
    start = jnp.concatenate([near[:FROM_GUIDE], others])
    kept, least = [], LEAST_ROUNDS * KEPT
    for place in moved(chain_key, log_density, near, start):
        kept.append(place)
        if len(kept) == 1:
            began = time.perf_counter()  # the first one compiles
        seconds = time.perf_counter() - began
        if len(kept) == 2 and seconds * least > max_seconds:
            raise _too_slow(seconds * least, max_seconds)
        if len(kept) >= least and seconds > max_seconds:
            break
    places, log_p = (
        jnp.stack(parts) for parts in zip(*kept[len(kept) // 2 :], strict=True)
    )
    from_guide = np.asarray(places[:, :FROM_GUIDE])
    _refuse_rounded(target, np.asarray(near), from_guide)
    of_guide = _of_guide(wide_key, target, dim, num_draws)
    of_all = _read(arguments.hoisted(jax.vmap(target.values), start), places)
    # As probable: a mode that is 3 nats below the others holds a twentieth of them.
    log_p, log_others = log_p[:, :FROM_GUIDE], log_p[:, FROM_GUIDE:]
    probable = log_others.mean(0) > log_p.mean() - 3 - 0.3 * log_p.std()
    taken = np.flatnonzero(arrived & np.asarray(probable)) + FROM_GUIDE
    return Found(
        {n: v.reshape(-1, v.shape[-1]) for n, v in of_guide.items()},
        {n: v[:, :FROM_GUIDE] for n, v in of_all.items()},
        {n: v[:, taken] for n, v in of_all.items()},
        int(arrived.sum()),
        slowest(from_guide),
        float(jnp.finfo(near.dtype).eps),
    )
