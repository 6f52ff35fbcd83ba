"""Checks that model, guide and data fit, and that each row counts once.

`before` looks at the model before a fit starts, `after` at guide and start. A user who
knows better says ``unchecked=True``, which leaves both out.
"""

import contextlib
import copy
import math
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro.handlers import seed, substitute, trace
from numpyro.infer import SVI
from numpyro.infer.autoguide import AutoGuide, AutoGuideList
from numpyro.infer.svi import SVIState
from numpyro.primitives import Messenger

from fitting import arguments
from fitting.arguments import hoisted, is_array, not_finite, parameters_of
from fitting.endings import cause

KNOW_BETTER = " Where this is meant, say unchecked=True"
REPEATED = (
    ": some data would count repeatedly. Where a column is meant to be a vector, "
    ".squeeze(-1) makes it one; where it is wanted, give the data the site's shape"
)
# Layers that only repeat, hide or regroup what the distribution inside them gives.
WRAPPERS = dist.ExpandedDistribution, dist.Independent, dist.MaskedDistribution
FAR = 1e6  # a start beyond this, between bounds as wide, is worth a warning


class Seen(NamedTuple):
    """The sites of a model or a guide, up to the first error, and what needs the rows.

    `with_rows` are the sample sites whose value or distribution depends on moving rows.
    `noisy` says that it asks for keys, to make noise of its own (dropout).
    """

    sites: dict
    error: Exception | None
    with_rows: set[str]
    noisy: bool = False


class Keys(Messenger):
    """Notice that a model asks for a key: `trace` does not keep it."""

    asked = False

    def process_message(self, msg: dict) -> None:
        """Look at the type of a site."""
        self.asked |= msg["type"] == "prng_key"


def dependent(jaxpr: Any, inputs: list) -> list[bool]:
    """Return which results of a traced program depend on some of its inputs."""
    reached = set(inputs)
    for equation in jaxpr.eqns:
        if any(v in reached for v in equation.invars if not hasattr(v, "val")):
            reached.update(equation.outvars)
    return [not hasattr(v, "val") and v in reached for v in jaxpr.outvars]


def layers(fn: Any) -> list:
    """Return a distribution and those inside it, the innermost last."""
    found = [fn]
    while hasattr(found[-1], "base_dist"):
        found.append(found[-1].base_dist)
    return found


def feasible(site: dict) -> Any:
    """Return a value for an unknown of an improper prior, which cannot be drawn."""
    innermost = layers(site.get("fn"))[-1]
    if site["value"] is None and isinstance(innermost, dist.ImproperUniform):
        return site["fn"].support.feasible_like(jnp.zeros(site["fn"].shape()))


def _drawing(fn: Callable) -> Callable:
    """Return a model or guide that draws all it can, for its trace."""
    seeded = seed(fn, jax.random.key(0))
    return trace(substitute(seeded, substitute_fn=feasible))


def look(fn: Callable, put: Callable, moving: dict, static: dict) -> Seen:
    """Trace a model or guide without computing anything.

    Parameters
    ----------
    fn : callable
        NumPyro model or guide.
    put : callable
        What makes arguments and keyword arguments of the moving arrays.
    moving : dict
        The arrays that change from step to step; they are traced, others are not.
    static : dict
        More keyword arguments.
    """
    kept, names, keys = {}, [], Keys()

    def run(moving):
        args, kwargs = put(moving)
        tracing = _drawing(fn)
        try:
            with keys:
                tracing(*args, **kwargs, **static)
        finally:
            kept.update(tracing.trace)
        found = []
        for name, site in kept.items():
            if site["type"] == "sample":
                for leaf in jax.tree.leaves((site["fn"], site["value"], site["scale"])):
                    if isinstance(leaf, jax.core.Tracer):
                        found.append(leaf)
                        names.append(name)
        return found

    try:
        with np.errstate(over="ignore"):
            jaxpr = jax.make_jaxpr(run)(moving).jaxpr
    except Exception as error:  # a model may fail in any way
        return Seen(kept, error, set())
    pairs = zip(names, dependent(jaxpr, jaxpr.invars), strict=True)
    with_rows = {name for name, depends in pairs if depends}
    return Seen(kept, None, with_rows, keys.asked)


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


def _samples(sites: dict) -> dict[str, dict]:
    return {name: site for name, site in sites.items() if site["type"] == "sample"}


def masks_of(fn: Any) -> list:
    """Return the masks of a distribution, often none."""
    masks = [getattr(layer, "_mask", None) for layer in layers(fn)[:-1]]
    return [mask for mask in masks if mask is not None]


def is_traced(*values: Any) -> bool:
    """Return whether some of these values are not known yet."""
    return any(isinstance(value, jax.core.Tracer) for value in values)


def is_point(site: dict) -> bool:
    """Return whether a site puts all probability on a point."""
    return isinstance(layers(site["fn"])[-1], dist.Delta)


def is_hidden(site: dict) -> bool:
    """Return whether a mask hides a site as a whole."""
    return any(not (is_traced(m) or np.any(m)) for m in masks_of(site["fn"]))


def unknowns(sites: dict) -> dict[str, dict]:
    """Return the sites that a loss expects in the guide: what is drawn and counted."""
    found = {}
    for name, site in _samples(sites).items():
        infer = site.get("infer") or {}
        in_series = site.get("_control_flow_done", False)  # of scan: its keys are gone
        drawn = in_series or site["kwargs"].get("rng_key") is not None
        given = site["is_observed"] or not drawn
        left_out = infer.get("enumerate") or infer.get("is_auxiliary")
        if not (given or is_hidden(site) or left_out or is_point(site)):
            found[name] = site
    return found


def refuse_shape(name: str, sites: dict) -> None:
    """Refuse a site that is larger than its data, so that these count repeatedly.

    A single number may belong to every row, and a factor has no data: such sites must
    not have the rows of a plate in another dimension, too.
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


def _named_plates(sites: dict) -> str:
    """Return the names of all plates, with their sizes, for a message."""
    plates = {n: s["args"] for n, s in sites.items() if s["type"] == "plate"}
    return ", ".join(f"{name!r} of {n[1] or n[0]}" for name, n in plates.items())


def refuse_values(sites: dict) -> None:
    """Refuse observed values that are not finite, or that a distribution cannot give.

    This sees values that are given as they are; the loss tells of others.
    """
    for name, site in _samples(sites).items():
        value, masks = site["value"], masks_of(site["fn"])
        hidden = isinstance(site["fn"], dist.Unit) or is_traced(value, *masks)
        if not site["is_observed"] or hidden:
            continue
        if not getattr(value, "is_fully_addressable", True):
            continue
        mask = np.logical_and.reduce(np.broadcast_arrays(True, *masks))
        value = np.asarray(value)
        if value.dtype.kind == "f":
            events = (1,) * (value.ndim - np.ndim(mask))
            if problem := not_finite(value, np.reshape(mask, np.shape(mask) + events)):
                raise ValueError(
                    f"model: site {name!r} observes {problem}. Leave such rows out, "
                    "mask them (numpyro.handlers.mask(mask=seen) with "
                    "obs=np.where(seen, y, 0)), or make them unknowns (imputation)"
                )
        inside = layers(site["fn"])
        if any(vars(layer).get("_validate_args") is False for layer in inside):
            continue  # NumPyro's own way to say that values may lie outside
        try:
            fits = np.asarray(site["fn"].support(value))
        except Exception:  # bounds that depend on unknowns, or no support at all
            continue
        wrong = ~fits & mask if np.shape(fits) == np.shape(fits & mask) else ~fits
        if wrong.any():
            fn = next(layer for layer in inside if not isinstance(layer, WRAPPERS))
            classes = " Classes start at 0." if fn.support.is_discrete else ""
            raise ValueError(
                f"model: site {name!r} observes values that {type(fn).__name__}"
                f" cannot give ({wrong.sum()} of {wrong.size}; values from "
                f"{value.min():.6g} to {value.max():.6g}, support "
                f"{site['fn'].support}).{classes} Where they are meant, give the "
                "distribution validate_args=False"
            )


def _uses_indices(fn: Callable, svi: SVI, source: Any, plate: str, size: int) -> bool:
    """Return whether the numbers of rows, drawn by a plate, are ever used."""

    def run(moving, indices):
        args, kwargs = source.put(moving)
        drawing = _drawing(substitute(fn, data={plate: indices}))
        sites = drawing.get_trace(*args, **kwargs, **svi.static_kwargs)
        return [site["value"] for site in _samples(sites).values()]

    try:
        jaxpr = jax.make_jaxpr(run)(source.moving, np.arange(size)).jaxpr
    except jax.errors.JAXTypeError:  # looked at, as by NumPy
        return True
    indices = jaxpr.invars[-1]
    return any(indices is used for eqn in jaxpr.eqns for used in eqn.invars)


def _other_rows(fn: Callable, svi: SVI, source: Any) -> Seen:
    """Look at a model or guide that gets another number of rows."""
    other = source.batch_rows - 1 or 2
    changed = {
        name: np.resize(array, (other, *array.shape[1:])) if array.ndim else array
        for name, array in source.moving.items()
    }
    with warnings.catch_warnings(action="ignore"):  # the other number may not fit
        return look(fn, source.put, changed, svi.static_kwargs)


def _row_plates(svi: SVI, source: Any, seen: Seen) -> set[str]:
    """Return the plates whose size changes with the number of rows in a batch."""
    again, rows = _other_rows(svi.model, svi, source), source.batch_rows
    here, there = _sizes(seen.sites), _sizes(again.sites)
    if again.error is not None:  # sizes that the model knows by heart
        return {
            name for name, (all_rows, size) in here.items() if rows == size != all_rows
        }
    return {name for name, sizes in there.items() if sizes != here.get(name)}


def _refuse_weights(who: str, seen: Seen, row_plates: set, source: Any) -> None:
    """Refuse sites with rows that do not count for ``num_rows / rows`` of them."""
    rows, num_rows = source.batch_rows, source.num_rows
    sizes = {n: s["args"] for n, s in seen.sites.items() if s["type"] == "plate"}
    right = num_rows / rows
    is_series = any("_control_flow_done" in site for site in seen.sites.values())
    cure = (
        f"expected {right:g} ({num_rows} rows in all, {rows} in a batch). Write "
        'numpyro.plate("rows", size, subsample_size=len(x)) around it, with the size '
        "of the whole table, and no other scale; give all rows to each step; or, where "
        "the weights are right, say unchecked=True"
        + (". Steps of a series (scan) are no rows of a table" if is_series else "")
    )
    for name, site in _samples(seen.sites).items():
        frames = _frames(site)
        in_plate = bool(row_plates & frames.keys())
        if site["is_observed"] and rows not in frames.values():  # rows in no plate
            in_plate |= np.shape(site["value"])[:1] == (rows,)
        if not in_plate and name not in seen.with_rows:
            continue
        scale = 1.0 if site["scale"] is None else site["scale"]
        if is_traced(scale) or np.ndim(scale):
            raise ValueError(
                f"{who}: site {name!r} has weights of single rows, or weights that are "
                f"computed while the model runs, which cannot be checked; {cure}"
            )
        # Plates over something else may be subsampled for reasons of their own.
        parts = {n: sizes.get(n, (size, size)) for n, size in frames.items()}
        by_plate = {n: whole / (some or whole) for n, (whole, some) in parts.items()}
        others = math.prod(w for n, w in by_plate.items() if n not in row_plates)
        weight = float(scale) / others
        if math.isclose(weight, right, rel_tol=1e-5):
            continue
        of_rows = math.prod(w for n, w in by_plate.items() if n in row_plates)
        if not site["is_observed"] and math.isclose(of_rows, right, rel_tol=1e-5):
            continue  # a weight on top, such as an annealing factor of local unknowns
        what = "each row of a batch" if in_plate else "what it computes from a batch"
        raise ValueError(f"{who}: site {name!r} counts {what} {weight:g} times, {cure}")


def _densities(
    fn: Callable, svi: SVI, source: Any, seen: Seen, row_plates: set
) -> Callable:
    """Return the function that computes how much each row of a batch counts.

    It takes the moving arrays, and unknowns of single rows or none, to draw them. It
    returns, by site, the log densities of rows; those of sites outside of row plates,
    summed up; and the unknowns of single rows. Rows are the first axis.
    """
    samples = _samples(seen.sites)
    dims = {
        name: frame.dim
        for name, site in samples.items()
        for frame in site["cond_indep_stack"]
        if frame.name in row_plates
    }
    axes = {name: dim - samples[name]["fn"].event_dim for name, dim in dims.items()}

    @jax.jit
    def compute(moving, unknowns):
        args, kwargs = source.put(moving)
        given = {n: jnp.moveaxis(value, 0, axes[n]) for n, value in unknowns.items()}
        with FirstRows():
            drawing = _drawing(substitute(fn, data=given))
            sites = drawing.get_trace(*args, **kwargs, **svi.static_kwargs)
        of_rows, sums, drawn = {}, {}, {}
        for name, site in _samples(sites).items():
            logs = site["fn"].log_prob(site["value"])
            if name in dims:
                logs = jnp.broadcast_to(logs, site["fn"].batch_shape)
                of_rows[name] = jnp.moveaxis(logs, dims[name], 0)
            elif name in seen.with_rows:
                sums[name] = logs.sum()
            if name in dims and not site["is_observed"]:
                drawn[name] = jnp.moveaxis(site["value"], axes[name], 0)
        return of_rows, sums, drawn

    return compute


def _refuse_dependent_rows(
    who: str, svi: SVI, source: Any, seen: Seen, row_plates: set
) -> None:
    """Refuse a model or guide where a row counts differently with other rows.

    Two batches are tried: the first one, and where all rows are at hand, one with the
    smallest and largest values of each column. The model is computed again with each
    half of the batch twice, in reverse order, in the place of the batch, and with one
    half alone. Rows must count as before, and sums over rows add up. Where the model
    makes noise for each place (dropout), rows that are compared stay in place. Batch
    normalization, which keeps averages in mutable state, is meant to depend on the
    batch.
    """
    tables, size = hasattr(source, "rows_at"), source.batch_rows
    if tables and size == 1:
        size = min(2, source.num_rows)
    mutable = [s["value"] for s in seen.sites.values() if s["type"] == "mutable"]
    leaves = [leaf for leaf in jax.tree.leaves(mutable) if hasattr(leaf, "dtype")]
    averages = [leaf for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating)]
    if size < 2 or averages:
        return
    tried = [source.moving]
    if tables and size != source.batch_rows:
        tried = [source.rows_at(np.arange(size))]
    if tables:
        tried.append(source.extremes(size))
    fn = svi.model if who == "model" else svi.guide
    compute = _densities(fn, svi, source, seen, row_plates)
    noisy = seen.noisy or bool(leaves)
    for moving in tried:
        _refuse_dependent(who, compute, moving, size, noisy)


def _refuse_dependent(
    who: str, compute: Callable, moving: dict, size: int, noisy: bool
) -> None:
    """Refuse a batch whose rows count differently in another place or with others."""
    try:
        of_rows, sums, drawn = compute(moving, {})
    except Exception:  # the fit will say what is wrong
        return

    def again(rows):
        picked = jax.tree.map(lambda a: a[rows] if a.ndim else a, (moving, drawn))
        return rows, *compute(*picked)

    half, places = size // 2, np.arange(size)
    if noisy:
        parts = [again(places % half), again(size - half + (places - size) % half)]
    else:
        first = half - 1 - places % half
        second = first + half
        if size % 2:  # the last row counts once in each
            first[-1] = second[-1] = size - 1
        parts = [again(first), again(second)]
        with contextlib.suppress(TypeError, ValueError):  # of a size inside the model
            parts.append(again(first[:half]))
    wrong = []
    for rows, now, *_ in parts:
        held = rows == places if noisy else slice(None)
        for name, logs in now.items():
            before, after = of_rows[name][rows][held], logs[held]
            if not np.allclose(before, after, rtol=1e-3, equal_nan=True):
                wrong.append(name)
    for name, total in sums.items() if not noisy else ():
        twice = parts[0][2][name] + parts[1][2][name]
        if np.isfinite(total) and not np.isclose(twice, 2 * total, rtol=1e-3):
            wrong.append(name)
    if wrong:
        raise ValueError(
            f"{who}: expected rows that do not depend on each other, but at site "
            f"{wrong[0]!r} a row counts differently in another place or with other "
            "rows. What it computes from all rows, such as the mean of a "
            "column, or from their places, is another number in each batch: compute "
            f"it before the fit, or give all rows to each step.{KNOW_BETTER}"
        )


def _explain_error(model: Callable, seen: Seen, source: Any) -> None:
    """Raise a clearer error for some of those that a model may raise."""
    error, text = seen.error, str(seen.error)
    if error is not None and (column := arguments.column_in(model, *source.first)):
        raise TypeError(f"{column} ({type(error).__name__}: {error})") from error
    if isinstance(error, TypeError) and "unexpected keyword" in text:
        name = re.search(r"'(\w+)'", text)
        if name:
            raise TypeError(f"{name[1]}: no option of fit, and {error}") from error
    if source.moving and isinstance(error, jax.errors.JAXTypeError):
        found = re.search(r"argument moving\['([^']*)'\]", text)
        name = found[1] if found else "an argument"
        raise TypeError(
            f"model: expected not to look at the values of {name}, since batches of "
            "rows are traced. Compute what it needs (such as a number of groups) "
            "before the fit and bind it: functools.partial(model, num_groups=...). A "
            "table in which it looks rows up must be an array of JAX: "
            "jnp.asarray(table). Or give all rows to each step"
        ) from error
    plates = _named_plates(seen.sites)
    if plates and error is not None and "ncompatible shapes" in text:
        leaves = jax.tree.leaves(source.first)
        shapes = ", ".join(str(leaf.shape) for leaf in leaves if is_array(leaf))
        raise ValueError(
            f"model: expected plates that fit the data, got plate {plates} and arrays "
            f"of shape {shapes}; {error}"
        ) from error


def _refuse_no_data(model: Callable, sites: dict, source: Any) -> None:
    """Refuse a model that gets arrays, observes nothing, and lacks an argument."""
    args, kwargs = source.first
    arrays = [leaf for leaf in jax.tree.leaves((args, kwargs)) if is_array(leaf)]
    left = list(parameters_of(model).items())[len(args) :]
    missing = [n for n, p in left if n not in kwargs and p.default is None]
    observed = any(site["is_observed"] for site in _samples(sites).values())
    if arrays and missing and not observed:
        raise ValueError(
            "model: expected a site with obs=..., or a factor, since there are data, "
            f"got none. Is an argument missing ({', '.join(missing)})?{KNOW_BETTER}"
        )


def _refuse_discrete(svi: SVI, sites: dict) -> None:
    """Refuse unknown whole numbers whose gradients the loss cannot estimate."""
    if getattr(svi.loss, "can_infer_discrete", True):
        return
    for name, site in unknowns(sites).items():
        if getattr(site["fn"].support, "is_discrete", False):
            raise ValueError(
                f"model: unknown {name!r} is discrete, and {type(svi.loss).__name__} "
                "takes gradients through draws, which such draws do not have. Sum it "
                "out (by hand, or TraceEnum_ELBO with infer={'enumerate': 'parallel'}) "
                f"or use TraceGraph_ELBO with a guide of your own.{KNOW_BETTER}"
            )


def before(svi: SVI, source: Any, unchecked: bool) -> tuple[Seen, set[str]]:
    """Check a model before a fit.

    Parameters
    ----------
    svi : numpyro.infer.SVI
        Model, guide, optimizer and loss.
    source : AllRows, Tables or Stream
        Where the data come from.
    unchecked : bool
        Whether to leave all of this out.

    Returns
    -------
    Seen, set of str
        The sites of the model, and the names of its plates over rows of a batch.

    Raises
    ------
    TypeError, ValueError
        If the model does not know a keyword argument, looks at values of traced rows,
        gets data that contradict its plates or its distributions, observes nothing,
        has discrete unknowns that the loss cannot treat, does not count each row of a
        batch for ``num_rows / batch_size`` rows, or lets rows depend on each other.
    """
    seen = look(svi.model, source.put, source.moving, svi.static_kwargs)
    _explain_error(svi.model, seen, source)
    if unchecked or seen.error is not None:  # it will be raised again by the model
        return seen, set()
    for name in _samples(seen.sites):
        refuse_shape(name, seen.sites)
    _refuse_no_data(svi.model, seen.sites, source)
    _refuse_discrete(svi, seen.sites)
    whole = seen.sites
    if hasattr(source, "tables"):  # each value, not only those of the first batch
        tables = {name: jnp.asarray(table) for name, table in source.stored.items()}
        put = lambda _: source.put(tables)  # noqa: E731
        whole = look(svi.model, put, {}, svi.static_kwargs).sites
    refuse_values(whole)
    row_plates = set()
    if source.batch_rows is not None:
        row_plates = _row_plates(svi, source, seen)
        _refuse_weights("model", seen, row_plates, source)
    for plate, (whole, some) in _sizes(seen.sites).items():
        subsampled = some < (whole or 0)
        if not (subsampled or plate in row_plates):
            continue
        used = _uses_indices(svi.model, svi, source, plate, some)
        if used and (plate in row_plates or whole == source.num_rows):
            raise ValueError(
                "model: expected to use the rows of a batch as they come, got one that "
                f"looks rows up by the numbers of plate {plate!r}"
            )
        with_data = any(
            site["is_observed"] and plate in _frames(site)
            for site in _samples(seen.sites).values()
        )
        if subsampled and with_data and not used and source.batch_rows is None:
            raise ValueError(
                f"model: plate {plate!r} says that {some} of {whole} rows are here, "
                f"and every step gets the same ones: each would count "
                f"{whole / some:g} times. Give all {whole} rows and batch_size={some} "
                f"(or batches=...), write numpyro.plate({plate!r}, {some}), or pick "
                f"rows in the model by the numbers of the plate.{KNOW_BETTER}"
            )
    if source.batch_rows is not None:
        _refuse_dependent_rows("model", svi, source, seen, row_plates)
    return seen, row_plates


def _made_from(guide: Callable, model: Callable) -> bool:
    """Return whether a guide is an autoguide of this very model, with all its unknowns.

    A list of autoguides may lack some.
    """
    is_list = isinstance(guide, AutoGuideList)
    return isinstance(guide, AutoGuide) and not is_list and guide.model is model


def start(
    svi: SVI,
    rng_key: jax.Array,
    source: Any,
    init_state: SVIState | None,
    init_params: dict[str, Any] | None,
    many: bool,
) -> SVIState:
    """Return the state to start from, or one for each of many keys."""
    args, kwargs = source.first
    if init_state is not None:
        runs = arguments.keys("init_state.rng_key", init_state.rng_key)
        wanted = len(rng_key) if many else None
        if runs != wanted:
            raise ValueError(
                f"init_state: expected as many runs as rng_key has keys, got "
                f"{runs or 'one'} and {wanted or 'one'}"
            )
    first_key = rng_key[0] if many else rng_key
    rows = FirstRows() if source.moving else contextlib.nullcontext()

    def one(key):
        new = copy.copy(svi)  # keeps no start, and has what a subclass adds
        with rows, _unused(autoguides.values()):
            return new.init(key, *args, init_params=init_params, **kwargs)

    if init_state is None or svi.constrain_fn is None:
        try:
            with rows, _noted() as autoguides:
                state = svi.init(first_key, *args, init_params=init_params, **kwargs)
        except (RuntimeError, ValueError) as error:
            no_start = "valid initial parameters" in str(error)
            if not (no_start or "got invalid" in str(error)):  # of a distribution
                raise
            what = "no finite density" if no_start else str(error)
            reason = cause(svi, source, source.first, 1, what)
            raise ValueError(f"model: {reason}") from error
    if many and init_state is None:
        state = hoisted(jax.vmap(one), rng_key, level=0)(rng_key)
    state = state if init_state is None else init_state
    if state.mutable_state and getattr(svi.loss, "num_particles", 1) > 1:
        warnings.warn(
            f"loss: with num_particles={svi.loss.num_particles} NumPyro does not keep "
            f"{sorted(state.mutable_state)} (averages of batch normalization, say), "
            "which stay as they start; use num_particles=1",
            stacklevel=3,
        )
        state = state._replace(mutable_state=None)
    return state


@contextlib.contextmanager
def _noted() -> Iterator[dict[int, AutoGuide]]:
    """Note the autoguides that draw meanwhile, wherever a guide holds them.

    One that a model merely reads, as `NeuTraReparam` does, draws nothing.
    """
    used: dict[int, AutoGuide] = {}

    def look_up(self, name):
        if name in ("_setup_prototype", "_create_plates", "_sample_latent"):
            used[id(self)] = self
        return object.__getattribute__(self, name)

    AutoGuide.__getattribute__ = look_up
    try:
        yield used
    finally:
        del AutoGuide.__getattribute__


@contextlib.contextmanager
def _unused(guides: Iterable[AutoGuide]) -> Iterator[None]:
    """Let autoguides that were used start anew, and put them back as they were.

    An autoguide keeps its first start, and the order of its unknowns. In a traced start
    this order would be another one, the alphabet's, and parameters would get mixed up.
    """
    kept = [(guide, type(guide), dict(vars(guide))) for guide in guides]
    for guide, kind, attributes in kept:
        order = list(attributes.get("_init_locs", ()))

        def keep_order(self, name, value, order=order):
            if name == "_init_locs":
                value = {unknown: value[unknown] for unknown in order}
            object.__setattr__(self, name, value)

        guide.__class__ = type(kind.__name__, (kind,), {"__setattr__": keep_order})
        guide.prototype_trace = None
    try:
        yield
    finally:
        for guide, kind, attributes in kept:
            guide.__class__ = kind
            vars(guide).clear()
            vars(guide).update(attributes)


class FirstRows(Messenger):
    """Let subsampled plates take the first rows, and draw none of all.

    NumPyro would shuffle the numbers of all rows for it, to be thrown away, since
    batches come from elsewhere.
    """

    def process_message(self, msg: dict) -> None:
        """Change how the row numbers of a plate are found."""
        if msg["type"] == "plate" and msg["args"][0] != msg["args"][1]:
            msg["fn"] = lambda size, some, rng_key=None: jnp.arange(some)


def after(
    svi: SVI, source: Any, found: tuple[Seen, set], state: SVIState, unchecked: bool
) -> None:
    """Check a guide, and warn of what is no variational inference.

    `found` is what `before` returned.

    Raises
    ------
    TypeError, ValueError
        If an unknown of the model is none of the guide: a draw of the prior would take
        its place, at a wrong loss. If the guide observes something or has a factor. If
        a local unknown does not count for ``num_rows / batch_size``, or a plate over
        rows hands out parameters: it would do so by numbers of its own.
    """
    seen, row_plates = found
    if unchecked:
        return
    guide = look(svi.guide, source.put, source.moving, svi.static_kwargs)
    if error := guide.error or seen.error:
        if source.batch_rows is None:
            return
        raise ValueError(
            "model: expected to see how often rows of a batch count, but a look at "
            f"model and guide gave {type(error).__name__}: {error}.{KNOW_BETTER}"
        ) from error
    for name, start_of in svi.optim.get_params(state.optim_state).items():
        for leaf in jax.tree.leaves(start_of):  # whole numbers may become logarithms
            if not jnp.issubdtype(jnp.result_type(leaf), jnp.inexact):
                raise TypeError(
                    f"parameter {name!r}: expected to start at numbers with a decimal "
                    f"point, got {jnp.result_type(leaf)}; write 0.0 for 0"
                )
    drawn = _samples(guide.sites)
    missing = sorted(unknowns(seen.sites).keys() - drawn.keys())
    if missing and not _made_from(svi.guide, svi.model):
        raise ValueError(
            "guide: expected a site for each unknown of the model, got none for "
            f"{missing}, but {sorted(drawn)}.{KNOW_BETTER}"
        )
    observed = [n for n, s in drawn.items() if s["is_observed"]]
    if observed and not isinstance(svi.guide, AutoGuide):
        raise ValueError(
            f"guide: expected sites that are drawn, got {observed}, observed or a "
            "factor. A factor changes the density of a guide and not its draws, so "
            f"that the loss bounds nothing. Factors belong into the model.{KNOW_BETTER}"
        )
    if source.batch_rows is not None:
        _refuse_entries(svi, source, seen, guide, row_plates)
    if source.batch_rows is not None and not _made_from(svi.guide, svi.model):
        _refuse_weights("guide", guide, row_plates, source)
    elif row_plates:
        _refuse_weights("guide", guide._replace(with_rows=set()), row_plates, source)
    if row_plates and not isinstance(svi.guide, AutoGuide):
        local = {n for n, site in drawn.items() if row_plates & _frames(site).keys()}
        if local:
            _refuse_dependent_rows("guide", svi, source, guide, row_plates)
    _warn_of_points(seen.sites)
    _warn_of_start(svi, source, seen)


def _refuse_entries(
    svi: SVI, source: Any, seen: Seen, guide: Seen, row_plates: set
) -> None:
    """Refuse parameters with an entry for each row: batches hold other rows."""
    auto, found = _made_from(svi.guide, svi.model), []
    for fn, sites in ((svi.model, seen.sites), (svi.guide, guide.sites)):
        again = _other_rows(fn, svi, source).sites
        local = unknowns(sites) if auto and sites is seen.sites else ()
        for name, site in sites.items():
            in_plate = bool(row_plates & _frames(site).keys())
            is_param = site["type"] == "param"
            others = np.shape(again.get(name, site)["value"])
            moves = others != np.shape(site["value"])
            taken = is_param and in_plate and _is_taken(site, row_plates)
            if taken or (moves and (is_param or (name in local and not in_plate))):
                who = "model" if fn is svi.model else "guide"
                what = "parameter" if is_param else "unknown"
                found.append(f"{who}: {what} {name!r}")
    for plate, (_, some) in _sizes(guide.sites).items():
        if plate in row_plates and _uses_indices(svi.guide, svi, source, plate, some):
            found.append(f"guide: what it looks up by the numbers of plate {plate!r}")
    if found:
        raise ValueError(
            f"{found[0]} has an entry for each row, which cannot follow the rows of a "
            "batch. Compute what belongs to a row from its data (a network "
            "does), pass row numbers and look entries up outside of the plate, or give "
            "all rows to each step"
        )


def _is_taken(site: dict, row_plates: set) -> bool:
    """Return whether a plate over rows takes some entries of a parameter inside it."""
    events = (site.get("kwargs") or {}).get("event_dim")
    if events is None:
        return False
    shape = np.shape(site["value"])
    shape = shape[: len(shape) - events]
    return any(
        len(shape) >= -frame.dim and shape[frame.dim] > 1
        for frame in site["cond_indep_stack"]
        if frame.name in row_plates
    )


def _warn_of_points(sites: dict) -> None:
    """Warn of weights without a prior, which stay points."""
    if not any(
        not site["is_observed"] and not is_point(site)
        for site in _samples(sites).values()
    ):
        warnings.warn(
            "model: expected an unknown (a sample site without obs), got none: "
            "parameters are fitted as points, by maximum likelihood. Do the names of "
            "the priors of a network match its weights, such as 'layers.0.kernel'?",
            stacklevel=4,
        )
        return
    for name, site in sites.items():
        network = name.removesuffix("$params")
        with_prior = any(other.startswith(f"{network}/") for other in _samples(sites))
        if site["type"] != "param" or network == name or not with_prior:
            continue
        points = [
            jax.tree_util.keystr(path, simple=True, separator=".")
            for path, leaf in jax.tree_util.tree_leaves_with_path(site["value"])
            if hasattr(leaf, "dtype")
        ]
        if points:
            warnings.warn(
                f"model: {', '.join(points)} of network {network!r} have no prior and "
                "stay points. Where they should have one, give its full name in "
                "`prior`, or a function of name and shape",
                stacklevel=4,
            )


def _warn_of_start(svi: SVI, source: Any, seen: Seen) -> None:
    """Warn of unknowns that start far out, between bounds that are as wide."""
    wide = {}
    for name, site in unknowns(seen.sites).items():
        support = getattr(site["fn"], "support", None)
        bounds = [getattr(support, f"{end}_bound", None) for end in ("lower", "upper")]
        known = not is_traced(*bounds) and all(b is not None for b in bounds)
        if known and np.max(np.subtract(bounds[1], bounds[0])) > FAR:
            wide[name] = bounds
    if not wide or not isinstance(svi.guide, AutoGuide):
        return
    args, kwargs = source.first
    guide = seed(svi.guide, jax.random.key(0))  # at its start
    drawn = trace(guide).get_trace(*args, **kwargs, **svi.static_kwargs)
    for name in wide.keys() & drawn.keys():
        far = np.max(np.abs(drawn[name]["value"]), initial=0)
        if far > FAR:
            low, high = (np.max(bound) for bound in wide[name])
            warnings.warn(
                f"guide: unknown {name!r} starts at {far:.3g}, since it may lie "
                f"between {low:.3g} and {high:.3g}, and a start is uniform on the "
                "logit scale of such bounds. Leave out the bound, or start with "
                "init_loc_fn=init_to_median or init_to_value",
                stacklevel=4,
            )
