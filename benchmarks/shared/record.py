"""What every benchmark has in common: its options, and the facts that it writes."""

import argparse
import datetime
import json
import os
import platform
import sys
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]  # of the project: commands run here
RESULTS = ROOT / "benchmarks" / "results"
QUICK = ROOT / "build" / "benchmarks"  # a short run replaces no stored result


def parser(description: str) -> argparse.ArgumentParser:
    """Return a parser with the two options of every benchmark."""
    made = argparse.ArgumentParser(description=description.splitlines()[0])
    made.add_argument("--quick", action="store_true", help="a short run, to try it out")
    made.add_argument(
        "--out", type=Path, help="folder of the results, if not the usual one"
    )
    return made


def folder(options: argparse.Namespace) -> Path:
    """Return the folder of the results: the stored ones, unless the run is short."""
    out = options.out or (QUICK if options.quick else RESULTS)
    out.mkdir(parents=True, exist_ok=True)
    return out


def command(module: str, *arguments: str) -> list[str]:
    """Return the command line that runs a module of this project, from `ROOT`."""
    return [sys.executable, "-m", module, *arguments]


def origin(
    script: str,
    made: argparse.ArgumentParser,
    options: argparse.Namespace,
    packages: Iterable[str],
    *,
    hidden: Iterable[str] = ("out",),
) -> dict[str, Any]:
    """Return command, date, hardware and versions of this run.

    The command names the options that differ from their defaults. It leaves out the
    `hidden` ones, which name places on one machine.
    """
    given = []
    for name, value in vars(options).items():
        if name not in hidden and value != made.get_default(name):
            option = "--" + name.replace("_", "-")
            if isinstance(value, list):
                given += [option, *map(str, value)]
            else:
                given.append(option if value is True else f"{option}={value}")
    return {
        "command": " ".join([f"python -m benchmarks.{script}", *given]),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "hardware": f"{os.cpu_count()} CPU cores, {platform.machine()}",
        "versions": {name: version(name) for name in packages},
    }


def rounded(tree: Any) -> Any:
    """Keep four digits of each number with a fraction, in lists and dicts as well."""
    if isinstance(tree, dict):
        return {name: rounded(part) for name, part in tree.items()}
    if isinstance(tree, list):
        return [rounded(part) for part in tree]
    return float(f"{tree:.4g}") if isinstance(tree, float) else tree


def write(path: Path, facts: dict[str, Any], *, show: bool = True) -> None:
    """Store the facts of a run as JSON, and print them unless told not to."""
    text = json.dumps(facts, indent=2) + "\n"
    path.write_text(text, encoding="utf-8")
    if show:
        print(text, end="")


def read(folder: Path = RESULTS) -> dict[str, Any]:
    """Return the facts of every JSON file in a folder, by its name without suffix."""
    return {
        path.stem: json.loads(path.read_text(encoding="utf-8"))
        for path in sorted(folder.glob("*.json"))
    }
