"""The model of ``coming_from.ipynb`` in Stan, sampled through PyStan.

Its arguments are a file of data (JSON) and one for the draws (NumPy).
"""

import json
import sys
from pathlib import Path

import numpy as np
import stan

CHAINS, DRAWS = 4, 1_000


def main(data: str, draws: str) -> None:
    """Sample, and store draws of shape (chains, draws, size) by name."""
    program = Path(__file__).with_name("couriers.stan").read_text(encoding="utf-8")
    facts = json.loads(Path(data).read_text(encoding="utf-8"))
    facts["courier"] = [1 + number for number in facts["courier"]]  # from 1
    facts["N"], facts["J"] = len(facts["courier"]), max(facts["courier"])
    posterior = stan.build(program, data=facts, random_seed=1)
    fit = posterior.sample(num_chains=CHAINS, num_warmup=500, num_samples=DRAWS)
    found = {}
    for name in posterior.param_names:
        # PyStan flattens draws and chains to one axis, the last one.
        values = fit[name].reshape(-1, DRAWS, CHAINS)
        found[f"nuts/{name}"] = values.transpose(2, 1, 0)
    np.savez(draws, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
