"""The three models of ``compare.py`` in NumPyro, fitted by the course's `fit`."""

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal

from benchmarks.shared.bnn_model import model as network
from helpers.training import fit

PACKAGES = ("jax", "numpyro", "flax", "optax")
SETTLED_AFTER = 4_000  # steps, for the gamma and the logistic model


def gamma(z):
    """Concentration of a gamma distribution with rate 1, as in notebook 03."""
    concentration = numpyro.sample("concentration", dist.HalfNormal(1.0))
    with numpyro.plate("data", z.shape[0]):
        numpyro.sample("z", dist.Gamma(concentration, rate=1.0), obs=z)


def logistic(x, y):
    """Logistic regression, a standard normal prior on its coefficients."""
    prior = dist.Normal(0, 1).expand([x.shape[1]]).to_event(1)
    coefficients = numpyro.sample("coefficients", prior)
    with numpyro.plate("data", x.shape[0]):
        numpyro.sample("y", dist.Bernoulli(logits=x @ coefficients), obs=y)


MODELS = {"gamma": gamma, "logistic": logistic, "network": network}


class Fit:
    """A mean-field fit that starts anew at each run, from the same key."""

    starts_anew = True

    def __init__(self, name: str, data: list[np.ndarray], learning_rate: float) -> None:
        guide = AutoNormal(MODELS[name])
        optimizer = optax.adam(learning_rate)
        self.svi = SVI(MODELS[name], guide, optimizer, Trace_ELBO())
        self.data = [jax.numpy.asarray(each) for each in data]
        self.steps = 0

    def run(self, steps: int) -> float:
        """Take steps; return their seconds, without those of compiling."""
        key = jax.random.key(0)
        self.result = fit(key, self.svi, steps, *self.data, progress_bar=False)
        self.steps = steps
        return steps / self.result.steps_per_second

    def losses(self) -> np.ndarray:
        """Return the losses of the last run."""
        return self.result.losses

    def posterior(self, site: str) -> tuple[np.ndarray, np.ndarray]:
        """Return locations and scales of the guide, on the unconstrained scale."""
        params = self.result.params
        return params[f"{site}_auto_loc"], params[f"{site}_auto_scale"]


def facts() -> dict[str, str]:
    """Return how steps are compiled, and their precision."""
    precision = jax.numpy.zeros(()).dtype.name
    return {"compiled_by": "lax loop in jax.jit (XLA)", "precision": precision}
