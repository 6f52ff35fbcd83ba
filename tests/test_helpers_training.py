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
from numpyro.infer import SVI, Predictive, Trace_ELBO
from numpyro.infer.autoguide import (
    AutoDelta,
    AutoGuideList,
    AutoMultivariateNormal,
    AutoNormal,
)

from benchmarks.shared import bnn_model
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
    svi, cached = make_svi(), training._loop.run._cache_size
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


# Evaluations, early stopping, the best state. Here `a` is the number of steps done.
ENDLESS = (jnp.float32(1e30), jnp.array(False))


def climb(num_steps, evaluate, **options):
    return fit(KEY, CLIMB, num_steps, *ENDLESS, evaluate=evaluate, **options)


@pytest.mark.parametrize(
    ("every", "steps"), [(4, [4, 8, 10]), (5, [5, 10]), (50, [10])]
)
def test_evaluations(every, steps):
    result = climb(
        10, lambda params, key: -((params["a"] - 8) ** 2), evaluate_every=every
    )
    values = [-((step - 8) ** 2) for step in steps]
    np.testing.assert_array_equal(result.evaluations, np.c_[steps, values])
    assert result.best_step == steps[int(np.argmax(values))]
    assert result.best_params == {"a": result.best_step}
    assert result.params == {"a": 10}
    assert (result.steps, result.stopped) == (10, "all steps done")
    np.testing.assert_array_equal(result.losses, -np.arange(10.0))


@pytest.mark.parametrize(
    ("patience", "steps", "best"), [(1, 4, 2), (2, 16, 12), (3, 18, 12), (5, 20, 12)]
)
def test_early_stopping(patience, steps, best):
    #                    2  4  6  8 10 12 14 16 18 20
    values = jnp.array([3, 3, 4, 4.5, 2, 5, 5, 5, 1, 0])

    def evaluate(params, key):
        return values[(params["a"] / 2).astype(int) - 1]

    result = climb(20, evaluate, evaluate_every=2, patience=patience)
    assert result.steps == result.losses.size == steps
    assert result.evaluations[:, 0].tolist() == list(range(2, steps + 1, 2))
    assert result.best_step == best  # the first of equal ones
    assert result.params == {"a": steps}
    assert result.best_params == {"a": best}
    expected = "all steps done"
    if steps < 20:
        expected = f"no improvement in {patience} evaluations"
    assert result.stopped == expected
    assert result.state.optim_state[0] == steps


@pytest.mark.parametrize("patience", [3, 15, None])  # a chunk has ten evaluations
def test_early_stopping_within_and_across_chunks(patience):
    best, worst_at = 226, 100  # up to step 100, down and up again, down after 226

    def evaluate(params, key):
        a = params["a"]
        dip = jnp.where((a > worst_at) & (a <= worst_at + 8), 50, 0)
        return jnp.where(a <= best, a - dip, best - a)

    result = climb(400, evaluate, evaluate_every=2, patience=patience)
    steps = {3: worst_at + 6, 15: best + 30, None: 400}[patience]
    assert result.steps == result.losses.size == result.params["a"] == steps
    np.testing.assert_array_equal(result.losses, -np.arange(float(steps)))
    assert result.evaluations[:, 0].tolist() == list(range(2, steps + 1, 2))
    assert result.best_step == {3: worst_at}.get(patience, best)
    assert result.best_params == {"a": result.best_step}
    assert result.stopped.startswith("all" if patience is None else "no improvement")


def test_a_bad_loss_between_evaluations_keeps_those_before():
    data = jnp.float32(149), jnp.array(False)
    look = {"evaluate": lambda params, key: params["a"], "evaluate_every": 4}
    with pytest.raises(NonFiniteLossError, match=r"nan at step 150") as caught:
        fit(KEY, CLIMB, 400, *data, **look)
    kept = caught.value.result
    assert kept.evaluations[:, 0].tolist() == list(range(4, 149, 4))
    assert (kept.best_step, kept.best_params) == (148, {"a": 148})
    assert kept.steps == kept.losses.size == kept.params["a"] == 148


@pytest.mark.parametrize("guide", [hand_guide, AutoNormal(model)])
def test_evaluating_changes_no_loss(guide):
    svi = make_svi(guide)
    expected = svi.run(KEY, 24, Y, progress_bar=False)
    evaluate = training.log_predictive_density(model, guide, 8, Y[:5])
    result = fit(KEY, svi, 24, Y, evaluate=evaluate, evaluate_every=7)
    np.testing.assert_array_equal(result.losses, expected.losses)
    assert same(result.params, expected.params)
    assert jnp.array_equal(result.state.rng_key, expected.state.rng_key)
    assert result.evaluations.shape == (4, 2)
    best = result.evaluations[:, 0] == result.best_step
    assert result.evaluations[best, 1] == result.evaluations[:, 1].max()


def test_without_evaluation_there_is_no_best(svi):
    result = fit(KEY, svi, 3, Y)
    assert result.evaluations.shape == (0, 2)
    assert result.best_step is result.best_params is None


def test_evaluation_keys_are_the_same_and_nobody_elses():
    def evaluate(params, key):
        return jax.random.key_data(key).astype("uint32")[0].astype(float)

    values = climb(10, evaluate, evaluate_every=2).evaluations[:, 1]
    assert len(set(values)) == 1
    others = jax.random.key_data(jax.random.split(KEY, 3))[:, 0].astype("float32")
    assert values[0] not in np.asarray(others)


def test_evaluate_is_compiled_once():
    traced = []

    def evaluate(params, key):
        traced.append(1)
        return params["a"]

    climb(30, evaluate, evaluate_every=3)
    climb(30, evaluate, evaluate_every=2)
    assert len(traced) == 1


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_non_finite_evaluation_keeps_the_run(bad):
    def evaluate(params, key):
        return jnp.where(params["a"] < 6, params["a"], bad)

    with pytest.raises(
        NonFiniteLossError, match=f"evaluate gave {bad} at step 6 "
    ) as e:
        climb(10, evaluate, evaluate_every=3)
    kept = e.value.result
    assert (kept.steps, kept.stopped) == (6, "non-finite evaluation")
    assert kept.params == {"a": 6}
    assert kept.best_params == {"a": 3}
    assert kept.evaluations[0].tolist() == [3, 3]


def test_minus_infinity_is_merely_bad():
    def evaluate(params, key):
        return jnp.where(params["a"] == 6, 0.0, -jnp.inf)

    result = climb(9, evaluate, evaluate_every=3)
    assert result.best_step == 6
    assert climb(3, evaluate).best_step == 3


def test_broken_parameters_are_named_before_the_evaluation(exploding_svi):
    options = {"evaluate": lambda params, key: params["at"], "evaluate_every": 7}
    with pytest.raises(NonFiniteLossError, match=r"gave NaN or inf.* at step 7;") as e:
        fit(KEY, exploding_svi, 20, Y, **options)
    assert e.value.result.steps == 6


# Models and guides that go together with each other, and with the data.


def fit_once(model, guide, *args):
    svi = SVI(model, guide, optax.adam(0.1), Trace_ELBO())
    return fit(KEY, svi, 1, *args)


def test_a_model_that_observes_nothing_of_its_data():
    def forgetful(x, y=None):
        numpyro.sample("y", dist.Normal(x, 1), obs=y)

    assert fit_once(forgetful, AutoNormal(forgetful), Y, Y).steps == 1
    with pytest.raises(ValueError, match=r"obs=.* since .* data, got none .*\(12,\)"):
        fit_once(forgetful, AutoNormal(forgetful), Y)


def test_a_density_without_data_is_fitted():
    def density(rho):
        covariance = jnp.array([[1.0, rho], [rho, 1.0]])
        numpyro.sample("theta", dist.MultivariateNormal(jnp.zeros(2), covariance))

    assert fit_once(density, AutoNormal(density), jnp.asarray(0.9)).steps == 1
    fixed = partial(density, 0.9)
    assert fit_once(fixed, AutoNormal(fixed)).steps == 1


@pytest.mark.filterwarnings("ignore:Found vars in model but not guide")
def test_a_guide_that_lacks_an_unknown():
    def half(y):
        numpyro.sample("mu", dist.Normal(numpyro.param("at", 0.0), 1))

    hidden = AutoNormal(numpyro.handlers.block(model, hide=["s"]))
    some = AutoGuideList(model)
    some.append(hidden)
    for guide in (hidden, some):
        with pytest.raises(ValueError, match=r"guide: .*each unknown"):
            fit_once(model, guide, Y)
    message = r"guide: .*each unknown .* none for \['s'\], but \['mu'\]"
    with pytest.raises(ValueError, match=message):
        fit_once(model, half, Y)
    given = {"s": jnp.float32(1.0)}
    for fixed in (numpyro.handlers.condition, numpyro.handlers.substitute):
        assert fit_once(fixed(model, given), half, Y).steps == 1


@pytest.mark.filterwarnings("ignore:Found vars in model but not guide")
def test_sites_that_no_guide_needs():
    def beside(y):
        numpyro.deterministic("twice", 2 * numpyro.param("at", 0.0))
        numpyro.sample("same", dist.Delta(jnp.ones(2)).expand([3, 2]).to_event(1))
        numpyro.sample("aside", dist.Normal(), infer={"is_auxiliary": True})
        with numpyro.handlers.mask(mask=False), numpyro.plate("N", 12):
            numpyro.sample("replica", dist.Normal(0, 1))
        model(y, scale=1.0)

    def only_mu(y):
        numpyro.sample("mu", dist.Normal(numpyro.param("at", 0.0), 1))

    assert fit_once(beside, only_mu, Y).steps == 1


# The log predictive density, against its definition.


def logistic(x, y=None):
    w = numpyro.sample("w", dist.Normal(0, 1).expand([2]).to_event(1))
    with numpyro.plate("rows", len(x)):
        numpyro.sample("y", dist.Bernoulli(logits=x @ w), obs=y)


def logistic_guide(x, y=None):
    at = numpyro.param("at", jnp.array([0.5, -1.0]))
    numpyro.sample("w", dist.Normal(at, 0.3).to_event(1))


X = np.random.default_rng(1).normal(size=(30, 2)).astype("float32")
LABELS = (X[:, 0] > X[:, 1]).astype("int32")


def brute_force(draws, x, y):
    p = 1 / (1 + np.exp(-np.asarray(draws, float) @ x.T.astype(float)))
    return np.log(np.where(y == 1, p, 1 - p).mean(axis=0)).mean()


@pytest.mark.parametrize(
    "guide",
    [
        logistic_guide,
        AutoNormal(logistic),
        AutoMultivariateNormal(logistic),
        AutoDelta(logistic),
    ],
    ids=lambda guide: type(guide).__name__,
)
def test_log_predictive_density(guide):
    svi = SVI(logistic, guide, optax.adam(0.1), Trace_ELBO())
    state = svi.init(KEY, X[:20], LABELS[:20])  # other rows than those to score
    params = svi.get_params(state)
    num_draws = 4_000
    evaluate = training.log_predictive_density(
        logistic, guide, num_draws, X[20:], LABELS[20:]
    )
    drawn = Predictive(guide, params=params, num_samples=num_draws)(KEY, X)["w"]
    expected = brute_force(drawn, X[20:], LABELS[20:])
    p = 1 / (1 + np.exp(-np.asarray(drawn) @ X[20:].T))
    p = np.where(LABELS[20:] == 1, p, 1 - p)
    error = (p.std(axis=0) / p.mean(axis=0)).max() / np.sqrt(num_draws)
    values = [float(evaluate(params, key)) for key in jax.random.split(KEY)]
    np.testing.assert_allclose(values, expected, atol=6 * error + 1e-5)
    assert (values[0] != values[1]) == (error > 1e-5)
    # Nothing of JAX's tracing stays behind in the guide.
    fit(KEY, svi, 3, X[:20], LABELS[:20], evaluate=evaluate, evaluate_every=2)
    assert jnp.isfinite(svi.evaluate(state, X[:20], LABELS[:20]))


def test_log_predictive_density_of_one_draw_is_exact():
    def fixed(x, y=None):
        numpyro.sample("w", dist.Delta(jnp.array([0.5, -1.0])).to_event(1))

    found = training.log_predictive_density(logistic, fixed, 3, X, y=LABELS)({}, KEY)
    np.testing.assert_allclose(found, brute_force([[0.5, -1.0]], X, LABELS), rtol=1e-5)


def test_log_predictive_density_of_a_network():
    (x, y), (x_val, y_val), _ = bnn_model.make_data()
    guide = AutoNormal(bnn_model.model)
    svi = SVI(bnn_model.model, guide, optax.adam(0.01), Trace_ELBO())
    evaluate = training.log_predictive_density(
        bnn_model.model, guide, 500, x_val, y_val
    )
    result = fit(KEY, svi, 100, x, y, evaluate=evaluate, evaluate_every=50)
    weights = Predictive(guide, params=result.params, num_samples=500)(KEY, x_val)
    predict = Predictive(bnn_model.model, weights, return_sites=["p"], parallel=True)
    p = np.asarray(predict(KEY, x_val)["p"], float)
    p = np.where(y_val == 1, p, 1 - p)
    expected = np.log(p.mean(axis=0)).mean()
    error = (p / p.mean(axis=0)).mean(axis=1).std() / np.sqrt(500)
    assert result.evaluations[-1, 1] == pytest.approx(expected, abs=6 * error)


def test_masks_are_refused():
    def masked(y):
        a = numpyro.sample("a", dist.Normal(0, 1))
        with numpyro.handlers.mask(mask=Y > 0):
            numpyro.sample("y", dist.Normal(a, 1), obs=y)

    def fixed(y):
        numpyro.sample("a", dist.Delta(0.0))

    evaluate = training.log_predictive_density(masked, fixed, 2, Y)
    with pytest.raises(ValueError, match="all of 'y' to be observed, got a mask"):
        evaluate({}, KEY)


def test_several_sites_and_factors():
    def two(y, z):
        a = numpyro.sample("a", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(a, 1), obs=y)
        numpyro.sample("z", dist.Normal(a, 2), obs=z)
        numpyro.factor("f", 100.0)

    def fixed(y, z):
        numpyro.sample("a", dist.Delta(0.0))

    make = partial(training.log_predictive_density, two, fixed, 2, Y, Y)
    expected = dist.Normal(0, 2).log_prob(Y).mean()
    np.testing.assert_allclose(make(site="z")({}, KEY), expected, rtol=1e-5)
    with pytest.raises(ValueError, match=r"site: expected a name.* \['y', 'z'\]"):
        make()({}, KEY)
    with pytest.raises(ValueError, match=r"site: .* \['y', 'z'\], got 'a'"):
        make(site="a")({}, KEY)


def test_a_column_of_labels_is_not_scored_as_a_vector():
    columns = training.log_predictive_density(
        logistic, logistic_guide, 2, X, LABELS[:, None]
    )
    message = r"'y' has shape \(30,\) .* its data of shape \(30, 1\).* \.squeeze"
    with pytest.raises(ValueError, match=message):
        columns(PARAMS, KEY)
    svi = SVI(logistic, logistic_guide, optax.adam(0.1), Trace_ELBO())
    with pytest.raises(ValueError, match=message):
        fit(KEY, svi, 3, X, LABELS, evaluate=columns)


PARAMS = {"at": jnp.zeros(2)}


@pytest.mark.parametrize(
    ("change", "params", "error", "message"),
    [
        ({"model": 3}, PARAMS, TypeError, "model: expected a callable, got int"),
        ({"guide": None}, PARAMS, TypeError, "guide: expected a callable, got None"),
        ({"num_draws": 0}, PARAMS, ValueError, "num_draws: .*least 1, got 0"),
        ({"site": 1}, PARAMS, TypeError, "site: expected a name, got 1"),
        ({"x": X * np.nan}, PARAMS, ValueError, "model argument 0: .*60 NaN"),
        (
            {"guide": AutoNormal(logistic)},
            {},
            ValueError,
            "guide: .*got a new AutoNorm",
        ),
        ({"y": None}, PARAMS, ValueError, r"model: expected data or draws.*\['y'\]"),
        ({"guide": lambda x, y: None}, {}, ValueError, r"model: .*for \['w'\], got"),
        ({}, {"loc": 0.0}, ValueError, r"params: expected \['at'\] too, got \['loc'\]"),
    ],
)
def test_bad_input_to_log_predictive_density(change, params, error, message):
    given = {"model": logistic, "guide": logistic_guide, "num_draws": 2, "x": X}
    given = given | {"y": LABELS, "site": None} | change
    site = given.pop("site")
    with pytest.raises(error, match=message):
        training.log_predictive_density(*given.values(), site=site)(params, KEY)


class Frame:
    """What counts of a data frame: it is compared number by number."""

    __hash__ = None

    def to_numpy(self):
        return Y


def good(params, key):
    return params["at"]


A_KEY = r"rng_key: expected a key made by jax\.random\.key\(seed\), got "
BAD_INPUT = [
    ({"rng_key": jax.random.PRNGKey(0)}, TypeError, A_KEY + r".*\(2,\).*uint32"),
    ({"rng_key": 0}, TypeError, A_KEY + "0"),
    ({"rng_key": None}, TypeError, A_KEY + "None"),
    ({"rng_key": jax.random.split(KEY)}, ValueError, r"rng_key: .*one key.*\(2,\)"),
    ({"svi": model}, TypeError, "svi: expected numpyro.infer.SVI, got function"),
    (
        {"svi": SVI(model, hand_guide, optax.adam(0.1), Trace_ELBO)},
        TypeError,
        r"svi: expected a loss such as Trace_ELBO\(\), got the class Trace_ELBO",
    ),
    ({"num_steps": 10**10}, ValueError, "num_steps: .*2,147,483,647, got 10,000,000"),
    ({"evaluate_every": 2**31}, ValueError, "evaluate_every: expected at most 2,1"),
    ({"evaluate": good, "patience": 2**31}, ValueError, "patience: expected at most"),
    ({"pateince": 5}, TypeError, r"pateince: no option of fit, and model\(\) got an"),
    ({"num_steps": 0}, ValueError, "num_steps: expected at least 1, got 0"),
    ({"num_steps": -1}, ValueError, "num_steps: expected at least 1, got -1"),
    ({"num_steps": 2.5}, TypeError, r"num_steps: .*whole number, got 2\.5"),
    ({"num_steps": True}, TypeError, "num_steps: .*whole number, got True"),
    ({"num_steps": "9"}, TypeError, "num_steps: .*whole number, got '9'"),
    ({"chunk_size": 0}, ValueError, "chunk_size: expected at least 1, got 0"),
    ({"chunk_size": 1.0}, TypeError, r"chunk_size: .*whole number, got 1\.0"),
    ({"progress_bar": "yes"}, TypeError, "progress_bar: .*True or False, got 'yes'"),
    ({"progress_bar": 1}, TypeError, "progress_bar: .*True or False, got 1"),
    ({"evaluate": 3}, TypeError, "evaluate: expected a function .*, got int"),
    ({"evaluate_every": 0}, ValueError, "evaluate_every: .*least 1, got 0"),
    ({"patience": 2}, ValueError, "patience: expected None without evaluate, got 2"),
    ({"evaluate": good, "patience": 0}, ValueError, "patience: .*least 1, got 0"),
    ({"evaluate": lambda p, k: Y}, ValueError, r"evaluate: .*one number, got \(12,\)"),
    ({"evaluate": lambda p, k: p}, ValueError, "evaluate: .*one number, got dict"),
    ({"evaluate": lambda p, k: None}, ValueError, "evaluate: .*number, got NoneType"),
    ({"evaluate": lambda p, k: float(p["at"])}, TypeError, "evaluate: .*can trace"),
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
    ({"y": Y.tolist()}, TypeError, r"model argument 0: .*got list; np\.asarray"),
    ({"y": {"a": [[1.0], [2.0]]}}, TypeError, r"argument 0\['a'\]: .*got list; np"),
    ({"y": Frame()}, TypeError, r"model argument 0: .*got Frame; \.to_numpy\(\) makes"),
    (
        {"y": np.ma.masked_greater(Y, 1)},
        ValueError,
        "model argument 0: expected numbers without a mask, got 7 masked of 12",
    ),
    ({"scale": Y * np.nan}, ValueError, "scale: expected finite numbers, got 12"),
    ({"scale": float("nan")}, ValueError, "scale: expected finite numbers, got 1"),
]


@pytest.mark.parametrize(("change", "error", "message"), BAD_INPUT)
def test_bad_input(svi, change, error, message):
    given = {"rng_key": KEY, "svi": svi, "num_steps": 3, "y": Y} | change
    args = [given.pop(name) for name in ("rng_key", "svi", "num_steps", "y")]
    with pytest.raises(error, match=message):
        fit(*args, **given)
