"""The three models of ``compare.py`` in PyMC, fitted by its ADVI."""

import logging
import os

import numpy as np
import pymc as pm
import pytensor.tensor as pt

PACKAGES = ("pymc", "pytensor", "numba")
SETTLED_AFTER = 8_000  # steps: from standard deviations of 0.7, others from 0.1
SIZES = ((2, 4), (4, 3), (3, 1))
# PyMC compiles by Numba if nobody says otherwise; C is often faster.
MODE = os.environ.get("PYMC_MODE", "NUMBA")
BACKENDS = {"NUMBA": "PyTensor to Numba", "CVM": "PyTensor to C"}

logging.getLogger("pymc").setLevel(logging.ERROR)


def gamma(z):
    """Concentration of a gamma distribution with rate 1."""
    concentration = pm.HalfNormal("concentration", 1.0)
    pm.Gamma("z", concentration, 1.0, observed=z)


def logistic(x, y):
    """Logistic regression, a standard normal prior on its coefficients."""
    coefficients = pm.Normal("coefficients", 0, 1, shape=x.shape[1])
    pm.Bernoulli("y", logit_p=pm.math.dot(x, coefficients), observed=y)


def soft_laplace(value, scale):
    """Return the log density of the soft Laplace distribution, which PyMC lacks."""
    z = value / scale
    return np.log(2 / np.pi) - pt.log(scale) - pt.logaddexp(z, -z)


def network(x, y):
    """Classify by a network 2 → 4 → 3 → 1, its weights unknown."""
    hidden = x
    for layer, shape in enumerate(SIZES):
        name = f"layers.{layer}"
        kernel = pm.CustomDist(f"{name}.kernel", 1.0, logp=soft_laplace, shape=shape)
        bias = pm.Normal(f"{name}.bias", 0, 1, shape=shape[1])
        hidden = pm.math.dot(hidden, kernel) + bias
        hidden = pm.math.sigmoid(hidden) if shape[1] == 1 else pm.math.tanh(hidden)
    pm.Bernoulli("y", p=hidden[:, 0], observed=y)


MODELS = {"gamma": gamma, "logistic": logistic, "network": network}


class Fit:
    """A mean-field fit that is compiled at the first run and goes on at each other."""

    starts_anew = False

    def __init__(self, name: str, data: list[np.ndarray], learning_rate: float) -> None:
        data = [each.astype(float) if each.dtype.kind == "f" else each for each in data]
        with pm.Model() as model:
            MODELS[name](*data)
        self.advi = pm.ADVI(model=model, random_seed=1)
        self.optimizer = pm.adam(learning_rate=learning_rate)
        self.steps = 0

    def run(self, steps: int) -> None:
        """Take steps."""
        if self.steps:
            self.advi.refine(steps, progressbar=False)
        else:
            self.advi.fit(
                steps,
                obj_optimizer=self.optimizer,
                progressbar=False,
                fn_kwargs={"mode": MODE},
            )
        self.steps += steps

    def losses(self) -> np.ndarray:
        """Return the losses so far."""
        return self.advi.hist

    def posterior(self, site: str) -> tuple[np.ndarray, np.ndarray]:
        """Return locations and scales of the guide, on the unconstrained scale."""
        approximation = self.advi.approx
        return approximation.mean.eval(), approximation.std.eval()


def facts() -> dict[str, str]:
    """Return how steps are compiled, and their precision."""
    return {"compiled_by": BACKENDS[MODE], "precision": "float64"}
