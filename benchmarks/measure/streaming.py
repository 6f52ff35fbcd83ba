"""Stream a table from disk through `fit`: rows per second, and the memory it takes.

The script writes a table with ten features and a label as two mapped files and as a
Parquet file. It compares the speed with that of the same table in memory, in turns, for
a step that does little with its rows and for one that does more. It measures memory in
fresh processes, for one table and for one ten times as long, and under a limit that is
smaller than the table. Writes ``streaming.json``. Run it from the root of the project
(``--huge`` adds 10⁸ rows, which take 13 GB of disk):

    python -m benchmarks.measure.streaming
"""

import ctypes
import mmap
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.shared import child, record
from benchmarks.shared.logistic_model import make_svi, posterior
from benchmarks.shared.tables import (
    map_loader,
    parquet_loader,
    write_maps,
    write_parquet,
)
from benchmarks.shared.targets import holds, say, target
from helpers.environment import device
from helpers.reference import GaussianPosterior, kl_parts
from helpers.training import fit

ROW_BYTES = 4 * 11
LOADERS = {"memory map": map_loader, "Parquet": parquet_loader}
PEAK = 0.05  # learning rate of a run of one epoch
# Adam's memory of squared gradients, in such a run shorter than usual: the first steps
# are so much larger than the last ones that they would slow down the widths for long.
MEMORY = 0.95
WARM = 256  # steps of a fit before the one that counts
LEFT = 0.6  # of the table's size: the memory allowed beyond what a process starts with


def sources(folder: Path, batch_size: int) -> dict[str, Callable]:
    """Return a loader for each kind of file in the folder."""
    paths = {
        "memory map": (folder / "x.npy", folder / "y.npy"),
        "Parquet": folder / "rows.parquet",
    }
    return {kind: LOADERS[kind](paths[kind], batch_size) for kind in LOADERS}


def write(folder: Path, num_rows: int) -> Path:
    """Write the table in both formats, to a folder of its own."""
    made = folder / str(num_rows)
    made.mkdir(exist_ok=True)
    write_maps(made, num_rows)
    write_parquet(made, num_rows)
    return made


def cached_share(paths: Sequence[Path]) -> float | None:
    """Return how much of the files the system holds in memory, if it tells."""
    found, pages = 0, 0
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "mincore"):
        return None
    for path in paths:
        with path.open("rb") as file:
            mapped = np.frombuffer(
                mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ), "uint8"
            )
        seen = np.zeros(-(-len(mapped) // mmap.PAGESIZE), "uint8")
        address, size = ctypes.c_void_p(mapped.ctypes.data), len(mapped)
        if libc.mincore(
            address, ctypes.c_size_t(size), ctypes.c_void_p(seen.ctypes.data)
        ):
            return None
        found, pages = found + int((seen & 1).sum()), pages + len(seen)
    return round(found / pages, 3)


def forget(paths: Sequence[Path]) -> None:
    """Ask the system to drop the files from its cache."""
    for path in paths:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def take_turns(
    folder: Path,
    num_rows: int,
    batch_size: int,
    particles: int,
    rows_wanted: int,
    repeats: int,
) -> dict[str, list[float]]:
    """Return rows per second of each run, from memory and from each kind of file."""
    svi = make_svi(optax.adam(0.01), particles)
    steps = max(rows_wanted // particles // batch_size, 32)
    table = [jnp.asarray(np.load(folder / f"{name}.npy")) for name in ("x", "y")]
    key = jax.random.key(1)  # the same start each time, on purpose
    start = partial(fit, key, svi, steps, size=num_rows, progress_bar=False)
    runs = {"memory": partial(start, *table, batch_size=batch_size)} | {
        kind: partial(start, batches=loader, num_rows=num_rows)
        for kind, loader in sources(folder, batch_size).items()
    }
    rates = {kind: [] for kind in runs}
    for turn in range(repeats + 1):
        for kind, run in runs.items():
            rate = run().steps_per_second * batch_size
            if turn:  # the first one fills the page cache
                rates[kind].append(rate)
    return rates


def compare(rates: dict[str, list[float]]) -> dict[str, Any]:
    """Return medians, and medians of the ratios to memory."""
    return {
        "rows_per_second": {k: record.rounded(median(v)) for k, v in rates.items()},
        "times_memory": {
            kind: round(float(median(np.divide(each, rates["memory"]))), 3)
            for kind, each in rates.items()
            if kind != "memory"
        },
        "rows_per_second_of_each_run": {
            kind: record.rounded(each) for kind, each in rates.items()
        },
    }


def one_epoch(
    folder: str, kind: str, num_rows: int, batch_size: int, limited: bool = False
) -> dict[str, Any]:
    """Fit for an epoch and tell speed and memory. It runs in a process of its own.

    A short fit before takes the memory that a compiler and a pipeline need, so that
    what is limited are data. The learning rate goes to zero over the epoch.
    """
    steps = -(-num_rows // batch_size)
    schedule = optax.cosine_decay_schedule(PEAK, steps)
    svi = make_svi(optax.adam(schedule, b2=MEMORY))
    run = partial(fit, jax.random.key(1), svi, progress_bar=False, size=num_rows)

    def prepared(steps):
        if kind == "memory":
            table = [jnp.asarray(np.load(Path(folder) / f"{n}.npy")) for n in "xy"]
            return partial(run, steps, *table, batch_size=batch_size)
        loader = sources(Path(folder), batch_size)[kind]
        return partial(run, steps, batches=loader, num_rows=num_rows)

    if kind != "memory":
        prepared(WARM)()
    if limited:
        child.limit_memory(int(LEFT * num_rows * ROW_BYTES))
    result = prepared(steps)()
    params = {name: np.asarray(each).tolist() for name, each in result.params.items()}
    return {
        "steps": steps,
        "seconds": round(steps / result.steps_per_second, 2),
        "rows_per_second": record.rounded(result.steps_per_second * batch_size),
        "peak_mib": child.peak_mib(),
        "loss": float(result.losses[-1]),
        "params": params,
    }


def epoch_in_child(
    folder: Path, kind: str, num_rows: int, reference: GaussianPosterior, **options: Any
) -> dict:
    """Run `one_epoch` in a fresh process; it may fail. Tell how far off its fit is."""
    arguments = {"folder": str(folder), "kind": kind, "num_rows": num_rows}
    found = child.run(__spec__.name, "one_epoch", **arguments, **options)
    found.pop("process_seconds", None)
    if params := found.pop("params", None):
        parts = [round(float(part), 3) for part in kl_parts(params, reference)]
        found["nats_left"] = dict(zip(("center", "width"), parts, strict=True))
    return found


def limited_memory(
    folder: Path, num_rows: int, reference: GaussianPosterior, batch_size: int
) -> dict[str, Any]:
    """Fit with less memory than the table takes: streamed, and loaded whole."""
    kinds = ("memory", *LOADERS)
    options = {"batch_size": batch_size, "limited": True}
    return {
        "rows": num_rows,
        "table_mib": round(num_rows * ROW_BYTES / 2**20),
        "allowed_mib": round(LEFT * num_rows * ROW_BYTES / 2**20),
        **{
            kind: epoch_in_child(folder, kind, num_rows, reference, **options)
            for kind in kinds
        },
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and write the figures down."""
    parser = record.parser(__doc__)
    parser.add_argument("--huge", action="store_true", help="10⁸ rows, too")
    options = parser.parse_args(argv)
    sizes, steps = [1_000_000, 10_000_000], ((8_192, 1), (16_384, 1), (8_192, 10))
    rows_wanted, repeats = 40_000_000, 5
    if options.quick:
        sizes, steps, rows_wanted, repeats = [400_000, 4_000_000], steps[:1], 0, 1
    # A short run tells of the memory for one kind of file alone.
    timed, kinds = (sizes[:1], ["memory map"]) if options.quick else (sizes, [*LOADERS])
    timed = tuple(timed)
    if options.huge:
        sizes.append(10 * sizes[-1])
    need = 2.2 * ROW_BYTES * sum(sizes)
    free = shutil.disk_usage(tempfile.gettempdir()).free
    if free < 1.2 * need:
        parser.error(f"{need / 2**30:.1f} GiB of disk wanted, {free / 2**30:.1f} free")

    kept, memory, cold, cached, limit = {}, {}, {}, {}, None
    with tempfile.TemporaryDirectory() as temporary:
        for n in sizes:
            folder = write(Path(temporary), n)
            files = sorted(folder.iterdir())
            for batch_size, many in steps if n in timed else ():
                turns = folder, n, batch_size, many, rows_wanted, repeats
                name = f"{n:,} rows, batch {batch_size:,}, {many} particle"
                kept[name + "s" * (many > 1)] = compare(take_turns(*turns))
            cached[f"{n:,}"] = cached_share(files)
            reference = posterior(*(np.load(folder / f"{k}.npy", "r") for k in "xy"))
            batch_size, _ = steps[0]
            about = {"num_rows": n, "reference": reference, "batch_size": batch_size}
            run = partial(epoch_in_child, folder, **about)
            memory[f"{n:,}"] = {kind: run(kind=kind) for kind in kinds}
            if n == sizes[-1] and not options.quick:
                limit = limited_memory(folder, n, reference, batch_size)
                forget(files)
                share = cached_share(files)
                cold = {"rows": n, "cached_share_before": share}
                cold |= {kind: run(kind=kind) for kind in kinds}
            shutil.rmtree(folder)

    peaks = {
        kind: {n: memory[f"{n:,}"][kind]["peak_mib"] for n in sizes} for kind in kinds
    }
    targets = {
        f"{kind}, {name}: rows per second over memory's": target(ratio, at_least=0.7)
        for name, each in kept.items()
        for kind, ratio in each["times_memory"].items()
    } | {
        f"{kind}: peak memory of {long:,} rows over that of {short:,}": target(
            round(peaks[kind][long] / peaks[kind][short], 3), at_most=1.1
        )
        for kind in kinds
        for short, long in pairwise(sizes)
    }
    if limit:
        fits = all("failed" not in limit[kind] for kind in LOADERS)
        targets["streamed with less memory than the table takes"] = holds(fits)
    packages = ("jax", "numpyro", "optax", "numpy", "pyarrow")
    facts = {
        **record.origin("measure.streaming", parser, options, packages),
        "device": device(),
        "rows": sizes,
        "bytes_per_row": ROW_BYTES,
        "share_of_files_in_page_cache": cached,
        "throughput": kept,
        "one_epoch_in_a_fresh_process": memory,
        "limited": limit,
        "from_disk_with_empty_cache": cold or None,
        "targets": targets,
    }
    record.write(record.folder(options) / "streaming.json", facts)
    say(targets)


if __name__ == "__main__":
    child.serve({"one_epoch": one_epoch})
    main()
