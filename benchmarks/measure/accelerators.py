"""Time the same fits on a CPU or a GPU, and estimate how fast they could be.

The script measures seconds per step of `fit` for a logistic regression with more and
more rows, for a wider and wider Bayesian network, and with more and more particles. It
compares them with an estimate from three limits, which it measures too: the time of a
step that does nearly nothing, the time to move the bytes, and the time to do the
arithmetic. Writes ``accelerators-cpu.json`` or ``accelerators-gpu.json``, after JAX's
name of the backend. Run it from the root of the project:

    python -m benchmarks.measure.accelerators
"""

import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
import optax
from numpyro.infer import SVI, Trace_ELBO, init_to_sample
from numpyro.infer.autoguide import AutoNormal

from benchmarks.shared import record
from benchmarks.shared.logistic_model import DIM, make_rows, make_svi
from helpers.environment import device
from helpers.training import fit

BATCH, INPUTS, TABLE = 1_024, 64, 16_384  # of the network: rows in a step, in all
PARTICLE_ROWS = 10_000
FLOAT = 4  # bytes
COPIES = 8
FEW = 24  # steps of a first look at the speed; `fit` does not time the first 16


class Work(NamedTuple):
    """Fits of one size: the bytes and operations of a step, and a timer for it.

    `start` returns a function of a number of steps that returns the seconds of a step.
    """

    sizes: dict[str, int]
    nbytes: int
    flops: int
    start: Callable[[], Callable[[int], float]]


def timed_fit(svi: SVI, *table: jax.Array, **options: Any) -> Callable:
    """Return a function that fits and tells the seconds per step."""

    def run(steps):
        key = jax.random.key(1)  # the same work each time, on purpose
        result = fit(key, svi, steps, *table, progress_bar=False, **options)
        return 1 / result.steps_per_second

    return run


def nothing_much(y):
    """Model one number by another one."""
    z = numpyro.sample("z", dist.Normal(0, 1))
    numpyro.sample("y", dist.Normal(z, 1), obs=y)


def start_floor() -> Callable:
    """Return a timer of steps that do next to nothing."""
    guide = AutoNormal(nothing_much)
    svi = SVI(nothing_much, guide, optax.adam(0.01), Trace_ELBO())
    return timed_fit(svi, jnp.ones(1))


def logistic(table: tuple[jax.Array, jax.Array], rows: int, particles: int) -> Work:
    """Return a logistic regression with all of its rows at each step.

    Of each row, a step reads the inputs twice, forward and backward, and the label
    once; log odds are written and read for each particle. Both ways, each input is
    multiplied and added once per particle.
    """
    nbytes = FLOAT * rows * (2 * DIM + 1 + 2 * particles)

    def start():
        svi = make_svi(optax.adam(0.01), particles)
        return timed_fit(svi, *(column[:rows] for column in table))

    sizes = {"rows": rows, "particles": particles}
    return Work(sizes, nbytes, 4 * rows * DIM * particles, start)


def network_model(x, y, width, size):
    """Classify rows by a network with two hidden layers, its weights unknown."""
    for layer, units in enumerate((width, width, 1)):
        shape = x.shape[1], units
        prior = dist.Normal(0, x.shape[1] ** -0.5).expand(shape).to_event(2)
        x = x @ numpyro.sample(f"weights{layer}", prior)
        x = jnp.tanh(x) if layer < 2 else x
    with numpyro.plate("rows", size, subsample_size=len(x)):
        numpyro.sample("y", dist.Bernoulli(logits=x[:, 0]), obs=y)


def network(width: int) -> Work:
    """Return a Bayesian network on minibatches.

    A product of matrices takes two operations for each weight and row. Forward it is
    one, backward two (for the weights and for what comes in), of the first layer one.
    Each weight has a mean and a width, each with two moments of Adam: six numbers that
    are read and written.
    """
    first, rest = INPUTS * width, width**2 + width
    flops = 2 * BATCH * (2 * first + 3 * rest)

    def start():
        x_key, y_key = jax.random.split(jax.random.key(2))
        x = jax.random.normal(x_key, (TABLE, INPUTS))
        y = jax.random.bernoulli(y_key, jax.nn.sigmoid(x[:, 0])).astype(x.dtype)
        guide = AutoNormal(network_model, init_loc_fn=init_to_sample)
        svi = SVI(network_model, guide, optax.adam(0.001), Trace_ELBO())
        return timed_fit(svi, x, y, batch_size=BATCH, size=TABLE, width=width)

    return Work({"width": width}, FLOAT * 12 * (first + rest), flops, start)


# What the device can do at best.


@jax.jit
def copied(x: jax.Array) -> jax.Array:
    """Read all numbers and write as many, again and again."""
    return jax.lax.fori_loop(0, COPIES, lambda _, x: x + 1, x)


@jax.jit
def summed(x: jax.Array) -> jax.Array:
    """Read all numbers."""
    return x.sum()


@jax.jit
def multiplied(x: jax.Array) -> jax.Array:
    """Multiply a matrix by itself."""
    return x @ x


def once(function: Callable, x: jax.Array) -> float:
    """Return the seconds of one call."""
    began = time.perf_counter()
    jax.block_until_ready(function(x))
    return time.perf_counter() - began


def limits(floats: int, side: int) -> dict[str, Callable[[], float]]:
    """Return what measures bytes, and operations, per second; all is compiled."""
    vector, matrix = jnp.ones(floats), jnp.full((side, side), 1 / side)
    work = {
        "copied_bytes_per_second": (2 * FLOAT * floats * COPIES, copied, vector),
        "summed_bytes_per_second": (FLOAT * floats, summed, vector),
        "flops_per_second": (2 * side**3, multiplied, matrix),
    }
    for _, function, x in work.values():
        jax.block_until_ready(function(x))

    def rate(amount, function, x):
        return amount / once(function, x)

    return {name: partial(rate, *each) for name, each in work.items()}


def estimate(work: Work, machine: dict[str, float]) -> tuple[float, str]:
    """Return the seconds below which a step cannot be, and what it waits for."""
    names = "copied_bytes_per_second", "summed_bytes_per_second"
    bandwidth = max(machine[name] for name in names)
    parts = {
        "start": machine["floor_seconds"],
        "memory": work.nbytes / bandwidth,
        "arithmetic": work.flops / machine["flops_per_second"],
    }
    slowest = max(parts, key=parts.get)
    return parts[slowest], slowest


def prepared(
    start: Callable, seconds: float, longest: float
) -> Callable[[], float] | None:
    """Return a timer that takes about `seconds`; None if one step takes too long."""
    run = start()
    step = min(run(FEW) for _ in range(2))
    if step > longest:
        return None
    return partial(run, max(FEW, int(seconds / step)))


def memory() -> int | None:
    """Return how many bytes the device has, if that can be known."""
    if found := jax.devices()[0].memory_stats():
        return found.get("bytes_limit")
    if jax.default_backend() == "cpu" and "SC_PHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def described(work: Work, turns: list[float], machine: dict[str, float]) -> dict:
    """Return what is stored of one size; no seconds where it was left out."""
    estimated, waits = estimate(work, machine)
    step = median(turns) if turns else None
    return {
        **work.sizes,
        "bytes_per_step": work.nbytes,
        "flops_per_step": work.flops,
        "step_seconds": record.rounded(step),
        "bytes_per_second": step and record.rounded(work.nbytes / step),
        "flops_per_second": step and record.rounded(work.flops / step),
        "estimated_seconds": record.rounded(estimated),
        "estimate_waits_for": waits,
        "step_seconds_of_each_run": record.rounded(turns),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and write the figures down."""
    parser = record.parser(__doc__)
    parser.add_argument("--longest", type=float, default=0.5, help="seconds of a step")
    options = parser.parse_args(argv)
    gpu = jax.default_backend() != "cpu"
    rows, widths = [10**k for k in range(3, 8)], [4**k for k in range(2, 7)]
    particles, seconds, repeats = [4**k for k in range(5)], 0.25, 5
    floats, side = 2**28 if gpu else 2**26, 8_192 if gpu else 2_048
    if options.quick:
        rows, widths, particles, seconds, repeats = [1_000], [16], [4], 0, 1
        floats, side = 2**20, 256

    table = tuple(map(jnp.asarray, make_rows(max(*rows, PARTICLE_ROWS))))
    works = {
        "logistic": [logistic(table, n, 1) for n in rows],
        "network": [network(width) for width in widths],
        "particles": [logistic(table, PARTICLE_ROWS, many) for many in particles],
    }
    timers = limits(floats, side)
    timers["floor_seconds"] = prepared(start_floor, seconds, options.longest)
    machine = {name: measure() for name, measure in timers.items()}
    for kind, sizes in works.items():
        for i, work in enumerate(sizes):
            if estimate(work, machine)[0] < options.longest:
                timer = prepared(work.start, seconds, options.longest)
                timers |= {(kind, i): timer} if timer else {}

    turns = {name: [] for name in timers}
    for _ in range(repeats):
        for name, measure in timers.items():
            turns[name].append(measure())
    machine = {name: record.rounded(median(turns[name])) for name in machine}
    packages = ("jax", "numpyro", "optax")
    facts = {
        **record.origin("measure.accelerators", parser, options, packages),
        "device": device(),
        "memory_bytes": memory(),
        "repeats": repeats,
        "longest_step_seconds": options.longest,
        "batch_size": BATCH,
        "inputs": INPUTS,
        "side_of_matrix": side,
        "limits": machine,
        **{
            kind: [
                described(work, turns.get((kind, i), []), machine)
                for i, work in enumerate(sizes)
            ]
            for kind, sizes in works.items()
        },
    }
    path = record.folder(options) / f"accelerators-{jax.default_backend()}.json"
    record.write(path, facts)


if __name__ == "__main__":
    main()
