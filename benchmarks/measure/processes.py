"""Compare one SVI fit in one process with the same fit over two processes.

Each process holds half of the rows, as each host of a cluster would hold its share. The
script starts both here, on a free port of this machine, and compares their losses with
those of one process.

Writes ``processes.json``. Run it from the root of the project:

    python -m benchmarks.measure.processes
"""

import json
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from benchmarks.measure import devices
from benchmarks.measure.devices import Placed, Problem
from benchmarks.shared import record

PROCESSES = 2


def split_over_processes(problem: Problem) -> Placed:
    """Bring this process's share of the rows; JAX takes all shares for one array."""
    mesh = devices.make_mesh(rows=jax.device_count())
    by_row = NamedSharding(mesh, PartitionSpec("rows"))
    share = problem.num_rows // jax.process_count()
    # A stand-in for reading them: a host of a cluster would have no others.
    own = slice(jax.process_index() * share, (jax.process_index() + 1) * share)
    arrays = tuple(
        jax.make_array_from_process_local_data(by_row, table[own])
        for table in problem.rows()
    )
    return Placed(devices.make_svi(problem.model), arrays, problem.constants, mesh)


def worker(rank: int, count: int, port: int, rounds: int, rows: int, out: Path) -> None:
    """Fit in this process, alone or as one of `count`."""
    problem = Problem(devices.logistic, rows)
    if count == 1:
        placed = devices.on_one_device(problem)
    else:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(
            f"127.0.0.1:{port}", count, rank, initialization_timeout=60
        )
        placed = split_over_processes(problem)
    result, facts = placed.fit(), {}
    if rounds:
        facts = devices.costs({"fit": placed}, {"fit": result}, rounds)["fit"]
    np.save(out / f"losses-{rank}.npy", result.losses)
    (out / f"facts-{rank}.json").write_text(json.dumps(facts), encoding="utf-8")


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextmanager
def started(commands: list[list[str]], folder: Path) -> Iterator[list]:
    """Start commands, each with a file for what it prints; none outlives the block."""
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    environment.pop("XLA_FLAGS", None)
    running = []
    try:
        for rank, command in enumerate(commands):
            with (folder / f"output-{rank}.txt").open("w") as output:
                running.append(
                    subprocess.Popen(
                        command,
                        cwd=record.ROOT,
                        env=environment,
                        stdout=output,
                        stderr=subprocess.STDOUT,
                    )
                )
        yield running
    finally:
        for process in running:
            process.kill()
            process.wait()


def run(
    count: int, *, rows: int, rounds: int = 0, timeout: float = 300
) -> tuple[list[np.ndarray], list[dict[str, Any]]]:
    """Fit over `count` fresh processes; return the losses and facts of each.

    Raises
    ------
    RuntimeError
        If a process failed, with what all of them printed.
    TimeoutError
        If they took longer than `timeout` seconds, with the same.
    """
    port, until = free_port(), time.monotonic() + timeout
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        options = {"processes": count, "port": port, "rounds": rounds, "rows": rows}
        options["out"] = folder
        given = [f"--{option}={value}" for option, value in options.items()]
        command = record.command(__spec__.name, *given)
        commands = [[*command, f"--worker={rank}"] for rank in range(count)]
        with started(commands, folder) as running:
            # One that fails leaves the others waiting: do not wait with them.
            while not any(codes := [process.poll() for process in running]):
                if None not in codes or time.monotonic() > until:
                    break
                time.sleep(0.05)
        if any(codes) or None in codes:
            printed = "\n".join(
                f"--- process {rank}, exit code {code}\n"
                + (folder / f"output-{rank}.txt").read_text(errors="replace")
                for rank, code in enumerate(codes)
            )
            if any(codes):
                raise RuntimeError(f"{count} processes: failed\n{printed}")
            raise TimeoutError(f"{count} processes: over {timeout} seconds\n{printed}")
        losses = [np.load(folder / f"losses-{rank}.npy") for rank in range(count)]
        facts = [
            json.loads((folder / f"facts-{rank}.json").read_text())
            for rank in range(count)
        ]
        return losses, facts


def main() -> None:
    """Compare one process with two and write it down."""
    parser = record.parser(__doc__)
    parser.add_argument("--processes", type=int, default=PROCESSES)
    parser.add_argument("--worker", type=int, help="be the process of this number")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=devices.ROUNDS)
    parser.add_argument("--rows", type=int, default=65_536)
    options = parser.parse_args()
    out = record.folder(options)
    if options.worker is not None:
        worker(
            options.worker,
            options.processes,
            options.port,
            options.rounds,
            options.rows,
            out,
        )
        return

    rows, rounds = (4_096, 1) if options.quick else (options.rows, options.rounds)
    (expected,), (alone,) = run(1, rows=rows, rounds=rounds)
    losses, facts = run(options.processes, rows=rows, rounds=rounds)
    found = (
        record.origin("measure.processes", parser, options, devices.PACKAGES)
        | {"device": "CPU"}
        | {
            "steps": devices.STEPS,
            "rows": rows,
            "inputs": devices.INPUTS,
            "collectives": "gloo",
            "one_process": alone,
            f"{len(losses)}_processes": facts[0],
            "max_relative_difference": max(
                devices.difference(each, expected) for each in losses
            ),
            "last_loss": float(expected[-1]),
        }
    )
    record.write(out / "processes.json", record.rounded(found))


if __name__ == "__main__":
    main()
