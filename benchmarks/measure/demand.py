"""Demand of many articles: guides against NUTS, pooling, and seconds by size.

The model of notebook 10 on simulated articles. Four questions: how wide are two
guides beside NUTS on fifty articles; what do pooling and the record of sold-out weeks
bring, beside AutoETS, on several data sets; do more steps change anything; how many
seconds do SVI and NUTS take as the number of articles grows? (Seconds of all cores
together, with compilation: what else the machine does changes them little.)
Writes ``demand.json``. Run it from the root of the project:

    python -m benchmarks.measure.demand
"""

import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import optax
import pandas as pd
from numpyro.diagnostics import effective_sample_size, split_gelman_rubin
from numpyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO, init_to_median
from numpyro.infer.autoguide import AutoMultivariateNormal, AutoNormal
from statsforecast import StatsForecast
from statsforecast.models import AutoETS, Naive

from benchmarks.shared import record
from benchmarks.shared.demand_model import (
    Future,
    History,
    before_and_after,
    demand_model,
)
from benchmarks.shared.programs import programs_kept
from helpers import datasets
from helpers.diagnostics import report
from helpers.environment import device
from helpers.forecasts import LEVELS, weighted_interval_score
from helpers.panels import Panel, to_panel
from helpers.training import fit, predict

PACKAGES = ("jax", "numpyro", "optax", "statsforecast")
HELD_OUT = 26
GUIDES = {"mean-field": AutoNormal, "full rank": AutoMultivariateNormal}
SPANS = (("below 26", 0, 26), ("26 to 103", 26, 104), ("104 and more", 104, 1_000))
COLUMNS = ["group", "price", "sales", "sold_out", "demand"]


def articles(seed: int, num_series: int) -> tuple[History, Future, Panel, dict]:
    """Return history and plan, the panel of all weeks, and the truth of articles."""
    frame, truth = datasets.demand(np.random.default_rng(seed), num_series)
    frame["demand"] = truth["demand"]
    panel = to_panel(frame, "series", "date", COLUMNS, every="7D", counts=["sales"])
    cut = panel.times.size - HELD_OUT
    return *before_and_after(panel, cut, slice(None)), panel, truth


def fitted(key: jax.Array, history: History, kind: Any, steps: int, **kwargs: Any):
    """Return a guide and its fit, as in the notebook; full rank takes longer."""
    guide = kind(demand_model, init_loc_fn=init_to_median())
    full = kind is AutoMultivariateNormal
    rate = optax.cosine_decay_schedule(0.01 if full else 0.05, steps)
    loss = Trace_ELBO(4 if full else 1)
    svi = SVI(demand_model, guide, optax.adam(rate, b2=0.95), loss)
    return guide, fit(key, svi, steps, history, progress_bar=False, **kwargs)


def sampled(key: jax.Array, history: History, counts: tuple[int, int, int]) -> MCMC:
    """Return NUTS after warm-up and draws, with chains side by side."""
    warmup, draws, chains = counts
    mcmc = MCMC(
        NUTS(demand_model, init_strategy=init_to_median()),
        num_warmup=warmup,
        num_samples=draws,
        num_chains=chains,
        chain_method="vectorized",
        progress_bar=False,
    )
    mcmc.run(key, history)
    return mcmc


def compared(drawn: dict, truth: dict) -> dict[str, dict[str, float]]:
    """Return the middle ratio of sds, and the largest shift in sds, at each site."""
    sds = {name: values.std(0) for name, values in truth.items()}
    ratios = {n: float(np.median(drawn[n].std(0) / sds[n])) for n in truth}
    shifts = {
        n: float(np.abs((drawn[n].mean(0) - truth[n].mean(0)) / sds[n]).max())
        for n in truth
    }
    return {"ratios": ratios, "shifts": shifts}


def with_totals(draws: dict[str, Any]) -> dict[str, np.ndarray]:
    """Return draws of the unknowns and of the demand of all held-out weeks together."""
    draws = {name: np.asarray(values) for name, values in draws.items()}
    return draws | {"demand": draws["demand"].sum(1)}


def verdict(
    key: jax.Array, guide: Any, params: dict, history: History, patience: float
) -> dict[str, Any]:
    """Return what `report` says of a fit, when it has the time."""
    report_key = jax.random.fold_in(key, 2)
    found = report(
        report_key, demand_model, guide, params, history, max_seconds=patience
    )
    off = [line["site"] for line in found.sites if line["verdict"] == "off"]
    return {"verdict": found.verdict, "off": off, "reasons": found.reasons}


def widths(
    num_series: int, counts: tuple, steps: dict, keys: int, patience: float
) -> dict[str, Any]:
    """Compare the guides with NUTS: sds and means of each site, width of forecasts."""
    history, future, *_ = articles(100, num_series)
    key = jax.random.key(100)
    mcmc = sampled(jax.random.fold_in(key, 0), history, counts)
    chains = mcmc.get_samples(group_by_chain=True)
    rhat = max(
        float(np.max(split_gelman_rubin(np.asarray(v)))) for v in chains.values()
    )
    ahead = Predictive(demand_model, mcmc.get_samples())
    more = ahead(jax.random.fold_in(key, 1), history, future)["demand"]
    truth = with_totals(mcmc.get_samples() | {"demand": more})
    lines = []
    for label, kind in GUIDES.items():
        for run in range(keys):
            fit_key, draw_key = jax.random.split(jax.random.fold_in(key, 10 + run))
            guide, result = fitted(fit_key, history, kind, steps[label])
            elbo = -float(result.losses[-len(result.losses) // 10 :].mean())
            found = predict(
                draw_key,
                demand_model,
                guide,
                result.params,
                len(truth["demand"]),
                history,
                future=future,
                sites=list(truth),
            )
            line = {"guide": label, "elbo": elbo} | compared(with_totals(found), truth)
            if run == 0:
                line |= verdict(key, guide, result.params, history, patience)
            lines.append(line)
            print(line, flush=True)
    return {"articles": num_series, "rhat": rhat, "fits": lines}


def judged(key: jax.Array, seed: int, num_series: int, steps: int) -> list[dict]:
    """Fit one data set in three ways; score forecasts and price effects of each."""
    history, future, panel, truth = articles(seed, num_series)
    weeks, lines = history.seen.sum(1), []
    actual = panel.values["demand"][:, -HELD_OUT:].T
    alone = np.arange(num_series)
    ways = {
        "pooled": (history, {}),
        "each alone": (history._replace(group=alone), {"num_groups": num_series}),
        "stock-outs ignored": (
            history._replace(sold_out=np.zeros_like(history.sold_out)),
            {},
        ),
    }
    for way, (given, more) in ways.items():
        key, fit_key, draw_key = jax.random.split(key, 3)
        guide, result = fitted(fit_key, given, AutoNormal, steps, **more)
        drawn = predict(
            draw_key,
            demand_model,
            guide,
            result.params,
            300,
            given,
            future=future,
            sites=["demand", "elasticity"],
            **more,
        )
        quantiles = np.quantile(drawn["demand"], LEVELS, axis=0)
        score = weighted_interval_score(actual, quantiles).mean(0)
        error = drawn["elasticity"].mean(0) - truth["elasticity"]
        for label, few, many in SPANS:
            chosen = (weeks >= few) & (weeks < many)
            lines.append(
                {
                    "data": seed,
                    "way": way,
                    "weeks": label,
                    "articles": int(chosen.sum()),
                    "score": float(score[chosen].mean()),
                    "forecast": float(drawn["demand"][..., chosen].mean()),
                    "actual": float(actual[:, chosen].mean()),
                    "elasticity_error": float(np.sqrt((error[chosen] ** 2).mean())),
                    "elasticity_bias": float(error[chosen].mean()),
                }
            )
            print(lines[-1], flush=True)
    return lines


def simple(seed: int, num_series: int) -> list[dict]:
    """Score AutoETS on the same articles and weeks, by its mean and intervals."""
    history, _, panel, _ = articles(seed, num_series)
    weeks, actual = history.seen.sum(1), panel.values["demand"][:, -HELD_OUT:].T
    row, week = np.nonzero(history.seen)
    past = {"unique_id": row, "ds": panel.times[week], "y": history.sales[row, week]}
    model = StatsForecast([AutoETS()], freq="W-MON", fallback_model=Naive())
    lines = model.forecast(df=pd.DataFrame(past), h=HELD_OUT, level=[50, 80, 95])
    ends = ("-lo-95", "-lo-80", "-lo-50", "", "-hi-50", "-hi-80", "-hi-95")
    columns = [np.maximum(lines[f"AutoETS{end}"], 0) for end in ends]
    quantiles = np.stack([np.reshape(c, (-1, HELD_OUT)).T for c in columns])
    score = weighted_interval_score(actual, quantiles).mean(0)
    found = []
    for label, few, many in SPANS:
        chosen = (weeks >= few) & (weeks < many)
        facts = {"data": seed, "way": "AutoETS", "weeks": label}
        facts |= {"articles": int(chosen.sum()), "score": float(score[chosen].mean())}
        found.append(facts)
    return found


def arrived(num_series: int, lengths: Sequence[int], keys: int) -> list[dict]:
    """Fit all articles with fewer and more steps: what still moves is not there yet."""
    history, future, panel, _ = articles(10, num_series)
    actual, lines = panel.values["demand"][:, -HELD_OUT:].T, []
    for steps in lengths:
        for run in range(keys):
            fit_key, draw_key = jax.random.split(jax.random.key(1_000 + run))
            guide, result = fitted(fit_key, history, AutoNormal, steps)
            drawn = predict(
                draw_key,
                demand_model,
                guide,
                result.params,
                200,
                history,
                future=future,
                sites=["demand", "memory", "price_spread"],
            )
            quantiles = np.quantile(drawn["demand"], LEVELS, axis=0)
            lines.append(
                {
                    "steps": steps,
                    "run": run,
                    "elbo": round(-float(result.losses[-20:].mean())),
                    "memory": float(drawn["memory"].mean()),
                    "price_spread": float(drawn["price_spread"].mean()),
                    "score": float(weighted_interval_score(actual, quantiles).mean()),
                }
            )
            print(lines[-1], flush=True)
    return lines


def seconds(sizes: Sequence[int], most: int, counts: tuple, steps: int) -> list[dict]:
    """Count the seconds of SVI at every size, and of NUTS up to `most` articles."""
    lines = []
    for size in sizes:
        history, *_ = articles(size, size)
        key = jax.random.key(size)
        began = time.process_time()
        fitted(key, history, AutoNormal, steps)
        facts = {"articles": size, "svi_seconds": time.process_time() - began}
        if size <= most:
            began = time.process_time()
            mcmc = sampled(key, history, counts)
            chains = mcmc.get_samples(group_by_chain=True)
            facts["nuts_effective_draws"] = min(
                float(np.min(effective_sample_size(np.asarray(v))))
                for v in chains.values()
            )
            facts["nuts_seconds"] = time.process_time() - began
        lines.append(facts)
        print(facts, flush=True)
    return lines


def main(argv: Sequence[str] | None = None) -> None:
    """Answer the four questions."""
    parser = record.parser(__doc__)
    options = parser.parse_args(argv)
    path = record.folder(options) / "demand.json"
    quick = options.quick
    counts = (20, 20, 2) if quick else (300, 300, 2)
    steps = {"mean-field": 50 if quick else 1_500, "full rank": 50 if quick else 4_000}
    sizes = (10, 20) if quick else (25, 50, 100, 250, 500, 1_000, 2_000, 4_000)
    patience = 1.0 if quick else 900.0  # seconds of a report
    began = time.perf_counter()
    with programs_kept():
        found = {
            "widths": widths(
                10 if quick else 50, counts, steps, 1 if quick else 2, patience
            ),
            "ways": [
                line
                for seed in ((1,) if quick else (1, 2, 3))
                for line in judged(
                    jax.random.key(seed),
                    seed,
                    20 if quick else 300,
                    20 if quick else 400,
                )
            ],
            "simple": [
                line
                for seed in ((1,) if quick else (1, 2, 3))
                for line in simple(seed, 20 if quick else 300)
            ],
            "arrived": arrived(
                20 if quick else 1_000, (10, 20) if quick else (400, 1_500), 2
            ),
            "seconds": seconds(
                sizes, 10 if quick else 100, counts, 20 if quick else 400
            ),
        }
    facts = record.origin("measure.demand", parser, options, PACKAGES)
    facts |= {"device": device(), "draws": counts[1] * counts[2]}
    facts["seconds_in_all"] = round(time.perf_counter() - began, 1)
    record.write(path, facts | record.rounded(found))


if __name__ == "__main__":
    main()
