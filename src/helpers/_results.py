"""What `helpers.training.fit` returns, and what it raises."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpyro.infer.svi import SVIState


@dataclass(frozen=True)
class FitResult:
    """What a fit reached.

    Attributes
    ----------
    params : dict
        Variational parameters after the last step, on their constrained scale. (What
        batch normalization and the like keep is in ``state.mutable_state``.)
    losses : numpy.ndarray, shape (steps,)
        Loss (minus the estimated ELBO, in nats) at each step.
    state : numpyro.infer.svi.SVIState
        Optimizer state and key, to go on from.
    steps : int
        Number of steps taken.
    stopped : str
        Why the run ended: ``"all steps done"``, ``"interrupted"``,
        ``"no improvement in ... evaluations"``, or what went wrong, in the result that
        an error carries.
    steps_per_second : float
        Steps of this call over wall-clock seconds, compilation left out where a chunk
        came after the one that compiled. Evaluations and checkpoints count.
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


class StoppedFitError(Exception):
    """A fit could not go on; ``result`` holds what was reached before.

    Attributes
    ----------
    step : int
        The step (counted from 1) that could not be taken, or whose loss was not finite.
    result : FitResult
        The last good state, the losses up to it, and the evaluations so far.
    """

    def __init__(self, message: str, step: int, result: FitResult) -> None:
        super().__init__(f"{message} (steps done: {result.steps}, see .result)")
        self.step = step
        self.result = result


class NonFiniteLossError(StoppedFitError, FloatingPointError):
    """A loss, an evaluation or the parameters after a step were not finite.

    The result has the last state whose loss was finite. Where the parameters or an
    evaluation failed, the step is the last one done.
    """


class BatchError(StoppedFitError, ValueError):
    """The iterator of batches ended, raised, or gave a batch that does not fit."""


class CheckpointError(StoppedFitError, OSError):
    """A checkpoint could not be written; the one before it is untouched."""
