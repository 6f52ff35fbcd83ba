"""Kill fits without warning, let them resume, and compare with an undisturbed run.

There are three ways to feed `fit`: all rows, minibatches, and a stream of batches. For
each, one run has no break; the same run is killed (``kill -9``) at random moments and
started again until it is done. The script records whether the parameters at the end
have the same bits, and how many steps had to be repeated. Writes ``resume.json``. Run
it from the root of the project:

    python -m benchmarks.measure.resume
"""

import json
import os
import re
import signal
import subprocess
import tempfile
import time
import zlib
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from benchmarks.shared import child, record
from benchmarks.shared.logistic_model import guide, make_rows, make_svi, model
from benchmarks.shared.targets import holds, say, target
from helpers.environment import device
from helpers.training import fit, log_predictive_density

ROWS, HELD_OUT, BATCH = 20_000, 2_000, 256
CHECKPOINTS = 20  # in a run
SHOWN = re.compile(rb"(\d+)/\d+ \[")  # how far a progress bar says it is
KINDS = ("all rows, evaluated", "minibatches", "stream")


def batches(x: np.ndarray, y: np.ndarray, first: int):
    """Yield batches of random rows; which rows follows from the number of the step."""
    while True:
        rows = np.random.default_rng([5, first]).integers(0, len(x), BATCH)
        yield x[rows], y[rows]
        first += 1


def whole_run(kind: str, steps: int, checkpoint: str | None) -> dict[str, Any]:
    """Fit to the end, from a checkpoint if there is one. In a process of its own."""
    x, y = make_rows(ROWS)
    svi, key = make_svi(optax.adam(0.01)), jax.random.key(1)
    options = {"size": ROWS, "progress_bar": True}
    if checkpoint:
        every = steps // CHECKPOINTS
        options |= {"checkpoint": checkpoint, "checkpoint_every": every}
    if kind == "minibatches":
        result = fit(key, svi, steps, x, y, batch_size=BATCH, **options)
    elif kind == "stream":
        endless = partial(batches, x, y)
        result = fit(key, svi, steps, batches=endless, num_rows=ROWS, **options)
    else:
        held_out = x[:HELD_OUT], y[:HELD_OUT]
        score = log_predictive_density(model, guide, 8, *held_out)
        result = fit(key, svi, steps, x, y, evaluate=score, **options)
    found = {"losses": result.losses, "evaluations": result.evaluations}
    for tree in (result.params, result.best_params):
        found |= {str(len(found)): leaf for leaf in jax.tree.leaves(tree)}
    bits = [zlib.crc32(np.asarray(leaf).tobytes()) for leaf in found.values()]
    # No steps are left to a run that was killed after its last checkpoint: speed 0.
    speed = result.steps_per_second
    return {"bits": bits, "steps": result.steps, "steps_per_second": speed}


def steps_shown(log: Path) -> list[int]:
    """Return the counts of steps that the progress bar of a child has shown."""
    return [int(count) for count in SHOWN.findall(log.read_bytes())]


def run_once(
    arguments: dict[str, Any], log: Path, wait: float | None = None
) -> dict[str, Any]:
    """Start a child; kill it `wait` seconds after its first step, or let it end.

    The first count of its bar is the number of steps in the checkpoint that it resumes,
    the last one how far it came.
    """
    # With this setting the bar is written each time the host looks.
    env = os.environ | {"TQDM_MININTERVAL": "0"}
    line = child.command(__spec__.name, "whole_run", **arguments)
    pipes = {"stdout": subprocess.PIPE, "cwd": record.ROOT, "env": env}
    with log.open("wb") as file, subprocess.Popen(line, stderr=file, **pipes) as run:
        if wait is not None:
            while len(set(steps_shown(log))) < 2 and run.poll() is None:
                time.sleep(0.01)
            time.sleep(wait)
            run.kill()
        printed, _ = run.communicate()
    if run.returncode not in (0, -signal.SIGKILL):
        raise RuntimeError(log.read_text().splitlines()[-1])
    shown = steps_shown(log)
    found = {"killed": run.returncode != 0, "began_at": shown[0], "wait": wait}
    found["steps_reached"] = max(shown)
    return found if found["killed"] else found | json.loads(printed.splitlines()[-1])


def kill_of(run: dict[str, Any], after: dict[str, Any], partial_file: bool) -> dict:
    """Describe a kill: how far the run was, and where the one after it began."""
    return {
        "seconds_after_first_step": round(run["wait"], 3),
        "began_at": run["began_at"],
        "steps_reached": run["steps_reached"],
        "steps_stored": after["began_at"],
        "steps_repeated": run["steps_reached"] - after["began_at"],
        "while_writing": partial_file,
    }


def disturbed(
    kind: str, steps: int, kills: int, random: np.random.Generator
) -> dict[str, Any]:
    """Compare a run that is killed again and again with one that is not."""
    start = partial(child.expect, __spec__.name, "whole_run", kind=kind, steps=steps)
    whole = start(checkpoint=None)
    whole_seconds = whole["steps"] / whole["steps_per_second"]
    with tempfile.TemporaryDirectory() as name:
        path, log = Path(name) / "run.npz", Path(name) / "log"
        arguments = {"kind": kind, "steps": steps, "checkpoint": str(path)}
        runs, writing = [], []
        for _ in range(kills):
            # Random moments in what is left of the run, should each get so far.
            wait = random.uniform(0, 1.5 * whole_seconds / (kills + 1))
            run = run_once(arguments, log, wait)
            while not run["killed"] and not runs:  # faster than the run before: anew
                path.unlink()
                wait /= 2
                run = run_once(arguments, log, wait)
            runs.append(run)
            parts = list(path.parent.glob(f"{path.name}.*"))
            writing.append(bool(parts))
            for part in parts:
                part.unlink()
            if not run["killed"]:
                break
        if runs[-1]["killed"]:
            runs.append(run_once(arguments, log))
    pairs = pairwise(runs)
    return {
        "steps": steps,
        "checkpoint_every": steps // CHECKPOINTS,
        "seconds_undisturbed": round(whole_seconds, 3),
        "kills": [kill_of(*pair, w) for pair, w in zip(pairs, writing, strict=False)],
        "bit_identical": runs[-1]["bits"] == whole["bits"],
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Kill, resume, and write down what came of it."""
    parser = record.parser(__doc__)
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    options = parser.parse_args(argv)
    kinds, kills = KINDS, 4
    lengths = {KINDS[0]: 20_000, KINDS[1]: 200_000, KINDS[2]: 40_000}
    if options.quick:
        kinds, kills, lengths = KINDS[1:2], 1, {KINDS[1]: 60_000}
    random = np.random.default_rng(options.seed)
    runs = {kind: disturbed(kind, lengths[kind], kills, random) for kind in kinds}

    repeated = {
        kind: [
            each["steps_repeated"] / run["checkpoint_every"] for each in run["kills"]
        ]
        for kind, run in runs.items()
    }
    targets = {
        f"{kind}, killed {len(run['kills'])} times: same bits as undisturbed": holds(
            run["bit_identical"] and run["kills"]
        )
        for kind, run in runs.items()
    } | {
        f"{kind}: most steps repeated, in checkpoint intervals": target(
            round(max(each, default=0), 3), at_most=1
        )
        for kind, each in repeated.items()
    }
    facts = {
        **record.origin("measure.resume", parser, options, ("jax", "numpyro", "optax")),
        "device": device(),
        "rows": ROWS,
        "batch_size": BATCH,
        "runs": runs,
        "targets": targets,
    }
    record.write(record.folder(options) / "resume.json", facts)
    say(targets)


if __name__ == "__main__":
    child.serve({"whole_run": whole_run})
    main()
