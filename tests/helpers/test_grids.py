"""Grids and distances against closed forms."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.special import betaln, expit, gammaln, xlog1py, xlogy

from helpers.grids import (
    GridPosterior,
    grid_posterior,
    kl_divergence,
    total_variation,
)


def check_against(posterior: GridPosterior, exact, log_evidence):
    assert posterior.log_evidence == pytest.approx(log_evidence, abs=1e-5)
    assert posterior.mean == pytest.approx(exact.mean(), rel=1e-5)
    assert posterior.sd == pytest.approx(exact.std(), rel=1e-4)
    probabilities = np.array([0.001, 0.05, 0.5, 0.9, 0.999])
    quantiles = exact.ppf(probabilities)
    np.testing.assert_allclose(posterior.quantile(probabilities), quantiles, rtol=1e-4)
    np.testing.assert_allclose(posterior.cdf(quantiles), probabilities, atol=1e-5)
    assert posterior.quantile(0.5) == pytest.approx(exact.median(), rel=1e-4)
    assert posterior.cdf(-1e9) == 0
    assert posterior.cdf(1e9) == pytest.approx(1)
    np.testing.assert_allclose(posterior.density, exact.pdf(posterior.grid), atol=1e-4)


def test_grid_posterior_gamma_poisson():
    counts, a, b = np.array([3, 0, 2, 4, 1]), 2.0, 1.5
    shape, rate = a + counts.sum(), b + len(counts)

    def log_joint(x):
        log_prior = stats.gamma.logpdf(x, a, scale=1 / b)
        return log_prior + stats.poisson.logpmf(counts[:, None], x).sum(axis=0)

    evidence = a * np.log(b) - gammaln(a) + gammaln(shape) - shape * np.log(rate)
    evidence -= gammaln(counts + 1).sum()
    exact, grid = stats.gamma(shape, scale=1 / rate), np.linspace(1e-3, 9, 4001)
    check_against(grid_posterior(log_joint, grid), exact, evidence)
    check_against(grid_posterior(log_joint(grid), grid), exact, evidence)
    # A function in JAX and float32, and a joint density too small for exp().
    found = grid_posterior(lambda x: jnp.asarray(log_joint(x)) - 1024, grid)
    assert found.log_evidence == pytest.approx(evidence - 1024, abs=1e-3)
    assert found.mean == pytest.approx(exact.mean(), rel=1e-3)


def test_grid_posterior_beta_binomial_on_an_uneven_grid():
    """The joint density is 0, its log -inf, at both ends of the support."""
    grid = np.r_[0.0, expit(np.linspace(-12, 12, 3001)), 1.0]
    log_joint = xlogy(8, grid) + xlog1py(4, -grid)  # 7 of 10, prior Beta(2, 2) / B
    with np.errstate(divide="ignore"):
        found = grid_posterior(log_joint, grid)
    assert log_joint[0] == log_joint[-1] == -np.inf
    check_against(found, stats.beta(9, 5), betaln(9, 5))
    assert found.log_density[0] == -np.inf


GRID = np.linspace(-10, 10, 401)
LOGP = stats.norm.logpdf(GRID)


@pytest.mark.parametrize(
    ("log_joint", "grid", "error", "message"),
    [
        (LOGP[:49], GRID[:49], ValueError, "grid: expected at least 50 .*, got 49"),
        (LOGP, GRID[::-1], ValueError, r"grid: .*increasing.*got 10\.0 before 9\.95"),
        (
            LOGP,
            np.sort(np.r_[0, GRID[1:]]),
            ValueError,
            r"grid: .*got 0\.0 before 0\.0",
        ),
        (LOGP, GRID * np.nan, ValueError, "grid: expected finite.*got 401"),
        (LOGP, GRID[:, None], ValueError, "grid: expected 1 dimension.*got 2"),
        (LOGP, list("ab"), TypeError, "grid: expected an array of numbers"),
        (LOGP[1:], GRID, ValueError, r"log_joint: .*shape \(401,\).*got \(400,\)"),
        (lambda x: 0.0, GRID, ValueError, r"log_joint: .*shape \(401,\).*got \(\)"),
        (LOGP * np.nan, GRID, ValueError, "log_joint: .*got NaN or"),
        (LOGP - LOGP * np.inf, GRID, ValueError, r"log_joint: .*got NaN or \+inf"),
        (LOGP - np.inf, GRID, ValueError, "log_joint: the joint density is 0"),
        (
            stats.norm.logpdf,
            GRID / 5,
            ValueError,
            "grid: .*at an end is 0.1 of its peak",
        ),
        (0 * GRID, GRID, ValueError, "grid: .*at an end is 1 of its peak"),
        (400 * LOGP, GRID, ValueError, "grid: too coarse, one cell holds .*%"),
    ],
)
def test_bad_input_to_grid_posterior(log_joint, grid, error, message):
    with pytest.raises(error, match=message):
        grid_posterior(log_joint, grid)


@pytest.mark.parametrize("probability", [0.0, 1.0, -0.1, 1.1, np.nan, [0.5, 2.0]])
def test_bad_probability(probability):
    with pytest.raises(ValueError, match="probability: expected between 0 and 1, got"):
        grid_posterior(LOGP, GRID).quantile(probability)


FINE = np.linspace(-30, 30, 6001)


def gaussian_kl(m, s, mean, sd):
    """KL of two Gaussians by an integral of SciPy."""
    return stats.norm(m, s).expect(
        lambda x: stats.norm.logpdf(x, m, s) - stats.norm.logpdf(x, mean, sd)
    )


@pytest.mark.parametrize(("m", "s"), [(0.0, 1.0), (1.3, 1.0), (0.5, 0.4), (-1, 2.5)])
def test_distances_of_two_gaussians(m, s):
    log_q, log_p = stats.norm.logpdf(FINE, m, s), stats.norm.logpdf(FINE)
    forward, reverse = gaussian_kl(0, 1, m, s), gaussian_kl(m, s, 0, 1)
    assert kl_divergence(log_q, log_p, FINE) == pytest.approx(reverse, abs=1e-7)
    assert kl_divergence(log_p, log_q, FINE) == pytest.approx(forward, abs=1e-7)
    # Where the densities cross, the quadratic log q - log p is 0.
    a, b, c = 0.5 - 0.5 / s**2, m / s**2, -0.5 * m**2 / s**2 - np.log(s)
    cuts = np.roots(np.trim_zeros([a, b, c], "f")) if (a or b) else []
    edges = np.sort(np.r_[-np.inf, cuts, np.inf])
    gaps = np.diff(stats.norm.cdf(edges, m, s)) - np.diff(stats.norm.cdf(edges))
    exact = np.abs(gaps).sum() / 2
    assert total_variation(log_p, log_q, FINE) == pytest.approx(exact, abs=1e-4)
    assert total_variation(log_q, log_p, FINE) == pytest.approx(exact, abs=1e-4)


def test_distances_where_one_density_is_zero():
    grid = np.linspace(0, 2, 2001)
    with np.errstate(divide="ignore"):
        wide, narrow = np.log(np.full(2001, 0.5)), np.log(1.0 * (grid < 1))
    assert kl_divergence(wide, narrow, grid) == np.inf
    assert kl_divergence(narrow, wide, grid) == pytest.approx(np.log(2), abs=1e-3)
    assert kl_divergence(narrow, narrow, grid) == 0
    assert total_variation(narrow, wide, grid) == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize("distance", [total_variation, kl_divergence])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"log_q": LOGP[1:]}, r"log_q: expected shape \(401,\).*got \(400,\)"),
        ({"log_p": LOGP[1:]}, r"log_p: expected shape \(401,\).*got \(400,\)"),
        ({"log_p": LOGP + 1}, r"log_p: .*integrates to 1 .*got 2\.718"),
        ({"log_q": np.exp(LOGP)}, "log_q: .*integrates to 1 .*got"),
        ({"log_q": LOGP * np.nan}, "log_q: .*integrates to 1 .*got nan"),
        ({"grid": GRID[::-1]}, r"grid: expected increasing values, got 10\.0 before"),
        ({"grid": GRID[:0]}, "grid: expected data, got none"),
    ],
)
def test_bad_input_to_distances(distance, change, message):
    with pytest.raises(ValueError, match=message):
        distance(**({"log_p": LOGP, "log_q": LOGP, "grid": GRID} | change))
