"""The model of ``coming_from.ipynb`` in PyMC: NUTS, and ADVI.

Its arguments are a file of data (JSON) and one for the draws (NumPy).
"""

import json
import sys
from pathlib import Path

import numpy as np
import pymc as pm

NAMES = ("mu", "tau", "b", "sigma", "a")


def build(courier, distance, minutes):
    """Return the model: each courier has an intercept, all share a slope."""
    with pm.Model(coords={"courier": range(8)}) as model:
        mu = pm.Normal("mu", 20, 10)
        tau = pm.HalfNormal("tau", 5)
        b = pm.Normal("b", 0, 5)
        sigma = pm.HalfNormal("sigma", 5)
        a = pm.Normal("a", mu, tau, dims="courier")
        mean = a[courier] + b * distance
        pm.Normal("minutes", mean, sigma, observed=minutes)
    return model


def main(data: str, draws: str) -> None:
    """Sample and fit, and store draws of shape (chains, draws, ...) by name."""
    facts = json.loads(Path(data).read_text(encoding="utf-8"))
    rows = [np.array(facts[name]) for name in ("courier", "distance", "minutes")]
    quiet = {"random_seed": 1, "progressbar": False}
    with build(*rows):
        drawn = pm.sample(1_000, tune=500, chains=2, cores=1, **quiet)
        adam = pm.adam(learning_rate=0.01)
        fitted = pm.fit(10_000, obj_optimizer=adam, **quiet).sample(2_000)
    found = {}
    for way, posterior in (("nuts", drawn.posterior), ("mean-field", fitted.posterior)):
        for name in NAMES:
            values = posterior[name].to_numpy()
            found[f"{way}/{name}"] = values.reshape(*values.shape[:2], -1)
    np.savez(draws, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
