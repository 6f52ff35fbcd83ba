"""How far is a fit from the truth: importance weights, ELBO, exact grids, distances."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import numpy as np
from arviz_stats.base import array_stats
from numpyro.handlers import replay, seed, substitute, trace
from numpyro.infer.util import log_density
from scipy.integrate import cumulative_trapezoid, trapezoid
from scipy.special import logsumexp

from fitting import arguments, checks, draws


def log_weights(
    rng_key: jax.Array,
    model: Callable,
    guide: Callable,
    params: dict[str, Any],
    *model_args: Any,
    num_draws: int = 20_000,
    batch_size: int = 1_000,
    **model_kwargs: Any,
) -> np.ndarray:
    r"""Draw from the guide and return $\log p(D, \theta) - \log q_\phi(\theta)$.

    Their mean is the ELBO; the log of the mean of their exponentials estimates the log
    evidence; their spread says how far the guide is from the posterior.

    Parameters
    ----------
    rng_key : jax.Array
        One key from `jax.random.key`.
    model, guide : callable
        NumPyro model and guide with the same latent sites.
    params : dict
        Variational parameters on their constrained scale, as a fit returns them.
    *model_args, **model_kwargs
        What model and guide are called with.
    num_draws : int
        Number of draws; `importance_summary` wants 20,000 for a good guide.
    batch_size : int
        Draws evaluated at once; bounds the memory.

    Returns
    -------
    numpy.ndarray, shape (num_draws,)
        Log importance weights in nats.

    Raises
    ------
    TypeError, ValueError
        For a key, count, parameters or data of the wrong kind, a guide without weights,
        or if a weight is NaN.
    """
    arguments.key("rng_key", rng_key)
    num_draws = arguments.positive_int("num_draws", num_draws)
    batch_size = arguments.positive_int("batch_size", batch_size)
    if not isinstance(params, dict):
        raise TypeError(f"params: expected a dict, got {type(params).__name__}")
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if not arguments.is_key(leaf):  # of dropout, among mutable state
            arguments.finite_array(f"params{jax.tree_util.keystr(path)}", leaf)
    draws.refuse_new(guide, params)
    fitted_guide = substitute(guide, data=params)
    fitted_model = substitute(model, data=params)
    _refuse_no_density(fitted_model, fitted_guide, model_args, model_kwargs)

    def one(key: jax.Array) -> jax.Array:
        guide_key, model_key = jax.random.split(key)
        drawn = seed(fitted_guide, guide_key)
        log_q, guide_trace = log_density(drawn, model_args, model_kwargs, {})
        scored = seed(replay(fitted_model, guide_trace), model_key)
        log_p, model_trace = log_density(scored, model_args, model_kwargs, {})
        draws.refuse_missing(params, guide_trace | model_trace)
        return log_p - log_q

    def every(keys: jax.Array) -> jax.Array:
        return jax.lax.map(one, keys, batch_size=min(batch_size, num_draws))

    keys = jax.random.split(rng_key, num_draws)
    given = arguments.named_leaves(model, model_args, model_kwargs)
    with draws.explained(model, params, model_args, model_kwargs):
        weights = np.asarray(arguments.hoisted(every, keys, given=given)(keys))
    if np.isnan(weights).any():
        raise ValueError(
            f"params: {np.isnan(weights).sum()} of {num_draws} log weights are NaN; "
            "are the parameters finite and the data inside the model's support?"
        )
    return weights


def _refuse_no_density(
    model: Callable, guide: Callable, args: tuple, kwargs: dict
) -> None:
    """Refuse what has no importance weights: points, and unknowns that nobody draws."""
    source = arguments.AllRows(args, kwargs)
    seen = checks.look(model, source.put, {}, {})
    drawn = checks.look(guide, source.put, {}, {})
    if seen.error is not None or drawn.error is not None:
        return  # it will be raised again where it belongs
    checks.refuse_values(seen.sites)
    # A guide may draw one unknown for all others, which then stand as points.
    first, second = (
        trace(seed(guide, key)).get_trace(*args, **kwargs)
        for key in jax.random.split(jax.random.key(0))
    )
    points = [
        name
        for name in drawn.sites.keys() & seen.sites.keys()
        if drawn.sites[name]["type"] == "sample"
        and checks.is_point(drawn.sites[name])
        and np.array_equal(first[name]["value"], second[name]["value"])
    ]
    if points:
        raise ValueError(
            f"guide: expected a distribution, got points at {points}: a guide such as "
            "AutoDelta or AutoLaplaceApproximation has no density during the fit, so "
            "that k-hat and evidence would mean nothing. Of a Laplace approximation, "
            "draw with guide.sample_posterior"
        )
    missing = [
        name
        for name, site in seen.sites.items()
        if site["type"] == "sample"
        and not site["is_observed"]
        and name not in drawn.sites
        and not checks.is_point(site)
    ]
    if missing:
        raise ValueError(
            f"guide: expected a site for each unknown of the model, got none for "
            f"{missing}. Unknowns that a loss sums out (enumeration) must be summed "
            "out in the model for this, as dist.MixtureSameFamily does; "
            "TraceEnum_ELBO(num_particles=1000).loss estimates the ELBO as it is"
        )


@dataclass(frozen=True)
class ImportanceSummary:
    """What importance weights say about a guide.

    Attributes
    ----------
    elbo : float
        Mean log weight, in nats.
    elbo_se : float
        Monte Carlo standard error of `elbo`.
    log_evidence : float
        Importance-sampling estimate of the log evidence.
    khat : float
        Shape of the generalized Pareto tail of the weights (PSIS); minus infinity
        if the largest weights are all equal, NaN if no tail could be fitted.
    relative_ess : float
        Effective over actual number of draws, between 0 and 1.
    num_draws : int
        Number of draws behind all of it.
    """

    elbo: float
    elbo_se: float
    log_evidence: float
    khat: float
    relative_ess: float
    num_draws: int


def importance_summary(log_weights: np.ndarray) -> ImportanceSummary:
    """Summarize log importance weights: ELBO, k-hat, effective sample size.

    Parameters
    ----------
    log_weights : array, shape (num_draws,)
        What `log_weights` returns, at least 100 of them.

    Returns
    -------
    ImportanceSummary

    Raises
    ------
    TypeError, ValueError
        If the weights are not one dimension of at least 100 finite numbers.

    Notes
    -----
    Pareto-smoothed importance sampling and k-hat: Vehtari et al. (2024); its use for
    variational fits: Yao et al. (2018). k-hat judges the heaviest tail only: a guide
    that is too wide gets a small one, and weights that hardly vary give a noisy one.
    Read it beside `relative_ess`.
    """
    logs = arguments.finite_array("log_weights", log_weights, ndim=1).astype(float)
    if logs.size < 100:
        raise ValueError(f"log_weights: expected at least 100, got {logs.size}")
    # This function takes log likelihoods, whose *negatives* are the log weights of
    # leave-one-out cross-validation: hand it minus ours.
    try:
        _, khat = array_stats.psislw(logs.max() - logs)
    except ValueError:  # the largest weights are all equal: there is no tail
        khat = -np.inf
    log_total = logsumexp(logs)
    ess = np.exp(2 * log_total - logsumexp(2 * logs))
    return ImportanceSummary(
        elbo=float(logs.mean()),
        elbo_se=float(logs.std(ddof=1) / np.sqrt(logs.size)),
        log_evidence=float(log_total - np.log(logs.size)),
        khat=float(khat),
        relative_ess=float(ess / logs.size),
        num_draws=logs.size,
    )


@dataclass(frozen=True)
class GridPosterior:
    """A one-parameter posterior, exact up to the grid.

    Attributes
    ----------
    grid : numpy.ndarray, shape (n,)
        Parameter values, increasing.
    log_density : numpy.ndarray, shape (n,)
        Normalized log density at each of them.
    log_evidence : float
        Log of the integral of the joint density, in nats.
    """

    grid: np.ndarray
    log_density: np.ndarray
    log_evidence: float

    @property
    def density(self) -> np.ndarray:
        """Normalized density on the grid."""
        return np.exp(self.log_density)

    @property
    def mean(self) -> float:
        """Posterior mean."""
        return float(trapezoid(self.grid * self.density, self.grid))

    @property
    def sd(self) -> float:
        """Posterior standard deviation."""
        spread = (self.grid - self.mean) ** 2
        return float(np.sqrt(trapezoid(spread * self.density, self.grid)))

    @cached_property
    def _cdf(self) -> np.ndarray:
        return cumulative_trapezoid(self.density, self.grid, initial=0.0)

    def cdf(self, value: float | np.ndarray) -> float | np.ndarray:
        """Posterior probability of the parameter being below `value`."""
        return np.interp(value, self.grid, self._cdf)

    def quantile(self, probability: float | np.ndarray) -> float | np.ndarray:
        """Value below which the parameter lies with the given probability."""
        p = np.asarray(probability, dtype=float)
        if not ((p > 0) & (p < 1)).all():
            raise ValueError(f"probability: expected between 0 and 1, got {p}")
        return np.interp(p, self._cdf, self.grid)


def _increasing(grid: np.ndarray) -> None:
    if not (np.diff(grid) > 0).all():
        at = int(np.argmax(np.diff(grid) <= 0))
        raise ValueError(
            f"grid: expected increasing values, got {grid[at]} before {grid[at + 1]}"
        )


def grid_posterior(
    log_joint: Callable[[np.ndarray], Any] | np.ndarray, grid: np.ndarray
) -> GridPosterior:
    r"""Normalize a joint density in one parameter by the trapezoid rule.

    Parameters
    ----------
    log_joint : callable or array, shape (n,)
        $\log p(D, \theta)$ at the grid values, or a function that returns it.
    grid : array, shape (n,)
        Increasing parameter values that cover the posterior; at least 50.

    Returns
    -------
    GridPosterior

    Raises
    ------
    TypeError, ValueError
        If the grid does not increase, cuts the posterior off (density at an end above
        a millionth of the peak) or is so coarse that one cell holds over a tenth of it.
    """
    grid = arguments.finite_array("grid", grid, ndim=1).astype(float)
    if grid.size < 50:
        raise ValueError(f"grid: expected at least 50 values, got {grid.size}")
    _increasing(grid)
    values = np.asarray(log_joint(grid) if callable(log_joint) else log_joint, float)
    if values.shape != grid.shape:
        raise ValueError(
            f"log_joint: expected shape {grid.shape} like grid, got {values.shape}"
        )
    if np.isnan(values).any() or np.isposinf(values).any():
        raise ValueError("log_joint: expected finite or -inf values, got NaN or +inf")
    peak = values.max()
    if peak == -np.inf:
        raise ValueError("log_joint: the joint density is 0 on the whole grid")
    edges = np.exp(values[[0, -1]] - peak)
    if edges.max() > 1e-6:
        raise ValueError(
            "grid: expected to cover the posterior, but the density at an end is "
            f"{edges.max():.1g} of its peak; widen it"
        )
    scaled = np.exp(values - peak)
    total = trapezoid(scaled, grid)
    cells = np.diff(grid) * (scaled[1:] + scaled[:-1]) / 2 / total
    if cells.max() > 0.1:
        raise ValueError(
            f"grid: too coarse, one cell holds {cells.max():.0%} of the posterior"
        )
    log_evidence = peak + np.log(total)
    return GridPosterior(grid, values - log_evidence, float(log_evidence))


def _on_grid(log_p: np.ndarray, log_q: np.ndarray, grid: np.ndarray) -> tuple:
    grid = arguments.finite_array("grid", grid, ndim=1)
    _increasing(grid)
    logs = []
    for name, value in (("log_p", log_p), ("log_q", log_q)):
        value = np.asarray(value, dtype=float)
        if value.shape != grid.shape:
            raise ValueError(
                f"{name}: expected shape {grid.shape} like grid, got {value.shape}"
            )
        mass = trapezoid(np.exp(value), grid)
        if not abs(mass - 1) < 0.02:
            raise ValueError(
                f"{name}: expected a density that integrates to 1 over the grid, "
                f"got {mass:.4g}"
            )
        logs.append(value)
    return *logs, grid


def total_variation(log_p: np.ndarray, log_q: np.ndarray, grid: np.ndarray) -> float:
    """Total variation distance of two densities given by their logs on one grid.

    Parameters
    ----------
    log_p, log_q : array, shape (n,)
        Log densities, each integrating to 1 over the grid (within 2 %).
    grid : array, shape (n,)
        Where they are evaluated.

    Returns
    -------
    float
        Half the integral of the absolute difference: the largest difference in
        probability that the two can assign to any event, from 0 to 1.

    Raises
    ------
    ValueError
        If shapes differ or a density does not integrate to 1 over the grid.
    """
    log_p, log_q, grid = _on_grid(log_p, log_q, grid)
    return float(trapezoid(np.abs(np.exp(log_p) - np.exp(log_q)), grid) / 2)


def kl_divergence(log_q: np.ndarray, log_p: np.ndarray, grid: np.ndarray) -> float:
    r"""Kullback–Leibler divergence $\mathrm{KL}(q\,\|\,p)$ of two gridded densities.

    Parameters
    ----------
    log_q, log_p : array, shape (n,)
        Log densities, each integrating to 1 over the grid (within 2 %).
    grid : array, shape (n,)
        Where they are evaluated.

    Returns
    -------
    float
        The divergence in nats; 0 if both are equal, infinite if `q` has mass where
        `p` has none.

    Raises
    ------
    ValueError
        If shapes differ or a density does not integrate to 1 over the grid.
    """
    log_p, log_q, grid = _on_grid(log_p, log_q, grid)
    q = np.exp(log_q)
    if (np.isneginf(log_p) & (q > 0)).any():
        return float("inf")
    gap = np.where(q > 0, log_q - np.where(q > 0, log_p, 0.0), 0.0)
    return float(trapezoid(q * gap, grid))
