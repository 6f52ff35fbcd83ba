"""A logistic regression of any number of rows, for the benchmarks of notebook 06.

Ten coefficients with known true values. The posterior is nearly Gaussian, so Newton's
method gives a reference to measure distances from. Notebooks 05 and 06 write the model
and the guide out, because they teach them. A test fails if they differ.
"""

from collections.abc import Iterator
from itertools import count

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import SVI, Trace_ELBO
from optax import GradientTransformation

from helpers.reference import GaussianPosterior, logistic_rows, newton

TRUE = np.array([-1.0, 1.0, -0.5, 0.5, 0.25, -0.25, 0.1, -0.1, 0.05, 0.0], "float32")
DIM = TRUE.size
BLOCK = 2**16  # rows that are made, or added up, at once

Rows = tuple[np.ndarray, np.ndarray]


def model(x, y=None, size=None):
    """Logistic regression; `size` is the number of rows of the whole table."""
    prior = dist.Normal(0, 1).expand([DIM]).to_event(1)
    beta = numpyro.sample("beta", prior)
    with numpyro.plate("rows", size or len(x), subsample_size=len(x)):
        numpyro.sample("y", dist.Bernoulli(logits=x @ beta), obs=y)


def predictive_model(x, y=None, size=None):
    """Logistic regression that gives the probabilities, too.

    It uses `x.shape`: exported for any number of rows, `x` has no length.
    """
    prior = dist.Normal(0, 1).expand([DIM]).to_event(1)
    beta = numpyro.sample("beta", prior)
    with numpyro.plate("rows", size or x.shape[0], subsample_size=x.shape[0]):
        p = numpyro.deterministic("p", jax.nn.sigmoid(x @ beta))
        numpyro.sample("y", dist.Bernoulli(probs=p), obs=y)


def guide(x, y=None, size=None):
    """Independent normals for the coefficients."""
    positive = dist.constraints.positive
    loc = numpyro.param("loc", jnp.zeros(DIM))
    scale = numpyro.param("scale", jnp.full(DIM, 0.1), constraint=positive)
    numpyro.sample("beta", dist.Normal(loc, scale).to_event(1))


def make_svi(optimizer: GradientTransformation, particles: int = 1) -> SVI:
    """Return the SVI of this model and guide."""
    return SVI(model, guide, optimizer, Trace_ELBO(num_particles=particles))


def blocks(num_rows: int) -> Iterator[Rows]:
    """Yield the rows of a table block by block; short tables begin like long ones."""
    for start in range(0, num_rows, BLOCK):
        rng = np.random.default_rng([6, start])
        x, y = logistic_rows(rng, BLOCK, TRUE)
        yield x[: num_rows - start], y[: num_rows - start]


def make_rows(num_rows: int) -> Rows:
    """Return features, of shape (num_rows, 10), and labels; rows in random order."""
    x, y = np.empty((num_rows, DIM), "float32"), np.empty(num_rows, "float32")
    for start, (some_x, some_y) in zip(count(0, BLOCK), blocks(num_rows), strict=False):
        stop = start + len(some_y)
        x[start:stop], y[start:stop] = some_x, some_y
    return x, y


def posterior(x: np.ndarray, y: np.ndarray) -> GaussianPosterior:
    """Return the posterior of a table, in memory or mapped, by Newton's method."""
    starts = range(0, len(x), BLOCK)
    return newton(lambda: ((x[i : i + BLOCK], y[i : i + BLOCK]) for i in starts))
