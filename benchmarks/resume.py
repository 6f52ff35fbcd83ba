"""Kill fits without warning, let them resume, and compare with an undisturbed run.

For each way to feed `fit` (all rows, minibatches, a stream of batches): one run without
a break; the same run, killed (``kill -9``) at random moments and started again each
time until it is done. Told are whether the parameters at the end have the same bits,
and how many steps had to be repeated. Writes ``resume.json``. Run it from the root of
the project:

    python benchmarks/resume.py
"""

import os
import re
import subprocess
import tempfile
import time
import zlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

import child
import record
from bars import bar, holds, say
from helpers.environment import device
from helpers.training import fit, log_predictive_density
from logistic_model import guide, make_rows, make_svi, model

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
    seconds = result.steps / result.steps_per_second
    return {"bits": bits, "steps": result.steps, "seconds": seconds}


def steps_shown(log: Path) -> int:
    """Return how many steps the progress bar of a child has counted."""
    found = SHOWN.findall(log.read_bytes())
    return max(map(int, found), default=0)


def steps_stored(checkpoint: Path) -> int:
    """Return how many steps a checkpoint has."""
    if not checkpoint.exists():
        return 0
    with np.load(checkpoint) as stored:
        return int(stored["done"])


def kill_once(arguments: dict[str, Any], log: Path, wait: float) -> dict | None:
    """Start a child, kill it so long after its first step; None if it was faster."""
    checkpoint = Path(arguments["checkpoint"])
    before = steps_stored(checkpoint)
    # A bar that is written at each look of the host tells what had been reached.
    env = os.environ | {"TQDM_MININTERVAL": "0"}
    line = child.command(__file__, "whole_run", **arguments)
    with (
        log.open("wb") as file,
        subprocess.Popen(
            line, stdout=subprocess.DEVNULL, stderr=file, env=env
        ) as process,
    ):
        while steps_shown(log) <= before and process.poll() is None:
            time.sleep(0.01)
        time.sleep(wait)
        ended = process.poll()
        process.kill()
    if ended is not None:
        if ended:
            raise RuntimeError(log.read_text().splitlines()[-1])
        return None
    reached, stored = steps_shown(log), steps_stored(checkpoint)
    beside = list(checkpoint.parent.glob("*.part"))
    for part in beside:
        part.unlink()
    return {
        "seconds_after_first_step": round(wait, 3),
        "began_at": before,
        "steps_reached": reached,
        "steps_stored": stored,
        "steps_repeated": reached - stored,
        "while_writing": bool(beside),
    }


def disturbed(
    kind: str, steps: int, kills: int, random: np.random.Generator
) -> dict[str, Any]:
    """Compare a run that is killed again and again with one that is not."""
    start = partial(child.expect, __file__, "whole_run", kind=kind, steps=steps)
    whole = start(checkpoint=None)
    with tempfile.TemporaryDirectory() as folder:
        arguments = {
            "kind": kind,
            "steps": steps,
            "checkpoint": str(Path(folder) / "run.npz"),
        }
        found = []
        for _ in range(kills):
            # Random moments in what is left of the run, should each get so far.
            wait = random.uniform(0, 1.5 * whole["seconds"] / (kills + 1))
            killed = kill_once(arguments, Path(folder) / "log", wait)
            while killed is None and not found:  # faster than the run before: anew
                Path(arguments["checkpoint"]).unlink()
                wait /= 2
                killed = kill_once(arguments, Path(folder) / "log", wait)
            if killed is None:
                break
            found.append(killed)
        last = start(checkpoint=arguments["checkpoint"])
    return {
        "steps": steps,
        "checkpoint_every": steps // CHECKPOINTS,
        "seconds_undisturbed": round(whole["seconds"], 3),
        "kills": found,
        "bit_identical": last["bits"] == whole["bits"],
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
    bars = {
        f"{kind}, killed {len(run['kills'])} times: same bits as undisturbed": holds(
            run["bit_identical"] and run["kills"]
        )
        for kind, run in runs.items()
    } | {
        f"{kind}: most steps repeated, in checkpoint intervals": bar(
            round(max(each, default=0), 3), at_most=1
        )
        for kind, each in repeated.items()
    }
    facts = {
        **record.origin("resume.py", parser, options, ("jax", "numpyro", "optax")),
        "device": device(),
        "rows": ROWS,
        "batch_size": BATCH,
        "runs": runs,
        "bars": bars,
    }
    record.write(record.folder(options) / "resume.json", facts)
    say(bars)


if __name__ == "__main__":
    child.serve({"whole_run": whole_run})
    main()
