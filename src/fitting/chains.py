"""Many short MCMC chains that start at a guide's draws and see whether they stay.

If the guide is the posterior, draws of it stay draws of it, however often a sampler
moves them. If it is not, their mean moves, or they spread out, or they contract.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax, random
from scipy.linalg import solve_triangular

from fitting import arguments
from fitting.posteriors import Posterior

FROM_GUIDE, FROM_PRIOR = 64, 16  # chains
CHAINS = FROM_GUIDE + FROM_PRIOR
MOVES, LEAPS = 4, 6  # moves of HMC between two places that are kept, gradients in each
KEPT = 4  # places in a round, whose covariance shapes the next ones
ROUNDS, LEAST_ROUNDS = 12, 4  # the second half is looked at
ACCEPT = 0.75  # share of moves that are to be accepted
MOST_JOINT = 300  # numbers whose covariance is learned; of more, the variances
MOST_NUMBERS = 50_000  # of an unknown vector: of more, chains take much memory
CLIMB = 150  # steps uphill, from draws of the prior
WIDE = 10_000  # draws for the widths of a guide, whose tails may be heavy,
MOST_WIDE = 20_000_000  # with at most this many numbers


class Chains(NamedTuple):
    """Chains of Hamiltonian Monte Carlo in step with each other.

    Attributes
    ----------
    z : jax.Array, shape (chains, dim)
        Where they are: a root times these.
    roots : jax.Array, shape (2, dim, dim) or (2, dim)
        Roots of the covariances that shape the moves of even and of odd chains.
    log_step : jax.Array, shape (chains,)
        Log of the step size: chains from the guide share one.
    """

    z: jax.Array
    roots: jax.Array
    log_step: jax.Array


def climb(
    log_density: Callable,
    start: jax.Array,
    center: jax.Array,
    spread: jax.Array,
    level: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Lead starts uphill (Adam) until they are as probable as draws of the guide.

    Parameters
    ----------
    log_density : callable
        From a vector to a number.
    start : jax.Array, shape (chains, dim)
        Draws of the prior.
    center, spread : jax.Array, shape (dim,)
        Means and sds of draws of the guide, which set the pace.
    level : jax.Array, shape ()
        Log density at which a start stops.

    Returns
    -------
    jax.Array, jax.Array
        Where they are in the end, and the log density there.
    """
    both = jax.vmap(jax.value_and_grad(log_density))
    pace = jnp.maximum(jnp.abs(start - center) / 10, spread)

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
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Move all chains some times; step sizes follow the shares accepted.

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
    jax.Array, jax.Array, jax.Array
        Where they end, the log density there, and the logs of the step sizes.
    """
    roots = chains.roots

    def placed(z: jax.Array) -> jax.Array:
        pairs = z.reshape(-1, *roots.shape[:2])  # an even one and an odd one
        if roots.ndim == 2:
            return (roots * pairs).reshape(z.shape)
        return jnp.einsum("hij,nhj->nhi", roots, pairs).reshape(z.shape)

    def both(z: jax.Array) -> tuple[jax.Array, jax.Array]:
        log_p, back = jax.vjp(lambda z: jax.vmap(log_density)(placed(z)), z)
        return log_p, back(jnp.ones_like(log_p))[0]

    def move(carry, key):
        z, log_p, slope, log_step = carry
        momentum_key, step_key, accept_key = random.split(key, 3)
        jitter = random.uniform(step_key, (len(z), 1), minval=0.4, maxval=1.2)
        step = jnp.exp(log_step)[:, None] * jitter
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
        shared = chance[:FROM_GUIDE].mean()
        of_each = jnp.where(jnp.arange(len(z)) < FROM_GUIDE, shared, chance)
        log_step += 0.15 * (of_each - ACCEPT)
        return (z, log_p, slope, log_step), None

    start = (chains.z, *both(chains.z), chains.log_step)
    (z, log_p, _, log_step), _ = lax.scan(move, start, random.split(rng_key, MOVES))
    return placed(z), log_p, log_step


def root_of(rows: np.ndarray, share: float) -> np.ndarray:
    """Return a root of the covariance of rows, shrunk towards its diagonal.

    Parameters
    ----------
    rows : array, shape (rows, dim)
        Independent or not.
    share : float
        How much of the covariances is kept, from 0 to 1.

    Returns
    -------
    numpy.ndarray, shape (dim, dim), or (dim,) where dim is above `MOST_JOINT`
    """
    dim = rows.shape[1]
    if dim > MOST_JOINT:
        return rows.std(0, dtype=float)
    covariance = np.cov(rows.T, dtype=float).reshape(dim, dim)
    diagonal = np.diag(np.diag(covariance))
    return np.linalg.cholesky(share * covariance + (1 - share + 1e-6) * diagonal)


def roots_of(places: np.ndarray, base: np.ndarray) -> np.ndarray:
    """Return what shapes each half of the chains: where the other half was.

    A chain that shaped its own moves would contract: far out it would take long steps,
    which lead inwards, and further in short ones, which do not lead out again.

    Parameters
    ----------
    places : array, shape (steps, chains, dim)
        Where chains were.
    base : array, shape (dim, dim) or (dim,)
        Root of the covariance of the guide, in whose coordinates few numbers correlate.
    """
    roots = []
    for other in (1, 0):
        rows = places[:, other:FROM_GUIDE:2].reshape(-1, places.shape[-1])
        rows = _divided(rows, base)
        root = root_of(rows, len(rows) / (len(rows) + 4 * rows.shape[1]))
        roots.append(base @ root if base.ndim == 2 else base * root)
    return np.stack(roots)


def _divided(at: np.ndarray, root: np.ndarray) -> np.ndarray:
    """Return vectors whose products with a root are given."""
    if root.ndim == 1:
        return at / root
    return solve_triangular(root, at.T, lower=True).T


def shaped(at: np.ndarray, roots: np.ndarray, log_step: np.ndarray) -> Chains:
    """Return chains at places of even and odd ones in turn."""
    halves = [_divided(at[i::2], roots[i]) for i in (0, 1)]
    z = np.stack(halves, 1).reshape(at.shape)
    return Chains(*(values.astype(at.dtype) for values in (z, roots, log_step)))


def moved(
    rng_key: jax.Array, log_density: Callable, base: np.ndarray, at: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Move chains in rounds, each shaped by where they were in the two before.

    Parameters
    ----------
    rng_key : jax.Array
        One key.
    log_density : callable
        From a vector to a number.
    base : array, shape (dim, dim) or (dim,)
        Root of the covariance of draws of the guide, which shapes the first round.
    at : array, shape (chains, dim)
        Where to start: those from the guide, then those from the prior.

    Yields
    ------
    numpy.ndarray, numpy.ndarray
        Places, shape (chains, dim), and the log density there.
    """
    dim, places, roots = at.shape[1], [], np.stack([base, base])
    log_step = np.full(len(at), np.log(0.5 / dim**0.25))
    chains = shaped(at, roots, log_step)
    run = partial(advance, log_density=log_density)
    run = arguments.hoisted(run, rng_key, chains, level=1)
    keys = random.split(rng_key, ROUNDS * KEPT)
    for i in range(ROUNDS * KEPT):
        at, log_p, log_step = map(np.asarray, run(keys[i], chains))
        yield at, log_p
        places = [*places, at][-2 * KEPT :]
        if (i + 1) % KEPT == 0:
            most = np.log(1.2 / dim**0.25) if i < KEPT else np.inf
            roots, log_step = (
                roots_of(np.stack(places), base),
                np.minimum(log_step, most),
            )
        chains = shaped(at, roots, log_step)


class Found(NamedTuple):
    """What draws of the guide and short chains say about each site.

    Attributes
    ----------
    of_guide : dict of numpy.ndarray, shape (draws, numbers)
        Values at draws of the guide.
    of_chains : dict of numpy.ndarray, shape (steps, chains, numbers)
        Values at chains from the guide.
    of_others : dict of numpy.ndarray, shape (steps, chains, numbers)
        Values at chains from the prior that arrived.
    arrived : int
        How many chains from the prior arrived: became as probable as the guide's draws,
        and ended where about as much mass is as around a chain from the guide.
    stuck : float
        Share of the variance that is between chains, in the direction of all unknowns
        in which they differ most.
    eps : float
        Relative rounding of the numbers.
    circular : list of str
        Sites that are angles.
    """

    of_guide: dict[str, np.ndarray]
    of_chains: dict[str, np.ndarray]
    of_others: dict[str, np.ndarray]
    arrived: int
    stuck: float
    eps: float
    circular: list[str]


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


def log_masses(places: np.ndarray, log_p: np.ndarray, base: np.ndarray) -> np.ndarray:
    """Return the log mass around each chain, up to a constant: density times volume.

    The density alone would take the neck of a funnel for a mode.

    Parameters
    ----------
    places : array, shape (steps, chains, dim)
        Where chains were.
    log_p : array, shape (steps, chains)
        Log density there.
    base : array, shape (dim, dim) or (dim,)
        Root of a covariance, in whose coordinates widths are measured.
    """
    of_each = places.swapaxes(0, 1)
    widths = np.stack([_divided(at.astype(float), base).std(0) for at in of_each])
    return log_p.mean(0, dtype=float) + np.log(np.maximum(widths, 1e-30)).sum(1)


def _refuse_rounded(target: Posterior, near: np.ndarray, places: np.ndarray) -> None:
    """Raise an error if an unknown hardly varies beside the rounding of its numbers."""
    width = np.maximum(near.std(0, dtype=float), places.std((0, 1), dtype=float))
    least = 4 * np.finfo(near.dtype).eps * np.abs(places.mean((0, 1), dtype=float))
    rounded = target.unravel((width <= least).astype(near.dtype))
    if names := [name for name, at in rounded.items() if at.any()]:
        raise CannotTellError(
            f"{names}: values are so large beside their sds that rounding hides these. "
            "Shift and scale these unknowns, or compute in 64 bits (jax.config.update("
            '"jax_enable_x64", True) before anything else)'
        )


def _too_slow(what: str, seconds: float, max_seconds: float) -> CannotTellError:
    return CannotTellError(
        f"{what} need some {seconds:,.0f} s here, and max_seconds is "
        f"{max_seconds:g}; compare with NUTS on a subset of the rows or groups"
    )


@jax.jit
def _halves(keys: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return two keys for each key."""
    pairs = jax.vmap(random.split)(keys)
    return pairs[:, 0], pairs[:, 1]


class Draws:
    """Draws of a guide, 80 at a time, and a clock that stands while code compiles.

    Parameters
    ----------
    target : Posterior
        What to draw from.
    max_seconds : float
        Time for all draws and chains.
    given : list of (str, value)
        Named arrays that the user gave: refused where JAX would change their numbers.

    Attributes
    ----------
    left : float
        Seconds that are left.
    each : float
        Seconds that one of the last draws took.
    some : jax.Array, shape (80, dim)
        Some draws.
    """

    def __init__(self, target: Posterior, max_seconds: float, given: Sequence = ()):
        self.target, self.max_seconds, self.left = target, max_seconds, max_seconds
        self.each = 0.0  # seconds for one of the last draws
        keys = random.split(random.key(0), CHAINS)
        self.draw, found = self.compiled(target.of_guide, keys, given=given)
        self.some, values, _ = found
        self.log_joint, _ = self.compiled(
            target.log_joint,
            keys,  # the same on purpose: only shapes matter here
            values,
            given=given,
        )

    def compiled(
        self, function: Callable, *example: Any, given: Sequence = ()
    ) -> tuple[Callable, Any]:
        """Compile a function of one vector or key, to take many.

        Parameters
        ----------
        function : callable
            Function of one vector, or of one key.
        *example
            As many of its arguments as are to be taken at once.
        given : list of (str, value)
            Named arrays that the user gave.

        Returns
        -------
        callable, tree of jax.Array
            The compiled function, and what it makes of the example.
        """
        run = arguments.hoisted(jax.vmap(function), *example, given=given, level=1)
        return run, jax.block_until_ready(run(*example))

    def batches(self, rng_key: jax.Array, count: int, run: Callable) -> Any:
        """Return what a function of some keys makes of many.

        Parameters
        ----------
        rng_key : jax.Array
            One key.
        count : int
            How many keys to make of it.
        run : callable
            Function of some keys.

        Returns
        -------
        tree of numpy.ndarray
            Its results, one after the other.

        Raises
        ------
        CannotTellError
            If the rest would take longer than there is time.
        """
        keys = random.split(rng_key, (-(-count // CHAINS), CHAINS))
        found, spent = [], 0.0
        for i in range(len(keys)):
            found.append(jax.tree.map(np.asarray, run(keys[i])))
            if i == 0:
                began = time.perf_counter()  # the first one compiles
                continue
            spent = time.perf_counter() - began
            whole = spent / i * (len(keys) - 1)
            if i < len(keys) - 1 and whole > self.left:
                raise _too_slow("draws of the guide", whole, self.max_seconds)
        self.left -= spent
        self.each = spent / max(len(keys) - 1, 1) / CHAINS
        return jax.tree.map(lambda *parts: np.concatenate(parts)[:count], *found)

    def weights(self, rng_key: jax.Array, count: int) -> np.ndarray:
        """Return log importance weights, those of `helpers.diagnostics.log_weights`.

        Parameters
        ----------
        rng_key : jax.Array
            One key.
        count : int
            Number of draws.
        """

        def weigh(keys: jax.Array) -> jax.Array:
            guide_keys, model_keys = _halves(keys)
            _, values, log_q = self.draw(guide_keys)
            return self.log_joint(model_keys, values) - log_q

        return self.batches(rng_key, count, weigh)


def _near(
    rng_key: jax.Array, draws: Draws, density: Callable, num_draws: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return draws of the guide that are possible, and their log densities."""

    def scored(keys: jax.Array) -> tuple[jax.Array, jax.Array]:
        at = draws.draw(keys)[0]
        return at, density(at)

    near, log_p = draws.batches(rng_key, num_draws, scored)
    # A gradient takes about three densities; half of the time is kept for the chains.
    if (seconds := draws.each * 3 * MOVES * LEAPS * CHAINS * 2) > draws.left:
        seconds *= KEPT * LEAST_ROUNDS / 2
        raise _too_slow("short chains", seconds, draws.max_seconds)
    possible = np.isfinite(log_p) & np.isfinite(near).all(1)
    if possible.sum() < CHAINS:
        raise CannotTellError(
            f"{(~possible).sum():,} of {len(near):,} draws of the guide have no "
            "finite density"
        )
    return near[possible], log_p[possible]


def _refuse_coarse(log_p: np.ndarray, eps: float) -> None:
    """Raise an error if log densities are so large that rounding hides differences."""
    rounding = np.abs(log_p).mean() * eps
    if rounding > 0.25:
        raise CannotTellError(
            f"log densities near {log_p.mean():.3g} are rounded to "
            f"{rounding:.1g} nats: compute in 64 bits (jax.config.update("
            '"jax_enable_x64", True) before anything else)'
        )


def _starts(
    rng_key: jax.Array,
    target: Posterior,
    log_density: Callable,
    near: np.ndarray,
    log_p: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Return where chains start, and which chains from the prior became probable."""
    center, spread = _center_and_spread(near)

    def from_prior(keys: jax.Array, *inputs: jax.Array) -> tuple:
        return climb(log_density, jax.vmap(target.of_prior)(keys), *inputs)

    level, varies = log_p.mean(), log_p.std()
    goal = (level - varies).astype(near.dtype)
    inputs = random.split(rng_key, FROM_PRIOR), center, spread, goal
    others, log_others = map(
        np.asarray, arguments.hoisted(from_prior, *inputs, level=1)(*inputs)
    )
    arrived = log_others > level - 3 * varies - 1
    others = np.where(arrived[:, None], others, near[FROM_GUIDE:CHAINS])
    return np.concatenate([near[:FROM_GUIDE], others]), arrived


def _center_and_spread(near: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return means and sds of draws, in their own precision."""
    center, spread = near.mean(0, dtype=float), near.std(0, dtype=float)
    return center.astype(near.dtype), np.maximum(spread, 1e-12).astype(near.dtype)


def _run(
    moves: Iterator[tuple[np.ndarray, np.ndarray]], draws: Draws
) -> tuple[np.ndarray, np.ndarray]:
    """Return the second half of where chains were in the time that is left."""
    kept, least = [], LEAST_ROUNDS * KEPT
    for place in moves:
        kept.append(place)
        if len(kept) == 1:
            began = time.perf_counter()  # the first one compiles
        seconds = time.perf_counter() - began
        if len(kept) == 2 and seconds * least > draws.left:
            raise _too_slow("short chains", seconds * least, draws.max_seconds)
        if len(kept) >= least and seconds > draws.left:
            break
    places, log_p = zip(*kept[len(kept) // 2 :], strict=True)
    return np.stack(places), np.stack(log_p)


def explore(rng_key: jax.Array, draws: Draws, num_draws: int) -> Found:
    """Draw from a guide, and move chains from there and from the prior.

    Parameters
    ----------
    rng_key : jax.Array
        One key.
    draws : Draws
        Draws of the guide of what to explore.
    num_draws : int
        Number of draws of the guide, at least.

    Returns
    -------
    Found

    Raises
    ------
    CannotTellError
        If time, numbers or digits do not suffice.
    """
    target, dim = draws.target, draws.target.counted.size
    if not dim:
        raise CannotTellError("the model has no unknown numbers")
    if dim > MOST_NUMBERS:
        raise CannotTellError(
            f"its {dim:,} unknown numbers are more than {MOST_NUMBERS:,}"
        )
    keys = random.split(rng_key, 4)
    guide_key, wide_key, prior_key, chain_key = (keys[i] for i in range(4))
    density, _ = draws.compiled(target.log_density, draws.some)
    read, _ = draws.compiled(target.values, draws.some)
    near, log_p = _near(guide_key, draws, density, num_draws)
    log_density = target.log_density
    if not target.counted.all():
        # What a mask hides stays as the guide draws it.
        center, spread = _center_and_spread(near)

        def of_hidden(at: jax.Array) -> jax.Array:
            scaled = ((at - center) / spread) ** 2
            return -jnp.where(target.counted, 0, scaled).sum(-1) / 2

        def log_density(at: jax.Array) -> jax.Array:
            return target.log_density(at) + of_hidden(at)

        log_p = log_p + np.asarray(of_hidden(near))
    eps = np.finfo(near.dtype).eps
    _refuse_coarse(log_p, eps)
    # Draws for the widths, before the chains take what is left of the time.
    wide = min(WIDE, max(num_draws, MOST_WIDE // dim))
    of_guide = draws.batches(wide_key, wide, lambda keys: read(draws.draw(keys)[0]))

    start, arrived = _starts(prior_key, target, log_density, near, log_p)
    # Draws of the guide are independent: four for each number give all correlations.
    base = root_of(near, float(len(near) >= 4 * dim))
    places, log_p = _run(moved(chain_key, log_density, base, start), draws)
    _refuse_rounded(target, near, places[:, :FROM_GUIDE])
    of_each = [jax.tree.map(np.asarray, read(at)) for at in places]
    of_all = {name: np.stack([at[name] for at in of_each]) for name in of_guide}
    # As probable: a mode that is 3 nats below the others holds a twentieth of them.
    mass = log_masses(places, log_p, base)
    usual = mass[:FROM_GUIDE]
    probable = mass[FROM_GUIDE:] > usual.mean() - 3 - 2 * usual.std()
    taken = np.flatnonzero(arrived & probable) + FROM_GUIDE
    return Found(
        {n: v.astype(float) for n, v in of_guide.items()},
        {n: v[:, :FROM_GUIDE].astype(float) for n, v in of_all.items()},
        {n: v[:, taken].astype(float) for n, v in of_all.items()},
        len(taken),
        slowest(places[:, :FROM_GUIDE]),
        float(eps),
        target.circular,
    )
