"""The posteriors with a known truth are what they say; so is what is stored of them."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.infer.util import log_density

from benchmarks.measure import truths
from benchmarks.shared import posteriors, record

KEY = jax.random.key(5)
MADE = {name: make() for name, make in posteriors.POSTERIORS.items()}
EXACT = [name for name, truth in MADE.items() if truth.draw is not None]
LINEAR = [
    "regression",
    "regression, features 0.9",
    "intercept and slope",
    "Gaussian process",
]
STORED = json.loads((record.RESULTS / "truths.json").read_text())


def test_there_are_exact_and_published_ones():
    assert len(EXACT) == 24
    assert len(MADE) == 30


@pytest.mark.parametrize("name", EXACT)
def test_moments_are_those_of_exact_draws(name):
    truth = MADE[name]
    drawn = posteriors.reference(KEY, truth)
    # The funnel and Student's t with 3 degrees have sds that no draws find.
    rtol = 0.25 if name in ("funnel", "Student t, 3 degrees", "log-normals") else 0.06
    for site, values in drawn.items():
        sd = np.ravel(truth.sds[site])
        shift = (values.mean(0) - np.ravel(truth.means[site])) / sd
        np.testing.assert_allclose(shift, 0, atol=0.06)
        np.testing.assert_allclose(values.std(0), sd, rtol=rtol)


@pytest.mark.parametrize("name", LINEAR)
def test_regressions_are_solved(name):
    """The log density of the model has its peak and its curvature where it should."""
    truth = MADE[name]
    sizes = {site: np.shape(mean) for site, mean in truth.means.items()}

    def log_joint(vector):
        values, at = {}, 0
        for site, shape in sizes.items():
            count = int(np.prod(shape))
            values[site] = vector[at : at + count].reshape(shape)
            at += count
        return log_density(truth.model, (), {}, values)[0]

    mean = jnp.concatenate([jnp.ravel(jnp.asarray(m)) for m in truth.means.values()])
    precision = -np.asarray(jax.hessian(log_joint)(mean), float)
    step = np.linalg.solve(precision, np.asarray(jax.grad(log_joint)(mean), float))
    sd = np.concatenate([np.ravel(s) for s in truth.sds.values()])
    np.testing.assert_allclose(step / sd, 0, atol=0.02)
    np.testing.assert_allclose(
        np.sqrt(np.diag(np.linalg.inv(precision))), sd, rtol=0.01
    )


@pytest.mark.parametrize("name", sorted(set(MADE) - set(EXACT)))
def test_published_moments_fit_their_models(name):
    truth = MADE[name]
    drawn = posteriors.Predictive(truth.model, num_samples=2)(KEY)
    for site, mean in truth.means.items():
        assert drawn[site].shape[1:] == np.shape(mean) == np.shape(truth.sds[site])
        assert (np.asarray(truth.sds[site]) > 0).all()


def test_stored_fits_are_judged_by_their_truth():
    assert {line["posterior"] for line in STORED["fits"]} == set(MADE)
    for line in STORED["fits"]:
        inside = line["least_ratio"] >= truths.NARROW
        inside &= line["largest_ratio"] <= truths.WIDE
        assert line["good"] == (line["shift"] <= truths.MEAN and inside)


def test_two_forms_of_eight_schools_are_one_posterior():
    forms = [MADE[f"eight schools, {form}"] for form in ("centered", "non-centered")]
    for of in ("means", "sds"):
        first, second = (getattr(form, of) for form in forms)
        for site in first:
            np.testing.assert_array_equal(first[site], second[site])


def test_a_package_that_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(posteriors.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"inference-gym.*Install it"):
        posteriors.eight_schools(centered=True)
