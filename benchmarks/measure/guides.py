"""One ladder of guides, from points to flows, on three models.

A regression with correlated features, eight schools and the network of notebook 04,
each fitted with every guide and several keys. For each fit: the number of variational
parameters, ELBO, k-hat, the verdict of `helpers.diagnostics.report`, seconds, and how
far the fit is from the truth: known means and sds, or for the network the logits of
NUTS and the log score on validation rows. Of a Laplace approximation, the Gaussian is
judged as well. Writes ``guides.json``. On a busy machine, ``--untimed`` keeps the
seconds that are stored, and ``--max-seconds`` gives the report more time. Run it from
the root of the project:

    python -m benchmarks.measure.guides
"""

import json
import time
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
from numpyro.distributions import constraints
from numpyro.handlers import seed
from numpyro.infer import SVI, Predictive, Trace_ELBO
from numpyro.infer.autoguide import (
    AutoBNAFNormal,
    AutoDAIS,
    AutoDelta,
    AutoIAFNormal,
    AutoLaplaceApproximation,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
    AutoNormal,
)
from scipy.special import logit

from benchmarks.measure.bnn_reference import predict
from benchmarks.measure.truths import compared, correlations, reported
from benchmarks.shared import bnn_model, posteriors, record
from benchmarks.shared.programs import programs_kept
from helpers.diagnostics import importance_summary, log_weights, report
from helpers.environment import device
from helpers.scores import log_score
from helpers.training import NonFiniteLossError, fit

PACKAGES = ("jax", "numpyro", "optax", "flax", "inference-gym")
DRAWS = 4_000  # of a guide, to compare it with the truth
REGRESSION = "regression, features 0.9"
SCHOOLS = "eight schools, centered"
NETWORK = "Bayesian neural network"
LAPLACE = "AutoLaplaceApproximation"
FLOWS = ("AutoIAFNormal", "AutoBNAFNormal")  # a third of the step size: they run away
TOO_LONG = (NETWORK, "AutoBNAFNormal")  # 78,000 parameters


class Case(NamedTuple):
    """A model with its data, what suits it, and how draws are judged.

    `judge` takes a key and draws of the unknowns, and returns facts.
    """

    model: Callable
    args: tuple
    structured: Callable
    rank: int
    steps: int
    rate: float
    judge: Callable


#: From points to flows and annealing.
GUIDES: dict[str, Callable[[Case], Callable]] = {
    "AutoDelta": lambda case: AutoDelta(case.model),
    LAPLACE: lambda case: AutoLaplaceApproximation(case.model),
    "AutoNormal": lambda case: AutoNormal(case.model),
    "AutoLowRankMultivariateNormal": lambda case: AutoLowRankMultivariateNormal(
        case.model, rank=case.rank
    ),
    "AutoMultivariateNormal": lambda case: AutoMultivariateNormal(case.model),
    "structured": lambda case: case.structured,
    "AutoIAFNormal": lambda case: AutoIAFNormal(case.model),
    "AutoBNAFNormal": lambda case: AutoBNAFNormal(case.model),
    "AutoDAIS": lambda case: AutoDAIS(case.model, K=8),
}


def start(name: str, shape: tuple[int, ...] = ()) -> jax.Array:
    """Return locations that start between -2 and 2, as those of autoguides."""
    draw = partial(jax.random.uniform, shape=shape, minval=-2.0, maxval=2.0)
    return numpyro.param(name, draw)


def band_guide(dim: int = 8) -> None:
    """Let each coefficient share noise with the one before it."""
    loc = start("loc", (dim,))
    scale = numpyro.param(
        "scale", jnp.full(dim, 0.1), constraint=constraints.softplus_positive
    )
    shared = numpyro.param("shared", jnp.zeros(dim - 1))
    root = jnp.diag(scale) + jnp.diag(shared, -1)
    numpyro.sample("w", dist.MultivariateNormal(loc, scale_tril=root))


def schools_guide() -> None:
    """Draw log_tau; all else has a known Gaussian given it, and needs no parameters."""
    loc = numpyro.param("loc", 1.0)
    scale = numpyro.param("scale", 1.0, constraint=constraints.positive)
    log_tau = numpyro.sample("log_tau", dist.Normal(loc, scale))
    of_effects, of_noise = jnp.exp(2 * log_tau), posteriors.EFFECT_SDS**2
    weight = 1 / (of_effects + of_noise)
    total = weight.sum() + 1 / 10**2  # with the prior of the mean
    middle = (weight * posteriors.EFFECTS).sum() / total
    mu = numpyro.sample("mu", dist.Normal(middle, total**-0.5))
    of_data = of_effects * weight
    means = of_data * posteriors.EFFECTS + (1 - of_data) * mu
    sds = jnp.sqrt(of_data) * posteriors.EFFECT_SDS
    with numpyro.plate("schools", 8):
        numpyro.sample("theta", dist.Normal(means, sds))


def layers_guide(x: jax.Array, y: jax.Array | None = None) -> None:
    """Draw kernel and bias of a layer from one Gaussian; layers are independent."""
    for layer, (wide, narrow) in enumerate(((2, 4), (4, 3), (3, 1))):
        name, size = f"nn/layers.{layer}", (wide + 1) * narrow
        root = numpyro.param(
            f"{name}_root",
            0.1 * jnp.eye(size),
            constraint=constraints.scaled_unit_lower_cholesky,
        )
        whole = numpyro.sample(
            f"{name}_whole",
            dist.MultivariateNormal(start(f"{name}_loc", (size,)), scale_tril=root),
            infer={"is_auxiliary": True},
        )
        kernel, bias = whole[:-narrow].reshape(wide, narrow), whole[-narrow:]
        numpyro.sample(f"{name}.kernel", dist.Delta(kernel, event_dim=2))
        numpyro.sample(f"{name}.bias", dist.Delta(bias, event_dim=1))


def small_case(name: str, steps: int) -> Case:
    """Return a posterior of `benchmarks.shared.posteriors`, with known moments."""
    truth = posteriors.POSTERIORS[name]()
    joint = correlations(posteriors.reference(jax.random.key(1), truth))
    structured = {REGRESSION: band_guide, SCHOOLS: schools_guide}[name]

    def judge(rng_key: jax.Array, drawn: dict) -> dict[str, Any]:
        sites = Predictive(truth.model, posterior_samples=drawn)(rng_key)
        with np.errstate(invalid="ignore"):  # points have no correlations
            facts = compared(posteriors.flat(drawn | sites, truth), truth, joint)
        lost = facts["correlation_lost"]
        return facts | {"correlation_lost": lost if np.isfinite(lost) else None}

    return Case(truth.model, (), structured, 2, steps, 0.02, judge)


@cache
def references() -> dict[str, np.ndarray]:
    """Return probabilities on validation rows by NUTS and by the deep ensemble."""
    validation = bnn_model.make_data()[1]
    found = {}
    with np.load(record.RESULTS / "bnn_reference.npz") as stored:
        for kind in ("nuts", "ensemble"):
            weights = {
                name.removeprefix(f"{kind}/"): stored[name]
                for name in stored.files
                if name.startswith(kind)
            }
            found[kind] = predict(weights, validation[0])
    return {kind: p.reshape(-1, p.shape[-1]) for kind, p in found.items()}


def network_case(steps: int) -> Case:
    """Return the network of notebook 04; its functions are judged, not its weights."""
    train, (x, y), _ = bnn_model.make_data()
    p_nuts = references()["nuts"]
    logits = logit(np.clip(p_nuts, 1e-6, 1 - 1e-6))
    mean, sd = logits.mean(0), logits.std(0)

    def scores(p: np.ndarray) -> np.ndarray:
        p = p.mean(0)
        return np.log(np.where(np.asarray(y) == 1, p, 1 - p))

    def judge(rng_key: jax.Array, drawn: dict) -> dict[str, Any]:
        del rng_key  # nothing is left to draw
        weights = {n: v for n, v in drawn.items() if n.endswith(("kernel", "bias"))}
        p = predict(weights, x)
        logits = logit(np.clip(p, 1e-6, 1 - 1e-6))
        shift, ratio = (logits.mean(0) - mean) / sd, logits.std(0) / sd
        behind = scores(p_nuts) - scores(p)
        return {
            "shift": float(np.abs(shift).max()),
            "least_ratio": float(ratio.min()),
            "largest_ratio": float(ratio.max()),
            "median_ratio": float(np.median(ratio)),
            "log_score": float(log_score(y, p.mean(0))),
            "behind_nuts": float(behind.mean()),
            "behind_nuts_se": float(behind.std(ddof=1) / np.sqrt(behind.size)),
        }

    return Case(bnn_model.model, train, layers_guide, 5, steps, 0.03, judge)


def draws_of(rng_key: jax.Array, guide: Callable, params: dict, case: Case) -> dict:
    """Draw the unknowns; of a Laplace approximation, from its Gaussian."""
    if isinstance(guide, AutoLaplaceApproximation):
        return guide.sample_posterior(rng_key, params, sample_shape=(DRAWS,))
    return Predictive(guide, params=params, num_samples=DRAWS)(rng_key, *case.args)


def judged(
    rng_key: jax.Array, guide: Callable, params: dict, case: Case, max_seconds: float
) -> dict:
    """Judge a fit: by its truth, by the report, and by weights where it has them."""
    draw_key, site_key, weight_key, report_key = jax.random.split(rng_key, 4)
    facts = case.judge(site_key, draws_of(draw_key, guide, params, case))
    inputs = case.model, guide, params, *case.args
    said = report(report_key, *inputs, max_seconds=max_seconds)
    facts |= {"verdict": said.verdict, "reasons": said.reasons}
    facts |= {"elbo": None, "elbo_se": None, "khat": None}
    if said.shifts:
        facts |= reported(said)
    if "p" in said.shifts:  # of the network
        facts |= {f"{name}_p": fact for name, fact in reported(said, ["p"]).items()}
    if said.importance is not None:
        found = importance_summary(log_weights(weight_key, *inputs))
        khat = found.khat if np.isfinite(found.khat) else None  # an exact fit: no tail
        facts |= {"elbo": found.elbo, "elbo_se": found.elbo_se, "khat": khat}
    return facts


def gaussian_of(guide: AutoLaplaceApproximation, params: dict, case: Case) -> tuple:
    """Return the Gaussian of a Laplace approximation, as a guide with parameters."""
    found = guide.get_posterior(params)
    gaussian = AutoMultivariateNormal(case.model)
    seed(gaussian, jax.random.key(0))(*case.args)  # it has to see its model
    return gaussian, {"auto_loc": found.loc, "auto_scale_tril": found.scale_tril}


def measure(
    rng_key: jax.Array, case: Case, label: str, num_keys: int, max_seconds: float
) -> list[dict[str, Any]]:
    """Fit a guide with some keys, once alone to time it; judge each fit."""
    guide = GUIDES[label](case)
    rate = case.rate / 3 if label in FLOWS else case.rate
    rates = optax.cosine_decay_schedule(rate, case.steps)
    svi = SVI(case.model, guide, optax.adam(rates), Trace_ELBO())
    first_key, fit_key, *keys = jax.random.split(rng_key, 2 + num_keys)
    inputs, quiet = (svi, case.steps, *case.args), {"progress_bar": False}
    began = time.perf_counter()
    first = fit(first_key, *inputs, **quiet)
    facts = {
        "fit_cold_seconds": time.perf_counter() - began,
        "fit_seconds": first.steps / first.steps_per_second,
    }
    free = svi.optim.get_params(first.state.optim_state)
    facts["parameters"] = sum(np.size(leaf) for leaf in jax.tree.leaves(free))
    runs = fit(jax.random.split(fit_key, num_keys), *inputs, **quiet)
    found = []
    for i, key in enumerate(keys):
        params = jax.tree.map(lambda leaf, i=i: leaf[i], runs.params)
        facts |= {"key": i, "stopped": runs.stopped[i]}
        fitted_key, gaussian_key = jax.random.split(key)
        found.append(facts | judged(fitted_key, guide, params, case, max_seconds))
        if isinstance(guide, AutoLaplaceApproximation):
            gaussian, params = gaussian_of(guide, params, case)
            of_gaussian = judged(gaussian_key, gaussian, params, case, max_seconds)
            found.append(facts | {"part": "its Gaussian"} | of_gaussian)
    return found


def keep_seconds(facts: dict[str, Any], known: dict[str, Any]) -> None:
    """Put stored seconds in place of those of this run, where the fit is stored."""

    def name_of(line: dict[str, Any]) -> tuple:
        return tuple(line.get(part) for part in ("model", "guide", "key", "part"))

    stored = {name_of(line): line for line in known["fits"]}
    for line in facts["fits"]:
        before = stored.get(name_of(line), {})
        line |= {n: v for n, v in before.items() if n in line and n.endswith("seconds")}
    facts |= {"seconds": known["seconds"], "timed": known.get("timed", known["date"])}


def rounded(facts: dict[str, Any]) -> dict[str, Any]:
    """Keep four digits, but of an ELBO thousandths: guides differ by less than 1."""
    elbo = facts.get("elbo")
    kept = {} if elbo is None else {"elbo": round(elbo, 3)}
    return record.rounded(facts) | kept


def warm_up(case: Case) -> None:
    """Fit a few steps, so that no guide pays for the start of JAX."""
    svi = SVI(case.model, AutoDelta(case.model), optax.adam(0.01), Trace_ELBO())
    fit(jax.random.key(2), svi, 50, *case.args, progress_bar=False)


def main(argv: Sequence[str] | None = None) -> None:
    """Climb the ladder on all models, or on the first one alone."""
    parser = record.parser(__doc__)
    parser.add_argument("--keys", type=int, default=3, help="fits with each guide")
    parser.add_argument(
        "--only", nargs="+", metavar="GUIDE", choices=[*GUIDES], help="these guides"
    )
    parser.add_argument("--untimed", action="store_true", help="keep stored seconds")
    parser.add_argument("--max-seconds", type=float, default=60.0, help="of a report")
    options = parser.parse_args(argv)
    path = record.folder(options) / "guides.json"
    chosen, num_keys = options.only or list(GUIDES), options.keys
    makers = {
        REGRESSION: lambda: small_case(REGRESSION, 10_000),
        SCHOOLS: lambda: small_case(SCHOOLS, 10_000),
        NETWORK: lambda: network_case(8_000),
    }
    if options.quick:
        makers = {REGRESSION: lambda: small_case(REGRESSION, 1_000)}
        chosen, num_keys = options.only or ["AutoDelta", "AutoNormal"], 1
    began, key, fits = time.perf_counter(), jax.random.key(0), []
    with programs_kept():
        for name, maker in makers.items():
            case = maker()
            warm_up(case)
            for label in chosen:
                if (name, label) == TOO_LONG:
                    continue
                key, fit_key = jax.random.split(key)
                line = {"model": name, "guide": label}
                try:
                    found = measure(fit_key, case, label, num_keys, options.max_seconds)
                except NonFiniteLossError as error:
                    found = [{"stopped": str(error)}]
                for facts in found:
                    fits.append(rounded(line | facts))
                    print(fits[-1], flush=True)
    facts = record.origin("measure.guides", parser, options, PACKAGES)
    facts |= {"device": device(), "keys": num_keys}
    facts["seconds"] = round(time.perf_counter() - began, 1)
    if NETWORK in makers:
        y = bnn_model.make_data()[1][1]
        scored = {n: float(log_score(y, p.mean(0))) for n, p in references().items()}
        facts["network_log_scores"] = record.rounded(scored)
    facts["fits"] = fits
    if options.untimed:
        keep_seconds(facts, json.loads(path.read_text("utf-8")))
    record.write(path, facts)


if __name__ == "__main__":
    main()
