"""How far is a fit from the truth: importance weights, short chains, a report."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import matplotlib.pyplot as plt
import numpy as np
from arviz_stats.base import array_stats
from matplotlib.axes import Axes
from numpyro.handlers import replay, seed
from numpyro.infer.util import log_density
from scipy.special import logsumexp

from fitting import arguments, chains, draws, fits, posteriors
from helpers import figures, tables

#: A fit is good if its means are off by at most `SHIFT` sds of the posterior and its
#: sds are between `NARROW` and `WIDE` of the posterior's. It is off if one of them is
#: beyond the `OFF` bounds by more than twice its standard error, or if a share `MODE`
#: of the chains from the prior ends `FAR` sds away, about as probable. What lies
#: between is not certain.
SHIFT, NARROW, WIDE = 0.4, 0.7, 1.3
OFF_SHIFT, OFF_NARROW, OFF_WIDE = 0.5, 2 / 3, 4 / 3
FAR, MODE = 4.0, 0.2
#: Groups of chains, and of draws, whose differences give standard errors.
GROUPS = 8
#: Share of the variance that is between chains where they hardly moved.
STUCK = 0.5


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
    args, kwargs = model_args, model_kwargs
    options = "num_draws", "batch_size"
    fitted = fits.checked(model, guide, params, args, kwargs, options)
    if why_not := fitted.no_weights or fitted.no_evidence:
        raise ValueError(why_not)

    def one(key: jax.Array) -> jax.Array:
        guide_key, model_key = jax.random.split(key)
        drawn = seed(fitted.guide, guide_key)
        log_q, guide_trace = log_density(drawn, args, kwargs, {})
        scored = seed(replay(fitted.model, guide_trace), model_key)
        log_p, _ = log_density(scored, args, kwargs, {})
        return log_p - log_q

    def every(keys: jax.Array) -> jax.Array:
        return jax.lax.map(one, keys, batch_size=min(batch_size, num_draws))

    keys = jax.random.split(rng_key, num_draws)
    given = arguments.named_leaves(model, args, kwargs)
    with draws.explained(model, params, args, kwargs):
        weights = np.asarray(arguments.hoisted(every, keys, given=given)(keys))
    _refuse_nan(weights, model, args, kwargs)
    return weights


def _refuse_nan(
    weights: np.ndarray, model: Callable, args: tuple, kwargs: dict
) -> None:
    """Refuse log weights that are NaN, and name what may be the cause."""
    if not np.isnan(weights).any():
        return
    problem = f"{np.isnan(weights).sum()} of {weights.size} log weights are NaN"
    if faults := arguments.faults(model, args, kwargs):
        raise ValueError(
            f"{', '.join(faults)}, and {problem}; leave such rows out, mask them or "
            "make them unknowns"
        )
    raise ValueError(
        f"params: {problem}; do draws of the guide lead the model out of the domain of "
        "a function, such as jnp.log?"
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
class Report:
    """What short chains and importance weights say about a fit; a table in a notebook.

    Attributes
    ----------
    verdict : str
        ``"good"``, ``"off"`` or ``"cannot tell"``.
    reasons : list of str
        Why, unless it is good.
    sites : list of dict
        A row for each unknown and each deterministic site: how many numbers were
        judged; the largest shift of a mean, in sds of the posterior; the smallest and
        the largest ratio of an sd to that of the posterior; the verdict.
    shifts, ratios : dict of numpy.ndarray
        Shift and ratio of each number that was judged, by site.
    importance : ImportanceSummary or None
        ELBO and k-hat; None where the guide has no weights, or they mean nothing.
    note : str
        How much the chains could see.
    """

    verdict: str
    reasons: list[str]
    sites: list[dict[str, Any]] = field(default_factory=list)
    shifts: dict[str, np.ndarray] = field(default_factory=dict, repr=False)
    ratios: dict[str, np.ndarray] = field(default_factory=dict, repr=False)
    importance: ImportanceSummary | None = None
    note: str = ""

    def _repr_markdown_(self) -> str:
        lines = [f"**Verdict: {self.verdict}.**"]
        lines += ["", *(f"- {reason}" for reason in self.reasons)]
        found = self.importance
        if found is not None:
            facts = f"ELBO {found.elbo:,.2f} ± {found.elbo_se:.2f} nats, "
            facts += f"k-hat {found.khat:.2f} from {found.num_draws:,} draws. "
            lines += ["", facts + self.note]
        elif self.note:
            lines += ["", self.note]
        if self.sites:
            lines += ["", tables.table(self.sites, digits=2).data]
        return "\n".join(lines)

    def plot(self, ax: Axes) -> None:
        """Draw the shift and the ratio of each number that was judged, with bounds.

        Parameters
        ----------
        ax : matplotlib.axes.Axes
            Where to draw.
        """
        box = plt.Rectangle((-SHIFT, NARROW), 2 * SHIFT, WIDE - NARROW)
        box.set(facecolor="none", edgecolor=figures.COLORS["faint"], linestyle="--")
        ax.add_patch(box)
        for name in self.shifts:
            ax.scatter(self.shifts[name], self.ratios[name], s=14, label=name)
        ax.set(xlabel="shift of the mean (sds of the posterior)", yscale="log")
        ax.set(ylabel="sd of the guide / sd of the posterior")
        ax.legend()


def report(
    rng_key: jax.Array,
    model: Callable,
    guide: Callable,
    params: dict[str, Any],
    *model_args: Any,
    num_draws: int = 2_000,
    max_seconds: float = 60.0,
    **model_kwargs: Any,
) -> Report:
    r"""Judge a fit by short chains of Hamiltonian Monte Carlo from the guide's draws.

    Draws of the posterior stay draws of it, however often a sampler moves them. So 64
    chains start at draws of the guide, and the report says how far their means move
    and how much they spread out or contract. Another 16 chains start at draws of the
    prior, climb until they are as probable as draws of the guide, and show other modes.

    Parameters
    ----------
    rng_key : jax.Array
        One key from `jax.random.key`.
    model, guide : callable
        NumPyro model and guide with the same latent sites.
    params : dict
        Variational parameters on their constrained scale, as a fit returns them. What
        the model itself has as parameters stays as it is.
    *model_args, **model_kwargs
        What model and guide are called with: all rows.
    num_draws : int
        Number of draws of the guide, at least 100.
    max_seconds : float
        Time for draws, their weights and the chains. Compilation is not counted, nor
        the first 80 draws and the climb from the prior, which run as they are compiled.
        If it does not suffice, the verdict is ``"cannot tell"``.

    Returns
    -------
    Report

    Raises
    ------
    TypeError, ValueError
        As `log_weights`, but a guide without weights has the verdict
        ``"cannot tell"``.

    Notes
    -----
    A fit is good if no mean is off by more than 0.4 sds and all ratios of sds are
    between 0.7 and 1.3. It is off if a mean is off by more than half an sd, or an sd by
    more than a third, each by more than twice the standard error, and for sds in the
    central nine tenths as well; or if a fifth of the chains from the prior that arrived
    (at least two) end 4 sds away and are about as probable. Of a site with more than
    1,000 numbers, 1,000 are judged. Angles are not judged, since means and sds say
    nothing about numbers that wrap. A chain from the prior in a place of little mass
    (density times volume), such as the neck of a funnel, does not count as arrived.
    What goes unseen: lost correlations, skewness, modes that no chain reaches, and
    modes of a much lower density, however broad. Many short chains: Hoffman and Ma
    (2020); Margossian et al. (2024). Two halves of the chains shape each other's moves,
    as in ensemble samplers: Goodman and Weare (2010).
    """
    arguments.key("rng_key", rng_key)
    num_draws = arguments.positive_int("num_draws", num_draws)
    if num_draws < 100:
        raise ValueError(f"num_draws: expected at least 100, got {num_draws}")
    max_seconds = arguments.positive("max_seconds", max_seconds)
    args, kwargs = model_args, model_kwargs
    options = "num_draws", "max_seconds"
    fitted = fits.checked(model, guide, params, args, kwargs, options)
    if fitted.no_weights:
        return Report("cannot tell", [fitted.no_weights])
    given = list(arguments.named_leaves(model, args, kwargs))
    weight_key, chain_key = jax.random.split(rng_key)
    if why_not := fits.no_chains(fitted.model, args, kwargs):
        if fitted.no_evidence:
            return Report("cannot tell", [why_not, fitted.no_evidence])
        inputs = model, guide, params, *args
        weights = log_weights(weight_key, *inputs, num_draws=num_draws, **kwargs)
        if impossible := _impossible(weights):
            return Report("off", impossible)
        importance = importance_summary(weights)
        return Report("cannot tell", [why_not], importance=importance)
    importance = None
    try:
        with draws.explained(model, params, args, kwargs):
            target = posteriors.posterior(fitted.model, fitted.guide, args, kwargs)
            drawing = chains.Draws(target, max_seconds, given)
            weights = drawing.weights(weight_key, num_draws)
            _refuse_nan(weights, model, args, kwargs)
            if impossible := _impossible(weights):
                return Report("off", impossible)
            importance = None if fitted.no_evidence else importance_summary(weights)
            found = chains.explore(chain_key, drawing, num_draws)
    except chains.CannotTellError as error:
        return Report("cannot tell", [str(error)], importance=importance)
    return _judged(found, importance, fitted.no_evidence)


def _impossible(weights: np.ndarray) -> list[str]:
    """Say how many draws of a guide the model excludes, if any."""
    share = np.isneginf(weights).mean()
    return [f"{share:.1%} of the guide's draws have probability 0"] if share else []


def _errors(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return standard errors of mean and of log sd, from groups on the second axis."""
    groups = values.reshape(len(values), GROUPS, -1, values.shape[-1])
    means = groups.mean((0, 2))
    variances = ((groups - values.mean((0, 1))) ** 2).mean((0, 2))
    relative = variances.std(0, ddof=1) / variances.mean(0) / 2
    return means.std(0, ddof=1) / GROUPS**0.5, relative / GROUPS**0.5


class _Site(NamedTuple):
    """How the numbers of a site differ between guide and chains, and the errors."""

    shift: np.ndarray
    ratio: np.ndarray
    shift_error: np.ndarray
    ratio_error: np.ndarray
    range_ratio: np.ndarray  # of central nine tenths, which heavy tails leave alone
    far: np.ndarray  # from the chains to chains from the prior, in sds, descending
    between: float  # share of the variance that is between chains


def _compared(
    of_guide: np.ndarray, of_chains: np.ndarray, of_others: np.ndarray
) -> _Site:
    """Compare draws of the guide with chains."""
    mean, sd = of_chains.mean((0, 1)), of_chains.std((0, 1))
    pairs = zip(_errors(of_chains), _errors(of_guide[None]), strict=True)
    of_mean, of_log_sd = (np.hypot(*pair) for pair in pairs)
    ratio = of_guide.std(0) / sd
    ranges = [
        np.diff(np.quantile(values.reshape(-1, len(sd)), [0.05, 0.95], axis=0), axis=0)
        for values in (of_guide, of_chains)
    ]
    return _Site(
        shift=(of_guide.mean(0) - mean) / sd,
        ratio=ratio,
        shift_error=of_mean / sd,
        ratio_error=of_log_sd * ratio,
        range_ratio=(ranges[0] / np.maximum(ranges[1], 1e-300))[0],
        far=-np.sort(-np.abs(of_others.mean(0) - mean) / sd, axis=0),
        between=(of_chains.mean(0).var(0) / sd**2).max(),
    )


def _problems(site: _Site) -> tuple[list[str], list[str]]:
    """Return what is off at a site and what is at the edge, in words."""
    off, edge = [], []
    enough = max(2, math.ceil(MODE * len(site.far)))
    first, others = (site.far[i : i + 1].max(initial=0) for i in (0, enough - 1))
    if others > FAR:
        off.append(
            f"another mode: chains from the prior end {first:.0f} sds away and are "
            "about as probable"
        )
    elif first > FAR:
        edge.append(
            f"a chain from the prior ends {first:.0f} sds away and is about as "
            "probable: another mode, or a heavy tail"
        )
    least, largest = site.ratio.min(), site.ratio.max()
    mean_off = f"a mean is off by {_largest(site.shift):+.2f} sds"
    narrow = f"an sd is {least:.2f} of the posterior's"
    wide = f"an sd is {largest:.2f} times the posterior's"
    size, shift_error = np.abs(site.shift), 2 * site.shift_error
    ratio, ratio_error = site.ratio, 2 * site.ratio_error
    far_off = size - shift_error > OFF_SHIFT
    too_narrow = (ratio + ratio_error < OFF_NARROW) & (site.range_ratio < NARROW)
    too_wide = (ratio - ratio_error > OFF_WIDE) & (site.range_ratio > WIDE)
    judged = [
        (mean_off, size > SHIFT, far_off),
        (narrow, ratio < NARROW, too_narrow),
        (wide, ratio > WIDE, too_wide),
    ]
    for text, doubtful, clear in judged:
        if clear.any():
            off.append(text)
        elif doubtful.any():
            edge.append(f"{text}, which is not certain")
    return off, edge


def _largest(shift: np.ndarray) -> float:
    """Return the shift that is the farthest from 0, with its sign."""
    return float(shift[np.abs(shift).argmax()])


def _judged(
    found: chains.Found, importance: ImportanceSummary | None, no_evidence: str
) -> Report:
    """Compare draws of the guide with chains, site by site."""
    off, unclear, sites, shifts, ratios = [], [], [], {}, {}
    for name, of_chains in found.of_chains.items():
        of_guide, of_others = found.of_guide[name], found.of_others[name]
        if name in found.circular:
            unclear.append(
                f"{name}: means and sds say nothing about angles, which wrap"
            )
            continue
        some = np.isfinite(of_chains).any((0, 1)) | np.isfinite(of_guide).any(0)
        of_guide, of_chains, of_others = (
            values[..., some] for values in (of_guide, of_chains, of_others)
        )
        if not (np.isfinite(of_chains).all() and np.isfinite(of_guide).all()):
            unclear.append(f"{name}: some of its numbers are not always finite")
            continue
        rounding = 4 * found.eps * np.abs(of_chains.mean((0, 1)))
        vary = of_chains.std((0, 1)) > rounding
        if ((of_guide.std(0) > rounding) & ~vary).any():
            unclear.append(f"{name}: numbers vary in the guide and not in the chains")
        if not vary.any():
            continue  # a function of the data alone
        site = _compared(
            *(values[..., vary] for values in (of_guide, of_chains, of_others))
        )
        shift, ratio = shifts[name], ratios[name] = site.shift, site.ratio
        problems, edge = _problems(site)
        if not problems and not edge and site.between > STUCK:
            edge = ["the chains hardly moved"]
        off += [f"{name}: {problem}" for problem in problems]
        unclear += [f"{name}: {problem}" for problem in edge]
        verdict = "off" if problems else "cannot tell" if edge else "good"
        sites.append(
            {
                "site": f"`{name}`",
                "numbers": shift.size,
                "shift of a mean (sds)": _largest(shift),
                "least ratio of sds": float(ratio.min()),
                "largest ratio of sds": float(ratio.max()),
                "verdict": verdict,
            }
        )
    if found.stuck > STUCK and not unclear:
        unclear.append("the chains hardly moved in one direction of all unknowns")
    if not sites:
        unclear.append("nothing varies")
    verdict = "off" if off else "cannot tell" if unclear else "good"
    arrived = f"{found.arrived} of {chains.FROM_PRIOR} chains from the prior arrived"
    note = f"{arrived}." if found.arrived else f"{arrived}: other modes go unseen."
    note += f" No ELBO or k-hat: {no_evidence}." if no_evidence else ""
    return Report(verdict, off + unclear, sites, shifts, ratios, importance, note)
