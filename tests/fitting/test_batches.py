"""Rows in each epoch once, streams that may fail, interrupts and warm starts."""

import os
import signal
import threading
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal

from fitting import arguments, batches, endings
from helpers import training
from helpers.training import BatchError, NonFiniteLossError, StoppedFitError

KEY = jax.random.key(11)
N = 101
RNG = np.random.default_rng(5)
X = RNG.normal(size=(N, 2)).astype("float32")
Y = (X @ np.array([1.0, -2.0]) + RNG.normal(size=N)).astype("float32")
fit = partial(training.fit, progress_bar=False)


def model(x, y=None, size=None, prior=1.0):
    w = numpyro.sample("w", dist.Normal(0, prior).expand([2]).to_event(1))
    with numpyro.plate("rows", size or len(x), subsample_size=len(x)):
        numpyro.sample("y", dist.Normal(x @ w, 1), obs=y)


def make_svi(model=model):
    return SVI(model, AutoNormal(model), optax.adam(0.02), Trace_ELBO())


@pytest.fixture(scope="module")
def svi():
    return make_svi()


# The order of rows.


@pytest.mark.parametrize("together", [1, 7, 50])
def test_every_epoch_has_every_row_once(together):
    rows = batches.RowOrder(KEY, N, together).take(0, 3 * N).reshape(3, N)
    np.testing.assert_array_equal(np.sort(rows, axis=1), np.tile(np.arange(N), (3, 1)))
    assert len({tuple(epoch) for epoch in rows}) == 3


@pytest.mark.parametrize("together", [1, 7])
def test_order_can_start_anywhere(together):
    whole = batches.RowOrder(KEY, N, together).take(0, 400)
    order = batches.RowOrder(KEY, N, together)
    for start, count in ((390, 10), (0, 5), (95, 120), (101, 1), (202, 198)):
        np.testing.assert_array_equal(
            order.take(start, count), whole[start : start + count]
        )
    other = batches.RowOrder(jax.random.key(12), N, together).take(0, N)
    assert not np.array_equal(other, whole[:N])


def test_neighbors_stay_together():
    rows = batches.RowOrder(KEY, N, 7).take(0, N)
    groups, lengths = np.unique(rows // 7, return_counts=True)
    in_order = rows[np.append(True, np.diff(rows // 7) != 0)] // 7
    assert sorted(in_order) == list(groups)  # each group comes once, in one piece
    assert (in_order != groups).any()
    assert list(lengths) == [7] * (N // 7) + [N % 7] * (N % 7 > 0)


def test_order_is_uniform():
    """Where row 0 comes in many epochs."""
    places = np.zeros(8)
    order = batches.RowOrder(KEY, 8)
    for epoch in range(4_000):
        places[np.flatnonzero(order.take(8 * epoch, 8) == 0)[0]] += 1
    assert abs(places - 500).max() < 5 * np.sqrt(500)


@pytest.mark.parametrize("most", [1, 4, 512])
def test_steps_get_the_rows_of_the_order(svi, monkeypatch, most):
    """However many steps are taken at once."""
    monkeypatch.setattr(batches, "BATCHES", most)
    order_key = jax.random.fold_in(jax.random.fold_in(KEY, 2**32 - 1), 1)
    rows = batches.RowOrder(order_key, N).take(0, 30 * 25).reshape(30, 25)
    state = svi.init(KEY, X[:25], Y[:25], size=N)
    update = jax.jit(partial(svi.update, size=N))
    losses = []
    for some in rows:
        state, loss = update(state, X[some], Y[some])
        losses.append(loss)
    result = fit(KEY, svi, 30, X, Y, batch_size=25, size=N)
    np.testing.assert_allclose(result.losses, losses, rtol=1e-5)
    assert result.losses.std() > 1


def test_minibatches_find_the_posterior(svi):
    precision = X.T @ X + np.eye(2)
    mean = np.linalg.solve(precision, X.T @ Y)
    svi = SVI(
        model,
        AutoNormal(model),
        optax.adam(optax.cosine_decay_schedule(0.05, 4_000)),
        Trace_ELBO(num_particles=10),
    )
    params = fit(KEY, svi, 4_000, X, Y, batch_size=20, size=N).params
    sd = 1 / np.sqrt(np.diag(precision))  # the best mean-field guide
    assert (abs(params["w_auto_loc"] - mean) < 0.3 * sd).all()
    np.testing.assert_allclose(params["w_auto_scale"], sd, rtol=0.15)


def test_scalars_and_constants_stay_as_they_are(svi):
    one = fit(
        KEY, svi, 9, X, Y, batch_size=10, size=N, prior=np.float32(2) * np.ones(())
    )
    two = fit(KEY, svi, 9, X, Y, batch_size=10, size=N, prior=2.0)
    np.testing.assert_allclose(one.losses, two.losses, rtol=1e-6)


def test_a_long_table_stored_in_sorted_order_gives_the_right_posterior(monkeypatch):
    """Labels are first 0, then 1: neighbors in the table as it came are alike."""
    monkeypatch.setattr(batches, "SMALL", 500)
    monkeypatch.setattr(batches, "NEIGHBORS", 8)  # 500 groups, as in a long table
    size = 4_000
    labels = np.repeat(np.float32([0, 1]), [3_000, 1_000])

    def share(y, size=None):
        logit = numpyro.sample("logit", dist.Normal(0, 1.5))
        with numpyro.plate("rows", size or len(y), subsample_size=len(y)):
            numpyro.sample("y", dist.Bernoulli(logits=logit), obs=y)

    svi = SVI(
        share,
        AutoNormal(share),
        optax.adam(optax.cosine_decay_schedule(0.1, 1_000)),
        Trace_ELBO(num_particles=5),
    )
    params = fit(KEY, svi, 1_000, labels, batch_size=50, size=size).params
    # Nearly normal, so much do the data say.
    assert abs(params["logit_auto_loc"] - np.log(1 / 3)) < 0.02
    sd = 1 / np.sqrt(size * 0.25 * 0.75 + 1 / 1.5**2)
    np.testing.assert_allclose(params["logit_auto_scale"], sd, rtol=0.2)
    table = batches.Tables(share, (labels,), {}, 50, KEY)
    for rows in np.split(table.orders[0].take(0, size), 8):
        some = np.asarray(table.rows_at(rows)["y"])
        assert abs(some.mean() - 0.25) < 0.1
    every = table.orders[0].take(size, size)
    assert np.asarray(table.rows_at(every)["y"]).sum() == 1_000


def test_rows_of_several_tables_stay_together_in_long_tables(monkeypatch):
    monkeypatch.setattr(batches, "SMALL", 30)
    table = batches.Tables(model, (X, X[:, 0]), {}, 20, KEY)
    found = table.rows_at(table.orders[0].take(0, N))
    np.testing.assert_array_equal(found["x"][:, 0], found["y"])
    np.testing.assert_array_equal(np.sort(found["y"]), np.sort(X[:, 0]))


# Streams.


def endless(first_step=0, rows=25):
    order = batches.RowOrder(jax.random.key(1), N)
    step = first_step
    while True:
        some = order.take(step * rows, rows)
        yield X[some], Y[some]
        step += 1


def limited(steps, then=None):
    for step, batch in enumerate(endless()):
        if step == steps:
            if then is not None:
                raise then
            return
        yield batch


def into_one_buffer(batches):
    """As readers do that save memory: the same arrays, filled anew."""
    buffers = np.empty((25, 2), "float32"), np.empty(25, "float32")
    for batch in batches:
        for buffer, array in zip(buffers, batch, strict=True):
            buffer[:] = array
        yield buffers


@pytest.fixture(scope="module")
def streamed(svi):
    return fit(KEY, svi, 40, batches=endless, num_rows=N, size=N)


def test_a_stream_gives_each_step_its_batch(svi, streamed):
    state = svi.init(KEY, X[:25], Y[:25], size=N)
    update = jax.jit(partial(svi.update, size=N))
    for batch, loss in zip(endless(), streamed.losses, strict=False):
        state, expected = update(state, *batch)
        np.testing.assert_allclose(loss, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "most"),
    [
        (endless, 1),
        (lambda: list(limited(40)), 512),
        (lambda: ({"x": x, "y": y} for x, y in endless()), 512),
        (lambda: ([jnp.asarray(x), y] for x, y in endless()), 512),
        (lambda: into_one_buffer(endless()), 7),
    ],
    ids=["iterator", "list", "by name", "arrays of JAX", "one buffer"],
)
def test_streams_of_all_kinds(svi, streamed, monkeypatch, make, most):
    monkeypatch.setattr(batches, "BATCHES", most)
    result = fit(KEY, svi, 40, size=N, batches=make(), num_rows=N)
    np.testing.assert_allclose(result.losses, streamed.losses, rtol=1e-6)


def test_arrays_beside_a_stream_stay(svi):
    call = {"num_rows": N, "size": N}
    constant = fit(KEY, svi, 20, batches=endless, prior=2.0, **call)
    named = ({"x": x, "y": y} for x, y in endless())
    array = fit(KEY, svi, 20, batches=named, prior=np.array(2, "float32"), **call)
    np.testing.assert_allclose(array.losses, constant.losses, rtol=1e-6)
    within = ({"x": x, "y": y, "prior": np.float32(2)} for x, y in endless())
    scalar = fit(KEY, svi, 20, batches=within, unchecked=True, **call)
    np.testing.assert_allclose(scalar.losses, constant.losses, rtol=1e-6)


def test_evaluations_before_a_stream_ends_are_kept(svi):
    score = {"evaluate": lambda params, key: params["w_auto_loc"][0]}
    call = {"num_rows": N, "size": N, "evaluate_every": 5}
    with pytest.raises(BatchError) as caught:
        fit(KEY, svi, 40, batches=limited(13), **call, **score)
    kept = caught.value.result
    assert kept.steps == 13
    assert kept.evaluations[:, 0].tolist() == [5, 10]
    assert kept.best_step in (5, 10)


def test_a_stream_is_read_no_further_than_needed(svi):
    read = []

    def counted(first_step):
        for step, batch in enumerate(endless()):
            read.append(step)
            yield batch

    fit(KEY, svi, 10, batches=counted, num_rows=N, size=N)
    assert read == list(range(10))


def but(bad):
    """Return a stream whose batch of step 14 is another one."""
    for step, (x, y) in enumerate(endless()):
        yield bad(x, y) if step == 13 else (x, y)


def with_nan(y):
    return np.where(np.arange(25) == 3, np.float32(np.nan), y)


BAD_STREAMS = {
    "ends": (partial(limited, 13), r"batches: ended before step 14 \(steps done: 13"),
    "raises": (
        partial(limited, 13, OSError("disk on fire")),
        "batches: raised OSError: disk on fire at step 14",
    ),
    "fewer rows": (
        lambda: but(lambda x, y: (x[:-1], y[:-1])),
        r"batches: at step 14, expected arrays like .*\(25, 2\).* got .*\(24, 2\)",
    ),
    "other type": (
        lambda: but(lambda x, y: (x, y.astype(int))),
        r"batches: at step 14, expected arrays like .*float32.* got .*int64",
    ),
    "nothing": (
        lambda: but(lambda x, y: None),
        "batches: at step 14, expected arrays like",
    ),
    "lists": (
        lambda: but(lambda x, y: (x.tolist(), y.tolist())),
        r"batches: at step 14, expected a tuple or a dictionary of arrays of numbers",
    ),
    "numbers": (
        lambda: but(lambda x, y: (1.0, 2.0)),
        r"batches: at step 14, expected a tuple or .* of arrays of numbers, got 1\.0",
    ),
    "words": (
        lambda: but(lambda x, y: (x, y.astype(str))),
        "batches: at step 14, expected a tuple or .* of arrays of numbers",
    ),
    "keys": (
        lambda: but(lambda x, y: (KEY, y)),
        "batches: at step 14, expected a tuple or a dictionary of arrays of numbers",
    ),
    "names": (
        lambda: but(lambda x, y: {"x": x, "y": y}),
        "batches: at step 14, expected arrays like",
    ),
}


@pytest.mark.parametrize("case", BAD_STREAMS)
def test_bad_batches_keep_the_steps_before(svi, streamed, case):
    make, message = BAD_STREAMS[case]
    with pytest.raises(BatchError, match=f"(?s){message}") as caught:
        fit(KEY, svi, 40, batches=make(), num_rows=N, size=N)
    kept = caught.value.result
    assert (caught.value.step, kept.steps, kept.stopped) == (14, 13, "no more batches")
    np.testing.assert_allclose(kept.losses, streamed.losses[:13], rtol=1e-6)
    assert all(np.isfinite(value).all() for value in kept.params.values())
    assert isinstance(caught.value, ValueError)
    if case == "raises":
        assert isinstance(caught.value.__cause__, OSError)


# Numbers that are none.


def test_nan_in_a_batch_keeps_the_steps_before(svi, streamed, monkeypatch):
    """Those before the steps that were taken at once with it."""
    monkeypatch.setattr(batches, "BATCHES", 4)
    bad = lambda x, y: (x, with_nan(y))  # noqa: E731
    message = r"the loss was .* at step 14: y has 1 NaN .* of 25, .* index \(3,\)"
    with pytest.raises(NonFiniteLossError, match=message) as caught:
        fit(KEY, svi, 40, batches=but(bad), num_rows=N, size=N)
    kept = caught.value.result
    assert (caught.value.step, kept.steps) == (14, 12)
    np.testing.assert_allclose(kept.losses, streamed.losses[:12], rtol=1e-6)
    assert all(np.isfinite(value).all() for value in kept.params.values())


def test_nan_in_a_row_of_a_long_table(svi, monkeypatch):
    """The message has its number in the table as it was given."""
    monkeypatch.setattr(batches, "SMALL", 30)
    monkeypatch.setattr(batches, "BATCHES", 1)
    x = X.copy()
    x[77, 1] = np.inf
    with pytest.raises(NonFiniteLossError, match=r"x has 1 NaN.*\(77, 1\)") as caught:
        fit(KEY, svi, 30, x, Y, batch_size=4, size=N)
    kept = caught.value.result
    assert kept.steps == kept.losses.size == caught.value.step - 1 < 26
    assert np.isfinite(kept.losses).all()
    y = Y.copy()
    y[55] = np.nan
    with pytest.raises(ValueError, match=r"site 'y' observes 1 NaN.* \(55,\)"):
        fit(KEY, svi, 3, X, y, batch_size=4, size=N)


def test_nan_in_the_last_of_ten_million_rows(svi):
    x, y = np.zeros((10_000_000, 2), "float32"), np.zeros(10_000_000, "float32")
    call = {"batch_size": 1_000_000, "size": 10_000_000}
    y[9_999_999] = np.nan
    with pytest.raises(ValueError, match=r"'y' observes 1 NaN .* \(9999999,\)"):
        fit(KEY, svi, 3, x, y, **call)
    y[9_999_999], x[9_999_990, 1] = 0, np.nan
    with pytest.raises(NonFiniteLossError, match=r"x has .* \(9999990, 1\)") as caught:
        fit(KEY, svi, 10, x, y, **call)
    assert caught.value.result.steps < caught.value.step <= 10


# Interrupts.


def pressing(at, times=1, first_step=0):
    """Return a stream in which Ctrl-C is pressed before the batch of a step."""
    for step, batch in enumerate(endless(first_step), first_step):
        if step == at:
            for _ in range(times):
                signal.raise_signal(signal.SIGINT)
        yield batch


@pytest.mark.parametrize(("at", "times"), [(5, 1), (30, 2), (30, 3), (30, 4)])
def test_an_interrupt_in_the_stream_returns_what_was_reached(
    svi, streamed, monkeypatch, at, times
):
    """However often the key is pressed."""
    monkeypatch.setattr(batches, "BATCHES", 4)
    result = fit(KEY, svi, 40, batches=pressing(at, times), num_rows=N, size=N)
    assert result.stopped == "interrupted"
    assert at - 8 <= result.steps == result.losses.size <= at
    np.testing.assert_allclose(
        result.losses, streamed.losses[: result.steps], rtol=1e-6
    )
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupt_of_a_long_run_returns_within_seconds(svi, monkeypatch):
    timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
    summary = endings.summary

    def begin(new):  # when steps are taken: before, nothing could be lost
        if timer.ident is None:
            timer.start()
        return summary(new)

    monkeypatch.setattr(endings, "summary", begin)
    result = fit(KEY, svi, 2_000_000_000, X, Y)
    timer.cancel()
    assert result.stopped == "interrupted"
    assert 0 < result.steps == result.losses.size
    assert np.isfinite(result.losses).all()
    again = fit(KEY, svi, 20, X, Y)
    np.testing.assert_array_equal(again.losses, result.losses[:20])


def test_pressing_again_loses_nothing(svi, monkeypatch):
    """Ctrl-C again and again while the first one is being served."""
    get_params = type(svi).get_params

    def slow(self, state):
        for _ in range(3):
            signal.raise_signal(signal.SIGINT)
        return get_params(self, state)

    def interrupted(first_step):
        for step, batch in enumerate(pressing(30)):
            if step == 30:
                monkeypatch.setattr(type(svi), "get_params", slow)
            yield batch

    monkeypatch.setattr(batches, "BATCHES", 4)
    result = fit(KEY, svi, 40, batches=interrupted, num_rows=N, size=N)
    monkeypatch.undo()
    assert result.stopped == "interrupted"
    assert 22 <= result.steps <= 30
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_error_of_the_device_keeps_what_was_reached(monkeypatch):
    monkeypatch.setattr(arguments.AllRows, "most", 2)
    seen = []

    def fragile(x):
        def call(value):
            seen.append(1)
            if len(seen) > 20:
                raise RuntimeError("out of memory")
            return value

        one = jax.pure_callback(call, jax.ShapeDtypeStruct((), "float32"), x.sum())
        numpyro.factor("f", numpyro.param("a", 0.0) + jax.lax.stop_gradient(one))

    svi = SVI(fragile, lambda x: None, optax.sgd(0.1), Trace_ELBO())
    with (
        pytest.warns(UserWarning, match="expected an unknown"),
        pytest.raises(StoppedFitError, match="out of memory") as caught,
    ):
        fit(KEY, svi, 100, X)
    kept = caught.value.result
    assert 0 < kept.steps == kept.losses.size < 100
    assert kept.stopped == "broken off"


# Warm starts.


def test_warm_start(svi):
    first = fit(KEY, svi, 50, X, Y)
    warm = fit(KEY, svi, 1, X, Y, init_params=first.params)
    state = svi.init(KEY, X, Y, init_params=first.params)
    expected = jax.jit(svi.evaluate)(state, X, Y)
    np.testing.assert_allclose(warm.losses, expected, rtol=1e-5)
    assert warm.losses[0] < fit(KEY, svi, 1, X, Y).losses[0]


# Arguments that do not fit.

BAD_INPUT = [
    ({"batch_size": 0}, ValueError, "batch_size: expected at least 1, got 0"),
    ({"batch_size": 2.0}, TypeError, "batch_size: expected a whole number"),
    ({"batch_size": 102}, ValueError, "batch_size: .*at most the 101 rows, got 102"),
    (
        {"batch_size": 5, "y": Y[:-1]},
        ValueError,
        r"batch_size: .*same.*\(101, 2\), y of .*\(100,\)",
    ),
    ({"num_rows": N}, ValueError, "num_rows: expected None without batches, got 101"),
    ({"batches": endless}, ValueError, "num_rows: expected the number of all rows"),
    (
        {"batches": endless, "num_rows": N},
        ValueError,
        "batches: expected no positional arguments beside them, got 1",
    ),
    (
        {"batches": endless, "num_rows": N, "batch_size": 3},
        ValueError,
        "batch_size: expected None beside batches, got 3",
    ),
    ({"batches": 3, "num_rows": N, "x": None}, TypeError, "batches: .*iterable.*got 3"),
    ({"batches": [], "num_rows": N, "x": None}, ValueError, "ended before step 1"),
    (
        {"batches": lambda: endless(), "num_rows": N, "x": None},
        ValueError,
        "batches: TypeError: .*takes 0 positional arguments",
    ),
    (
        {"batches": [{"x": X, "z": X[:3]}], "num_rows": N, "x": None},
        ValueError,
        r"batches: expected arrays with the same number of rows .*\[3, 101\]",
    ),
    ({"x": np.full((N, 2), 2**40)}, ValueError, "x: .*fit in 32 bits, got 1099"),
    (
        {"batches": [{"y": Y}], "num_rows": N, "x": None},
        ValueError,
        r"batches: at step 1, expected \['y'\] in batches or in the call, got both",
    ),
    (
        {"x": np.where(np.arange(2 * N).reshape(N, 2) == 199, np.inf, X)},
        ValueError,
        r"model: .* x has 1 NaN or infinite of 202, .* index \(99, 1\)",
    ),
]


@pytest.mark.parametrize(("change", "error", "message"), BAD_INPUT)
def test_bad_input(svi, change, error, message):
    given = {"x": X, "y": Y, "size": N} | change
    x = given.pop("x")
    with pytest.raises(error, match=message):
        fit(KEY, svi, 3, *([] if x is None else [x]), **given)
