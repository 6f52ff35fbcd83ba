"""Diagnostics against closed forms: conjugate models, Gaussians, Pareto tails."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer import SVI, Trace_ELBO, init_to_median
from numpyro.infer.autoguide import (
    AutoDelta,
    AutoLaplaceApproximation,
    AutoMultivariateNormal,
    AutoNormal,
)
from scipy import stats
from scipy.special import gammaln

from helpers.diagnostics import importance_summary, log_weights
from helpers.grids import grid_posterior, kl_divergence

KEY = jax.random.key(1)
POSITIVE = dist.constraints.positive

# Normal prior, normal likelihood: posterior and evidence in closed form.
Y = np.array([0.3, 1.9, 0.8, 2.4, 1.1], dtype="float32")
PRIOR_SD = 2.0
POST_SD = (1 / PRIOR_SD**2 + len(Y)) ** -0.5
POST_MEAN = POST_SD**2 * Y.sum()
COVARIANCE = np.eye(len(Y)) + PRIOR_SD**2
EVIDENCE = stats.multivariate_normal(np.zeros(len(Y)), COVARIANCE).logpdf(Y)


def model(y, scale=1.0):
    mu = numpyro.sample("mu", dist.Normal(0, PRIOR_SD))
    with numpyro.plate("N", len(y)):
        numpyro.sample("y", dist.Normal(mu, scale), obs=y)


def guide(y, scale=1.0):
    at = numpyro.param("at", 0.0)
    width = numpyro.param("width", 1.0, constraint=POSITIVE)
    numpyro.sample("mu", dist.Normal(at, width))


def exact_elbo(at, width):
    """E_q[log p(y | mu)] + E_q[log p(mu)] + entropy of q, term by term."""
    fit = stats.norm.logpdf(Y, at, 1).sum() - len(Y) * width**2 / 2
    prior = stats.norm.logpdf(at, 0, PRIOR_SD) - width**2 / (2 * PRIOR_SD**2)
    return fit + prior + stats.norm(at, width).entropy()


def gaussian_kl(m, s, mean, sd):
    return np.log(sd / s) + (s**2 + (m - mean) ** 2) / (2 * sd**2) - 0.5


def weights_of(at, width, **options):
    return log_weights(KEY, model, guide, {"at": at, "width": width}, Y, **options)


def test_exact_guide_has_the_log_evidence_as_every_weight():
    weights = weights_of(POST_MEAN, POST_SD, num_draws=500)
    assert weights.shape == (500,)
    np.testing.assert_allclose(weights, EVIDENCE, atol=2e-5)


@pytest.mark.parametrize(("at", "width"), [(1.0, 0.6), (1.5, 0.45), (1.2, 0.3)])
def test_elbo_evidence_and_kl(at, width):
    """The estimates, the closed forms and the grid: one identity three times."""
    found = importance_summary(weights_of(at, width))
    assert found.num_draws == 20_000
    assert 0 < found.elbo_se < 0.02
    assert abs(found.elbo - exact_elbo(at, width)) < 4 * found.elbo_se
    assert found.elbo < EVIDENCE
    assert found.log_evidence == pytest.approx(EVIDENCE, abs=0.05)
    kl = gaussian_kl(at, width, POST_MEAN, POST_SD)
    assert abs(found.elbo + kl - EVIDENCE) < 4 * found.elbo_se

    grid = np.linspace(-3, 6, 2001)
    likelihood = stats.norm.logpdf(Y[:, None], grid).sum(axis=0)
    posterior = grid_posterior(likelihood + stats.norm.logpdf(grid, 0, PRIOR_SD), grid)
    assert posterior.log_evidence == pytest.approx(EVIDENCE, abs=1e-6)
    log_q = stats.norm.logpdf(grid, at, width)
    assert kl_divergence(log_q, posterior.log_density, grid) == pytest.approx(kl)


def test_standard_error_covers_the_truth_as_often_as_it_says():
    params, runs = {"at": 1.0, "width": 0.6}, 200
    found = log_weights(KEY, model, guide, params, Y, num_draws=100 * runs)
    each = [importance_summary(part) for part in found.reshape(runs, 100)]
    z = [(one.elbo - exact_elbo(1.0, 0.6)) / one.elbo_se for one in each]
    assert np.std(z) == pytest.approx(1, abs=0.2)


def test_weights_include_the_jacobian_of_a_constrained_site():
    """Gamma prior, Poisson counts; the guide is a normal on the log scale."""
    counts, a, b = np.array([3, 0, 2, 4, 1]), 2.0, 1.0

    def poisson(counts):
        rate = numpyro.sample("rate", dist.Gamma(a, b))
        with numpyro.plate("N", len(counts)):
            numpyro.sample("count", dist.Poisson(rate), obs=counts)

    auto = AutoNormal(poisson)
    svi = SVI(poisson, auto, numpyro.optim.Adam(0.1), Trace_ELBO())
    svi.init(KEY, counts)
    params = {"rate_auto_loc": np.log(2.0), "rate_auto_scale": 0.33}
    weights = log_weights(KEY, poisson, auto, params, counts)
    shape, rate = a + counts.sum(), b + len(counts)
    exact = a * np.log(b) - gammaln(a) + gammaln(shape) - shape * np.log(rate)
    exact -= gammaln(counts + 1).sum()
    found = importance_summary(weights)
    assert found.relative_ess > 0.9
    assert found.log_evidence == pytest.approx(exact, abs=0.01)


def test_weights_do_not_depend_on_the_batches():
    whole = weights_of(1.0, 0.6, num_draws=103, batch_size=1000)
    for size in (1, 10):
        parts = weights_of(1.0, 0.6, num_draws=103, batch_size=size)
        np.testing.assert_allclose(parts, whole, rtol=1e-5)
    assert len(np.unique(whole)) == 103


def test_weights_take_keywords_and_follow_the_key():
    params = {"at": 1.0, "width": 0.6}
    call = partial(log_weights, model=model, guide=guide, params=params, num_draws=100)
    first, again = call(KEY, y=Y, scale=2.0), call(KEY, y=Y, scale=2.0)
    np.testing.assert_array_equal(first, again)
    assert (first != call(KEY, y=Y, scale=1.0)).all()
    assert (first != call(jax.random.key(2), y=Y, scale=2.0)).all()


GOOD = {"at": 1.0, "width": 0.6}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"rng_key": 0}, TypeError, "rng_key: expected a key .*, got 0"),
        ({"params": [1.0]}, TypeError, "params: expected a dict, got list"),
        ({"params": {}}, ValueError, r"params: expected \['at', 'width'\] too, got \["),
        (
            {"params": {"at": 1.0}},
            ValueError,
            r"expected \['width'\] too, got \['at'\]",
        ),
        (
            {"params": GOOD | {"at": np.nan}},
            ValueError,
            r"params\['at'\]: expected finite",
        ),
        ({"y": Y * np.nan}, ValueError, "model: site 'y' observes 5 NaN or inf"),
        ({"num_draws": 0}, ValueError, "num_draws: expected at least 1, got 0"),
        ({"num_draws": 1e3}, TypeError, r"num_draws: .*whole number, got 1000\.0"),
        ({"batch_size": -5}, ValueError, "batch_size: expected at least 1, got -5"),
        ({"batch_size": None}, TypeError, "batch_size: .*whole number, got None"),
    ],
)
def test_bad_input_to_log_weights(change, error, message):
    call = {"rng_key": KEY, "params": GOOD, "num_draws": 50, "y": Y} | change
    with pytest.raises(error, match=message):
        log_weights(model=model, guide=guide, **call)


@pytest.mark.parametrize("kind", [AutoDelta, AutoLaplaceApproximation])
def test_points_have_no_weights(kind):
    points = kind(model)
    svi = SVI(model, points, numpyro.optim.Adam(0.1), Trace_ELBO())
    params = svi.get_params(svi.init(KEY, Y))
    with pytest.raises(ValueError, match="guide: expected a distribution, got points"):
        log_weights(KEY, model, points, params, Y, num_draws=100)


def test_a_guide_that_draws_all_unknowns_as_one_has_weights():
    # Its unknowns stand as points with a density, beside the one that it draws.
    means = []
    for kind in (AutoNormal, AutoMultivariateNormal):
        joint = kind(model, init_scale=0.1, init_loc_fn=init_to_median)
        svi = SVI(model, joint, numpyro.optim.Adam(0.1), Trace_ELBO())
        params = svi.get_params(svi.init(KEY, Y))
        means.append(log_weights(KEY, model, joint, params, Y, num_draws=2_000).mean())
    assert means[0] == pytest.approx(means[1], abs=0.1)


def test_a_guide_that_lacks_an_unknown_has_no_weights():
    def two(y):
        numpyro.sample("offset", dist.Normal(0, 1))
        model(y)

    message = r"guide: expected a site for each unknown .* none for \['offset'\]"
    with pytest.raises(ValueError, match=message):
        log_weights(KEY, two, guide, GOOD, Y, num_draws=100)


def test_weights_see_what_changed_outside_of_the_arguments():
    outside = {"y": Y}

    def changing():
        model(outside["y"])

    def its_guide():
        guide(outside["y"])

    call = partial(log_weights, KEY, params=GOOD, num_draws=100)
    for outside["y"] in (Y, Y + 1):
        found = call(model=changing, guide=its_guide)
        expected = call(model=model, guide=guide, y=outside["y"])
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_weights_that_are_nan():
    def broken():
        numpyro.factor("f", jnp.log(numpyro.sample("mu", dist.Normal())))

    def around_zero():
        numpyro.sample("mu", dist.Normal(numpyro.param("at", 0.0)))

    with pytest.raises(ValueError, match=r"params: \d\d of 100 log weights are NaN; "):
        log_weights(KEY, broken, around_zero, {"at": 0.0}, num_draws=100)


def gaussian_weights(sd, seed=0):
    draws = np.random.default_rng(seed).normal(0, sd, 100_000)
    return stats.norm.logpdf(draws) - stats.norm.logpdf(draws, 0, sd)


@pytest.mark.parametrize("sd", [0.4, 0.6, 0.8])
def test_khat_of_a_narrow_guide(sd):
    """For a target N(0, 1) the weights have a Pareto tail of shape 1 - sd**2."""
    found = importance_summary(gaussian_weights(sd))
    assert found.khat == pytest.approx(1 - sd**2, abs=0.12)


@pytest.mark.parametrize("sd", [1.3, 2.0])
def test_khat_of_a_wide_guide(sd):
    """The weights are bounded, with a square-root density at their largest: k = -2.

    Handed over with the wrong sign, wide and narrow trade places.
    """
    weights = gaussian_weights(sd)
    assert importance_summary(weights).khat == pytest.approx(-2, abs=0.4)
    assert importance_summary(-weights).khat > 0.5


@pytest.mark.parametrize("shape", [0.2, 0.5, 0.9])
def test_khat_of_pareto_weights(shape):
    weights = np.random.default_rng(1).exponential(shape, 100_000)
    assert importance_summary(weights).khat == pytest.approx(shape, abs=0.12)


def test_summary_is_what_it_says():
    logs = np.random.default_rng(2).normal(0.0, 1.0, 400)
    found, weights = importance_summary(logs), np.exp(logs)
    assert found.elbo == pytest.approx(logs.mean())
    assert found.elbo_se == pytest.approx(stats.sem(logs))
    assert found.log_evidence == pytest.approx(np.log(weights.mean()))
    ess = weights.sum() ** 2 / (weights**2).sum()
    assert found.relative_ess == pytest.approx(ess / 400)
    assert found.num_draws == 400
    for shift in (-5000.0, 5000.0):  # exp() of these is 0 or infinite
        moved = importance_summary(logs + shift)
        assert moved.log_evidence == pytest.approx(found.log_evidence + shift)
        assert moved.relative_ess == pytest.approx(found.relative_ess)
        assert moved.khat == pytest.approx(found.khat)


def test_equal_weights_have_no_tail():
    found = importance_summary(np.full(1000, -3.5))
    assert found.khat == -np.inf
    assert found.relative_ess == pytest.approx(1)
    assert (found.elbo, found.elbo_se) == (-3.5, 0)
    assert found.log_evidence == pytest.approx(-3.5)


@pytest.mark.parametrize(
    ("weights", "error", "message"),
    [
        (np.zeros(99), ValueError, "log_weights: expected at least 100, got 99"),
        (np.zeros((10, 50)), ValueError, r"log_weights: expected 1 dim.*got 2 \(shape"),
        (np.r_[np.zeros(200), np.nan], ValueError, "log_weights: .*got 1 NaN .*of 201"),
        (np.r_[np.zeros(200), -np.inf], ValueError, "log_weights: .*finite.*got 1"),
        (np.zeros(0), ValueError, "log_weights: expected data, got none"),
        ("weights", TypeError, "log_weights: .*array of numbers, got 'weights'"),
    ],
)
def test_bad_input_to_importance_summary(weights, error, message):
    with pytest.raises(error, match=message):
        importance_summary(weights)
