"""Predict for more and more rows: rows per second, and peak memory.

The inputs are a mapped file, and so are the predictions: mean and spread over draws of
the probability, for each row. Each number of rows has a process of its own. NumPyro's
`Predictive`, which holds all draws of all rows, does the same as far as memory allows,
and the script compares the numbers of both. Writes
``prediction.json``. Run it from the root of the project:

    python -m benchmarks.measure.prediction
"""

import mmap
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from numpy.lib.format import open_memmap
from numpyro.infer import SVI, Predictive, Trace_ELBO

from benchmarks.shared import child, record
from benchmarks.shared.logistic_model import DIM, blocks, guide, make_rows
from benchmarks.shared.logistic_model import predictive_model as model
from benchmarks.shared.targets import say, target
from helpers.environment import device
from helpers.training import fit, predict, predictions

DRAWS = 100
SITES = ["p", "y"]


def fitted() -> dict[str, jax.Array]:
    """Return parameters of a short fit to few rows."""
    svi = SVI(model, guide, optax.adam(0.02), Trace_ELBO())
    table = make_rows(10_000)
    options = {"batch_size": 500, "size": 10_000, "progress_bar": False}
    return fit(jax.random.key(1), svi, 2_000, *table, **options).params


def write_inputs(path: Path, num_rows: int) -> None:
    """Write inputs for so many rows to a file that can be mapped."""
    x = open_memmap(path, "w+", "float32", (num_rows, DIM))
    start = 0
    for some, _ in blocks(num_rows):
        x[start : start + len(some)] = some
        start += len(some)
    x.flush()


def stored(params: dict[str, list[float]]) -> dict[str, np.ndarray]:
    """Return parameters as arrays again."""
    return {name: np.array(value, "float32") for name, value in params.items()}


def batched(path: str, out: str, params: dict, draws: int) -> dict[str, Any]:
    """Predict for the rows of a file, to a file. In a process of its own.

    Pages of both files are let go when they are done with: the system has them in its
    cache, but as long as they are mapped it counts them as memory of this process.
    """
    x = np.load(path, mmap_mode="r")
    summary = open_memmap(out, "w+", "float32", (len(x), 2))
    inputs = jax.random.key(2), model, guide, stored(params), draws
    began, counted = None, 0
    for rows, batch in predictions(*inputs, x, sites=["p"]):
        p = batch["p"]
        summary[rows, 0], summary[rows, 1] = p.mean(axis=0), p.std(axis=0)
        summary.flush()
        for array in (x, summary):
            array._mmap.madvise(mmap.MADV_DONTNEED)
        if began is None:  # the first batch compiles
            began, counted = time.perf_counter(), rows.stop
    seconds = time.perf_counter() - began
    rate = (len(x) - counted) / seconds if len(x) > counted else None
    return {
        "rows_per_second": record.rounded(rate),
        "peak_mib": child.peak_mib(),
        "anonymous_mib_at_end": round(child.status("RssAnon") / 2**20, 1),
    }


def unbatched(path: str, params: dict, draws: int) -> dict[str, Any]:
    """Predict for all rows at once with NumPyro. In a process of its own."""
    x = np.load(path)
    drawing = Predictive(
        model,
        guide=guide,
        params=stored(params),
        num_samples=draws,
        return_sites=["p"],
    )
    began = time.perf_counter()
    p = np.asarray(drawing(jax.random.key(2), x)["p"])
    mean, spread = p.mean(axis=0), p.std(axis=0)
    seconds = time.perf_counter() - began
    return {
        "rows_per_second_with_compilation": record.rounded(len(x) / seconds),
        "peak_mib": child.peak_mib(),
        "mean": float(mean.mean()),
        "spread": float(spread.mean()),
    }


def compare(params: dict[str, jax.Array], num_rows: int, draws: int) -> dict[str, Any]:
    """Compare batched numbers with unbatched ones of `predict`, and with NumPyro's.

    Of a draw, what rows share is the same in all batches of rows, so that
    probabilities must be the same numbers; outcomes have noise that belongs to a batch,
    and must be the same in batches of draws. Without batches of rows, `predict` must
    give the numbers of NumPyro. With them it draws others from the same key, so the
    differences of means are in their standard errors.
    """
    x, _ = make_rows(num_rows)
    inputs = jax.random.key(2), model, guide, params, draws, x
    run = partial(predict, *inputs, sites=SITES)
    whole = run(draw_batch=draws, row_batch=num_rows)
    some_draws = max(draws // 7, 1)
    batched = {
        "rows": run(draw_batch=draws, row_batch=4_096),
        "rows and draws": run(draw_batch=some_draws, row_batch=4_096),
    }
    outcomes = [each["y"] for each in batched.values()]
    at_once = run(draw_batch=some_draws)
    drawing = Predictive(model, guide=guide, params=params, num_samples=draws)
    theirs = drawing(jax.random.key(2), x)  # the same key on purpose
    other = np.asarray(drawing(jax.random.key(3), x)["p"])
    p = whole["p"]
    error = np.sqrt((p.var(axis=0) + other.var(axis=0)) / draws)
    z = (p.mean(axis=0) - other.mean(axis=0)) / error
    return {
        "rows": num_rows,
        "draws": draws,
        "largest_difference_in_batches_of": {
            kind: {"p": float(abs(each["p"] - p).max())}
            for kind, each in batched.items()
        },
        "share_of_outcomes_that_differ_in_batches_of_draws": float(
            np.mean(outcomes[0] != outcomes[1])
        ),
        "largest_difference_to_numpyro": {
            name: float(abs(at_once[name] - np.asarray(theirs[name], float)).max())
            for name in SITES
        },
        "root_mean_square_z_of_means_to_numpyro": round(float((z**2).mean() ** 0.5), 3),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and write the figures down."""
    parser = record.parser(__doc__)
    options = parser.parse_args(argv)
    sizes, draws, at_once, compared = [10**5, 10**6, 10**7], DRAWS, 10**6, 50_000
    if options.quick:
        sizes, draws, at_once, compared = [40_000, 400_000], 20, 40_000, 10_000
    params = fitted()
    equal = compare(params, compared, draws)

    plain = {name: np.asarray(value).tolist() for name, value in params.items()}
    found, whole = {}, {}
    with tempfile.TemporaryDirectory() as temporary:
        path, out = Path(temporary) / "x.npy", Path(temporary) / "p.npy"
        for n in sizes:
            write_inputs(path, n)
            run = partial(
                child.expect, __spec__.name, path=str(path), params=plain, draws=draws
            )
            found[f"{n:,}"] = run("batched", out=str(out))
            predicted = np.load(out, mmap_mode="r")
            if n <= at_once:
                whole[f"{n:,}"] = run("unbatched")
                apart = predicted.mean(axis=0, dtype=float)
                apart -= [whole[f"{n:,}"].pop(name) for name in ("mean", "spread")]
                whole[f"{n:,}"]["difference_of_means"] = apart.round(5).tolist()
            for each in (found, whole):
                each.get(f"{n:,}", {}).pop("process_seconds", None)
            path.unlink()

    peaks = [each["peak_mib"] for each in found.values()]
    apart = equal["largest_difference_in_batches_of"]
    targets = {
        "in batches of rows: probabilities the same to": target(
            apart["rows"]["p"], at_most=1e-6
        ),
        # Products of matrices of another shape are added up in another order.
        "in batches of draws, too: probabilities the same to": target(
            apart["rows and draws"]["p"], at_most=1e-6
        ),
        "without batches of rows: probabilities those of NumPyro to": target(
            equal["largest_difference_to_numpyro"]["p"], at_most=1e-6
        ),
        f"peak memory of {sizes[-1]:,} rows over that of {sizes[-2]:,}": target(
            round(peaks[-1] / peaks[-2], 3), at_most=1.1
        ),
    }
    facts = {
        **record.origin(
            "measure.prediction", parser, options, ("jax", "numpyro", "numpy")
        ),
        "device": device(),
        "rows": sizes,
        "draws": draws,
        "comparison": equal,
        "batched": found,
        "unbatched": whole,
        "targets": targets,
    }
    record.write(record.folder(options) / "prediction.json", facts)
    say(targets)


if __name__ == "__main__":
    child.serve({"batched": batched, "unbatched": unbatched})
    main()
