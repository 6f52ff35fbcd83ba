"""What a fitted guide predicts for data that it has not seen, and how well."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.handlers import replay, seed, substitute, trace

from fitting import arguments, draws
from fitting.batches import RowArguments, shapes_of


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
        For arguments of the wrong kind; by the function, if parameters are missing, a
        site has neither data nor draws, or the data do not have the shape of the site.

    Notes
    -----
    Each element of the site's log density is one observation: events of several numbers
    count as one. Weights of a `scale` handler or a subsampling plate are left out, and
    so are factors; what a mask hides is no observation. Rows that a subsampling plate
    picks are the same for all draws. Log predictive density: Gelman et al. (2014).
    """
    for name, value in (("model", model), ("guide", guide)):
        if not callable(value):
            raise TypeError(f"{name}: expected a callable, got {type(value).__name__}")
    num_draws = arguments.positive_int("num_draws", num_draws)
    if not (site is None or isinstance(site, str)):
        raise TypeError(f"site: expected a name, got {site!r}")
    given = arguments.named_leaves(model, model_args, model_kwargs)
    arguments.refuse_cast(given)

    def evaluate(params, rng_key):
        draws.refuse_new(guide, params)
        rows_key = jax.random.fold_in(rng_key, num_draws)  # no draw gets this one

        def one(key):
            guide_key, model_key = jax.random.split(key)
            drawing = seed(substitute(guide, data=params), guide_key)
            drawing = draws.SameRows(drawing, rows_key)
            drawn = trace(drawing).get_trace(*model_args, **model_kwargs)
            fitted = draws.given(model, params, draws.functions(drawn))
            scoring = seed(replay(fitted, drawn), model_key)
            scoring = draws.SameRows(scoring, rows_key)  # on purpose
            scored = trace(scoring).get_trace(*model_args, **model_kwargs)
            return draws.pointwise(drawn, scored, params, site)

        logs, seen = jax.vmap(one)(jax.random.split(rng_key, num_draws))
        logs = jax.nn.logsumexp(logs, axis=0) - jnp.log(num_draws)
        return jnp.mean(logs, where=seen[0])

    return evaluate


def _checked(
    rng_key: Any, model: Any, guide: Any, params: Any, num_draws: Any, sites: Any
) -> tuple[jax.Array, jax.Array]:
    """Check what all predictions share; return keys of draws of guide and model."""
    arguments.key("rng_key", rng_key)
    for name, value in (("model", model), ("guide", guide)):
        if not callable(value):
            raise TypeError(f"{name}: expected a callable, got {type(value).__name__}")
    if not isinstance(params, dict):
        raise TypeError(f"params: expected a dictionary, got {type(params).__name__}")
    num_draws = arguments.positive_int("num_draws", num_draws)
    if not (sites is None or isinstance(sites, list | tuple)):
        own = "sites" in arguments.parameters_of(model)
        cure = (
            "; bind the model's own: functools.partial(model, sites=...)" if own else ""
        )
        raise TypeError(
            f"sites: expected a list of names, got {arguments.shown(sites)}{cure}"
        )
    draws.refuse_new(guide, params)
    model_key, guide_key = jax.random.split(rng_key)  # as Predictive does
    if num_draws == 1:
        return guide_key[None], model_key[None]
    return jax.random.split(guide_key, num_draws), jax.random.split(
        model_key, num_draws
    )


def _in_batches(
    compiled: Callable, keys: tuple, draw_batch: int, *inputs: Any
) -> dict[str, np.ndarray]:
    """Draw a batch of draws after the other; each goes to the host at once."""
    num_draws, parts = len(keys[0]), []
    for first in range(0, num_draws, draw_batch):
        # The last keys again where there are no more: one shape, one compilation.
        which = np.minimum(np.arange(first, first + draw_batch), num_draws - 1)
        found = compiled([each[which] for each in keys], *inputs)
        parts.append({n: np.asarray(v)[: num_draws - first] for n, v in found.items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def predict(
    rng_key: jax.Array,
    model: Callable,
    guide: Callable,
    params: dict[str, Any],
    num_draws: int,
    *model_args: Any,
    sites: list[str] | None = None,
    draw_batch: int | None = None,
    row_batch: int | None = None,
    summary: Callable[[np.ndarray], np.ndarray] | None = None,
    **model_kwargs: Any,
) -> dict[str, np.ndarray]:
    """Draw from the posterior predictive, in bounded memory.

    The result is that of ``Predictive(model, guide=guide, params=params,
    num_samples=num_draws)(rng_key, ...)``, up to rounding: draws come one after the
    other in compiled code, and go to the host some at a time.

    Parameters
    ----------
    rng_key : jax.Array
        One key from `jax.random.key`.
    model, guide : callable
        NumPyro model and guide; an autoguide must have been used in a fit.
    params : dict
        Variational parameters, as `fit` returns them (of several runs, those of one:
        ``jax.tree.map(lambda v: v[0], result.params)``); of models with mutable state
        ``result.params | result.state.mutable_state``.
    num_draws : int
        Number of draws.
    *model_args, **model_kwargs
        What model and guide are called with, without the data to predict.
    sites : list of str, optional
        Sites to return; by default what the guide does not draw, and deterministic
        sites. Unknowns that the guide draws can be named, too (without `row_batch`).
    draw_batch : int, optional
        Draws to compute in one call. By default their values have at most 128 MiB.
    row_batch : int, optional
        Rows to compute at once, for tables of many rows: see `predictions`. Rows must
        not depend on each other then.
    summary : callable, optional
        With `row_batch`: function of the draws of some rows, an array of shape
        (num_draws, rows, ...), that returns one whose first axis is rows, such as
        ``lambda p: p.mean(axis=0)``.

    Returns
    -------
    dict
        For each site an array of shape (num_draws, ...), or the summaries, of shape
        (rows, ...).

    Raises
    ------
    TypeError, ValueError
        For arguments of the wrong kind, or parameters that are missing.
    MemoryError
        If the result would not fit into memory.
    """
    if row_batch is not None:
        inputs = rng_key, model, guide, params, num_draws, *model_args
        options = {"sites": sites, "draw_batch": draw_batch, "row_batch": row_batch}
        parts = predictions(*inputs, **options, **model_kwargs)
        return _joined(parts, summary)
    if summary is not None:
        raise ValueError("summary: expected None without row_batch, got a function")
    keys = _checked(rng_key, model, guide, params, num_draws, sites)

    def one(pair):
        found, latent = draws.draw(
            model, guide, params, pair, (model_args, model_kwargs)
        )
        names = found if sites is None else sites
        draws.chosen(sites, [*found, *latent] if sites else list(found), "")
        return {name: (found | latent)[name] for name in names}

    with draws.explained(model, params, model_args, model_kwargs):
        values = jax.eval_shape(one, (keys[0][0], keys[1][0]))
    draw_batch = draws.at_once(draw_batch, values, len(keys[0]), "the predictions")
    given = arguments.named_leaves(model, model_args, model_kwargs)
    some = [each[:draw_batch] for each in keys]
    compiled = arguments.hoisted(
        lambda pairs: jax.lax.map(one, pairs), some, given=given
    )
    return _in_batches(compiled, keys, draw_batch)


def _joined(parts: Iterator, summary: Callable | None) -> dict[str, np.ndarray]:
    """Join predictions of rows, or their summaries."""
    if not (summary is None or callable(summary)):
        raise TypeError(f"summary: expected a callable, got {type(summary).__name__}")
    found: dict[str, list] = {}
    for rows, batch in parts:
        for name, values in batch.items():
            if summary is not None:
                values = np.asarray(summary(values))
                if values.shape[:1] != (rows.stop - rows.start,):
                    raise ValueError(
                        f"summary: expected {rows.stop - rows.start} rows on the first "
                        f"axis, got shape {values.shape}"
                    )
            found.setdefault(name, []).append(values)
    axis = 1 if summary is None else 0
    return {name: np.concatenate(each, axis=axis) for name, each in found.items()}


def predictions(
    rng_key: jax.Array,
    model: Callable,
    guide: Callable,
    params: dict[str, Any],
    num_draws: int,
    *model_args: Any,
    row_batch: int = 16_384,
    sites: list[str] | None = None,
    draw_batch: int | None = None,
    **model_kwargs: Any,
) -> Iterator[tuple[slice, dict[str, np.ndarray]]]:
    """Draw from the posterior predictive, some rows at a time.

    This serves tables whose predictions do not fit in memory; memory maps are read
    batch by batch. **Rows must not depend on each other:** a model that standardizes
    its inputs, counts rows, or adds them up would see one batch and not the table.
    What rows share, such as coefficients, is the same for all rows of a draw; noise and
    unknowns of single rows are not.

    Parameters
    ----------
    rng_key, model, guide, params, num_draws, sites, draw_batch
        As in `predict`. By default all sites with a value for each row are returned.
    *model_args, **model_kwargs
        What model and guide are called with; all arrays with a dimension are tables
        with the same rows.
    row_batch : int
        Rows to compute at once.

    Yields
    ------
    slice, dict
        Which rows, and for each site an array of shape (num_draws, rows, ...).
    """
    keys = _checked(rng_key, model, guide, params, num_draws, sites)
    data = RowArguments("row_batch", model, model_args, model_kwargs)
    arguments.refuse_cast(data.tables.items())
    row_batch = min(arguments.positive_int("row_batch", row_batch), data.num_rows)

    def one(pair, number, moving, with_rows):
        inputs = model, guide, params, pair, number, with_rows
        return draws.draw_rows(*inputs, data.put(moving))

    def shapes(rows):
        """Return the values of a draw for so many rows, without computing them."""
        pair, some = (keys[0][0], keys[1][0]), shapes_of(data.tables, rows)
        return jax.eval_shape(
            lambda pair, moving: one(pair, 0, moving, set()), pair, some
        )

    with draws.explained(model, params, model_args, model_kwargs):
        try:
            few, other = shapes(row_batch), shapes(row_batch - 1 or 2)
        except (TypeError, ValueError) as error:
            if "ncompatible shapes" not in str(error):
                raise
            raise ValueError(
                "model: expected plates, and parameters of the guide, that take their "
                f"size from the arrays, got some of a fixed size ({error}). Predict "
                "all rows at once, without row_batch"
            ) from error
    with_rows = {name for name in few if few[name].shape != other[name].shape}
    chosen = draws.chosen(sites, sorted(with_rows), ", which have a value for each row")
    moved = [name for name in chosen if few[name].shape[:1] != (row_batch,)]
    if moved:
        raise ValueError(f"sites: expected rows on the first axis, got {moved}")
    values, what = {n: few[n] for n in chosen}, "the predictions of a batch of rows"
    draw_batch = draws.at_once(draw_batch, values, len(keys[0]), what)

    def some(pairs, number, moving):
        found = lambda pair: one(pair, number, moving, with_rows)  # noqa: E731
        return jax.lax.map(lambda pair: {n: found(pair)[n] for n in chosen}, pairs)

    example = [each[:draw_batch] for each in keys], np.uint32(0)
    compiled = arguments.hoisted(some, *example, shapes_of(data.tables, row_batch))

    def batch(first):
        stop = min(first + row_batch, data.num_rows)
        # The last row again where there are no more: one shape, one compilation.
        rows = np.minimum(np.arange(first, first + row_batch), data.num_rows - 1)
        moving = {name: np.asarray(table[rows]) for name, table in data.tables.items()}
        number = np.uint32(first // row_batch)
        found = _in_batches(compiled, keys, draw_batch, number, moving)
        return slice(first, stop), {n: v[:, : stop - first] for n, v in found.items()}

    return map(batch, range(0, data.num_rows, row_batch))
