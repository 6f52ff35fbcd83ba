"""Do model and guide fit the data, and count each row once? Asked before a fit."""

import math
import warnings
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro.handlers import seed, substitute, trace
from numpyro.primitives import Messenger

from helpers._arguments import put_together, take_apart


class FirstRows(Messenger):
    """Let subsampled plates take the first rows, and draw none of all.

    NumPyro shuffles the numbers of all rows for it: as many numbers as the table has
    rows, to be thrown away, since batches come from elsewhere. (Autoguides hide their
    own first look at the model from handlers; they still do.)
    """

    def process_message(self, msg: dict) -> None:
        """Change how the row numbers of a plate are found."""
        if msg["type"] == "plate" and msg["args"][0] != msg["args"][1]:
            msg["fn"] = lambda size, some, rng_key=None: jnp.arange(some)


def _sites(
    fn: Callable, arguments: tuple, rows: int = -1, other: int = -1
) -> tuple[dict, Exception | None]:
    """Return the sites up to the first error, and that; nothing is computed.

    Arrays of so many `rows` are taken to have the `other` number of them.
    """
    kept = {}
    arrays, rest = take_apart(arguments)
    structs = [
        jax.ShapeDtypeStruct((other, *a.shape[1:]), a.dtype)
        if a.shape[:1] == (rows,)
        else a
        for a in arrays
    ]

    def run(arrays):
        args, kwargs = put_together(arrays, rest)
        tracing = trace(seed(fn, jax.random.key(0)))
        try:
            tracing(*args, **kwargs)
        finally:
            kept.update(tracing.trace)

    try:
        jax.eval_shape(run, structs)
    except Exception as error:  # a model may fail in any way
        return kept, error
    return kept, None


def _frames(site: dict) -> dict[str, int]:
    """Return name and size, as subsampled, of the plates around a site."""
    return {frame.name: frame.size for frame in site.get("cond_indep_stack", ())}


def _row_plates(fn: Callable, arguments: tuple, sites: dict, rows: int) -> set[str]:
    """Return the plates whose size changes with the number of rows in a batch."""
    with warnings.catch_warnings(action="ignore"):  # the other number may not fit
        changed, error = _sites(fn, arguments, rows, rows - 1 or 2)
    here = {
        name: size for site in sites.values() for name, size in _frames(site).items()
    }
    if error is not None:  # sizes that the model knows by heart
        return {name for name, size in here.items() if size == rows}
    there = [item for site in changed.values() for item in _frames(site).items()]
    return {name for name, size in there if size != here.get(name)}


def _uses_indices(fn: Callable, arguments: tuple, plate: str, rows: int) -> bool:
    """Tell whether the row numbers that a plate would draw are used for anything."""
    arrays, rest = take_apart(arguments)

    def run(arrays, indices):
        args, kwargs = put_together(arrays, rest)
        seeded = seed(substitute(fn, data={plate: indices}), jax.random.key(0))
        sites = trace(seeded).get_trace(*args, **kwargs)
        return [site["value"] for site in sites.values() if site["type"] == "sample"]

    jaxpr = jax.make_jaxpr(run)(arrays, jnp.arange(rows)).jaxpr
    indices = jaxpr.invars[-1]
    return any(indices is used for eqn in jaxpr.eqns for used in eqn.invars)


def _refuse_shapes(sites: dict, error: Exception | None, arguments: tuple) -> None:
    """Refuse plates that contradict the data."""
    plates = {n: s["args"] for n, s in sites.items() if s["type"] == "plate"}
    named = ", ".join(
        f"{name!r} of {size[1] or size[0]}" for name, size in plates.items()
    )
    if plates and error is not None and "ncompatible shapes" in str(error):
        shapes = ", ".join(str(array.shape) for array in take_apart(arguments)[0])
        raise ValueError(
            f"model: expected plates that fit the data, got plate {named} and arrays "
            f"of shape {shapes}; {error}"
        ) from error
    for name, site in sites.items():
        if site["type"] != "sample" or isinstance(site["fn"], dist.Unit):
            continue
        expected, got = site["fn"].shape(), np.shape(site["value"])
        try:
            fits = np.broadcast_shapes(expected, got) in (expected, got)
        except ValueError:
            fits = False
        if not fits:
            within = f" (plate {named})" if plates else ""
            raise ValueError(
                f"model: site {name!r} has shape {expected}{within}, which contradicts "
                f"its data of shape {got}"
            )


def _refuse_weights(
    who: str, sites: dict, row_plates: set, rows: int, num_rows: int
) -> None:
    """Refuse sites with rows that do not count for ``num_rows / rows`` of them."""
    sizes = {n: s["args"] for n, s in sites.items() if s["type"] == "plate"}
    right = num_rows / rows
    for name, site in sites.items():
        if site["type"] != "sample":
            continue
        frames = _frames(site)
        with_rows = bool(row_plates & frames.keys())
        if not frames and site["is_observed"]:
            with_rows = np.shape(site["value"])[:1] == (rows,)
        scale = 1.0 if site["scale"] is None else site["scale"]
        if not with_rows or isinstance(scale, jax.core.Tracer) or np.ndim(scale):
            continue
        # Plates over something else may be subsampled for reasons of their own.
        others = [
            sizes.get(n, (s, s)) for n, s in frames.items() if n not in row_plates
        ]
        weight = float(scale) / math.prod(
            all_ / (some or all_) for all_, some in others
        )
        if not math.isclose(weight, right, rel_tol=1e-5):
            raise ValueError(
                f"{who}: site {name!r} counts each row of a batch {weight:g} times, "
                f"expected {right:g} ({num_rows} rows in all, {rows} in a batch). "
                'Write numpyro.plate("rows", size, subsample_size=len(x)), with the '
                "size of the whole table, and no other scale"
            )


def check_model(
    model: Callable, arguments: tuple, rows: int | None, num_rows: int | None
) -> set[str]:
    """Refuse a model whose plates contradict its data, or that weighs rows wrongly.

    Parameters
    ----------
    model : callable
        NumPyro model.
    arguments : tuple
        Its arguments and keyword arguments at one step.
    rows, num_rows : int or None
        Rows in such a step, and in all; None where every step gets all of the data.

    Returns
    -------
    set of str
        Names of the plates over rows; none where every step gets all of the data.

    Raises
    ------
    ValueError
        If observed data do not have the shape of their site; a site with a row for
        each row of the batch does not count for ``num_rows / rows`` of them; the model
        draws rows by itself from what are batches already.

    Notes
    -----
    Likelihoods that are summed before they become a factor cannot be seen through.
    """
    sites, error = _sites(model, arguments)
    _refuse_shapes(sites, error, arguments)
    if rows is None:
        return set()
    row_plates = _row_plates(model, arguments, sites, rows)
    _refuse_weights("model", sites, row_plates, rows, num_rows)
    for plate in row_plates if error is None else ():
        if _uses_indices(model, arguments, plate, rows):
            raise ValueError(
                "model: expected to use the rows of a batch as they come, got one "
                f"that looks rows up by the numbers of plate {plate!r}"
            )
    return row_plates


def check_guide(
    guide: Callable, arguments: tuple, row_plates: set, rows: int, num_rows: int
) -> None:
    """Refuse a guide that weighs rows wrongly, or has parameters for each of them.

    Parameters are those of `check_model`, and what it returned.

    Raises
    ------
    ValueError
        If a local unknown of the guide does not count for ``num_rows / rows``, or a
        plate over rows hands out parameters: it would do so by numbers of its own.
    """
    sites, _ = _sites(guide, arguments)
    for name, site in sites.items():
        if site["type"] == "param" and row_plates & _frames(site).keys():
            raise ValueError(
                f"guide: parameter {name!r} has an entry for each row, which cannot "
                "follow the rows of a batch. Compute what belongs to a row from its "
                "data (a network does), pass row numbers and look entries up outside "
                "of the plate, or give all rows to each step"
            )
    _refuse_weights("guide", sites, row_plates, rows, num_rows)
