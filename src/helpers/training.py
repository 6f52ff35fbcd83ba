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
        The step (counted from 1) whose loss was not finite.
    result : FitResult
        Everything up to the step before.
    """

    def __init__(self, step: int, loss: float, result: FitResult) -> None:
        super().__init__(
            f"the loss was {loss} at step {step}; the last state with a finite loss "
            f"is in .result (steps done: {result.steps}). Usual causes: a learning "
            "rate too high, a scale that collapsed to 0, data outside the support."
        )
        self.step = step
        self.result = result


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray)


def _check_data(args: tuple, kwargs: dict) -> None:
    """Refuse empty arrays and NaN in what the model is called with."""
    named = {f"model argument {i}": arg for i, arg in enumerate(args)} | kwargs
    for name, value in named.items():
        for path, leaf in jax.tree_util.tree_leaves_with_path(value):
            # np.isfinite knows no integers-only or key arrays: leave those alone.
            if _is_array(leaf) and jnp.issubdtype(leaf.dtype, jnp.number):
                _validate.finite_array(f"{name}{jax.tree_util.keystr(path)}", leaf)


@partial(jax.jit, static_argnames=("svi", "steps", "treedef", "static"))
def _run_chunk(svi, state, arrays, *, steps, treedef, static):
    """Take `steps` updates in one compiled scan; data travel as arguments."""
    filled = iter(arrays)
    leaves = [next(filled) if leaf is None else leaf[0] for leaf in static]
    args, kwargs = jax.tree.unflatten(treedef, leaves)

    def step(state, _):
        return svi.update(state, *args, **kwargs)

    return jax.lax.scan(step, state, length=steps)


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

    The updates run inside `jax.lax.scan`; the host looks at the losses only between
    chunks, where it moves the progress bar and checks that they are finite. The
    losses are those of ``svi.run(rng_key, num_steps, ...)``, bit for bit.

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
        When a loss is NaN or infinite; it carries the last finite state.

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
    _check_data(model_args, model_kwargs)

    leaves, treedef = jax.tree.flatten((model_args, model_kwargs))
    arrays = [leaf for leaf in leaves if _is_array(leaf)]
    static = tuple(None if _is_array(leaf) else (leaf,) for leaf in leaves)
    run = partial(_run_chunk, svi, treedef=treedef, static=static)

    states = [svi.init(rng_key, *model_args, **model_kwargs)]  # at the last two looks
    losses = np.zeros(0, jnp.result_type(float))
    began, compiled = time.perf_counter(), 0
    with tqdm(total=num_steps, disable=not progress_bar, unit="step") as bar:
        while (steps := min(chunk_size, num_steps - losses.size)) > 0:
            state, chunk = run(states[-1], arrays, steps=steps)
            losses = np.append(losses, chunk)  # the host waits here, once a chunk
            if not np.isfinite(losses[-steps:]).all():
                break
            if not compiled and losses.size < num_steps:
                began, compiled = time.perf_counter(), losses.size
            states = [states[-1], state]
            bar.update(steps)
            bar.set_postfix(loss=f"{losses[-steps:].mean():.4g}", refresh=False)
    speed = (losses.size - compiled) / (time.perf_counter() - began)

    finite = np.isfinite(losses)
    if finite.all():
        return FitResult(
            svi.get_params(states[-1]),
            losses,
            states[-1],
            losses.size,
            "all steps done",
            speed,
        )
    # Losses are taken before each update: the state that gave the last finite loss is
    # one update earlier. Updates repeat exactly, so go back to a look and walk there.
    good = int(finite.argmin())
    target, looked = max(good - 1, 0), losses.size - steps
    if target < looked:
        state, looked = states[-2], looked - chunk_size
    else:
        state = states[-1]
    if target > looked:
        state, _ = run(state, arrays, steps=target - looked)
    kept = FitResult(
        svi.get_params(state), losses[:target], state, target, "non-finite loss", speed
    )
    raise NonFiniteLossError(good + 1, float(losses[good]), kept)
