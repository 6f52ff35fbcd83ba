"""The one training loop of the course: stochastic variational inference in chunks."""

import time
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
        Why the run ended: ``"all steps done"`` or ``"non-finite loss"``.
    steps_per_second : float
        Steps over wall-clock seconds, compilation left out where a chunk came after
        the one that compiled.
    """

    params: dict[str, Any]
    losses: np.ndarray
    state: SVIState
    steps: int
    stopped: str
    steps_per_second: float


class NonFiniteLossError(FloatingPointError):
    """The loss became NaN or infinite; ``result`` holds the last finite state.

    Attributes
    ----------
    step : int
        The step (counted from 1) whose loss was not finite, or the last one if its
        update broke the parameters.
    result : FitResult
        The last state whose loss was finite, and all losses before it.
    """

    def __init__(self, step: int, what: str, result: FitResult) -> None:
        super().__init__(
            f"{what} at step {step}; the last state with a finite loss is in .result "
            f"(steps done: {result.steps}). Usual causes: a learning rate too high, "
            "a scale that collapsed to 0, data outside the support."
        )
        self.step = step
        self.result = result


@partial(jax.jit, static_argnames=("svi", "size", "treedef", "static"))
def _run_chunk(svi, state, arrays, steps, *, size, treedef, static):
    """Take `steps` updates, at most `size`; data travel as arguments.

    The number of steps is an argument too: the last, shorter chunk needs no second
    compilation, and a loop that is known to run once would be compiled to other bits.
    """
    filled = iter(arrays)
    leaves = [next(filled) if leaf is None else leaf[1] for leaf in static]
    args, kwargs = jax.tree.unflatten(treedef, leaves)

    def step(i, carry):
        state, losses = carry
        state, loss = svi.update(state, *args, **kwargs)
        loss = loss.astype(losses.dtype)
        return state, jax.lax.dynamic_update_index_in_dim(losses, loss, i, axis=0)

    return jax.lax.fori_loop(0, steps, step, (state, jnp.zeros(size)))


def fit(
    rng_key: jax.Array,
    svi: SVI,
    num_steps: int,
    *model_args: Any,
    chunk_size: int | None = None,
    progress_bar: bool = True,
    **model_kwargs: Any,
) -> FitResult:
    """Fit a guide by SVI, full batch, in compiled chunks of steps.

    The updates run in one compiled loop; the host looks at the losses only between
    chunks, where it moves the progress bar and checks that they are finite. The
    losses are those of ``svi.run(rng_key, num_steps, ...)``, bit for bit, for any
    `chunk_size` (on a CPU, from two steps on: XLA compiles a single one differently).

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
        Updates between two looks of the host; a twentieth of the run by default.
    progress_bar : bool
        Show a bar with the mean loss of the last chunk.

    Returns
    -------
    FitResult
        Parameters, loss trace, state, and steps per second.

    Raises
    ------
    TypeError, ValueError
        For an argument of the wrong kind, and empty or non-finite data.
    NonFiniteLossError
        When a loss, or a parameter at the end, is NaN or infinite; it carries the
        last state whose loss was finite.

    Notes
    -----
    Stochastic variational inference follows Hoffman et al. (2013); the reparameterized
    gradients inside `svi.update` follow Kingma and Welling (2014).
    """
    _validate.key("rng_key", rng_key)
    if not isinstance(svi, SVI):
        raise TypeError(f"svi: expected numpyro.infer.SVI, got {type(svi).__name__}")
    num_steps = _validate.positive_int("num_steps", num_steps)
    if chunk_size is None:
        chunk_size = max(1, -(-num_steps // 20))
    chunk_size = min(_validate.positive_int("chunk_size", chunk_size), num_steps)
    if not isinstance(progress_bar, bool):
        raise TypeError(f"progress_bar: expected True or False, got {progress_bar!r}")
    _validate.model_arguments(model_args, model_kwargs)

    leaves, treedef = jax.tree.flatten((model_args, model_kwargs))
    arrays = [leaf for leaf in leaves if _validate.is_array(leaf)]
    # With their types, since 1 == 1.0 == True and compiled code is looked up by value.
    static = tuple(
        None if _validate.is_array(leaf) else (type(leaf), leaf) for leaf in leaves
    )
    run = partial(_run_chunk, svi, size=chunk_size, treedef=treedef, static=static)

    # Steps done and state reached, at the last two looks.
    looks = [(0, svi.init(rng_key, *model_args, **model_kwargs))]
    losses = np.zeros(0, jnp.result_type(float))
    began, compiled = time.perf_counter(), 0
    # Left to tqdm where it is wanted: TQDM_DISABLE=1 then silences it for a whole run.
    quiet = {} if progress_bar else {"disable": True}
    with tqdm(total=num_steps, unit="step", **quiet) as bar:
        while (steps := min(chunk_size, num_steps - losses.size)) > 0:
            state, chunk = run(looks[-1][1], arrays, steps)
            losses = np.append(losses, np.asarray(chunk)[:steps])  # the host waits here
            if not np.isfinite(losses[-steps:]).all():
                break
            if not compiled and losses.size < num_steps:
                began, compiled = time.perf_counter(), losses.size
            looks = [looks[-1], (losses.size, state)]
            bar.update(steps)
            bar.set_postfix(loss=f"{losses[-steps:].mean():.4g}", refresh=False)
    speed = (losses.size - compiled) / (time.perf_counter() - began)

    done, state = looks[-1]
    params = svi.get_params(state)
    failed = np.flatnonzero(~np.isfinite(losses))
    if failed.size:
        step, what = int(failed[0]) + 1, f"the loss was {losses[failed[0]]}"
        target = max(step - 2, 0)
    elif not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params)):
        step, what = done, "the update gave NaN or infinite parameters"
        target = step - 1
    else:
        return FitResult(params, losses, state, done, "all steps done", speed)
    # Losses are taken before each update: the state that gave the last finite loss is
    # one update earlier. Updates repeat exactly, so go back to a look and walk there.
    done, state = next(look for look in reversed(looks) if look[0] <= target)
    state, _ = run(state, arrays, target - done)
    params, losses = svi.get_params(state), losses[:target]
    kept = FitResult(params, losses, state, target, "non-finite loss", speed)
    raise NonFiniteLossError(step, what, kept)
