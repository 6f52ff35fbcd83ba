"""From a thousand rows to ten million: what a step costs, and what the posterior costs.

The model is a logistic regression with ten coefficients. For each number of rows the
script measures the seconds per step of `fit`, with all rows and with minibatches in
turns; the time that SVI needs to come within a stated distance of the best mean-field
guide; and the time that NUTS needs for a hundred effective draws, as long as it can
follow. Writes ``rows.json``. Run it from the root of the project:

    python -m benchmarks.measure.rows
"""

import sys
import time
from collections.abc import Sequence
from itertools import pairwise
from statistics import median
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from numpyro.diagnostics import effective_sample_size
from numpyro.infer import NUTS

from benchmarks.shared import record
from benchmarks.shared.logistic_model import make_rows, make_svi, model, posterior
from benchmarks.shared.targets import say, target
from helpers.environment import device
from helpers.reference import GaussianPosterior, kl_parts
from helpers.training import fit

TARGET = 0.3  # nats between a fit and the best mean-field guide
BATCH = 512  # rows in a minibatch of the runs to the target
# Peak learning rates of those runs, from short trials; a cosine takes them to zero.
RATES = {"full batch": 0.05, "minibatch": 0.01}
# Adam's memory of squared gradients. With all rows, the first are many times the last:
# with the usual 0.999 the widths hardly move for a thousand steps and more. Minibatches
# take more steps than that, and a long memory averages out their noise.
B2 = {"full batch": 0.95, "minibatch": 0.999}
CHUNK = 50  # draws of NUTS between two looks at the clock
DRAWS = 100  # effective draws that it shall give
BEGAN = time.perf_counter()

Rows = tuple[jax.Array, jax.Array]


class Limits(NamedTuple):
    """How much to try: keys, the shortest run, seconds for one method and table."""

    keys: int
    steps: int
    seconds: float


def tell(*words: Any) -> None:
    """Print a line of progress."""
    print(f"{time.perf_counter() - BEGAN:7.1f} s ", *words, file=sys.stderr, flush=True)


# Seconds per step.


def step_kinds(batch_sizes: Sequence[int], particles: Sequence[int]) -> dict:
    """Return what steps to time: by name, batch size and number of particles."""
    return {
        f"{f'batch {size:,}' if size else 'full batch'}, {many} particle"
        f"{'s' if many > 1 else ''}": (size, many)
        for size in (None, *batch_sizes)
        for many in particles
    }


def time_steps(
    tables: dict[int, Rows], kinds: dict, seconds: float, repeats: int
) -> dict[str, list[list[float]]]:
    """Return seconds per step by kind, size of the table and turn.

    The first fit of each is not counted: it tells how many steps fill the time wanted.
    Fits take turns, so that all meet the same state of the machine.
    """
    svis = {many: make_svi(optax.adam(0.01), many) for _, many in kinds.values()}

    def run(kind, rows, steps):
        size, many = kinds[kind]
        x, y = tables[rows]
        key = jax.random.key(1)  # the same work each time, on purpose
        options = {"batch_size": size, "size": rows, "progress_bar": False}
        return fit(key, svis[many], steps, x, y, **options).steps_per_second

    turns = [(k, n) for k in kinds for n in tables if (kinds[k][0] or 0) <= n]
    steps, times = {}, {turn: [] for turn in turns}
    for kind, rows in turns:
        # `fit` does not time the first 16 steps, since it compiles then. A minibatch
        # run must outlast the slow start of chunks that still grow.
        probe = 24 if kinds[kind][0] is None else 4_096
        rate = run(kind, rows, probe)
        steps[kind, rows] = max(probe, int(seconds * rate))
        tell(f"{rows:,} rows, {kind}: {1e6 / rate:,.1f} µs a step")
    for _ in range(repeats):
        for turn in turns:
            times[turn].append(1 / run(*turn, steps[turn]))
    return {k: [times.get((k, n), []) for n in tables] for k in kinds}


# Time to a distance from the reference.


def time_to_target(
    rows: Rows,
    reference: GaussianPosterior,
    kind: str,
    guess: tuple[int, float],
    limits: Limits,
) -> dict[str, Any]:
    """Double the length of a run until its end is within the target; time that run.

    Runs are as a user would have them: Adam, and a cosine schedule over the whole run.
    `guess` is the length to begin with, and the seconds of a step. Other keys are tried
    only where the first one got there. Runs that would pass the time allowed are left
    out; then there may be fewer keys, or no result.
    """
    x, y = rows
    options = {"size": len(x), "progress_bar": False}
    if kind == "minibatch":
        options["batch_size"] = min(BATCH, len(x))
    steps, second = guess
    trials, left = [], limits.seconds
    while True:
        schedule = optax.cosine_decay_schedule(RATES[kind], steps)
        svi = make_svi(optax.adam(schedule, b2=B2[kind]))
        trial = {"steps": steps, "center": [], "width": [], "seconds": []}
        for seed in range(1, limits.keys + 1):
            if second * steps > left:
                break
            result = fit(jax.random.key(seed), svi, steps, x, y, **options)
            second = 1 / result.steps_per_second
            left -= second * steps
            center, width = kl_parts(result.params, reference)
            trial["center"].append(round(float(center), 4))
            trial["width"].append(round(float(width), 4))
            trial["seconds"].append(round(second * steps, 4))
            tell(f"{len(x):,} rows, {kind}, {steps:,} steps: {center + width:.3g} nats")
            if center + width > TARGET and seed == 1:
                break
        if not trial["center"]:
            more = round(second * steps, 1)
            return {"reached": None, "more_than_seconds": more, "trials": trials}
        trials.append(trial)
        distances = np.add(trial["center"], trial["width"])
        if median(distances) <= TARGET:
            middles = {
                name: round(median(trial[name]), 4)
                for name in ("center", "width", "seconds")
            }
            found = {"steps": steps, "keys": len(distances), **middles}
            return {"reached": found, "more_than_seconds": None, "trials": trials}
        steps *= 2


def ladder(
    tables: dict[int, Rows],
    references: dict[int, GaussianPosterior],
    kind: str,
    seconds: Sequence[float],
    limits: Limits,
) -> list[dict[str, Any]]:
    """Time runs to the target for each table, from half the last one's length on."""
    found, steps = [], limits.steps
    for n, second in zip(tables, seconds, strict=False):
        guess = steps, second
        found.append(time_to_target(tables[n], references[n], kind, guess, limits))
        if found[-1]["reached"]:
            steps = max(limits.steps, found[-1]["reached"]["steps"] // 2)
    return found


# NUTS.


def run_nuts(
    rows: Rows, reference: GaussianPosterior, warmup: int, draws: int
) -> dict[str, Any]:
    """Run one chain and time it, compilation left out.

    The time to so many effective draws is that of the warmup, and of the draws in
    proportion to the effective ones of the coefficient that has the fewest. (A draw
    counts for one at most: anticorrelated ones would count for more.)
    """
    kernel = NUTS(model)
    state = kernel.init(jax.random.key(3), warmup, None, rows, {})

    @jax.jit
    def chunk(state, x, y):
        def one(state, _):
            state = kernel.sample(state, (x, y), {})
            return state, (state.z["beta"], state.num_steps, state.diverging)

        return jax.lax.scan(one, state, length=CHUNK)

    compiled = chunk.lower(state, *rows).compile()
    parts, seconds = [], []
    for _ in range((warmup + draws) // CHUNK):
        began = time.perf_counter()
        state, part = jax.block_until_ready(compiled(state, *rows))
        seconds.append(time.perf_counter() - began)
        parts.append(jax.tree.map(np.asarray, part))
    first = warmup // CHUNK
    beta, leapfrogs, diverging = map(np.concatenate, zip(*parts[first:], strict=True))
    ess = effective_sample_size(beta[None])
    ess = np.where((ess > 0) & (ess < len(beta)), ess, len(beta))
    sd = np.sqrt(np.diag(np.linalg.inv(reference.precision)))
    shift = abs(beta.mean(0, dtype=float) - reference.mode) / sd
    ratio = beta.std(0, dtype=float, ddof=1) / sd
    warm, sampling = sum(seconds[:first]), sum(seconds[first:])
    return {
        "warmup": warmup,
        "draws": draws,
        "leapfrogs_per_draw": round(float(leapfrogs.mean()), 2),
        "divergent": int(diverging.sum()),
        "worst_effective_draws": round(float(ess.min()), 1),
        "seconds_warmup": round(warm, 4),
        "seconds_sampling": round(sampling, 4),
        "seconds": round(warm + sampling * DRAWS / ess.min(), 4),
        "largest_shift_from_mode_in_sd": round(float(shift.max()), 3),
        "the_same_in_standard_errors": round(float((shift * ess**0.5).max()), 2),
        "sd_over_that_of_reference": [round(float(f(ratio)), 3) for f in (min, max)],
    }


def nuts_while_it_follows(
    tables: dict[int, Rows],
    references: dict[int, GaussianPosterior],
    lengths: tuple[int, int],
    budget: float,
) -> list[dict[str, Any] | None]:
    """Run NUTS on each table, until a run would take longer than the budget."""
    found, predicted, last = [], 0.0, 0
    for n in tables:
        if last:
            predicted *= n / last
        if predicted > budget:
            found.append(None)
        else:
            found.append(run_nuts(tables[n], references[n], *lengths))
            predicted = found[-1]["seconds_warmup"] + found[-1]["seconds_sampling"]
            tell(f"{n:,} rows, NUTS: {predicted:.3g} s")
        last = n
    return found


# Curves on logarithmic axes.


def slope(sizes: Sequence[int], seconds: Sequence[float | None]) -> float | None:
    """Return the least-squares slope from the second size on: 1 is "in proportion"."""
    pairs = [
        (n, s) for n, s in zip(sizes[1:], seconds[1:], strict=True) if s is not None
    ]
    if len(pairs) < 2:
        return None
    n, s = np.log10(np.array(pairs, float)).T
    return round(float(np.polyfit(n, s, 1)[0]), 3)


def crossing(
    sizes: Sequence[int], one: Sequence[float | None], other: Sequence[float | None]
) -> float | None:
    """Return where two curves last cross, lines between their points; else None."""
    known = [
        (np.log10(n), np.log10(a) - np.log10(b))
        for n, a, b in zip(sizes, one, other, strict=True)
        if a is not None and b is not None
    ]
    for (n, gap), (next_n, next_gap) in reversed(list(pairwise(known))):
        if gap * next_gap < 0:
            at = n + (next_n - n) * gap / (gap - next_gap)
            return float(f"{10**at:.2g}")
    return None


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and write the figures down."""
    parser = record.parser(__doc__)
    parser.add_argument("--budget", type=float, default=240.0, help="seconds, at most")
    options = parser.parse_args(argv)
    sizes, seconds, repeats = [10**k for k in range(3, 8)], 0.5, 9
    batch_sizes, particles, lengths = (256, 1_024), (1, 10), (300, 300)
    limits = Limits(keys=3, steps=125, seconds=options.budget)
    left_out = []  # of what follows the steps
    if options.quick:
        sizes, seconds, repeats = [1_000, 4_000], 0.05, 1
        batch_sizes, particles, lengths = (256,), (1,), (100, 50)
        limits = Limits(keys=1, steps=4_000, seconds=5.0)
        left_out = sizes[1:]
    compared = (10_000 if 10_000 in sizes else sizes[0], sizes[-1])

    tables, references, newtons = {}, {}, []
    for n in sizes:
        host = make_rows(n)
        began = time.perf_counter()
        references[n] = posterior(*host)
        newtons.append(round(time.perf_counter() - began, 4))
        tables[n] = tuple(map(jnp.asarray, host))
        del host

    kinds = step_kinds(batch_sizes, particles)
    steps = time_steps(tables, kinds, seconds, repeats)
    step_seconds = {
        kind: [median(turns) if turns else None for turns in by_size]
        for kind, by_size in steps.items()
    }
    first, last = map(sizes.index, compared)
    flat = {
        kind: round(float(median(np.divide(steps[kind][last], steps[kind][first]))), 3)
        for kind, (size, _) in kinds.items()
        if size
    }

    guesses = {
        "full batch": step_seconds["full batch, 1 particle"],
        "minibatch": step_seconds[f"batch {batch_sizes[0]:,}, 1 particle"],
    }
    for n in left_out:
        del tables[n]
    reached = {
        kind: ladder(tables, references, kind, guesses[kind], limits) for kind in RATES
    }
    nuts = nuts_while_it_follows(tables, references, lengths, options.budget / 2)
    to_target = {
        kind: [each["reached"] and each["reached"]["seconds"] for each in found]
        for kind, found in reached.items()
    }
    to_target["NUTS"] = [each and each["seconds"] for each in nuts]
    for each in (*to_target.values(), *reached.values(), nuts):
        each += [None] * len(left_out)
    to_target["Newton"] = newtons
    one = f"{particles[0]} particle"
    small = f"batch {batch_sizes[0]:,}, {one}"
    crossings = {
        f"a step: full batch against batch {batch_sizes[0]:,}": crossing(
            sizes, step_seconds[f"full batch, {one}"], step_seconds[small]
        )
    } | {
        f"to the target: {a} against {b}": crossing(sizes, to_target[a], to_target[b])
        for a, b in (
            ("full batch", "minibatch"),
            ("NUTS", "minibatch"),
            ("NUTS", "full batch"),
        )
    }
    name = f"{compared[1]:,} rows against {compared[0]:,}, "
    targets = {
        f"a step at {name}{kind}": target(ratio, at_most=1.2)
        for kind, ratio in flat.items()
    }
    packages = ("jax", "numpyro", "optax", "numpy")
    facts = {
        **record.origin("measure.rows", parser, options, packages),
        "device": device(),
        "rows": sizes,
        "step_seconds": record.rounded(step_seconds),
        "step_seconds_of_each_run": record.rounded(steps),
        "step_ratio": {"rows": compared, **flat},
        "target_nats": TARGET,
        "batch_size": BATCH,
        "learning_rates": RATES,
        "adam_b2": B2,
        "seconds_to_target": to_target,
        "runs_to_target": reached,
        "nuts": nuts,
        "slopes": {
            **{f"a step, {k}": slope(sizes, s) for k, s in step_seconds.items()},
            **{f"to the target, {k}": slope(sizes, s) for k, s in to_target.items()},
        },
        "crossings": crossings,
        "targets": targets,
    }
    record.write(record.folder(options) / "rows.json", facts)
    say(targets)


if __name__ == "__main__":
    main()
