"""What each method costs to reach the same quality of a posterior's means and sds.

The quality: all means within 0.1 sd of the truth, all sds within 10 % of it. Each
method has a ladder of budgets, and gets there at the first budget where three of four
keys do. Then all methods that got there take turns, three rounds, each run by itself
and after compilation. Moments of a guide are those of 20,000 draws, not timed; those of
NUTS come from its own draws. Writes ``costs.json``. Run it from the project's root:

    python -m benchmarks.measure.costs
"""

import inspect
import logging
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import optax
import pymc as pm
from blackjax.vi import pathfinder
from jax import lax
from jax.flatten_util import ravel_pytree
from jax.scipy.linalg import solve_triangular
from numpyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO, init_to_value
from numpyro.infer.autoguide import (
    AutoIAFNormal,
    AutoLaplaceApproximation,
    AutoMultivariateNormal,
    AutoNormal,
)
from numpyro.infer.reparam import NeuTraReparam
from numpyro.infer.util import initialize_model

from benchmarks.shared import posteriors, record
from benchmarks.shared.programs import programs_kept
from helpers.environment import device
from helpers.training import fit

PACKAGES = ("jax", "numpyro", "optax", "blackjax", "pymc", "inference-gym")
NAMES = (
    "independent, scales 0.01 to 100",
    "neighbors correlated, 0.9",
    "regression, features 0.9",
    "intercept and slope",
    "Gaussian process",
    "random walk",
    "regression, noise unknown",
    "betas",
    "log-normals",
    "rates of small counts",
    "eight schools, non-centered",
)
SHIFT, RATIO = 0.1, 0.1  # bounds of the quality
DRAWS = 20_000  # of a guide, to compare it with the truth
KEYS, ENOUGH = 4, 3  # fits with each budget, and how many of them have to get there
ROUNDS = 3  # of timed runs
CAP = 20.0  # seconds for the ladder of one method
CHUNK = 250  # draws of NUTS between two looks of the host
WHITE = "auto_shared_latent"  # the name that NeuTraReparam gives to all numbers


class Problem(NamedTuple):
    """A posterior on the real numbers, all of them in one vector."""

    truth: posteriors.Truth
    size: int
    log_density: Callable  # of a vector
    moments: Callable  # from draws, one a row, to means and sds of the sites


class Method(NamedTuple):
    """A way to a posterior.

    Attributes
    ----------
    unit : str
        What a budget counts.
    budgets : sequence of int
        The ladder.
    run : callable
        From a key and a budget to what was reached.
    judge : callable
        From a key and what was reached to means and sds.
    seconds : callable or None
        From a key and a budget to the seconds of a run; None: the clock tells.
    """

    unit: str
    budgets: Sequence[int]
    run: Callable
    judge: Callable
    seconds: Callable | None = None


def doubled(first: int, count: int) -> list[int]:
    """Return a ladder of budgets."""
    return [first * 2**i for i in range(count)]


def moments(draws: dict[str, jax.Array], truth: posteriors.Truth) -> tuple:
    """Return means and sds of all numbers whose truth is known."""
    every = [draws[name].reshape(len(draws[name]), -1) for name in truth.means]
    joined = jnp.concatenate(every, 1)
    return joined.mean(0), joined.std(0)


def problem_of(rng_key: jax.Array, truth: posteriors.Truth) -> Problem:
    """Return a posterior as a density of one unconstrained vector."""
    info = initialize_model(rng_key, truth.model)
    start, unravel = ravel_pytree(info.param_info.z)

    def log_density(vector):
        with numpyro.handlers.block():
            return -info.potential_fn(unravel(vector))

    @jax.jit
    def of_draws(vectors):
        sites = jax.vmap(lambda vector: info.postprocess_fn(unravel(vector)))(vectors)
        return moments(sites, truth)

    return Problem(truth, start.size, log_density, of_draws)


def quality(found: tuple, truth: posteriors.Truth) -> dict[str, float]:
    """Return the largest shift, both extreme ratios, and the miss: 1 is just good."""
    mean, sd = (
        np.concatenate([np.ravel(part[name]) for name in truth.means])
        for part in (truth.means, truth.sds)
    )
    shift = np.abs((np.asarray(found[0]) - mean) / sd).max()
    ratio = np.asarray(found[1]) / sd
    miss = np.max([shift / SHIFT, np.abs(ratio - 1).max() / RATIO])  # or NaN
    facts = {"shift": shift, "least_ratio": ratio.min(), "largest_ratio": ratio.max()}
    facts |= {"miss": miss if np.isfinite(miss) else np.inf}
    return {name: float(value) for name, value in facts.items()}


def start_of(rng_key: jax.Array, size: int) -> jax.Array:
    """Return where NumPyro would start."""
    return jax.random.uniform(rng_key, (size,), minval=-2, maxval=2)


def minimized(loss: Callable, start: jax.Array, most: int = 1_000) -> jax.Array:
    """Return a minimum, found by L-BFGS.

    It ends where the slope is small, or five steps in a row gain nothing that single
    precision can tell.
    """
    optimizer, value_and_grad = optax.lbfgs(), optax.value_and_grad_from_state(loss)

    def step(carry):
        at, state, count, lowest, idle = carry
        value, slope = value_and_grad(at, state=state)
        extra = {"value": value, "grad": slope, "value_fn": loss}
        change, state = optimizer.update(slope, state, at, **extra)
        gained = value < lowest - 1e-7 * jnp.abs(value)
        idle = jnp.where(gained, 0, idle + 1)
        lowest = jnp.minimum(lowest, value)
        return optax.apply_updates(at, change), state, count + 1, lowest, idle

    def more(carry):
        _, state, count, _, idle = carry
        slope = optax.tree.norm(optax.tree.get(state, "grad"))
        return (count == 0) | ((count < most) & (slope > 1e-3) & (idle < 5))

    first = start, optimizer.init(start), 0, jnp.inf, 0
    return lax.while_loop(more, step, first)[0]


def gaussian_draws(problem: Problem, rng_key: jax.Array, found: tuple) -> tuple:
    """Return the moments of a Gaussian with a location and a triangle."""
    location, triangle = found
    noise = jax.random.normal(rng_key, (DRAWS, problem.size))
    return problem.moments(location + noise @ jnp.asarray(triangle).T)


def at_mode(problem: Problem, rng_key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the mode of the unconstrained density, and a root of the covariance."""
    start = start_of(rng_key, problem.size)
    mode = minimized(lambda vector: -problem.log_density(vector), start)
    root = jnp.linalg.cholesky(-jax.hessian(problem.log_density)(mode))
    return mode, solve_triangular(root, jnp.eye(problem.size), lower=True).T


def laplace(problem: Problem) -> Method:
    """Return the Gaussian at the mode with the curvature there."""
    found = jax.jit(partial(at_mode, problem))
    judge = partial(gaussian_draws, problem)
    return Method("fits", [1], lambda key, _: found(key), judge)


def settled(noise: jax.Array, *, full_rank: bool) -> jax.Array:
    """Give draws a mean of 0 and variances of 1, or the identity as covariance."""
    noise = noise - noise.mean(0)
    if not full_rank:
        return noise / noise.std(0)
    root = jnp.linalg.cholesky(noise.T @ noise / len(noise))
    return solve_triangular(root, noise.T, lower=True).T


def deterministic(problem: Problem, *, full_rank: bool, white: bool = False) -> Method:
    """Return ADVI with the same draws at each step, so that L-BFGS can minimize.

    With `white` in the coordinates of the Laplace approximation.

    Notes
    -----
    Giordano, Ingram and Broderick (2024). The draws get the moments of a standard
    normal: otherwise their means and covariances are errors of the fit.
    """
    size = problem.size
    below = jnp.tril_indices(size, -1)

    def unpacked(params):
        triangle = jnp.diag(jnp.exp(params[size : 2 * size]))
        if full_rank:
            triangle = triangle.at[below].set(params[2 * size :])
        return params[:size], triangle

    @partial(jax.jit, static_argnums=1)
    def found(rng_key, draws):
        start_key, noise_key = jax.random.split(rng_key)
        noise = jax.random.normal(noise_key, (draws, size))
        noise = settled(noise, full_rank=full_rank)
        origin, root = jnp.zeros(size), jnp.eye(size)
        start = [start_of(start_key, size), jnp.full(size, jnp.log(0.1))]
        if white:
            origin, root = at_mode(problem, start_key)
            start = [jnp.zeros(size), jnp.zeros(size)]

        def loss(params):
            location, triangle = unpacked(params)
            log_scale = params[size : 2 * size]
            spread = noise @ triangle.T if full_rank else noise * jnp.exp(log_scale)
            vectors = origin + (location + spread) @ root.T
            return -jax.vmap(problem.log_density)(vectors).mean() - log_scale.sum()

        start += [jnp.zeros(len(below[0]))] if full_rank else []
        location, triangle = unpacked(minimized(loss, jnp.concatenate(start)))
        return origin + root @ location, root @ triangle

    first = max(16, 2 * size) if full_rank else 16
    ladder = [first, 4 * first, 16 * first]  # each is compiled: few, and far apart
    return Method("draws", ladder, found, partial(gaussian_draws, problem))


def pathfinder_of(problem: Problem) -> Method:
    """Return Pathfinder with a single path, without importance weights."""

    @partial(jax.jit, static_argnums=1)
    def found(rng_key, iterations):
        start_key, path_key = jax.random.split(rng_key)
        start = start_of(start_key, problem.size)
        state, _ = pathfinder.approximate(
            path_key, problem.log_density, start, maxiter=iterations
        )
        return state

    @jax.jit
    def judge(rng_key, state):
        return problem.moments(pathfinder.sample(rng_key, state, DRAWS)[0])

    return Method("L-BFGS iterations", [50, 200], found, judge)


class Recipe(NamedTuple):
    """A guide, the first step size, particles, and whether Laplace sets the scale."""

    guide: Callable
    rate: float
    particles: int
    white: bool = False
    first: int = 250  # steps


def whitened(model: Callable, mode: jax.Array) -> Callable:
    """Return a model of numbers that the Laplace approximation makes standard."""
    guide = AutoLaplaceApproximation(model)
    with numpyro.handlers.seed(rng_seed=0):
        guide()  # to see the model
    return NeuTraReparam(guide, {"auto_loc": mode}).reparam(model)


def svi_with(recipe: Recipe, model: Callable, size: int, rates: Callable) -> SVI:
    """Return what is fitted."""
    options = {}
    if recipe.white:
        start = init_to_value(values={WHITE: jnp.zeros(size)})
        options = {"init_loc_fn": start, "init_scale": 1.0}
    guide = recipe.guide(model, **options)
    loss = Trace_ELBO(num_particles=recipe.particles)
    return SVI(model, guide, optax.adam(rates, b2=0.95), loss)


def svi(problem: Problem, *, recipe: Recipe) -> Method:
    """Return the course's way: Adam, and a cosine decay over all steps.

    The search runs a loop of updates that takes any number of steps; what is timed is
    `helpers.training.fit`.
    """
    model, size = problem.truth.model, problem.size
    find = jax.jit(partial(at_mode, problem))

    @jax.jit
    def loop(rng_key, steps, mode):
        def rates(count):
            share = jnp.minimum(count / steps, 1)
            return recipe.rate * (1 + jnp.cos(jnp.pi * share)) / 2

        aim = whitened(model, mode) if recipe.white else model
        made = svi_with(recipe, aim, size, rates)
        first = made.init(rng_key)
        last = lax.fori_loop(0, steps, lambda _, state: made.update(state)[0], first)
        return made.get_params(last)

    def run(rng_key, steps):
        mode_key, fit_key = jax.random.split(rng_key)
        mode = find(mode_key)[0] if recipe.white else jnp.zeros(size)
        return mode, loop(fit_key, steps, mode)

    @jax.jit
    def judge(rng_key, found):
        mode, params = found
        guide_key, site_key = jax.random.split(rng_key)
        aim = whitened(model, mode) if recipe.white else model
        guide = svi_with(recipe, aim, size, optax.constant_schedule(0.0)).guide
        with numpyro.handlers.seed(rng_seed=0):
            guide()  # to see the model
        draws = Predictive(guide, params=params, num_samples=DRAWS)(guide_key)
        draws |= Predictive(aim, posterior_samples=draws)(site_key)
        return moments(draws, problem.truth)

    def seconds(rng_key, steps):
        mode_key, fit_key = jax.random.split(rng_key)
        spent, aim = 0.0, model
        if recipe.white:
            began = time.perf_counter()
            mode, _ = jax.block_until_ready(find(mode_key))  # with the curvature
            spent, aim = time.perf_counter() - began, whitened(model, mode)
        rates = optax.cosine_decay_schedule(recipe.rate, steps)
        made = svi_with(recipe, aim, size, rates)
        result = fit(fit_key, made, steps, progress_bar=False, unchecked=True)
        return spent + steps / result.steps_per_second

    return Method("steps", doubled(recipe.first, 9), run, judge, seconds)


def nuts(problem: Problem) -> Method:
    """Return NUTS: one chain, 500 steps of warm-up, and draws in chunks."""
    sampler = NUTS(problem.truth.model)
    chain = MCMC(sampler, num_warmup=500, num_samples=CHUNK, progress_bar=False)

    def run(rng_key, draws):
        chain.post_warmup_state = None
        parts = []
        while len(parts) < draws // CHUNK:
            chain.run(rng_key)
            parts.append(jax.device_get(chain.get_samples()))
            chain.post_warmup_state = chain.last_state
            rng_key = chain.post_warmup_state.rng_key
        return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}

    def judge(_, draws):
        return moments(draws, problem.truth)

    return Method("draws", doubled(CHUNK, 7), run, judge)


def as_correlated(given: dict[str, Any]) -> None:
    """Give PyMC a Gaussian."""
    covariance = given["covariance"]
    pm.MvNormal("x", np.zeros(len(covariance)), covariance)


def as_regression(given: dict[str, Any]) -> None:
    """Give PyMC a regression."""
    w = pm.Normal("w", 0, 10, shape=given["dim"])
    pm.Normal("y", pm.math.dot(given["x"], w), 1, observed=given["y"])


def as_line(given: dict[str, Any]) -> None:
    """Give PyMC intercept and slope."""
    a, b = pm.Normal("a", 0, 10), pm.Normal("b", 0, 10)
    pm.Normal("y", a + b * given["x"], 1, observed=given["y"])


def as_noise_unknown(given: dict[str, Any]) -> None:
    """Give PyMC a regression whose noise is unknown."""
    sd = pm.math.sqrt(pm.InverseGamma("variance", 3, 3))
    w = pm.Normal("w", 0, 5 * sd, shape=given["dim"])
    pm.Normal("y", pm.math.dot(given["x"], w), sd, observed=given["y"])


def as_rates(given: dict[str, Any]) -> None:
    """Give PyMC rates of small counts."""
    rate = pm.Gamma("rate", 2, 1, shape=given["groups"])
    pm.Poisson("y", rate, observed=given["y"])


def as_betas(given: dict[str, Any]) -> None:
    """Give PyMC beta distributions."""
    pm.Beta("p", given["a"], given["b"], shape=3)


#: The same models in PyMC, variables in the order of the alphabet as in `Problem`.
TWINS: dict[str, Callable] = {
    "independent, scales 0.01 to 100": as_correlated,
    "regression, features 0.9": as_regression,
    "intercept and slope": as_line,
    "regression, noise unknown": as_noise_unknown,
    "betas": as_betas,
    "rates of small counts": as_rates,
}


def twin_of(name: str, truth: posteriors.Truth) -> pm.Model:
    """Return the model of a posterior in PyMC, with the data of its NumPyro model."""
    with pm.Model() as model:
        TWINS[name](inspect.getclosurevars(truth.model).nonlocals)
    return model


def pymc_advi(problem: Problem, name: str, *, full_rank: bool) -> Method:
    """Return PyMC's ADVI with Adam, since its default takes far longer.

    It compiles once. Each run starts from the first parameters; the optimizer keeps the
    averages of the run before.
    """
    logging.getLogger("pymc").setLevel(logging.ERROR)
    model = twin_of(name, problem.truth)
    way = (pm.FullRankADVI if full_rank else pm.ADVI)(model=model, random_seed=1)
    first = [shared.get_value() for shared in way.approx.params]
    way.fit(1, progressbar=False, obj_optimizer=pm.adam(learning_rate=0.02))  # compiles

    def run(_, steps):
        for shared, value in zip(way.approx.params, first, strict=True):
            shared.set_value(value)
        way.refine(steps, progressbar=False)
        values = {p.name: p.get_value() for p in way.approx.params}
        if not full_rank:
            return values["mu"], np.diag(np.log1p(np.exp(values["rho"])))
        triangle = np.zeros((problem.size, problem.size))
        triangle[np.tril_indices(problem.size)] = values["L_tril"]
        at = np.diag_indices(problem.size)
        triangle[at] = np.log1p(np.exp(triangle[at]))
        return values["mu"], triangle

    judge = partial(gaussian_draws, problem)
    return Method("steps", doubled(2_000, 6), run, judge)


RECIPES = {
    "mean-field SVI": Recipe(AutoNormal, 0.05, 10),
    "full-rank SVI": Recipe(AutoMultivariateNormal, 0.05, 10),
    "full-rank SVI, Laplace scale": Recipe(AutoMultivariateNormal, 0.03, 10, True, 125),
    "IAF flow": Recipe(AutoIAFNormal, 0.01, 10),
}
METHODS: dict[str, Callable[[Problem], Method]] = {
    **{name: partial(svi, recipe=recipe) for name, recipe in RECIPES.items()},
    "deterministic ADVI, mean-field": partial(deterministic, full_rank=False),
    "deterministic ADVI, full rank": partial(deterministic, full_rank=True),
    "deterministic ADVI, full rank, Laplace scale": partial(
        deterministic, full_rank=True, white=True
    ),
    "Pathfinder": pathfinder_of,
    "Laplace": laplace,
    "NUTS": nuts,
}
QUICK = ("full-rank SVI", "Laplace")


def ways(name: str, problem: Problem, quick: bool) -> dict[str, Callable[[], Method]]:
    """Return what makes each method of a posterior."""
    made = {label: partial(make, problem) for label, make in METHODS.items()}
    if quick:
        return {label: made[label] for label in QUICK}
    if name in TWINS:
        advi = partial(pymc_advi, problem, name)
        made["PyMC's ADVI, mean-field"] = partial(advi, full_rank=False)
        made["PyMC's ADVI, full rank"] = partial(advi, full_rank=True)
    return made


def tried(
    rng_key: jax.Array, method: Method, budget: int, truth: posteriors.Truth
) -> list[dict[str, float]]:
    """Return the quality with each key, until it is clear whether enough get there."""
    found = []
    for key in jax.random.split(rng_key, KEYS):
        run_key, judge_key = jax.random.split(key)
        reached = method.run(run_key, budget)
        found.append(quality(method.judge(judge_key, reached), truth))
        good = sum(facts["miss"] <= 1 for facts in found)
        if good == ENOUGH or len(found) - good > KEYS - ENOUGH:
            break
    return sorted(found, key=lambda facts: facts["miss"])


def searched(
    rng_key: jax.Array, method: Method, truth: posteriors.Truth
) -> dict[str, Any]:
    """Go up the ladder of budgets; return where it ended, and why."""
    misses, best = [], {"miss": np.inf}
    rng_key, run_key, judge_key = jax.random.split(rng_key, 3)
    method.judge(judge_key, method.run(run_key, method.budgets[0]))  # compiles
    began = time.perf_counter()
    for budget in method.budgets:
        rng_key, key = jax.random.split(rng_key)
        before = time.perf_counter()
        found = tried(key, method, budget, truth)
        took = time.perf_counter() - before
        reached = sum(facts["miss"] <= 1 for facts in found) >= ENOUGH
        worst = found[-1]
        if reached:
            good = found[ENOUGH - 1]
            return {"reached": True, "budget": budget, "unit": method.unit} | good
        misses.append(worst["miss"])
        if worst["miss"] <= best["miss"]:
            best = {"reached": False, "budget": budget, "unit": method.unit} | worst
        late = misses[-3:]
        if len(misses) > 3 and min(late) > 0.9 * min(misses[:-3]):
            return best | {"stopped": "no better over three doublings"}
        last = budget == method.budgets[-1]
        if not last and time.perf_counter() - began + 2 * took > CAP:
            return best | {"stopped": f"the next budget would take over {CAP:g} s"}
    return best | {"stopped": "end of the ladder"}


def timed(rng_key: jax.Array, method: Method, budget: int) -> float:
    """Return the seconds of one run; of a short one, the median of up to nine."""
    if method.seconds is not None:
        return method.seconds(rng_key, budget)
    seconds, began = [], time.perf_counter()
    while len(seconds) < 9 and time.perf_counter() - began < 0.1:
        before = time.perf_counter()
        jax.block_until_ready(method.run(rng_key, budget))
        seconds.append(time.perf_counter() - before)
    return float(np.median(seconds))


def measure(
    rng_key: jax.Array, name: str, rounds: int, quick: bool
) -> list[dict[str, Any]]:
    """Find the budgets of all methods for a posterior, then time them in turns."""
    rng_key, key = jax.random.split(rng_key)
    truth = posteriors.POSTERIORS[name]()
    problem = problem_of(key, truth)
    found, methods = {}, {}
    for label, make in ways(name, problem, quick).items():
        rng_key, key = jax.random.split(rng_key)
        began = time.perf_counter()
        try:
            methods[label] = make()
            facts = searched(key, methods[label], truth)
        except (FloatingPointError, RuntimeError, ValueError) as error:
            what = str(error).splitlines()[0][:100]
            facts = {"reached": False, "stopped": f"{type(error).__name__}: {what}"}
        spent = time.perf_counter() - began
        head = {"posterior": name, "numbers": problem.size, "method": label}
        found[label] = head | facts | {"search_seconds": spent}
        print(record.rounded(found[label]), flush=True)
    good = {label: facts for label, facts in found.items() if facts["reached"]}
    seconds = {label: [] for label in good}
    for _ in range(rounds):
        for label, facts in good.items():
            rng_key, key = jax.random.split(rng_key)
            seconds[label].append(timed(key, methods[label], facts["budget"]))
    for label, values in seconds.items():
        found[label]["seconds"] = float(np.median(values))
        found[label]["seconds_range"] = [min(values), max(values)]
        print(label, record.rounded(values), flush=True)
    return list(found.values())


def main(argv: Sequence[str] | None = None) -> None:
    """Measure all posteriors, or those that are named."""
    parser = record.parser(__doc__)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these posteriors")
    options = parser.parse_args(argv)
    path = record.folder(options) / "costs.json"
    names, rounds = options.only or NAMES, ROUNDS
    if options.quick:
        names, rounds = ["regression, features 0.9"], 1
    warnings.filterwarnings("ignore", category=UserWarning)
    key, lines = jax.random.key(0), []
    began = time.perf_counter()
    with programs_kept():  # `fit` compiles at each call
        for name in names:
            key, posterior_key = jax.random.split(key)
            lines += measure(posterior_key, name, rounds, options.quick)
            jax.clear_caches()
    facts = record.origin("measure.costs", parser, options, PACKAGES)
    facts |= {
        "device": device(),
        "quality": {"shift": SHIFT, "ratio": RATIO, "draws_of_a_guide": DRAWS},
        "keys": KEYS,
        "enough": ENOUGH,
        "rounds": rounds,
        "seconds_in_all": time.perf_counter() - began,
        "runs": lines,
    }
    record.write(path, record.rounded(facts))


if __name__ == "__main__":
    main()
