"""Write the page of the site that shows the results of all benchmarks.

It is made of the JSON files beside this script, and of nothing else. `run.py` renews it
after a full run. After running one script alone, renew it from the root of the project:

    python benchmarks/report.py
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import record
import report_devices
import report_fits
import report_scale
from report_bars import bars_table

PAGE = record.HERE.parent / "results.qmd"
# Scripts in the order of the page, without ".py", and what writes of their results.
SECTIONS: dict[str, Callable[[dict[str, Any]], str]] = {
    "loops": report_fits.loops,
    "frameworks": report_fits.frameworks,
    "bnn_reference": report_fits.bnn_reference,
    "rows": report_fits.rows,
    "streaming": report_scale.streaming,
    "devices": report_scale.devices,
    "processes": report_scale.processes,
    "many_fits": report_fits.many_fits,
    "resume": report_scale.resume,
    "prediction": report_scale.prediction,
    "production": report_scale.production,
    "accelerators": report_devices.accelerators,
}
HEAD = """\
---
title: "Benchmarks"
description: "What was measured for this course, when, on which hardware, and whether \
it reached what it should."
number-sections: false
---

[//]: # (Written by benchmarks/report.py: change that, or the JSON files that it reads.)

Each script in `benchmarks/` measures one thing and stores its figures as JSON; this \
page is made of these files, and `make benchmarks` measures all of them anew. Speeds \
depend on the machine and on what else it does; ratios much less. So where a ratio is \
given as such (loops, frameworks, steps, streaming, many fits, cold starts), what is \
compared took turns in one run, and the ratio is the median over turns. Times to a \
target, predictions and reads from a cold disk came one after the other; of devices \
and processes the quickest of some rounds counts. Each section ends with the command, \
the date, the hardware and the versions.

"""


def read(folder: Path) -> dict[str, Any]:
    """Return what the JSON files of all scripts hold.

    Parameters
    ----------
    folder : pathlib.Path
        Where they are.

    Returns
    -------
    dict
        By the name of the script, without ``.py``; of `accelerators.py`, which has a
        file for each backend, those by their names.

    Raises
    ------
    SystemExit
        If some are not there; it names them.
    """
    paths = {name: sorted(folder.glob(f"{name}.json")) for name in SECTIONS}
    paths["accelerators"] = sorted(folder.glob("accelerators-*.json"))
    if missing := [f"{name}.json" for name, found in paths.items() if not found]:
        raise SystemExit(
            f"no {', '.join(missing)} in {folder}: run the scripts of these names first"
        )
    found = {
        path.stem: json.loads(path.read_text(encoding="utf-8"))
        for each in paths.values()
        for path in each
    }
    by_backend = {
        path.stem.partition("-")[2]: found.pop(path.stem)
        for path in paths["accelerators"]
    }
    return found | {"accelerators": by_backend}


def page(results: dict[str, Any]) -> str:
    """Return the whole page as Markdown.

    Parameters
    ----------
    results : dict
        What `read` returned.

    Returns
    -------
    str
        The same for the same results.
    """
    bars = "## What the course set out to reach {#sec-results-bars}\n\n" + bars_table(
        results
    )
    sections = [write(results[name]) for name, write in SECTIONS.items()]
    return HEAD + bars.rstrip("\n") + "\n\n" + "".join(sections).rstrip("\n") + "\n"


def main(argv: Sequence[str] | None = None) -> None:
    """Write the page: of the stored results at the root, of others beside them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out", type=Path, default=record.HERE, help="folder of the results"
    )
    folder = parser.parse_args(argv).out
    own = folder.resolve() == record.HERE.resolve()
    path = PAGE if own else folder / PAGE.name
    path.write_text(page(read(folder)), encoding="utf-8")
    print(f"Wrote {path}")


if __name__ == "__main__":
    main()
