"""Draws of a guide, and of the model given them, as `numpyro.infer.Predictive` does."""

import contextlib
import os
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from numpyro.handlers import replay, seed, substitute, trace
from numpyro.infer.autoguide import AutoBatchedMixin, AutoGuide
from numpyro.primitives import Messenger

from fitting import arguments, checks

ONE_RUN = "jax.tree.map(lambda v: v[0], params), or go through all by jax.vmap"
BYTES = 2**27  # of the draws that are computed in one call, by default


def refuse_new(guide: Callable, params: dict) -> None:
    """Refuse an autoguide that has not seen its model, or saw it without its data."""
    if not isinstance(guide, AutoGuide):
        return
    name = type(guide).__name__
    cure = (
        "Where parameters come from a file, show the guide once some rows as in "
        "training, with the data that the model observes: numpyro.handlers.seed(guide, "
        "0)(x[:1], y[:1]) (all rows, where it has parameters for each)"
    )
    if guide.prototype_trace is None:
        raise ValueError(
            f"guide: this {name} is new and has not seen the model. {cure}"
        )
    size, loc = getattr(guide, "latent_dim", None), params.get(f"{guide.prefix}_loc")
    if isinstance(guide, AutoBatchedMixin):
        (size,) = guide._event_shape  # of one of the batch
    if size is not None and loc is not None and jnp.shape(loc)[-1:] != (size,):
        raise ValueError(
            f"guide: expected {size} parameters in '{guide.prefix}_loc' for this "
            f"{name}, got shape {jnp.shape(loc)}. {cure}"
        )


def _runs(site: dict) -> int | None:
    """Return how many runs a parameter seems to come from: 0 for a single one."""
    start = site["args"][0] if site["args"] else None
    if callable(start):
        start = jax.eval_shape(start, jax.random.key(0))
    before, now = jax.tree.leaves(start), jax.tree.leaves(site["value"])
    if not before or len(before) != len(now):
        return None
    shapes = [
        (jnp.shape(one), jnp.shape(two)) for one, two in zip(before, now, strict=True)
    ]
    runs = {two[0] if two and two[1:] == one else 0 for one, two in shapes}
    return runs.pop() if len(runs) == 1 else 0


def refuse_missing(params: dict, sites: dict) -> None:
    """Refuse parameters that lack some, or are those of several runs.

    Initial values would be used in silence; an axis of runs would be broadcast.
    """
    missing = [
        name
        for name, at in sites.items()
        if at["type"] == "param" and name not in params and jax.tree.leaves(at["value"])
    ]
    if missing:
        raise ValueError(
            f"params: expected {missing} too, got {list(params)}. Has the guide seen "
            "the model without the data that it observes?"
        )
    runs = {_runs(at) for at in sites.values() if at["type"] == "param"} - {None}
    if len(runs) == 1 and 0 not in runs:
        raise ValueError(
            f"params: expected those of one run, got those of {runs.pop()} runs. Take "
            f"one, {ONE_RUN}"
        )
    lost = [n for n, at in sites.items() if at["type"] == "mutable" and n not in params]
    if lost:
        warnings.warn(
            f"params: {lost} are not among them and start anew; give "
            "result.params | result.state.mutable_state",
            stacklevel=2,
        )


@contextlib.contextmanager
def explained(model: Callable, params: dict, args: tuple, kwargs: dict) -> Iterator:
    """Add to errors inside what may be their cause: a column, or several runs."""
    try:
        yield
    except Exception as error:
        if column := arguments.column_in(model, args, kwargs):
            error.add_note(column)
        firsts = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(params)}
        if len(firsts) == 1 and firsts.pop() not in {(), (1,)}:
            error.add_note(f"params: of several runs, take those of one: {ONE_RUN}")
        raise


class SameRows(Messenger):
    """Let a subsampled plate pick rows by one key, whichever draw is made."""

    def __init__(self, fn: Callable, rng_key: jax.Array):
        super().__init__(fn)
        self.rng_key = rng_key

    def process_message(self, msg: dict) -> None:
        """Change the key of a plate, once it has one."""
        if msg["type"] == "plate" and msg["value"] is None:
            msg["kwargs"]["rng_key"] = self.rng_key


class Keyed(Messenger):
    """Give each site its key: one of the batch of rows, or of the draw for all rows.

    So what rows share is the same in all batches of a draw, and their noise is not.
    """

    def __init__(
        self, fn: Callable, draw_key: jax.Array, rows_key: jax.Array, with_rows: set
    ):
        super().__init__(fn)
        self.draw_key, self.rows_key = draw_key, rows_key
        self.with_rows, self.count = with_rows, 0

    def process_message(self, msg: dict) -> None:
        """Fill in the key of a site that wants one."""
        if msg["type"] in ("prng_key", "control_flow", "mutable"):
            raise ValueError(
                f"row_batch: expected plain sample sites, got {msg['type']!r}; predict "
                "all rows at once, without row_batch"
            )
        if msg["type"] not in ("sample", "plate"):
            return
        if msg["kwargs"].get("rng_key") is not None or msg["value"] is not None:
            return
        own = msg["name"] in self.with_rows
        self.count += 1
        key = self.rows_key if own else self.draw_key
        msg["kwargs"]["rng_key"] = jax.random.fold_in(key, self.count)


def functions(drawn: dict) -> dict[str, Any]:
    """Return the deterministic sites of a guide, which a model may have as unknowns."""
    return {n: at["value"] for n, at in drawn.items() if at["type"] == "deterministic"}


def given(model: Callable, params: dict, values: dict) -> Callable:
    """Return a model with parameters and values of unknowns, as a loss replays them.

    What it computes itself stays its own, though a guide has a site of that name.
    """

    def value_of(site: dict) -> Any:
        return None if site["type"] == "deterministic" else values.get(site["name"])

    return substitute(substitute(model, data=params), substitute_fn=value_of)


def _values(drawn: dict, sites: dict) -> dict[str, Any]:
    """Return what `Predictive` returns: what the guide did not draw, and functions."""
    return {
        name: at["value"]
        for name, at in sites.items()
        if (at["type"] == "sample" and name not in drawn)
        or (at["type"] == "deterministic")
        if not isinstance(at.get("fn"), dist.Unit)
    }


def draw(
    model: Callable, guide: Callable, params: dict, keys: tuple, inputs: tuple
) -> tuple[dict, dict]:
    """Return the values of one draw, and those of the guide among them apart.

    Parameters
    ----------
    model, guide : callable
        NumPyro model and guide.
    params : dict
        Variational parameters, and mutable state.
    keys : tuple of jax.Array
        A key for the guide, and one for the model.
    inputs : tuple
        Arguments and keyword arguments.
    """
    args, kwargs = inputs
    drawing = seed(substitute(guide, data=params), keys[0])
    drawn = trace(drawing).get_trace(*args, **kwargs)
    latent = {n: at["value"] for n, at in drawn.items() if at["type"] == "sample"}
    fitted = given(model, params, latent | functions(drawn))
    sites = trace(seed(fitted, keys[1])).get_trace(*args, **kwargs)
    refuse_missing(params, drawn | sites)
    return _values(drawn, sites), latent


def draw_rows(
    model: Callable,
    guide: Callable,
    params: dict,
    keys: tuple,
    number: jax.Array,
    with_rows: set,
    inputs: tuple,
) -> dict[str, Any]:
    """Return the values of one draw for a batch of rows, whose number is given."""
    args, kwargs = inputs
    rows_keys = [jax.random.fold_in(jax.random.fold_in(k, 1), number) for k in keys]
    draw_keys = [jax.random.fold_in(key, 0) for key in keys]
    fitted = substitute(guide, data=params)
    drawing = Keyed(fitted, draw_keys[0], rows_keys[0], with_rows)
    drawn = trace(drawing).get_trace(*args, **kwargs)
    latent = {name: at for name, at in drawn.items() if at["type"] == "sample"}
    replayed = replay(given(model, params, functions(drawn)), latent)
    sites = trace(Keyed(replayed, draw_keys[1], rows_keys[1], with_rows))
    sites = sites.get_trace(*args, **kwargs)
    refuse_missing(params, drawn | sites)
    return _values({}, drawn | sites)


def refuse_size(size: int, what: str) -> None:
    """Refuse a result that is larger than the memory of this machine."""
    names = ("SC_PHYS_PAGES", "SC_PAGE_SIZE")
    if not all(name in getattr(os, "sysconf_names", ()) for name in names):
        return
    memory = os.sysconf(names[0]) * os.sysconf(names[1])
    if size > memory:
        raise MemoryError(
            f"num_draws: {what} would have {size / 2**30:.0f} GiB, of "
            f"{memory / 2**30:.0f} GiB of memory. Name fewer sites, or go through the "
            "rows by predictions(..., row_batch=...), or predict with row_batch and a "
            "summary"
        )


def pointwise(
    drawn: dict, scored: dict, params: dict, site: str | None
) -> tuple[jax.Array, jax.Array]:
    """Return the log density of each observation, and whether it is one.

    Parameters are the traces of one draw of the guide, and of the model given it.
    """
    refuse_missing(params, drawn | scored)
    samples = {name: at for name, at in scored.items() if at["type"] == "sample"}
    open_sites = [
        name
        for name, at in samples.items()
        if not at["is_observed"] and name not in drawn
    ]
    if open_sites:
        discrete = samples[open_sites[0]]["fn"].support.is_discrete
        cure = "; sum it out in the model, as dist.MixtureSameFamily does"
        raise ValueError(
            f"model: expected data or draws of the guide for {open_sites}, got neither"
            + (cure if discrete else "")
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
    checks.refuse_shape(at["name"], scored)
    logs = at["fn"].log_prob(at["value"])
    try:
        seen = jnp.ones(logs.shape, bool)
        for mask in checks.masks_of(at["fn"]):
            seen &= jnp.broadcast_to(mask, logs.shape)
        return logs, seen
    except ValueError as error:
        raise ValueError(
            f"model: expected a mask of whole observations at {at['name']!r} (shape "
            f"{logs.shape}), got one of parts of them; give the parts a dimension of "
            "their own, without to_event"
        ) from error


def at_once(draw_batch: int | None, values: dict, num_draws: int, what: str) -> int:
    """Return how many draws to compute in one call, of the values of one draw.

    Refuse draws that would have more bytes in all than this machine has memory.
    """
    size = sum(value.size * value.dtype.itemsize for value in values.values())
    refuse_size(size * num_draws, what)
    if draw_batch is None:
        draw_batch = max(1, BYTES // max(size, 1))
    return min(arguments.positive_int("draw_batch", draw_batch), num_draws)


def chosen(sites: list[str] | None, found: list[str], which: str) -> list[str]:
    """Return the names of the sites to return."""
    chosen = found if sites is None else list(sites)
    if not found and not sites:
        raise ValueError(
            f"model: expected observations or deterministic sites{which}, got none; "
            "name unknowns of the guide: sites=[...]"
        )
    if not chosen or not set(chosen) <= set(found):
        raise ValueError(f"sites: expected some of {found}{which}, got {chosen}")
    return chosen
