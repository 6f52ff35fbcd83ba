"""Run all benchmarks, one after the other, and say at the end which of them failed.

    python benchmarks/run.py

Results go where each script stores them. A script that fails does not keep the next
one from its turn. At the end, the page that shows the results is renewed.
"""

import subprocess
import sys
import time
from collections.abc import Sequence

import record

FULL = {"streaming.py": "--huge"}  # options of a full run
# Script: the options that make a short run of it.
SCRIPTS = {
    "bnn_reference.py": "--chains=2 --warmup=50 --draws=50 --members=2",
    "loops.py": "--quick",
    "frameworks.py": "--quick --no-install",
    "devices.py": "--quick",
    "processes.py": "--quick",
    "rows.py": "--quick",
    "streaming.py": "--quick",
    "resume.py": "--quick",
    "prediction.py": "--quick",
    "many_fits.py": "--quick",
    "production.py": "--quick",
    "accelerators.py": "--quick",
}


def run(script: str, options: Sequence[str]) -> tuple[bool, float]:
    """Run a script; return whether it ended well, and its seconds."""
    print(f"\n== {script}", flush=True)
    began = time.perf_counter()
    done = subprocess.run([sys.executable, str(record.HERE / script), *options])
    return done.returncode == 0, time.perf_counter() - began


def main(argv: Sequence[str] | None = None) -> None:
    """Run the scripts and end with a table of them."""
    parser = record.parser(__doc__)
    parser.add_argument("scripts", nargs="*", metavar="SCRIPT", help="these alone")
    options = parser.parse_args(argv)
    if unknown := sorted(set(options.scripts) - set(SCRIPTS)):
        parser.error(f"no script {', '.join(unknown)}; there are {', '.join(SCRIPTS)}")

    out = record.folder(options)
    ended = {}
    for script in options.scripts or SCRIPTS:
        chosen = SCRIPTS[script] if options.quick else FULL.get(script, "")
        ended[script] = run(script, [*chosen.split(), f"--out={out}"])
    # Results of some scripts alone make a page where those of the others are stored.
    if not options.scripts or out.resolve() == record.HERE.resolve():
        ended["report.py"] = run("report.py", [f"--out={out}"])

    print()
    for script, (well, seconds) in ended.items():
        print(f"{script:<24} {'done' if well else 'FAILED':<8} {seconds:7.1f} s")
    failed = sum(not well for well, _ in ended.values())
    sys.exit(f"{failed} of {len(ended)} failed" if failed else 0)


if __name__ == "__main__":
    main()
