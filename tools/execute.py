"""Execute the notebooks in course order, store their outputs, stamp each run.

``make notebooks`` runs all of them, ``make notebooks NB=03`` one. A notebook is stored
only if all of it ran and its outputs are fit to be stored; the others run in any case.
``--check`` runs nothing and says which notebooks no longer match their outputs.
"""

import argparse
import ast
import base64
import datetime
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

import nbformat
import psutil
import yaml
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from PIL import Image

from helpers import environment
from setup_check import check_setup

ROOT = Path(__file__).resolve().parents[1]

SECONDS_LIMIT = 90
COMPILATION = """
import time

import jax
import jax.numpy as jnp


def total(x):
    for i in range(60):
        x = jnp.tanh(x @ x + i) / (1 + jnp.abs(x).sum())
    return x.sum()


start = time.perf_counter()
jax.jit(jax.grad(total)).lower(jnp.ones((8, 8))).compile()
print(time.perf_counter() - start)
"""
QUIET = 0.78  # seconds that it takes on the machine that the limit is meant for
BUSY = 1.25  # so many times slower, a machine cannot tell
MIB_LIMIT = 2048
CORES = 2  # the limits above are meant for a machine with two cores
CELL_TIMEOUT = 300

NAMES = {
    "python": "Python",
    "jax": "JAX",
    "numpyro": "NumPyro",
    "flax": "Flax",
    "optax": "Optax",
    "arviz": "ArviZ",
}

# The stamp of a run holds a hash of each of these; a different hash means the text.
CHANGED = {
    "code": "its code changed after it was executed",
    "modules": "modules that it imports changed after it was executed",
    "data": "files in benchmarks/ that it reads changed after it was executed",
    "outputs": "its outputs are not those of the run that it names",
}

# Traces of one machine or of one run that a stored output must not carry.
MACHINE_PATH = re.compile(
    r"(?<![\w.:/])/(home|root|Users|tmp|work|var/folders)/|\b[A-Z]:\\"
)
PROGRESS = re.compile(r"\d%\||[\r\x1b]")
ADDRESS = re.compile(r"\bat 0x[0-9a-f]{6,}")
CELL_METADATA = {"tags"}


class UnreadableError(Exception):
    """A file cannot be read as a notebook."""


def read(path: Path, as_version: int | object = 4) -> nbformat.NotebookNode:
    """Read a notebook; name the file if that fails."""
    try:
        return nbformat.read(path, as_version=as_version)
    except UnicodeDecodeError:
        reason = "it is not UTF-8"
    except (ValueError, KeyError, AttributeError):
        reason = "it is cut short, or holds the marks of a merge conflict"
    raise UnreadableError(f"{path.name} is not a notebook: {reason}")


def sidebar(root: Path = ROOT) -> list[str]:
    """Return the sources of all pages in the order of the sidebar."""

    def sources(node: object) -> Iterator[str]:
        if isinstance(node, str) and node.endswith((".qmd", ".ipynb")):
            yield node
        elif isinstance(node, (dict, list)):
            for value in node.values() if isinstance(node, dict) else node:
                yield from sources(value)

    config = yaml.safe_load((root / "_quarto.yml").read_text(encoding="utf-8"))
    return list(sources(config["website"]["sidebar"]["contents"]))


def course_order(root: Path = ROOT) -> list[Path]:
    """Return the notebooks as the sidebar orders them, then any that it lacks."""
    found = sorted((root / "notebooks").glob("[0-9]*.ipynb"))
    listed = [root / name for name in sidebar(root)]
    return [p for p in listed if p in found] + [p for p in found if p not in listed]


def stored_notebooks(root: Path = ROOT) -> list[Path]:
    """Return all notebooks with outputs: the course, then pages beside it."""
    return [*course_order(root), *sorted(root.glob("*.ipynb"))]


def options(cell: dict) -> dict:
    """Read the ``#|`` options at the head of a code cell."""
    lines = [x[2:] for x in cell["source"].splitlines() if x.startswith("#|")]
    return yaml.safe_load("\n".join(line.removeprefix(" ") for line in lines)) or {}


def python_source(cell: dict) -> str:
    """Return the code of a cell without its ``#|`` options and IPython magics."""
    lines = cell["source"].splitlines()
    return "\n".join(x for x in lines if not x.lstrip().startswith(("#|", "%", "!")))


def imported(code: str, package: tuple[str, ...] = ()) -> Iterator[str]:
    """Yield the dotted names that code imports, from inside a package or outside."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else ()
            base = [*above, *([node.module] if node.module else [])]
            yield from (".".join([*base, alias.name]) for alias in node.names)


def module_files(name: str, folder: Path) -> Iterator[Path]:
    """Yield the files in a folder that the import of a dotted name runs."""
    for part in name.split("."):
        folder = folder / part
        paths = (folder / "__init__.py", folder.with_suffix(".py"))
        yield from (path for path in paths if path.is_file())


def used_modules(code: str, root: Path) -> set[Path]:
    """Find the project's modules that code imports, directly or through each other."""
    found: set[Path] = set()
    waiting = list(imported(code))
    while waiting:
        name = waiting.pop()
        for top in (root / "src", root):
            for path in set(module_files(name, top)) - found:
                found.add(path)
                package = path.relative_to(top).parent.parts
                waiting += imported(path.read_text(encoding="utf-8"), package)
    return found


def used_data(code: str, folder: Path) -> set[Path]:
    """Find the files in ``folder`` that strings of the code name.

    A string names a file by its name, by a pattern, or (``stored("rows")``) by its
    stem. Only code that mentions the folder reads from it.
    """
    constants = [x.value for x in ast.walk(ast.parse(code)) if type(x) is ast.Constant]
    texts = [x for x in constants if isinstance(x, str)]
    if not any(folder.name in text for text in texts):
        return set()
    names = {PurePosixPath(text).name for text in texts}
    return {
        path
        for path in folder.rglob("*.*")
        if path.is_file()
        and (
            any(fnmatch(path.name, name) for name in names)
            or (path.stem in names and path.suffix != ".py")
        )
    }


def meaning(node: object) -> object:
    """Return what code does, without what cannot change an output.

    Layout, comments, docstrings and the annotations of functions are left out.
    Annotations of variables stay: a dataclass makes fields of them.
    """
    if isinstance(node, list):
        return [meaning(x) for x in node if not is_docstring(x)]
    if not isinstance(node, ast.AST):
        return repr(node)
    hints = () if isinstance(node, ast.AnnAssign) else ("annotation", "returns")
    fields = [(name, x) for name, x in ast.iter_fields(node) if name not in hints]
    # Newer versions of Python add fields, empty in code that does not need them.
    parts = [[name, meaning(x)] for name, x in fields if x not in (None, [])]
    return [type(node).__name__, *parts]


def is_docstring(node: ast.AST) -> bool:
    """Return whether a statement is nothing but a string."""
    is_constant = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return is_constant and isinstance(node.value.value, str)


def content(path: Path) -> str:
    """Return what a file holds; for a module, only what it does."""
    if path.suffix == ".py":
        return json.dumps(meaning(ast.parse(path.read_text(encoding="utf-8"))))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def sha256(parts: object) -> str:
    """Hash lists and texts."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def hashes(nb: dict, root: Path = ROOT) -> dict[str, str]:
    """Hash the code of a notebook, what the code uses, and the stored outputs.

    The ``#|`` options are left out: they say how an output is shown, not what it is.
    """
    cells = [cell for cell in nb["cells"] if cell["cell_type"] == "code"]
    lines = [cell["source"].splitlines() for cell in cells]
    code = "\n".join(python_source(cell) for cell in cells)
    files = {
        "modules": used_modules(code, root),
        "data": used_data(code, root / "benchmarks"),
    }
    return {
        "code": sha256([[x for x in c if not x.startswith("#|")] for c in lines]),
        **{
            part: sha256([[path.name, content(path)] for path in sorted(paths)])
            for part, paths in files.items()
        },
        "outputs": sha256([[shown(o) for o in cell["outputs"]] for cell in cells]),
    }


def shown(output: dict) -> list:
    """Return the texts and figures of an output, whether or not split into lines."""
    data = {"text": output.get("text", ""), **output.get("data", {})}
    return [[kind, "".join(data[kind])] for kind in sorted(data)]


def stale(nb: dict, root: Path = ROOT) -> list[str]:
    """Say in which ways a notebook and its outputs no longer belong together."""
    stamp = nb["metadata"].get("course")
    if not stamp:
        return ["it was never executed with `make notebooks`"]
    then, now = stamp.get("sha256", {}), hashes(nb, root)
    return [text for part, text in CHANGED.items() if now[part] != then.get(part)]


def name_of(cell: dict, number: int) -> str:
    """Name a cell for a message: its position and its label or first line of code."""
    label = re.search(r"^#\| label: (\S+)", cell["source"], re.MULTILINE)
    code = python_source(cell).strip().splitlines() or [""]
    return f"cell {number} ({label[1] if label else code[0][:60]})"


def output_faults(nb: dict) -> list[str]:
    """Name each output that must not be stored."""
    faults = []
    for number, cell in enumerate(nb["cells"], 1):
        if cell["cell_type"] != "code":
            continue
        for output in cell["outputs"]:
            data = output.get("data", {})
            parts = [output.get("text", "")]
            parts += [v for k, v in data.items() if k.startswith("text/")]
            text = "\n".join("".join(part) for part in parts)
            if output["output_type"] == "error":
                fault = f"an error: {output['ename']}: {output['evalue'][:200]}"
            elif output.get("name") == "stderr":
                fault = f"stderr: {text.strip()[:200]}"
            elif PROGRESS.search(text):
                fault = "a progress bar or terminal colors"
            elif path := MACHINE_PATH.search(text):
                line = next(x for x in text.splitlines() if path[0] in x)
                fault = f"a path of this machine: {line.strip()[:120]}"
            elif address := ADDRESS.search(text):
                fault = f"a memory address ({address[0]}); end the line with ;"
            else:
                continue
            faults.append(f"{name_of(cell, number)}: {fault}")
    return faults


def is_widget(output: dict) -> bool:
    """Return whether an output is a live progress bar, which cannot be stored."""
    return any("widget" in kind for kind in output.get("data", {}))


def smaller(png: str) -> str:
    """Store a figure with a palette of 256 colors: a third of the size, the same look.

    One that has a palette already stays as it is.
    """
    image = Image.open(io.BytesIO(base64.b64decode(png)))
    if image.mode == "P":
        return png
    stored = io.BytesIO()
    palette = image.convert("RGB").quantize(256, dither=Image.Dither.NONE)
    palette.save(stored, "PNG", optimize=True, dpi=image.info.get("dpi"))
    return base64.b64encode(stored.getvalue()).decode()


def tidy(nb: dict) -> None:
    """Drop what one run or one editor leaves behind and no reader needs."""
    nb["nbformat"], nb["nbformat_minor"] = 4, 5
    nb["metadata"] = {
        "kernelspec": {
            "display_name": "Python 3",
            "language": "python",
            "name": "python3",
        },
        "language_info": {"file_extension": ".py", "name": "python"},
        **{k: v for k, v in nb["metadata"].items() if k == "course"},
    }
    for cell in nb["cells"]:
        cell["metadata"] = {
            k: v for k, v in cell["metadata"].items() if k in CELL_METADATA and v
        }
        if hidden := folded_in_lab(cell):
            cell["metadata"]["jupyter"] = hidden
        if cell["cell_type"] == "code":
            cell["outputs"] = [o for o in cell["outputs"] if not is_widget(o)]
        for output in cell.get("outputs", ()):
            if "metadata" in output:
                sizes = output["metadata"].get("image/png")
                output["metadata"] = {"image/png": sizes} if sizes else {}
            if "image/png" in output.get("data", {}):
                output["data"]["image/png"] = smaller(output["data"]["image/png"])


def folded_in_lab(cell: dict) -> dict[str, bool]:
    """Return what JupyterLab hides: what the pages fold."""
    folded = cell["cell_type"] == "code" and "#| code-fold: true" in cell["source"]
    return {"source_hidden": True} if folded else {}


def unstamped(nb: dict) -> list[dict]:
    """Return the cells without the stamp of an earlier run."""
    return [c for c in nb["cells"] if "stamp" not in c["metadata"].get("tags", ())]


def stamp_text(facts: dict) -> str:
    """Say in one sentence what made the outputs."""
    of = facts["versions"]
    versions = ", ".join(f"{NAMES[name]} {of[name]}" for name in NAMES if name in of)
    return (
        f"*The outputs on this page were made on {facts['executed']} with {versions} "
        f"on {facts['device']} in {facts['seconds']:.0f} s, "
        f"with at most {facts['peak_mib']} MiB of memory.*"
    )


def stamp(nb: dict, facts: dict) -> None:
    """Store the facts of a run as data and, for readers, as the last cell."""
    nb["metadata"]["course"] = facts
    text = stamp_text(facts)
    cell = nbformat.v4.new_markdown_cell(text, id="stamp", metadata={"tags": ["stamp"]})
    nb["cells"] = [*unstamped(nb), cell]


class PeakMemory(threading.Thread):
    """Follow the memory of a kernel and its children while it runs."""

    def __init__(self, client: NotebookClient):
        super().__init__(daemon=True)
        self.client, self.mib, self.done = client, 0, threading.Event()

    def run(self) -> None:
        """Measure five times a second: looking for children takes a while."""
        while not self.done.wait(0.2):
            provisioner = getattr(self.client.km, "provisioner", None)
            pid = getattr(provisioner, "pid", None)
            if pid:
                try:
                    kernel = psutil.Process(pid)
                    group = [kernel, *kernel.children(recursive=True)]
                    used = sum(process.memory_info().rss for process in group)
                except psutil.Error:
                    continue  # a process ended while it was looked at
                self.mib = max(self.mib, round(used / 2**20))


def run(nb: nbformat.NotebookNode, folder: Path) -> tuple[float, int]:
    """Execute a notebook in place; return its seconds and its peak memory in MiB."""
    client = NotebookClient(
        nb,
        timeout=CELL_TIMEOUT,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        store_widget_state=False,
        extra_arguments=["--log-level=ERROR"],
        resources={"metadata": {"path": str(folder)}},
    )
    memory = PeakMemory(client)
    memory.start()
    start = time.perf_counter()
    try:
        client.execute()
    finally:
        memory.done.set()
        memory.join()
    return round(time.perf_counter() - start, 1), memory.mib


def pace() -> float:
    """Return how many times slower this machine is now than the limit assumes.

    Shared machines run at half their speed at times. A program that XLA compiles tells,
    since notebooks compile most of their time; a sum in plain Python did not. (Notebook
    04 took 141 s when this took 1.24 s, and 89 s on a quiet machine.)
    """
    seconds = float(printed(COMPILATION, JAX_PLATFORMS="cpu"))
    return round(max(1.0, seconds / QUIET), 2)


def printed(code: str, **variables: str) -> str:
    """Return what another process prints; it gets more environment variables."""
    command, env = [sys.executable, "-c", code], os.environ | variables
    done = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, env=env
    )
    return done.stdout.strip()


def device() -> str:
    """Ask another process for the device: JAX may take all of a GPU's memory."""
    return printed("from helpers.environment import device; print(device())")


def execute(path: Path, where: str) -> list[str]:
    """Execute and store one notebook; return what is wrong with it, if anything."""
    print(f"{path.stem:<28}", end=" ", flush=True)
    if not os.access(path.parent, os.W_OK):
        print("not run")
        return [f"nothing can be stored in {path.parent}: make the folder writable"]
    try:
        nb = read(path)
        nb["cells"] = unstamped(nb)
        before = hashes(nb)
        slower = pace()
        seconds, peak = run(nb, path.parent)
        slower = round((slower + pace()) / 2, 2)
    except UnreadableError as error:
        print("not run")
        return [str(error)]
    except SyntaxError as error:
        print("not run")
        return [f"not plain Python: {error.msg}: {error.text}"]
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        print("failed, not stored")
        return [re.sub(r"\x1b\[[\d;]*m", "", str(error))]
    pace_now = f"machine {slower} times slower than a quiet one"
    print(f"{seconds:6.1f} s {peak:6d} MiB, {pace_now}", end="  ", flush=True)
    tidy(nb)
    faults = output_faults(nb)
    if not faults:
        facts = {
            "executed": datetime.date.today().isoformat(),
            "seconds": seconds,
            "peak_mib": peak,
            "slower": slower,
            "device": where,
            "versions": environment.versions(),
            "sha256": {**before, "outputs": hashes(nb)["outputs"]},
        }
        stamp(nb, facts)
        faults = store(nb, path)
    print("not stored" if faults else "stored")
    judged = seconds if slower < BUSY else 0
    for value, limit, unit in ((judged, SECONDS_LIMIT, "s"), (peak, MIB_LIMIT, "MiB")):
        if value > limit:
            print(
                f"  {value} {unit}, of the {limit} {unit} that the course allows "
                "itself on two quiet cores: fine for a copy, but tests would refuse it",
                file=sys.stderr,
            )
    return faults


def store(nb: nbformat.NotebookNode, path: Path) -> list[str]:
    """Write a notebook in one step; return what kept it from being written."""
    nbformat.validate(nb)
    unfinished = path.with_suffix(".ipynb.part")
    try:
        nbformat.write(nb, unfinished)
        os.replace(unfinished, path)
    except OSError as error:
        return [f"it could not be written: {error}"]
    return []


def check(path: Path) -> list[str]:
    """Say in which ways a stored notebook is stale or cannot be read."""
    try:
        return stale(read(path))
    except UnreadableError as error:
        return [str(error)]
    except SyntaxError as error:
        return [f"not plain Python: {error.msg}: {error.text}"]


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="how names begin, e.g. 03; else all")
    parser.add_argument("--check", action="store_true", help="only say what is stale")
    options = parser.parse_args(arguments)
    check_setup()

    paths = stored_notebooks()
    for name in options.names:
        if not any(p.name.startswith(name) for p in paths):
            parser.error(f"no notebook begins with {name!r}: {[p.stem for p in paths]}")
    if options.names:
        paths = [p for p in paths if p.name.startswith(tuple(options.names))]

    if options.check:
        faults = {p.stem: check(p) for p in paths}
    else:
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
        where = device()
        faults = {p.stem: execute(p, where) for p in paths}

    for name, texts in faults.items():
        for text in texts:
            print(f"\n{name}: {text}", file=sys.stderr)
    bad = sum(map(bool, faults.values()))
    print(f"{len(paths) - bad} of {len(paths)} notebooks are fine.")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
