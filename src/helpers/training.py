"""The one training loop of the course: stochastic variational inference in chunks."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro.handlers import replay, seed, substitute, trace
from numpyro.infer import SVI
from numpyro.infer.autoguide import AutoGuide
from numpyro.infer.svi import SVIState
from tqdm.auto import tqdm

from helpers import _validate


@dataclass(frozen=True)
class FitResult:
    """What a fit reached.

    Attributes
    ----------
    params : dict
        Variational parameters after the last step, on their constrained scale.
    losses : numpy.ndarray, shape (steps,)
        Loss (minus the estimated ELBO, in nats) at each step.
    state : numpyro.infer.svi.SVIState
        Optimizer state and key, to go on from.
    steps : int
        Number of steps taken.
    stopped : str
        Why the run ended: ``"all steps done"``, ``"no improvement in ... evaluations"``
        or ``"non-finite ..."``.
    steps_per_second : float
        Steps over wall-clock seconds, compilation left out where a chunk came after
        the one that compiled. Evaluations count.
    evaluations : numpy.ndarray, shape (evaluations, 2)
        Step and value of each evaluation; no rows without `evaluate`.
    best_step : int or None
        Step of the highest value, the first one of equals; None without `evaluate`.
    best_params : dict or None
        Variational parameters at that step.
    """

    params: dict[str, Any]
    losses: np.ndarray
    state: SVIState
    steps: int
    stopped: str
    steps_per_second: float
    evaluations: np.ndarray
    best_step: int | None
    best_params: dict[str, Any] | None


class NonFiniteLossError(FloatingPointError):
    """A loss or evaluation was not finite; ``result`` holds what was reached before.

    Attributes
    ----------
    step : int
        The step (counted from 1) whose loss was not finite, or the last one done if
        the parameters or an evaluation after it were not.
    result : FitResult
        The last state whose loss was finite, all losses before it, and the
        evaluations so far.
    """

    def __init__(self, step: int, what: str, result: FitResult) -> None:
        super().__init__(
            f"{what} at step {step}; the last state with a finite loss is in .result "
            f"(steps done: {result.steps}). Usual causes: a learning rate too high, "
            "a scale that collapsed to 0, data outside the support."
        )
        self.step = step
        self.result = result


def _take_apart(tree: Any) -> tuple[list[jax.Array], tuple]:
    """Part the arrays in arguments, to be traced, from all else, a constant."""
    leaves, treedef = jax.tree.flatten(tree)
    # With their types, since 1 == 1.0 == True and compiled code is looked up by value.
    constants = tuple(
        None if _validate.is_array(leaf) else (type(leaf), leaf) for leaf in leaves
    )
    return [leaf for leaf in leaves if _validate.is_array(leaf)], (treedef, constants)


def _put_together(arrays: list[jax.Array], rest: tuple) -> Any:
    """Undo `_take_apart`."""
    (treedef, constants), filled = rest, iter(arrays)
    leaves = [next(filled) if leaf is None else leaf[1] for leaf in constants]
    return jax.tree.unflatten(treedef, leaves)


@partial(jax.jit, static_argnames=("svi", "size", "rest"))
def _run_chunk(svi, state, arrays, steps, *, size, rest):
    """Take `steps` updates, at most `size`; data travel as arguments.

    The number of steps is an argument too: the last, shorter chunk needs no second
    compilation, and a loop that is known to run once would be compiled to other bits.
    """
    args, kwargs = _put_together(arrays, rest)

    def step(i, carry):
        state, losses = carry
        state, loss = svi.update(state, *args, **kwargs)
        loss = loss.astype(losses.dtype)
        return state, jax.lax.dynamic_update_index_in_dim(losses, loss, i, axis=0)

    return jax.lax.fori_loop(0, steps, step, (state, jnp.zeros(size)))


@partial(jax.jit, static_argnames="svi")
def _evaluate(svi, evaluate, state, rng_key):
    return evaluate(svi.get_params(state), rng_key)


def _evaluation(svi, evaluate, state, rng_key) -> Callable[[SVIState], jax.Array]:
    """Return the function that evaluates a state; complain before any step is taken."""
    if not callable(evaluate):
        raise TypeError(
            "evaluate: expected a function of parameters and a key, "
            f"got {type(evaluate).__name__}"
        )
    # As a Partial: arrays that it brings along are arguments of the compiled code.
    if not isinstance(evaluate, jax.tree_util.Partial):
        evaluate = jax.tree_util.Partial(evaluate)
    try:
        value = _evaluate.eval_shape(svi, evaluate, state, rng_key)
    except jax.errors.JAXTypeError as error:
        raise TypeError(
            "evaluate: expected a function that JAX can trace (jax.numpy for NumPy, "
            "no float() or if on values), got one that it cannot; see the error above"
        ) from error
    leaves = jax.tree.leaves(value)
    if len(leaves) != 1 or leaves[0] is not value or value.shape != ():
        shown = value.shape if hasattr(value, "shape") else type(value).__name__
        raise ValueError(f"evaluate: expected to return one number, got {shown}")
    return lambda state: _evaluate(svi, evaluate, state, rng_key)


def _one_ahead(items: Iterator) -> Iterator:
    """Hand out each item only when the next one has been asked for.

    JAX returns before its work is done: with the next chunk under way, the device does
    not idle while the host waits for the last one and looks at it.
    """
    held = next(items)
    for item in items:
        yield held
        held = item
    yield held


def fit(
    rng_key: jax.Array,
    svi: SVI,
    num_steps: int,
    *model_args: Any,
    chunk_size: int | None = None,
    evaluate: Callable[[dict[str, Any], jax.Array], jax.Array] | None = None,
    evaluate_every: int = 50,
    patience: int | None = None,
    progress_bar: bool = True,
    **model_kwargs: Any,
) -> FitResult:
    """Fit a guide by SVI, full batch, in compiled chunks of steps.

    The updates run in one compiled loop; the host looks at the losses only between
    chunks, where it moves the progress bar and checks that they are finite. The
    losses are those of ``svi.run(rng_key, num_steps, ...)``, bit for bit, for any
    `chunk_size` (on a CPU, from two steps on: XLA compiles a single one differently)
    and whatever is evaluated.

    Parameters
    ----------
    rng_key : jax.Array
        One key from `jax.random.key`; it starts the guide and all later draws.
    svi : numpyro.infer.SVI
        Model, guide, optimizer and loss.
    num_steps : int
        Number of updates, at least 1.
    *model_args, **model_kwargs
        What model and guide are called with. Arrays must be finite and not empty.
    chunk_size : int, optional
        Updates between two looks of the host; a twentieth of the run by default. Where
        there is something to evaluate, the host looks then.
    evaluate : callable, optional
        ``evaluate(params, key)`` returns one number, the higher the better, such as the
        validation `log_predictive_density`. It gets the parameters on their constrained
        scale and the same key each time, and must be a function that JAX can trace.
    evaluate_every : int
        Steps between two evaluations; one more follows the last step.
    patience : int, optional
        Stop after this many evaluations in a row without a new best one.
    progress_bar : bool
        Show a bar with the mean loss of the last chunk and the last evaluation.

    Returns
    -------
    FitResult
        Parameters, loss trace, state, and steps per second; evaluations and the best
        parameters among them.

    Raises
    ------
    TypeError, ValueError
        For an argument of the wrong kind, and empty or non-finite data.
    NonFiniteLossError
        When a loss, or a parameter at the end, is NaN or infinite, or an evaluation NaN
        or plus infinity; it carries the last state whose loss was finite.

    Notes
    -----
    Stochastic variational inference follows Hoffman et al. (2013); the reparameterized
    gradients inside `svi.update` follow Kingma and Welling (2014).
    """
    _validate.key("rng_key", rng_key)
    if not isinstance(svi, SVI):
        raise TypeError(f"svi: expected numpyro.infer.SVI, got {type(svi).__name__}")
    num_steps = _validate.positive_int("num_steps", num_steps)
    evaluate_every = _validate.positive_int("evaluate_every", evaluate_every)
    if patience is not None:
        patience = _validate.positive_int("patience", patience)
    if evaluate is None and patience is not None:
        raise ValueError(f"patience: expected None without evaluate, got {patience}")
    if evaluate is not None and chunk_size is not None:
        raise ValueError(
            "chunk_size: expected None beside evaluate (evaluate_every sets it), "
            f"got {chunk_size}"
        )
    if chunk_size is None:
        chunk_size = max(1, -(-num_steps // 20)) if evaluate is None else evaluate_every
    chunk_size = min(_validate.positive_int("chunk_size", chunk_size), num_steps)
    if not isinstance(progress_bar, bool):
        raise TypeError(f"progress_bar: expected True or False, got {progress_bar!r}")
    _validate.model_arguments(model_args, model_kwargs)

    arrays, rest = _take_apart((model_args, model_kwargs))
    run = partial(_run_chunk, svi, size=chunk_size, rest=rest)

    state = svi.init(rng_key, *model_args, **model_kwargs)
    if evaluate is not None:
        # Not a key that guide or loss get, and the same at each evaluation: two values
        # differ by their parameters, not by the luck of the draws.
        other_key = jax.random.fold_in(jax.random.fold_in(rng_key, 2**32 - 1), 0)
        evaluate = _evaluation(svi, evaluate, state, other_key)

    def chunks(reached):
        for done in range(0, num_steps, chunk_size):
            steps = min(chunk_size, num_steps - done)
            reached, chunk = run(reached, arrays, steps)
            yield steps, reached, chunk, evaluate and evaluate(reached)

    # Steps done and state reached, at the last two looks.
    looks = [(0, state)]
    losses, stopped = np.zeros(0, jnp.result_type(float)), "all steps done"
    values, best_value, best_step, best_state = [], -np.inf, None, None
    began, compiled, waited = time.perf_counter(), 0, 0
    # Left to tqdm where it is wanted: TQDM_DISABLE=1 then silences it for a whole run.
    quiet = {} if progress_bar else {"disable": True}
    with tqdm(total=num_steps, unit="step", **quiet) as bar:
        for steps, state, chunk, value in _one_ahead(chunks(looks[0][1])):
            losses = np.append(losses, np.asarray(chunk)[:steps])  # the host waits here
            if not np.isfinite(losses[-steps:]).all():
                break
            looks = [looks[-1], (losses.size, state)]
            shown = {"loss": f"{losses[-steps:].mean():.4g}"}
            if evaluate is not None:
                values.append((losses.size, value := float(value)))
                if not value < np.inf:
                    break
                waited += 1
                if best_step is None or value > best_value:
                    best_value, (best_step, best_state), waited = value, looks[-1], 0
                shown["evaluation"] = f"{value:.4g}"
            if not compiled and losses.size < num_steps:
                began, compiled = time.perf_counter(), losses.size
            bar.update(steps)
            bar.set_postfix(shown, refresh=False)
            if waited == patience:
                stopped = f"no improvement in {patience} evaluations"
                break
    result = partial(
        FitResult,
        steps_per_second=(losses.size - compiled) / (time.perf_counter() - began),
        evaluations=np.array(values, dtype=float).reshape(-1, 2),
        best_step=best_step,
        best_params=None if best_state is None else svi.get_params(best_state),
    )

    done, state = looks[-1]
    params = svi.get_params(state)
    failed = np.flatnonzero(~np.isfinite(losses))
    if failed.size:
        step, what = int(failed[0]) + 1, f"the loss was {losses[failed[0]]}"
        target = max(step - 2, 0)
    elif not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params)):
        step, what = done, "the update gave NaN or infinite parameters"
        target = step - 1
    elif values and not values[-1][1] < np.inf:
        kept = result(params, losses, state, done, "non-finite evaluation")
        raise NonFiniteLossError(done, f"evaluate gave {values[-1][1]}", kept)
    else:
        return result(params, losses, state, done, stopped)
    # Losses are taken before each update: the state that gave the last finite loss is
    # one update earlier. Updates repeat exactly, so go back to a look and walk there.
    done, state = next(look for look in reversed(looks) if look[0] <= target)
    state, _ = run(state, arrays, target - done)
    params, losses = svi.get_params(state), losses[:target]
    kept = result(params, losses, state, target, "non-finite loss")
    raise NonFiniteLossError(step, what, kept)


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
    arrays, rest = _take_apart((model_args, model_kwargs))

    @jax.jit
    def density(arrays, params, rng_key):
        args, kwargs = _put_together(arrays, rest)

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
