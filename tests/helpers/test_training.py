"""The training loop: the numbers of `svi.run`, evaluations, honest failures."""

import gc
import io
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
import tqdm
import tqdm.notebook
from numpyro.contrib.control_flow import scan
from numpyro.infer import SVI, Predictive, Trace_ELBO
from numpyro.infer.autoguide import (
    AutoDelta,
    AutoGuideList,
    AutoMultivariateNormal,
    AutoNormal,
)
from numpyro.optim import optax_to_numpyro

from benchmarks.shared import bnn_model
from helpers import training
from helpers.training import NonFiniteLossError, log_predictive_density

KEY = jax.random.key(3)
Y = np.random.default_rng(0).normal(1.0, 1.0, 12).astype("float32")
fit = partial(training.fit, progress_bar=False)


def model(y, size=None, *, scale=None):
    mu = numpyro.sample("mu", dist.Normal(0, 2))
    scale = numpyro.sample("s", dist.HalfNormal(1)) if scale is None else scale
    with numpyro.plate("N", size or len(y), subsample_size=len(y)):
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


def chunks_of(steps, tmp_path):
    """Return options that end a chunk after so many steps: a checkpoint is due."""
    return {"checkpoint": tmp_path / "run.npz", "checkpoint_every": steps}


@pytest.mark.parametrize("steps", [2, 7, 8, None])
def test_numbers_are_those_of_svi_run(svi, reference, tmp_path, steps):
    result = fit(KEY, svi, 24, Y, **(chunks_of(steps, tmp_path) if steps else {}))
    np.testing.assert_array_equal(result.losses, reference.losses)
    assert result.losses.dtype == reference.losses.dtype
    assert same(result.params, reference.params)
    assert same(result.state.optim_state, reference.state.optim_state)
    assert (result.steps, result.stopped) == (24, "all steps done")
    assert np.isfinite(result.steps_per_second)
    assert result.steps_per_second > 0


def test_many_chunks(svi):
    """As many as the clock wants, of sizes that grow."""
    result = fit(KEY, svi, 1_000, Y)
    expected = svi.run(KEY, 1_000, Y, progress_bar=False)
    np.testing.assert_array_equal(result.losses, expected.losses)
    assert same(result.params, expected.params)


CALLS = {
    "keyword array, None": (hand_guide, (Y, None), {"scale": np.full(12, 2.0)}),
    "constants": (hand_guide, (jnp.asarray(Y), 12), {"scale": 2.0}),
    "AutoNormal": (AutoNormal(model), (Y,), {"scale": None}),
}


@pytest.mark.parametrize("call", CALLS)
def test_any_guide_and_any_arguments(call):
    guide, args, kwargs = CALLS[call]
    svi = make_svi(guide)
    result = fit(KEY, svi, 9, *args, **kwargs)
    expected = svi.run(KEY, 9, *args, progress_bar=False, **kwargs)
    np.testing.assert_array_equal(result.losses, expected.losses)
    assert same(result.params, expected.params)


@pytest.mark.filterwarnings("ignore:Explicitly requested dtype float64")
def test_double_precision():
    with jax.enable_x64(True):
        key, y, svi = jax.random.key(0), np.asarray(Y, "float64"), make_svi()
        result = fit(key, svi, 9, y)
        expected = svi.run(key, 9, y, progress_bar=False)
    assert result.losses.dtype == result.params["at"].dtype == np.float64
    np.testing.assert_array_equal(result.losses, expected.losses)
    assert same(result.params, expected.params)


def test_a_key_may_be_data():
    def shaken(key):
        a = numpyro.param("a", 0.0)
        numpyro.factor("f", a + jax.random.normal(key))

    svi = SVI(shaken, lambda key: None, optax.sgd(0.1), Trace_ELBO())
    assert fit(KEY, svi, 1, KEY).losses == -jax.random.normal(KEY)


# What svi.run takes, too


def test_init_state(svi, reference):
    half = fit(KEY, svi, 12, Y)
    rest = svi.run(KEY, 12, Y, init_state=half.state, progress_bar=False)
    np.testing.assert_array_equal(rest.losses, reference.losses[12:])
    ours = fit(KEY, svi, 12, Y, init_state=half.state)
    np.testing.assert_array_equal(ours.losses, reference.losses[12:])
    assert same(ours.params, reference.params)


def test_init_state_for_a_guide_that_has_seen_nothing():
    half = fit(KEY, make_svi(AutoNormal(model)), 6, Y)
    ours = fit(KEY, make_svi(AutoNormal(model)), 6, Y, init_state=half.state)
    whole = fit(KEY, make_svi(AutoNormal(model)), 12, Y)
    np.testing.assert_allclose(ours.losses, whole.losses[6:], rtol=1e-5)


def test_init_params(svi):
    start = {"at": jnp.float32(3.0), "width": jnp.float32(0.2)}
    ours = fit(KEY, svi, 6, Y, init_params=start)
    theirs = svi.run(KEY, 6, Y, init_params=start, progress_bar=False)
    np.testing.assert_array_equal(ours.losses, theirs.losses)
    assert same(ours.params, theirs.params)


def test_forward_mode_differentiation(svi):
    options = {"forward_mode_differentiation": True}
    ours = fit(KEY, svi, 6, Y, **options)
    theirs = svi.run(KEY, 6, Y, progress_bar=False, **options)
    np.testing.assert_array_equal(ours.losses, theirs.losses)
    assert same(ours.params, theirs.params)

    def looping(y):  # reverse mode cannot go through such a loop
        mu = numpyro.sample("mu", dist.Normal(0, 2))
        mu = jax.lax.while_loop(lambda z: z > 100, lambda z: z / 2, mu)
        numpyro.sample("y", dist.Normal(mu, 1), obs=y)

    only_mu = partial(hand_guide, scale=1.0)
    looped = SVI(looping, only_mu, optax.adam(0.05), Trace_ELBO())
    assert np.isfinite(fit(KEY, looped, 3, Y, **options).losses).all()


def test_stable_update_goes_on_after_a_bad_loss():
    args = jnp.float32(3), jnp.array(False)
    ours = fit(KEY, CLIMB, 8, *args, stable_update=True)
    theirs = CLIMB.run(KEY, 8, *args, stable_update=True, progress_bar=False)
    np.testing.assert_array_equal(ours.losses, theirs.losses)
    assert np.isnan(ours.losses).sum() == 5
    assert ours.params == theirs.params == {"a": 3}
    assert (ours.steps, ours.stopped) == (8, "all steps done")


@pytest.mark.parametrize("shown", [True, False])
def test_progress_bar(monkeypatch, capsys, svi, reference, tmp_path, shown):
    written = io.StringIO()
    bar = partial(tqdm.tqdm, disable=False, file=written, mininterval=0)
    monkeypatch.setattr(training, "tqdm", bar)
    training.fit(KEY, svi, 24, Y, progress_bar=shown, **chunks_of(8, tmp_path))
    if shown:
        text, last = written.getvalue(), reference.losses[-8:].mean()
        assert "24/24" in text
        assert f"loss={last:.4g}" in text
    else:
        assert written.getvalue() == ""
    assert capsys.readouterr().out == ""


def test_a_notebook_s_bar_ends_with_the_rate_of_the_run(monkeypatch, svi, tmp_path):
    """And not with that of its last moment: the bar's clock runs ever slower here."""
    bars, times = [], (n**3 / 10 for n in range(1_000))

    def bar(**options):
        bars.append(tqdm.notebook.tqdm(display=False, mininterval=0, **options))
        return bars[0]

    monkeypatch.setattr(training, "tqdm", bar)
    monkeypatch.setattr(tqdm.std, "time", lambda: next(times))
    training.fit(KEY, svi, 24, Y, **chunks_of(8, tmp_path))
    last = bars[0].container.children[-1].value
    found = re.search(r"24/24\s\[(\d+):(\d+)&lt;00:00,\s+([\d.]+)s/step", last)
    minutes, seconds, per_step = map(float, found.groups())
    assert 60 * minutes + seconds > 24
    assert per_step == pytest.approx((60 * minutes + seconds) / 24, abs=1 / 24)


# The loss of step s is -(s - 1): each update adds exactly 1 to the parameter `a`, and
# where `a` has reached `limit` the loss is NaN or infinite. No luck, no rounding.
def climbing(limit, infinite):
    a = numpyro.param("a", 0.0)
    bad = jnp.where(infinite, -jnp.inf, jnp.nan)
    numpyro.factor("f", jnp.where(a < limit, a, bad))


CLIMB = SVI(climbing, lambda limit, infinite: None, optax.sgd(1.0), Trace_ELBO())


@pytest.mark.parametrize("bad", ["nan", "inf"])
@pytest.mark.parametrize("step", [1, 2, 4, 5, 9, 10])
def test_non_finite_loss(tmp_path, step, bad):
    """At the start and in the middle of chunks of four, and in the short last one."""
    args = (jnp.float32(step - 1), jnp.array(bad == "inf"))
    with pytest.raises(NonFiniteLossError) as caught:
        fit(KEY, CLIMB, 10, *args, **chunks_of(4, tmp_path))
    error, kept = caught.value, caught.value.result
    assert error.step == step
    assert f"the loss was {bad} at step {step}" in str(error)
    assert isinstance(error, FloatingPointError)
    assert kept.stopped == "not finite"
    assert kept.steps == kept.losses.size == (step - 1) // 4 * 4
    np.testing.assert_array_equal(kept.losses, -np.arange(kept.steps, dtype="float32"))
    assert kept.params == {"a": kept.steps}


def explode(count):
    return jnp.where(count == 6, jnp.inf, 0.01)  # the seventh update


@pytest.fixture(scope="module")
def exploding_svi():
    return make_svi(optimizer=optax.sgd(explode))


@pytest.mark.parametrize(
    ("num_steps", "chunk", "step", "done"),
    [(7, 6, 7, 6), (7, 7, 7, 0), (20, 1, 7, 6), (20, 6, 8, 6), (20, 20, 8, 0)],
)
def test_explosion_keeps_the_run_until_then(
    exploding_svi, tmp_path, num_steps, chunk, step, done
):
    """Also where the very last update breaks the parameters and no loss shows it."""
    svi = exploding_svi
    with pytest.raises(NonFiniteLossError, match=f"at step {step}[. ]") as caught:
        fit(KEY, svi, num_steps, Y, **chunks_of(chunk, tmp_path))
    kept = caught.value.result
    assert caught.value.step == step
    assert kept.steps == kept.losses.size == done
    assert all(np.isfinite(value) for value in kept.params.values())
    if done:
        expected = fit(KEY, svi, done, Y)
        np.testing.assert_allclose(kept.losses, expected.losses, rtol=1e-5)
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
    evaluate = log_predictive_density(model, guide, 8, Y[:5])
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


def test_evaluate_is_traced_once():
    traced = []

    def evaluate(params, key):
        traced.append(1)
        return params["a"]

    climb(300, evaluate, evaluate_every=3)
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
    assert (kept.steps, kept.stopped) == (6, "not finite")
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
    with pytest.raises(NonFiniteLossError, match=r"gave NaN or inf.* at step 7 ") as e:
        fit(KEY, exploding_svi, 20, Y, **options)
    assert e.value.step == 7
    assert e.value.result.steps == 0


# Several runs


KEYS = jax.random.split(KEY, 3)


def minus_distance(params, key):
    return -((params["mu_auto_loc"] - 0.6) ** 2)


EVALUATED = {"evaluate": minus_distance, "evaluate_every": 2, "patience": 2}


@pytest.mark.parametrize("batch", [{}, {"batch_size": 5}], ids=["rows", "batches"])
@pytest.mark.parametrize("look", [{}, EVALUATED], ids=["plain", "evaluated"])
def test_each_of_several_runs_is_the_run_of_its_key(batch, look):
    options = {"size": len(Y), **batch, **look}

    def svi():
        return make_svi(AutoNormal(model), optax.adam(0.2))

    together = fit(KEYS, svi(), 20, Y, **options)
    assert len(together.stopped) == len(together.steps) == len(KEYS)
    for i, key in enumerate(KEYS):
        alone, steps = fit(key, svi(), 20, Y, **options), together.steps[i]
        assert (steps, together.stopped[i]) == (alone.steps, alone.stopped)
        losses = together.losses[i]
        np.testing.assert_allclose(losses[:steps], alone.losses, rtol=1e-3)
        assert np.isnan(losses[steps:]).all()
        for name, value in alone.params.items():
            np.testing.assert_allclose(together.params[name][i], value, atol=1e-3)
        if look:
            seen = together.evaluations[i]
            seen = seen[~np.isnan(seen[:, 1])]
            np.testing.assert_allclose(seen, alone.evaluations, rtol=1e-2, atol=1e-4)
            assert together.best_step[i] == alone.best_step
            np.testing.assert_allclose(
                together.best_params["mu_auto_loc"][i],
                alone.best_params["mu_auto_loc"],
                atol=1e-3,
            )
    assert len(np.unique(together.losses[:, 0])) == len(KEYS)


COMPILED = "/jax/core/compile/backend_compile_duration"


@pytest.fixture
def compiled():
    """List the names of what JAX compiles."""
    seen = []

    def listen(name, seconds, **more):
        if name == COMPILED:
            seen.append(more["fun_name"])

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield seen
    jax.monitoring.unregister_event_duration_listener(listen)


@pytest.mark.parametrize("key", [KEY, KEYS], ids=["one", "several"])
@pytest.mark.parametrize("batch", [{}, {"batch_size": 5}], ids=["rows", "batches"])
def test_a_long_fit_compiles_its_loop_once(key, batch, compiled):
    svi = make_svi(AutoNormal(model))
    fit(key, svi, 100, Y, size=len(Y), evaluate=minus_distance, **batch)
    starts_and_loops = compiled.count("jit(compiled)")
    assert starts_and_loops == (1 if key is KEY else 2)  # one key needs no new start


def climbing_from_anywhere(limit):
    """A run starts between 0 and 1, by its key, and adds 1 with each step."""
    a = numpyro.param("a", jax.random.uniform)
    numpyro.factor("f", jnp.where(a < limit, a, jnp.nan))


ANYWHERE = SVI(climbing_from_anywhere, lambda limit: None, optax.sgd(1.0), Trace_ELBO())
MANY_KEYS = jax.random.split(KEY, 8)


def test_a_failing_run_among_several_stays_where_it_was():
    look = {"evaluate": lambda params, key: params["a"], "evaluate_every": 2}
    with pytest.warns(UserWarning, match=r"runs \[\d.*\] stopped: not finite"):
        result = fit(MANY_KEYS, ANYWHERE, 6, jnp.float32(5.5), **look)
    starts = -result.losses[:, 0]
    failed = starts > 0.5  # at the loss of step 6
    assert 0 < failed.sum() < len(MANY_KEYS)
    for i, start in enumerate(starts):
        steps = 4 if failed[i] else 6
        assert result.steps[i] == steps
        assert result.stopped[i] == ("not finite" if failed[i] else "all steps done")
        expected = -(start + np.arange(steps))
        np.testing.assert_allclose(result.losses[i, :steps], expected, rtol=1e-5)
        assert np.isnan(result.losses[i, steps:]).all()
        assert result.params["a"][i] == pytest.approx(start + steps, rel=1e-5)
        assert result.best_step[i] == steps


def test_all_runs_failing_raises():
    with pytest.raises(NonFiniteLossError, match="the loss was nan at step 4") as e:
        fit(MANY_KEYS, ANYWHERE, 6, jnp.float32(3.0))
    assert e.value.step == 4
    assert e.value.result.steps.tolist() == [0] * len(MANY_KEYS)
    assert e.value.result.stopped == ["not finite"] * len(MANY_KEYS)


# Nothing is remembered


def test_what_changed_outside_of_the_arguments_is_seen():
    outside = {"y": Y}

    def changing():
        model(outside["y"])

    svi = SVI(changing, partial(hand_guide, Y), optax.adam(0.1), Trace_ELBO())
    losses = []

    def fit_again():
        ours, theirs = fit(KEY, svi, 4), svi.run(KEY, 4, progress_bar=False)
        np.testing.assert_array_equal(ours.losses, theirs.losses)
        assert all(not np.array_equal(ours.losses, before) for before in losses)
        losses.append(ours.losses)

    fit_again()
    outside["y"] = Y + 1
    fit_again()
    svi.loss = Trace_ELBO(num_particles=3)
    fit_again()
    svi.optim = optax_to_numpyro(optax.sgd(0.01))
    fit_again()


@pytest.mark.parametrize("options", [{}, {"batch_size": 10}], ids=["rows", "batches"])
def test_fits_leave_no_arrays_behind(options):
    x = np.ones((1_000, 2_000), "float32")  # 8 MB

    def wide(x):
        mu = numpyro.sample("mu", dist.Normal(0, 2))
        with numpyro.plate("N", 1_000, subsample_size=len(x)):
            numpyro.sample("x", dist.Normal(mu, 1).expand([2_000]).to_event(1), obs=x)

    def live():
        gc.collect()
        return len(jax.live_arrays()), sum(a.nbytes for a in jax.live_arrays())

    svi = SVI(wide, partial(hand_guide, scale=1.0), optax.adam(0.1), Trace_ELBO())
    fit(KEY, svi, 2, x, **options)
    before = live()
    for _ in range(10):
        fit(KEY, svi, 2, x, **options)
    assert live() == before


# Models and guides that go together with each other, and with the data.


def fit_once(model, guide, *args):
    svi = SVI(model, guide, optax.adam(0.1), Trace_ELBO())
    return fit(KEY, svi, 1, *args)


def test_a_model_that_observes_nothing_of_its_data():
    def forgetful(x, y=None):
        numpyro.sample("y", dist.Normal(x, 1), obs=y)

    assert fit_once(forgetful, AutoNormal(forgetful), Y, Y).steps == 1
    with pytest.raises(ValueError, match=r"obs=.* since .* data, got none.*\(y\)"):
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
def test_a_guide_that_lacks_an_unknown_of_a_series():
    def walk(y):
        def step(before, seen):
            level = numpyro.sample("level", dist.Normal(before, 1))
            numpyro.sample("y", dist.Normal(level, 1), obs=seen)
            return level, None

        scan(step, numpyro.sample("start", dist.Normal(0, 1)), y)

    lacking = AutoNormal(numpyro.handlers.block(walk, hide=["level"]))
    with pytest.raises(ValueError, match=r"none for \['level'\], but \['start'\]"):
        fit_once(walk, lacking, Y)
    assert fit_once(walk, AutoNormal(walk), Y).steps == 1
    seen = numpyro.handlers.condition(walk, {"level": jnp.asarray(Y)})
    assert fit_once(seen, lacking, Y).steps == 1


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
    evaluate = log_predictive_density(logistic, guide, num_draws, X[20:], LABELS[20:])
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

    found = log_predictive_density(logistic, fixed, 3, X, y=LABELS)({}, KEY)
    np.testing.assert_allclose(found, brute_force([[0.5, -1.0]], X, LABELS), rtol=1e-5)


def test_log_predictive_density_of_a_network():
    (x, y), (x_val, y_val), _ = bnn_model.make_data()
    guide = AutoNormal(bnn_model.model)
    svi = SVI(bnn_model.model, guide, optax.adam(0.01), Trace_ELBO())
    evaluate = log_predictive_density(bnn_model.model, guide, 500, x_val, y_val)
    result = fit(KEY, svi, 100, x, y, evaluate=evaluate, evaluate_every=50)
    weights = Predictive(guide, params=result.params, num_samples=500)(KEY, x_val)
    predict = Predictive(bnn_model.model, weights, return_sites=["p"], parallel=True)
    p = np.asarray(predict(KEY, x_val)["p"], float)
    p = np.where(y_val == 1, p, 1 - p)
    expected = np.log(p.mean(axis=0)).mean()
    error = (p / p.mean(axis=0)).mean(axis=1).std() / np.sqrt(500)
    assert result.evaluations[-1, 1] == pytest.approx(expected, abs=6 * error)


def fixed_mean(y, mask=None):
    numpyro.sample("a", dist.Delta(0.3))


def masked(y, mask=True):
    a = numpyro.sample("a", dist.Normal(0, 1))
    with numpyro.plate("rows", len(y)), numpyro.handlers.mask(mask=mask):
        numpyro.sample("y", dist.Normal(a, 1), obs=y)


def test_masked_observations_are_not_scored():
    seen = Y > 0.5
    assert 0 < seen.sum() < len(Y)
    hidden = np.where(seen, Y, 1e6).astype("float32")
    found = log_predictive_density(masked, fixed_mean, 2, hidden, seen)({}, KEY)
    alone = log_predictive_density(masked, fixed_mean, 2, Y[seen])({}, KEY)
    np.testing.assert_allclose(found, alone, rtol=1e-5)
    everything = log_predictive_density(masked, fixed_mean, 2, Y)({}, KEY)
    assert abs(found - everything) > 0.01


def test_a_mask_of_parts_of_an_observation_is_refused():
    def parts(y, mask):
        a = numpyro.sample("a", dist.Normal(0, 1))
        normal = dist.Normal(a, 1).expand([len(y)]).mask(mask).to_event(1)
        numpyro.sample("y", normal, obs=y)

    evaluate = log_predictive_density(parts, fixed_mean, 2, Y, Y > 0.5)
    with pytest.raises(ValueError, match="a mask of whole observations at 'y'"):
        evaluate({}, KEY)


def test_rows_that_a_plate_picks_are_those_of_all_draws():
    y = np.repeat([0.0, 9.0], 20).astype("float32")

    def picking(y, size):
        a = numpyro.sample("a", dist.Normal(0, 1))
        with numpyro.plate("rows", len(y), subsample_size=size) as rows:
            numpyro.sample("y", dist.Normal(a, 1), obs=jnp.asarray(y)[rows])

    def score(size, seed):
        make = log_predictive_density(picking, fixed_mean, 50, y, size)
        return make({}, jax.random.key(seed))

    # A place holds a row of zeros or of nines, the same one in all draws.
    near, far = dist.Normal(0.3).log_prob(jnp.array([0.0, 9.0]))
    for seed in range(6):
        share = (score(10, seed) - near) / (far - near)
        assert share * 10 == pytest.approx(round(float(share * 10)), abs=1e-3)
    assert score(None, 0) == pytest.approx(float(near + far) / 2, rel=1e-4)


def test_several_sites_and_factors():
    def two(y, z):
        a = numpyro.sample("a", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(a, 1), obs=y)
        numpyro.sample("z", dist.Normal(a, 2), obs=z)
        numpyro.factor("f", 100.0)

    def fixed(y, z):
        numpyro.sample("a", dist.Delta(0.0))

    make = partial(log_predictive_density, two, fixed, 2, Y, Y)
    expected = dist.Normal(0, 2).log_prob(Y).mean()
    np.testing.assert_allclose(make(site="z")({}, KEY), expected, rtol=1e-5)
    with pytest.raises(ValueError, match=r"site: expected a name.* \['y', 'z'\]"):
        make()({}, KEY)
    with pytest.raises(ValueError, match=r"site: .* \['y', 'z'\], got 'a'"):
        make(site="a")({}, KEY)


def test_a_column_of_labels_is_not_scored_as_a_vector():
    columns = log_predictive_density(logistic, logistic_guide, 2, X, LABELS[:, None])
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
        (
            {"guide": AutoNormal(logistic)},
            {},
            ValueError,
            "guide: this AutoNormal is new",
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
        log_predictive_density(*given.values(), site=site)(params, KEY)


def good(params, key):
    return params["at"]


A_KEY = r"rng_key: expected a key made by jax\.random\.key\(seed\), got "
BAD_INPUT = [
    ({"rng_key": 0}, TypeError, A_KEY + "0"),
    ({"rng_key": None}, TypeError, A_KEY + "None"),
    (
        {"rng_key": jax.random.split(KEY, (2, 2))},
        ValueError,
        r"rng_key: expected one key or a row of keys, got shape \(2, 2\)",
    ),
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
    ({"progress_bar": "yes"}, TypeError, "progress_bar: .*True or False, got 'yes'"),
    ({"progress_bar": 1}, TypeError, "progress_bar: .*True or False, got 1"),
    ({"evaluate": 3}, TypeError, "evaluate: expected a function .*, got int"),
    ({"evaluate_every": 0}, ValueError, "evaluate_every: .*least 1, got 0"),
    ({"patience": 2}, ValueError, "patience: expected None without evaluate, got 2"),
    ({"evaluate": good, "patience": 0}, ValueError, "patience: .*least 1, got 0"),
    ({"evaluate": lambda p, k: Y}, ValueError, r"evaluate: .*one number, got \(12,\)"),
    ({"evaluate": lambda p, k: p}, ValueError, "evaluate: .*one number, got dict"),
    ({"evaluate": lambda p, k: None}, ValueError, "evaluate: .*number, got NoneType"),
    ({"evaluate": lambda p, k: float(p["at"])}, TypeError, "[Tt]race"),
    ({"y": Y * np.nan}, ValueError, "model: site 'y' observes 12 NaN or inf.* of 12"),
    ({"y": jnp.array([1, jnp.inf])}, ValueError, r"'y' observes 1 .* 2, .*index \(1,"),
    ({"scale": Y * np.nan}, ValueError, "step 1: scale has 12 NaN .* of 12"),
]


@pytest.mark.parametrize(("change", "error", "message"), BAD_INPUT)
def test_bad_input(svi, change, error, message):
    given = {"rng_key": KEY, "svi": svi, "num_steps": 3, "y": Y} | change
    args = [given.pop(name) for name in ("rng_key", "svi", "num_steps", "y")]
    with pytest.raises(error, match=message):
        fit(*args, **given)
