"""How a run of `fit` ends: a result, an error that carries it, or an interrupt."""

import signal
import threading
import warnings
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.infer import SVI
from numpyro.infer.svi import SVIState
from optax.contrib import ReduceLROnPlateauState

from fitting.arguments import NEVER, faults


@dataclass(frozen=True)
class FitResult:
    """What a fit reached. Of several runs, attributes have one more axis, the first.

    Attributes
    ----------
    params : dict
        Variational parameters after the last step, on their constrained scale.
    losses : numpy.ndarray, shape (steps,)
        Loss (minus the estimated ELBO, in nats) at each step; NaN after the last step
        of a run that ended before others.
    state : numpyro.infer.svi.SVIState
        Optimizer state and key, to go on from by `init_state`.
    steps : int
        Number of steps taken.
    stopped : str
        Why the run ended, such as ``"all steps done"`` or ``"interrupted"``; a list for
        several runs.
    steps_per_second : float
        Steps of this call over wall-clock seconds, compilation left out where there
        were steps enough to tell.
    evaluations : numpy.ndarray, shape (evaluations, 2)
        Step and value of each evaluation.
    best_step, best_params, best_state
        Step of the highest value (the first one of equals), parameters and state there;
        None without evaluations.
    reductions : int or None
        How often `optax.contrib.reduce_on_plateau` cut the step size; None without it.
    """

    params: dict[str, Any]
    losses: np.ndarray = field(repr=False)
    state: SVIState = field(repr=False)
    steps: int
    stopped: str
    steps_per_second: float
    evaluations: np.ndarray = field(repr=False)
    best_step: int | None
    best_params: dict[str, Any] | None = field(repr=False)
    best_state: SVIState | None = field(repr=False)
    reductions: int | None


class StoppedFitError(Exception):
    """A fit could not go on at `step`; `result` holds what was reached before."""

    def __init__(self, message: str, step: int, result: FitResult) -> None:
        super().__init__(f"{message} (steps done: {result.steps}, see .result)")
        self.step, self.result = step, result


class NonFiniteLossError(StoppedFitError, FloatingPointError):
    """A loss, an evaluation or the parameters after a step were not finite."""


class BatchError(StoppedFitError, ValueError):
    """The iterator of batches ended, raised, or gave a batch that does not fit."""


class CheckpointError(StoppedFitError, OSError):
    """A checkpoint could not be written; the one before it is untouched."""


class Interrupts:
    """Count presses of Ctrl-C, so that the chunk under way is finished and kept.

    The third press raises as usual, for a run that hangs.
    """

    def __enter__(self) -> "Interrupts":
        """Take over; only the main thread may, and only it gets interrupts."""
        self.count, self.closing = 0, False
        self.main = threading.current_thread() is threading.main_thread()
        if self.main:
            self.before = signal.signal(signal.SIGINT, self.press)
        return self

    def press(self, *_: Any) -> None:
        """Count a press."""
        self.count += 1
        if self.count == 3 and not self.closing:
            raise KeyboardInterrupt

    def __exit__(self, *_: Any) -> None:
        """Give back."""
        if self.main:
            signal.signal(signal.SIGINT, self.before)


def result_of(
    svi: SVI, run: Any, stopped: list[str], speed: float, seen: np.ndarray
) -> FitResult:
    """Return what a run reached, or what several did; `seen` are losses and values."""
    many = np.ndim(run.steps) == 1
    get = jax.vmap(svi.get_params) if many else svi.get_params
    steps, best = np.asarray(run.steps), np.asarray(run.best_step)
    losses, values = seen[..., : steps.max()]
    at = np.flatnonzero(~np.isnan(np.atleast_2d(values)).all(axis=0))
    known = best.any()
    return FitResult(
        params=get(run.state),
        losses=np.where(np.arange(steps.max()) < steps[..., None], losses, np.nan),
        state=run.state,
        steps=steps if many else int(steps),
        stopped=stopped if many else stopped[0],
        steps_per_second=speed,
        evaluations=np.stack(np.broadcast_arrays(at + 1.0, values[..., at]), axis=-1),
        best_step=None if not known else best if many else int(best),
        best_params=get(run.best_state) if known else None,
        best_state=run.best_state if known else None,
        reductions=np.asarray(run.reductions) if plateau(run.state) else None,
    )


def cause(svi: SVI, source: Any, data: tuple, step: int, what: str) -> str:
    """Say what may have made a loss infinite or NaN.

    `what` was seen at `step`, counted from 1, with `data`, arguments and keyword
    arguments of the model.
    """
    if found := faults(svi.model, *data):
        if tables := getattr(source, "stored", None):  # with the user's row numbers
            found = faults(svi.model, *source.put(tables))
        return (
            f"{what} at step {step}: {'; '.join(found)}. Leave such rows out, or mask "
            "or impute them in the model"
        )
    if step == 1:
        return (
            f"{what} at step 1, before any update: the start is to blame, or data "
            "outside the support. Start closer to the middle (init_loc_fn="
            "init_to_median, or init_to_uniform(radius=0.1), and a small init_scale); "
            "of a correlation matrix use the Cholesky factor (LKJCholesky, scale_tril)"
        )
    return (
        f"{what} at step {step}. Usual causes: a learning rate too high, a scale that "
        "collapsed to 0, data outside the support; stable_update=True leaves such "
        "steps out"
    )


def why_failed(
    svi: SVI,
    source: Any,
    data: Any,
    before: int,
    trace: np.ndarray,
    run: Any,
    options: Any,
) -> tuple[int, str]:
    """Return where a run failed, and why; of several runs, the one that came furthest.

    `data` are those of the last chunk, which began after `before` steps; `trace` are
    losses and values of evaluations, NaN where none was taken.
    """
    (losses, values), steps = trace, int(np.max(run.steps))
    if options.many:
        last = int(np.argmax(run.steps))
        losses, values = losses[last], values[last]
        data = jax.tree.map(lambda a: a[last], data)
    every = options.facts[2] or NEVER
    due = steps and (steps % every == 0 or steps == options.num_steps)
    if due and not values[steps - 1] < np.inf:
        return steps, f"evaluate gave {values[steps - 1]} at step {steps}"
    stop = min(losses.size, (steps // every + 1) * every)  # the run ended there
    bad = np.flatnonzero(~np.isfinite(losses[:stop]))
    if options.stable_update or not bad.size:
        return stop, f"the update gave NaN or infinite parameters at step {stop}"
    at = int(bad[0])
    arguments = source.put(source.pick(data, at - before))
    return at + 1, cause(svi, source, arguments, at + 1, f"the loss was {losses[at]}")


def finite(tree: Any) -> jax.Array:
    """Return whether all floating-point numbers of a tree are finite."""
    leaves = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)]
    return jnp.array([jnp.isfinite(leaf).all() for leaf in leaves], bool).all()


def kept(svi: SVI, before: Any, after: Any, losses: np.ndarray, options: Any) -> Any:
    """Return a run after a chunk of steps, or the one before if that is not finite.

    Several runs, and those with evaluations, are looked at in compiled code.
    """
    if options.many or np.any(after.failed):
        return after
    params = svi.optim.get_params(after.state.optim_state)
    known = [x for x in jax.tree.leaves(params) if x.is_fully_addressable]
    sound = all(np.isfinite(np.asarray(leaf)).all() for leaf in known)
    if not options.stable_update:
        taken = int(after.steps) - int(before.steps)  # patience may end a chunk early
        sound &= bool(np.isfinite(losses[:taken]).all())
    return after if sound else before._replace(failed=~before.failed)


def one_number(value: Any) -> jax.Array:
    """Return what an evaluation gave, if it is one number."""
    leaves = jax.tree.leaves(value)
    if len(leaves) != 1 or np.shape(leaves[0]) != ():
        got = np.shape(value) if len(leaves) == 1 else type(value).__name__
        raise ValueError(f"evaluate: expected to return one number, got {got}")
    return jnp.asarray(leaves[0], float)


def plateau(state: SVIState) -> list:
    """Return the states of rules that reduce the step size on a plateau."""
    is_rule = lambda s: isinstance(s, ReduceLROnPlateauState)  # noqa: E731
    leaves = jax.tree.leaves(state.optim_state, is_leaf=is_rule)
    return [leaf for leaf in leaves if is_rule(leaf)]


def reduced(before: SVIState, after: SVIState) -> Any:
    """Return 1 where an update reduced the step size, 0 elsewhere."""
    pairs = zip(plateau(before), plateau(after), strict=True)
    return sum((new.scale < old.scale).astype(int) for old, new in pairs)


def warn_of_plateau(state: SVIState, reductions: Any) -> None:
    """Warn where a plateau rule stopped the fit, or could not see a plateau."""
    for rule in plateau(state):
        scale, best = np.min(rule.scale), np.min(rule.best_value)
        if scale < 1e-4:
            warnings.warn(
                f"optimizer: reduce_on_plateau cut the step size {np.max(reductions)} "
                f"times, to {scale:.1g} of what it was, so that the fit stands still. "
                "A noisy loss looks like a plateau: use a schedule over steps, or a "
                "larger accumulation_size",
                stacklevel=3,
            )
        elif best < 0 and not np.any(reductions):
            warnings.warn(
                "optimizer: reduce_on_plateau never cut the step size. With a loss "
                "below zero its relative threshold rtol takes any value for progress: "
                "use rtol=0 and atol, or a schedule over steps",
                stacklevel=3,
            )


def summary(new: np.ndarray) -> dict[str, str]:
    """Return what the progress bar shows of the losses and values of a chunk."""
    losses, values = (part[~np.isnan(part)] for part in new)
    shown = {"loss": f"{losses.mean() if losses.size else np.nan:.4g}"}
    return shown | ({"evaluation": f"{values[-1]:.4g}"} if values.size else {})
