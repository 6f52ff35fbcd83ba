"""Guides for the shops of notebook 07, beside NUTS: errors, widths, who noticed.

Two thousand shops, 52 weeks, 4,000 unknowns of shops. Each method runs with several
keys; for one of them the script also computes what a user could look at: k-hat, the
coverage of the shops' intervals, a run twice as long, and NUTS on a hundred shops
beside the same method on these. NUTS on all shops is the reference. Two tables of a
hundred shops, with many and with few rows each, get a reference as well. Writes
``panels.json``. Run it from the root of the project:

    python -m benchmarks.measure.panels
"""

import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from numpyro.diagnostics import effective_sample_size
from numpyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO
from numpyro.infer.autoguide import AutoMultivariateNormal, AutoNormal

from benchmarks.shared import panel_model, record
from benchmarks.shared.panel_model import CENTERED, NON_CENTERED, model
from helpers.diagnostics import importance_summary, log_weights
from helpers.environment import device
from helpers.training import fit

SHOWN = ["mu", "sigma", "beta", "tau", "phi"]
SUBSET = 100  # shops on which NUTS is run to check a fit
WEIGHTS = 1_000  # draws for k-hat
DRAWS = 500  # draws for intervals
BATCH = 100  # shops in a minibatch


class Fit(NamedTuple):
    """A fitted method: its guide and how to draw from it."""

    seconds: float
    parameters: int
    weights: tuple  # model, guide, params, arguments: for importance weights
    draw: Callable  # key, draws → globals and locals


def tell(*words: Any) -> None:
    """Print a line of progress."""
    print(time.strftime("%H:%M:%S"), *words, file=sys.stderr, flush=True)


def told_by_rows(data: tuple) -> dict[str, float]:
    """Return how far to center: what the rows say about a shop, beside the prior.

    An average count m of negative binomial rows with concentration 6 says
    m / (1 + m / 6) about a level on the log scale. The widths of the priors, 0.6 and
    0.15, come from a first fit.
    """
    promotion, is_open, sales = data
    average = sales[is_open].mean()
    each = average / (1 + average / 6)
    rows = {
        "level": is_open.sum(1).mean(),
        "slope": (is_open * promotion).sum(1).mean(),
    }
    prior = {"level": 0.6, "slope": 0.15}
    return {k: float(n * each / (n * each + prior[k] ** -2)) for k, n in rows.items()}


def by_autoguide(make_guide: Callable, centering: dict, data: tuple, key, steps) -> Fit:
    """Fit an autoguide on all rows."""
    told = partial(model, centering=centering)
    guide = make_guide(told)
    optimizer = optax.adam(optax.cosine_decay_schedule(0.05, steps), b2=0.95)
    return fitted(told, guide, guide, optimizer, data, key, steps)


def by_rows_of_shops(make_guide: Callable, data: tuple, key, steps) -> Fit:
    """Fit a guide of our own on minibatches of shops."""
    shops = len(data[0])
    guide, of_globals = make_guide(data)
    told = partial(model, num_shops=shops)
    rows = *data, np.arange(shops)
    optimizer = optax.adam(optax.cosine_decay_schedule(0.02, steps))
    options = {"batch_size": BATCH} if shops > BATCH else {}
    return fitted(told, guide, of_globals, optimizer, rows, key, steps, **options)


def by_integration(data: tuple, key, steps) -> Fit:
    """Fit a joint normal to the globals, with levels and slopes integrated out."""
    told = panel_model.marginal_model
    guide = AutoMultivariateNormal(told)
    optimizer = optax.adam(optax.cosine_decay_schedule(0.05, steps), b2=0.95)
    found = fitted(told, guide, guide, optimizer, data, key, steps)

    def draw(rng_key, draws):
        globals_key, locals_key = jax.random.split(rng_key)
        g = guide.sample_posterior(globals_key, found.weights[2], sample_shape=(draws,))
        keys = jax.random.split(locals_key, (draws, len(data[0])))

        def one(at):
            each = jax.vmap(panel_model.draw_local, (0, None, 0, 0, 0))
            return each(at[0], at[1], *data)

        local = jax.jit(lambda: jax.lax.map(one, (keys, g)))()
        return g | {"level": local[..., :1], "slope": local[..., 1:]}

    return found._replace(draw=draw)


def fitted(told, guide, of_globals, optimizer, args, key, steps, **options) -> Fit:
    """Run a fit and keep what later questions need."""
    svi = SVI(told, guide, optimizer, Trace_ELBO())
    began = time.perf_counter()
    result = fit(key, svi, steps, *args, progress_bar=False, **options)
    seconds = time.perf_counter() - began
    parameters = sum(np.size(leaf) for leaf in jax.tree.leaves(result.params))

    def draw(rng_key, draws):
        everything = Predictive(guide, params=result.params, num_samples=draws)
        drawn = everything(rng_key, *args)
        if "level" in drawn:
            return drawn
        values = Predictive(told, drawn, return_sites=["level", "slope"])
        return drawn | values(rng_key, *args)

    return Fit(seconds, parameters, (told, guide, result.params, args), draw)


def summary(drawn: dict) -> dict[str, dict[str, float]]:
    """Mean and standard deviation of each global."""
    values = {name: np.asarray(drawn[name], float) for name in SHOWN}
    return {
        "mean": {name: float(v.mean()) for name, v in values.items()},
        "sd": {name: float(v.std()) for name, v in values.items()},
    }


def coverage(drawn: dict, truth: dict) -> float:
    """Share of true levels and slopes within central intervals of 90 %."""
    inside = []
    for name in ("level", "slope"):
        low, high = np.quantile(np.asarray(drawn[name])[..., 0], [0.05, 0.95], axis=0)
        inside.append((low < truth[name]) & (truth[name] < high))
    return float(np.mean(inside))


def by_nuts(data: tuple, key, warmup: int, draws: int, chains: int, centering) -> dict:
    """Run NUTS and return means, widths, effective draws and seconds."""
    kernel = NUTS(partial(model, centering=centering))
    mcmc = MCMC(
        kernel,
        num_warmup=warmup,
        num_samples=draws,
        num_chains=chains,
        chain_method="sequential",
        progress_bar=False,
    )
    began = time.perf_counter()
    mcmc.run(key, *data, extra_fields=("diverging",))
    jax.block_until_ready(mcmc.get_samples())
    seconds = time.perf_counter() - began
    by_chain = mcmc.get_samples(group_by_chain=True)
    ess = {k: float(effective_sample_size(np.asarray(by_chain[k]))) for k in SHOWN}
    return {
        "shops": len(data[0]),
        "warmup": warmup,
        "draws": draws,
        "chains": chains,
        "seconds": seconds,
        "divergences": int(mcmc.get_extra_fields()["diverging"].sum()),
        "effective_draws": ess,
        **summary(mcmc.get_samples()),
    }


def methods(data: tuple) -> dict[str, tuple[Callable, int]]:
    """Return each method with its number of steps."""
    shares = told_by_rows(data)

    def table(data):
        return panel_model.table_guide(len(data[0]))

    def encoder(data):
        promotion, is_open, sales = data
        columns = []
        for on in (promotion * is_open, (1 - promotion) * is_open):
            weeks = on.sum(1)
            columns += [
                np.log(((sales * on).sum(1) + 0.5) / (weeks + 0.3)),
                np.log1p(weeks),
            ]
        found = np.stack(columns, 1)
        return panel_model.encoder_guide(
            jnp.array(
                (found - found.mean(0)) / np.maximum(found.std(0), 1e-6), "float32"
            )
        )

    return {
        "non-centered, short": (partial(by_autoguide, AutoNormal, NON_CENTERED), 750),
        "non-centered": (partial(by_autoguide, AutoNormal, NON_CENTERED), 1_500),
        "centered": (partial(by_autoguide, AutoNormal, CENTERED), 1_500),
        "partly centered": (partial(by_autoguide, AutoNormal, shares), 1_500),
        "globals joint": (partial(by_autoguide, panel_model.list_guide, shares), 1_500),
        "table, minibatches": (partial(by_rows_of_shops, table), 4_000),
        "encoder, minibatches": (partial(by_rows_of_shops, encoder), 4_000),
        "integrated": (by_integration, 400),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Run all of it and write the figures down."""
    parser = record.parser(__doc__)
    parser.add_argument("--shops", type=int, default=2_000)
    parser.add_argument("--weeks", type=int, default=52)
    parser.add_argument("--keys", type=int, default=4)
    options = parser.parse_args(argv)
    shops, weeks, keys = options.shops, options.weeks, options.keys
    small, growth, (warmup, draws) = (100, 100), (50, 100, 200, 400), (300, 500)
    if options.quick:
        shops, weeks, keys, small, growth, warmup, draws = (
            120,
            8,
            1,
            (20, 8),
            (20,),
            5,
            5,
        )

    nuts_key, fit_key, other_key = jax.random.split(jax.random.key(7), 3)
    nuts_keys, other_keys = (
        jax.random.split(nuts_key, 5),
        jax.random.split(other_key, 5),
    )
    *data, truth = panel_model.make_data(7, shops, weeks)
    subset = np.sort(np.random.default_rng(7).choice(shops, min(SUBSET, shops), False))
    part = tuple(array[subset] for array in data)
    facts: dict[str, Any] = {"centering": told_by_rows(data), "methods": {}}

    for name, (method, steps) in methods(data).items():
        steps = 20 if options.quick else steps
        runs = []
        for key in jax.random.split(fit_key, keys):
            run = method(tuple(data), key, steps)
            drawn = run.draw(other_keys[0], DRAWS)
            runs.append({"seconds": run.seconds} | summary(drawn))
        told, guide, params, args = run.weights
        logs = log_weights(
            other_keys[1],
            *(told, guide, params, *args),
            num_draws=WEIGHTS,
            batch_size=1,
        )
        longer = method(tuple(data), key, 2 * steps).draw(other_keys[2], DRAWS)
        beside = method(part, key, steps).draw(other_keys[3], DRAWS)
        facts["methods"][name] = {
            "steps": steps,
            "parameters": run.parameters,
            "runs": runs,
            "khat": importance_summary(logs).khat,
            "coverage": coverage(drawn, truth),
            "longer": summary(longer),
            "subset": summary(beside),
        }
        tell(name, f"{runs[-1]['seconds']:.1f} s", runs[-1]["mean"], runs[-1]["sd"])

    sample = partial(by_nuts, warmup=warmup, draws=draws)
    facts["subset_nuts"] = sample(part, nuts_keys[0], chains=2, centering=CENTERED)
    tell("NUTS on the subset", facts["subset_nuts"]["seconds"])
    facts["growth"] = [
        sample(tuple(a[:n] for a in data), nuts_keys[1], chains=1, centering=CENTERED)
        for n in growth
    ]
    tell("NUTS as the shops grow", [run["seconds"] for run in facts["growth"]])
    for name, rows, centering in (("many", None, CENTERED), ("few", 4, told_by_rows)):
        *table, _ = panel_model.make_data(11, *small, rows)
        told = centering(table) if callable(centering) else centering
        facts[name] = sample(
            tuple(table), nuts_keys[2], draws=2 * draws, chains=2, centering=told
        )
        tell(name, facts[name]["seconds"])
    facts["nuts"] = sample(tuple(data), nuts_keys[3], chains=2, centering=CENTERED)
    tell("NUTS on all shops", facts["nuts"]["seconds"])
    packages = ("jax", "numpyro", "optax")
    origin = record.origin("measure.panels", parser, options, packages)
    head = {**origin, "device": device(), "shops": shops, "weeks": weeks}
    shown = {name: truth[name] for name in SHOWN}
    everything = record.rounded({**head, "truth": shown, **facts})
    record.write(record.folder(options) / "panels.json", everything)


if __name__ == "__main__":
    main()
