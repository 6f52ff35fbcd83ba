"""Do model and guide fit the data, and count each row once? Asked before a fit."""

import math
import warnings
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro.handlers import seed, substitute, trace
from numpyro.infer.autoguide import AutoGuide, AutoGuideList
from numpyro.primitives import Messenger

from helpers._arguments import put_together, take_apart

REPEATED = (
    ": some data would count repeatedly. Where a column is meant to be a vector, "
    ".squeeze(-1) makes it one; where it is wanted, give the data the site's shape"
)


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


def _sizes(sites: dict) -> dict[str, tuple[int | None, int]]:
    """Return the size of each plate around a site, whole (where known) and taken."""
    whole = {n: site["args"][0] for n, site in sites.items() if site["type"] == "plate"}
    return {
        name: (whole.get(name), size)
        for site in sites.values()
        for name, size in _frames(site).items()
    }


def _row_plates(fn: Callable, arguments: tuple, sites: dict, rows: int) -> set[str]:
    """Return the plates whose size changes with the number of rows in a batch."""
    with warnings.catch_warnings(action="ignore"):  # the other number may not fit
        changed, error = _sites(fn, arguments, rows, rows - 1 or 2)
    here, there = _sizes(sites), _sizes(changed)
    if error is not None:  # sizes that the model knows by heart
        return {name for name, (_, size) in here.items() if size == rows}
    return {name for name, sizes in there.items() if sizes != here.get(name)}


def _uses_indices(fn: Callable, arguments: tuple, plate: str, rows: int) -> bool:
    """Tell whether the numbers of so many rows, drawn by a plate, are ever used."""
    arrays, rest = take_apart(arguments)

    def run(arrays, indices):
        args, kwargs = put_together(arrays, rest)
        seeded = seed(substitute(fn, data={plate: indices}), jax.random.key(0))
        sites = trace(seeded).get_trace(*args, **kwargs)
        return [site["value"] for site in sites.values() if site["type"] == "sample"]

    jaxpr = jax.make_jaxpr(run)(arrays, jnp.arange(rows)).jaxpr
    indices = jaxpr.invars[-1]
    return any(indices is used for eqn in jaxpr.eqns for used in eqn.invars)


def _named_plates(sites: dict) -> str:
    """Return the names of all plates, with their sizes, for a message."""
    plates = {n: s["args"] for n, s in sites.items() if s["type"] == "plate"}
    return ", ".join(f"{name!r} of {n[1] or n[0]}" for name, n in plates.items())


def refuse_shape(name: str, sites: dict) -> None:
    """Refuse a site that is larger than its data, so that these count repeatedly.

    Parameters
    ----------
    name : str
        Name of a sample site.
    sites : dict
        Trace of the model that it is in.

    Raises
    ------
    ValueError
        If data and site contradict each other. A single number may belong to every
        row, and a factor has no data: such sites must not have the rows of a plate in
        another dimension, too.
    """
    site = sites[name]
    fn, shape, got = site["fn"], site["fn"].shape(), np.shape(site["value"])
    plates = {frame.dim: frame.size for frame in site.get("cond_indep_stack", ())}
    others = [  # dimensions that no plate accounts for
        size
        for dim, size in enumerate(fn.batch_shape, -len(fn.batch_shape))
        if dim not in plates and size > 1
    ]
    is_factor = fn.event_shape == (0,)
    if is_factor:
        shape, got = shape[:-1], got[:-1]
    try:
        whole = np.broadcast_shapes(shape, got)
        fits = whole in (shape, got)
    except ValueError:
        whole, fits = None, False
    if plates and got:
        fits = fits and math.prod(whole) == math.prod(got)
    if plates and (is_factor or not got):
        fits = fits and not set(others) & set(plates.values())
    if not fits:
        named = _named_plates(sites)
        against = f"data of shape {got}" if got and not is_factor else "plate"
        raise ValueError(
            f"model: site {name!r} has shape {shape}"
            + (f" (plate {named})" if named else "")
            + f", which contradicts its {against}"
            + (REPEATED if whole else "")
        )


def _refuse_shapes(sites: dict, error: Exception | None, arguments: tuple) -> None:
    """Refuse plates that contradict the data."""
    named = _named_plates(sites)
    if named and error is not None and "ncompatible shapes" in str(error):
        shapes = ", ".join(str(array.shape) for array in take_apart(arguments)[0])
        raise ValueError(
            f"model: expected plates that fit the data, got plate {named} and arrays "
            f"of shape {shapes}; {error}"
        ) from error
    for name, site in sites.items():
        if site["type"] == "sample":
            refuse_shape(name, sites)


def _refuse_no_data(sites: dict, arguments: tuple) -> None:
    """Refuse a model that gets rows and observes nothing."""
    shapes = [array.shape for array in take_apart(arguments)[0] if array.ndim]
    observed = [name for name, site in sites.items() if site.get("is_observed")]
    if shapes and not observed:
        raise ValueError(
            "model: expected a site with obs=..., or a factor, since there are data, "
            f"got none (arrays of shape {', '.join(map(str, shapes))}). Is one of its "
            "arguments missing? Arrays that are no data come by functools.partial"
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
        if site["is_observed"] and rows not in frames.values():  # rows in no plate
            with_rows |= np.shape(site["value"])[:1] == (rows,)
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


def _unknowns(sites: dict) -> set[str]:
    """Return the sites that a loss expects in the guide: what is drawn and counted."""
    found = set()
    for name, site in sites.items():
        if site["type"] != "sample" or site["is_observed"]:
            continue
        fn, masked, infer = site["fn"], False, site.get("infer") or {}
        while hasattr(fn, "base_dist"):
            masked |= getattr(fn, "_mask", None) is False
            fn = fn.base_dist
        given = site["kwargs"].get("rng_key") is None  # by a handler
        left_out = infer.get("enumerate") or infer.get("is_auxiliary")
        if not (given or masked or left_out or isinstance(fn, dist.Delta)):
            found.add(name)
    return found


def check_model(
    model: Callable, arguments: tuple, rows: int | None, num_rows: int | None
) -> tuple[set[str], set[str]]:
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
    set of str, set of str
        Names of the plates over rows, none where every step gets all of the data; and
        of the sites that the guide must have.

    Raises
    ------
    TypeError
        If the model does not know a keyword argument.
    ValueError
        If there are rows and nothing is observed; observed data do not have the shape
        of their site; a site with a row for each row of the batch does not count for
        ``num_rows / rows`` of them; the model draws rows by itself from what are
        batches already.

    Notes
    -----
    Likelihoods that are summed before they become a factor cannot be seen through.
    """
    sites, error = _sites(model, arguments)
    if isinstance(error, TypeError) and "unexpected keyword" in str(error):
        for name in arguments[1]:
            if f"'{name}'" in str(error):
                raise TypeError(f"{name}: no option of fit, and {error}") from error
    _refuse_shapes(sites, error, arguments)
    if error is None:
        _refuse_no_data(sites, arguments)
    if rows is None:
        return set(), _unknowns(sites)
    row_plates = _row_plates(model, arguments, sites, rows)
    _refuse_weights("model", sites, row_plates, rows, num_rows)
    # A plate that is subsampled from all rows may take a number written out.
    for plate, (all_, some) in _sizes(sites).items() if error is None else ():
        suspect = plate in row_plates or some < (all_ or 0) == num_rows
        if suspect and _uses_indices(model, arguments, plate, some):
            raise ValueError(
                "model: expected to use the rows of a batch as they come, got one "
                f"that looks rows up by the numbers of plate {plate!r}"
            )
    return row_plates, _unknowns(sites)


def made_from(guide: Callable, model: Callable) -> bool:
    """Tell an autoguide of this very model, which has all of its unknowns.

    A list of autoguides may lack some.
    """
    return (
        isinstance(guide, AutoGuide)
        and not isinstance(guide, AutoGuideList)
        and guide.model is model
    )


def check_guide(
    guide: Callable,
    arguments: tuple,
    row_plates: set[str],
    unknowns: set[str],
    rows: int | None,
    num_rows: int | None,
) -> None:
    """Refuse a guide that lacks sites, weighs rows wrongly, or has parameters of rows.

    Parameters are those of `check_model`, and what it returned.

    Raises
    ------
    ValueError
        If an unknown of the model is none of the guide: a draw of the prior would take
        its place, at a wrong loss. If a local unknown of the guide does not count for
        ``num_rows / rows``, or a plate over rows hands out parameters: it would do so
        by numbers of its own.
    """
    sites, error = _sites(guide, arguments)
    drawn = {name for name, site in sites.items() if site["type"] == "sample"}
    if error is None and not unknowns <= drawn:
        raise ValueError(
            "guide: expected a site for each unknown of the model, got none for "
            f"{sorted(unknowns - drawn)}, but {sorted(drawn)}"
        )
    for name, site in sites.items():
        if site["type"] == "param" and row_plates & _frames(site).keys():
            raise ValueError(
                f"guide: parameter {name!r} has an entry for each row, which cannot "
                "follow the rows of a batch. Compute what belongs to a row from its "
                "data (a network does), pass row numbers and look entries up outside "
                "of the plate, or give all rows to each step"
            )
    if row_plates:
        _refuse_weights("guide", sites, row_plates, rows, num_rows)
