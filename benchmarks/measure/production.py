"""From a notebook to a service: cold and warm starts, and a predictor on its own.

Starts: fresh processes take the first steps of `fit` without a cache of compiled code,
with an empty one and with a full one. JAX is told to keep all code; by default it keeps
what takes a second to compile. One more cache is filled and read under the same hash
seed of Python. The script also times the parts of compiling ahead of time: tracing,
compiling, running.

Serving: the posterior predictive of the fitted network becomes a function of the inputs
alone, with draws of the weights inside, and is exported for any number of rows. A fresh
process serves it from the file. That process imports JAX, and neither NumPyro nor Flax
nor the model.
Writes ``production.json``. Run it from the root of the project:

    python -m benchmarks.measure.production
"""

import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.shared import child, record
from benchmarks.shared.targets import holds, say, target
from helpers.environment import device

FIT = "benchmarks.measure.production_fit"
SERVER = "benchmarks.measure.production_server"
DRAWS = 200
# NumPyro adds up the terms of the ELBO in the order of a set of names, which Python
# salts anew in each process. So code is found again only by the same salt.
UNSALTED = "full cache, unsalted"
# Otherwise what compiles within a second is not kept.
KEEP_ALL = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}


def middle(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the median of each number."""
    return record.rounded({name: median(run[name] for run in runs) for name in runs[0]})


def starts(
    job: str, folder: Path, repeats: int, quick: bool, **arguments: Any
) -> dict[str, Any]:
    """Start fresh processes in turns: without a cache, with an empty and a full one."""
    kinds = ("no cache", "cache of slow code", "empty cache", "full cache", UNSALTED)
    found = {kind: [] for kind in kinds}
    run = partial(child.expect, FIT, job, **arguments)
    for turn in range(repeats):
        cache = folder / f"cache of {job}, {turn}"
        kept = kept_in(cache)
        found["no cache"].append(run(env={"JAX_ENABLE_COMPILATION_CACHE": "false"}))
        default = {"JAX_COMPILATION_CACHE_DIR": f"{cache}, by default"}
        default["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "1"
        unsalted = kept_in(f"{cache}, unsalted") | {"PYTHONHASHSEED": "0"}
        if not quick:
            for name, env in (("cache of slow code", default), (UNSALTED, unsalted)):
                run(env=env)  # fills it
                found[name].append(run(env=env))
        found["empty cache"].append(run(env=kept))
        found["full cache"].append(run(env=kept))
    # What is in it comes from an earlier process: the code is read, not compiled.
    size = sum(path.stat().st_size for path in cache.rglob("*") if path.is_file())
    faster = {
        each: float(f"{median(_ratios(found, each)):.3g}")
        for each in found["no cache"][0]
        if "seconds" in each
    }
    medians = {kind: middle(runs) for kind, runs in found.items() if runs}
    return medians | {
        "cache_kib": round(size / 1024),
        "times_faster_with_full_cache": faster,
    }


def kept_in(cache: Path | str) -> dict[str, str]:
    """Return settings that keep compiled code in a folder."""
    return KEEP_ALL | {"JAX_COMPILATION_CACHE_DIR": str(cache)}


def _ratios(found: dict[str, list[dict]], name: str) -> np.ndarray:
    cold, warm = ([run[name] for run in found[k]] for k in ("no cache", "full cache"))
    return np.divide(cold, warm)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and write the figures down."""
    parser = record.parser(__doc__)
    options = parser.parse_args(argv)
    repeats, steps, sizes, requests = 3, 8_000, [1, 32, 1_024], 1_000
    name = "network"
    if options.quick:
        repeats, steps, sizes, requests, name = 1, 200, [1, 32], 20, "logistic"

    ahead = None
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        start = {"folder": folder, "repeats": repeats, "quick": options.quick}
        first = starts("first_steps", name=name, **start)
        if not options.quick:
            ahead = starts("ahead_of_time", name=name, steps=1_000, **start)
        path = str(folder / "predictor.bin")
        arguments = {"name": name, "path": path, "steps": steps, "num_draws": DRAWS}
        cache = kept_in(folder / "cache of first_steps, 0")
        made = child.expect(FIT, "export", env=cache, **arguments)
        serving = [
            child.expect(SERVER, "serve", path=path, sizes=sizes, requests=requests)
            for _ in range(repeats)
        ]
    served = serving[len(serving) // 2]
    unwanted = sorted({name for run in serving for name in run["unwanted_modules"]})
    difference = max(run["largest_difference"] for run in serving)

    targets = {
        "first steps of fit: times faster with a full cache": target(
            first["times_faster_with_full_cache"]["seconds_fit"], at_least=1
        ),
        "exported predictor against Predictive: largest difference": target(
            difference, at_most=1e-5
        ),
        "the server imports JAX alone": holds(not unwanted),
    }
    packages = ("jax", "numpyro", "flax", "optax")
    facts = {
        **record.origin("measure.production", parser, options, packages),
        "device": device(),
        "model": name,
        "starts": first,
        "ahead_of_time": ahead,
        "export": record.rounded(made),
        "server": record.rounded(served),
        "largest_difference": difference,
        "unwanted_modules": unwanted,
        "targets": targets,
    }
    record.write(record.folder(options) / "production.json", facts)
    say(targets)


if __name__ == "__main__":
    main()
