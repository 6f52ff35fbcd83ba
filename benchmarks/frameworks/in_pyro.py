"""The three models of ``compare.py`` in Pyro, its ELBO traced by PyTorch's JIT."""

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, JitTrace_ELBO
from pyro.infer.autoguide import AutoNormal

PACKAGES = ("torch", "pyro-ppl")
SETTLED_AFTER = 4_000  # steps, for the gamma and the logistic model
# Work so small is slower on several threads, and far slower on a busy machine.
torch.set_num_threads(1)
SIZES = ((2, 4), (4, 3), (3, 1))


def gamma(z):
    """Concentration of a gamma distribution with rate 1."""
    concentration = pyro.sample("concentration", dist.HalfNormal(1.0))
    with pyro.plate("data", z.shape[0]):
        pyro.sample("z", dist.Gamma(concentration, 1.0), obs=z)


def logistic(x, y):
    """Logistic regression, a standard normal prior on its coefficients."""
    prior = dist.Normal(torch.zeros(x.shape[1]), 1.0).to_event(1)
    coefficients = pyro.sample("coefficients", prior)
    with pyro.plate("data", x.shape[0]):
        pyro.sample("y", dist.Bernoulli(logits=x @ coefficients), obs=y)


def network(x, y):
    """Classify by a network 2 → 4 → 3 → 1, its weights unknown."""
    hidden = x
    for layer, (rows, columns) in enumerate(SIZES):
        wide = dist.SoftLaplace(torch.zeros(rows, columns), 1.0).to_event(2)
        kernel = pyro.sample(f"layers.{layer}.kernel", wide)
        bias = pyro.sample(
            f"layers.{layer}.bias", dist.Normal(torch.zeros(columns), 1.0).to_event(1)
        )
        hidden = hidden @ kernel + bias
        hidden = torch.sigmoid(hidden) if columns == 1 else torch.tanh(hidden)
    with pyro.plate("data", x.shape[0]):
        pyro.sample("y", dist.Bernoulli(probs=hidden.squeeze(-1)), obs=y)


MODELS = {"gamma": gamma, "logistic": logistic, "network": network}


class Fit:
    """A mean-field fit that goes on at each run."""

    starts_anew = False

    def __init__(self, name: str, data: list[np.ndarray], learning_rate: float) -> None:
        pyro.set_rng_seed(0)
        self.guide = AutoNormal(MODELS[name])
        optimizer = pyro.optim.Adam({"lr": learning_rate})
        loss = JitTrace_ELBO(ignore_jit_warnings=True)
        self.svi = SVI(MODELS[name], self.guide, optimizer, loss)
        self.data = [torch.tensor(each, dtype=torch.float32) for each in data]
        self.traced: list[float] = []
        self.steps = 0

    def run(self, steps: int) -> None:
        """Take steps."""
        for _ in range(steps):
            self.traced.append(self.svi.step(*self.data))
        self.steps += steps

    def losses(self) -> np.ndarray:
        """Return the losses so far."""
        return np.array(self.traced)

    def posterior(self, site: str) -> tuple[np.ndarray, np.ndarray]:
        """Return locations and scales of the guide, on the unconstrained scale."""
        loc, scale = (getattr(at, site) for at in (self.guide.locs, self.guide.scales))
        return loc.detach().numpy(), scale.detach().numpy()


def facts() -> dict[str, str]:
    """Return how steps are compiled, and their precision."""
    return {
        "compiled_by": "JitTrace_ELBO (TorchScript), one thread",
        "precision": "float32",
    }
