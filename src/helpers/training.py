"""The one training loop of the course: stochastic variational inference in chunks."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from numpyro.infer import SVI
from numpyro.infer.svi import SVIState
from tqdm.auto import tqdm

from helpers import _checkpoints, _loop, _sources, _validate, _weights
from helpers._results import BatchError as BatchError
from helpers._results import CheckpointError as CheckpointError
from helpers._results import FitResult as FitResult
from helpers._results import NonFiniteLossError as NonFiniteLossError
from helpers._results import StoppedFitError as StoppedFitError
from helpers._run import FOREVER, Look, Run
from helpers.prediction import log_predictive_density as log_predictive_density
from helpers.prediction import predict as predict
from helpers.prediction import predictions as predictions


def _checked_evaluation(
    svi: SVI, evaluate: Callable, params: Any, rng_key: jax.Array
) -> jax.tree_util.Partial:
    """Return a function of parameters and a key; complain before any step is taken."""
    if not callable(evaluate):
        raise TypeError(
            "evaluate: expected a function of parameters and a key, "
            f"got {type(evaluate).__name__}"
        )
    # As a Partial: arrays that it brings along are arguments of the compiled code.
    if not isinstance(evaluate, jax.tree_util.Partial):
        evaluate = jax.tree_util.Partial(evaluate)
    evaluate = jax.tree.map(jnp.asarray, evaluate)
    try:
        value = _loop.value_of.eval_shape(svi, evaluate, params, rng_key)
    except jax.errors.JAXTypeError as error:
        raise TypeError(
            "evaluate: expected a function that JAX can trace (jax.numpy for NumPy, "
            "no float() or if on values), got one that it cannot; see the error above"
        ) from error
    leaves = jax.tree.leaves(value)
    if len(leaves) != 1 or leaves[0] is not value or value.shape != ():
        shown = value.shape if hasattr(value, "shape") else type(value).__name__
        raise ValueError(f"evaluate: expected to return one number, got {shown}")
    return evaluate


def _source(
    arguments: tuple,
    batch_size: int | None,
    batches: Iterable | Callable[[int], Iterable] | None,
    num_rows: int | None,
    rng_key: jax.Array,
) -> _sources.AllRows | _sources.Tables | _sources.Stream:
    """Return where the data come from; complain about what cannot be."""
    if batches is None:
        if num_rows is not None:
            raise ValueError(f"num_rows: expected None without batches, got {num_rows}")
        _validate.model_arguments(*arguments)
        if batch_size is None:
            return _sources.AllRows(arguments)
        batch_size = _validate.positive_int("batch_size", batch_size)
        return _sources.Tables(arguments, batch_size, rng_key)
    if batch_size is not None:
        raise ValueError(f"batch_size: expected None beside batches, got {batch_size}")
    if num_rows is None:
        raise ValueError("num_rows: expected the number of all rows, got None")
    num_rows = _validate.positive_int("num_rows", num_rows)
    args, kwargs = arguments
    if args:
        raise ValueError(
            f"batches: expected no positional arguments beside them, got {len(args)}"
        )
    _validate.model_arguments((), kwargs)
    if not callable(batches) and not isinstance(batches, Iterable):
        raise TypeError(
            "batches: expected an iterable, or a function of the first step that "
            f"returns one, got {type(batches).__name__}"
        )
    return _sources.Stream(batches, num_rows, kwargs)


def _beside(state: SVIState, arguments: tuple) -> SVIState:
    """Copy a state to all devices that its data are spread over.

    The compiled loop would do so, and then be compiled again for the state it returns.
    """
    placed = {
        leaf.sharding.mesh
        for leaf in jax.tree.leaves(arguments)
        if isinstance(leaf, jax.Array)
        and isinstance(leaf.sharding, NamedSharding)
        and leaf.sharding.num_devices > 1
    }
    if len(placed) != 1 or jax.process_count() > 1:
        return state
    everywhere = NamedSharding(*placed, PartitionSpec())
    return jax.tree.map(
        lambda leaf: (
            leaf
            if isinstance(leaf.sharding, NamedSharding)
            else jax.device_put(leaf, everywhere)
        ),
        state,
    )


def _typed(leaf: Any) -> Any:
    """Fix a type that would give way to others: what a checkpoint restores has none.

    Code that is compiled for the one would have to be compiled for the other.
    """
    weak = getattr(leaf, "weak_type", False)
    return jax.lax.convert_element_type(leaf, leaf.dtype) if weak else leaf


def _initial_state(
    svi: SVI, rng_key: jax.Array, arguments: tuple, init_params: dict[str, Any] | None
) -> SVIState:
    """Return the state to start from; complain about parameters that do not fit."""
    args, kwargs = arguments
    with _weights.FirstRows():
        state = svi.init(rng_key, *args, **kwargs)
    if init_params is None:
        return _beside(state, arguments)
    known = svi.get_params(state)
    unknown = sorted(set(init_params) - set(known))
    if unknown:
        raise ValueError(f"init_params: expected some of {list(known)}, got {unknown}")
    for name, value in init_params.items():
        shapes = [
            [np.shape(leaf) for leaf in jax.tree.leaves(tree)]
            for tree in (known[name], value)
        ]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"init_params: expected {name!r} of shape {shapes[0]}, got {shapes[1]}"
            )
    _validate.model_arguments((), dict(init_params))
    # The same key on purpose: what is not given starts as it would without.
    with _weights.FirstRows():
        state = svi.init(
            rng_key,  # on purpose
            *args,
            init_params=dict(init_params),
            **kwargs,
        )
    return _beside(state, arguments)


def fit(
    rng_key: jax.Array,
    svi: SVI,
    num_steps: int,
    *model_args: Any,
    batch_size: int | None = None,
    batches: Iterable | Callable[[int], Iterable] | None = None,
    num_rows: int | None = None,
    init_params: dict[str, Any] | None = None,
    chunk_size: int | None = None,
    evaluate: Callable[[dict[str, Any], jax.Array], jax.Array] | None = None,
    evaluate_every: int = 50,
    patience: int | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: int | None = None,
    progress_bar: bool = True,
    **model_kwargs: Any,
) -> FitResult:
    """Fit a guide by SVI, in compiled chunks of steps.

    The updates run in one compiled loop, evaluations and early stopping with them; the
    host looks only between chunks, where it moves the progress bar, checks that losses
    are finite and writes checkpoints. With all rows at each step, the losses are those
    of ``svi.run(rng_key, num_steps, ..., progress_bar=False)``, bit for bit, for any
    `chunk_size` (on a CPU, from two steps on: XLA compiles a single one differently)
    and whatever is evaluated. Ctrl-C, or the stop button, ends the run and returns what
    was reached.

    Parameters
    ----------
    rng_key : jax.Array
        One key from `jax.random.key`; it starts the guide and all later draws, and sets
        the order of the rows.
    svi : numpyro.infer.SVI
        Model, guide, optimizer and loss.
    num_steps : int
        Number of updates, at least 1.
    *model_args, **model_kwargs
        What model and guide are called with: constants, and arrays, finite and not
        empty, which some site observes.
    batch_size : int, optional
        Rows in a step. All array arguments with a dimension are then tables with the
        same rows, and model and guide get the same rows of each, to use as they come.
        Epochs are shuffled anew and follow each other without a break: no row is left
        out, no batch is short. Of more than 131,072 rows, blocks of so many come in
        random order, and are shuffled each, by 128 neighbors at a time unless these
        have more in common than chance would have it (in the means of columns, squares
        and products); such tables must be stored in random order.
    batches : iterable or callable, optional
        Batches for model and guide instead of `model_args`: each a tuple of positional
        arguments or a dictionary of keyword arguments, all of the same shapes. Or a
        function that takes a number of steps and returns an iterable that starts after
        as many, so that a resumed run need not read what it has used.
    num_rows : int, optional
        With `batches`: number of rows in all.
    init_params : dict, optional
        Values for variational parameters to start from, on their constrained scale.
    chunk_size : int, optional
        Updates between two looks of the host, at most 4,096; of minibatches at most
        512, and as many as have 1,048,576 rows together; of a stream at most 512, and
        as many as fit into 4 MiB; but always one. By default as many as take about a
        quarter of a second.
    evaluate : callable, optional
        ``evaluate(params, key)`` returns one number, the higher the better, such as the
        validation `log_predictive_density`. It gets the parameters on their constrained
        scale and the same key each time, and must be a function that JAX can trace.
    evaluate_every : int
        Steps between two evaluations; one more follows the last step.
    patience : int, optional
        Stop after this many evaluations in a row without a new best one. The best value
        of many is a little better than its state.
    checkpoint : str or pathlib.Path, optional
        File (NumPy's npz format) to keep the state of the run in. If it is there, the
        run goes on from it, to the same bits as without a break, given the same
        arguments (`num_steps` and `patience` may differ; the evaluation after the last
        step of a shorter run stays). Its first ten steps are taken again then: a file
        whose losses differ by a 100,000th is refused, as that of a model, a guide or an
        optimizer since edited, of other batches or starting values, or of a machine
        that computes with other precision. A change that makes less of a difference
        there, such as to the far end of a schedule, goes unnoticed.
    checkpoint_every : int, optional
        Steps between two checkpoints; a twentieth of the run by default. The last
        state is stored too.
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
        For an argument of the wrong kind; empty or non-finite data, or data that are
        not observed; a model whose plates contradict the data; a guide that lacks an
        unknown of the model; a model or guide that does not weigh each row of a batch
        by ``num_rows / batch_size``; a guide with parameters for each row, which cannot
        follow the batches; a checkpoint that is damaged or of another run.
    NonFiniteLossError
        When a loss, or a parameter at the end, is NaN or infinite, or an evaluation NaN
        or plus infinity.
    BatchError
        When `batches` ends early, raises, or gives arrays that are not finite or unlike
        those before.
    CheckpointError
        When a checkpoint cannot be written.
    StoppedFitError
        When anything else goes wrong after the first steps. All of these four carry
        what was reached.

    Notes
    -----
    Stochastic variational inference, with minibatches: Hoffman et al. (2013); the
    reparameterized gradients inside `svi.update`: Kingma and Welling (2014).
    """
    _validate.key("rng_key", rng_key)
    if not isinstance(svi, SVI):
        raise TypeError(f"svi: expected numpyro.infer.SVI, got {type(svi).__name__}")
    if isinstance(svi.loss, type):
        name = svi.loss.__name__
        raise TypeError(f"svi: expected a loss such as {name}(), got the class {name}")
    num_steps = _validate.positive_int("num_steps", num_steps, most=FOREVER)
    every = _validate.positive_int("evaluate_every", evaluate_every, most=FOREVER)
    if patience is not None:
        patience = _validate.positive_int("patience", patience, most=FOREVER)
    if evaluate is None and patience is not None:
        raise ValueError(f"patience: expected None without evaluate, got {patience}")
    if chunk_size is not None:
        chunk_size = _validate.positive_int("chunk_size", chunk_size)
    if not isinstance(progress_bar, bool):
        raise TypeError(f"progress_bar: expected True or False, got {progress_bar!r}")
    keeper = _checkpoints.Keeper(checkpoint, checkpoint_every, num_steps)

    # Keys that guide and loss do not get.
    other_key, order_key = (
        jax.random.fold_in(jax.random.fold_in(rng_key, 2**32 - 1), i) for i in (0, 1)
    )
    arguments = (model_args, model_kwargs)
    source = _source(arguments, batch_size, batches, num_rows, order_key)
    if source.problem is not None:
        raise ValueError(source.problem[0]) from source.problem[1]
    args, kwargs = source.first
    seen = args, kwargs | svi.static_kwargs
    counts = source.batch_rows, source.num_rows
    row_plates, unknowns = _weights.check_model(svi.model, seen, *counts)
    state = _initial_state(svi, rng_key, source.first, init_params)
    if row_plates or not _weights.made_from(svi.guide, svi.model):
        _weights.check_guide(svi.guide, seen, row_plates, unknowns, *counts)
    state = jax.tree.map(_typed, state)
    best = _loop.none_yet(svi, state)
    looking = None
    if evaluate is not None:
        # The same key each time: values differ by parameters, not by luck of the draw.
        evaluate = _checked_evaluation(svi, evaluate, best.params, other_key)
        looking = evaluate, other_key, every, patience or FOREVER

    fresh = Look(0, state, best, np.zeros(0, jnp.result_type(float)), np.zeros((0, 2)))
    facts = batch_size, num_rows, looking and every, source.together
    look = keeper.resumed(fresh, rng_key, arguments, *facts)  # looks at it, on purpose
    run = Run(
        svi,
        source,
        keeper,
        num_steps,
        limit=min(chunk_size or source.most, source.most, num_steps),
        # Processes must take the same steps: where there are several, no clock decides.
        timed=chunk_size is None and jax.process_count() == 1,
        looking=looking,
    )
    if look.done:
        losses = run.first_losses(fresh, min(_checkpoints.AGAIN, look.done))
        if source.problem is not None:
            raise ValueError(source.problem[0]) from source.problem[1]
        keeper.compare(losses)
    # Left to tqdm where it is wanted: TQDM_DISABLE=1 then silences it for a whole run.
    quiet = {} if progress_bar else {"disable": True}
    with tqdm(total=num_steps, initial=look.done, unit="step", **quiet) as bar:
        return run.go(look, bar)
