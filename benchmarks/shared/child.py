"""Run a function of a benchmark in a fresh process, and see what memory it takes.

A script gives `serve` the functions that its children may run, by name. They take and
return what JSON can hold.
"""

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.shared import record

MARK = "--as-child"
ERROR = re.compile(r"[\w.]*(Error|Exception|Interrupt)\b")  # how such a line begins


def command(module: str, job: str, **arguments: Any) -> list[str]:
    """Return the command line of a child; it runs in `record.ROOT`."""
    return record.command(module, MARK, job, json.dumps(arguments))


def run(
    module: str, job: str, *, env: dict[str, str] | None = None, **arguments: Any
) -> dict[str, Any]:
    """Run a function of a module in a fresh process and return what it returned.

    If the child failed, return its signal or its error under ``failed``.
    """
    began = time.perf_counter()
    done = subprocess.run(
        command(module, job, **arguments),
        cwd=record.ROOT,
        capture_output=True,
        text=True,
        env=os.environ | (env or {}),
    )
    seconds = time.perf_counter() - began
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1]) | {"process_seconds": seconds}
    words = [line for line in done.stderr.splitlines() if ERROR.match(line)]
    if done.returncode < 0:
        words.append(signal.Signals(-done.returncode).name)
    return {"failed": ", ".join(words[-2:]) or done.stderr[-500:]}


def expect(module: str, job: str, **arguments: Any) -> dict[str, Any]:
    """Run a job; raise if it fails."""
    found = run(module, job, **arguments)
    if "failed" in found:
        raise RuntimeError(f"{job} of {module}: {found['failed']}")
    return found


def serve(functions: dict[str, Callable[..., dict[str, Any]]]) -> None:
    """Do a child's work and leave, if this process is a child."""
    if MARK in sys.argv[1:2]:
        _, _, job, arguments = sys.argv
        print(json.dumps(functions[job](**json.loads(arguments))))
        sys.exit()


def status(field: str) -> int:
    """Return a size from the kernel's account of this process, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return 1024 * int(line.split()[1])
    raise KeyError(field)


def peak_mib() -> float:
    """Return the most memory that this process has held, mapped files included."""
    if sys.platform == "linux":
        return round(status("VmHWM") / 2**20, 1)
    # Bytes on macOS. (On Linux it would begin with what the parent held.)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 1)


def limit_memory(more: int) -> None:
    """Allow this process so many bytes beyond what it has now; maps are not counted."""
    most = status("VmData") + more
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
