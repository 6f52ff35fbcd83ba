"""Fits of posteriors with a known truth, and what the report says about each.

Mean-field and full-rank guides, and a mean-field fit that is stopped early, with three
keys each. For each fit: how far means and sds are from the truth, the correlations that
are lost, k-hat, seconds, and the verdict of `helpers.diagnostics.report`. A fit is good
if every mean is within half an sd of the truth and every sd within a third of it.
Writes ``truths.json``. Run it from the root of the project:

    python -m benchmarks.measure.truths
"""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from numpyro.infer import SVI, Predictive, Trace_ELBO
from numpyro.infer.autoguide import AutoMultivariateNormal, AutoNormal

from benchmarks.shared import posteriors, record
from helpers.diagnostics import Report, importance_summary, log_weights, report
from helpers.environment import device
from helpers.training import fit

PACKAGES = ("jax", "numpyro", "optax", "inference-gym")
DRAWS = 4_000  # of a guide, to compare it with the truth
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


def measure(
    rng_key: jax.Array,
    truth: posteriors.Truth,
    method: Method,
    joint: np.ndarray,
    num_keys: int,
) -> list[dict[str, Any]]:
    """Fit a posterior with some keys; judge each fit by truth and report."""
    guide = method.guide(truth.model)
    rates = optax.cosine_decay_schedule(method.rate, method.steps)
    svi = SVI(truth.model, guide, optax.adam(rates), Trace_ELBO())
    first_key, fit_key, *keys = jax.random.split(rng_key, 2 + num_keys)
    seconds = {}
    # The same fit twice on purpose: with compilation, and without.
    for name in ("fit_cold_seconds", "fit_seconds"):
        began = time.perf_counter()
        fit(first_key, svi, method.steps, progress_bar=False)
        seconds[name] = time.perf_counter() - began
    fit_keys = jax.random.split(fit_key, num_keys)
    runs = fit(fit_keys, svi, method.steps, progress_bar=False)
    found = []
    for i, key in enumerate(keys):
        params = jax.tree.map(lambda leaf, i=i: leaf[i], runs.params)
        draw_key, site_key, weight_key, report_key = jax.random.split(key, 4)
        drawn = Predictive(guide, params=params, num_samples=DRAWS)(draw_key)
        drawn |= Predictive(truth.model, posterior_samples=drawn)(site_key)
        began = time.perf_counter()
        said = report(report_key, truth.model, guide, params)
        seconds["report_seconds"] = time.perf_counter() - began
        weights = log_weights(weight_key, truth.model, guide, params)
        facts = compared(posteriors.flat(drawn, truth), truth, joint)
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


def main(argv: Sequence[str] | None = None) -> None:
    """Measure all posteriors, or those that are named."""
    parser = record.parser(__doc__)
    parser.add_argument("--keys", type=int, default=3, help="fits with each guide")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these posteriors")
    options = parser.parse_args(argv)
    path = record.folder(options) / "truths.json"
    names = options.only or list(posteriors.POSTERIORS)
    num_keys = options.keys
    if options.quick:
        names, num_keys = ["intercept and slope"], 1
    key, fits = jax.random.key(0), []
    for name in names:
        truth = posteriors.POSTERIORS[name]()
        size = sum(np.size(mean) for mean in truth.means.values())
        key, reference_key = jax.random.split(key)
        joint = correlations(posteriors.reference(reference_key, truth))
        for label, method in METHODS.items():
            if size > method.most:
                continue
            key, fit_key = jax.random.split(key)
            for facts in measure(fit_key, truth, method, joint, num_keys):
                line = {"posterior": name, "numbers": size, "guide": label}
                line["held_out"] = name in posteriors.HELD_OUT
                fits.append(record.rounded(line | facts))
                print(fits[-1], flush=True)
    facts = record.origin("measure.truths", parser, options, PACKAGES)
    facts |= {"device": device(), "keys": num_keys, "fits": fits}
    record.write(path, facts)


if __name__ == "__main__":
    main()
