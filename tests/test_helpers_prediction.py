"""Posterior predictive draws in batches: the numbers of one batch, bounded memory."""

from functools import partial
from pathlib import Path

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
from numpyro.infer.autoguide import AutoMultivariateNormal, AutoNormal

from benchmarks.shared import bnn_model
from helpers import prediction
from helpers.training import fit, predict, predictions

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


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(prediction, "BLOCK", 50)


@pytest.mark.parametrize("draw_batch", [1, 7, 40, 100])
@pytest.mark.parametrize("row_batch", [1, 50, 120, 230, 1_000])
def test_numbers_do_not_depend_on_batches(draw_batch, row_batch):
    whole = predict(KEY, model, guide, PARAMS, 40, X, row_batch=N, draw_batch=40)
    found = predict(
        KEY, model, guide, PARAMS, 40, X, row_batch=row_batch, draw_batch=draw_batch
    )
    assert list(found) == ["mean", "y"]
    for name in found:
        assert found[name].shape == (40, N)
        np.testing.assert_array_equal(found[name], whole[name])


def test_all_rows_of_a_draw_share_its_coefficients_and_no_noise():
    found = predict(KEY, model, guide, PARAMS, 400, X)
    w, *_ = np.linalg.lstsq(X, found["mean"].T)
    np.testing.assert_allclose(X @ w, found["mean"].T, atol=1e-4)
    np.testing.assert_allclose(w.mean(axis=1), PARAMS["at"], atol=5 * 0.3 / 20)
    np.testing.assert_allclose(w.std(axis=1), 0.3, rtol=0.15)
    noise = (found["y"] - found["mean"]) / 0.5
    assert abs(noise.std() - 1) < 0.02
    # No two numbers alike: not between draws, not between blocks of rows.
    assert len(np.unique(noise)) > 0.99 * noise.size  # float32 repeats a few
    for other in (np.roll(noise, 1, axis=0), np.roll(noise, 50, axis=1)):
        assert abs((noise * other).mean()) < 5 / np.sqrt(noise.size)


def test_as_numpyro_does():
    found = predict(KEY, model, guide, PARAMS, 3_000, X[:5], noise=2.0)
    expected = Predictive(model, guide=guide, params=PARAMS, num_samples=3_000)(
        KEY, X[:5], noise=2.0
    )
    for name in ("mean", "y"):
        one, other = np.asarray(found[name]), np.asarray(expected[name])
        error = other.std(axis=0) * np.sqrt(2 / 3_000)
        assert (abs(one.mean(axis=0) - other.mean(axis=0)) < 5 * error).all()
        np.testing.assert_allclose(one.std(axis=0), other.std(axis=0), rtol=0.1)


@pytest.mark.parametrize("make", [AutoMultivariateNormal])
def test_probabilities_of_a_network(make):
    x, y = bnn_model.make_data()[0]
    guide = make(bnn_model.model)
    svi = SVI(bnn_model.model, guide, optax.adam(0.01), Trace_ELBO())
    params = fit(KEY, svi, 20, x, y, progress_bar=False).params
    found = predict(KEY, bnn_model.model, guide, params, 9, x, sites=["p"])
    assert list(found) == ["p"]
    assert found["p"].shape == (9, len(x))
    assert (found["p"].std(axis=0) > 1e-3).all()
    parts = predict(KEY, bnn_model.model, guide, params, 9, x, sites=["p"], row_batch=1)
    np.testing.assert_array_equal(parts["p"], found["p"])


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


def test_unknowns_of_single_rows():
    y = np.linspace(-1, 1, N).astype("float32")
    svi = SVI(local_model, local_guide, optax.adam(0.01), Trace_ELBO())
    params = svi.get_params(svi.init(KEY, y))
    found = predict(KEY, local_model, local_guide, params, 300, y, sites=["z"])["z"]
    at, width = Encoder(nnx.Rngs(0))(y)
    noise = (found - at) / width
    assert abs(noise.mean()) < 0.03
    assert abs(noise.std() - 1) < 0.03
    for shift in (1, 50):
        other = np.roll(noise, shift, axis=1)
        assert abs((noise * other).mean()) < 5 / np.sqrt(noise.size)
    parts = predict(
        KEY, local_model, local_guide, params, 300, y, sites=["z"], row_batch=1
    )["z"]
    np.testing.assert_array_equal(parts, found)


def test_summaries_and_batches():
    draws = predict(KEY, model, guide, PARAMS, 20, X)
    mean = predict(
        KEY, model, guide, PARAMS, 20, X, summary=lambda d: d.mean(axis=0), row_batch=60
    )
    np.testing.assert_allclose(mean["y"], draws["y"].mean(axis=0), rtol=1e-5)
    ends = predict(
        *(KEY, model, guide, PARAMS, 20, X),
        summary=lambda d: np.quantile(d, [0.05, 0.95], axis=0).T,
    )
    assert ends["y"].shape == (N, 2)
    seen = []
    for rows, batch in predictions(KEY, model, guide, PARAMS, 20, X, row_batch=100):
        seen.append((rows.start, rows.stop))
        np.testing.assert_array_equal(batch["y"], draws["y"][:, rows])
    assert seen == [(0, 100), (100, 200), (200, 230)]


def test_a_memory_map_is_read_piece_by_piece(tmp_path):
    np.save(tmp_path / "x.npy", X)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    found = predict(KEY, model, guide, PARAMS, 5, mapped)
    expected = predict(KEY, model, guide, PARAMS, 5, X)
    np.testing.assert_array_equal(found["y"], expected["y"])


@pytest.mark.parametrize("drawn", [predict, predictions])
def test_nan_in_the_last_row_is_found_before_the_first_draw(tmp_path, drawn):
    """Under its own number; the batch that it is in is filled up with its copies."""
    x = X.copy()
    x[-1, 1] = np.nan
    np.save(tmp_path / "x.npy", x)
    place = r"got 1 NaN .* of 460, the first at index \(229, 1\)"
    for table in (x, jnp.asarray(x), np.load(tmp_path / "x.npy", mmap_mode="r")):
        with pytest.raises(ValueError, match=f"model argument 0: .*{place}"):
            drawn(KEY, model, guide, PARAMS, 4, table, row_batch=50)
    with pytest.raises(ValueError, match=f"x: .*{place}"):
        drawn(KEY, model, guide, PARAMS, 4, x=x, row_batch=50)


def resident(path):
    """Return how many bytes of a mapped file are in the memory of this process."""
    maps = Path("/proc/self/smaps").read_text().split("VmFlags")
    sizes = [part.split("Rss:")[1].split()[0] for part in maps if str(path) in part]
    return sum(map(int, sizes)) * 1024


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="Linux tells")
def test_a_look_at_all_rows_leaves_none_in_memory(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, np.zeros((2**19, 10), "float32"))  # 20 MiB
    mapped = np.load(path, mmap_mode="r")
    assert mapped.sum() == 0
    assert resident(path) > 2**24
    predictions(KEY, model, lambda x: None, {}, 4, mapped[:, :2])
    assert resident(path) < 2**20


def test_compiles_once(monkeypatch):
    cached = prediction.predicted._cache_size
    before = cached()
    call = partial(predict, KEY, model, guide, PARAMS, 23, draw_batch=10, row_batch=100)
    call(X)
    assert cached() == before + 1
    call(X + 1)
    assert cached() == before + 1


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


GOOD = {"rng_key": KEY, "model": model, "guide": guide, "params": PARAMS}


@pytest.mark.parametrize(
    ("change", "options", "error", "message"),
    [
        ({"rng_key": 3}, {}, TypeError, "rng_key: expected a key"),
        ({"model": 3}, {}, TypeError, "model: expected a callable, got int"),
        ({"guide": None}, {}, TypeError, "guide: expected a callable, got None"),
        ({"guide": AutoNormal(model)}, {}, ValueError, "guide: expected one used in a"),
        ({"model": random_walk}, {}, ValueError, "plain sample sites, got 'control_fl"),
        (
            {"model": fixed_plate},
            {},
            ValueError,
            "model: expected plates, .*from the ar",
        ),
        ({"params": [1]}, {}, TypeError, "params: expected a dictionary, got list"),
        ({"params": {}}, {}, ValueError, r"params: expected \['at'\] too, got \[\]"),
        ({"num_draws": 0}, {}, ValueError, "num_draws: .*least 1"),
        ({}, {"row_batch": 0}, ValueError, "row_batch: .*least 1"),
        ({}, {"draw_batch": 1.5}, TypeError, "draw_batch: .*whole number"),
        ({}, {"sites": "y"}, TypeError, "sites: expected a list of names, got 'y'"),
        ({}, {"sites": ["w"]}, ValueError, r"sites: .*\['mean', 'y'\].* got \['w'\]"),
        ({}, {"sites": []}, ValueError, r"sites: expected some of .* got \[\]"),
        ({"x": X[:0]}, {}, ValueError, r"same number of rows, at least one, got \[0\]"),
        ({}, {"y": X[:3, 0]}, ValueError, r"same number of rows.* got \[3, 230\]"),
        ({"x": X * np.nan}, {}, ValueError, r"model argument 0: expected finite"),
        ({"x": X.tolist()}, {}, ValueError, "at least one, got no array"),
        ({}, {"y": [1.0, 2.0]}, TypeError, r"y: expected .* got list; np\.asarray"),
        ({}, {"summary": 3}, TypeError, "summary: expected a callable, got int"),
        ({}, {"summary": np.mean}, ValueError, r"summary: expected 20\d rows .*\(\)"),
    ],
)
def test_bad_input(change, options, error, message):
    given = GOOD | {"num_draws": 4, "x": X} | change
    with pytest.raises(error, match=message):
        predict(*given.values(), **options)
