"""Posterior predictive draws: those of `Predictive`, in bounded memory."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from flax import nnx
from numpyro.contrib.control_flow import scan
from numpyro.contrib.module import nnx_module
from numpyro.infer import SVI, Predictive, Trace_ELBO
from numpyro.infer.autoguide import (
    AutoBatchedLowRankMultivariateNormal,
    AutoBatchedMultivariateNormal,
    AutoMultivariateNormal,
    AutoNormal,
)

from benchmarks.shared import bnn_model
from helpers.diagnostics import log_weights
from helpers.training import fit, log_predictive_density, predict, predictions

KEY = jax.random.key(31)
N = 230
X = np.random.default_rng(0).normal(size=(N, 2)).astype("float32")


def model(x, y=None, noise=0.5):
    w = numpyro.sample("w", dist.Normal(0, 1).expand([2]).to_event(1))
    with numpyro.plate("rows", len(x)):
        mean = numpyro.deterministic("mean", x @ w)
        numpyro.sample("y", dist.Normal(mean, noise), obs=y)


def guide(x, y=None, noise=0.5):
    at = numpyro.param("at", jnp.array([1.0, -2.0]))
    numpyro.sample("w", dist.Normal(at, 0.3).to_event(1))


PARAMS = {"at": jnp.array([0.5, 1.5])}


def close(found, expected):
    """Check that two dictionaries of draws are the same up to rounding."""
    assert found.keys() == expected.keys()
    for name, values in found.items():
        assert isinstance(values, np.ndarray)
        np.testing.assert_allclose(values, expected[name], rtol=1e-5, atol=1e-5)


# All rows at once: the numbers of Predictive


def as_predictive(model, guide, params, num_draws, *args, sites=None, **kwargs):
    predictive = Predictive(
        model, guide=guide, params=params, num_samples=num_draws, return_sites=sites
    )
    return predictive(KEY, *args, **kwargs)


@pytest.mark.parametrize("num_draws", [1, 40])
def test_numbers_and_sites_are_those_of_predictive(num_draws):
    found = predict(KEY, model, guide, PARAMS, num_draws, X, noise=2.0)
    close(found, as_predictive(model, guide, PARAMS, num_draws, X, noise=2.0))
    assert found.keys() == {"mean", "y"}
    assert found["y"].shape == (num_draws, N)


@pytest.mark.parametrize("draw_batch", [1, 7, 100])
def test_numbers_do_not_depend_on_the_draws_computed_at_once(draw_batch):
    whole = predict(KEY, model, guide, PARAMS, 40, X)
    close(predict(KEY, model, guide, PARAMS, 40, X, draw_batch=draw_batch), whole)


def test_unknowns_can_be_named():
    found = predict(KEY, model, guide, PARAMS, 40, X, sites=["w", "mean"])
    assert found.keys() == {"w", "mean"}
    assert found["w"].shape == (40, 2)
    np.testing.assert_allclose(found["w"] @ X.T, found["mean"], atol=1e-4)
    close({"w": found["w"]}, as_predictive(model, guide, PARAMS, 40, X, sites=["w"]))


def test_functions_of_a_guide_do_not_replace_those_of_the_model():
    def its_guide(x, y=None):
        guide(x)
        numpyro.deterministic("mean", jnp.full(len(x), 50.0))

    found = predict(KEY, model, its_guide, PARAMS, 6, X)
    close(found, as_predictive(model, its_guide, PARAMS, 6, X))
    assert np.abs(found["y"]).max() < 25
    in_batches = predict(KEY, model, its_guide, PARAMS, 6, X, row_batch=100)
    assert np.abs(in_batches["y"]).max() < 25
    scored = [
        log_predictive_density(model, of, 6, X, np.zeros(N, "float32"))(PARAMS, KEY)
        for of in (guide, its_guide)
    ]
    assert scored[0] == pytest.approx(float(scored[1]), rel=1e-4)


@pytest.mark.parametrize(
    "kind", [AutoBatchedMultivariateNormal, AutoBatchedLowRankMultivariateNormal]
)
def test_guides_of_independent_batches(kind):
    def batched(y=None):
        with numpyro.plate("batch", 3):
            z = numpyro.sample("z", dist.Normal(0, 1).expand([2]).to_event(1))
            numpyro.sample("y", dist.Normal(z.sum(-1), 1), obs=y)

    made = kind(batched, batch_ndim=1)
    svi = SVI(batched, made, optax.adam(0.1), Trace_ELBO())
    params = fit(KEY, svi, 2, X[:3, 0], progress_bar=False).params
    found = predict(KEY, batched, made, params, 6)
    close(found, as_predictive(batched, made, params, 6))
    weights = log_weights(KEY, batched, made, params, X[:3, 0], num_draws=100)
    assert np.isfinite(weights).all()
    other = params | {"auto_loc": jnp.zeros((3, 4))}
    with pytest.raises(ValueError, match="guide: expected 2 parameters in 'auto_loc'"):
        predict(KEY, batched, made, other, 6)


def test_all_rows_of_a_draw_share_its_coefficients_and_no_noise():
    found = predict(KEY, model, guide, PARAMS, 400, X)
    w, *_ = np.linalg.lstsq(X, found["mean"].T)
    np.testing.assert_allclose(X @ w, found["mean"].T, atol=1e-4)
    np.testing.assert_allclose(w.mean(axis=1), PARAMS["at"], atol=5 * 0.3 / 20)
    np.testing.assert_allclose(w.std(axis=1), 0.3, rtol=0.15)
    noise_looks_independent((found["y"] - found["mean"]) / 0.5)


def noise_looks_independent(noise):
    """Check that no numbers are alike: not between draws, not between rows."""
    assert abs(noise.mean()) < 0.03
    assert abs(noise.std() - 1) < 0.03
    assert len(np.unique(noise)) > 0.98 * noise.size  # float32 repeats a few
    for shift, axis in ((1, 0), (1, 1), (50, 1)):
        other = np.roll(noise, shift, axis=axis)
        assert abs((noise * other).mean()) < 5 / np.sqrt(noise.size)


def test_rows_of_the_fit_with_a_plate_of_fixed_size():
    """The plate knows its size by heart, and each row has an unknown of its own."""

    def effects(x, y=None):
        top = numpyro.sample("top", dist.Normal(0, 1))
        with numpyro.plate("rows", 12):
            effect = numpyro.sample("effect", dist.Normal(top, 1))
            numpyro.sample("y", dist.Normal(effect * x, 1), obs=y)

    x, y = X[:12].T
    fitted = AutoNormal(effects)
    svi = SVI(effects, fitted, optax.adam(0.1), Trace_ELBO())
    params = fit(KEY, svi, 3, x, y, progress_bar=False).params
    found = predict(KEY, effects, fitted, params, 5, x)
    assert found.keys() == {"y"}
    close(found, as_predictive(effects, fitted, params, 5, x))
    with pytest.raises(ValueError, match=r"without row_batch"):
        predict(KEY, effects, fitted, params, 5, x, row_batch=4)


class Normed(nnx.Module):
    def __init__(self, rngs):
        self.norm = nnx.BatchNorm(2, momentum=0.5, rngs=rngs)

    def __call__(self, x):
        return self.norm(x).sum(axis=1) + self.norm.mean[...].sum()


def test_mutable_state_is_that_of_the_fit():
    def normed(x, y=None):
        net = nnx_module("net", Normed(nnx.Rngs(0)))
        shift = numpyro.sample("shift", dist.Normal(0, 1))
        with numpyro.plate("rows", len(x)):
            numpyro.sample("y", dist.Normal(net(x) + shift, 0.1), obs=y)

    fitted = AutoNormal(normed)
    svi = SVI(normed, fitted, optax.adam(0.01), Trace_ELBO())
    result = fit(KEY, svi, 4, X + 3, X[:, 0], progress_bar=False)
    params = result.params | result.state.mutable_state
    found = predict(KEY, normed, fitted, params, 6, X[:9])
    close(found, as_predictive(normed, fitted, params, 6, X[:9]))
    with pytest.warns(UserWarning, match=r"params: \['net.*start anew"):
        fresh = predict(KEY, normed, fitted, result.params, 6, X[:9])
    assert not np.allclose(fresh["y"], found["y"], atol=0.1)


# Some rows at a time


def test_rows_in_batches_share_unknowns_and_no_noise():
    one = predict(KEY, model, guide, PARAMS, 300, X, row_batch=N)
    some = predict(KEY, model, guide, PARAMS, 300, X, row_batch=50)
    assert list(some) == ["mean", "y"]
    assert some["y"].shape == (300, N)
    np.testing.assert_allclose(some["mean"], one["mean"], rtol=1e-5, atol=1e-5)
    noise_looks_independent((some["y"] - some["mean"]) / 0.5)
    np.testing.assert_allclose(some["mean"].mean(axis=0), X @ PARAMS["at"], atol=0.3)


def test_rows_of_a_network_in_batches_share_its_weights():
    x, y = bnn_model.make_data()[0]
    guide = AutoMultivariateNormal(bnn_model.model)
    svi = SVI(bnn_model.model, guide, optax.adam(0.01), Trace_ELBO())
    params = svi.get_params(svi.init(KEY, x, y))
    call = KEY, bnn_model.model, guide, params, 9, x
    some = predict(*call, sites=["p"], row_batch=64)
    whole = predict(*call, sites=["p"], row_batch=len(x))
    assert list(some) == ["p"]
    assert some["p"].shape == (9, len(x))
    assert (some["p"].std(axis=0) > 1e-3).all()
    np.testing.assert_allclose(some["p"], whole["p"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("row_batch", [1, 60, 1_000])
def test_draws_computed_at_once_change_nothing_in_batches_of_rows(row_batch):
    call = KEY, model, guide, PARAMS, 12, X[:70]
    whole = predict(*call, row_batch=row_batch)
    close(predict(*call, row_batch=row_batch, draw_batch=5), whole)


class Encoder(nnx.Module):
    def __init__(self, rngs):
        self.layer = nnx.Linear(1, 2, rngs=rngs)

    def __call__(self, y):
        at, width = jnp.split(self.layer(y[:, None]), 2, axis=-1)
        return at[:, 0], jnp.exp(width[:, 0])


def local_model(y, size=None):
    top = numpyro.sample("top", dist.Normal(0, 1))
    with numpyro.plate("rows", size or len(y), subsample_size=len(y)):
        z = numpyro.sample("z", dist.Normal(top, 1))
        numpyro.sample("y", dist.Normal(z, 0.1), obs=y)


def local_guide(y, size=None):
    encoder = nnx_module("encoder", Encoder(nnx.Rngs(0)))
    numpyro.sample("top", dist.Normal(numpyro.param("top_at", 0.0), 0.1))
    with numpyro.plate("rows", size or len(y), subsample_size=len(y)):
        numpyro.sample("z", dist.Normal(*encoder(y)))


@pytest.mark.parametrize("row_batch", [None, 50])
def test_unknowns_of_single_rows(row_batch):
    y = np.linspace(-1, 1, N).astype("float32")
    svi = SVI(local_model, local_guide, optax.adam(0.01), Trace_ELBO())
    params = svi.get_params(svi.init(KEY, y))
    call = KEY, local_model, local_guide, params, 300, y
    found = predict(*call, sites=["z"], row_batch=row_batch)["z"]
    at, width = Encoder(nnx.Rngs(0))(y)
    noise_looks_independent((found - at) / width)


def test_summaries_and_batches():
    call, options = (KEY, model, guide, PARAMS, 20, X), {"row_batch": 100}
    draws = predict(*call, **options)
    mean = predict(*call, summary=lambda d: d.mean(axis=0), **options)
    np.testing.assert_allclose(mean["y"], draws["y"].mean(axis=0), rtol=1e-5)
    ends = predict(
        *call, summary=lambda d: np.quantile(d, [0.05, 0.95], axis=0).T, **options
    )
    assert ends["y"].shape == (N, 2)
    seen = []
    for rows, batch in predictions(*call, **options):
        seen.append((rows.start, rows.stop))
        np.testing.assert_array_equal(batch["y"], draws["y"][:, rows])
    assert seen == [(0, 100), (100, 200), (200, 230)]


def test_a_memory_map_is_read_piece_by_piece(tmp_path):
    np.save(tmp_path / "x.npy", X)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    for row_batch in (None, 100):
        found = predict(KEY, model, guide, PARAMS, 5, mapped, row_batch=row_batch)
        close(found, predict(KEY, model, guide, PARAMS, 5, X, row_batch=row_batch))


def test_nan_stays_in_its_row():
    x = X.copy()
    x[-1, 1] = np.nan
    for row_batch in (None, 100):
        found = predict(KEY, model, guide, PARAMS, 4, x, row_batch=row_batch)
        assert np.isnan(found["y"][:, -1]).all()
        assert np.isfinite(found["y"][:, :-1]).all()


# What a call sees


def test_nothing_is_remembered():
    """What a model finds outside its arguments may change from call to call."""
    outside = {"shift": 0.0}

    def shifted(x, y=None):
        w = numpyro.sample("w", dist.Normal(0, 1).expand([2]).to_event(1))
        numpyro.deterministic("mean", x @ w + outside["shift"])

    call = KEY, shifted, guide, PARAMS, 3, X
    before = predict(*call), predict(*call, row_batch=100)
    outside["shift"] = 10.0
    after = predict(*call), predict(*call, row_batch=100)
    for old, new in zip(before, after, strict=True):
        np.testing.assert_allclose(new["mean"], old["mean"] + 10, rtol=1e-5, atol=1e-5)


def random_walk(x, y=None):
    def step(carry, _):
        carry = numpyro.sample("s", dist.Normal(carry, 1))
        return carry, carry

    scan(step, 0.0, None, length=4)
    guide(x)


def fixed_plate(x, y=None):
    guide(x)
    with numpyro.plate("rows", N):
        numpyro.sample("y", dist.Normal(x[:, 0], 1), obs=y)


def test_some_models_need_all_rows_at_once():
    for whole in (random_walk, fixed_plate):
        found = predict(KEY, whole, guide, PARAMS, 4, X)
        close(found, as_predictive(whole, guide, PARAMS, 4, X))


GOOD = {"rng_key": KEY, "model": model, "guide": guide, "params": PARAMS}
ROWS = {"row_batch": 100}


@pytest.mark.parametrize(
    ("change", "options", "error", "message"),
    [
        ({"rng_key": 3}, {}, TypeError, "rng_key: expected a key"),
        (
            {"rng_key": jax.random.split(KEY)},
            {},
            ValueError,
            "rng_key: expected one key, got 2 keys",
        ),
        ({"model": 3}, {}, TypeError, "model: expected a callable, got int"),
        ({"guide": None}, {}, TypeError, "guide: expected a callable, got None"),
        ({"guide": AutoNormal(model)}, {}, ValueError, "guide: this AutoNormal is new"),
        ({"model": random_walk}, ROWS, ValueError, "plain sample sites, got 'control_"),
        (
            {"model": fixed_plate},
            ROWS,
            ValueError,
            "model: expected plates, .*from the arrays.* without row_batch",
        ),
        ({"params": [1]}, {}, TypeError, "params: expected a dictionary, got list"),
        ({"params": {}}, {}, ValueError, r"params: expected \['at'\] too, got \[\]"),
        ({"params": {}}, ROWS, ValueError, r"params: expected \['at'\] too, got \[\]"),
        ({"num_draws": 0}, {}, ValueError, "num_draws: .*least 1"),
        ({}, {"row_batch": 0}, ValueError, "row_batch: .*least 1"),
        ({}, {"draw_batch": 1.5}, TypeError, "draw_batch: .*whole number"),
        ({}, {"sites": "y"}, TypeError, "sites: expected a list of names, got 'y'"),
        ({}, {"sites": ["v"]}, ValueError, r"sites: .*'mean'.* got \['v'\]"),
        (
            {},
            {"sites": ["w"]} | ROWS,
            ValueError,
            r"sites: .*\['mean', 'y'\].*each row, got \['w'\]",
        ),
        ({}, {"sites": []}, ValueError, r"sites: expected some of .* got \[\]"),
        ({"x": X[:0]}, ROWS, ValueError, r"row_batch: .* same number of rows .*\(0, 2"),
        ({}, {"y": X[:3, 0]} | ROWS, ValueError, r"same number of rows.* \(3,\)"),
        ({"x": X.tolist()}, ROWS, ValueError, "same number of rows .* no array"),
        ({}, {"y": [1.0]} | ROWS, TypeError, r"y: expected .* got list; np\.asarray"),
        ({}, {"summary": 3} | ROWS, TypeError, "summary: expected a callable, got int"),
        ({}, {"summary": np.mean} | ROWS, ValueError, r"summary: expected 100 rows .*"),
        ({}, {"summary": np.mean}, ValueError, "summary: expected None without row_ba"),
    ],
)
def test_bad_input(change, options, error, message):
    given = GOOD | {"num_draws": 4, "x": X} | change
    with pytest.raises(error, match=message):
        predict(*given.values(), **options)
