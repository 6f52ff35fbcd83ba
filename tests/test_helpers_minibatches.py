"""Minibatches: each row once an epoch, honest weights, streams that may fail."""

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
from numpyro.contrib.control_flow import scan
from numpyro.handlers import scale
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal

from helpers import _sources, _weights, training
from helpers.training import BatchError, StoppedFitError

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


def same(left, right):
    return jax.tree.all(jax.tree.map(np.array_equal, left, right))


# The order of rows.


@pytest.mark.parametrize("together", [1, 4, 30])
@pytest.mark.parametrize("block", [7, 50, 101, 1000])
def test_every_epoch_has_every_row_once(monkeypatch, block, together):
    monkeypatch.setattr(_sources, "BLOCK", block)
    rows = _sources.RowOrder(KEY, N, together).take(0, 3 * N).reshape(3, N)
    np.testing.assert_array_equal(np.sort(rows, axis=1), np.tile(np.arange(N), (3, 1)))
    if together < block:  # otherwise blocks alone change places
        assert len({tuple(epoch) for epoch in rows}) == 3
    if block == 1000:  # nearly all rows are followed by their neighbor
        assert all(
            (np.diff(epoch) == 1).sum() >= N - N // together - 3 for epoch in rows
        )


def test_neighbors_meet_others_in_the_next_epoch():
    rows = _sources.RowOrder(KEY, N, 10).take(0, 2 * N)
    breaks = []
    for epoch in np.split(rows, 2):
        follows = np.flatnonzero(np.diff(epoch) != 1) + 1
        breaks.append(set(epoch[follows] % 10))
    assert breaks[0] != breaks[1]


@pytest.mark.parametrize("together", [1, 6])
@pytest.mark.parametrize("block", [7, 1000])
def test_order_can_start_anywhere(monkeypatch, block, together):
    monkeypatch.setattr(_sources, "BLOCK", block)
    whole = _sources.RowOrder(KEY, N, together).take(0, 400)
    order = _sources.RowOrder(KEY, N, together)
    for start, count in ((390, 10), (0, 5), (95, 120), (101, 1), (202, 198)):
        np.testing.assert_array_equal(
            order.take(start, count), whole[start : start + count]
        )
    other = _sources.RowOrder(jax.random.key(12), N, together).take(0, N)
    assert not np.array_equal(other, whole[:N])


def test_order_is_uniform():
    """Where row 0 comes in many epochs, and which row follows it."""
    places = np.zeros(8)
    order = _sources.RowOrder(KEY, 8)
    for epoch in range(4_000):
        places[np.flatnonzero(order.take(8 * epoch, 8) == 0)[0]] += 1
    assert abs(places - 500).max() < 5 * np.sqrt(500)


@pytest.mark.parametrize("chunk_size", [1, 4, None])
def test_steps_get_the_rows_of_the_order(svi, chunk_size):
    order_key = jax.random.fold_in(jax.random.fold_in(KEY, 2**32 - 1), 1)
    rows = _sources.RowOrder(order_key, N).take(0, 30 * 25).reshape(30, 25)
    state = svi.init(KEY, X[:25], Y[:25], size=N)
    update = jax.jit(partial(svi.update, size=N))
    losses = []
    for some in rows:
        state, loss = update(state, X[some], Y[some])
        losses.append(loss)
    result = fit(KEY, svi, 30, X, Y, batch_size=25, size=N, chunk_size=chunk_size)
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


def test_rows_that_drift_are_refused_as_soon_as_there_are_two_blocks(monkeypatch, svi):
    monkeypatch.setattr(_sources, "BLOCK", 1_000)
    x = np.random.default_rng(0).normal(size=(1_001, 2)).astype("float32")
    call = {"batch_size": 10, "size": len(x)}
    with pytest.raises(ValueError, match="y: expected rows in random order"):
        fit(KEY, svi, 3, x, y=np.sort(x[:, 0]), **call)
    assert fit(
        KEY, svi, 3, x[:1_000], y=np.sort(x[:1_000, 0]), **call | {"size": 1_000}
    )


def test_rows_that_drift_are_refused(monkeypatch, svi):
    monkeypatch.setattr(_sources, "BLOCK", 1_000)
    x = np.random.default_rng(0).normal(size=(20_000, 2)).astype("float32")
    y = x[:, 0] + x[:, 1]
    call = {"batch_size": 10, "size": len(x)}
    assert fit(KEY, svi, 3, x, y, **call).steps == 3
    rising = x + np.linspace(0, 0.5, len(x), dtype="float32")[:, None] * [0, 1]
    with pytest.raises(ValueError, match=r"argument 0: .*random order.* column 1"):
        fit(KEY, svi, 3, rising.astype("float32"), y, **call)
    with pytest.raises(ValueError, match=r"y: expected rows in random order"):
        fit(KEY, svi, 3, x, y=np.sort(y), **call)
    heavy = np.random.default_rng(1).standard_cauchy((20_000, 2)).astype("float32")
    assert fit(KEY, svi, 3, heavy, y, **call).steps == 3
    assert fit(KEY, svi, 3, np.ones_like(x), y, **call).steps == 3


def a_long_table(monkeypatch):
    monkeypatch.setattr(_sources, "BLOCK", 2_000)
    monkeypatch.setattr(_sources, "RUN", 10)
    rng = np.random.default_rng(2)
    return rng, rng.normal(size=(20_000, 3)).astype("float32")


def together(*tables):
    source = _sources.Tables((tables, {}), 20, KEY)
    assert np.array_equal(np.sort(source.order.take(0, 20_000)), np.arange(20_000))
    assert source.order.together == source.together
    return source.together


def test_neighbors_stay_together_in_long_tables(monkeypatch):
    rng, x = a_long_table(monkeypatch)
    heavy = rng.standard_t(3, 20_000).astype("float32")
    dates = (1e6 + rng.normal(size=20_000)).astype("float32")
    wide = rng.normal(size=(20_000, 5, 10)).astype("float32")
    assert together(x, x[:, 0] > 0, np.full(20_000, 0.1, "float32")) == 10
    assert together(x, heavy, dates) == together(jnp.asarray(wide)) == 10
    # A short table is shuffled row by row.
    assert _sources.Tables(((x[:2_000],), {}), 20, KEY).together == 1


@pytest.mark.parametrize("rows_each", [4, 5])
def test_neighbors_that_are_alike_are_parted(monkeypatch, rows_each):
    """Several rows of each customer, customers in random order."""
    rng, x = a_long_table(monkeypatch)
    of_customer = np.repeat(rng.normal(size=20_000 // rows_each), rows_each)
    noise = rng.normal(size=20_000)
    customers = of_customer.astype("float32")
    visits = (0.5 * of_customer + noise).astype("float32")
    slopes = (of_customer * x[:, 0] + noise).astype("float32")
    spreads = (np.exp(0.5 * of_customer) * noise).astype("float32")
    dates = (1e6 + 10 * of_customer).astype("float32")
    for table in (customers, visits, slopes, spreads, dates):
        assert together(x, table) == together(table, x) == 1
    wide = rng.normal(size=(20_000, 50)) + 0.5 * of_customer[:, None]
    assert together(wide.astype("float32")) == 1


@pytest.mark.parametrize(("share", "found"), [(0.1, 10), (0.35, 1)])
def test_how_alike_neighbors_may_be(monkeypatch, share, found):
    """Means of runs that vary 1.09 times, and twice, as much as by chance."""
    rng, x = a_long_table(monkeypatch)
    of_run = np.repeat(rng.normal(size=2_000), 10)
    table = share * of_run + np.sqrt(1 - share**2) * rng.normal(size=20_000)
    assert together(x, table.astype("float32")) == found


# Streams.


def endless(first_step=0, rows=25, order=None):
    order = order or _sources.RowOrder(jax.random.key(1), N)
    step = first_step
    while True:
        some = order.take(step * rows, rows)
        yield X[some], Y[some]
        step += 1


def limited(steps, then=None, rows=25):
    for step, batch in enumerate(endless(rows=rows)):
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


@pytest.mark.parametrize("chunk_size", [1, 7, 40])
@pytest.mark.parametrize(
    "make",
    [
        endless,
        lambda: list(limited(40)),
        lambda: ({"x": x, "y": y} for x, y in endless()),
        lambda: ([jnp.asarray(x), y] for x, y in endless()),
        lambda: into_one_buffer(endless()),
    ],
    ids=["iterator", "list", "by name", "arrays of JAX", "one buffer"],
)
def test_streams_of_all_kinds(svi, streamed, make, chunk_size):
    call = {"batches": make(), "num_rows": N, "chunk_size": chunk_size}
    result = fit(KEY, svi, 40, size=N, **call)
    np.testing.assert_allclose(result.losses, streamed.losses, rtol=1e-6)


@pytest.mark.parametrize("named", [True, False])
def test_arrays_beside_a_stream_stay(svi, named):
    call = {"num_rows": N, "size": N}
    constant = fit(KEY, svi, 20, batches=endless, prior=2.0, **call)
    batches = ({"x": x, "y": y} if named else (x, y) for x, y in endless())
    array = fit(KEY, svi, 20, batches=batches, prior=np.array(2, "float32"), **call)
    np.testing.assert_allclose(array.losses, constant.losses, rtol=1e-6)


@pytest.mark.parametrize("chunk_size", [10, 100, None])
def test_evaluations_before_a_stream_ends_are_kept(svi, chunk_size):
    score = {"evaluate": lambda params, key: params["w_auto_loc"][0]}
    call = {"num_rows": N, "size": N, "chunk_size": chunk_size, "evaluate_every": 5}
    with pytest.raises(BatchError) as caught:
        fit(KEY, svi, 40, batches=limited(13), **call, **score)
    kept = caught.value.result
    assert kept.evaluations[:, 0].tolist() == [5, 10, 13]
    assert kept.best_step in (5, 10, 13)


def test_a_stream_is_read_no_further_than_needed(svi):
    read = []

    def counted(first_step):
        for step, batch in enumerate(endless()):
            read.append(step)
            yield batch

    fit(KEY, svi, 10, batches=counted, num_rows=N, size=N, chunk_size=3)
    assert read == list(range(10))


def with_nan(y):
    return np.where(np.arange(25) == 3, np.nan, y)


def test_sound_batches_take_the_short_way():
    source = _sources.Stream(endless, N, {})
    arrays, _, varies = source._alike((X[:25], Y[:25]))
    assert arrays[0] is not None
    assert all(varies)
    for bad in (
        (X[:25], np.ma.masked_invalid(with_nan(Y[:25]))),
        (X[:24], Y[:24]),
        [X[:25], Y[:25]],
        (X[:25], np.full(25, np.nan, "float32")),
        (X[:25], Y[:25].astype(float)),
        (X[:25], Y[:25].astype(int)),
    ):
        assert source._alike(bad) is None


BAD_STREAMS = {
    "masked": (
        lambda: (
            b if s < 13 else (b[0], np.ma.masked_invalid(with_nan(b[1])))
            for s, b in enumerate(endless())
        ),
        r"batches: at step 14, .*argument 1: .*1 NaN .* first at index \(3,\)",
    ),
    "ends": (partial(limited, 13), r"batches: ended before step 14 \(steps done: 13"),
    "raises": (
        partial(limited, 13, OSError("disk on fire")),
        "batches: raised OSError: disk on fire at step 14",
    ),
    "shape": (
        lambda: (
            b if s < 13 else (b[0][:-1], b[1][:-1]) for s, b in enumerate(endless())
        ),
        r"batches: at step 14, expected arrays like .*\(25, 2\).* got .*\(24, 2\)",
    ),
    "nan": (
        lambda: (
            b if s < 13 else (b[0], with_nan(b[1])) for s, b in enumerate(endless())
        ),
        r"batches: at step 14, .*argument 1: .*1 NaN .* first at index \(3,\)",
    ),
    "nothing": (
        lambda: (b if s < 13 else None for s, b in enumerate(endless())),
        "batches: at step 14, expected a tuple or a dictionary of arrays, got NoneType",
    ),
    "lists": (
        lambda: (
            b if s < 13 else tuple(a.tolist() for a in b)
            for s, b in enumerate(endless())
        ),
        r"batches: at step 14, model argument 0: .*got list; np\.asarray",
    ),
    "numbers": (
        lambda: (b if s < 13 else (1.0, 2.0) for s, b in enumerate(endless())),
        "batches: at step 14, expected a tuple .* of arrays, got tuple without any",
    ),
    "keys": (
        lambda: (b if s < 13 else (KEY, b[1]) for s, b in enumerate(endless())),
        "batches: at step 14, expected arrays of numbers, got keys",
    ),
    "kind": (
        lambda: (
            b if s < 13 else {"x": b[0], "y": b[1]} for s, b in enumerate(endless())
        ),
        "batches: at step 14, expected arrays like",
    ),
}


@pytest.mark.parametrize("chunk_size", [1, 5, 40])
@pytest.mark.parametrize("case", BAD_STREAMS)
def test_bad_batches_keep_the_steps_before(svi, streamed, case, chunk_size):
    make, message = BAD_STREAMS[case]
    call = {"batches": make(), "num_rows": N, "size": N, "chunk_size": chunk_size}
    with pytest.raises(BatchError, match=message) as caught:
        fit(KEY, svi, 40, **call)
    kept = caught.value.result
    assert (caught.value.step, kept.steps, kept.stopped) == (14, 13, "no more batches")
    np.testing.assert_allclose(kept.losses, streamed.losses[:13], rtol=1e-6)
    assert all(np.isfinite(value).all() for value in kept.params.values())
    assert isinstance(caught.value, ValueError)
    if case == "raises":
        assert isinstance(caught.value.__cause__, OSError)


# Weights and plates.


def twice(x, y=None, size=None):
    w = numpyro.sample("w", dist.Normal(0, 1).expand([2]).to_event(1))
    with (
        numpyro.plate("rows", size, subsample_size=len(x)),
        scale(scale=size / len(x)),
    ):
        numpyro.sample("y", dist.Normal(x @ w, 1), obs=y)


def by_hand(x, y=None, size=None):
    w = numpyro.sample("w", dist.Normal(0, 1).expand([2]).to_event(1))
    with numpyro.plate("rows", len(x)), scale(scale=size / len(x)):
        numpyro.sample("y", dist.Normal(x @ w, 1), obs=y)


def no_plate(x, y=None, size=None):
    w = numpyro.sample("w", dist.Normal(0, 1).expand([2]).to_event(1))
    with scale(scale=1.0 if size is None else size / len(x)):
        numpyro.sample("y", dist.Normal(x @ w, 1), obs=y)


def other_plate(x, y=None, size=None):
    w = numpyro.sample("w", dist.Normal(0, 1).expand([2]).to_event(1))
    with (
        numpyro.plate("one", 1),
        scale(scale=1.0 if size is None else size / len(x)),
    ):
        numpyro.sample("y", dist.Normal(x @ w, 1), obs=y)


def crossed(x, y, size):
    w = numpyro.sample("w", dist.Normal(0, 1).expand([2]).to_event(1))
    others = numpyro.plate("others", 60, subsample_size=3, dim=-2)
    with others, numpyro.plate("rows", size, subsample_size=len(x), dim=-1):
        numpyro.sample("y", dist.Normal(x @ w, 1), obs=y + jnp.zeros((3, 1)))


def test_other_plates_may_be_subsampled_too():
    _weights.check_model(crossed, ((X[:20], Y[:20], N), {}), 20, N)
    with pytest.raises(ValueError, match="counts each row of a batch 1 times"):
        _weights.check_model(crossed, ((X[:20], Y[:20], 20), {}), 20, N)


def guide(x, y=None, size=None):
    loc = numpyro.param("loc", jnp.zeros(2))
    numpyro.sample("w", dist.Normal(loc, 0.1).to_event(1))


def test_no_row_numbers_are_drawn_that_nobody_uses(monkeypatch):
    """They would be as many as the whole table has rows, more than memory may hold."""
    svi = SVI(model, guide, optax.adam(0.02), Trace_ELBO())
    drawn = []
    draw = numpyro.primitives._subsample_fn

    def noted(size, some, rng_key=None):
        drawn.append(isinstance(rng_key, jax.core.Tracer))
        return draw(size, some, rng_key)

    monkeypatch.setattr(numpyro.primitives, "_subsample_fn", noted)
    kept = training.fit(
        jax.random.key(1),
        svi,
        20,
        batches=endless,
        num_rows=10**9,
        size=10**9,
        progress_bar=False,
    )
    assert kept.steps == 20
    assert drawn  # compiled code has no use for them and leaves them out
    assert all(drawn)


@pytest.mark.parametrize("right", [model, by_hand, no_plate, other_plate])
def test_right_weights_pass(right):
    call = {"batch_size": 20, "size": N}
    expected = fit(KEY, make_svi(), 5, X, Y, **call)
    result = fit(KEY, make_svi(right), 5, X, Y, **call)
    np.testing.assert_allclose(result.losses, expected.losses, rtol=1e-5)


@pytest.mark.parametrize(
    ("wrong", "size", "weight"),
    [
        (model, None, 1),
        (model, 2 * N, 10.1),
        (twice, N, 25.5025),
        (no_plate, None, 1),
        (other_plate, None, 1),
    ],
)
def test_wrong_weights_are_refused(wrong, size, weight):
    message = (
        rf"model: site 'y' counts each row of a batch {weight:g} times, expected 5.05"
    )
    with pytest.raises(ValueError, match=message):
        fit(KEY, make_svi(wrong), 5, X, Y, batch_size=20, size=size)
    batches = partial(endless, rows=20)
    with pytest.raises(ValueError, match=message):
        fit(KEY, make_svi(wrong), 5, batches=batches, num_rows=N, size=size)


def fixed_plate(x, y=None, rows=50):
    w = numpyro.sample("w", dist.Normal(0, 1).expand([2]).to_event(1))
    with numpyro.plate("rows", rows):
        numpyro.sample("y", dist.Normal(w.sum() + 0 * x[:, 0].sum(), 1), obs=y)


def fixed_plate_of_rows(x, y=None, rows=50):
    w = numpyro.sample("w", dist.Normal(0, 1).expand([2]).to_event(1))
    with numpyro.plate("rows", rows):
        numpyro.sample("y", dist.Normal(x @ w, 1), obs=y)


def test_a_plate_that_contradicts_the_data():
    with pytest.raises(
        ValueError, match=r"site 'y' has shape \(50,\) \(plate 'rows' of 50\).*\(101,\)"
    ):
        fit(KEY, make_svi(fixed_plate), 3, X, Y)
    with pytest.raises(
        ValueError, match=r"plates that fit .* plate 'rows' of 50 and .*\(101, 2\)"
    ):
        fit(KEY, make_svi(fixed_plate_of_rows), 3, X, Y)
    assert fit(KEY, make_svi(fixed_plate), 3, X, Y, rows=N).steps == 3


# What a model or a guide may look like.


def local(x, y=None, size=None):
    with numpyro.plate("rows", size or len(x), subsample_size=len(x)):
        z = numpyro.sample("z", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(z, 1), obs=y)


def local_guide(x, y=None, size=None):
    a = numpyro.param("a", 0.0)
    with numpyro.plate("rows", size or len(x), subsample_size=len(x)):
        numpyro.sample("z", dist.Normal(a * x[:, 0], 0.7))


def light_guide(x, y=None, size=None):
    a = numpyro.param("a", 0.0)
    with numpyro.plate("rows", len(x)):
        numpyro.sample("z", dist.Normal(a * x[:, 0], 0.7))


def fit_local(guide):
    svi = SVI(local, guide, optax.adam(0.02), Trace_ELBO())
    return fit(KEY, svi, 3, X, Y, batch_size=20, size=N)


def test_local_unknowns():
    assert fit_local(local_guide).steps == 3
    with pytest.raises(ValueError, match=r"guide: site 'z' counts each row .* 1 times"):
        fit_local(light_guide)
    with pytest.raises(ValueError, match="guide: parameter 'z_auto_loc' has an entry"):
        fit_local(AutoNormal(local))
    svi = SVI(local, AutoNormal(local), optax.adam(0.02), Trace_ELBO())
    assert fit(KEY, svi, 3, X, Y).steps == 3


def indexing(x, y=None, size=None):
    w = numpyro.sample("w", dist.Normal(0, 1).expand([2]).to_event(1))
    with numpyro.plate("rows", size or len(x), subsample_size=len(x)) as i:
        numpyro.sample("y", dist.Normal(x[i] @ w, 1), obs=y[i])


def test_a_model_that_looks_rows_up_by_itself():
    with pytest.raises(
        ValueError, match=r"use the rows of a batch as they come.*'rows'"
    ):
        fit(KEY, make_svi(indexing), 3, X, Y, batch_size=20, size=N)


def by_heart(x, y, size=N, some=20):
    w = numpyro.sample("w", dist.Normal(0, 1).expand([2]).to_event(1))
    with numpyro.plate("rows", size, subsample_size=some) as i:
        numpyro.sample("y", dist.Normal(x[i] @ w, 1), obs=y[i])


@pytest.mark.parametrize("some", [20, 10])
def test_a_model_that_draws_rows_of_a_batch_by_itself(some):
    """The numbers go up to those of the whole table; JAX would take the last row."""
    with pytest.raises(ValueError, match=r"rows of a batch as they come.*'rows'"):
        fit(KEY, make_svi(by_heart), 3, X, Y, batch_size=20, some=some)


def test_a_model_that_draws_some_rows_of_a_batch():
    with pytest.raises(ValueError, match=r"counts each row of a batch 2\.5 times"):
        fit(KEY, make_svi(own_batches), 3, X, Y, batch_size=50)
    with pytest.raises(ValueError, match=r"rows of a batch as they come.*'rows'"):
        fit(KEY, make_svi(own_batches), 3, X[:80], Y[:80], batch_size=40)


def own_batches(x, y):
    w = numpyro.sample("w", dist.Normal(0, 1).expand([2]).to_event(1))
    with numpyro.plate("rows", len(x), subsample_size=20) as i:
        numpyro.sample("y", dist.Normal(x[i] @ w, 1), obs=y[i])


def test_a_model_may_look_rows_up_where_it_gets_them_all():
    assert fit(KEY, make_svi(own_batches), 3, X, Y).steps == 3


@pytest.mark.parametrize("call", [{}, {"batch_size": 20, "size": N}])
def test_a_column_is_not_a_vector(call):
    with pytest.raises(ValueError, match=r"site 'y' has shape .*of shape \(\d+, 1\)"):
        fit(KEY, make_svi(), 3, X, Y[:, None], **call)


def as_columns(x, y=None, size=None):
    """Forget ``.squeeze(-1)``."""
    w = numpyro.sample("w", dist.Normal(0, 1).expand([2, 1]).to_event(2))
    with numpyro.plate("rows", size or len(x), subsample_size=len(x)):
        numpyro.sample("y", dist.Normal(x @ w, 1), obs=y)


def as_factors(x, y, size=None):
    w = numpyro.sample("w", dist.Normal(0, 1).expand([2, 1]).to_event(2))
    with numpyro.plate("rows", size or len(x), subsample_size=len(x)):
        numpyro.factor("y", dist.Normal(x @ w, 1).log_prob(y))


def as_zeros(x, y, size=None):
    w = numpyro.sample("w", dist.Normal(0, 1).expand([2, 1]).to_event(2))
    with numpyro.plate("rows", size or len(x), subsample_size=len(x)):
        numpyro.sample("y", dist.Normal(x @ w - y[:, None], 1), obs=0.0)


@pytest.mark.parametrize("call", [{}, {"batch_size": 20, "size": N}])
@pytest.mark.parametrize(
    ("columns", "y"),
    [
        (as_columns, Y),
        (as_columns, Y[:, None]),
        (as_factors, Y),
        (as_factors, Y[:, None]),
        (as_zeros, Y),
    ],
)
def test_a_forgotten_squeeze(columns, y, call):
    message = r"site 'y' has shape \((\d+), \1\) \(plate 'rows' .* \.squeeze\(-1\)"
    with pytest.raises(ValueError, match=message):
        fit(KEY, make_svi(columns), 3, X, y, **call)


def of_all_kinds(x, y):
    """Sites that differ in shape from their data, or from plates, for a reason."""
    rows, three = numpyro.plate("rows", N, dim=-1), numpyro.plate("three", 3, dim=-2)
    a = numpyro.sample("a", dist.Normal(0, 1))
    with rows:
        numpyro.sample("zero", dist.Normal(y - a, 1), obs=0.0)
        numpyro.factor("one", a)
        numpyro.factor("each", -((y - a) ** 2))
        numpyro.sample("pair", dist.Normal(a, jnp.ones(2)).to_event(1), obs=x)
        numpyro.sample("some", dist.Normal(a, 1), obs=y, obs_mask=y > 0)
        with numpyro.handlers.mask(mask=y > 0), scale(scale=2.0):
            numpyro.sample("masked", dist.Normal(a, 1), obs=y)
        with three:
            numpyro.sample("thrice", dist.Normal(a, 1), obs=jnp.stack([y, y, y]))
    with numpyro.plate("long", N, dim=-2):
        numpyro.sample("wide", dist.Normal(a, jnp.ones(2)), obs=x)
    many = numpyro.sample("many", dist.Normal(0, 1).expand([4, 1]).to_event(2))
    numpyro.sample("parallel", dist.Normal(many * y, 1), obs=y)
    numpyro.sample("vector", dist.MultivariateNormal(y * a, jnp.eye(N)), obs=y)

    def step(carry, now):
        numpyro.sample("seen", dist.Normal(carry, 1), obs=now)
        return carry, None

    scan(step, a, y)


@pytest.mark.filterwarnings("ignore:Missing a plate statement")
def test_shapes_that_fit():
    assert fit(KEY, make_svi(of_all_kinds), 2, X, Y).steps == 2


def test_static_arguments_of_svi():
    svi = SVI(model, AutoNormal(model), optax.adam(0.02), Trace_ELBO(), size=N)
    assert fit(KEY, svi, 3, X, Y, batch_size=20).steps == 3
    svi = SVI(model, AutoNormal(model), optax.adam(0.02), Trace_ELBO(), size=2 * N)
    with pytest.raises(ValueError, match=r"counts each row of a batch 10\.1 times"):
        fit(KEY, svi, 3, X, Y, batch_size=20)


def groups(x, y=None, size=None):
    with numpyro.plate("groups", 20):
        b = numpyro.sample("b", dist.Normal(0, 1))
    with numpyro.plate("one", 1):
        a = numpyro.sample("a", dist.Normal(0, 1))
    with numpyro.plate("rows", size or len(x), subsample_size=len(x)):
        numpyro.sample("y", dist.Normal(a + b[(x[:, 0] > 0).astype(int)], 1), obs=y)


@pytest.mark.parametrize("batch_size", [1, 20, N])
def test_other_plates_may_be_as_large_as_a_batch(batch_size):
    svi = make_svi(groups)
    assert fit(KEY, svi, 3, X, Y, batch_size=batch_size, size=N).steps == 3


def by_factor(x, y, size):
    w = numpyro.sample("w", dist.Normal(0, 1).expand([2]).to_event(1))
    with numpyro.plate("rows", size, subsample_size=len(x)):
        numpyro.factor("y", dist.Normal(x @ w, 1).log_prob(y))


def test_factors_have_weights_too():
    call = {"batch_size": 20}
    assert fit(KEY, make_svi(by_factor), 3, X, Y, size=N, **call).steps == 3
    with pytest.raises(ValueError, match="site 'y' counts each row of a batch 5"):
        fit(KEY, make_svi(by_factor), 3, X, Y, size=100, **call)


def recurrent(x, y=None, size=None):
    def step(carry, _):
        with numpyro.plate("three", 3):
            carry = numpyro.sample("s", dist.Normal(carry, 1))
        return carry, carry

    scan(step, jnp.zeros(3), None, length=4)
    model(x, y, size)


def test_plates_inside_of_a_scan():
    _weights.check_model(recurrent, ((X[:3], Y[:3], N), {}), 3, N)


@pytest.mark.parametrize("batch_size", [None, 20])
def test_numpyro_optimizers_and_dictionaries_of_arrays(batch_size):
    def nested(data, size=None):
        model(data["x"], data["y"], size)

    svi = SVI(nested, AutoNormal(nested), numpyro.optim.Adam(0.02), Trace_ELBO())
    data = {"x": X, "y": Y}
    assert fit(KEY, svi, 3, data, batch_size=batch_size, size=N).steps == 3


# Interrupts.


@pytest.mark.parametrize("at", [1, 12, 30])
def test_an_interrupt_in_the_stream_returns_what_was_reached(svi, streamed, at):
    def interrupted(first_step):
        for step, batch in enumerate(endless()):
            if step == at:
                signal.raise_signal(signal.SIGINT)
            yield batch

    call = {"batches": interrupted, "num_rows": N, "size": N, "chunk_size": 4}
    result = fit(KEY, svi, 40, **call)
    assert result.stopped == "interrupted"
    assert result.steps == result.losses.size <= at
    assert result.steps >= at - 8
    np.testing.assert_allclose(
        result.losses, streamed.losses[: result.steps], rtol=1e-6
    )


def test_an_interrupt_of_a_long_run_returns_within_seconds(svi):
    timer = threading.Timer(2.0, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    try:
        result = fit(KEY, svi, 2_000_000_000, X, Y)
    finally:
        timer.cancel()
    assert result.stopped == "interrupted"
    assert 0 < result.steps == result.losses.size
    assert np.isfinite(result.losses).all()
    again = fit(KEY, svi, 20, X, Y)
    np.testing.assert_array_equal(again.losses, result.losses[:20])


def test_pressing_again_loses_nothing(svi, monkeypatch):
    """A second Ctrl-C while the first one is being served."""
    get_params = type(svi).get_params

    def slow(self, state):
        signal.raise_signal(signal.SIGINT)
        return get_params(self, state)

    def interrupted(first_step):
        for step, batch in enumerate(endless()):
            if step == 30:
                monkeypatch.setattr(type(svi), "get_params", slow)
                signal.raise_signal(signal.SIGINT)
            yield batch

    call = {"batches": interrupted, "num_rows": N, "size": N, "chunk_size": 4}
    result = fit(KEY, svi, 40, **call)
    monkeypatch.undo()
    assert result.stopped == "interrupted"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_error_of_the_device_keeps_what_was_reached():
    def fragile(x):
        seen = []

        def call(value):
            seen.append(1)
            if len(seen) > 20:
                raise RuntimeError("out of memory")
            return value

        one = jax.pure_callback(call, jax.ShapeDtypeStruct((), "float32"), x.sum())
        numpyro.factor("f", numpyro.param("a", 0.0) + jax.lax.stop_gradient(one))

    svi = SVI(fragile, lambda x: None, optax.sgd(0.1), Trace_ELBO())
    with pytest.raises(StoppedFitError, match="out of memory") as caught:
        fit(KEY, svi, 100, X, chunk_size=2)
    kept = caught.value.result
    assert 0 < kept.steps == kept.losses.size < 100


# Warm starts.


def test_warm_start(svi):
    first = fit(KEY, svi, 50, X, Y)
    warm = fit(KEY, svi, 1, X, Y, init_params=first.params)
    state = svi.init(KEY, X, Y, init_params=first.params)
    expected = jax.jit(svi.evaluate)(state, X, Y)
    np.testing.assert_allclose(warm.losses, expected, rtol=1e-5)
    assert warm.losses[0] < fit(KEY, svi, 1, X, Y).losses[0]


@pytest.mark.parametrize(
    ("init_params", "message"),
    [
        (
            {"nonsense": 1.0},
            r"init_params: expected some of \['w_auto_loc', .*nonsense",
        ),
        (
            {"w_auto_loc": jnp.zeros(3)},
            r"init_params: expected 'w_auto_loc' of .*\(2,\)",
        ),
        ({"w_auto_loc": jnp.array([0, jnp.nan])}, "w_auto_loc: expected finite"),
    ],
)
def test_bad_warm_starts(svi, init_params, message):
    with pytest.raises(ValueError, match=message):
        fit(KEY, svi, 3, X, Y, init_params=init_params)


BAD_INPUT = [
    ({"batch_size": 0}, ValueError, "batch_size: expected at least 1, got 0"),
    ({"batch_size": 2.0}, TypeError, "batch_size: expected a whole number"),
    ({"batch_size": 102}, ValueError, "batch_size: .*at most the 101 rows, got 102"),
    ({"batch_size": 5, "y": Y[:-1]}, ValueError, r"batch_size: .*same.*\[100, 101\]"),
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
    ({"batches": 3, "num_rows": N, "x": None}, TypeError, "batches: .*iterable.*int"),
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
    ({"x": np.arange(N) + 2**40}, ValueError, "argument 0: .*fit in 32 bits, got 1099"),
    (
        {"batches": [{"y": Y}], "num_rows": N, "x": None},
        ValueError,
        r"batches: at step 1, expected \['y'\] in batches or in the call, got both",
    ),
    (
        {"x": np.where(np.arange(2 * N).reshape(N, 2) == 199, np.inf, X)},
        ValueError,
        r"model argument 0: expected finite.*first at index \(99, 1\)",
    ),
]


@pytest.mark.parametrize(("change", "error", "message"), BAD_INPUT)
def test_bad_input(svi, change, error, message):
    given = {"x": X, "y": Y, "size": N} | change
    x = given.pop("x")
    with pytest.raises(error, match=message):
        fit(KEY, svi, 3, *([] if x is None else [x]), **given)


def test_nan_in_the_last_of_ten_million_rows(svi):
    x = np.zeros((10_000_000, 2), "float32")
    x[9_999_999, 1] = np.nan
    with pytest.raises(ValueError, match=r"argument 0: .* index \(9999999, 1\)"):
        fit(KEY, svi, 3, x, np.zeros(10_000_000, "float32"), batch_size=10, size=10**7)
