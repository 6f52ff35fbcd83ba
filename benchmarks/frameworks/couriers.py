"""Sample the model of ``coming_from.ipynb`` in PyMC, in Pyro and in Stan.

The programs ``couriers_pymc.py``, ``couriers_pyro.py`` and ``couriers.stan`` stand on
that page, beside the one in NumPyro, which runs there. Writes the data and the moments
of all draws to ``couriers.json``.

    python -m benchmarks.frameworks.couriers

PyMC is a part of the project; Pyro and PyStan are not. The first run installs them into
``.env-pyro`` and ``.env-stan``; options name interpreters that have them already.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpyro.diagnostics import effective_sample_size

from benchmarks.frameworks.compare import interpreters, name_interpreters
from benchmarks.shared import record
from helpers.environment import device

# What is installed into environments of their own.
INSTALLED = {"pyro": ("pyro-ppl", "torch"), "stan": ("pystan", "httpstan")}
PACKAGES = {"pymc": ("pymc",)} | INSTALLED
VERSIONS = """
import json, platform, sys
from importlib.metadata import version
found = {name: version(name) for name in sys.argv[1:]}
print(json.dumps({"python": platform.python_version(), **found}))
"""


def make_data() -> dict[str, list]:
    """Return deliveries of eight couriers: distance (standardized) and minutes."""
    rng = np.random.default_rng(2025)
    courier, distance = rng.integers(0, 8, 120), rng.normal(size=120).round(2)
    minutes = rng.normal(20, 3, 8)[courier] + 4 * distance + rng.normal(0, 3, 120)
    columns = {"courier": courier, "distance": distance, "minutes": minutes.round(1)}
    return {name: values.tolist() for name, values in columns.items()}


def moments(draws: np.ndarray, way: str) -> dict[str, list]:
    """Return mean, sd and effective draws of draws, shape (chains, draws, size).

    Draws of a guide are independent.
    """
    count = draws.shape[0] * draws.shape[1]
    found = {
        "mean": draws.mean((0, 1)),
        "sd": draws.std((0, 1)),
        "effective_draws": effective_sample_size(draws)
        if way == "nuts"
        else np.full(draws.shape[-1], count),
    }
    return {name: values.tolist() for name, values in found.items()}


def run(library: str, python: Path, data: dict[str, list]) -> dict[str, Any]:
    """Run the program of a library; return its versions and moments by way and name."""
    asked = [str(python), "-c", VERSIONS, *PACKAGES[library]]
    versions = subprocess.run(asked, check=True, capture_output=True, text=True).stdout
    found = {"versions": json.loads(versions)}
    with tempfile.TemporaryDirectory() as folder:
        rows, draws = Path(folder, "data.json"), Path(folder, "draws.npz")
        rows.write_text(json.dumps(data), encoding="utf-8")
        program = f"benchmarks.frameworks.couriers_{library}"
        command = [str(python), "-W", "ignore", "-m", program, str(rows), str(draws)]
        subprocess.run(command, check=True, cwd=record.ROOT)
        with np.load(draws) as file:
            for name, values in file.items():
                way, unknown = name.split("/")
                found.setdefault(way, {})[unknown] = moments(values, way)
    return found


def make_parser() -> argparse.ArgumentParser:
    """Return the options."""
    parser = record.parser(__doc__)
    name_interpreters(parser, INSTALLED)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Sample in each library and write the moments down; a short run has data alone."""
    parser = make_parser()
    options = parser.parse_args(argv)
    pythons = {"pymc": Path(sys.executable)} | interpreters(options, INSTALLED)
    missing = sorted(set(INSTALLED) - set(pythons))
    data = make_data()
    chosen = {} if options.quick else pythons
    libraries = {name: run(name, python, data) for name, python in chosen.items()}
    hidden = ("out", "no_install", *(f"{library}_python" for library in INSTALLED))
    packages = ("jax", "numpyro", "numpy")
    facts = {
        **record.origin(
            "frameworks.couriers", parser, options, packages, hidden=hidden
        ),
        "device": device(),
        "left_out": missing,
        "data": data,
        "libraries": record.rounded(libraries),
    }
    record.write(record.folder(options) / "couriers.json", facts)


if __name__ == "__main__":
    main()
