"""Model and guide fit the data, and each row counts once."""

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
from numpyro.infer import SVI, Trace_ELBO, TraceGraph_ELBO
from numpyro.infer.autoguide import AutoNormal

from fitting import arguments, batches, checks
from helpers import training

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


def accepts(model, batch_size=None, size=N):
    """Return whether a model passes the checks; nothing is compiled."""
    source = arguments.AllRows((X, Y), {})
    if batch_size is not None:
        source = batches.Tables(model, (X, Y), {"size": size}, batch_size, KEY)
    checks.before(make_svi(model), source, False)
    return True


def stream(rows=20):
    while True:
        some = np.random.default_rng(0).integers(0, N, rows)
        yield X[some], Y[some]


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
    assert accepts(crossed, batch_size=20)
    with pytest.raises(ValueError, match="counts each row of a batch 1 times"):
        accepts(crossed, batch_size=20, size=20)


def standardized(x, y=None, size=None):
    model((x - x.mean(axis=0)) / x.std(axis=0), y, size)


def shifted(x, y=None, size=None):
    model(x, y - y[0], size)


def placed(x, y=None, size=None):
    model(x + jnp.linspace(0, 1, len(x))[:, None], y, size)


def counted(x, y=None, size=None):
    model(x / jnp.sqrt(len(x)), y, size)


def accumulated(x, y=None, size=None):
    w = numpyro.sample("w", dist.Normal(0, 1).expand([2]).to_event(1))
    with numpyro.plate("rows", size or len(x), subsample_size=len(x)):
        z = numpyro.sample("z", dist.Normal(x @ w, 1))
        numpyro.sample("y", dist.Normal(jnp.cumsum(z), 1), obs=y)


def all_at_once(x, y=None, size=None):
    w = numpyro.sample("w", dist.Normal(0, 1).expand([2]).to_event(1))
    x = x - x.mean(axis=0)
    with scale(scale=1.0 if size is None else size / len(x)):
        numpyro.sample("y", dist.Normal(x @ w, 1).to_event(1), obs=y)


def with_dropout(x, y=None, size=None):
    kept = jax.random.bernoulli(numpyro.prng_key(), 0.5, x.shape)
    model(x * kept, y, size)


def standardized_with_dropout(x, y=None, size=None):
    with_dropout(x - x.mean(axis=0), y, size)


@pytest.mark.parametrize("batch_size", [2, 9, 20])
def test_dropout_may_depend_on_the_place_of_a_row(batch_size):
    assert accepts(with_dropout, batch_size=batch_size)
    with pytest.raises(ValueError, match="a row counts differently in another place"):
        accepts(standardized_with_dropout, batch_size=batch_size)


DEPENDENT = [standardized, shifted, placed, counted, accumulated, all_at_once]


@pytest.mark.parametrize("model", DEPENDENT)
def test_rows_that_depend_on_each_other_are_refused_in_batches(model):
    assert accepts(model, size=None)
    with pytest.raises(ValueError, match="a row counts differently in another place"):
        accepts(model, batch_size=20)


def test_the_mean_of_a_batch_of_one_row_is_no_mean_either():
    with pytest.raises(ValueError, match="a row counts differently in another place"):
        accepts(standardized, batch_size=1)
    assert accepts(model, batch_size=1)
    fit(KEY, make_svi(standardized), 2, X, Y, size=N, batch_size=20, unchecked=True)


@pytest.mark.parametrize("batch_size", [10, 11])
def test_unknown_counts_of_rows_are_drawn_once(batch_size):
    """JAX draws Poisson numbers of all rows together: one changes with the others."""

    def counts(x, y=None, size=None):
        w = numpyro.sample("w", dist.Normal(0, 1).expand([2]).to_event(1))
        with numpyro.plate("rows", size, subsample_size=len(x)):
            n = numpyro.sample("n", dist.Poisson(jnp.exp(0.3 * x @ w + 2)))
            numpyro.sample("y", dist.Normal(n, 1), obs=y)

    for key in jax.random.split(KEY, 5):
        source = batches.Tables(counts, (X, Y), {"size": N}, batch_size, key)
        svi = SVI(counts, lambda *_, **__: None, optax.adam(0.02), TraceGraph_ELBO())
        checks.before(svi, source, False)


def sized_by_hand(x, y=None, size=None):
    w = numpyro.sample("w", dist.Normal(0, 1).expand([2]).to_event(1))
    with numpyro.plate("other", 20):
        numpyro.sample("v", dist.Normal(0, 1))
    with numpyro.plate("rows", N, subsample_size=20):
        numpyro.sample("y", dist.Normal(x @ w, 1), obs=y)


def test_a_model_may_know_the_size_of_a_batch():
    assert accepts(sized_by_hand, batch_size=20)


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
        batches=stream(),
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
    with pytest.raises(ValueError, match=message):
        fit(KEY, make_svi(wrong), 5, batches=stream(), num_rows=N, size=size)


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
    with pytest.raises(
        ValueError, match=r"model: .*(as they come|from a batch 1 time)"
    ):
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
    tables = jnp.asarray(X), jnp.asarray(Y)  # NumPy cannot look traced rows up
    assert fit(KEY, make_svi(own_batches), 3, *tables).steps == 3


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
    assert accepts(of_all_kinds)


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
    assert accepts(groups, batch_size=batch_size)


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
    assert accepts(recurrent, batch_size=3)


@pytest.mark.parametrize("batch_size", [None, 20])
def test_numpyro_optimizers_and_dictionaries_of_arrays(batch_size):
    def nested(data, size=None):
        model(data["x"], data["y"], size)

    svi = SVI(nested, AutoNormal(nested), numpyro.optim.Adam(0.02), Trace_ELBO())
    data = {"x": X, "y": Y}
    assert fit(KEY, svi, 3, data, batch_size=batch_size, size=N).steps == 3
