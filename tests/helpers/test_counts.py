"""The beta-binomial: exact for any concentration, and with the right gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro import distributions as dist
from scipy import stats

from helpers.counts import BetaBinomial


def density(p, kappa, n, value):
    return BetaBinomial(kappa * p, kappa * (1 - p), n).log_prob(value)


@pytest.mark.parametrize("kappa", [0.1, 1.0, 30.0, 400.0, 1e4, 1e6])
@pytest.mark.parametrize("p", [0.01, 0.3, 0.9])
@pytest.mark.parametrize("n", [0, 1, 7, 2_000])
def test_the_density_is_that_of_scipy(kappa, p, n):
    values = np.unique(np.round(np.linspace(0, 1, 9) * n)).astype("int32")
    found = density(p, kappa, n, values)
    exact = stats.betabinom(n, kappa * p, kappa * (1 - p)).logpmf(values)
    some = exact > -500
    np.testing.assert_allclose(found[some], exact[some], atol=3e-3, rtol=1e-5)


def test_with_a_large_concentration_it_is_binomial():
    for kappa in (1e8, 1e11):
        found = density(0.03, kappa, 2_000, jnp.array([40, 60, 80]))
        exact = stats.binom(2_000, 0.03).logpmf([40, 60, 80])
        np.testing.assert_allclose(found, exact, atol=3e-3)


def test_its_gradient_is_that_of_double_precision():
    def slope(kind, x):
        total = lambda x: kind(x, 300 - x, 50).log_prob(jnp.array(20))  # noqa: E731
        return jax.grad(total)(x)

    found = float(slope(BetaBinomial, 90.0))
    known = float(slope(dist.BetaBinomial, 90.0))
    assert found == pytest.approx(known, abs=1e-4)


def test_its_draws_have_their_moments():
    drawn = BetaBinomial(20.0, 60.0, 100).sample(jax.random.key(0), (40_000,))
    exact = stats.betabinom(100, 20, 60)
    assert drawn.mean() == pytest.approx(exact.mean(), abs=0.2)
    assert drawn.std() == pytest.approx(exact.std(), rel=0.03)
