"""Execute the notebooks in course order, store their outputs, stamp each run.

``make notebooks`` runs them all, ``make notebooks NB=03`` one. A notebook is written
only after all of it ran and its outputs are fit to be stored; the others run in any
case. ``--check`` runs nothing and says which notebooks no longer match their outputs.
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
from collections.abc import Iterable, Iterator
from pathlib import Path

import nbformat
import psutil
import yaml
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from PIL import Image

import inputs
from helpers import environment

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "notebooks"
HELPERS = ROOT / "src" / "helpers"

SECONDS_LIMIT = 90
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

# Traces of one machine or of one run that a stored output must not carry.
MACHINE_PATH = re.compile(
    r"(?<![\w.:/])/(home|root|Users|tmp|work|var/folders)/|\b[A-Z]:\\"
)
PROGRESS = re.compile(r"\d%\||[\r\x1b]")
ADDRESS = re.compile(r"\bat 0x[0-9a-f]{6,}")
CELL_METADATA = {"tags"}
SOLUTION_TEXT = re.compile(r"::: *\{\.callout-\w+ [^}]*title=\"Solution\"")


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
    """Return all notebooks with outputs: those of the course, and the page of results.

    The page of results has no exercises and stands beside the course.
    """
    return [*course_order(root), root / "results.ipynb"]


def python_source(cell: dict) -> str:
    """Return the code of a cell without its ``#|`` options and IPython magics."""
    lines = cell["source"].splitlines()
    return "\n".join(x for x in lines if not x.lstrip().startswith(("#|", "%", "!")))


def code_sha256(nb: dict) -> str:
    """Hash the code of all code cells in order.

    The ``#|`` options are left out: they say how an output is shown, not what it is.
    """
    sources = [
        "\n".join(x for x in c["source"].splitlines() if not x.startswith("#|"))
        for c in nb["cells"]
        if c["cell_type"] == "code"
    ]
    return hashlib.sha256(json.dumps(sources).encode()).hexdigest()


def helper_modules(sources: Iterable[str], folder: Path = HELPERS) -> set[Path]:
    """Find the helpers modules that code imports, directly or through each other."""
    package = folder.name

    def imported(source: str, inside: bool) -> Iterator[str]:
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                base = node.module or ""
                if node.level and inside:
                    base = f"{package}.{base}".rstrip(".")
                yield base
                yield from (f"{base}.{alias.name}" for alias in node.names)

    found: set[Path] = set()
    waiting = [name for source in sources for name in imported(source, inside=False)]
    while waiting:
        first, *rest = waiting.pop().split(".")
        if first != package:
            continue
        for path in {folder / "__init__.py", *(folder / f"{x}.py" for x in rest[:1])}:
            if path.exists() and path not in found:
                found.add(path)
                waiting += imported(path.read_text(encoding="utf-8"), inside=True)
    return found


def skeleton(node: object) -> object:
    """Return what a piece of code does, whatever its layout and Python's version."""
    if isinstance(node, ast.AST):
        fields = ast.iter_fields(node)
        parts = [[name, skeleton(x)] for name, x in fields if x not in (None, [])]
        return [type(node).__name__, *parts]
    return [skeleton(x) for x in node] if isinstance(node, list) else repr(node)


def helpers_sha256(nb: dict, folder: Path = HELPERS) -> str:
    """Hash the code of the helpers modules that a notebook uses.

    Comments and line breaks are left out: they change no output.
    """
    sources = [python_source(c) for c in nb["cells"] if c["cell_type"] == "code"]
    digest = hashlib.sha256()
    for path in sorted(helper_modules(sources, folder)):
        code = json.dumps(skeleton(ast.parse(path.read_text(encoding="utf-8"))))
        digest.update(f"{path.name}\0{code}\0".encode())
    return digest.hexdigest()


def inputs_sha256(nb: dict) -> str:
    """Hash the files of `benchmarks/` that a notebook reads; "" if it reads none."""
    sources = [python_source(c) for c in nb["cells"] if c["cell_type"] == "code"]
    return inputs.sha256(sources)


def stale(nb: dict, folder: Path = HELPERS) -> list[str]:
    """Say in which ways the code is no longer the code that made the outputs."""
    stamp = nb["metadata"].get("course")
    if not stamp:
        return ["it was never executed with `make notebooks`"]
    reasons = []
    if stamp["code_sha256"] != code_sha256(nb):
        reasons.append("its code changed after it was executed")
    if stamp["helpers_sha256"] != helpers_sha256(nb, folder):
        reasons.append("helpers that it uses changed after it was executed")
    if stamp.get("inputs_sha256", "") != inputs_sha256(nb):
        reasons.append("results that it shows changed after it was executed")
    return reasons


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
    """Tell a live progress bar, which means nothing once it is stored."""
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
    """Tell what JupyterLab should hide: what the pages fold, and all of a solution."""
    source = cell["source"]
    if cell["cell_type"] == "markdown":
        is_solution = SOLUTION_TEXT.match(source)
        return {"source_hidden": True} if is_solution else {}
    if "#| code-fold: true" not in source:
        return {}
    if '#| code-summary: "Solution code"' in source:
        return {"outputs_hidden": True, "source_hidden": True}
    return {"source_hidden": True}


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


def device() -> str:
    """Ask another process for the device: JAX may take all of a GPU's memory."""
    code = "from helpers.environment import device; print(device())"
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True
    ).stdout.strip()


def execute(path: Path, where: str) -> list[str]:
    """Execute and store one notebook; return what is wrong with it, if anything."""
    print(f"{path.stem:<28}", end=" ", flush=True)
    nb = nbformat.read(path, as_version=4)
    nb["cells"] = [
        c for c in nb["cells"] if "stamp" not in c["metadata"].get("tags", ())
    ]
    try:
        before = code_sha256(nb), helpers_sha256(nb), inputs_sha256(nb)
        seconds, peak = run(nb, path.parent)
    except SyntaxError as error:
        print("not run")
        return [f"not plain Python: {error.msg}: {error.text}"]
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        print("failed, not stored")
        return [re.sub(r"\x1b\[[\d;]*m", "", str(error))]
    print(f"{seconds:6.1f} s {peak:6d} MiB", end="  ", flush=True)
    tidy(nb)
    if faults := output_faults(nb):
        print("not stored")
        return faults
    facts = {
        "executed": datetime.date.today().isoformat(),
        "seconds": seconds,
        "peak_mib": peak,
        "device": where,
        "versions": environment.versions(),
        "code_sha256": before[0],
        "helpers_sha256": before[1],
        "inputs_sha256": before[2],
    }
    stamp(nb, facts)
    nbformat.validate(nb)
    unfinished = path.with_suffix(".ipynb.part")
    nbformat.write(nb, unfinished)
    os.replace(unfinished, path)
    print("stored")
    for value, limit, unit in ((seconds, SECONDS_LIMIT, "s"), (peak, MIB_LIMIT, "MiB")):
        if value > limit:
            print(
                f"  {value} {unit}, of the {limit} {unit} that the course allows "
                "itself on two quiet cores: fine for a copy, but tests would refuse it",
                file=sys.stderr,
            )
    return []


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="how names begin, e.g. 03; else all")
    parser.add_argument("--check", action="store_true", help="only say what is stale")
    options = parser.parse_args(arguments)

    paths = stored_notebooks()
    for name in options.names:
        if not any(p.name.startswith(name) for p in paths):
            parser.error(f"no notebook begins with {name!r}: {[p.stem for p in paths]}")
    if options.names:
        paths = [p for p in paths if p.name.startswith(tuple(options.names))]

    if options.check:
        faults = {p.stem: stale(nbformat.read(p, as_version=4)) for p in paths}
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
