"""The network, the model and the data of notebook 04, for the benchmarks.

The notebook writes the same lines out, because it teaches them. A test fails if the two
differ.
"""

from itertools import pairwise

import jax
import numpyro
import numpyro.distributions as dist
from flax import nnx
from numpyro.contrib.module import random_nnx_module

from helpers.datasets import Rows, stratified_split, two_moons


def make_data() -> tuple[Rows, Rows, Rows]:
    """Return training, validation and test data, 588, 252 and 360 rows."""
    data_key, split_key = jax.random.split(jax.random.key(42))
    x, y = two_moons(data_key, 1_200, noise=0.25)
    return stratified_split(split_key, x, y, sizes=(588, 252, 360))


class MLP(nnx.Module):
    """Multi-layer perceptron: tanh between its layers, a probability at its end."""

    def __init__(self, dims: tuple[int, ...], *, rngs: nnx.Rngs):
        self.layers = nnx.List(
            [nnx.Linear(din, dout, rngs=rngs) for din, dout in pairwise(dims)]
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the probability of class 1, shape (n, 1)."""
        for layer in self.layers[:-1]:
            x = jax.nn.tanh(layer(x))
        return jax.nn.sigmoid(self.layers[-1](x))


def make_network(rng_key: jax.Array) -> MLP:
    """Return the network of the course, 2 → 4 → 3 → 1: 31 weights and biases."""
    return MLP((2, 4, 3, 1), rngs=nnx.Rngs(rng_key))


def prior(name: str, shape: tuple[int, ...]) -> dist.Distribution:
    """Give biases a normal prior, and kernels one with heavier tails."""
    return dist.Normal(0, 1) if "bias" in name else dist.SoftLaplace(0, 1)


# Priors stand for the initial values of the network, which play no role.
NETWORK = make_network(jax.random.key(0))


def model(x: jax.Array, y: jax.Array | None = None) -> None:
    """Classify rows of `x` by the network, its weights unknown."""
    network = random_nnx_module("nn", NETWORK, prior)
    p = numpyro.deterministic("p", network(x).squeeze(-1))
    with numpyro.plate("data", x.shape[0]):
        numpyro.sample("y", dist.Bernoulli(probs=p), obs=y)
