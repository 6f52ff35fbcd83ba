"""The host's side of `helpers.training.fit`: it starts chunks of steps and looks."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from typing import Any, NoReturn

import jax
import numpy as np
from numpyro.infer.svi import SVIState
from tqdm.auto import tqdm

from helpers import _loop
from helpers._results import (
    BatchError,
    CheckpointError,
    FitResult,
    NonFiniteLossError,
    StoppedFitError,
)

SECONDS = 0.25  # about so long between two looks of the host
FIRST = 4  # steps before the first looks, when nothing is known of their speed
FOREVER = np.iinfo("int32").max  # a patience that no run exhausts


def _one_ahead(items: Iterator) -> Iterator:
    """Hand out each item only when the next one has been asked for.

    JAX returns before its work is done: with the next chunk under way, the device does
    not idle while the host waits for the last one and looks at it.
    """
    held = next(items, None)
    for item in items:
        yield held
        held = item
    if held is not None:
        yield held


@dataclass(frozen=True)
class Look:
    """What the host knows after a chunk of steps."""

    done: int
    state: SVIState
    best: _loop.Best
    losses: np.ndarray
    values: np.ndarray

    def after(self, reached: _loop.Reached, looking: tuple | None) -> "Look":
        """Wait for a chunk and add it."""
        every = looking[2] if looking else 1
        steps, looks = int(reached.steps), int(reached.looks)  # the host waits here
        losses = np.append(self.losses, np.asarray(reached.losses)[:steps])
        done = self.done + steps
        at = (self.done // every + np.arange(1, looks + 1)) * every
        seen = np.asarray(reached.values, float)[:looks]
        values = np.append(self.values, np.c_[np.minimum(at, done), seen], axis=0)
        return Look(done, reached.state, reached.best, losses, values)


def _finite(tree: Any) -> bool:
    return all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(tree))


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Put off Ctrl-C; only the main thread may, and only it gets one."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class Run:
    """A fit under way.

    Parameters
    ----------
    svi : numpyro.infer.SVI
        Model, guide, optimizer and loss.
    source : AllRows, Tables or Stream
        Where the data come from.
    keeper : Keeper
        Where checkpoints go.
    num_steps : int
        Steps of the whole run.
    limit : int
        Steps between two looks, at most; exactly so many unless `timed`.
    timed : bool
        Whether to choose that number by the time that steps take.
    looking : tuple or None
        Evaluation, its key, steps between two of them, and patience.
    """

    def __init__(self, svi, source, keeper, num_steps, *, limit, timed, looking):
        self.svi, self.source, self.keeper = svi, source, keeper
        self.num_steps, self.limit, self.timed = num_steps, limit, timed
        self.looking = looking
        # Room for more losses than needed: other chunk sizes find the code compiled.
        self.size = max(source.least, 1 << (limit - 1).bit_length())
        # Chunks that end with an evaluation are compiled once, those without, too.
        first = FIRST if looking is None else max(FIRST, looking[2])
        self.pace = min(first, limit) if timed else limit

    def chunks(self, look: Look) -> Iterator[tuple[_loop.Reached, _loop.Chunk]]:
        """Start chunk after chunk; the device may still be at work on them."""
        done, state, best = look.done, look.state, look.best
        while done < self.num_steps:
            steps = min(self.pace, self.num_steps - done, self.keeper.steps_from(done))
            steps, chunk = self.source.take(done, self.whole(done, steps), self.size)
            if not steps:
                return
            # Where a stream ends, too, there is a look: no evaluation before is lost.
            ended = self.looking is not None and self.source.problem is not None
            if not (self.ends_with_a_look(done + steps) or ended):
                after = _loop.run(self.svi, state, chunk, steps, size=self.size)
                reached = _loop.Reached(steps, 0, *after, np.zeros(0), best)
            else:
                evaluate, rng_key, *looking = self.looking
                counts = np.array([done, steps, *looking], "int32")
                inputs = state, best, chunk, counts, evaluate, rng_key
                reached = _loop.run_and_look(self.svi, *inputs, size=self.size)
            done, state, best = done + steps, reached.state, reached.best
            yield reached, chunk

    def first_losses(self, look: Look, num_steps: int) -> np.ndarray:
        """Take the first steps for their losses alone, by the code that is compiled."""
        first = copy(self)
        first.num_steps = num_steps
        if self.looking is not None:
            first.looking = (*self.looking[:-1], FOREVER)
        for reached, _ in first.chunks(look):
            look = look.after(reached, first.looking)
        return look.losses

    def ends_with_a_look(self, done: int) -> bool:
        """Tell whether there is an evaluation after so many steps."""
        if self.looking is None:
            return False
        return done % self.looking[2] == 0 or done == self.num_steps

    def whole(self, done: int, steps: int) -> int:
        """Return as many steps, or fewer, to end with an evaluation if there is one."""
        if self.looking is None or self.ends_with_a_look(done + steps):
            return steps
        last = (done + steps) // self.looking[2] * self.looking[2]
        return last - done if last > done else steps

    def keep_time(self, steps: int, done: int) -> None:
        """Choose the size of the next chunk by the time that the last one took."""
        now = time.perf_counter()
        if self.clock is None and done < self.num_steps:  # leave the compiler out
            self.began, self.counted = now, done
        elif self.clock is not None and self.timed:
            fitting = int(SECONDS * steps / (now - self.clock))
            fewest = 1 if self.looking is None else self.looking[2]
            self.pace = min(max(fewest, min(fitting, 4 * self.pace)), self.limit)
        self.clock = now

    def result(self, look: Look, stopped: str) -> FitResult:
        """Return what was reached at a look."""
        best = look.best if int(look.best.step) else None
        seconds = time.perf_counter() - self.began
        return FitResult(
            params=self.svi.get_params(look.state),
            losses=look.losses,
            state=look.state,
            steps=look.done,
            stopped=stopped,
            steps_per_second=(look.done - self.counted) / seconds,
            evaluations=look.values,
            best_step=None if best is None else int(best.step),
            best_params=None if best is None else self.svi.constrain_fn(best.params),
        )

    def fail(self, step: int, what: str, bad: int, new: Look, *parts) -> NoReturn:
        """Go back to the last state whose loss was finite, and raise.

        Losses are taken before each update, so that state is one update earlier than
        the `bad` updates that gave the failing one. Updates repeat exactly: walk there
        from the last look before it. `parts` are looks and the chunks after them.
        """
        # A resumed run may fail in its first update: then what it started from is kept.
        target = max(bad - 1, min(look.done for look, _ in parts))
        look, chunk = next(part for part in parts if part[0].done <= target)
        inputs = self.svi, look.state, chunk, target - look.done
        state, _ = _loop.run(*inputs, size=self.size)
        values = new.values[new.values[:, 0] <= bad]
        kept = Look(target, state, new.best, new.losses[:target], values)
        message = (
            f"{what} at step {step}; the last state with a finite loss is kept. Usual "
            "causes: a learning rate too high, a scale that collapsed to 0, data "
            "outside the support"
        )
        raise NonFiniteLossError(message, step, self.result(kept, "non-finite loss"))

    def check(self, new: Look, now: tuple, before: tuple | None) -> None:
        """Raise if a loss or an evaluation in the chunk after `now` is not finite."""
        start = now[0].done
        found = np.flatnonzero(~np.isfinite(new.losses[start:]))
        if found.size:
            bad = start + int(found[0])
            what = f"the loss was {new.losses[bad]}"
            parts = [now] if before is None else [now, before]
            self.fail(bad + 1, what, bad, new, *parts)
        if len(new.values) and not new.values[-1, 1] < np.inf:
            self.keep(new, now, save=False)
            what = f"evaluate gave {new.values[-1, 1]} at step {new.done}"
            kept = self.result(new, "non-finite evaluation")
            raise NonFiniteLossError(what, new.done, kept)

    def keep(self, look: Look, before: tuple, *, save: bool = True) -> None:
        """Write a checkpoint, unless the last update broke the parameters."""
        if not _finite(self.svi.get_params(look.state)):
            what = "the update gave NaN or infinite parameters"
            self.fail(look.done, what, look.done, look, before)
        try:
            if save:
                self.keeper.save(look)
        except OSError as error:
            message = f"checkpoint: {self.keeper.path} could not be written: {error}"
            kept = self.result(look, "checkpoint not written")
            raise CheckpointError(message, look.done, kept) from error

    def go(self, look: Look, bar: tqdm) -> FitResult:
        """Take the steps after a look."""
        self.began, self.counted, self.clock = time.perf_counter(), look.done, None
        patience, before, interrupted = FOREVER, None, False
        if self.looking is not None:
            patience = self.looking[-1]
        tired = int(look.best.waited) >= patience
        start = look.done
        try:
            for reached, chunk in () if tired else _one_ahead(self.chunks(look)):
                new = look.after(reached, self.looking)
                self.check(new, (look, chunk), before)
                before, look = (look, chunk), new
                steps = look.done - before[0].done
                self.keep_time(steps, look.done)
                shown = {"loss": f"{look.losses[-steps:].mean():.4g}"}
                if len(look.values):
                    shown["evaluation"] = f"{look.values[-1, 1]:.4g}"
                bar.update(steps)
                bar.set_postfix(shown, refresh=False)
                if self.keeper.due(look.done):
                    self.keep(look, before)
                tired = int(look.best.waited) >= patience
                if tired:
                    break
        except KeyboardInterrupt:
            interrupted = True
        except StoppedFitError:
            raise
        except Exception as error:  # of the device, or of a callback in the model
            if look.done == start:
                raise
            kept = self.result(look, "broken off")
            what = f"step {look.done + 1} or one soon after raised {error}"
            raise StoppedFitError(what, look.done + 1, kept) from error
        with _undisturbed():  # pressing Ctrl-C again loses nothing
            if before is not None:
                self.keep(look, before)
            if tired:
                return self.result(look, f"no improvement in {patience} evaluations")
            if look.done == self.num_steps:
                return self.result(look, "all steps done")
            if interrupted:
                return self.result(look, "interrupted")
            what, cause = self.source.problem
            kept = self.result(look, "no more batches")
            raise BatchError(what, look.done + 1, kept) from cause
