"""A logistic regression of any number of rows, for the benchmarks of notebook 06.

Ten coefficients whose true values are known. The posterior is all but Gaussian, so that
Newton's method gives a reference to measure distances from.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import SVI, Trace_ELBO
from optax import GradientTransformation

TRUE = np.array([-1.0, 1.0, -0.5, 0.5, 0.25, -0.25, 0.1, -0.1, 0.05, 0.0], "float32")
DIM = TRUE.size
BLOCK = 2**16  # rows that are made, or added up, at once


def model(x, y=None, size=None):
    """Logistic regression; `size` is the number of rows of the whole table."""
    prior = dist.Normal(0, 1).expand([DIM]).to_event(1)
    beta = numpyro.sample("beta", prior)
    with numpyro.plate("rows", size or len(x), subsample_size=len(x)):
        numpyro.sample("y", dist.Bernoulli(logits=x @ beta), obs=y)


def predictive_model(x, y=None, size=None):
    """Do the same, and give the probabilities, too.

    Exported for any number of rows, `x` has a shape but no length.
    """
    prior = dist.Normal(0, 1).expand([DIM]).to_event(1)
    beta = numpyro.sample("beta", prior)
    with numpyro.plate("rows", size or x.shape[0], subsample_size=x.shape[0]):
        p = numpyro.deterministic("p", jax.nn.sigmoid(x @ beta))
        numpyro.sample("y", dist.Bernoulli(probs=p), obs=y)


def guide(x, y=None, size=None):
    """Independent normals."""
    positive = dist.constraints.positive
    loc = numpyro.param("loc", jnp.zeros(DIM))
    scale = numpyro.param("scale", jnp.full(DIM, 0.1), constraint=positive)
    numpyro.sample("beta", dist.Normal(loc, scale).to_event(1))


def make_svi(optimizer: GradientTransformation, particles: int = 1) -> SVI:
    """Return the SVI of this model and guide."""
    return SVI(model, guide, optimizer, Trace_ELBO(num_particles=particles))


@jax.jit
def _block(rng_key: jax.Array) -> tuple[jax.Array, jax.Array]:
    x_key, y_key = jax.random.split(rng_key)
    x = jax.random.normal(x_key, (BLOCK, DIM)).at[:, 0].set(1.0)  # the intercept
    x = x.at[:, 2].set(0.6 * x[:, 1] + 0.8 * x[:, 2])  # two features go together
    y = jax.random.bernoulli(y_key, jax.nn.sigmoid(x @ TRUE))
    return x, y.astype(x.dtype)


def blocks(num_rows: int):
    """Yield the rows of a table block by block; short tables begin like long ones."""
    key = jax.random.key(6)
    for start in range(0, num_rows, BLOCK):
        x, y = _block(jax.random.fold_in(key, start // BLOCK))
        stop = min(BLOCK, num_rows - start)
        yield np.asarray(x)[:stop], np.asarray(y)[:stop]


def make_rows(num_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Return features, of shape (num_rows, 10), and labels; rows in random order."""
    x, y = np.empty((num_rows, DIM), "float32"), np.empty(num_rows, "float32")
    start = 0
    for some_x, some_y in blocks(num_rows):
        stop = start + len(some_y)
        x[start:stop], y[start:stop] = some_x, some_y
        start = stop
    return x, y


class Reference(NamedTuple):
    """Mode and precision of the posterior, taken as a Gaussian."""

    mode: np.ndarray
    precision: np.ndarray

    @property
    def best_scale(self) -> np.ndarray:
        """The widths of the mean-field guide that is closest in KL divergence."""
        return 1 / np.sqrt(np.diag(self.precision))

    def parts(self, params: dict[str, Any]) -> tuple[float, float]:
        """Return the center and width parts of KL(guide, posterior), in nats.

        Both are zero at the best mean-field guide. What is left of the divergence then
        is the price of leaving out correlations, which no optimizer can lower.
        """
        off = np.asarray(params["loc"], float) - self.mode
        ratio = np.square(np.asarray(params["scale"], float) / self.best_scale)
        width = np.sum(ratio - 1 - np.log(ratio)) / 2
        return float(off @ self.precision @ off / 2), float(width)


def newton(x: np.ndarray, y: np.ndarray, tolerance: float = 1e-6) -> Reference:
    """Find mode and precision by Newton's method, in double precision.

    It stops when a step is shorter than `tolerance` posterior standard deviations.
    """
    mode = np.zeros(DIM)
    while True:
        gradient, precision = -mode, np.eye(DIM)
        for start in range(0, len(x), BLOCK):
            some = np.asarray(x[start : start + BLOCK], float)
            p = 1 / (1 + np.exp(-some @ mode))
            gradient = gradient + some.T @ (y[start : start + BLOCK] - p)
            precision = precision + (some.T * (p * (1 - p))) @ some
        step = np.linalg.solve(precision, gradient)
        mode = mode + step
        if np.sqrt(step @ precision @ step) < tolerance:
            return Reference(mode, precision)
