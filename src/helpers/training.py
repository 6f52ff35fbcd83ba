"""The one training loop of the course: stochastic variational inference in chunks.

`fit` is `numpyro.infer.SVI.run` with more. It compiles one loop of updates and
evaluations, `compiled_loop`, and calls it again and again, some steps at a time.
Between two calls it moves the progress bar, keeps checkpoints, and sees whether a run
is over. What protects it stands in the package `fitting`.
"""

import time
import warnings
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from numpyro.infer import SVI
from numpyro.infer.svi import SVIState
from tqdm.auto import tqdm

from fitting import arguments, checkpoints, checks, endings
from fitting.arguments import NEVER
from fitting.batches import source_of
from fitting.endings import (
    BatchError,
    CheckpointError,
    FitResult,
    NonFiniteLossError,
    StoppedFitError,
)
from helpers.prediction import log_predictive_density, predict, predictions

__all__ = [
    "BatchError",
    "CheckpointError",
    "FitResult",
    "NonFiniteLossError",
    "StoppedFitError",
    "fit",
    "log_predictive_density",
    "predict",
    "predictions",
]

SECONDS = 0.25  # about so long between two looks of the host


class Run(NamedTuple):
    """Where a run stands; for several runs each array has an axis more."""

    state: SVIState
    steps: jax.Array
    best_state: SVIState
    best_step: jax.Array  # 0: no evaluation yet
    best_value: jax.Array
    waited: jax.Array  # evaluations since the best one
    failed: jax.Array  # something was not finite; the state is the last one before
    reductions: jax.Array  # of the step size, by a plateau rule


def choose(condition: jax.Array, one: Any, other: Any) -> Any:
    """Return one of two trees of arrays."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), one, other)


def compiled_loop(
    svi: SVI, source: Any, score: Callable | None, options: arguments.Options
) -> Callable:
    """Return the function that takes a chunk of updates, with evaluations among them.

    It maps a `Run`, its evaluation key, the data of the next steps, the steps done, to
    do and in all, and the patience (a resumed run may change these two) to the run
    after these steps, their losses and the values of evaluations.
    It ends early once something is not finite, or no better value came for `patience`
    evaluations. Of several runs, one that is over stays as it is.
    """
    every, many = NEVER if score is None else options.every, options.many
    update = partial(
        svi.stable_update if options.stable_update else svi.update,
        forward_mode_differentiation=options.forward_mode_differentiation,
    )

    def segment(run, losses, values, key, data, done, start, stop, last):
        """Take the updates of one run up to the next evaluation."""

        def step(i, carry):
            state, losses, reductions = carry
            args, kwargs = source.put(source.pick(data, i))
            new, loss = update(state, *args, **kwargs)
            losses = losses.at[i].set(loss.astype(losses.dtype))
            return new, losses, reductions + endings.reduced(state, new)

        start_of = run.state, losses, run.reductions
        state, losses, reductions = lax.fori_loop(start, stop, step, start_of)
        steps = done + stop
        now = run._replace(state=state, steps=steps, reductions=reductions)
        if score is None and not many:  # the host sees what is not finite
            return now, losses, values
        sound = endings.finite(svi.optim.get_params(state.optim_state))
        if not options.stable_update:
            so_far = jnp.where(jnp.arange(losses.size) < stop, losses, 0)
            sound &= endings.finite(so_far)
        now = choose(sound, now, run)._replace(failed=~sound)
        if score is None:
            return now, losses, values
        due = (steps % every == 0) | (steps == last)
        value = lax.cond(
            due, score, lambda *_: jnp.array(jnp.nan, values.dtype), state, key
        )
        first = due & (run.best_step == 0) & (value < jnp.inf)
        better = sound & (first | ((value > run.best_value) & (value < jnp.inf)))
        now = now._replace(
            best_state=choose(better, state, run.best_state),
            best_step=jnp.where(better, steps, run.best_step),
            best_value=jnp.where(better, value, run.best_value),
            waited=jnp.where(better, 0, run.waited + due),
            failed=~sound | (due & ~(value < jnp.inf)),
        )
        return now, losses, values.at[stop - 1].set(value)

    def chunk(run, keys, data, done, steps, last, patience):
        each, going = segment, options._replace(patience=patience).going
        if many:
            rows = 0 if source.batch_rows else None  # each run has rows of its own
            each = jax.vmap(segment, (0, 0, 0, 0, rows, None, None, None, None))

        def body(carry):
            at, *before = carry
            stop = jnp.minimum(steps, ((done + at) // every + 1) * every - done)
            after = each(*before, keys, data, done, at, stop, last)
            if many:
                after = jax.vmap(choose)(going(before[0]), after, tuple(before))
            return stop, *after

        def more(carry):
            return (carry[0] < steps) & going(carry[1]).any()

        blank = jnp.full((*run.steps.shape, source.most), jnp.nan)
        start = jnp.zeros_like(steps), run, blank, blank
        if score is None:  # all steps in one segment
            return body(start)[1:]
        return lax.while_loop(more, body, start)[1:]

    return chunk


def fit(
    rng_key: jax.Array,
    svi: SVI,
    num_steps: int,
    *model_args: Any,
    batch_size: int | None = None,
    batches: Iterable | Callable[[int], Iterable] | None = None,
    num_rows: int | None = None,
    init_state: SVIState | None = None,
    init_params: dict[str, Any] | None = None,
    stable_update: bool = False,
    forward_mode_differentiation: bool = False,
    evaluate: Callable[[dict[str, Any], jax.Array], jax.Array] | None = None,
    evaluate_every: int = 50,
    patience: int | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: int | None = None,
    progress_bar: bool = True,
    unchecked: bool = False,
    **model_kwargs: Any,
) -> FitResult:
    """Fit a guide by SVI, in compiled chunks of steps.

    With all rows at each step this is ``svi.run`` with more: it accepts the same
    arguments and gives the losses of ``svi.run(..., progress_bar=False)``. It remembers
    nothing from call to call. Ctrl-C, or the stop button, ends the run after the chunk
    under way and returns what was reached.

    Parameters
    ----------
    rng_key : jax.Array
        A key from `jax.random.key`; it starts the guide and all later draws, and sets
        the order of rows. An array of keys makes as many runs side by side, each from
        a start of its own.
    svi : numpyro.infer.SVI
        Model, guide, optimizer and loss. An autoguide keeps its first start: single
        runs from several starts need a new guide each.
    num_steps : int
        Number of updates, at least 1.
    *model_args, **model_kwargs
        What model and guide are called with; of a data frame, its columns as arrays
        (``frame["x"].to_numpy()``).
    batch_size : int, optional
        Rows in a step. All arrays among the arguments are then tables with the same
        rows, and model and guide get the same rows of each; rows must not depend on
        each other (standardize columns before). This is checked on the first rows and
        on those with the largest and smallest values, and not checked where a network
        keeps averages of batches. Each epoch has a new order of rows. A batch may reach
        into the next epoch: no row is left out, no batch is short.
    batches : iterable or callable, optional
        Batches for model and guide instead of `model_args`: each a tuple of positional
        arguments or a dictionary of keyword arguments, all of the same shapes; model
        and guide are checked with the first. Or a function that takes a number of steps
        and returns an iterable that starts after as many, so that a resumed run need
        not read what it has used.
    num_rows : int, optional
        With `batches`: number of rows in all.
    init_state, init_params, stable_update, forward_mode_differentiation
        As in `numpyro.infer.SVI.run`.
    evaluate : callable, optional
        ``evaluate(params, key)`` returns one number, the higher the better, such as the
        validation `log_predictive_density`. It gets the parameters on their constrained
        scale, mutable state with them, and the same key each time. JAX traces it.
    evaluate_every : int
        Steps between two evaluations; one more follows the last step.
    patience : int, optional
        Stop after this many evaluations in a row without a new best one.
    checkpoint : str or pathlib.Path, optional
        File (NumPy's npz format) to keep the run in. If it is there, the run goes on
        from it as without a break, given the same arguments (`num_steps` and `patience`
        may differ; an evaluation after an earlier last step stays one of the run).
        Edited code gives a warning.
    checkpoint_every : int, optional
        Steps between two checkpoints; a twentieth of the run by default. The last
        state is stored too.
    progress_bar : bool
        Show a bar with the mean loss of the last chunk and the last evaluation.
    unchecked : bool
        Leave out the checks of model and guide (`fitting.checks`), for a model that is
        right although they refuse it.

    Returns
    -------
    FitResult
        Parameters, loss trace, state, and what evaluations gave.

    Raises
    ------
    TypeError, ValueError
        For arguments, data, a model, a guide or a checkpoint that do not fit.
    NonFiniteLossError, BatchError, CheckpointError, StoppedFitError
        When something goes wrong after the first steps. All of these carry what was
        reached. Of several runs, those that fail stay where they were, with a warning.

    Notes
    -----
    Stochastic variational inference, with minibatches: Hoffman et al. (2013); the
    reparameterized gradients inside `svi.update`: Kingma and Welling (2014).
    """
    options = arguments.options(**locals())
    many, fold_in = options.many, jax.random.fold_in
    fold_in = jax.vmap(fold_in, (0, None)) if many else fold_in
    other_key = fold_in(rng_key, 2**32 - 1)  # guide and loss do not get this one
    score_key, order_key = fold_in(other_key, 0), fold_in(other_key, 1)
    if batch_size is None and batches is None:
        source = arguments.AllRows(model_args, model_kwargs)
    else:
        source = source_of(svi.model, model_args, model_kwargs, options, order_key)
    found = checks.before(svi, source, unchecked)
    state = checks.start(svi, rng_key, source, init_state, init_params, many)
    checks.after(svi, source, found, state, unchecked)

    def score(state, key):
        params = svi.get_params(state) | (state.mutable_state or {})
        return endings.one_number(evaluate(params, key))

    zero = jnp.zeros(rng_key.shape[:many], int)
    run = Run(state, zero, state, zero, zero - jnp.inf, zero, zero > 0, zero)
    run = arguments.settled(run, (model_args, model_kwargs))
    trace = np.zeros((2, *zero.shape, 0), jnp.result_type(float))  # losses, evaluations
    loop = arguments.hoisted(
        compiled_loop(svi, source, score if evaluate else None, options),
        *(run, score_key, source.example, *np.int32([0, 1, 1, 1])),
        given=arguments.named_leaves(svi.model, model_args, model_kwargs),
    )
    start, keeper = 0, None
    if checkpoint is not None:
        keeper = checkpoints.Keeper(options, rng_key, source, loop.program)
        start, (run, trace) = keeper.load((run, trace))
    # Processes must take the same steps: where there are several, no clock decides.
    pace, alone = min(16, source.most), jax.process_count() == 1
    steps, data = source.take(start, options.steps_from(start, pace))
    done, began, counted = start, time.perf_counter(), start

    def result(otherwise: str) -> FitResult:
        speed = (done - counted) / (time.perf_counter() - began)
        why = options.reasons(run, otherwise)
        return endings.result_of(svi, run, why, speed, trace)

    def save() -> None:
        if keeper is None:
            return
        try:
            reached = int(np.max(run.steps))
            keeper.save(reached, (run, trace[..., :reached]))
        except OSError as error:
            what = f"checkpoint: {keeper.path} could not be written: {error}"
            raise CheckpointError(what, done, result("broken off")) from error

    quiet = {} if progress_bar else {"disable": True}  # else TQDM_DISABLE decides
    bar = tqdm(total=num_steps, initial=start, unit="step", smoothing=0, **quiet)
    # Losses of steps to come are NaN: under jax_debug_nans, `fit` itself says what is.
    with endings.Interrupts() as presses, bar, jax.debug_nans(False):
        try:
            while steps and options.going(run).any() and not presses.count:
                clock, before, used = time.perf_counter(), done, data
                counts = np.int32([done, steps, num_steps, options.patience])
                after, *new = loop(run, score_key, data, *counts)
                # While the device works, the host reads what comes next.
                then = done + steps
                ready = source.take(then, options.steps_from(then, pace))
                new = np.stack(new)[..., :steps]  # the host waits here
                after = endings.kept(svi, run, after, new[0], options)
                run, trace = after, np.append(trace, new, axis=-1)  # both or none
                done, (steps, data) = then, ready
                now = time.perf_counter()
                if before == start and steps:  # leave the compiler out
                    began, counted = now, done
                elif not alone or now - clock < SECONDS / 2:
                    pace = min(2 * pace, source.most)
                elif now - clock > 2 * SECONDS:
                    pace = max(pace // 2, 1)
                bar.update(new.shape[-1])
                bar.set_postfix(endings.summary(new), refresh=False)
                if options.due(done) and not np.all(run.failed):
                    save()
        except KeyboardInterrupt:  # the third press
            pass
        except StoppedFitError:
            raise
        except Exception as error:  # of the device, or of a callback in the model
            if done == start:
                raise
            what = f"step {done + 1} or one soon after raised {error}"
            raise StoppedFitError(what, done + 1, result("broken off")) from error
        presses.closing = True
        if np.all(run.failed):
            seen = used, before, trace, run, options
            at, what = endings.why_failed(svi, source, *seen)
            raise NonFiniteLossError(what, at, result("not finite"))
        if np.any(run.failed):
            which = np.flatnonzero(run.failed).tolist()
            warnings.warn(
                f"runs {which} stopped: not finite (see .stopped)", stacklevel=2
            )
        endings.warn_of_plateau(run.state, run.reductions)
        save()
        if steps or done == num_steps or not options.going(run).any():
            return result("interrupted")
        what, cause = source.problem
        raise BatchError(what, done + 1, result("no more batches")) from cause
