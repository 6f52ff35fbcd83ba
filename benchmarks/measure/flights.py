"""Late flights: fits as the rows grow, beside NUTS and a Laplace approximation.

The model of notebook 07 has an effect of each hour, month, carrier, destination,
airplane, and of each hour at each airport. It is fitted to ten thousand rows and more,
up to all training rows, in minibatches. NUTS and a Laplace approximation of the same
model do the smaller numbers of rows. Each run has a process of its own, whose memory
is measured. Writes ``flights.json``. Run it from the root of the project:

    python -m benchmarks.measure.flights
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from numpyro.diagnostics import effective_sample_size
from numpyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO
from numpyro.infer.autoguide import AutoLaplaceApproximation, AutoNormal

from benchmarks.shared import child, flight_model, record
from benchmarks.shared.flight_model import GROUPS
from helpers.environment import device
from helpers.scores import log_score
from helpers.training import fit

BATCH = 2_048
DRAWS = 500  # of a guide
MOST_BYTES = 10 * 2**30  # that a Laplace approximation may take
PACKAGES = ("jax", "numpyro", "optax", "pandas")


def prepare(count: int) -> tuple[dict, dict, np.ndarray]:
    """Return random training rows, all test rows, and the group of each level."""
    train, test, group = flight_model.make_rows()
    chosen = np.random.default_rng(3).permutation(len(train["late"]))[:count]
    return {name: table[chosen] for name, table in train.items()}, test, group


def model_of(train: dict, group: np.ndarray) -> Callable:
    """Return the model, each effect centered as far as its rows tell."""
    count = len(train["late"])
    model = partial(flight_model.flight_model, group=group, num_rows=count)
    shares = flight_model.shares_by_rows(train, group)
    return flight_model.partly_centered(model, shares)


def judged(model: Callable, drawn: dict, train: dict, test: dict, group) -> dict:
    """Return the log score of the test rows, and sds of what the model estimates."""
    if "effect" not in drawn:  # centered in part: the model makes it
        few = {"levels": train["levels"][:1]}
        effects = Predictive(model, drawn, return_sites=["effect"])
        drawn = drawn | effects(jax.random.key(5), **few)
    chance = []
    for start in range(0, len(test["late"]), 10_000):
        levels = test["levels"][start : start + 10_000]
        logits = drawn["intercept"][:, None] + drawn["effect"][:, levels].sum(-1)
        chance.append(np.asarray(jax.nn.sigmoid(logits).mean(0)))
    used = np.bincount(train["levels"].ravel(), minlength=len(group)) > 0
    sds = {"intercept": float(np.std(drawn["intercept"]))}
    means = {}
    for number, name in enumerate(GROUPS):
        scale = drawn["scale"][:, number]
        means[f"{name} scale"] = float(np.mean(scale))
        sds[f"{name} scale"] = float(np.std(scale))
        effects = np.std(drawn["effect"][:, used & (group == number)], axis=0)
        sds[f"{name} effect, median"] = float(np.median(effects))
    return {
        "log_score": round(float(log_score(test["late"], np.concatenate(chance))), 5),
        "means": record.rounded(means),
        "sds": record.rounded(sds),
        "peak_mib": child.peak_mib(),
    }


def fitted(rows: int, steps: int) -> dict[str, Any]:
    """Fit by SVI in minibatches. In a process of its own."""
    train, test, group = prepare(rows)
    model = model_of(train, group)
    guide = AutoNormal(model)
    optimizer = optax.adam(optax.cosine_decay_schedule(0.02, steps))
    svi = SVI(model, guide, optimizer, Trace_ELBO())
    began = time.perf_counter()
    batch, quiet = min(BATCH, rows), {"progress_bar": False}
    result = fit(jax.random.key(1), svi, steps, batch_size=batch, **quiet, **train)
    seconds = time.perf_counter() - began
    few = {name: table[:1] for name, table in train.items()}
    drawing = Predictive(guide, params=result.params, num_samples=DRAWS)
    drawn = drawing(jax.random.key(2), **few)
    return {"seconds": round(seconds, 1)} | judged(model, drawn, train, test, group)


def sampled(rows: int, draws: int) -> dict[str, Any]:
    """Run NUTS. In a process of its own."""
    train, test, group = prepare(rows)
    model = model_of(train, group)
    on_device = {name: jnp.asarray(table) for name, table in train.items()}
    chains = {"num_chains": 2, "chain_method": "sequential", "progress_bar": False}
    mcmc = MCMC(NUTS(model), num_warmup=draws, num_samples=draws, **chains)
    began = time.perf_counter()
    mcmc.run(jax.random.key(4), **on_device)
    seconds = time.perf_counter() - began
    by_chain = mcmc.get_samples(group_by_chain=True)
    effective = effective_sample_size(np.asarray(by_chain["scale"]))
    found = {
        "seconds": round(seconds, 1),
        "draws": 2 * draws,
        "effective_draws_of_scales": np.round(effective).tolist(),
        "divergences": int(mcmc.get_extra_fields()["diverging"].sum()),
    }
    return found | judged(model, mcmc.get_samples(), train, test, group)


def laplace(rows: int, steps: int) -> dict[str, Any]:
    """Find the mode and the curvature there. In a process of its own.

    In the non-centered form: where effects are centered, the density grows without
    bound as a scale goes to 0 and its effects with it, and there is no mode.
    """
    train, test, group = prepare(rows)
    child.limit_memory(MOST_BYTES)
    model = partial(flight_model.flight_model, group=group, num_rows=rows)
    model = flight_model.partly_centered(model, 0.0)
    guide = AutoLaplaceApproximation(model)
    optimizer = optax.adam(optax.cosine_decay_schedule(0.05, steps))
    svi = SVI(model, guide, optimizer, Trace_ELBO())
    began = time.perf_counter()
    on_device = {name: jnp.asarray(table) for name, table in train.items()}
    result = fit(jax.random.key(1), svi, steps, progress_bar=False, **on_device)
    drawing = partial(guide.sample_posterior, sample_shape=(DRAWS,))
    drawn = drawing(jax.random.key(2), result.params)
    jax.block_until_ready(drawn)
    seconds = time.perf_counter() - began
    return {"seconds": round(seconds, 1)} | judged(model, drawn, train, test, group)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and write the figures down."""
    parser = record.parser(__doc__)
    parser.add_argument("--steps", type=int, default=12_000)
    options = parser.parse_args(argv)
    train, test, group = flight_model.make_rows()
    every = len(train["late"])
    counts, sampled_to, laplace_to = [10_000, 30_000, 100_000, every], 30_000, 100_000
    draws, newton = 600, 2_000
    if options.quick:
        counts, sampled_to, laplace_to, draws, newton = [1_000], 0, 0, 20, 50
        options.steps = 200
    found = []
    for count in counts:
        run = partial(child.run, __spec__.name, rows=count)
        line = {"rows": count, "svi": run("fitted", steps=options.steps)}
        if count <= sampled_to:
            line["nuts"] = run("sampled", draws=draws)
        if count <= laplace_to:
            line["laplace"] = run("laplace", steps=newton)
        print(line, flush=True)
        found.append(line)
    facts = {
        **record.origin("measure.flights", parser, options, PACKAGES),
        "device": device(),
        "rows": every,
        "rows_held_out": len(test["late"]),
        "unknowns": 1 + len(GROUPS) + len(group),
        "levels": dict(zip(GROUPS, np.bincount(group).tolist(), strict=True)),
        "steps": options.steps,
        "batch_size": BATCH,
        "most_gib_for_laplace": MOST_BYTES / 2**30,
        "by_rows": found,
    }
    record.write(record.folder(options) / "flights.json", facts)


if __name__ == "__main__":
    child.serve({"fitted": fitted, "sampled": sampled, "laplace": laplace})
    main()
