"""Run all benchmarks, one after the other, and say at the end which of them failed.

    python -m benchmarks.run

Results go where each script stores them. A script that fails does not stop the others.
"""

import subprocess
import sys
import time
from collections.abc import Sequence

from benchmarks.shared import record

FULL = {"measure.streaming": "--huge"}  # options of a full run
# Module: the options that make a short run of it.
SCRIPTS = {
    "measure.bnn_reference": "--chains=2 --warmup=50 --draws=50 --members=2",
    "measure.loops": "--quick",
    "frameworks.compare": "--quick --no-install",
    "frameworks.couriers": "--quick --no-install",
    "measure.devices": "--quick",
    "measure.processes": "--quick",
    "measure.rows": "--quick",
    "measure.streaming": "--quick",
    "measure.resume": "--quick",
    "measure.prediction": "--quick",
    "measure.many_fits": "--quick",
    "measure.production": "--quick",
    "measure.accelerators": "--quick",
    "measure.panels": "--quick",
    "measure.flights": "--quick",
    "measure.truths": "--quick",
    "measure.guides": "--quick",
    "measure.costs": "--quick",
    "measure.demand": "--quick",
}


def run(script: str, options: Sequence[str]) -> tuple[bool, float]:
    """Run a script; return whether it ended well, and its seconds."""
    print(f"\n== {script}", flush=True)
    began = time.perf_counter()
    line = record.command(f"benchmarks.{script}", *options)
    done = subprocess.run(line, cwd=record.ROOT)
    return done.returncode == 0, time.perf_counter() - began


def main(argv: Sequence[str] | None = None) -> None:
    """Run the scripts and end with a table of them."""
    parser = record.parser(__doc__)
    parser.add_argument("scripts", nargs="*", metavar="SCRIPT", help="these alone")
    options = parser.parse_args(argv)
    if unknown := sorted(set(options.scripts) - set(SCRIPTS)):
        parser.error(f"no script {', '.join(unknown)}; there are {', '.join(SCRIPTS)}")

    out = record.folder(options).resolve()
    ended = {}
    for script in options.scripts or SCRIPTS:
        chosen = SCRIPTS[script] if options.quick else FULL.get(script, "")
        ended[script] = run(script, [*chosen.split(), f"--out={out}"])

    print()
    for script, (well, seconds) in ended.items():
        print(f"{script:<24} {'done' if well else 'FAILED':<8} {seconds:7.1f} s")
    if out == record.RESULTS:
        print("Show the results on their page: make notebooks NB=results")
    failed = sum(not well for well, _ in ended.values())
    sys.exit(f"{failed} of {len(ended)} failed" if failed else 0)


if __name__ == "__main__":
    main()
