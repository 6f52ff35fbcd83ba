"""Compare one SVI fit on one device with the same fit on eight simulated devices.

The models are a logistic regression and a wide network. The script splits the rows of
the data over the devices and copies the parameters to each; then it splits the
parameters of the network, too. Model and guide do not change. Eight devices made of a
few CPU cores show that the numbers are right, and what is sent; they cannot be fast.

Writes ``devices.json``. Run it from the root of the project:

    python -m benchmarks.measure.devices
"""

import json
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal
from numpyro.infer.svi import SVIState

from benchmarks.shared import record
from helpers.training import FitResult, fit

PACKAGES = ("jax", "numpyro", "flax", "optax")
STEPS = 500
INPUTS = 10
ROUNDS = 4
LONG = 2**18  # floats in a long message
# Links to reckon with on paper: seconds per message, bytes per second. Assumptions.
LINKS = {
    "Ethernet, 10 Gbit/s": (50e-6, 1.25e9),
    "cluster network, 200 Gbit/s": (5e-6, 25e9),
}


def logistic(x, y=None):
    """Logistic regression."""
    prior = dist.Normal(0, 1).expand([x.shape[1]]).to_event(1)
    beta = numpyro.sample("beta", prior)
    with numpyro.plate("rows", len(x)):
        numpyro.sample("y", dist.Bernoulli(logits=x @ beta), obs=y)


def network(x, y=None, width=1024):
    """One wide layer of tanh units. Its width is the first axis of all weights.

    NumPyro sums log densities over flattened axes. Where the axis that is split comes
    first, each device sums its own part; elsewhere all weights would be sent around.
    """

    def weights(name, *shape, scale=1.0):
        prior = dist.Normal(0, scale).expand(shape).to_event(len(shape))
        return numpyro.sample(name, prior)

    hidden = x @ weights("wide.kernel", width, x.shape[1]).T
    hidden = jnp.tanh(hidden + weights("wide.bias", width))
    logits = hidden @ weights("out.kernel", width, scale=width**-0.5)
    with numpyro.plate("rows", len(x)):
        numpyro.sample("y", dist.Bernoulli(logits=logits), obs=y)


@dataclass
class Problem:
    """A model, its constants, and data of so many rows that follow from a seed."""

    model: Callable
    num_rows: int
    constants: dict[str, int] = field(default_factory=dict)
    seed: int = 0

    def rows(self) -> tuple[np.ndarray, np.ndarray]:
        """Return inputs and labels."""
        random = np.random.default_rng(self.seed)
        beta = random.normal(size=INPUTS)
        x = random.normal(size=(self.num_rows, INPUTS)).astype("float32")
        y = random.random(self.num_rows) < 1 / (1 + np.exp(-x @ beta))
        return x, y.astype("int32")


def problems(quick: bool = False) -> dict[str, Problem]:
    """Return the two problems, small ones for a quick run."""
    rows, few, width = (4_096, 64, 64) if quick else (65_536, 512, 1_024)
    return {
        "logistic": Problem(logistic, rows),
        "network": Problem(network, few, {"width": width}),
    }


@dataclass
class Placed:
    """What a fit is called with, its arrays on the devices where they shall be."""

    svi: SVI
    arrays: tuple[jax.Array, jax.Array]
    constants: dict[str, int]
    mesh: Mesh | None = None
    init_params: dict[str, jax.Array] | None = None

    def fit(self, seed: int = 1, steps: int = STEPS) -> FitResult:
        """Fit the guide."""
        return fit(
            jax.random.key(seed),
            self.svi,
            steps,
            *self.arrays,
            **self.constants,
            init_params=self.init_params,
            progress_bar=False,
        )


def make_svi(model: Callable) -> SVI:
    """Return the SVI of all fits here; each has a guide of its own."""
    return SVI(model, AutoNormal(model), optax.adam(0.01), Trace_ELBO())


def make_mesh(**axes: int) -> Mesh:
    """Arrange the devices in a grid whose axes have names."""
    # NumPyro leaves it to the compiler where its arrays go: that is "Auto".
    kinds = (AxisType.Auto,) * len(axes)
    return jax.make_mesh(tuple(axes.values()), tuple(axes), axis_types=kinds)


def on_one_device(problem: Problem) -> Placed:
    """Put all on the first device."""
    arrays = jax.tree.map(jnp.asarray, problem.rows())
    return Placed(make_svi(problem.model), arrays, problem.constants)


def split_rows(problem: Problem) -> Placed:
    """Give each device its share of the rows, and all parameters."""
    mesh = make_mesh(rows=jax.device_count())
    by_row = NamedSharding(mesh, PartitionSpec("rows"))
    arrays = jax.device_put(problem.rows(), by_row)
    return Placed(make_svi(problem.model), arrays, problem.constants, mesh)


def split_width(problem: Problem, seed: int = 1) -> Placed:
    """Give each device half of the rows, and a share of the units of the wide layer."""
    mesh = make_mesh(rows=2, width=jax.device_count() // 2)
    arrays = jax.device_put(problem.rows(), NamedSharding(mesh, PartitionSpec("rows")))
    svi = make_svi(problem.model)
    # The values that `fit` would start from, but placed.
    state = svi.init(jax.random.key(seed), *arrays, **problem.constants)
    by_unit = NamedSharding(mesh, PartitionSpec("width"))
    init_params = jax.device_put(svi.get_params(state), by_unit)
    return Placed(svi, arrays, problem.constants, mesh, init_params)


def compiled_step(placed: Placed, result: FitResult) -> str:
    """Return the program that the compiler made of one step."""

    def step(state, *arrays):
        return placed.svi.update(state, *arrays, **placed.constants)

    return jax.jit(step).lower(result.state, *placed.arrays).compile().as_text()


COLLECTIVE = re.compile(
    r"= (?P<shapes>.*?) (?P<kind>all-reduce|all-gather|all-to-all|reduce-scatter"
    r"|collective-permute)(?:-start)?\(.*?replica_groups=(?P<groups>\S+( {.*?})?),"
)
BITS = {"pred": 8}  # all others say it: f32, s32, u32


def _group_size(text: str) -> int:
    """Read how many devices talk to each other, as in ``[2,4]<=[8]``: four."""
    if found := re.match(r"\[\d+,(\d+)\]<=", text):
        return int(found[1])
    if found := re.match(r"\{\{([\d,]+)\}", text):
        return found[1].count(",") + 1
    if found := re.match(r"mesh\[(.*?)\] \{(.*)\}", text):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", found[1]))
        return int(np.prod([int(sizes[n]) for n in re.findall(r"'(\w+)'", found[2])]))
    raise ValueError(f"replica_groups: expected one of three forms, got {text}")


def collectives(program: str) -> list[dict[str, Any]]:
    """List the operations of a compiled program in which devices exchange numbers."""
    found = []
    for match in COLLECTIVE.finditer(program):
        shapes = re.findall(r"([a-z]+(\d*))\[([\d,]*)\]", match["shapes"])
        nbytes = sum(
            int(np.prod([int(n) for n in shape.split(",") if n]))
            * (int(bits) if bits else BITS[kind])
            // 8
            for kind, bits, shape in shapes
        )
        group = _group_size(match["groups"])
        found.append({"kind": match["kind"], "bytes": nbytes, "group": group})
    return found


def timer(steps: int, run: Callable, *args: Any) -> Callable[[], float]:
    """Return a function that times a compiled one: seconds per step, best of five."""
    jax.block_until_ready(run(*args))

    def seconds():
        best = np.inf
        for _ in range(5):
            began = time.perf_counter()
            jax.block_until_ready(run(*args))
            best = min(best, time.perf_counter() - began)
        return best / steps

    return seconds


def all_reduce_timer(mesh: Mesh, axis: str, floats: int, steps: int) -> Callable:
    """Time sums over the devices along an axis of the mesh, nothing else going on."""

    def many(values):
        def step(_, values):
            return jax.lax.psum(values, axis) / mesh.shape[axis]

        return jax.lax.fori_loop(0, steps, step, values)

    whole = PartitionSpec()
    sums = jax.shard_map(
        many, mesh=mesh, in_specs=whole, out_specs=whole, check_vma=False
    )
    values = jax.device_put(np.ones(floats, "float32"), NamedSharding(mesh, whole))
    return timer(steps, jax.jit(sums), values)


def loop_timer(placed: Placed, state: SVIState, steps: int = 100) -> Callable:
    """Time steps in one compiled loop, without anything that `fit` does around it."""

    def many(state, *arrays):
        def step(_, state):
            return placed.svi.update(state, *arrays, **placed.constants)[0]

        return jax.lax.fori_loop(0, steps, step, state)

    return timer(steps, jax.jit(many), state, *placed.arrays)


def silent_timer(placed: Placed, state: SVIState, steps: int = 100) -> Callable:
    """Time the same where each device fits its own part alone, all at once.

    It is the same computation without a word between devices. What it learns is wrong;
    only the time is of interest.
    """
    mesh, svi, constants = placed.mesh, placed.svi, placed.constants
    if "width" in mesh.shape:  # a network as narrow as the part of a device
        part = [array.addressable_shards[0].data for array in placed.arrays]
        constants = {n: size // mesh.shape["width"] for n, size in constants.items()}
        svi = make_svi(svi.model)
        state = svi.init(jax.random.key(0), *part, **constants)

    def many(state, *arrays):
        def step(_, state):
            return svi.update(state, *arrays, **constants)[0]

        return jax.lax.fori_loop(0, steps, step, state)

    whole, by_row = PartitionSpec(), PartitionSpec("rows")
    alone = jax.shard_map(
        many,
        mesh=mesh,
        in_specs=(whole, by_row, by_row),
        out_specs=whole,
        check_vma=False,
    )
    state = jax.device_put(state, NamedSharding(mesh, whole))
    return timer(steps, jax.jit(alone), state, *placed.arrays)


def all_reduce_seconds(
    devices: int, nbytes: float, *, latency: float, bandwidth: float
) -> float:
    """Seconds to sum `nbytes` over devices in a ring, by the book.

    Each device sends 2 (P - 1) messages of a P-th of the bytes to its neighbor: once
    around to add up, once more to hand out the sums.
    """
    return 2 * (devices - 1) * (latency + nbytes / (devices * bandwidth))


def link(devices: int, short: float, long: float) -> dict[str, float]:
    """Turn the seconds of a sum of one float, and of many, into those two numbers."""
    moved = 2 * (devices - 1) / devices * LONG * 4
    return {
        "latency": short / (2 * (devices - 1)),
        "bandwidth": moved / max(long - short, 1e-9),
    }


def costs(
    placed: dict[str, Placed], results: dict[str, FitResult], rounds: int
) -> dict[str, dict[str, Any]]:
    """Say of each fit what is sent at each step, what that should cost, and does.

    All are timed in turns, so that none has a better hour than another. The quickest
    of the rounds counts: other programs can only make it slower.
    """
    timers, facts = {}, {}
    for name, fitted in placed.items():
        result = results[name]
        timers[name, "fit"] = lambda fitted=fitted: 1 / fitted.fit().steps_per_second
        leaves = jax.tree.leaves(result.params)
        here = sum(leaf.addressable_shards[0].data.size for leaf in leaves)
        facts[name] = {
            "parameters": sum(leaf.size for leaf in leaves),
            "parameters_per_device": here,
        }
        if fitted.mesh is not None:
            facts[name]["mesh"] = dict(fitted.mesh.shape)
            facts[name]["collectives"] = collectives(compiled_step(fitted, result))
            timers[name, "loop"] = loop_timer(fitted, result.state)
            timers[name, "silent"] = silent_timer(fitted, result.state)
            for axis in fitted.mesh.axis_names:
                sums = partial(all_reduce_timer, fitted.mesh, axis)
                timers[name, axis, "short"] = sums(1, 100)
                timers[name, axis, "long"] = sums(LONG, 10)
    best = dict.fromkeys(timers, np.inf)
    for _ in range(rounds):
        for what, seconds in timers.items():
            best[what] = min(best[what], seconds())
    for name, about in facts.items():
        about["step_seconds"] = best[name, "fit"]
        if "mesh" in about:
            links = {
                size: link(size, best[name, axis, "short"], best[name, axis, "long"])
                for axis, size in about["mesh"].items()
            }
            about["links"] = {str(size): value for size, value in links.items()}
            about["silent_seconds"] = best[name, "silent"]
            about["talk_seconds"] = best[name, "loop"] - about["silent_seconds"]
            about["talk_seconds_estimated"] = sum(
                all_reduce_seconds(c["group"], c["bytes"], **links[c["group"]])
                for c in about["collectives"]
            )
    return facts


def worker(devices: int, quick: bool, losses_only: bool, out: Path) -> None:
    """Fit both problems in this process, in all ways that its devices allow."""
    placed = {}
    for name, problem in problems(quick).items():
        if devices == 1 or not losses_only:
            placed[f"{name}/one"] = on_one_device(problem)
        if devices > 1 and not (losses_only and problem.constants):
            placed[f"{name}/rows"] = split_rows(problem)
        if devices > 1 and problem.constants:
            placed[f"{name}/width"] = split_width(problem)
    results = {name: fitted.fit() for name, fitted in placed.items()}
    losses = {name: result.losses for name, result in results.items()}
    np.savez(out / "losses.npz", **losses)
    rounds = 1 if quick else ROUNDS
    facts = {} if losses_only else costs(placed, results, rounds)
    if devices == 1 and not losses_only:
        many = Problem(logistic, 8_192 if quick else 2**20)
        rate = on_one_device(many).fit(steps=40).steps_per_second
        facts["row_seconds"] = 1 / rate / many.num_rows
    (out / "facts.json").write_text(json.dumps(facts), encoding="utf-8")


def run_worker(
    devices: int, *, quick: bool, losses_only: bool = False
) -> tuple[dict, dict]:
    """Run `worker` in a fresh process with so many devices; return losses and facts."""
    with tempfile.TemporaryDirectory() as folder:
        options = f"--devices={devices}", f"--out={folder}"
        command = record.command(__spec__.name, *options)
        environment = os.environ | {"JAX_PLATFORMS": "cpu"}
        done = subprocess.run(
            command + ["--quick"] * quick + ["--losses-only"] * losses_only,
            cwd=record.ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=600,
        )
        if done.returncode:
            raise RuntimeError(f"{devices} devices: failed\n{done.stdout}{done.stderr}")
        with np.load(Path(folder) / "losses.npz") as file:
            losses = dict(file)
        return losses, json.loads((Path(folder) / "facts.json").read_text())


def difference(losses: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest relative difference of two loss traces."""
    return float(np.max(np.abs(losses - expected) / np.abs(expected)))


def on_paper(
    row_seconds: float, nbytes: int, rows: int, devices: int
) -> list[dict[str, Any]]:
    """Reckon a step of so many rows for each of the `LINKS`."""
    table = []
    for name, (latency, bandwidth) in LINKS.items():
        compute = rows / devices * row_seconds
        talk = all_reduce_seconds(devices, nbytes, latency=latency, bandwidth=bandwidth)
        share = compute / (compute + talk)
        table.append(
            {
                "link": name,
                "latency": latency,
                "bandwidth": bandwidth,
                "rows": rows,
                "devices": devices,
                "compute_seconds": compute,
                "talk_seconds": talk,
                "efficiency": share,
            }
        )
    return table


def main() -> None:
    """Compare one device with eight and write it down."""
    parser = record.parser(__doc__)
    parser.add_argument("--devices", type=int, help="fit in this process on so many")
    parser.add_argument("--losses-only", action="store_true", help="the fewest fits")
    options = parser.parse_args()
    out = record.folder(options)
    if options.devices:
        # Before anything is computed: later it is too late.
        jax.config.update("jax_num_cpu_devices", options.devices)
        worker(options.devices, options.quick, options.losses_only, out)
        return

    expected, alone = run_worker(1, quick=options.quick)
    losses, fits = run_worker(8, quick=options.quick)
    for name, facts in fits.items():
        problem = name.split("/")[0]
        one = expected[f"{problem}/one"]
        facts["max_relative_difference"] = difference(losses[name], one)
        facts["first_loss"], facts["last_loss"] = map(float, losses[name][[0, -1]])
    row_seconds = alone.pop("row_seconds")
    nbytes = sum(c["bytes"] for c in fits["logistic/rows"]["collectives"])
    found = (
        record.origin("measure.devices", parser, options, PACKAGES)
        | {"device": "CPU"}
        | {
            "steps": STEPS,
            "problems": {
                name: {"rows": problem.num_rows, "inputs": INPUTS} | problem.constants
                for name, problem in problems(options.quick).items()
            },
            "one_device": alone,
            "eight_devices": fits,
            "row_seconds": row_seconds,
            "paper": [
                line
                for rows in (10**9, 2**13)
                for line in on_paper(row_seconds, nbytes, rows, 64)
            ],
        }
    )
    record.write(out / "devices.json", record.rounded(found))


if __name__ == "__main__":
    main()
