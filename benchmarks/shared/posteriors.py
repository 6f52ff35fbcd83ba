"""Posteriors with known means and sds: in closed form, or published from long runs.

Data and published moments are read from the package inference-gym (Sountsov et al.,
2020; Apache License 2.0). Its ground truths are plain modules of numbers: they are
loaded from their files, since the package itself wants TensorFlow.
"""

import importlib.util
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import lax
from numpyro.handlers import mask, reparam
from numpyro.infer import MCMC, NUTS, Predictive
from numpyro.infer.reparam import LocScaleReparam


class Truth(NamedTuple):
    """A model without arguments, and what is known of its posterior.

    Attributes
    ----------
    model : callable
        NumPyro model.
    means, sds : dict of numpy.ndarray
        Posterior means and standard deviations, by site.
    draw : callable or None
        From a key to exact draws of the posterior; None where NUTS has to draw them.
    """

    model: Callable
    means: dict[str, np.ndarray]
    sds: dict[str, np.ndarray]
    draw: Callable | None = None


DRAWS = 10_000  # of a posterior, for its correlations
# Of coaching in eight schools (Rubin, 1981).
EFFECTS = np.array([28.0, 8, -3, 7, -1, 1, 18, 12])
EFFECT_SDS = np.array([15.0, 10, 16, 11, 9, 11, 10, 18])


def _known(model: Callable, **moments: tuple) -> Truth:
    """Return the truth about a model without data: its prior can be drawn."""
    means = {name: np.asarray(mean) for name, (mean, _) in moments.items()}
    sds = {name: np.asarray(sd) for name, (_, sd) in moments.items()}
    return Truth(model, means, sds, Predictive(model, num_samples=DRAWS))


def correlated(covariance: np.ndarray) -> Truth:
    """Return a Gaussian with mean 0."""

    def model():
        zeros = jnp.zeros(len(covariance))
        numpyro.sample("x", dist.MultivariateNormal(zeros, jnp.asarray(covariance)))

    return _known(model, x=(np.zeros(len(covariance)), np.sqrt(np.diag(covariance))))


def neighbors(dim: int, correlation: float) -> np.ndarray:
    """Return correlations that decay with the distance of two numbers."""
    at = np.arange(dim)
    return correlation ** np.abs(at[:, None] - at)


def funnel(dim: int = 9) -> Truth:
    """Return Neal's funnel: a log scale, and numbers of that scale."""

    def model():
        v = numpyro.sample("v", dist.Normal(0, 3))
        with numpyro.plate("numbers", dim):
            numpyro.sample("x", dist.Normal(0, jnp.exp(v / 2)))

    return _known(model, v=(0.0, 3.0), x=(np.zeros(dim), np.full(dim, np.exp(9 / 4))))


def banana() -> Truth:
    """Return a parabola with noise around it."""

    def model():
        a = numpyro.sample("a", dist.Normal(0, 1))
        numpyro.sample("b", dist.Normal(a**2, 0.5))

    return _known(model, a=(0.0, 1.0), b=(1.0, 1.5))


def two_modes(apart: float, share: float = 0.5) -> Truth:
    """Return two Gaussians of sd 1, `apart` to the left and the right of 0."""
    modes = dist.MixtureSameFamily(
        dist.Categorical(probs=jnp.array([share, 1 - share])),
        dist.Normal(jnp.array([-apart, apart]), 1.0),
    )

    def model():
        x = numpyro.sample("x", dist.Normal(0, 20).expand([2]).to_event(1))
        prior = dist.Normal(0, 20).log_prob(x).sum()
        aim = modes.log_prob(x[0]) + dist.Normal(0, 1).log_prob(x[1])
        numpyro.factor("aim", aim - prior)

    def draw(key):
        first, second = jax.random.split(key)
        parts = modes.sample(first, (DRAWS,)), jax.random.normal(second, (DRAWS,))
        return {"x": jnp.stack(parts, -1)}

    mean = apart * (1 - 2 * share)
    sd = np.sqrt(1 + apart**2 - mean**2)
    return Truth(model, {"x": np.array([mean, 0])}, {"x": np.array([sd, 1])}, draw)


def heavy(degrees: float, dim: int = 10) -> Truth:
    """Return independent Student t distributions."""

    def model():
        numpyro.sample("x", dist.StudentT(degrees, 0, 1).expand([dim]).to_event(1))

    sd = np.sqrt(degrees / (degrees - 2))
    return _known(model, x=(np.zeros(dim), np.full(dim, sd)))


def gammas() -> Truth:
    """Return gamma distributions, from a pole at 0 to nearly a Gaussian."""
    shape = np.array([0.5, 1.0, 2.0, 8.0])

    def model():
        numpyro.sample("x", dist.Gamma(jnp.asarray(shape), 1.0).to_event(1))

    return _known(model, x=(shape, np.sqrt(shape)))


def betas() -> Truth:
    """Return beta distributions."""
    a, b = np.array([1.0, 3.0, 30.0]), np.array([9.0, 3.0, 4.0])

    def model():
        numpyro.sample("p", dist.Beta(jnp.asarray(a), jnp.asarray(b)).to_event(1))

    found = dist.Beta(a, b)
    return _known(model, p=(found.mean, np.sqrt(found.variance)))


def shares() -> Truth:
    """Return a Dirichlet distribution."""
    found = dist.Dirichlet(jnp.array([1.0, 2.0, 5.0, 10.0]))

    def model():
        numpyro.sample("p", found)

    return _known(model, p=(found.mean, np.sqrt(found.variance)))


def _gaussian(
    model: Callable, mean: np.ndarray, covariance: np.ndarray, cut: Callable
) -> Truth:
    """Return a Gaussian posterior; `cut` gives the numbers of a vector to sites."""

    def draw(key):
        drawn = dist.MultivariateNormal(jnp.asarray(mean), jnp.asarray(covariance))
        return cut(drawn.sample(key, (DRAWS,)))

    return Truth(model, cut(mean), cut(np.sqrt(np.diag(covariance))), draw)


def _linear(x: np.ndarray, y: np.ndarray, model: Callable, cut: Callable) -> Truth:
    """Return the posterior of a regression with noise of 1 and priors of sd 10."""
    covariance = np.linalg.inv(x.T @ x + np.eye(x.shape[1]) / 100)
    return _gaussian(model, covariance @ x.T @ y, covariance, cut)


def regression(correlation: float, rows: int = 100, dim: int = 8) -> Truth:
    """Return the posterior of a regression with correlated features."""
    rng = np.random.default_rng(0)
    x = rng.multivariate_normal(np.zeros(dim), neighbors(dim, correlation), rows)
    y = x @ rng.normal(size=dim) + rng.normal(size=rows)

    def model():
        w = numpyro.sample("w", dist.Normal(0, 10).expand([dim]).to_event(1))
        with numpyro.plate("rows", rows):
            numpyro.sample("y", dist.Normal(jnp.asarray(x) @ w, 1), obs=jnp.asarray(y))

    return _linear(x, y, model, lambda values: {"w": values})


def off_center(center: float = 10.0, rows: int = 50) -> Truth:
    """Return intercept and slope where the feature is far from 0."""
    rng = np.random.default_rng(1)
    x = center + rng.normal(size=rows)
    y = 1 + 0.5 * x + rng.normal(size=rows)

    def model():
        a = numpyro.sample("a", dist.Normal(0, 10))
        b = numpyro.sample("b", dist.Normal(0, 10))
        with numpyro.plate("rows", rows):
            line = a + b * jnp.asarray(x)
            numpyro.sample("y", dist.Normal(line, 1), obs=jnp.asarray(y))

    columns = np.stack([np.ones(rows), x], 1)
    return _linear(columns, y, model, lambda v: {"a": v[..., 0], "b": v[..., 1]})


def noise_unknown(rows: int = 30, dim: int = 4) -> Truth:
    """Return the posterior of a regression whose noise is unknown, too."""
    rng = np.random.default_rng(2)
    x = rng.normal(size=(rows, dim))
    y = x @ rng.normal(size=dim) + 2 * rng.normal(size=rows)
    covariance = np.linalg.inv(x.T @ x + np.eye(dim) / 25)
    mean = covariance @ x.T @ y
    shape = 3 + rows / 2
    rate = 3 + (y @ y - mean @ np.linalg.inv(covariance) @ mean) / 2

    def model():
        variance = numpyro.sample("variance", dist.InverseGamma(3.0, 3.0))
        sd = jnp.sqrt(variance)
        w = numpyro.sample("w", dist.Normal(0, 5 * sd).expand([dim]).to_event(1))
        with numpyro.plate("rows", rows):
            numpyro.sample("y", dist.Normal(jnp.asarray(x) @ w, sd), obs=jnp.asarray(y))

    def draw(key):
        first, second = jax.random.split(key)
        variance = dist.InverseGamma(shape, rate).sample(first, (DRAWS,))
        root = jnp.linalg.cholesky(jnp.asarray(covariance))
        noise = jax.random.normal(second, (DRAWS, dim)) @ root.T
        return {"variance": variance, "w": mean + jnp.sqrt(variance)[:, None] * noise}

    middle = rate / (shape - 1)
    means = {"variance": np.asarray(middle), "w": mean}
    sds = {
        "variance": np.asarray(middle / np.sqrt(shape - 2)),
        "w": np.sqrt(middle * np.diag(covariance)),
    }
    return Truth(model, means, sds, draw)


def rates(groups: int = 20) -> Truth:
    """Return the rates of groups, each with one small count."""
    y = np.random.default_rng(3).poisson(1.5, groups)
    found = dist.Gamma(2.0 + jnp.asarray(y), 2.0)

    def model():
        with numpyro.plate("groups", groups):
            rate = numpyro.sample("rate", dist.Gamma(2.0, 1.0))
            numpyro.sample("y", dist.Poisson(rate), obs=jnp.asarray(y))

    def draw(key):
        return {"rate": found.sample(key, (DRAWS,))}

    means, sds = {"rate": found.mean}, {"rate": np.sqrt(found.variance)}
    return Truth(model, means, sds, draw)


def _through_noise(
    model: Callable, name: str, prior: np.ndarray, y: np.ndarray, noise_sd: float
) -> Truth:
    """Return the posterior of a Gaussian vector with mean 0, seen through noise."""
    gain = prior @ np.linalg.inv(prior + noise_sd**2 * np.eye(len(y)))
    return _gaussian(model, gain @ y, prior - gain @ prior, lambda v: {name: v})


def gaussian_process(points: int = 25) -> Truth:
    """Return a smooth curve, seen through noise."""
    rng = np.random.default_rng(4)
    x = np.linspace(0, 5, points)
    prior = np.exp(-((x[:, None] - x) ** 2) / 2) + 1e-3 * np.eye(points)
    y = np.sin(x) + 0.5 * rng.normal(size=points)

    def model():
        zeros = jnp.zeros(points)
        f = numpyro.sample("f", dist.MultivariateNormal(zeros, jnp.asarray(prior)))
        numpyro.sample("y", dist.Normal(f, 0.5).to_event(1), obs=jnp.asarray(y))

    return _through_noise(model, "f", prior, y, 0.5)


def common_level(groups: int = 20) -> Truth:
    """Return the levels of groups around an unknown mean, with known scales."""
    prior = np.eye(groups) + 25
    y = 3 + np.random.default_rng(6).normal(size=groups) * 1.5

    def model():
        mu = numpyro.sample("mu", dist.Normal(0, 5))
        with numpyro.plate("groups", groups):
            level = numpyro.sample("level", dist.Normal(mu, 1))
            numpyro.sample("y", dist.Normal(level, 1), obs=jnp.asarray(y))

    return _through_noise(model, "level", prior, y, 1.0)


def laplaces(dim: int = 5) -> Truth:
    """Return independent Laplace distributions."""

    def model():
        numpyro.sample("x", dist.Laplace(0, 1).expand([dim]).to_event(1))

    return _known(model, x=(np.zeros(dim), np.full(dim, np.sqrt(2))))


def log_normals() -> Truth:
    """Return log-normal distributions, of which the last has a heavy tail."""
    found = dist.LogNormal(0.0, jnp.array([0.3, 0.6, 1.0]))

    def model():
        numpyro.sample("x", found.to_event(1))

    return _known(model, x=(found.mean, np.sqrt(found.variance)))


def _module(path: str) -> ModuleType:
    """Load a module of inference-gym from its file."""
    found = importlib.util.find_spec("inference_gym")  # imports nothing
    if found is None:
        raise ModuleNotFoundError(
            "the published posteriors are in the package inference-gym, which is not "
            "there. Install it: .venv/bin/python -m uv pip install inference-gym"
        )
    file = Path(found.submodule_search_locations[0], f"{path}.py")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _published(model: Callable, name: str, **sites: str) -> Truth:
    """Return published moments; `sites` name them as the package does."""
    module = _module(f"targets/ground_truth/{name}")
    means, sds = (
        {
            site: getattr(module, f"IDENTITY_{label}{of}")
            for site, label in sites.items()
        }
        for of in ("MEAN", "STANDARD_DEVIATION")
    )
    return Truth(model, means, sds)


def eight_schools(*, centered: bool) -> Truth:
    """Return the effects of coaching in eight schools (Rubin, 1981)."""
    config = {"theta": LocScaleReparam(float(centered))}

    @partial(reparam, config=config)
    def model():
        mu = numpyro.sample("mu", dist.Normal(0, 10))
        log_tau = numpyro.sample("log_tau", dist.Normal(5, 1))
        with numpyro.plate("schools", 8):
            theta = numpyro.sample("theta", dist.Normal(mu, jnp.exp(log_tau)))
            numpyro.sample("y", dist.Normal(theta, EFFECT_SDS), obs=EFFECTS)

    sites = {"mu": "AVG_EFFECT_", "log_tau": "LOG_STDDEV_", "theta": "SCHOOL_EFFECTS_"}
    return _published(model, "eight_schools", **sites)


def brownian_motion(*, known_scales: bool) -> Truth:
    """Return a random walk seen through noise, with a gap in the middle."""
    name = "brownian_motion_missing_middle_observations"
    observed = np.asarray(_module(f"internal/datasets/{name}").OBSERVED_LOC)
    seen = ~np.isnan(observed)

    def model():
        step, noise = 0.1, 0.15
        if not known_scales:
            step = numpyro.sample("step", dist.LogNormal(0, 2))
            noise = numpyro.sample("noise", dist.LogNormal(0, 2))
        x = numpyro.sample("x", dist.GaussianRandomWalk(step, num_steps=len(seen)))
        with mask(mask=jnp.asarray(seen)):
            filled = jnp.asarray(np.where(seen, observed, 0))
            numpyro.sample("y", dist.Normal(x, noise), obs=filled)

    if known_scales:
        return _published(model, name, x="")
    scales = {"step": "INNOVATION_NOISE_SCALE_", "noise": "OBSERVATION_NOISE_SCALE_"}
    unknown = name.replace("motion_", "motion_unknown_scales_")
    return _published(model, unknown, **scales, x="LOCS_")


def volatility(days: int = 100) -> Truth:
    """Return the stochastic volatility of a hundred daily returns."""
    prices = _module("internal/datasets/sp500_closing_prices").CLOSING_PRICES
    returns = np.diff(np.log(prices))[-days:]
    centered = jnp.asarray(returns - returns.mean())

    def model():
        half = numpyro.sample("half", dist.Beta(20, 1.5))
        persistence = numpyro.deterministic("persistence", 2 * half - 1)
        mean = numpyro.sample("mean", dist.Cauchy(0, 5))
        shock = numpyro.sample("shock", dist.HalfCauchy(2))
        z = numpyro.sample("z", dist.Normal(0, 1).expand([days]).to_event(1))
        first = z[0] * shock / jnp.sqrt(1 - persistence**2)

        def step(at, noise):
            at = persistence * at + shock * noise
            return at, at

        _, rest = lax.scan(step, first, z[1:])
        walk = jnp.concatenate([first[None], rest])
        h = numpyro.deterministic("h", mean + walk)
        numpyro.sample("r", dist.Normal(0, jnp.exp(h / 2)).to_event(1), obs=centered)

    sites = {
        "persistence": "PERSISTENCE_OF_VOLATILITY_",
        "mean": "MEAN_LOG_VOLATILITY_",
        "shock": "WHITE_NOISE_SHOCK_SCALE_",
        "h": "LOG_VOLATILITY_",
    }
    return _published(model, "stochastic_volatility_log_sp500_small", **sites)


def item_response() -> Truth:
    """Return abilities of 400 students and difficulties of 100 questions."""
    data = _module("internal/datasets/synthetic_item_response_theory")
    names = "STUDENT_IDS", "QUESTION_IDS", "CORRECT"
    student, question, correct = (np.asarray(getattr(data, name)) for name in names)

    def model():
        mean = numpyro.sample("mean", dist.Normal(0.75, 1))
        ability = numpyro.sample("ability", dist.Normal(0, 1).expand([400]).to_event(1))
        hard = numpyro.sample("hard", dist.Normal(0, 1).expand([100]).to_event(1))
        logits = mean + ability[student] - hard[question]
        right = dist.Bernoulli(logits=logits).to_event(1)
        numpyro.sample("right", right, obs=jnp.asarray(correct))

    sites = {
        "mean": "MEAN_STUDENT_ABILITY_",
        "hard": "QUESTION_DIFFICULTY_",
        "ability": "CENTERED_STUDENT_ABILITY_",
    }
    return _published(model, "synthetic_item_response_theory", **sites)


#: Name: what makes the posterior. Those from eight schools to item response are
#: published ones.
POSTERIORS: dict[str, Callable[[], Truth]] = {
    "independent, scales 0.01 to 100": lambda: correlated(
        np.diag(np.logspace(-4, 4, 50))
    ),
    "neighbors correlated, 0.5": lambda: correlated(neighbors(30, 0.5)),
    "neighbors correlated, 0.7": lambda: correlated(neighbors(30, 0.7)),
    "neighbors correlated, 0.9": lambda: correlated(neighbors(30, 0.9)),
    "all correlated, 0.2": lambda: correlated(
        np.full((100, 100), 0.2) + 0.8 * np.eye(100)
    ),
    "funnel": funnel,
    "banana": banana,
    "two modes, 3 sds from 0": lambda: two_modes(3.0),
    "two modes, 6 sds from 0": lambda: two_modes(6.0),
    "two modes, shares 0.1 and 0.9": lambda: two_modes(4.0, 0.1),
    "Student t, 4 degrees": lambda: heavy(4.0),
    "Student t, 3 degrees": lambda: heavy(3.0),
    "gammas": gammas,
    "betas": betas,
    "Dirichlet": shares,
    "regression": lambda: regression(0.0),
    "regression, features 0.9": lambda: regression(0.9),
    "intercept and slope": off_center,
    "eight schools, centered": lambda: eight_schools(centered=True),
    "eight schools, non-centered": lambda: eight_schools(centered=False),
    "random walk": lambda: brownian_motion(known_scales=True),
    "random walk, scales unknown": lambda: brownian_motion(known_scales=False),
    "stochastic volatility": volatility,
    "item response": item_response,
    "regression, noise unknown": noise_unknown,
    "rates of small counts": rates,
    "Gaussian process": gaussian_process,
    "levels of groups": common_level,
    "Laplace": laplaces,
    "log-normals": log_normals,
}
#: These were added after the rules of `report` had been settled on the others.
HELD_OUT = list(POSTERIORS)[-6:]


def reference(rng_key: jax.Array, truth: Truth) -> dict[str, np.ndarray]:
    """Return draws of a posterior: exact ones, or those of NUTS.

    Parameters
    ----------
    rng_key : jax.Array
        One key.
    truth : Truth
        The posterior.

    Returns
    -------
    dict of numpy.ndarray, shape (draws, numbers)
    """
    if truth.draw is not None:
        found = truth.draw(rng_key)
    else:
        nuts = NUTS(truth.model, target_accept_prob=0.95)
        options = {"chain_method": "vectorized", "progress_bar": False}
        mcmc = MCMC(nuts, num_warmup=1_000, num_samples=1_000, num_chains=4, **options)
        mcmc.run(rng_key)
        found = mcmc.get_samples()
    return flat(found, truth)


def flat(draws: dict[str, Any], truth: Truth) -> dict[str, np.ndarray]:
    """Return draws of the sites whose truth is known, each in two dimensions."""
    found = {name: np.asarray(draws[name], float) for name in truth.means}
    return {name: value.reshape(len(value), -1) for name, value in found.items()}
