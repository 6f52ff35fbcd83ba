"""Thousands of small posteriors: one fit mapped over all of them, against loops.

Each group has a count of successes in a number of trials, and a success rate to be
inferred; its posterior is a beta distribution, known exactly. The same fit, a normal
guide for the log odds and two thousand steps of Adam, is run under `jax.vmap` for all
groups at once; in a Python loop over code that is compiled once; and with `fit` and
with `svi.run`, which compile for each group anew. The loops do some groups only and
their time is scaled up. Writes ``many_fits.json``. Run it from the root of the project:

    python -m benchmarks.measure.many_fits
"""

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
from numpyro.infer import SVI, Trace_ELBO
from scipy.special import betaln, digamma, expit, polygamma

from benchmarks.shared import record
from benchmarks.shared.targets import say, target
from helpers.environment import device
from helpers.training import fit

PRIOR = 2.0  # both parameters of the beta prior
PARTICLES = 1
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(64)
WEIGHTS = WEIGHTS / WEIGHTS.sum()


def model(successes, trials):
    """Give a group its log odds; the rate has a beta prior."""
    eta = numpyro.sample("eta", dist.Logistic(0, 1))
    # A logistic prior of the log odds is a uniform one of the rate: add the rest.
    log_rates = jax.nn.log_sigmoid(eta) + jax.nn.log_sigmoid(-eta)
    numpyro.factor("prior", (PRIOR - 1) * log_rates)
    numpyro.sample("k", dist.Binomial(trials, logits=eta), obs=successes)


def guide(successes, trials):
    """Return a normal distribution of the log odds."""
    loc = numpyro.param("loc", jnp.zeros(()))
    positive = dist.constraints.positive
    scale = numpyro.param("scale", jnp.array(0.5), constraint=positive)
    numpyro.sample("eta", dist.Normal(loc, scale))


def make_svi(steps: int) -> SVI:
    """Return the SVI of one group."""
    optimizer = optax.adam(optax.cosine_decay_schedule(0.05, steps))
    return SVI(model, guide, optimizer, Trace_ELBO(num_particles=PARTICLES))


def make_groups(count: int) -> tuple[jax.Array, jax.Array]:
    """Return successes and trials of so many groups; few trials, or many."""
    trials_key, rate_key, count_key = jax.random.split(jax.random.key(8), 3)
    trials = jax.random.randint(trials_key, (count,), 5, 500).astype(float)
    rates = jax.random.beta(rate_key, PRIOR, PRIOR, (count,))
    return jax.random.binomial(count_key, trials, rates), trials


def make_fit(svi: SVI, steps: int) -> Callable:
    """Return the whole fit of one group as a function that JAX can map and compile."""

    def one(rng_key, successes, trials):
        state = svi.init(rng_key, successes, trials)

        def step(state, _):
            return svi.update(state, successes, trials)

        state, losses = jax.lax.scan(step, state, length=steps)
        return svi.get_params(state), losses[-1]

    return one


def divergence(
    loc: np.ndarray, scale: np.ndarray, a: np.ndarray, b: np.ndarray
) -> np.ndarray:
    """Return KL(normal, exact posterior) of the log odds, by quadrature."""
    eta = loc + scale * NODES[:, None]
    log_q = -0.5 * NODES[:, None] ** 2 - np.log(scale) - 0.5 * np.log(2 * np.pi)
    log_p = a * eta - (a + b) * np.logaddexp(0, eta) - betaln(a, b)
    return WEIGHTS @ (log_q - log_p)


def best_normal(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the normals with the lowest divergence, by fixed-point steps."""
    loc, scale = digamma(a) - digamma(b), np.sqrt(polygamma(1, a) + polygamma(1, b))
    for _ in range(50):
        p = expit(loc + scale * NODES[:, None])
        slope, curvature = WEIGHTS @ p, WEIGHTS @ (p * (1 - p))
        scale = 1 / np.sqrt((a + b) * curvature)
        loc = loc + (a - (a + b) * slope) / ((a + b) * curvature)
    return loc, scale


def accuracy(params: dict[str, jax.Array], a: np.ndarray, b: np.ndarray) -> dict:
    """Compare fits with the exact posteriors, and with the best normals."""
    loc, scale = (np.asarray(params[name], float) for name in ("loc", "scale"))
    off = divergence(loc, scale, a, b)
    least = divergence(*best_normal(a, b), a, b)
    sd = np.sqrt(polygamma(1, a) + polygamma(1, b))  # of the log odds
    shift = (loc - (digamma(a) - digamma(b))) / sd

    def spread(values, digits=5):
        found = np.quantile(values, [0.5, 0.95, 1])
        names = ("median", "of_95_percent_at_most", "largest")
        return {k: float(round(v, digits)) for k, v in zip(names, found, strict=True)}

    return {
        "kl_nats": spread(off),
        "kl_nats_of_best_normal": spread(least),
        "kl_nats_left_by_training": spread(off - least),
        "shift_of_mean_in_sd": spread(abs(shift)),
        "sd_ratio_quantiles": {
            f"{share:.0%}": round(float(np.quantile(scale / sd, share)), 3)
            for share in (0.05, 0.5, 0.95)
        },
    }


def timed(run: Callable[[], Any]) -> float:
    """Return the seconds that a function takes, results on the host included."""
    began = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - began


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and write the figures down."""
    parser = record.parser(__doc__)
    parser.add_argument("--groups", type=int, default=10_000)
    options = parser.parse_args(argv)
    count, steps, repeats, looped, few = options.groups, 2_000, 5, 50, 3
    if options.quick:
        count, steps, repeats, looped, few = 500, 500, 2, 5, 1

    successes, trials = make_groups(count)
    keys = jax.random.split(jax.random.key(9), count)
    svi = make_svi(steps)
    one = make_fit(svi, steps)
    mapped, single = jax.jit(jax.vmap(one)), jax.jit(one)
    first = timed(lambda: mapped(keys, successes, trials))
    first_single = timed(lambda: single(keys[0], successes[0], trials[0]))
    params, losses = mapped(keys, successes, trials)

    def loop(start):
        return [
            single(keys[i], successes[i], trials[i])
            for i in (np.arange(start, start + looped) % count)
        ]

    def loop_of_fit():
        bar = {"progress_bar": False}
        return [
            fit(keys[i], svi, steps, successes[i], trials[i], **bar).params
            for i in range(few)
        ]

    def loop_that_compiles():
        # As written without a thought: `svi.run`, like `fit`, compiles at each call.
        return [
            svi.run(keys[i], steps, successes[i], trials[i], progress_bar=False).params
            for i in range(few)
        ]

    seconds = {"vmap": [], "loop": [], "loop_of_fit": [], "loop_that_compiles": []}
    for turn in range(repeats):
        seconds["vmap"].append(timed(lambda: mapped(keys, successes, trials)) / count)
        seconds["loop"].append(timed(lambda turn=turn: loop(turn * looped)) / looped)
        if turn < 3:
            seconds["loop_of_fit"].append(timed(loop_of_fit) / few)
            seconds["loop_that_compiles"].append(timed(loop_that_compiles) / few)
    ratios = {
        name: float(f"{median(np.divide(each, seconds['vmap'][: len(each)])):.3g}")
        for name, each in seconds.items()
        if name != "vmap"
    }
    alone = jax.tree.leaves(
        [single(keys[i], successes[i], trials[i]) for i in range(5)]
    )
    together = jax.tree.leaves(
        [jax.tree.map(lambda leaf, i=i: leaf[i], (params, losses)) for i in range(5)]
    )
    apart = max(
        float(abs(one / other - 1)) for one, other in zip(alone, together, strict=True)
    )

    exact = [np.asarray(each, float) for each in (successes, trials - successes)]
    targets = {
        "a Python loop, compiled once, over vmap: times longer": target(
            ratios["loop"], at_least=1
        ),
        "vmap and loop: largest difference of parameters and losses": target(
            apart, at_most=1e-3
        ),
    }
    packages = ("jax", "numpyro", "optax", "scipy")
    facts = {
        **record.origin("measure.many_fits", parser, options, packages),
        "device": device(),
        "groups": count,
        "steps": steps,
        "particles": PARTICLES,
        "groups_in_a_loop": looped,
        "groups_in_a_loop_of_fit_or_of_svi_run": few,
        "seconds_of_all_groups": {
            name: record.rounded(median(each) * count) for name, each in seconds.items()
        },
        "seconds_of_first_call": {
            "vmap": round(first, 3),
            "loop": round(first_single, 3),
        },
        "times_vmap": ratios,
        "largest_difference_to_loop": apart,
        "accuracy": accuracy(params, *(PRIOR + each for each in exact)),
        "targets": targets,
    }
    record.write(record.folder(options) / "many_fits.json", facts)
    say(targets)


if __name__ == "__main__":
    main()
