"""What every benchmark has in common: its options, and the facts that it writes."""

import argparse
import datetime
import json
import os
import platform
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
QUICK = HERE.parent / "build" / "benchmarks"  # no short run replaces a stored one


def parser(description: str) -> argparse.ArgumentParser:
    """Return a parser with the two options of every benchmark."""
    made = argparse.ArgumentParser(description=description.splitlines()[0])
    made.add_argument("--quick", action="store_true", help="a short run, to try it out")
    made.add_argument(
        "--out", type=Path, help="folder of the results, if not the usual one"
    )
    return made


def folder(options: argparse.Namespace) -> Path:
    """Return the folder of the results: this one, unless the run is a short one."""
    out = options.out or (QUICK if options.quick else HERE)
    out.mkdir(parents=True, exist_ok=True)
    return out


def origin(
    script: str,
    made: argparse.ArgumentParser,
    options: argparse.Namespace,
    packages: Iterable[str],
    *,
    hidden: Iterable[str] = ("out",),
) -> dict[str, Any]:
    """Return command, date, hardware and versions of this run.

    The command names the options that are not at their defaults, save the `hidden`
    ones, which say where things lie on one machine.
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
        "command": " ".join([f"python benchmarks/{script}", *given]),
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


def write(path: Path, facts: dict[str, Any]) -> None:
    """Store the facts of a run as JSON, and print them."""
    text = json.dumps(facts, indent=2) + "\n"
    path.write_text(text, encoding="utf-8")
    print(text, end="")
