"""The reference posterior is right, and notebooks that write it out agree with it."""

import jax.numpy as jnp
import nbformat
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.handlers import seed
from numpyro.infer.util import log_density
from scipy.special import expit

from benchmarks.shared import logistic_model, record
from helpers.reference import GaussianPosterior, kl_parts, logistic_rows, newton

BETA = np.array([-1.0, 1.0, -0.5, 0.5])
X, Y = logistic_rows(np.random.default_rng(2), 20_000, BETA)
POSTERIOR = newton(lambda: [(X, Y)])


def code_of(notebook, *starts):
    """Return what the cells of a notebook define that begin with these texts."""
    path = record.ROOT / "notebooks" / f"{notebook}.ipynb"
    cells = nbformat.read(path, as_version=4).cells
    names = {"np": np, "jnp": jnp, "numpyro": numpyro, "dist": dist, "expit": expit}
    names |= {"mode": POSTERIOR.mode, "precision": POSTERIOR.precision}
    for start in starts:
        (source,) = (c.source for c in cells if c.source.startswith(start))
        exec(source.partition("\n\n\nfamily")[0], names)
    return names


def test_rows_are_those_of_the_model():
    assert X.shape == (20_000, 4)
    assert (X.dtype, Y.dtype) == ("float32", "float32")
    assert (X[:, 0] == 1).all()
    assert np.corrcoef(X[:, 1], X[:, 2])[0, 1] == pytest.approx(0.6, abs=0.02)
    assert set(Y) == {0, 1}
    assert abs(Y.mean() - expit(X @ BETA).mean()) < 0.01
    again = logistic_rows(np.random.default_rng(2), 20_000, BETA)
    np.testing.assert_array_equal(again[0], X)
    x, _ = logistic_rows(np.random.default_rng(2), 5, BETA, dtype="float64")
    assert x.dtype == "float64"


def test_newton_finds_the_mode_in_whole_and_in_blocks():
    slope = X.astype(float).T @ (Y - expit(X @ POSTERIOR.mode)) - POSTERIOR.mode
    assert abs(slope).max() < 1e-3
    off = POSTERIOR.mode - BETA
    assert off @ POSTERIOR.precision @ off < 20  # chi-squared, 4 degrees of freedom
    parts = np.array_split(np.arange(20_000), 7)
    blocks = newton(lambda: ((X[rows], Y[rows]) for rows in parts))
    for one, other in zip(blocks, POSTERIOR, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9)


def test_parts_are_zero_at_the_best_guide_and_known_elsewhere():
    best = {"loc": POSTERIOR.mode, "scale": POSTERIOR.best_scale}
    np.testing.assert_allclose(kl_parts(best, POSTERIOR), 0, atol=1e-12)
    normal = GaussianPosterior(np.zeros(4), np.eye(4))
    off = {"loc": np.ones((3, 4)), "scale": np.full((3, 4), 2.0)}
    center, width = kl_parts(off, normal)
    np.testing.assert_allclose(center, [2.0] * 3)
    np.testing.assert_allclose(width, [4 * (3 / 2 - np.log(2))] * 3)


def test_notebook_05_writes_out_the_same():
    names = code_of("05_training_loops", "def newton(", "def parts(")
    for one, other in zip(names["newton"](X, Y), POSTERIOR, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)
    guide = {"loc": BETA, "scale": np.full(4, 0.1)}
    np.testing.assert_allclose(names["parts"](guide), kl_parts(guide, POSTERIOR))


@pytest.mark.parametrize("notebook", ["05_training_loops", "06_scaling"])
def test_the_model_of_the_benchmarks_is_that_of_the_notebooks(notebook):
    names = code_of(notebook, "def model(x, y=None, size=None):")
    x, y = logistic_model.make_rows(50)
    truth = logistic_model.TRUE
    values = {"loc": truth, "scale": np.full(10, 0.3, "float32"), "beta": truth + 0.1}
    for name in ("model", "guide"):
        ours, theirs = (
            log_density(seed(each, 0), (x, y, 500), {}, values)[0]
            for each in (getattr(logistic_model, name), names[name])
        )
        assert ours == theirs


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: logistic_rows(np.random.default_rng(0), 0, BETA), "num_rows"),
        (lambda: logistic_rows(np.random.default_rng(0), 5, [1.0]), "coefficients"),
        (lambda: newton(list), "at least one block"),
        (lambda: newton(lambda: [(X[:9] * np.nan, Y[:9])]), "finite"),
        (
            lambda: kl_parts({"loc": np.ones(3), "scale": np.ones(3)}, POSTERIOR),
            r"shape \(\.\.\., 4\), got \(3,\)",
        ),
    ],
)
def test_what_cannot_be_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
