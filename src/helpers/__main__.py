"""Check the set-up: ``python -m helpers``.

Each line that is printed starts with ``ok`` or, with the command that mends it, with
``MEND``. The whole output is meant to be pasted into a question. Nothing heavy is
imported at the top, so that the check runs where a package is missing or broken.
"""

import importlib
import math
import os
import platform
import re
import shutil
import sys
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from helpers import environment

PROJECT = "scaling-vi"
MODULES = {"scikit-learn": "sklearn"}  # where the name to import is another
ROOT = Path(__file__).resolve().parents[2]


def check() -> bool:
    """Print the state of the set-up, one line per item; return whether all is well."""
    print(f"{platform.platform()}, {environment.cores()} cores, {platform.machine()}")
    if not _check_project() or not _check_folder():
        return False
    results = [_check_python()]
    results += [_check_package(name, floor) for name, floor in _requirements()]
    results += [
        _check_optional(name, floor) for name, floor in _requirements("workshop")
    ]
    if all(results):
        results.append(_check_device())
    if all(results):
        results.append(_check_computation())
    bad = results.count(False)
    if bad:
        print(f"\n{bad} to mend: run the command above, then this check again.")
        print("If that does not help, paste all of this into your question.")
    else:
        print("\nAll is well: the notebooks will run here.")
    return not bad


def _python() -> str:
    """Name this Python as a user would type it, without a machine's paths."""
    local = Path(".venv", "Scripts" if os.name == "nt" else "bin", "python")
    if local.exists() and Path(sys.prefix) == Path(".venv").resolve():
        return str(local)
    return "python"


def _install_command(requirement: str) -> str:
    """Return the command that installs a requirement, from the lock where it is."""
    lock = ROOT / "requirements.lock"
    if not lock.exists():
        return f'{_python()} -m pip install "{requirement}"'
    try:
        where = lock.relative_to(Path.cwd())
    except ValueError:
        where = lock
    return f"{_python()} -m pip install -r {where}"


def _numbers(version: str) -> tuple[int, ...]:
    """Turn the leading numbers of a version into a tuple that compares."""
    return tuple(int(n) for n in re.match(r"[\d.]*", version)[0].split(".") if n)


def _requirements(extra: str | None = None) -> Iterator[tuple[str, str]]:
    """Yield name and lowest version of what the installed project requires."""
    for line in metadata.requires(PROJECT) or ():
        requirement, _, marker = line.partition(";")
        wanted = re.search(r"extra\s*==\s*['\"](\w+)", marker)
        if (wanted[1] if wanted else None) == extra:
            name, _, floor = requirement.partition(">=")
            yield name.strip(), floor.strip()


def _reason(error: Exception) -> str:
    """Return an error's kind and the first line of what it says."""
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _report(ok: bool, text: str, mend: str = "") -> bool:
    """Print one line and hand back whether it was good."""
    print(f"ok    {text}" if ok else f"MEND  {text}\n      {mend}", flush=True)
    return ok


def _check_project() -> bool:
    try:
        return _report(True, f"{PROJECT} {metadata.version(PROJECT)}")
    except metadata.PackageNotFoundError:
        text = f"{PROJECT}, the package of this course, is not installed"
        return _report(False, text, f"{_python()} -m pip install --no-deps -e .")


def _check_folder() -> bool:
    """Compare this package with the one of the project in the working folder."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        found = folder / "src" / "helpers"
        if found.is_dir() and not found.samefile(Path(__file__).parent):
            text = f"helpers come from another folder: {Path(__file__).parent}"
            return _report(False, text, f"make setup (in {folder})")
    return True


def _check_python() -> bool:
    floor = metadata.metadata(PROJECT)["Requires-Python"].removeprefix(">=")
    return _report(
        sys.version_info[:2] >= _numbers(floor),
        f"python {platform.python_version()}",
        f"the course needs Python {floor} or newer: make setup PYTHON=python{floor}",
    )


def _check_package(name: str, floor: str) -> bool:
    mend = _install_command(f"{name}>={floor}")
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return _report(False, f"{name} is missing", mend)
    if _numbers(version) < _numbers(floor):
        return _report(False, f"{name} {version} is older than {floor}", mend)
    try:
        importlib.import_module(MODULES.get(name, name))
    except Exception as error:  # any error at all makes the package useless
        text = f"{name} {version} cannot be imported: {_reason(error)}"
        return _report(
            False, text, mend.replace("install", "install --force-reinstall")
        )
    with_lib = f" (jaxlib {metadata.version('jaxlib')})" if name == "jax" else ""
    return _report(True, f"{name} {version}{with_lib}")


def _check_optional(name: str, floor: str) -> bool:
    try:
        return _report(True, f"{name} {metadata.version(name)}")
    except metadata.PackageNotFoundError:
        print(f"--    {name} is missing; only `make lab` needs it")
        print(f"      {_install_command(f'{name}>={floor}')}")
        return True


def _check_device() -> bool:
    try:
        text = environment.device()
    except Exception as error:
        chosen = os.environ.get("JAX_PLATFORMS")
        mend = "unset JAX_PLATFORMS" if chosen else _install_command("jax")
        return _report(False, f"JAX finds no device: {_reason(error)}", mend)
    if text.startswith("CPU") and shutil.which("nvidia-smi") and os.name == "posix":
        print(
            "--    an NVIDIA GPU may be here, and JAX does not use it; it is not needed"
        )
        print(f'      {_python()} -m pip install "jax[cuda13]"')
    return _report(True, f"device: {text}")


def _check_computation() -> bool:
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist
    from jax import random
    from numpyro.infer import SVI, Trace_ELBO
    from numpyro.infer.autoguide import AutoNormal
    from numpyro.optim import Adam

    def model(y):
        location = numpyro.sample("location", dist.Normal(0, 10))
        numpyro.sample("y", dist.Normal(location, 1), obs=y)

    start = time.perf_counter()
    y = jnp.array([1.0, 2.0, 3.0])
    try:
        svi = SVI(model, AutoNormal(model), Adam(0.1), Trace_ELBO())
        losses = svi.run(random.key(0), 50, y, progress_bar=False).losses
        first, last = float(losses[0]), float(losses[-10:].mean())
    except Exception as error:
        text = f"50 steps of SVI failed: {_reason(error)}"
        return _report(False, text, _install_command("numpyro"))
    seconds = time.perf_counter() - start
    return _report(
        math.isfinite(last) and last < first,
        f"50 steps of SVI in {seconds:.1f} s: loss from {first:.1f} to {last:.1f}",
        "the loss did not fall; " + _install_command("numpyro"),
    )


if __name__ == "__main__":
    sys.exit(0 if check() else 1)
