"""Time the same mean-field fits in NumPyro, in Pyro and in PyMC.

The models are the concentration of a gamma distribution, a logistic regression and the
network of notebook 04. All fits use a mean-field normal guide on the unconstrained
scale, Adam with one learning rate, and one draw per step. Each framework fits as its
users do, compiled where it can be, in a process of its own. The processes take turns,
so other work on the machine slows all of them alike. Compilation is not timed. Writes
``frameworks.json``.

    python -m benchmarks.frameworks.compare

Pyro and PyMC are no part of the project. The first run installs them into ``.env-pyro``
and ``.env-pymc``; options name interpreters that have them already.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import jax
import numpy as np
from scipy import special, stats

from benchmarks.shared import record
from benchmarks.shared.bnn_model import make_data
from helpers.datasets import log_gamma_sample
from helpers.environment import device
from helpers.reference import newton

ROOT = record.ROOT  # of the project, where environments are made
REQUIREMENTS = Path(__file__).with_name("requirements.txt")
INSTALLED = {"pyro": ("pyro-ppl", "torch"), "pymc": ("pymc",)}
# An older Python where there is one: mirrors more often hold the small PyTorch for it.
PYTHONS = {"pyro": ("3.11", "3.12")}
# Name: module and setting. NumPyro in the precision of PyMC, too; PyMC in C, too.
WORKERS = {
    "numpyro": ("numpyro", {}),
    "numpyro_float64": ("numpyro", {"JAX_ENABLE_X64": "1"}),
    "pyro": ("pyro", {}),
    "pymc": ("pymc", {"PYMC_MODE": "NUMBA"}),
    "pymc_c": ("pymc", {"PYMC_MODE": "CVM"}),
}
# Data by model, and the site whose posterior is compared. The network has none: its
# units trade places.
MODELS = ("gamma", "logistic", "network")
SITES = {"gamma": "concentration", "logistic": "coefficients"}
LEARNING_RATE = 0.005
Data = dict[str, np.ndarray]


def all_data() -> Data:
    """Return the data of all models, under the name of the model and their own."""
    gamma_key, x_key, y_key = jax.random.split(jax.random.key(7), 3)
    x = jax.random.normal(x_key, (10_000, 10))
    p = jax.nn.sigmoid(x @ np.linspace(-1, 1, 10))
    data = {
        "gamma/z": np.exp(log_gamma_sample(gamma_key, 2.0, 1_000)),
        "logistic/x": x,
        "logistic/y": jax.random.bernoulli(y_key, p).astype(int),
    }
    train, _, _ = make_data()
    data |= {"network/x": train[0], "network/y": train[1]}
    return {name: np.asarray(values) for name, values in data.items()}


def references(data: Data) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return means and standard deviations of the posteriors.

    For the gamma model by quadrature; for the logistic regression those of the normal
    approximation at the mode, which 10,000 rows make good.
    """
    z, grid = data["gamma/z"].astype(float), np.linspace(1.5, 2.5, 20_001)
    log_p = stats.halfnorm.logpdf(grid) - len(z) * special.gammaln(grid)
    log_p += (grid - 1) * np.log(z).sum()
    weights = np.exp(log_p - log_p.max())
    weights /= weights.sum()
    mean = weights @ grid
    gamma = np.array([mean]), np.sqrt([weights @ (grid - mean) ** 2])

    mode, precision = newton(lambda: [(data["logistic/x"], data["logistic/y"])])
    logistic = mode, np.sqrt(np.diag(np.linalg.inv(precision)))
    return {"gamma": gamma, "logistic": logistic}


def moments(model: str, loc: list[float], scale: list[float]) -> tuple:
    """Return mean and standard deviation on the scale of the model."""
    loc, scale = np.array(loc), np.array(scale)
    if model != "gamma":
        return loc, scale
    mean = np.exp(loc + scale**2 / 2)  # a normal distribution of the logarithm
    return mean, mean * np.sqrt(np.expm1(scale**2))


def install(framework: str, packages: Sequence[str]) -> Path | None:
    """Make the environment of a framework, unless it is there; None if it fails."""
    folder = ROOT / f".env-{framework}"
    python = folder / "bin" / "python"
    done = folder / ".installed"
    if done.exists():
        return python
    names = " and ".join(packages)
    size = "some GB where PyTorch comes with CUDA" if framework == "pyro" else "0.5 GB"
    print(f"Installing {names} into {folder.name} ({size})", flush=True)
    for wanted in PYTHONS.get(framework, ("3.12",)):
        uv = [sys.executable, "-m", "uv", "venv", "--quiet", "--seed", "--clear"]
        made = [*uv, "--no-python-downloads", "--python", wanted, str(folder)]
        pip = [str(python), "-m", "pip", "install", "--quiet", "--constraint"]
        filled = [*pip, str(REQUIREMENTS), *packages]
        if all(subprocess.run(command).returncode == 0 for command in (made, filled)):
            done.touch()
            return python
    return None


class Worker:
    """A process that fits by one framework."""

    def __init__(self, name: str, python: Path, data: Path, log: Path) -> None:
        module, setting = WORKERS[name]
        self.name, self.log = name, log
        worker = ["-m", "benchmarks.frameworks.worker"]
        with log.open("w") as errors:
            self.process = subprocess.Popen(
                [str(python), "-W", "ignore", *worker, f"in_{module}", data],
                cwd=record.ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**os.environ, **setting},
            )

    def ask(self, do: str, **request: Any) -> dict[str, Any]:
        """Send a request and wait for its answer."""
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps({"do": do, **request}) + "\n")
            self.process.stdin.flush()
        if answer := self.process.stdout.readline():
            return json.loads(answer)
        errors = self.log.read_text(encoding="utf-8")[-2_000:]
        raise RuntimeError(f"{self.name} ended before it answered {do!r}:\n{errors}")

    def stop(self) -> None:
        """End the process."""
        self.process.stdin.close()
        self.process.wait()


def time_model(
    workers: Sequence[Worker], model: str, *, seconds: float | None, repeats: int
) -> dict[str, list[float]]:
    """Return steps per second of each run by each worker, about `seconds` a run.

    Without seconds, runs have 50 steps.
    """
    fit = {"model": model, "learning_rate": LEARNING_RATE}
    steps = {}
    for worker in workers:
        many = 50
        worker.ask("run", **fit, steps=many)
        # Longer and longer; the first run of a length may compile for it.
        while seconds:
            worker.ask("run", **fit, steps=many)
            spent = worker.ask("run", **fit, steps=many)["seconds"]
            if spent > 0.6 * seconds:
                break
            many = round(many * min(20, 1.1 * seconds / spent))
        steps[worker.name] = many
    rates = {worker.name: [] for worker in workers}
    for _ in range(repeats):
        for worker in workers:
            spent = worker.ask("run", **fit, steps=steps[worker.name])["seconds"]
            rates[worker.name].append(steps[worker.name] / spent)
    return rates


def describe(
    worker: Worker, model: str, steps: int | None, reference: tuple
) -> dict[str, Any]:
    """Return how a fit ended, beside the reference.

    It has at least so many steps; without a number, as many as the worker finds enough.
    """
    answer = worker.ask("finish", model=model, steps=steps, site=SITES[model])
    mean, sd = moments(model, answer["loc"], answer["scale"])
    error = np.max(np.abs(mean - reference[0]) / reference[1])
    ratios = sd / reference[1]
    return {
        "steps": answer["steps"],
        "mean_of_last_losses": round(answer["mean_of_last_losses"], 1),
        "mean": np.round(mean, 4).tolist(),
        "sd": np.round(sd, 4).tolist(),
        "largest_error_of_mean_in_sd": round(float(error), 2),
        "sd_over_reference": np.round([ratios.min(), ratios.max()], 2).tolist(),
    }


def compare(
    workers: Sequence[Worker],
    models: Sequence[str],
    references: dict[str, tuple],
    *,
    seconds: float | None,
    repeats: int,
    steps: int | None,
) -> dict[str, Any]:
    """Return speeds, their ratios and the fits themselves, by model."""
    compared = {}
    for model in models:
        rates = time_model(workers, model, seconds=seconds, repeats=repeats)
        ours = [name for name in rates if name.startswith("numpyro")]
        compared[model] = {
            "steps_per_second": {k: round(median(each)) for k, each in rates.items()},
            "times_others": {
                mine: {
                    name: round(median(np.divide(rates[mine], each)), 2)
                    for name, each in rates.items()
                    if name not in ours
                }
                for mine in ours
            },
            "steps_per_second_of_each_run": {
                name: [round(rate) for rate in each] for name, each in rates.items()
            },
        }
        if model in SITES:
            mean, sd = (np.round(each, 4).tolist() for each in references[model])
            compared[model]["reference"] = {"mean": mean, "sd": sd}
            compared[model]["fits"] = {
                worker.name: describe(worker, model, steps, references[model])
                for worker in workers
            }
    return compared


def check(compared: dict[str, Any]) -> None:
    """Stop unless all fits of a model came near its posterior."""
    for model in SITES.keys() & compared.keys():
        for name, ended in compared[model]["fits"].items():
            low, high = ended["sd_over_reference"]
            error = ended["largest_error_of_mean_in_sd"]
            assert error < 2, f"{model}, {name}: mean off by {error} sd"
            assert 0.5 < low <= high < 2, f"{model}, {name}: sd {low} to {high}"


def name_interpreters(
    parser: argparse.ArgumentParser, packages: Mapping[str, Sequence[str]]
) -> None:
    """Add the options that name interpreters, and the one that installs nothing."""
    for framework in packages:
        parser.add_argument(f"--{framework}-python", type=Path, metavar="PYTHON")
    parser.add_argument(
        "--no-install", action="store_true", help="leave out what is not installed"
    )


def interpreters(
    options: argparse.Namespace, packages: Mapping[str, Sequence[str]]
) -> dict[str, Path]:
    """Return an interpreter for each framework: named, there already, or installed."""
    found = {}
    for framework, wanted in packages.items():
        python = getattr(options, f"{framework}_python")
        there = (ROOT / f".env-{framework}" / ".installed").exists()
        if python is None and (there or not options.no_install):
            python = install(framework, wanted)
        if python is not None:
            found[framework] = python
    missing = sorted(set(packages) - set(found))
    if missing and not options.no_install:
        sys.exit(
            f"Could not install {missing}; name a --{missing[0]}-python that works"
        )
    return found


def make_parser() -> argparse.ArgumentParser:
    """Return the options."""
    parser = record.parser(__doc__)
    name_interpreters(parser, INSTALLED)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--seconds", type=float, default=0.3, help="length of a run")
    parser.add_argument("--repeats", type=int, default=5)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Time the frameworks and write the figures down."""
    parser = make_parser()
    options = parser.parse_args(argv)
    seconds, repeats, steps = options.seconds, options.repeats, None
    if options.quick:
        seconds, repeats, steps = None, 1, 50

    pythons = {"numpyro": Path(sys.executable)} | interpreters(options, INSTALLED)
    missing = sorted(set(INSTALLED) - set(pythons))

    data = all_data()
    with contextlib.ExitStack() as stack:
        temporary = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        np.savez(temporary / "data.npz", **data)
        workers = []
        for name, (framework, _) in WORKERS.items():
            if framework in pythons:
                files = temporary / "data.npz", temporary / f"{name}.log"
                workers.append(Worker(name, pythons[framework], *files))
                stack.callback(workers[-1].stop)
        frameworks = {worker.name: worker.ask("describe") for worker in workers}
        compared = compare(
            workers,
            options.models,
            references(data),
            seconds=seconds,
            repeats=repeats,
            steps=steps,
        )
    if not options.quick:
        check(compared)
    hidden = ("out", "no_install", *(f"{framework}_python" for framework in INSTALLED))
    facts = {
        **record.origin("frameworks.compare", parser, options, ("jax",), hidden=hidden),
        "device": device(),
        "left_out": missing,
        "guide": "mean-field normal",
        "optimizer": f"Adam, learning rate {LEARNING_RATE}",
        "draws_per_step": 1,
        "rows": {
            name: len(values)
            for name in options.models
            for key, values in data.items()
            if key.startswith(f"{name}/")
        },
        "repeats": repeats,
        "frameworks": frameworks,
        "models": compared,
    }
    record.write(record.folder(options) / "frameworks.json", facts)


if __name__ == "__main__":
    main()
