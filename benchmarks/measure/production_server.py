"""The part of `production.py` that serves an exported predictor: JAX and a file."""

import time

BEGAN = time.perf_counter()

import sys  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import jax  # noqa: E402
import numpy as np  # noqa: E402

from benchmarks.shared import child  # noqa: E402

# Waits for the backend, too.
jax.devices()
IMPORTED = time.perf_counter()
UNWANTED = ("numpyro", "flax", "optax", "helpers", "benchmarks.shared.bnn_model")


def serve(path: str, sizes: list[int], requests: int) -> dict[str, Any]:
    """Load the predictor, answer requests of several sizes, and tell the seconds."""
    exported = jax.export.deserialize(Path(path).read_bytes())
    loaded = time.perf_counter()
    predict = jax.jit(exported.call)
    with np.load(f"{path}.npz") as stored:
        x, expected = stored["x"], stored["p"]
    difference = float(abs(np.asarray(predict(x)) - expected).max())

    first, latency = {}, {}
    for size in sizes:
        rows = np.resize(x, (size, x.shape[1]))
        seconds = []
        for _ in range(requests + 1):
            began = time.perf_counter()
            np.asarray(predict(rows))
            seconds.append(time.perf_counter() - began)
        first[size] = seconds[0]
        quantiles = np.quantile(seconds[1:], [0.5, 0.99])
        latency[size] = dict(zip(("median", "p99"), quantiles.tolist(), strict=True))
    return {
        "seconds_import": IMPORTED - BEGAN,
        "seconds_load": loaded - IMPORTED,
        "seconds_first_request": first,
        "seconds_request": latency,
        "largest_difference": difference,
        "unwanted_modules": [name for name in UNWANTED if name in sys.modules],
    }


if __name__ == "__main__":
    child.serve({"serve": serve})
