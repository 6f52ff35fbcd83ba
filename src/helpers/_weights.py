"""Does the model fit its data, and count each row once? Asked before the first step."""

import math
from collections.abc import Callable

import jax
import numpy as np
import numpyro.distributions as dist
from numpyro.handlers import seed, trace

from helpers._arguments import put_together, take_apart


def _sites(model: Callable, arguments: tuple) -> tuple[dict, Exception | None]:
    """Return the sites of the model up to its first error, computing nothing."""
    kept = {}
    arrays, rest = take_apart(arguments)

    def run(arrays):
        args, kwargs = put_together(arrays, rest)
        tracing = trace(seed(model, jax.random.key(0)))
        try:
            tracing(*args, **kwargs)
        finally:
            kept.update(tracing.trace)

    try:
        jax.eval_shape(run, arrays)
    except Exception as error:  # a model may fail in any way
        return kept, error
    return kept, None


def _shapes(arguments: tuple) -> str:
    return ", ".join(str(array.shape) for array in take_apart(arguments)[0])


def _weight(site: dict, batch_rows: int, plates: dict) -> float | None:
    """Return how often a site counts each row of a batch; None if it has no rows."""
    frames = site["cond_indep_stack"]
    if frames:
        holds_rows = any(frame.size == batch_rows for frame in frames)
    else:
        holds_rows = site["is_observed"] and site["value"].shape[:1] == (batch_rows,)
    scale = 1.0 if site["scale"] is None else site["scale"]
    if not holds_rows or isinstance(scale, jax.core.Tracer) or np.ndim(scale):
        return None
    # Plates over something else may be subsampled for reasons of their own.
    others = [plates[f.name] for f in frames if f.size != batch_rows]
    return float(scale) / math.prod(size / (some or size) for size, some in others)


def check(
    model: Callable, arguments: tuple, batch_rows: int | None, num_rows: int | None
) -> None:
    """Refuse a model whose plates contradict its data, or that weighs rows wrongly.

    Parameters
    ----------
    model : callable
        NumPyro model.
    arguments : tuple
        Its arguments and keyword arguments at one step.
    batch_rows, num_rows : int or None
        Rows in such a step, and in all; None where every step gets all of the data.

    Raises
    ------
    ValueError
        If observed data do not have the shape of their site, or a site with a row for
        each row of the batch does not count for ``num_rows / batch_rows`` of them.
    """
    sites, error = _sites(model, arguments)
    plates = {n: s["args"] for n, s in sites.items() if s["type"] == "plate"}
    named = ", ".join(
        f"{name!r} of {size[1] or size[0]}" for name, size in plates.items()
    )
    if plates and error is not None and "ncompatible shapes" in str(error):
        raise ValueError(
            f"model: expected plates that fit the data, got plate {named} and arrays "
            f"of shape {_shapes(arguments)}"
        ) from error
    for name, site in sites.items():
        if site["type"] != "sample" or isinstance(site["fn"], dist.Unit):
            continue
        expected, got = site["fn"].shape(), np.shape(site["value"])
        try:
            np.broadcast_shapes(expected, got)
        except ValueError:
            within = f" (plate {named})" if plates else ""
            raise ValueError(
                f"model: site {name!r} has shape {expected}{within}, which contradicts "
                f"its data of shape {got}"
            ) from None
        if not batch_rows:
            continue
        weight, right = _weight(site, batch_rows, plates), num_rows / batch_rows
        if weight is not None and not math.isclose(weight, right, rel_tol=1e-5):
            raise ValueError(
                f"model: site {name!r} counts each row of a batch {weight:g} times, "
                f"expected {right:g} ({num_rows} rows in all, {batch_rows} in a "
                'batch). Write numpyro.plate("rows", size, subsample_size=len(x)), '
                "with the size of the whole table, and no other scale"
            )
