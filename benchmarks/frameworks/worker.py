"""Run the fits that ``compare.py`` asks for, in the interpreter of one framework.

Its arguments are the name of a module beside it and a file of data. It reads one
request a line from its input, and writes one answer a line to its output, both JSON.
"""

import importlib
import json
import os
import platform
import sys
import time
from importlib.metadata import version

import numpy as np


def main() -> None:
    """Answer requests until there are no more."""
    # What a framework prints must not get between the answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    framework = importlib.import_module(f"benchmarks.frameworks.{sys.argv[1]}")
    with np.load(sys.argv[2]) as file:
        data = dict(file)
    fits = {}
    for line in sys.stdin:
        request = json.loads(line)
        name, steps = request.get("model"), request.get("steps")
        if request["do"] == "describe":
            versions = {name: version(name) for name in framework.PACKAGES}
            versions = {"python": platform.python_version(), **versions}
            answer = {**framework.facts(), "versions": versions}
        elif request["do"] == "run":
            if name not in fits:
                rows = [data[key] for key in data if key.startswith(f"{name}/")]
                fits[name] = framework.Fit(name, rows, request["learning_rate"])
            began = time.perf_counter()
            # A framework that compiles at each run tells how long the steps took.
            seconds = fits[name].run(steps)
            answer = {"seconds": seconds or time.perf_counter() - began}
        else:
            fitted = fits[name]
            steps = steps or framework.SETTLED_AFTER
            if fitted.steps < steps:
                fitted.run(steps - (0 if fitted.starts_anew else fitted.steps))
            loss = np.mean(fitted.losses()[-200:])
            answer = {"steps": fitted.steps, "mean_of_last_losses": float(loss)}
            loc, scale = fitted.posterior(request["site"])
            answer["loc"] = np.ravel(loc).tolist()
            answer["scale"] = np.ravel(scale).tolist()
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
