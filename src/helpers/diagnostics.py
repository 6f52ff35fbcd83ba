"""How far is a fit from the truth: importance weights, short chains, a report."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import matplotlib.pyplot as plt
import numpy as np
from arviz_stats.base import array_stats
from matplotlib.axes import Axes
from numpyro.handlers import replay, seed, substitute, trace
from numpyro.infer.util import log_density
from scipy.special import logsumexp

from fitting import arguments, chains, checks, draws
from helpers import figures, tables

#: A fit is good if its means are off by at most `SHIFT` sds of the posterior, its sds
#: are between `NARROW` and `WIDE` of the posterior's, and chains from the prior end
#: less than `FAR` sds from it.
SHIFT, NARROW, WIDE, FAR = 0.4, 0.72, 1.28, 4.0
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
    fitted = _fitted(model, guide, params, args, kwargs)
    if fitted.no_weights:
        raise ValueError(fitted.no_weights)

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
    if np.isnan(weights).any():
        raise ValueError(
            f"params: {np.isnan(weights).sum()} of {num_draws} log weights are NaN; "
            "are the parameters finite and the data inside the model's support?"
        )
    return weights


def _is_noisy(model: Callable, args: tuple, kwargs: dict) -> bool:
    """Return whether a model makes noise with the keys in its state (dropout)."""

    def other(leaf: Any) -> Any:
        if not arguments.is_key(leaf):
            return leaf
        data = jax.random.key_data(leaf) + 1
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))

    sites = trace(seed(model, 0)).get_trace(*args, **kwargs)
    values = {name: at["value"] for name, at in checks.unknowns(sites).items()}
    states = {n: at["value"] for n, at in sites.items() if at["type"] == "mutable"}
    if not any(map(arguments.is_key, jax.tree.leaves(states))):
        return False
    values |= jax.tree.map(other, states)
    first, second = (
        log_density(seed(substitute(model, data=data), 0), args, kwargs, {})[0]
        for data in (values, values | states)
    )
    return bool(first != second)


def _no_chains(model: Callable, args: tuple, kwargs: dict) -> str:
    """Return why a sampler cannot move the unknowns of a model, or nothing."""
    seen = checks.look(model, arguments.AllRows(args, kwargs).put, {}, {})
    whole = [n for n, at in checks.unknowns(seen.sites).items() if at["fn"].is_discrete]
    if whole:
        return f"model: {whole} are whole numbers, which gradients do not move"
    if seen.noisy or _is_noisy(model, args, kwargs):
        return "model: it draws noise of its own, such as dropout, at each call"
    return ""


class _Fitted(NamedTuple):
    """A model and a guide with their parameters.

    `no_weights` says why there are no importance weights: of points, and where nobody
    draws an unknown.
    """

    model: Callable
    guide: Callable
    no_weights: str = ""


def _fitted(
    model: Callable,
    guide: Callable,
    params: dict[str, Any],
    args: tuple,
    kwargs: dict,
) -> _Fitted:
    """Check a fit, and put parameters and all rows into model and guide."""
    if not isinstance(params, dict):
        raise TypeError(f"params: expected a dict, got {type(params).__name__}")
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if not arguments.is_key(leaf):  # of dropout, among mutable state
            arguments.finite_array(f"params{jax.tree_util.keystr(path)}", leaf)
    draws.refuse_new(guide, params)
    model, guide = (
        chains.WholePlates(substitute(fn, data=params)) for fn in (model, guide)
    )
    source = arguments.AllRows(args, kwargs)
    seen = checks.look(model, source.put, {}, {})
    drawn = checks.look(guide, source.put, {}, {})
    if seen.error is not None or drawn.error is not None:
        return _Fitted(model, guide)  # it will be raised again where it belongs
    draws.refuse_missing(params, drawn.sites | seen.sites)
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
    missing = [
        name
        for name, site in seen.sites.items()
        if site["type"] == "sample"
        and not site["is_observed"]
        and name not in drawn.sites
        and not checks.is_point(site)
    ]
    no_weights = ""
    if points:
        no_weights = (
            f"guide: expected a distribution, got points at {points}: a guide such as "
            "AutoDelta or AutoLaplaceApproximation has no density during the fit, so "
            "that k-hat and evidence would mean nothing. Of a Laplace approximation, "
            "draw with guide.sample_posterior"
        )
    elif missing:
        no_weights = (
            f"guide: expected a site for each unknown of the model, got none for "
            f"{missing}. Unknowns that a loss sums out (enumeration) must be summed "
            "out in the model for this, as dist.MixtureSameFamily does; "
            "TraceEnum_ELBO(num_particles=1000).loss estimates the ELBO as it is"
        )
    return _Fitted(model, guide, no_weights)


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
        ELBO and k-hat; None where the guide has no weights.
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
        Time for draws and chains, apart from compilation. If it does not suffice, the
        verdict is ``"cannot tell"``.

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
    The bounds are 0.4 sds for a mean, 0.72 and 1.28 for the ratio of sds, and 4 sds for
    the mean of a chain from the prior that is about as probable. Of a site with more
    than 1,000 numbers, 1,000 are judged. Modes that no chain reaches go unseen.
    Many short chains: Hoffman and Ma (2020); Margossian et al. (2024).
    """
    arguments.key("rng_key", rng_key)
    num_draws = arguments.positive_int("num_draws", num_draws)
    if num_draws < 100:
        raise ValueError(f"num_draws: expected at least 100, got {num_draws}")
    max_seconds = arguments.positive("max_seconds", max_seconds)
    args, kwargs = model_args, model_kwargs
    fitted = _fitted(model, guide, params, args, kwargs)
    if fitted.no_weights:
        return Report("cannot tell", [fitted.no_weights])
    weight_key, chain_key = jax.random.split(rng_key)
    inputs = model, guide, params, *args
    weights = log_weights(weight_key, *inputs, num_draws=num_draws, **kwargs)
    if np.isneginf(weights).any():
        share = np.isneginf(weights).mean()
        return Report("off", [f"{share:.1%} of the guide's draws have probability 0"])
    importance = importance_summary(weights)
    if why_not := _no_chains(fitted.model, args, kwargs):
        return Report("cannot tell", [why_not], importance=importance)
    try:
        with draws.explained(model, params, args, kwargs):
            target = chains.posterior(fitted.model, fitted.guide, args, kwargs)
            found = chains.explore(chain_key, target, num_draws, max_seconds)
    except chains.CannotTellError as error:
        return Report("cannot tell", [str(error)], importance=importance)
    return _judged(found, importance)


def _problems(shift: np.ndarray, ratio: np.ndarray, far: float) -> list[str]:
    """Return what is off at a site, in words."""
    problems = []
    if far > FAR:
        problems.append(
            f"another mode: chains from the prior end {far:.0f} sds away and are "
            "about as probable"
        )
    if np.abs(shift).max() > SHIFT:
        problems.append(f"a mean is off by {_largest(shift):+.2f} sds")
    if ratio.min() < NARROW:
        problems.append(f"an sd is {ratio.min():.2f} of the posterior's")
    if ratio.max() > WIDE:
        problems.append(f"an sd is {ratio.max():.2f} times the posterior's")
    return problems


def _largest(shift: np.ndarray) -> float:
    """Return the shift that is the farthest from 0, with its sign."""
    return float(shift[np.abs(shift).argmax()])


def _judged(found: chains.Found, importance: ImportanceSummary) -> Report:
    """Compare draws of the guide with chains, site by site."""
    off, unclear, sites, shifts, ratios = [], [], [], {}, {}
    for name, of_chains in found.of_chains.items():
        of_guide, of_others = found.of_guide[name], found.of_others[name]
        if not (np.isfinite(of_chains).all() and np.isfinite(of_guide).all()):
            unclear.append(f"{name}: some of its numbers are not finite")
            continue
        rounding = 4 * np.finfo("float32").eps * np.abs(of_chains.mean((0, 1)))
        widths = of_chains.std((0, 1)), of_guide.std(0)
        vary = np.maximum(*widths) > rounding
        if not vary.any():
            continue  # a function of the data alone
        of_guide, of_chains, of_others = (
            values[..., vary] for values in (of_guide, of_chains, of_others)
        )
        mean, sd = of_chains.mean((0, 1)), of_chains.std((0, 1))
        with np.errstate(divide="ignore"):  # chains that all stay at one point
            shift = (of_guide.mean(0) - mean) / sd
            ratio = of_guide.std(0) / sd
            far = (np.abs(of_others.mean(0) - mean) / sd).max(initial=0)
            between = (of_chains.mean(0).var(0) / sd**2).max()
        shifts[name], ratios[name] = shift, ratio
        problems = _problems(shift, ratio, far)
        off += [f"{name}: {problem}" for problem in problems]
        verdict = "off" if problems else "good"
        if not problems and between > STUCK:
            verdict = "cannot tell"
            unclear.append(f"{name}: the chains hardly moved")
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
    verdict = "off" if off else "cannot tell" if unclear or not sites else "good"
    arrived = f"{found.arrived} of {chains.FROM_PRIOR} chains from the prior arrived"
    note = f"{arrived}." if found.arrived else f"{arrived}: other modes go unseen."
    return Report(verdict, off + unclear, sites, shifts, ratios, importance, note)
