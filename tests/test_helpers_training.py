"""The training loop: the numbers of `svi.run`, one compilation, honest failures."""

import io
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
import tqdm
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal

from helpers import training
from helpers.training import NonFiniteLossError

KEY = jax.random.key(3)
Y = np.random.default_rng(0).normal(1.0, 1.0, 12).astype("float32")
fit = partial(training.fit, progress_bar=False)


def model(y, size=None, *, scale=None):
    mu = numpyro.sample("mu", dist.Normal(0, 2))
    scale = numpyro.sample("s", dist.HalfNormal(1)) if scale is None else scale
    with numpyro.plate("N", len(y) if size is None else size):
        numpyro.sample("y", dist.Normal(mu, scale), obs=y)


def hand_guide(y, size=None, *, scale=None):
    at = numpyro.param("at", 0.0)
    width = numpyro.param("width", 1.0, constraint=dist.constraints.positive)
    numpyro.sample("mu", dist.Normal(at, width))
    if scale is None:
        numpyro.sample("s", dist.LogNormal(0.0, width))


def make_svi(guide=hand_guide, optimizer=None, particles=2):
    optimizer = optimizer or optax.adam(0.05)
    return SVI(model, guide, optimizer, Trace_ELBO(num_particles=particles))


def same(left, right):
    equal = jax.tree.map(np.array_equal, left, right)
    return jax.tree.all(equal) and jax.tree.structure(left) == jax.tree.structure(right)


@pytest.fixture(scope="module")
def svi():
    return make_svi()


@pytest.fixture(scope="module")
def reference(svi):
    return svi.run(KEY, 24, Y, progress_bar=False)


@pytest.mark.parametrize("chunk_size", [1, 7, 8, 1000, None])
def test_numbers_are_those_of_svi_run(svi, reference, chunk_size):
    result = fit(KEY, svi, 24, Y, chunk_size=chunk_size)
    np.testing.assert_array_equal(result.losses, reference.losses)
    assert result.losses.dtype == np.float32
    assert same(result.params, reference.params)
    assert same(result.state.optim_state, reference.state.optim_state)
    assert (result.steps, result.stopped) == (24, "all steps done")
    assert np.isfinite(result.steps_per_second)
    assert result.steps_per_second > 0


CALLS = {
    "keyword array, None": (hand_guide, (Y, None), {"scale": np.full(12, 2.0)}),
    "constants": (hand_guide, (jnp.asarray(Y), 12), {"scale": 2.0}),
    "AutoNormal": (AutoNormal(model), (Y,), {"scale": None}),
}


@pytest.mark.parametrize("call", CALLS)
def test_any_guide_and_any_arguments(call):
    guide, args, kwargs = CALLS[call]
    svi = make_svi(guide)
    result = fit(KEY, svi, 9, *args, chunk_size=4, **kwargs)
    expected = svi.run(KEY, 9, *args, progress_bar=False, **kwargs)
    np.testing.assert_array_equal(result.losses, expected.losses)
    assert same(result.params, expected.params)


@pytest.mark.filterwarnings("ignore:Explicitly requested dtype float64")
def test_double_precision():
    with jax.enable_x64(True):
        key, y, svi = jax.random.key(0), np.asarray(Y, "float64"), make_svi()
        result = fit(key, svi, 9, y, chunk_size=4)
        expected = svi.run(key, 9, y, progress_bar=False)
    assert result.losses.dtype == result.params["at"].dtype == np.float64
    np.testing.assert_array_equal(result.losses, expected.losses)
    assert same(result.params, expected.params)


def test_compiles_once_and_data_are_arguments():
    svi, cached = make_svi(), training._run_chunk._cache_size
    before = cached()
    first = fit(KEY, svi, 10, Y, chunk_size=4)  # the last chunk is shorter
    assert cached() == before + 1
    again = fit(KEY, svi, 10, Y, chunk_size=4)
    longer = fit(KEY, svi, 13, Y, chunk_size=4)
    other = fit(KEY, svi, 10, Y + 1, chunk_size=4)
    assert cached() == before + 1
    np.testing.assert_array_equal(again.losses, first.losses)
    np.testing.assert_array_equal(longer.losses[:10], first.losses)
    assert (other.losses != first.losses).all()
    fit(KEY, svi, 10, Y[:-1], chunk_size=4)
    assert cached() == before + 2


def test_constants_are_told_apart_by_value_and_type():
    def counts(flag):
        numpyro.param("a", 0.0)
        numpyro.factor("f", 10.0 if flag is True else flag * 1.0)

    svi = SVI(counts, lambda flag: None, optax.sgd(0.1), Trace_ELBO())
    losses = [float(fit(KEY, svi, 2, flag).losses[0]) for flag in (1, True, 2, 1)]
    assert losses == [-1, -10, -2, -1]


def test_a_key_may_be_data():
    def shaken(key):
        a = numpyro.param("a", 0.0)
        numpyro.factor("f", a + jax.random.normal(key))

    svi = SVI(shaken, lambda key: None, optax.sgd(0.1), Trace_ELBO())
    assert fit(KEY, svi, 1, KEY).losses == -jax.random.normal(KEY)


def test_state_goes_on_where_the_fit_ended(svi, reference):
    half = fit(KEY, svi, 12, Y)
    rest = svi.run(KEY, 12, Y, init_state=half.state, progress_bar=False)
    np.testing.assert_array_equal(rest.losses, reference.losses[12:])


@pytest.mark.parametrize("shown", [True, False])
def test_progress_bar(monkeypatch, capsys, svi, reference, shown):
    written = io.StringIO()
    bar = partial(tqdm.tqdm, disable=False, file=written, mininterval=0)
    monkeypatch.setattr(training, "tqdm", bar)
    training.fit(KEY, svi, 24, Y, chunk_size=8, progress_bar=shown)
    if shown:
        text, last = written.getvalue(), reference.losses[-8:].mean()
        assert "24/24" in text
        assert f"loss={last:.4g}" in text
    else:
        assert written.getvalue() == ""
    assert capsys.readouterr().out == ""


# The loss of step s is -(s - 1): each update adds exactly 1 to the parameter `a`, and
# where `a` has reached `limit` the loss is NaN or infinite. No luck, no rounding.
def climbing(limit, infinite):
    a = numpyro.param("a", 0.0)
    bad = jnp.where(infinite, -jnp.inf, jnp.nan)
    numpyro.factor("f", jnp.where(a < limit, a, bad))


CLIMB = SVI(climbing, lambda limit, infinite: None, optax.sgd(1.0), Trace_ELBO())


@pytest.mark.parametrize("bad", ["nan", "inf"])
@pytest.mark.parametrize("step", [1, 2, 3, 4, 5, 6, 8, 9, 10])
def test_non_finite_loss(step, bad):
    """At the start and in the middle of chunks, and in the short last one."""
    args = (jnp.float32(step - 1), jnp.array(bad == "inf"))
    with pytest.raises(NonFiniteLossError) as caught:
        fit(KEY, CLIMB, 10, *args, chunk_size=4)
    error, kept = caught.value, caught.value.result
    assert error.step == step
    assert f"at step {step};" in str(error)
    assert bad in str(error)
    assert isinstance(error, FloatingPointError)
    assert kept.stopped == "non-finite loss"
    assert kept.steps == kept.losses.size == max(step - 2, 0)
    np.testing.assert_array_equal(kept.losses, -np.arange(kept.steps, dtype="float32"))
    assert kept.params == {"a": kept.steps}
    if step > 1:  # the state kept is the last one with a finite loss
        state, loss = CLIMB.update(kept.state, *args)
        assert loss == -kept.steps
        assert not np.isfinite(CLIMB.update(state, *args)[1])


def explode(count):
    return jnp.where(count == 6, jnp.inf, 0.01)  # the seventh update


@pytest.fixture(scope="module")
def exploding_svi():
    return make_svi(optimizer=optax.sgd(explode))


@pytest.mark.parametrize(
    ("num_steps", "chunk_size", "step"),
    [(7, 4, 7), (7, None, 7), (20, 4, 8), (20, 7, 8), (20, None, 8)],
)
def test_explosion_keeps_the_run_until_then(exploding_svi, num_steps, chunk_size, step):
    """Also where the very last update breaks the parameters and no loss shows it."""
    svi = exploding_svi
    with pytest.raises(NonFiniteLossError, match=f"at step {step};") as caught:
        fit(KEY, svi, num_steps, Y, chunk_size=chunk_size)
    kept = caught.value.result
    expected = fit(KEY, svi, 6, Y, chunk_size=4)
    assert caught.value.step == step
    assert kept.steps == 6
    np.testing.assert_array_equal(kept.losses, expected.losses)
    assert same(kept.params, expected.params)
    assert all(np.isfinite(value) for value in kept.params.values())
    assert same(kept.state.optim_state, expected.state.optim_state)
    assert jnp.array_equal(kept.state.rng_key, expected.state.rng_key)


A_KEY = r"rng_key: expected a key made by jax\.random\.key\(seed\), got "
BAD_INPUT = [
    ({"rng_key": jax.random.PRNGKey(0)}, TypeError, A_KEY + r".*\(2,\).*uint32"),
    ({"rng_key": 0}, TypeError, A_KEY + "0"),
    ({"rng_key": None}, TypeError, A_KEY + "None"),
    ({"rng_key": jax.random.split(KEY)}, ValueError, r"rng_key: .*one key.*\(2,\)"),
    ({"svi": model}, TypeError, "svi: expected numpyro.infer.SVI, got function"),
    ({"num_steps": 0}, ValueError, "num_steps: expected at least 1, got 0"),
    ({"num_steps": -1}, ValueError, "num_steps: expected at least 1, got -1"),
    ({"num_steps": 2.5}, TypeError, r"num_steps: .*whole number, got 2\.5"),
    ({"num_steps": True}, TypeError, "num_steps: .*whole number, got True"),
    ({"num_steps": "9"}, TypeError, "num_steps: .*whole number, got '9'"),
    ({"chunk_size": 0}, ValueError, "chunk_size: expected at least 1, got 0"),
    ({"chunk_size": 1.0}, TypeError, r"chunk_size: .*whole number, got 1\.0"),
    ({"progress_bar": "yes"}, TypeError, "progress_bar: .*True or False, got 'yes'"),
    ({"progress_bar": 1}, TypeError, "progress_bar: .*True or False, got 1"),
    ({"y": Y[:0]}, ValueError, r"model argument 0: .*data, got none \(shape \(0,\)\)"),
    ({"y": np.zeros(0, bool)}, ValueError, "model argument 0: .*data, got none"),
    ({"y": Y * np.nan}, ValueError, "model argument 0: .*finite.*got 12 NaN or inf"),
    ({"y": jnp.array([1, jnp.inf])}, ValueError, "argument 0: .*finite.*got 1 .*of 2"),
    (
        {"y": {"a": [Y, Y * np.inf]}},
        ValueError,
        r"argument 0\['a'\]\[1\]: expected finite",
    ),
    ({"y": np.array(["a"])}, TypeError, "model argument 0: .*array of numbers, got"),
    ({"y": {1, 2}}, TypeError, "model argument 0: expected an array.*, got set"),
    ({"scale": Y * np.nan}, ValueError, "scale: expected finite numbers, got 12"),
    ({"scale": float("nan")}, ValueError, "scale: expected finite numbers, got 1"),
]


@pytest.mark.parametrize(("change", "error", "message"), BAD_INPUT)
def test_bad_input(svi, change, error, message):
    given = {"rng_key": KEY, "svi": svi, "num_steps": 3, "y": Y} | change
    args = [given.pop(name) for name in ("rng_key", "svi", "num_steps", "y")]
    with pytest.raises(error, match=message):
        fit(*args, **given)
