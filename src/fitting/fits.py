"""A finished fit, looked at before anything is drawn from it."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.handlers import seed, substitute, trace
from numpyro.infer.autoguide import AutoGuide
from numpyro.infer.util import log_density

from fitting import arguments, checks, draws, posteriors


def _is_noisy(model: Callable, args: tuple, kwargs: dict) -> bool:
    """Return whether a model makes noise with the keys in its state (dropout).

    To be asked of a model with mutable state.
    """

    def other(leaf: Any) -> Any:
        if not arguments.is_key(leaf):
            return leaf
        data = jax.random.key_data(leaf) + 1
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))

    drawing = substitute(seed(model, 0), substitute_fn=checks.feasible)
    sites = trace(drawing).get_trace(*args, **kwargs)
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


def _depends_on_key(model: Callable, sites: dict, args: tuple, kwargs: dict) -> bool:
    """Return whether the density of a model, given its unknowns, is random.

    A model may ask for a key and not need it, as for a hidden site that nobody reads.
    """
    values = {name: at["value"] for name, at in checks.unknowns(sites).items()}

    def density(key: jax.Array, values: dict) -> jax.Array:
        given = seed(substitute(model, data=values), key)
        return log_density(given, args, kwargs, {})[0]

    example = jax.random.key(0), jax.tree.map(arguments.shape_of, values)
    jaxpr = jax.make_jaxpr(density)(*example).jaxpr
    return any(checks.dependent(jaxpr, jaxpr.invars[:1]))


def no_chains(model: Callable, args: tuple, kwargs: dict) -> str:
    """Return why a sampler cannot move the unknowns of a model, or nothing."""
    seen = checks.look(model, arguments.AllRows(args, kwargs).put, {}, {})
    whole = [n for n, at in checks.unknowns(seen.sites).items() if at["fn"].is_discrete]
    if whole:
        return f"model: {whole} are whole numbers, which gradients do not move"
    has_state = any(at["type"] == "mutable" for at in seen.sites.values())
    noisy = seen.noisy and _depends_on_key(model, seen.sites, args, kwargs)
    if noisy or (has_state and _is_noisy(model, args, kwargs)):
        return "model: it draws noise of its own, such as dropout, at each call"
    return ""


class Fit(NamedTuple):
    """A model and a guide with their parameters.

    `no_weights` says why there are no importance weights: of points, where nobody
    draws an unknown, and of scaled densities. `no_evidence` says why weights mean
    nothing, although draws of the guide can be judged.
    """

    model: Callable
    guide: Callable
    no_weights: str = ""
    no_evidence: str = ""


def _drawn(guide: Callable, args: tuple, kwargs: dict) -> set[str]:
    """Return the sample sites of a guide whose values depend on its key."""
    names = []

    def values(key: jax.Array) -> list:
        sites = trace(seed(guide, key)).get_trace(*args, **kwargs)
        found = {n: at["value"] for n, at in sites.items() if at["type"] == "sample"}
        names.extend(found)
        return list(found.values())

    jaxpr = jax.make_jaxpr(values)(jax.random.key(0)).jaxpr
    depend = checks.dependent(jaxpr, jaxpr.invars)
    return {name for name, each in zip(names, depend, strict=True) if each}


def _no_weights(of_model: dict, of_guide: dict, drawn: set[str]) -> str:
    """Return why a guide has no importance weights, or nothing.

    `drawn` are the sites that the guide draws anew each time. It may draw one unknown
    for all others, which then stand as points that move.
    """
    points = [
        name
        for name in sorted(of_guide.keys() & of_model.keys() - drawn)
        if of_guide[name]["type"] == "sample" and checks.is_point(of_guide[name])
    ]
    if points:
        return (
            f"guide: expected a distribution, got points at {points}: a guide such as "
            "AutoDelta or AutoLaplaceApproximation has no density during the fit, so "
            "that k-hat and evidence would mean nothing. Of a Laplace approximation, "
            "draw with guide.sample_posterior"
        )
    missing = [
        name
        for name, site in of_model.items()
        if site["type"] == "sample"
        and not site["is_observed"]
        and of_guide.get(name, {}).get("type") != "sample"
        and not (checks.is_point(site) or checks.is_hidden(site))
    ]
    if missing:
        others = [
            name
            for name, site in of_guide.items()
            if site["type"] == "sample" and name not in of_model
        ]
        instead = f" (but {others}, which the model does not have)" if others else ""
        return (
            "guide: expected a site for each unknown of the model, got none for "
            f"{missing}{instead}. If these are data, pass them. Unknowns that a loss "
            "sums out (enumeration) must be summed out in the model for this, as "
            "dist.MixtureSameFamily does; "
            "TraceEnum_ELBO(num_particles=1000).loss estimates the ELBO as it is"
        )
    scaled = [
        name
        for name, site in of_guide.items()
        if site["type"] == "sample" and not checks.is_traced(site["scale"])
        if site["scale"] is not None and np.any(np.not_equal(site["scale"], 1))
    ]
    if scaled:
        return (
            f"guide: expected densities as they are, got scaled ones at {scaled}. "
            "Weights and chains would be those of another posterior: give model and "
            "guide without the scale (of a loss that is divided by the number of rows, "
            "say)"
        )
    return ""


def _numbers(sites: list[dict]) -> int:
    """Return how many numbers some sites have."""
    return sum(math.prod(jnp.shape(site["value"])) for site in sites)


def _no_evidence(of_model: dict, of_guide: dict, is_auto: bool) -> str:
    """Return why the weights of a guide's draws mean nothing, or nothing.

    A guide may draw something else, of which it computes unknowns as points. What it
    draws beyond that has no density in the model (an autoguide that draws more takes
    care of it).
    """
    drawn = {
        name: site
        for name, site in of_guide.items()
        if site["type"] == "sample" and not site["is_observed"]
    }
    of_model = {n: at for n, at in of_model.items() if at["type"] == "sample"}
    shared = drawn.keys() & of_model.keys()
    free = {n: at for n, at in drawn.items() if not checks.is_point(at)}
    others = {name: at for name, at in free.items() if name not in shared}
    points = [drawn[name] for name in shared - free.keys()]
    if not is_auto and _numbers(list(others.values())) > _numbers(points):
        return (
            f"guide: it draws {list(others)}, which the model does not draw, so that "
            "ELBO, k-hat and evidence mean nothing"
        )
    hidden = [
        name
        for name, site in of_model.items()
        if name in shared and not checks.masks_of(drawn[name]["fn"])
        for mask in checks.masks_of(site["fn"])
        if not (checks.is_traced(mask) or np.all(mask))
    ]
    if hidden:
        return (
            f"model: a mask hides numbers of {hidden}, which the guide draws, so that "
            "ELBO, k-hat and evidence mean nothing; a guide of your own can mask them "
            "too"
        )
    return ""


def _refuse_some_rows(seen: checks.Seen) -> None:
    """Refuse a batch of rows in a plate that is larger, and takes its whole size."""
    plates = {n: at["args"] for n, at in seen.sites.items() if at["type"] == "plate"}
    whole = {n: size for n, (size, some) in plates.items() if some not in (None, size)}
    if not whole:
        return
    try:
        if "ncompatible shapes" in str(seen.error):
            raise seen.error
        for name, site in seen.sites.items():
            if site["type"] == "sample" and site["is_observed"]:
                checks.refuse_shape(name, seen.sites)
    except (TypeError, ValueError) as error:
        sizes = ", ".join(f"{size} of {name!r}" for name, size in whole.items())
        raise ValueError(
            f"model: expected all rows of its subsampled plates ({sizes}), got some: "
            f"{error}"
        ) from error


def checked(
    model: Callable,
    guide: Callable,
    params: dict[str, Any],
    args: tuple,
    kwargs: dict,
    options: tuple[str, ...],
) -> Fit:
    """Check a fit, and put parameters and all rows into model and guide.

    `options` are the keywords of the helper, which a misspelt one may have meant.
    """
    if not isinstance(params, dict):
        raise TypeError(f"params: expected a dict, got {type(params).__name__}")
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if not arguments.is_key(leaf):  # of dropout, among mutable state
            arguments.finite_array(f"params{jax.tree_util.keystr(path)}", leaf)
    for name, fn in (("model", model), ("guide", guide)):
        if not callable(fn):
            kind = type(fn).__name__
            raise TypeError(f"{name}: expected a NumPyro {name}, got {kind}")
    arguments.refuse_call(model, args, kwargs, options)
    draws.refuse_new(guide, params)
    made = guide
    model, guide = (
        posteriors.WholePlates(substitute(fn, data=params)) for fn in (model, guide)
    )
    source = arguments.AllRows(args, kwargs)
    seen = checks.look(model, source.put, {}, {})
    drawn = checks.look(guide, source.put, {}, {})
    _refuse_some_rows(seen)
    if seen.error is not None or drawn.error is not None:
        return Fit(model, guide)  # it will be raised again where it belongs
    given = [
        name
        for name, site in drawn.sites.items()
        if site["type"] == "sample" and site["is_observed"]
    ]
    if given and not isinstance(made, AutoGuide):
        raise ValueError(
            f"guide: expected sites that are drawn, got {given}, observed or a factor; "
            "are model and guide swapped?"
        )
    draws.refuse_missing(params, drawn.sites | seen.sites)
    checks.refuse_values(seen.sites)
    moving = _drawn(guide, args, kwargs)
    no_weights = _no_weights(seen.sites, drawn.sites, moving)
    if no_weights:
        return Fit(model, guide, no_weights)
    sites = posteriors.with_masks(model, seen.sites, args, kwargs)
    no_evidence = _no_evidence(sites, drawn.sites, isinstance(made, AutoGuide))
    return Fit(model, guide, "", no_evidence)
