"""Fits of posteriors with a known truth, and what the report says about each.

Mean-field and full-rank guides, and a mean-field fit that is stopped early, with three
keys each. For each fit: how far means and sds are from the truth, the correlations that
are lost, k-hat, seconds, and the verdict of `helpers.diagnostics.report`. A fit is good
if every mean is within half an sd of the truth and every sd within a third of it.
Writes ``truths.json`` as soon as a posterior is measured; the lines of the others stay
as they are. On a busy machine, ``--untimed`` keeps the seconds that are stored, and
``--max-seconds`` gives the report more time. Run it from the root of the project:

    python -m benchmarks.measure.truths
"""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from numpyro.infer import SVI, Predictive, Trace_ELBO
from numpyro.infer.autoguide import AutoMultivariateNormal, AutoNormal

from benchmarks.shared import posteriors, record
from benchmarks.shared.programs import programs_kept
from helpers.diagnostics import Report, importance_summary, log_weights, report
from helpers.environment import device
from helpers.training import fit

PACKAGES = ("jax", "numpyro", "optax", "inference-gym")
DRAWS = 100_000  # of a guide, to compare it with the truth: tails may be heavy
PAIRS = 100  # numbers whose correlations are compared, evenly spaced
MEAN, NARROW, WIDE = 0.5, 2 / 3, 4 / 3  # bounds of a good fit


class Method(NamedTuple):
    """A guide, steps, the first step size, and for how many numbers at most."""

    guide: Callable
    steps: int
    rate: float
    most: int


METHODS = {
    "mean-field": Method(AutoNormal, 5_000, 0.03, 10_000),
    "full rank": Method(AutoMultivariateNormal, 5_000, 0.03, 300),
    "mean-field, stopped early": Method(AutoNormal, 150, 0.03, 10_000),
}


def correlations(draws: dict[str, np.ndarray]) -> np.ndarray:
    """Return the correlations of numbers of all sites."""
    every = np.concatenate(list(draws.values()), 1)
    some = np.linspace(0, every.shape[1] - 1, min(every.shape[1], PAIRS)).astype(int)
    return np.corrcoef(every[:, some].T)


def compared(
    draws: dict[str, np.ndarray], truth: posteriors.Truth, joint: np.ndarray
) -> dict[str, Any]:
    """Return how far draws of a guide are from the truth."""
    shifts, ratios = [], []
    for name, values in draws.items():
        mean, sd = np.ravel(truth.means[name]), np.ravel(truth.sds[name])
        shifts.append((values.mean(0) - mean) / sd)
        ratios.append(values.std(0) / sd)
    shift, ratio = np.concatenate(shifts), np.concatenate(ratios)
    lost = np.abs(joint - correlations(draws))
    facts = {
        "shift": float(np.abs(shift).max()),
        "least_ratio": float(ratio.min()),
        "largest_ratio": float(ratio.max()),
        "correlation_lost": float(lost.max()),
    }
    good = facts["shift"] <= MEAN and ratio.min() >= NARROW and ratio.max() <= WIDE
    return facts | {"good": bool(good)}


def reported(said: Report, sites: Sequence[str] | None = None) -> dict[str, float]:
    """Return the worst shift and ratios that a report found, at some sites or all."""
    sites = list(said.shifts) if sites is None else sites
    shifts, ratios = (
        np.concatenate([of[name] for name in sites])
        for of in (said.shifts, said.ratios)
    )
    return {
        "report_shift": float(np.abs(shifts).max()),
        "report_least_ratio": float(ratios.min()),
        "report_largest_ratio": float(ratios.max()),
    }


def timed(run: Callable[[], Any]) -> float:
    """Return the seconds that a call takes."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def measure(
    rng_key: jax.Array,
    truth: posteriors.Truth,
    method: Method,
    joint: np.ndarray,
    num_keys: int,
    max_seconds: float,
    seconds: dict[str, float],
) -> list[dict[str, Any]]:
    """Fit a posterior with some keys; judge each fit by truth and report.

    Seconds that are given are kept; the others are measured with the first key.
    """
    guide = method.guide(truth.model)
    rates = optax.cosine_decay_schedule(method.rate, method.steps)
    svi = SVI(truth.model, guide, optax.adam(rates), Trace_ELBO())
    first_key, fit_key, *keys = jax.random.split(rng_key, 2 + num_keys)
    inputs, quiet = (svi, method.steps), {"progress_bar": False}
    # The same fit twice on purpose: with compilation, and without.
    for name in ("fit_cold_seconds", "fit_seconds"):
        if name not in seconds:
            seconds[name] = timed(lambda: fit(first_key, *inputs, **quiet))
    runs = fit(jax.random.split(fit_key, num_keys), *inputs, **quiet)
    found = []
    for i, key in enumerate(keys):
        params = jax.tree.map(lambda leaf, i=i: leaf[i], runs.params)
        draw_key, site_key, weight_key, report_key = jax.random.split(key, 4)
        drawn = Predictive(guide, params=params, num_samples=DRAWS)(draw_key)
        sites = Predictive(truth.model, drawn, return_sites=[*truth.means])(site_key)
        began = time.perf_counter()
        said = report(report_key, truth.model, guide, params, max_seconds=max_seconds)
        seconds.setdefault("report_seconds", time.perf_counter() - began)
        weights = log_weights(weight_key, truth.model, guide, params)
        facts = compared(posteriors.flat(drawn | sites, truth), truth, joint)
        found.append(
            facts
            | seconds
            | reported(said)
            | {
                "verdict": said.verdict,
                "reasons": said.reasons,
                "khat": importance_summary(weights).khat,
                "elbo": said.importance.elbo,
            }
        )
    return found


def measured(
    rng_key: jax.Array, name: str, options: Any, known: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Fit a posterior with every guide that suits its size; return a line for each fit.

    `known` are the lines that are stored of it, whose seconds may be kept.
    """
    truth = posteriors.POSTERIORS[name]()
    size = sum(np.size(mean) for mean in truth.means.values())
    reference_key, *keys = jax.random.split(rng_key, 1 + len(METHODS))
    joint = correlations(posteriors.reference(reference_key, truth))
    about = {"posterior": name, "numbers": size}
    about |= {"held_out": name in posteriors.HELD_OUT}
    fits = []
    for key, (label, method) in zip(keys, METHODS.items(), strict=True):
        if size > method.most:
            continue
        before = [line for line in known if line["guide"] == label]
        kept = {}
        if options.untimed and before:
            kept = {n: v for n, v in before[0].items() if n.endswith("_seconds")}
        inputs = truth, method, joint, options.keys, options.max_seconds, kept
        with programs_kept():  # a report for the next key compiles nothing
            found = measure(key, *inputs)
        fits += [record.rounded(about | {"guide": label} | facts) for facts in found]
        print(*fits[-options.keys :], sep="\n", flush=True)
    return fits


def stored(path: Path) -> dict[str, Any]:
    """Return the facts of the last run, or what an empty one would say."""
    return json.loads(path.read_text("utf-8")) if path.exists() else {"fits": []}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure all posteriors, or those that are named."""
    parser = record.parser(__doc__)
    parser.add_argument("--keys", type=int, default=3, help="fits with each guide")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these posteriors")
    parser.add_argument("--untimed", action="store_true", help="keep stored seconds")
    parser.add_argument("--max-seconds", type=float, default=60.0, help="of a report")
    options = parser.parse_args(argv)
    path = record.folder(options) / "truths.json"
    names = options.only or list(posteriors.POSTERIORS)
    if options.quick:
        names, options.keys = ["intercept and slope"], 1
    keys = jax.random.split(jax.random.key(0), len(posteriors.POSTERIORS))
    for name, key in zip(posteriors.POSTERIORS, keys, strict=True):
        if name not in names:
            continue
        before = stored(path)
        lines = {
            of: [line for line in before["fits"] if line["posterior"] == of]
            for of in posteriors.POSTERIORS
        }
        lines[name] = measured(key, name, options, lines[name])
        facts = record.origin("measure.truths", parser, options, PACKAGES)
        timed_on = before.get("timed", before.get("date", facts["date"]))
        facts |= {"timed": timed_on if options.untimed else facts["date"]}
        facts |= {"device": device(), "keys": options.keys}
        fits = [line for of_name in lines.values() for line in of_name]
        record.write(path, facts | {"fits": fits}, show=False)


if __name__ == "__main__":
    main()
