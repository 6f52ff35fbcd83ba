"""Guides for the sales of two thousand shops, beside NUTS: who is off, who notices.

The model of notebook 07 is fitted in eight ways, with four keys each: centered or not,
centered by a learned share, centered by what the rows tell, a table of locals in
minibatches of shops, an encoder, jointly normal globals, and shops integrated out. Each
is compared with NUTS on all shops and with the truth. Then five warnings are tried on
each: k-hat, coverage of the shops' intervals, a run twice as long, several starts, and
NUTS on a subset of the shops. Last, seconds of NUTS and of fits as the shops grow. A
table with few rows of each shop gets NUTS as a reference, too.
Writes ``panels.json``. Run it from the root of the project:

    python -m benchmarks.measure.panels
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from numpyro.diagnostics import effective_sample_size
from numpyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO
from numpyro.infer.autoguide import AutoMultivariateNormal, AutoNormal

from benchmarks.shared import panel_model, record
from benchmarks.shared.panel_model import GLOBALS, LOCALS
from helpers.diagnostics import importance_summary, log_weights
from helpers.environment import device
from helpers.training import fit

FEW_ROWS = 4  # of each shop, in a table of their own
NAMES = (*GLOBALS[:4], "season 1", "season 2", "phi")
PACKAGES = ("jax", "numpyro", "optax", "flax")


class Method(NamedTuple):
    """A way to fit the panel: model and guide for a number of shops, and its steps."""

    model: Callable
    guide: Callable
    steps: int
    batch_size: int | None = None


def methods(tables: dict, size: int, steps: int, batch: int) -> dict[str, Method]:
    """Return all ways to fit these shops, by name."""
    model = partial(panel_model.shop_model, size=size)
    by_rows = panel_model.shares_by_rows(**tables)

    def normal(shares):
        centered = panel_model.with_shares(model, shares)
        return Method(centered, AutoNormal(centered), steps)

    def of_all(share):
        return normal(dict.fromkeys(LOCALS, share))

    ruled = panel_model.with_shares(model, by_rows)
    integrated = partial(panel_model.integrated_model, size=size)
    batch = min(batch, size)
    in_batches = 4 * steps, batch
    return {
        "non-centered": of_all(0.0),
        "centered": of_all(1.0),
        "learned share": of_all(None),
        "share by the rows": normal(by_rows),
        "table of shops, batches": Method(
            model, partial(panel_model.table_guide, size=size), *in_batches
        ),
        "encoder, batches": Method(
            model, partial(panel_model.encoder_guide, size=size), *in_batches
        ),
        "joint globals, share by the rows": Method(
            ruled, panel_model.joint_globals(ruled), steps
        ),
        "shops integrated out": Method(
            integrated, AutoMultivariateNormal(integrated), steps // 4
        ),
    }


def run(method: Method, keys: jax.Array, tables: dict, longer: int = 1) -> Any:
    """Fit once for each key; return the result and the seconds of one fit."""
    steps = longer * method.steps
    schedule = optax.cosine_decay_schedule(0.05, steps)
    optimizer = optax.adam(schedule, b2=0.999 if method.batch_size else 0.95)
    svi = SVI(method.model, method.guide, optimizer, Trace_ELBO())
    size, quiet = method.batch_size, {"progress_bar": False}
    result = fit(keys, svi, steps, batch_size=size, **quiet, **tables)
    return result, result.steps.max() / result.steps_per_second / len(keys)


def draws_of(method: Method, rng_key, params: dict, tables: dict) -> dict:
    """Draw 1,000 times from a fitted guide; return globals and shops, by name."""
    guide_key, other_key = jax.random.split(rng_key)
    drawn = Predictive(method.guide, params=params, num_samples=1_000)(
        guide_key, **tables
    )
    rows = [tables[name] for name in ("seen", "promotion", "sales")]
    if not any(name.startswith(LOCALS) for name in drawn):  # integrated out
        shared = {name: drawn[name] for name in GLOBALS}
        drawn |= panel_model.draw_shops(other_key, shared, *rows)
    elif not set(LOCALS) & drawn.keys():  # centered in part: the model makes them
        one_week = {"seen": rows[0][:, :1], "promotion": rows[1][:, :1], "sales": None}
        sites = Predictive(method.model, drawn, params=params, return_sites=[*LOCALS])
        drawn |= sites(other_key, **tables | one_week)
    return {name: np.asarray(drawn[name]) for name in (*GLOBALS, *LOCALS)}


def moments(draws: dict) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation of the seven globals."""
    columns = np.column_stack([draws[name] for name in GLOBALS])
    return columns.mean(0), columns.std(0)


def coverage(draws: dict, truth: dict) -> dict[str, float]:
    """Return how often 90 % intervals of the shops hold the truth."""
    found = {}
    for name in LOCALS:
        values = draws[name].reshape(len(draws[name]), -1)
        low, high = np.quantile(values, [0.05, 0.95], axis=0)
        inside = (low < truth[name]) & (truth[name] < high)
        found[name] = round(float(inside.mean()), 3)
    return found


def sampled(tables: dict, warmup: int, draws: int) -> dict[str, Any]:
    """Run NUTS, centered by the rows; return draws, seconds and diagnostics."""
    model = partial(panel_model.shop_model, size=len(tables["shop"]))
    ruled = panel_model.with_shares(model, panel_model.shares_by_rows(**tables))
    mcmc = MCMC(
        NUTS(ruled),
        num_warmup=warmup,
        num_samples=draws,
        num_chains=2,
        chain_method="sequential",
        progress_bar=False,
    )
    began = time.perf_counter()
    mcmc.run(jax.random.key(31), **tables)
    seconds = time.perf_counter() - began
    chains = mcmc.get_samples(group_by_chain=True)
    least = min(float(np.min(effective_sample_size(chains[k]))) for k in GLOBALS)
    return {
        "draws": {k: np.asarray(v) for k, v in mcmc.get_samples().items()},
        "seconds": seconds,
        "least_effective_draws": least,
        "divergences": int(mcmc.get_extra_fields()["diverging"].sum()),
    }


def facts_of(nuts: dict) -> dict[str, Any]:
    """Return what is stored of a run of NUTS."""
    means, sds = moments(nuts["draws"])
    return {
        "seconds": round(nuts["seconds"], 1),
        "least_effective_draws": round(nuts["least_effective_draws"]),
        "divergences": nuts["divergences"],
        "means": dict(zip(NAMES, record.rounded(means.tolist()), strict=True)),
        "sds": dict(zip(NAMES, record.rounded(sds.tolist()), strict=True)),
    }


def by_name(values: np.ndarray) -> dict[str, list[float]]:
    """Return numbers for each global, one a key."""
    columns = np.round(np.transpose(values).astype(float), 3).tolist()
    return dict(zip(NAMES, columns, strict=True))


def judge(method: Method, tables: dict, truth: dict, nuts: dict, keys: int) -> dict:
    """Fit a method with several keys; compare it, and try what could warn of it."""
    all_keys = jax.random.split(jax.random.key(17), 5)
    run_key, twice_key, weight_key, draw_key, last_key = all_keys
    result, seconds = run(method, jax.random.split(run_key, keys), tables)
    means, sds, covered = [], [], []
    reference, width = moments(nuts["draws"])
    for i, key in enumerate(jax.random.split(draw_key, keys)):
        params = jax.tree.map(lambda value, i=i: value[i], result.params)
        drawn = draws_of(method, key, params, tables)
        for kept, value in zip((means, sds), moments(drawn), strict=True):
            kept.append(value)
        covered.append(coverage(drawn, truth))
    one = jax.tree.map(lambda value: value[0], result.params)
    again, _ = run(method, jax.random.split(twice_key, 1), tables, longer=2)
    longer = jax.tree.map(lambda value: value[0], again.params)
    after, _ = moments(draws_of(method, last_key, longer, tables))
    few_draws = {"num_draws": 2_000, "batch_size": 50}
    weights = log_weights(
        weight_key, method.model, method.guide, one, **few_draws, **tables
    )
    means, sds = np.array(means), np.array(sds)
    return {
        "steps": method.steps,
        "seconds_a_key": round(float(seconds), 1),
        "parameters": sum(np.size(leaf) for leaf in jax.tree.leaves(one)),
        "elbo": np.round(elbos(result, method).astype(float), 1).tolist(),
        "off_in_sds_of_nuts": by_name((means - reference) / width),
        "width_over_nuts": by_name(sds / width),
        "k_hat": round(float(importance_summary(weights).khat), 2),
        "coverage_of_90_percent": covered,
        "moved_when_twice_as_long_in_own_sds": by_name(
            (after - means.mean(0))[None] / sds.mean(0)
        ),
        "spread_over_keys_in_own_sds": by_name(
            np.ptp(means, axis=0)[None] / sds.mean(0)
        ),
    }


def elbos(result: Any, method: Method) -> np.ndarray:
    """Return the mean ELBO of the last steps of each run."""
    last = -np.asarray(result.losses)[:, -min(500, method.steps // 4) :]
    return last.mean(1)


def some(tables: dict, count: int) -> dict:
    """Return the first shops, which are as good as a random choice."""
    return {name: table[:count] for name, table in tables.items()}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and write the figures down."""
    parser = record.parser(__doc__)
    parser.add_argument("--shops", type=int, default=2_000)
    parser.add_argument("--weeks", type=int, default=52)
    parser.add_argument("--steps", type=int, default=2_000)
    parser.add_argument("--keys", type=int, default=4)
    parser.add_argument("--draws", type=int, default=400, help="of each of two chains")
    options = parser.parse_args(argv)
    if options.quick:
        options.shops, options.steps, options.keys, options.draws = 40, 200, 2, 50
    subset = min(100, options.shops // 2)
    sizes = [size for size in (50, 100, 200, 500) if size < options.shops]

    tables, truth = panel_model.make_panel(5, options.shops, options.weeks)
    path = record.folder(options) / "panels.json"
    draws = options.draws

    began = time.perf_counter()

    def say(what):
        print(f"{time.perf_counter() - began:7.1f} s  {what}", flush=True)

    part = some(tables, subset)
    small = sampled(part, draws, draws)
    say("NUTS on a subset")
    few, _ = panel_model.make_panel(5, options.shops // 5, options.weeks, FEW_ROWS)
    with_few_rows = sampled(few, draws, 2 * draws)
    say("NUTS with few rows of each shop")
    whole = sampled(tables, draws, draws)
    say("NUTS on all")
    found, on_subset = {}, {}
    for name, method in methods(
        tables, options.shops, options.steps, options.shops // 20
    ).items():
        found[name] = judge(method, tables, truth, whole, options.keys)
        say(name)
    reference, width = moments(small["draws"])
    for name, method in methods(part, subset, options.steps, subset // 4).items():
        result, _ = run(method, jax.random.split(jax.random.key(18), 2), part)
        one = jax.tree.map(lambda value: value[0], result.params)
        means, sds = moments(draws_of(method, jax.random.key(19), one, part))
        on_subset[name] = {
            "off_in_sds_of_nuts": by_name(((means - reference) / width)[None]),
            "width_over_nuts": by_name((sds / width)[None]),
        }
        say(f"{name}, subset")

    growth = []
    for size in sizes:
        part = some(tables, size)
        nuts = sampled(part, draws, draws)
        seconds = {}
        for name, method in methods(part, size, options.steps, size // 4).items():
            if name in ("share by the rows", "shops integrated out"):
                _, each = run(method, jax.random.split(jax.random.key(20), 2), part)
                seconds[name] = round(float(each), 1)
        growth.append(
            {"shops": size, "seconds_nuts": round(nuts["seconds"], 1)}
            | {"least_effective_draws": round(nuts["least_effective_draws"])}
            | {"seconds": seconds}
        )
        say(f"{size} shops")

    truths = [truth[name] for name in GLOBALS[:4]]
    truths += [*truth["season"], truth["phi"]]
    facts = {
        **record.origin("measure.panels", parser, options, PACKAGES),
        "device": device(),
        "shops": options.shops,
        "weeks": options.weeks,
        "rows": int(tables["seen"].sum()),
        "shops_in_subset": subset,
        "steps": options.steps,
        "keys": options.keys,
        "draws_of_nuts": 2 * draws,
        "truth": dict(zip(NAMES, map(float, truths), strict=True)),
        "shares_by_rows": record.rounded(panel_model.shares_by_rows(**tables)),
        "nuts": facts_of(whole),
        "nuts_coverage": coverage(whole["draws"], truth),
        "nuts_on_subset": facts_of(small),
        "shops_with_few_rows": options.shops // 5,
        "few_rows": FEW_ROWS,
        "nuts_with_few_rows": facts_of(with_few_rows),
        "methods": found,
        "methods_on_subset": on_subset,
        "growth": growth,
    }
    record.write(path, facts)


if __name__ == "__main__":
    main()
