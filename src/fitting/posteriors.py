"""A posterior over one vector of real numbers, from a model and a guide."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import random
from jax.flatten_util import ravel_pytree
from numpyro.distributions import constraints
from numpyro.handlers import seed, substitute, trace
from numpyro.infer.util import (
    constrain_fn,
    log_density,
    potential_energy,
    unconstrain_fn,
)
from numpyro.primitives import Messenger

from fitting import arguments, checks

MOST_READ = 1_000  # numbers of a site that are looked at, evenly spaced in it


class WholePlates(Messenger):
    """Let subsampled plates take all rows."""

    def process_message(self, msg: dict) -> None:
        """Give a plate its row numbers."""
        if msg["type"] != "plate" or msg["value"] is not None:
            return
        size, subsample_size = msg["args"]
        if size != subsample_size:
            msg["value"] = jnp.arange(size)


class OwnJacobians(Messenger):
    """Let the Jacobian of an unknown count once, although a handler scales its density.

    A loss weighs densities of values, such as that of a prior that is annealed. The
    Jacobian belongs to the coordinates that a sampler uses, and has no weight.
    """

    def __init__(self, fn: Callable, names: list[str]):
        super().__init__(fn)
        self.factors = {f"_{name}_log_det" for name in names}  # as NumPyro names them

    def process_message(self, msg: dict) -> None:
        """Take the scale from a Jacobian."""
        if msg["type"] == "sample" and msg["name"] in self.factors:
            msg["scale"] = None


class Posterior(NamedTuple):
    """A posterior over one vector of real numbers, and how to draw and read vectors.

    Attributes
    ----------
    log_density : callable
        From a vector to the log joint density of model and vector, with its Jacobian.
    of_guide : callable
        From a key to a vector, the values that the guide gives to sites of the model,
        and their log density in the guide.
    log_joint : callable
        From a key and such values to the log joint density of model and values.
    of_prior : callable
        From a key to a vector.
    values : callable
        From a vector to its sites, unknowns and deterministic ones, in one dimension.
    unravel : callable
        From a vector to its unknowns, unconstrained, by name.
    counted : numpy.ndarray of bool, shape (dim,)
        False where a mask hides a number: it has neither prior nor data.
    circular : list of str
        Sites that are angles.
    """

    log_density: Callable
    of_guide: Callable
    log_joint: Callable
    of_prior: Callable
    values: Callable
    unravel: Callable
    counted: np.ndarray
    circular: list[str]


def with_masks(model: Callable, sites: dict, args: tuple, kwargs: dict) -> dict:
    """Return the sites of a model, computed where masks of unknowns are not known.

    Parameters
    ----------
    model : callable
        NumPyro model.
    sites : dict
        Its sites, as traced.
    args, kwargs
        What it is called with.
    """
    unknowns = checks.unknowns(sites).values()
    if not any(checks.is_traced(*checks.masks_of(site["fn"])) for site in unknowns):
        return sites
    drawing = substitute(seed(model, random.key(0)), substitute_fn=checks.feasible)
    return trace(drawing).get_trace(*args, **kwargs)


def _counted(site: dict, shape: tuple[int, ...]) -> np.ndarray:
    """Return which numbers of an unknown no mask hides, in a shape of its values."""
    batch = site["fn"].batch_shape
    counted = np.ones(batch, bool)
    for mask in checks.masks_of(site["fn"]):
        counted = counted & np.broadcast_to(np.asarray(mask), batch)
    counted = counted.reshape(batch + (1,) * (len(shape) - len(batch)))
    return np.broadcast_to(counted, shape)


def _is_circular(name: str, sites: dict) -> bool:
    """Return whether the values of a site are angles, or turned to angles."""
    turned = name.removesuffix("_unwrapped")  # by CircularReparam
    if f"{name}_unwrapped" in sites or (turned != name and turned in sites):
        return True
    support = getattr(sites[name].get("fn"), "support", None)
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return support is constraints.circular


def posterior(model: Callable, guide: Callable, args: tuple, kwargs: dict) -> Posterior:
    """Return the posterior of a model, to be reached from a guide.

    Parameters
    ----------
    model, guide : callable
        NumPyro model and guide, with their parameters.
    args, kwargs
        What they are called with.
    """
    seeded = seed(model, random.key(0))  # for plates and constants that ask for a key
    seen = checks.look(model, arguments.AllRows(args, kwargs).put, {}, {})
    if seen.error is not None:
        raise seen.error
    sites = with_masks(model, seen.sites, args, kwargs)
    latent = list(checks.unknowns(sites))
    shown = latent + [n for n, site in sites.items() if site["type"] == "deterministic"]
    given = [
        n for n, at in sites.items() if at["type"] == "sample" and not at["is_observed"]
    ]

    def free(values: dict) -> dict[str, jax.Array]:
        values = {name: values[name] for name in latent}
        return unconstrain_fn(seeded, args, kwargs, values)

    like = {name: arguments.shape_of(sites[name]["value"]) for name in latent}
    shapes = jax.eval_shape(free, like)
    zeros = {name: np.zeros(at.shape, at.dtype) for name, at in shapes.items()}
    unravel = ravel_pytree(zeros)[1]
    counted, places = {}, {}
    for name in latent:
        counted[name] = _counted(sites[name], shapes[name].shape)
        places[name] = np.flatnonzero(
            _counted(sites[name], jnp.shape(sites[name]["value"]))
        )

    def of_guide(key: jax.Array) -> tuple[jax.Array, dict, jax.Array]:
        log_q, drawn = log_density(seed(guide, key), args, kwargs, {})
        values = {name: drawn[name]["value"] for name in given if name in drawn}
        return ravel_pytree(free(values))[0], values, log_q

    def log_joint(key: jax.Array, values: dict) -> jax.Array:
        return log_density(seed(model, key), args, kwargs, values)[0]

    def of_prior(key: jax.Array) -> jax.Array:
        drawing = substitute(seed(model, key), substitute_fn=checks.feasible)
        sites = trace(drawing).get_trace(*args, **kwargs)
        return ravel_pytree(free({n: sites[n]["value"] for n in latent}))[0]

    def values(vector: jax.Array) -> dict[str, jax.Array]:
        options = {"return_deterministic": True}
        found = constrain_fn(seeded, args, kwargs, unravel(vector), **options)
        flat = {name: jnp.ravel(found[name]) for name in shown}
        flat |= {name: flat[name][at] for name, at in places.items()}
        some = {
            n: np.linspace(0, v.size - 1, min(v.size, MOST_READ))
            for n, v in flat.items()
        }
        return {
            name: flat[name][at.astype(int)] for name, at in some.items() if at.size
        }

    weighed = OwnJacobians(seeded, latent)

    def density(vector: jax.Array) -> jax.Array:
        return -potential_energy(weighed, args, kwargs, unravel(vector))

    flags = np.asarray(ravel_pytree(counted)[0], bool)
    circular = [name for name in shown if _is_circular(name, sites)]
    functions = density, of_guide, log_joint, of_prior, values, unravel
    return Posterior(*functions, flags, circular)
