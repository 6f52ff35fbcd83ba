"""The model of ``coming_from.ipynb`` in Pyro: NUTS, and a mean-field fit.

Its arguments are a file of data (JSON) and one for the draws (NumPy).
"""

import json
import sys
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO
from pyro.infer.autoguide import AutoNormal

NAMES = ("mu", "tau", "b", "sigma", "a")
DRAWS, STEPS = 1_000, 3_000
torch.set_num_threads(1)  # work so small is slower on several threads


def model(courier, distance, minutes=None):
    """Each courier has an intercept, all share a slope."""
    mu = pyro.sample("mu", dist.Normal(20, 10))
    tau = pyro.sample("tau", dist.HalfNormal(5))
    b = pyro.sample("b", dist.Normal(0, 5))
    sigma = pyro.sample("sigma", dist.HalfNormal(5))
    with pyro.plate("couriers", 8):
        a = pyro.sample("a", dist.Normal(mu, tau))
    with pyro.plate("deliveries", len(courier)):
        mean = a[courier] + b * distance
        pyro.sample("minutes", dist.Normal(mean, sigma), obs=minutes)


def sampled(*data):
    """Return draws of NUTS."""
    pyro.set_rng_seed(1)
    mcmc = MCMC(NUTS(model), num_samples=DRAWS, warmup_steps=300, disable_progbar=True)
    mcmc.run(*data)
    return mcmc.get_samples()


def fitted(*data):
    """Return draws of a mean-field fit."""
    pyro.set_rng_seed(2)
    pyro.clear_param_store()
    guide = AutoNormal(model)
    adam = pyro.optim.ClippedAdam({"lr": 0.1, "lrd": 0.01 ** (1 / STEPS)})
    svi = SVI(model, guide, adam, Trace_ELBO(num_particles=2))
    for _ in range(STEPS):
        svi.step(*data)
    return Predictive(guide, num_samples=DRAWS)(*data)


def main(data: str, draws: str) -> None:
    """Sample and fit, and store draws of shape (chains, draws, ...) by name."""
    facts = json.loads(Path(data).read_text(encoding="utf-8"))
    rows = [torch.tensor(facts[name]) for name in ("courier", "distance", "minutes")]
    found = {}
    for way, drawn in (("nuts", sampled(*rows)), ("mean-field", fitted(*rows))):
        for name in NAMES:
            found[f"{way}/{name}"] = drawn[name].detach().numpy().reshape(1, DRAWS, -1)
    np.savez(draws, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
