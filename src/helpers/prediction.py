"""How well a fitted guide predicts data that it has not seen."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from numpyro.handlers import replay, seed, substitute, trace
from numpyro.infer.autoguide import AutoGuide

from helpers import _validate
from helpers._arguments import put_together, take_apart


def _pointwise(drawn: dict, scored: dict, params: dict, site: str | None) -> jax.Array:
    """Return the log density of each observation, from the traces of one draw."""
    sites = drawn | scored
    unknown = [
        name
        for name, at in sites.items()
        if at["type"] == "param" and name not in params and jax.tree.leaves(at["value"])
    ]
    if unknown:  # their initial values would be used in silence
        raise ValueError(f"params: expected {unknown} too, got {list(params)}")
    samples = {name: at for name, at in scored.items() if at["type"] == "sample"}
    open_sites = [
        name
        for name, at in samples.items()
        if not at["is_observed"] and name not in drawn
    ]
    if open_sites:
        raise ValueError(
            f"model: expected data or draws of the guide for {open_sites}, got neither"
        )
    observed = [
        name
        for name, at in samples.items()
        if at["is_observed"] and not isinstance(at["fn"], dist.Unit)
    ]
    if site is None and len(observed) != 1:
        raise ValueError(f"site: expected a name, since the model observes {observed}")
    if site is not None and site not in observed:
        raise ValueError(f"site: expected one of {observed}, got {site!r}")
    at = samples[observed[0] if site is None else site]
    return at["fn"].log_prob(at["value"])


def log_predictive_density(
    model: Callable,
    guide: Callable,
    num_draws: int,
    *model_args: Any,
    site: str | None = None,
    **model_kwargs: Any,
) -> Callable[[dict[str, Any], jax.Array], jax.Array]:
    r"""Make the function that scores variational parameters on held-out data.

    It returns the mean over observations $i$ of the logarithm of the mean over draws of
    the density, $\log \frac{1}{S} \sum_s p(y_i \mid \theta_s)$ with
    $\theta_s \sim q_\phi$: in nats, higher is better, and unlike the ELBO it can be
    compared between data sets of different sizes.

    Parameters
    ----------
    model, guide : callable
        NumPyro model and guide; an autoguide must have been used in a fit (or
        `svi.init`) by the time the function is called.
    num_draws : int
        Number $S$ of draws, all evaluated at once.
    *model_args, **model_kwargs
        What model and guide are called with: the held-out data.
    site : str, optional
        Observed site to score; needed if there are several.

    Returns
    -------
    callable
        ``evaluate(params, key)``, as `fit` takes it.

    Raises
    ------
    TypeError, ValueError
        For arguments of the wrong kind; by the function, if parameters are missing or a
        site has neither data nor draws.

    Notes
    -----
    Each element of the site's log density is one observation: events of several numbers
    count as one. Weights of a `scale` handler or a subsampling plate are left out, and
    so are factors. Log predictive density: Gelman et al. (2014).
    """
    for name, value in (("model", model), ("guide", guide)):
        if not callable(value):
            raise TypeError(f"{name}: expected a callable, got {type(value).__name__}")
    num_draws = _validate.positive_int("num_draws", num_draws)
    if not (site is None or isinstance(site, str)):
        raise TypeError(f"site: expected a name, got {site!r}")
    _validate.model_arguments(model_args, model_kwargs)
    arrays, rest = take_apart((model_args, model_kwargs))

    @jax.jit
    def density(arrays, params, rng_key):
        args, kwargs = put_together(arrays, rest)

        def one(key):
            guide_key, model_key = jax.random.split(key)
            drawing = seed(substitute(guide, data=params), guide_key)
            drawn = trace(drawing).get_trace(*args, **kwargs)
            scoring = seed(replay(substitute(model, data=params), drawn), model_key)
            scored = trace(scoring).get_trace(*args, **kwargs)
            return _pointwise(drawn, scored, params, site)

        logs = jax.vmap(one)(jax.random.split(rng_key, num_draws))
        return (jax.nn.logsumexp(logs, axis=0) - jnp.log(num_draws)).mean()

    def evaluate(arrays, params, rng_key):
        # Initialized in here, it would hold on to tracers.
        if isinstance(guide, AutoGuide) and guide.prototype_trace is None:
            name = type(guide).__name__
            raise ValueError(f"guide: expected one used in a fit, got a new {name}")
        return density(arrays, params, rng_key)

    return jax.tree_util.Partial(evaluate, arrays)
