"""The one training loop of the course: stochastic variational inference in chunks."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.infer import SVI
from numpyro.infer.svi import SVIState
from tqdm.auto import tqdm

from helpers import _validate
from helpers._arguments import put_together, take_apart
from helpers.prediction import log_predictive_density as log_predictive_density


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


@partial(jax.jit, static_argnames=("svi", "size", "rest"))
def _run_chunk(svi, state, arrays, steps, *, size, rest):
    """Take `steps` updates, at most `size`; data travel as arguments.

    The number of steps is an argument too: the last, shorter chunk needs no second
    compilation, and a loop that is known to run once would be compiled to other bits.
    """
    args, kwargs = put_together(arrays, rest)

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

    arrays, rest = take_apart((model_args, model_kwargs))
    # Room for more losses than needed: chunks of other sizes find the code compiled.
    size = max(512, 1 << (chunk_size - 1).bit_length())
    run = partial(_run_chunk, svi, size=size, rest=rest)

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
