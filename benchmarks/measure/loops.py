"""Time four training loops on the network of notebook 04, one beside the other.

The loops are a Python loop that looks at each step, `fit` with and without evaluations,
and a bare `jax.lax.scan`. They take turns, so other work on the machine slows all of
them alike. The script also measures how well the chosen states predict when an
evaluation has few or many draws. Writes ``loops.json``. Run it from the root of the
project:

    python -m benchmarks.measure.loops
"""

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median

import jax
import numpy as np
import optax
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal
from numpyro.infer.svi import SVIState
from tqdm import trange

from benchmarks.shared import record
from benchmarks.shared.bnn_model import Rows, make_data, model
from helpers.environment import device
from helpers.training import fit, log_predictive_density

EVALUATE_EVERY = 50
DRAWS = 8  # in an evaluation, as in notebook 04
PATIENCE = 20  # evaluations, as there
JUDGES = 1_000  # draws for a score on test data
PIECE = 2_000  # steps of a compiled scan


def python_loop(
    update: Callable,
    validate: Callable,
    state: SVIState,
    steps: int,
    rows: tuple[int, int],
    patience: int,
) -> tuple[np.ndarray, None]:
    """Train as the talk does: wait for two losses at each step and compare them.

    The two functions are compiled before, which is in favor of this loop: the talk
    calls `jax.jit` anew at each step. A bar shows the losses at each of them.
    """
    losses, normed, val_losses, val_normed, worse = [], [], [], [], 0
    with trange(steps) as bar:
        for _ in bar:
            state, loss = update(state)
            losses.append(jax.device_get(loss))
            normed.append(losses[-1] / rows[0])
            val_losses.append(jax.device_get(validate(state)))
            val_normed.append(val_losses[-1] / rows[1])
            worse = worse + 1 if val_normed[-1] > normed[-1] else 0
            if worse >= patience:
                break
            shown = f"train: {losses[-1]:.4f}, val: {val_losses[-1]:.4f}"
            bar.set_postfix_str(shown, refresh=False)
    return np.array(losses), None


def make_loops(
    train: Rows,
    validation: Rows,
    svi: SVI,
    *,
    evaluations: dict[int, Callable],
    steps: int,
    python_steps: int,
) -> dict[str, Callable[[], tuple[np.ndarray, float | None]]]:
    """Return the loops by name: each does a whole run and returns its losses.

    `fit`, which compiles at each call, returns the seconds of its steps as well: what
    is compared is the speed of compiled loops. `evaluations` are what it evaluates
    with, by their numbers of draws.

    All start from one key, on purpose: their losses can be compared.
    """
    key = jax.random.key(1)
    start = svi.init(key, *train)

    @jax.jit
    def piece(state, x, y):
        length = min(PIECE, steps)
        return jax.lax.scan(lambda s, _: svi.update(s, x, y), state, length=length)

    def scan():
        # Not all steps at once: a scan that carries a trace of 30,000 losses along took
        # longer for each step, and twice the processor time.
        state, losses = start, []
        for _ in range(0, steps, PIECE):
            state, some = piece(state, *train)
            losses.append(some)
        return np.concatenate(losses), None

    def fitted(**options):
        result = fit(key, svi, steps, *train, progress_bar=True, **options)
        return result.losses, result.steps / result.steps_per_second

    evaluated = {
        f"fit_evaluated_{many}_draws": partial(
            fitted,
            evaluate=evaluate,
            evaluate_every=EVALUATE_EVERY,
            patience=steps,  # counted, never reached
        )
        for many, evaluate in evaluations.items()
    }
    python = partial(
        python_loop,
        jax.jit(lambda state: svi.update(state, *train)),
        jax.jit(lambda state: svi.evaluate(state, *validation)),
        start,
        python_steps,
        (len(train[1]), len(validation[1])),
        python_steps + 1,
    )
    return {
        "python_loop": python,
        **evaluated,
        "fit": fitted,
        "scan": scan,
    }


def chosen(
    train: Rows,
    test: Rows,
    svi: SVI,
    *,
    evaluations: dict[int, Callable],
    steps: int,
    keys: int,
) -> dict[str, list[float]]:
    """Return test log scores of states chosen by evaluations of so many draws.

    Each run stops early and gives its best state. A key of a run is used for each
    number of draws, on purpose: the runs differ by when they stop and by nothing else.
    """
    judge = log_predictive_density(model, svi.guide, JUDGES, *test)
    judge_key, run_key = jax.random.split(jax.random.key(2))
    judge_all = jax.jit(partial(jax.lax.map, lambda params: judge(params, judge_key)))
    run_keys, found = jax.random.split(run_key, keys), {}
    for many, evaluate in evaluations.items():
        options = {
            "evaluate": evaluate,
            "evaluate_every": EVALUATE_EVERY,
            "patience": PATIENCE,
            "progress_bar": False,
        }
        runs = fit(run_keys, svi, steps, *train, **options)
        found[str(many)] = record.rounded(judge_all(runs.best_params).tolist())
    return found


def take_turns(
    loops: dict[str, Callable], repeats: int
) -> tuple[dict[str, list[float]], dict[str, list[float]], float]:
    """Return steps per second, seconds that `fit` takes besides, and how losses differ.

    The first run of each loop, which may compile, is not timed.
    """
    losses = {name: loop()[0] for name, loop in loops.items()}
    scanned = losses["scan"]
    apart = max(
        float(np.max(np.abs(each / scanned[: len(each)] - 1)))
        for each in losses.values()
    )
    rates, besides = {name: [] for name in loops}, {}
    for _ in range(repeats):
        for name, loop in loops.items():
            began = time.perf_counter()
            done, seconds = loop()
            spent = time.perf_counter() - began
            rates[name].append(len(done) / (seconds or spent))
            if seconds:
                besides.setdefault(name, []).append(spent - seconds)
    return rates, besides, apart


def ratios(rates: dict[str, list[float]], to: str) -> dict[str, float]:
    """Return the median over turns of each loop's speed over that of another one."""
    return {
        name: round(median(np.divide(each, rates[to])), 3)
        for name, each in rates.items()
        if name != to
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Time the loops and write the figures down."""
    parser = record.parser(__doc__)
    parser.add_argument("--steps", type=int, default=30_000)
    parser.add_argument("--short-steps", type=int, default=8_000)
    parser.add_argument("--python-steps", type=int, default=600)
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args(argv)
    steps, python_steps, repeats = options.steps, options.python_steps, options.repeats
    draws, few, keys = (1, DRAWS, 64), options.short_steps, 10
    if options.quick:
        steps, python_steps, repeats, draws = 200, 20, 1, (DRAWS,)
        few, keys = 100, 1

    train, validation, test = make_data()
    svi = SVI(model, AutoNormal(model), optax.adam(0.01), Trace_ELBO())
    evaluations = {
        many: log_predictive_density(model, svi.guide, many, *validation)
        for many in draws
    }
    make = partial(make_loops, train, validation, svi, evaluations=evaluations)
    loops, short = (make(steps=n, python_steps=python_steps) for n in (steps, few))
    del short["python_loop"]
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
        rates, besides, apart = take_turns(loops, repeats)
        short_rates, _, _ = take_turns(short, repeats)
    # To the last bit on a CPU; a GPU may add up in another order.
    assert apart < 1e-4, f"losses differ between loops, by a factor of 1 + {apart:.1e}"

    scores = chosen(train, test, svi, evaluations=evaluations, steps=few, keys=keys)
    packages = ("jax", "numpyro", "flax", "optax")
    facts = {
        **record.origin("measure.loops", parser, options, packages),
        "device": device(),
        "rows": {"training": len(train[1]), "validation": len(validation[1])},
        "steps": steps,
        "steps_of_python_loop": python_steps,
        "evaluate_every": EVALUATE_EVERY,
        "draws_in_notebook": DRAWS,
        "repeats": repeats,
        "largest_relative_difference_of_losses": apart,
        "steps_per_second": {k: round(median(each)) for k, each in rates.items()},
        "times_python_loop": ratios(rates, "python_loop"),
        "times_scan": ratios(rates, "scan"),
        # Here the slow start of `fit`, whose chunks still grow, counts for more.
        "short_run": {
            "steps": few,
            "times_scan": ratios(short_rates, "scan"),
        },
        # What a call of `fit` takes besides: to trace, to compile, to start.
        "seconds_besides_steps": {
            name: round(median(each), 3) for name, each in besides.items()
        },
        # Of the best states of runs that stop early, by draws in an evaluation.
        "test_log_scores": scores,
        "steps_per_second_of_each_run": {
            name: [round(rate) for rate in each] for name, each in rates.items()
        },
    }
    record.write(record.folder(options) / "loops.json", facts)


if __name__ == "__main__":
    main()
