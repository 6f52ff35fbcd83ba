"""What a fitted guide predicts for data that it has not seen, and how well."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro.handlers import replay, seed, substitute, trace

from helpers import _validate
from helpers._arguments import put_together, take_apart
from helpers._draws import Predictor, padded, predicted, refuse_missing, refuse_new
from helpers._weights import refuse_shape

BLOCK = 4_096  # rows that share a key: the unit of batches of rows
ELEMENTS = 2**22  # draws times rows that are computed at once, by default


def _pointwise(drawn: dict, scored: dict, params: dict, site: str | None) -> jax.Array:
    """Return the log density of each observation, from the traces of one draw."""
    refuse_missing(params, drawn | scored)
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
    refuse_shape(at["name"], scored)
    if isinstance(at["fn"], dist.MaskedDistribution):
        raise ValueError(
            f"model: expected all of {at['name']!r} to be observed, got a mask; score "
            "the rows that are"
        )
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
        For arguments of the wrong kind; by the function, if parameters are missing, a
        site has neither data nor draws, or the data do not have the shape of the site.

    Notes
    -----
    Each element of the site's log density is one observation: events of several numbers
    count as one. Weights of a `scale` handler or a subsampling plate are left out, and
    so are factors; masks are refused. Log predictive density: Gelman et al. (2014).
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
        refuse_new(guide)
        return density(arrays, params, rng_key)

    return jax.tree_util.Partial(evaluate, arrays)


def predictions(
    rng_key: jax.Array,
    model: Callable,
    guide: Callable,
    params: dict[str, Any],
    num_draws: int,
    *model_args: Any,
    sites: list[str] | None = None,
    draw_batch: int | None = None,
    row_batch: int | None = None,
    **model_kwargs: Any,
) -> Iterator[tuple[slice, dict[str, np.ndarray]]]:
    """Draw from the posterior predictive, some rows at a time.

    The same as `predict`, for more rows than fit in memory: it needs memory for
    ``num_draws * row_batch`` numbers of each site, however many rows there are.

    Yields
    ------
    slice, dict
        Which rows, and for each site an array of shape (num_draws, rows, ...).
    """
    _validate.key("rng_key", rng_key)
    for name, value in (("model", model), ("guide", guide)):
        if not callable(value):
            raise TypeError(f"{name}: expected a callable, got {type(value).__name__}")
    if not isinstance(params, dict):
        raise TypeError(f"params: expected a dictionary, got {type(params).__name__}")
    num_draws = _validate.positive_int("num_draws", num_draws)
    if not (sites is None or isinstance(sites, list | tuple)):
        raise TypeError(f"sites: expected a list of names, got {sites!r}")
    refuse_new(guide)
    arrays, rest = take_apart((model_args, model_kwargs))
    varies = tuple(bool(array.ndim) for array in arrays)
    lengths = {len(array) for array in arrays if array.ndim}
    if len(lengths) != 1 or lengths == {0}:
        raise ValueError(
            "model arguments: expected arrays with the same number of rows, at least "
            f"one, got {sorted(lengths) or 'no array'}"
        )
    num_rows = lengths.pop()
    block = min(BLOCK, num_rows)
    row_batch = _validate.positive_int(
        "row_batch", 4 * block if row_batch is None else row_batch
    )
    blocks = min(-(-row_batch // block), -(-num_rows // block))
    if draw_batch is None:
        draw_batch = max(1, ELEMENTS // (blocks * block))
    draw_batch = min(_validate.positive_int("draw_batch", draw_batch), num_draws)
    # All rows, before the first draw: an error in the last one would cost all others.
    _validate.model_arguments(model_args, model_kwargs)

    predictor = Predictor(model, guide, rest, varies)
    # Sites with rows are those whose shape changes with the number of rows.
    try:
        few = predictor.shapes(params, arrays, block)
        more = predictor.shapes(params, arrays, block + 1)
    except (TypeError, ValueError) as error:
        if "ncompatible shapes" not in str(error):
            raise
        raise ValueError(
            "model: expected plates, and parameters of the guide, that take their size "
            f"from the arrays, got some of a fixed size: {error}"
        ) from error
    with_rows = [name for name in few if few[name] != more[name]]
    chosen = with_rows if sites is None else list(sites)
    if not chosen or not set(chosen) <= set(with_rows):
        raise ValueError(
            f"sites: expected some of {with_rows}, which have a value for each row, "
            f"got {chosen}"
        )
    moved = [name for name in chosen if few[name][:1] != (block,)]
    if moved:
        raise ValueError(
            f"sites: expected rows on the first axis, got {moved} of shape "
            f"{[few[name] for name in moved]} for {block} rows"
        )
    predictor = replace(predictor, with_rows=frozenset(with_rows), sites=tuple(chosen))
    keys = jax.random.split(rng_key, num_draws)
    fixed = [a for a, v in zip(arrays, varies, strict=True) if not v]

    def some_rows(start):
        moving = [
            padded(array, start, blocks, block)
            for array, vary in zip(arrays, varies, strict=True)
            if vary
        ]
        numbers = np.arange(start // block, start // block + blocks, dtype="uint32")
        rows = slice(start, min(start + blocks * block, num_rows))
        found = {name: [] for name in chosen}
        for first in range(0, num_draws, draw_batch):
            # The last keys again where there are no more: one shape, one compilation.
            which = np.minimum(np.arange(first, first + draw_batch), num_draws - 1)
            new = predicted(predictor, params, keys[which], numbers, moving, fixed)
            for name in chosen:
                part = np.asarray(new[name])[: num_draws - first]
                found[name].append(part[:, : rows.stop - rows.start])
        return rows, {n: np.concatenate(parts) for n, parts in found.items()}

    return map(some_rows, range(0, num_rows, blocks * block))


def predict(
    rng_key: jax.Array,
    model: Callable,
    guide: Callable,
    params: dict[str, Any],
    num_draws: int,
    *model_args: Any,
    summary: Callable[[np.ndarray], np.ndarray] | None = None,
    **options: Any,
) -> dict[str, np.ndarray]:
    """Draw from the posterior predictive, in batches of draws and rows.

    The numbers do not depend on the batches. What rows share, such as coefficients, is
    the same for all rows of a draw; noise and unknowns of single rows are not.

    Parameters
    ----------
    rng_key : jax.Array
        One key from `jax.random.key`.
    model, guide : callable
        NumPyro model and guide; an autoguide must have been used in a fit.
    params : dict
        Variational parameters, as `fit` returns them.
    num_draws : int
        Number of draws.
    *model_args
        What model and guide are called with, without the data to predict. All arrays
        with a dimension have the same rows; memory maps are read batch by batch.
    summary : callable, optional
        Function of the array of draws of some rows, of shape (num_draws, rows, ...),
        that returns one whose first axis is rows: ``lambda p: p.mean(axis=0)``.
    **options
        Keyword arguments of the model, and

        sites : list of str, optional
            Sites to return; those with a value for each row by default.
        draw_batch, row_batch : int, optional
            How many to compute at once. Rows come in blocks of 4,096.

    Returns
    -------
    dict
        For each site an array of shape (num_draws, rows, ...), or the summaries, of
        shape (rows, ...).

    Raises
    ------
    TypeError, ValueError
        For arguments of the wrong kind, parameters that are missing, arrays without a
        common number of rows, NaN in a row.

    Notes
    -----
    For each draw of the guide one draw of the model given it, as
    `numpyro.infer.Predictive` does. `predictions` gives the batches one by one.
    """
    if not (summary is None or callable(summary)):
        raise TypeError(f"summary: expected a callable, got {type(summary).__name__}")
    found: dict[str, list] = {}
    inputs = rng_key, model, guide, params, num_draws
    for rows, batch in predictions(*inputs, *model_args, **options):
        for name, draws in batch.items():
            if summary is not None:
                draws = np.asarray(summary(draws))
                if draws.shape[:1] != (rows.stop - rows.start,):
                    raise ValueError(
                        f"summary: expected {rows.stop - rows.start} rows on the first "
                        f"axis, got shape {draws.shape}"
                    )
            found.setdefault(name, []).append(draws)
    axis = 1 if summary is None else 0
    return {name: np.concatenate(parts, axis=axis) for name, parts in found.items()}
