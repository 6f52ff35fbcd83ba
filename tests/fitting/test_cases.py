"""Models that trouble people: each works as in NumPyro, or is refused with a cure."""

import dataclasses
import types
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pandas as pd
import pytest
from flax import nnx
from numpyro.contrib.control_flow import scan
from numpyro.contrib.module import random_nnx_module
from numpyro.distributions import constraints
from numpyro.handlers import block, condition, mask, scale, seed
from numpyro.infer import (
    SVI,
    Predictive,
    Trace_ELBO,
    TraceGraph_ELBO,
    init_to_median,
    init_to_value,
)
from numpyro.infer.autoguide import (
    AutoDelta,
    AutoDiagonalNormal,
    AutoLaplaceApproximation,
    AutoMultivariateNormal,
    AutoNormal,
)
from numpyro.infer.reparam import NeuTraReparam
from optax.contrib import reduce_on_plateau

from helpers import training
from helpers.diagnostics import log_weights
from helpers.training import NonFiniteLossError, predict

KEY = jax.random.key(5)
RNG = np.random.default_rng(0)
X = RNG.normal(5, 2, 24).astype("float32")
Y = RNG.normal(1, 1, 24).astype("float32")
GROUPS = np.repeat([10, 20, 30], 8)
fit = partial(training.fit, progress_bar=False)


def make_svi(model, guide=None, rate=0.02, loss=None):
    return SVI(
        model, guide or AutoNormal(model), optax.adam(rate), loss or Trace_ELBO()
    )


def fits_alike(model, *args, guide=AutoNormal, **kwargs):
    """Check that `fit` gives the losses of `svi.run`; return its parameters."""
    run = make_svi(model, guide(model)).run(KEY, 4, *args, progress_bar=False, **kwargs)
    ours = fit(KEY, make_svi(model, guide(model)), 4, *args, **kwargs)
    np.testing.assert_allclose(ours.losses, run.losses, rtol=1e-5)
    return ours.params


def predicts_alike(model, args, new, guide=AutoNormal):
    """Check that `predict` gives the numbers of `Predictive` after a fit."""
    guide = guide(model)
    params = fit(KEY, make_svi(model, guide), 4, *args).params
    expected = Predictive(model, guide=guide, params=params, num_samples=6)(KEY, *new)
    found = predict(KEY, model, guide, params, 6, *new)
    assert found.keys() == expected.keys()
    for name, values in found.items():
        np.testing.assert_allclose(values, expected[name], rtol=2e-5, atol=2e-5)


def mean_model(y, x=None, size=None):
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    with numpyro.plate("rows", size or len(y), subsample_size=len(y)):
        numpyro.sample("y", dist.Normal(mu, 1), obs=y)


def line(x, y=None):
    slope = numpyro.sample("slope", dist.Normal(0, 5))
    with numpyro.plate("rows", len(x)):
        numpyro.sample("y", dist.Normal(slope * x, 1), obs=y)


# What a model finds outside its arguments


def test_data_changed_outside_of_the_arguments_are_seen():  # r01
    data = {"y": np.full(20, 3.0, "float32")}

    def model():
        mu = numpyro.sample("mu", dist.Normal(0, 10))
        numpyro.sample("y", dist.Normal(mu, 1), obs=data["y"])

    svi = make_svi(model, rate=0.1)
    for value in (3.0, -3.0):
        data["y"] = np.full(20, value, "float32")
        ours, theirs = fit(KEY, svi, 4), svi.run(KEY, 4, progress_bar=False)
        np.testing.assert_allclose(ours.losses, theirs.losses, rtol=1e-5)


def test_a_centre_changed_outside_is_seen_by_predict():  # r02
    centre = [0.0]

    def model(x, y=None):
        slope = numpyro.sample("slope", dist.Normal(0, 0.1))
        with numpyro.plate("rows", len(x)):
            numpyro.sample("y", dist.Normal(centre[0] + slope * x, 1), obs=y)

    def guide(x, y=None):
        numpyro.sample("slope", dist.Normal(numpyro.param("at", 0.0), 0.1))

    x = np.ones(8, "float32")
    for centre[0] in (0.0, 100.0):
        found = predict(KEY, model, guide, {"at": 0.0}, 20, x)["y"]
        assert found.mean() == pytest.approx(centre[0], abs=1)


# What a model does with its arguments


def test_models_may_look_at_values_but_not_at_those_of_batches():  # r03
    def unique(g, y=None):
        with numpyro.plate("groups", len(np.unique(g))):
            a = numpyro.sample("a", dist.Normal(0, 1))
        with numpyro.plate("rows", len(g)):
            numpyro.sample("y", dist.Normal(a[g], 1), obs=y)

    def largest(g, y=None):
        a = numpyro.sample("a", dist.Normal(0, 1).expand([int(np.max(g)) + 1]))
        with numpyro.plate("rows", len(g)):
            numpyro.sample("y", dist.Normal(a[g], 1), obs=y)

    def some(g, y):
        mu = numpyro.sample("mu", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(mu, 1).expand([8]), obs=y[g == 1])

    g = np.searchsorted([10, 20, 30], GROUPS)
    for model in (unique, largest, some):
        fits_alike(model, g, Y)
    predicts_alike(unique, (g, Y), (g,))
    with pytest.raises(TypeError, match=r"values of g, .*functools\.partial"):
        fit(KEY, make_svi(unique), 4, g, Y, batch_size=6)


def test_rows_may_depend_on_each_other_in_predict():  # r04
    def standardized(x, y=None):
        slope = numpyro.sample("slope", dist.Normal(0, 5))
        mean = numpyro.deterministic("mean", slope * (x - x.mean()) / x.std())
        with numpyro.plate("rows", len(x)):
            numpyro.sample("y", dist.Normal(mean, 1), obs=y)

    def trend(x, y=None):
        slope = numpyro.sample("slope", dist.Normal(0, 5))
        mean = numpyro.deterministic("mean", slope * jnp.arange(len(x)) + x.cumsum())
        with numpyro.plate("rows", len(x)):
            numpyro.sample("y", dist.Normal(mean, 1), obs=y)

    x = RNG.normal(5, 2, 4_100).astype("float32")
    for model in (standardized, trend):
        predicts_alike(model, (x, x), (x,))


def test_training_rows_and_others_are_predicted():  # r05
    fixed = partial(mean_model, size=24)

    def schools(s, y=None):
        with numpyro.plate("schools", len(s)):
            theta = numpyro.sample("theta", dist.Normal(0, 1))
            numpyro.sample("y", dist.Normal(theta, s), obs=y)

    def sized(x, y=None):
        mu = numpyro.sample("mu", dist.Normal(0, 1))
        with numpyro.plate("rows", 24, subsample_size=len(x)):
            numpyro.sample("y", dist.Normal(mu * x, 1), obs=y)

    predicts_alike(schools, (X, Y), (X,))
    guide = AutoNormal(sized)
    params = fit(KEY, make_svi(sized, guide), 4, X, Y, batch_size=6).params
    for rows in (23, 24):
        assert predict(KEY, sized, guide, params, 5, X[:rows])["y"].shape == (5, rows)
    guide = AutoNormal(schools)
    params = fit(KEY, make_svi(schools, guide), 4, X, Y).params
    with pytest.raises(ValueError, match="shape"):
        predict(KEY, schools, guide, params, 5, X[:23])
    assert fit(KEY, make_svi(fixed), 4, Y).steps == 4


def test_constants_of_any_class_pass():  # r07
    @dataclasses.dataclass
    class Config:
        hidden: int = 3

    class Attributes(dict):
        __getattr__ = dict.__getitem__

    def model(x, y, config):
        shape = config if isinstance(config, list) else [config.hidden]
        w = numpyro.sample("w", dist.Normal(0, 1).expand(shape).to_event(len(shape)))
        with numpyro.plate("rows", len(x)):
            numpyro.sample("y", dist.Normal(w.sum() * x, 1), obs=y)

    constants = Config(), types.SimpleNamespace(hidden=3), Attributes(hidden=3), [3, 2]
    for config in constants:
        fits_alike(model, X, Y, config)
    fit(KEY, make_svi(model), 2, X, Y, constants[0], batch_size=8, unchecked=True)
    with pytest.raises(TypeError, match=r"expected an array.*functools\.partial"):
        fit(KEY, make_svi(model), 2, X, Y, [3, 2], batch_size=8)


def test_nan_that_a_model_masks_or_imputes_passes():  # r08
    y = Y.copy()
    y[2] = np.nan

    def masked(y):
        mu, seen = numpyro.sample("mu", dist.Normal(0, 5)), jnp.isfinite(y)
        with numpyro.plate("rows", len(y)), mask(mask=seen):
            numpyro.sample("y", dist.Normal(mu, 1), obs=jnp.where(seen, y, 0.0))

    def imputed(y):
        mu, lost = numpyro.sample("mu", dist.Normal(0, 5)), np.isnan(y)
        filled = numpyro.sample("filled", dist.Normal(mu, 1).expand([lost.sum()]))
        y = jnp.asarray(y).at[np.flatnonzero(lost)].set(filled)
        numpyro.sample("y", dist.Normal(mu, 1), obs=y)

    for model in (masked, imputed):
        fits_alike(model, y)
    with pytest.raises(ValueError, match=r"'y' observes 1 NaN .* \(2,\).*mask"):
        fit(KEY, make_svi(mean_model), 4, y)

    def inputs(x, y):
        line(jnp.log(x - 100), y)

    with pytest.raises(ValueError, match="invalid loc"):  # NaN made on the way
        fit(KEY, make_svi(inputs), 4, X, Y)


def test_whole_numbers_beyond_32_bits_are_refused_where_used():
    def used(ids, y):
        mu = numpyro.sample("mu", dist.Normal(0, 5))
        numpyro.sample("y", dist.Normal(mu * (ids % 7), 1), obs=y)

    def counted(ids, y):
        a = numpyro.sample("a", dist.Normal(0, 5).expand([len(np.unique(ids))]))
        at = np.unique(ids, return_inverse=True)[1]
        numpyro.sample("y", dist.Normal(a[at], 1), obs=y)

    def jax_used(ids, y):
        used(jnp.asarray(ids), y)

    ids = 3_000_000_000 + GROUPS
    fits_alike(counted, ids, Y)
    with pytest.raises(ValueError, match=r"ids: .*32 bits.*return_inverse"):
        fit(KEY, make_svi(jax_used), 4, ids, Y)
    with pytest.raises(ValueError, match=r"ids: .*32 bits"):
        fit(KEY, make_svi(used), 4, ids, Y, batch_size=6)
    large = np.full(24, 1e300)
    with pytest.raises(ValueError, match=r"x has .*32 bits.*power of ten"):
        fit(KEY, make_svi(line), 4, large, Y)
    with pytest.raises(ValueError, match=r"x: .*32 bits"):
        predict(KEY, line, hand_line, {"at": 0.0}, 4, large)


def hand_line(x, y=None):
    numpyro.sample("slope", dist.Normal(numpyro.param("at", 0.0), 0.1))


# Sizes, supports and names


def test_a_plate_of_wrong_size_is_refused_with_all_rows():
    with pytest.raises(ValueError, match=r"each would count 10 times.*'rows', 24\)"):
        fit(KEY, make_svi(mean_model), 4, Y, size=240)
    assert fit(KEY, make_svi(mean_model), 4, Y, size=240, unchecked=True).steps == 4


def test_a_plate_over_some_unknowns_alone_counts_no_data():
    def model(y):
        with numpyro.plate("walkers", 10, subsample_size=4):
            numpyro.sample("step", dist.Normal(0, 1))
        mu = numpyro.sample("mu", dist.Normal(0, 1))
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.Normal(mu, 1), obs=y)

    ours = fit(KEY, make_svi(model), 4, Y)
    theirs = make_svi(model).run(KEY, 4, Y, progress_bar=False)
    np.testing.assert_allclose(ours.losses, theirs.losses, rtol=1e-6)


def test_observations_that_a_distribution_cannot_give_are_refused():
    def binary(y):
        with numpyro.plate("rows", len(y)):
            p = numpyro.sample("p", dist.Beta(2, 2))
            numpyro.sample("y", dist.Bernoulli(p), obs=y)

    def classes(y):
        p = numpyro.sample("p", dist.Dirichlet(jnp.ones(3)))
        numpyro.sample("y", dist.Categorical(p), obs=y)

    def counts(y):
        rate = numpyro.sample("rate", dist.Gamma(2, 1))
        numpyro.sample("y", dist.Poisson(rate), obs=y)

    y = np.tile([1, 2], 12)
    wrong = (binary, y), (classes, np.tile([1, 2, 3], 8)), (counts, y - 2)
    for model, data in wrong:
        for options in ({}, {"batch_size": 4}):
            with pytest.raises(ValueError, match=r"'y' observes values.*cannot give"):
                fit(KEY, make_svi(model), 4, data, **options)
    fits_alike(binary, y - 1)


@pytest.mark.parametrize("wrapped", [False, True])
def test_the_error_names_the_distribution_that_the_model_names(wrapped):
    def incomes(y):
        loc = numpyro.sample("loc", dist.Normal(0, 1))
        fn = dist.LogNormal(loc, 1)
        fn = fn.expand([24]).mask(True).to_event(1) if wrapped else fn
        numpyro.sample("y", fn, obs=y)

    with pytest.raises(ValueError, match=r"that LogNormal cannot give \(1 of"):
        fit(KEY, make_svi(incomes), 4, np.arange(24.0))


def test_keywords_of_a_model_that_are_options_of_fit_are_refused():
    def model(y, num_rows=3):
        mean_model(y)

    with pytest.raises(TypeError, match=r"num_rows: .*functools\.partial"):
        fit(KEY, make_svi(model), 4, batches=[(Y,)], num_rows=24)
    fits_alike(partial(model, num_rows=4), Y)
    with pytest.raises(TypeError, match="sizes: no option of fit"):
        fit(KEY, make_svi(model), 4, Y, sizes=3)


def test_keys_of_both_kinds_are_taken_and_vmap_over_fit_is_refused():
    old = jax.random.PRNGKey(3)
    ours = fit(old, make_svi(mean_model), 4, Y).losses
    theirs = make_svi(mean_model).run(old, 4, Y, progress_bar=False).losses
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    with pytest.raises(TypeError, match=r"rng_key: .*an array of keys instead"):
        jax.vmap(lambda k: fit(k, make_svi(mean_model), 4, Y).losses)(
            jax.random.split(KEY, 2)
        )
    assert fit(jax.random.split(KEY, 2), make_svi(mean_model), 4, Y).losses.shape == (
        2,
        4,
    )


# Weights of rows in batches


def exact(model, *args, steps=600, **options):
    """Fit the mean of `Y` in batches; return mean and sd, exactly (Y.mean(), 0.204)."""
    svi = make_svi(model, rate=optax.linear_schedule(0.05, 0.001, steps))
    params = fit(KEY, svi, steps, *args, batch_size=12, **options).params
    return float(params["mu_auto_loc"]), float(params["mu_auto_scale"])


def test_weights_of_rows_are_checked_in_batches():  # r09
    weights = np.ones(24, "float32")

    def summed(y):
        mu = numpyro.sample("mu", dist.Normal(0, 5))
        numpyro.factor("log likelihood", dist.Normal(mu, 1).log_prob(y).sum())

    def weighted(y, w):
        with scale(scale=w):
            mean_model(y, size=24)

    def doubled(y):
        with scale(scale=2.0):
            mean_model(y, size=24)

    def scaled(y, total=24):
        mu = numpyro.sample("mu", dist.Normal(0, 5))
        with scale(scale=total / len(y)):
            numpyro.sample("y", dist.Normal(mu, 1), obs=y)

    for model, args in ((summed, ()), (mean_model, ()), (weighted, (weights,))):
        with pytest.raises(ValueError, match=r"expected 2 .*numpyro\.plate"):
            fit(KEY, make_svi(model), 4, Y, *args, batch_size=12)
    with pytest.raises(ValueError, match="counts each row of a batch 4 times"):
        fit(KEY, make_svi(doubled), 4, Y, batch_size=12)
    answer = pytest.approx((Y.sum() / 24.04, 0.204), abs=0.06)
    assert exact(weighted, Y, weights, unchecked=True) == answer
    assert exact(partial(mean_model, size=24), Y) == answer
    assert exact(scaled, Y) == answer


def test_a_penalty_that_needs_no_rows_counts_once_in_batches():
    def model(y):
        mu = numpyro.sample("mu", dist.ImproperUniform(constraints.real, (), ()))
        numpyro.factor("penalty", -0.5 * (mu / 5) ** 2)
        with numpyro.plate("rows", 24, subsample_size=len(y)):
            numpyro.sample("y", dist.Normal(mu, 1), obs=y)

    guide = AutoNormal(model, init_loc_fn=init_to_value(values={"mu": 0.0}))
    svi = make_svi(model, guide)
    assert fit(KEY, svi, 4, Y, batch_size=12).steps == 4


def test_groups_of_rows_keep_their_prior_in_batches():
    g = np.searchsorted([10, 20, 30], GROUPS)

    def model(g, y):
        sd = numpyro.sample("sd", dist.HalfNormal(1))
        with numpyro.plate("groups", 3):
            a = numpyro.sample("a", dist.Normal(0, sd))
        with numpyro.plate("rows", 24, subsample_size=len(g)):
            numpyro.sample("y", dist.Normal(a[g], 1), obs=y)

    svi = make_svi(model, rate=optax.linear_schedule(0.05, 0.001, 800))
    few = fit(KEY, svi, 800, g, Y, batch_size=12).params
    whole = fit(KEY, svi, 800, g, Y).params
    for name in ("a_auto_loc", "a_auto_scale"):
        np.testing.assert_allclose(few[name], whole[name], atol=0.1)


def test_unknowns_of_rows_may_be_annealed_in_batches():
    x = np.stack([X, Y], axis=1)

    def model(x, beta=0.5):
        decoder = numpyro.param("decoder", jnp.ones((1, 2)))
        with numpyro.plate("rows", 24, subsample_size=len(x)):
            with scale(scale=beta):
                z = numpyro.sample("z", dist.Normal(0, 1).expand([1]).to_event(1))
            numpyro.sample("x", dist.Normal(z @ decoder, 1).to_event(1), obs=x)

    def guide(x, beta=0.5):
        encoder = numpyro.param("encoder", jnp.zeros((2, 1)))
        with numpyro.plate("rows", 24, subsample_size=len(x)), scale(scale=beta):
            numpyro.sample("z", dist.Normal(x @ encoder, 0.5).to_event(1))

    svi = make_svi(model, guide)
    assert fit(KEY, svi, 4, x, batch_size=8).steps == 4
    ours, theirs = fit(KEY, svi, 4, x), svi.run(KEY, 4, x, progress_bar=False)
    np.testing.assert_allclose(ours.losses, theirs.losses, rtol=1e-5)


def test_a_series_is_no_table():  # 25
    def model(y):
        drift = numpyro.sample("drift", dist.HalfNormal(1))

        def step(level, y_t):
            level = numpyro.sample("level", dist.Normal(level, drift))
            numpyro.sample("obs", dist.Normal(level, 0.1), obs=y_t)
            return level, None

        scan(step, 0.0, y)

    fits_alike(model, jnp.cumsum(Y))
    with pytest.raises(ValueError, match=r"Steps of a series \(scan\) are no rows"):
        fit(KEY, make_svi(model), 4, jnp.cumsum(Y), batch_size=6)


# Guides, losses, optimizers


def normal(y):
    mu = numpyro.sample("mu", dist.Normal(0, 3))
    sd = numpyro.sample("sd", dist.HalfNormal(1))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(mu, sd), obs=y)


@pytest.mark.parametrize("kind", [AutoDelta, AutoLaplaceApproximation])
def test_points_have_no_weights(kind):  # r06
    guide = kind(normal)
    params = fit(KEY, make_svi(normal, guide), 4, Y).params
    with pytest.raises(ValueError, match="guide: expected"):
        log_weights(KEY, normal, guide, params, Y, num_draws=50)


def test_a_guide_without_an_unknown_has_no_weights():  # r06
    guide = AutoNormal(block(normal, hide=["sd"]))
    with pytest.raises(ValueError, match=r"guide: expected .*'sd'"):
        fit(KEY, make_svi(normal, guide), 4, Y)
    params = fit(KEY, make_svi(normal, guide), 4, Y, unchecked=True).params
    with pytest.raises(ValueError, match=r"guide: expected .*'sd'"):
        log_weights(KEY, normal, guide, params, Y, num_draws=50)


def test_enumerated_unknowns_have_no_weights():  # r10
    import funsor
    from numpyro.contrib.funsor import config_enumerate
    from numpyro.infer import TraceEnum_ELBO

    funsor.set_backend("jax")

    @config_enumerate
    def mixture(y):
        mu = numpyro.sample("mu", dist.Normal(0, 3).expand([2]).to_event(1))
        with numpyro.plate("rows", len(y)):
            part = numpyro.sample("part", dist.Categorical(jnp.array([0.5, 0.5])))
            numpyro.sample("y", dist.Normal(mu[part], 1), obs=y)

    guide = AutoNormal(block(mixture, hide=["part"]))
    svi = make_svi(mixture, guide, loss=TraceEnum_ELBO())
    ours = fit(KEY, svi, 4, Y)
    theirs = svi.run(KEY, 4, Y, progress_bar=False)
    np.testing.assert_allclose(ours.losses, theirs.losses, rtol=1e-5)
    with pytest.raises(ValueError, match="part"):
        log_weights(KEY, mixture, guide, ours.params, Y, num_draws=50)


def test_predictions_of_a_wide_network_need_the_memory_of_one_draw():  # 07
    x = RNG.normal(size=(8, 50)).astype("float32")

    def model(x, y=None):
        w = numpyro.sample("w", dist.Normal(0, 1).expand([50, 4_000]).to_event(2))
        with numpyro.plate("rows", len(x)):
            numpyro.sample("y", dist.Normal((x @ w).mean(axis=1), 1), obs=y)

    guide = AutoNormal(model)
    params = fit(KEY, make_svi(model, guide), 2, x, x[:, 0]).params
    draws, before = 400, resident()  # their weights have 320 MB
    assert predict(KEY, model, guide, params, draws, x)["y"].shape == (draws, 8)
    assert resident() - before < 200e6


def resident():
    resource = pytest.importorskip("resource")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # on Linux


def test_a_discrete_unknown_needs_another_loss():  # 09
    def model(y):
        faulty = numpyro.sample("faulty", dist.Bernoulli(0.5))
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.Normal(1.0 * faulty, 1.0), obs=y)

    def guide(y):
        p = numpyro.param("p", 0.5, constraint=constraints.unit_interval)
        numpyro.sample("faulty", dist.Bernoulli(p))

    y = jnp.array([0.9, 0.7, 0.2])
    for each in (guide, AutoNormal(model)):
        with pytest.raises(ValueError, match=r"'faulty' is discrete.*TraceGraph_ELBO"):
            fit(KEY, make_svi(model, each), 4, y)
    loss = TraceGraph_ELBO(num_particles=50)
    found = fit(KEY, make_svi(model, guide, 0.01, loss), 1_000, y).params["p"]
    assert found == pytest.approx(1 / (1 + np.exp(-0.3)), abs=0.05)  # exact


class Normed(nnx.Module):
    def __init__(self, rngs):
        self.inner, self.norm = nnx.Linear(2, 4, rngs=rngs), nnx.BatchNorm(4, rngs=rngs)

    def __call__(self, x):
        return self.norm(self.inner(x)).sum(axis=1)


def test_batch_normalization_works_with_one_particle():  # 13
    def model(x, y=None):
        net = random_nnx_module("net", Normed(nnx.Rngs(0)), prior=dist.Normal(0, 1))
        f = net(x)
        with numpyro.plate("rows", 24 if y is not None else len(x), len(x)):
            numpyro.sample("y", dist.Normal(f, 0.5), obs=y)

    x = np.stack([X, Y], axis=1)
    fits_alike(model, x, Y)
    with pytest.warns(UserWarning, match="use num_particles=1"):  # and it runs
        fit(KEY, make_svi(model, loss=Trace_ELBO(num_particles=4)), 4, x, Y)
    guide = AutoNormal(model)
    found = fit(KEY, make_svi(model, guide), 4, x, Y, batch_size=8)
    params = found.params | found.state.mutable_state
    expected = Predictive(model, guide=guide, params=params, num_samples=3)(KEY, x[:5])
    ours = predict(KEY, model, guide, params, 3, x[:5])["y"]
    np.testing.assert_allclose(ours, expected["y"], rtol=1e-4, atol=1e-4)
    with pytest.warns(UserWarning, match="start anew"):
        predict(KEY, model, guide, found.params, 3, x[:5])


def test_a_plateau_rule_that_stops_the_fit_is_named():  # 14
    def plateau_svi(center, **options):
        rule = reduce_on_plateau(patience=2, factor=0.1, **options)
        guide = AutoNormal(mean_model)
        optimizer = optax.chain(optax.adam(0.01), rule)
        return SVI(mean_model, guide, optimizer, Trace_ELBO())

    with pytest.warns(UserWarning, match="reduce_on_plateau cut .* stands still"):
        found = fit(KEY, plateau_svi(0), 150, Y)
    assert found.reductions > 4

    def below_zero(y):
        mu = numpyro.sample("mu", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(mu, 0.01), obs=y)

    rule = reduce_on_plateau(patience=2, factor=0.1, rtol=0.999)
    start = init_to_value(values={"mu": 0.0})
    guide = AutoNormal(below_zero, init_loc_fn=start, init_scale=0.001)
    svi = SVI(below_zero, guide, optax.chain(optax.adam(1e-5), rule), Trace_ELBO())
    with pytest.warns(UserWarning, match="never cut the step size"):
        fit(KEY, svi, 30, np.zeros(24, "float32"))


def test_a_start_between_wide_bounds_is_named():  # 16
    def model(y, bound=1e10):
        rate = numpyro.sample(
            "rate", dist.TruncatedNormal(0.0, 10.0, low=0, high=bound)
        )
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.Poisson(rate), obs=y)

    y = np.tile([2, 3], 12)
    with pytest.warns(UserWarning, match="'rate' starts at .*init_to_median"):
        fit(KEY, make_svi(model, AutoNormal(model)), 4, y)
    fits_alike(partial(model, bound=100.0), y)


def test_a_start_without_density_is_blamed_on_the_start():  # 18
    def model(y):
        factor = numpyro.sample("L", dist.LKJCholesky(20))
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.MultivariateNormal(0, scale_tril=factor), obs=y)

    y = RNG.normal(size=(30, 20)).astype("float32")
    with pytest.raises((NonFiniteLossError, ValueError), match="init_to_median"):
        fit(KEY, make_svi(model, AutoNormal(model)), 4, y)
    near = partial(AutoNormal, init_loc_fn=init_to_median, init_scale=0.01)
    fits_alike(model, y, guide=near)


def test_a_guide_with_a_factor_is_refused():  # 19
    def model():
        x = numpyro.sample("x", dist.Uniform(-10, 10))
        numpyro.factor("shape", -0.5 * (x / 2.0) ** 2)

    def with_factor():
        s = numpyro.param("s", 1.0, constraint=constraints.positive)
        x = numpyro.sample("x", dist.Uniform(-10, 10))
        numpyro.factor("shape", -0.5 * (x / s) ** 2 - jnp.log(s))

    def sampled():
        s = numpyro.param("s", 1.0, constraint=constraints.positive)
        numpyro.sample("x", dist.TruncatedNormal(0.0, s, low=-10, high=10))

    with pytest.raises(ValueError, match=r"'shape'.*Factors belong into the model"):
        fit(KEY, make_svi(model, with_factor), 4)
    assert fit(KEY, make_svi(model, sampled), 4).steps == 4


def test_a_loaded_guide_must_see_the_model_once():  # 21
    guide = AutoDiagonalNormal(line)
    params = fit(KEY, make_svi(line, guide), 4, X, Y).params
    expected = predict(KEY, line, guide, params, 5, X)["y"]
    new = AutoDiagonalNormal(line)
    with pytest.raises(ValueError, match=r"new and has not seen.*handlers\.seed"):
        predict(KEY, line, new, params, 5, X)
    seed(new, 0)(X[:1])  # without its data
    with pytest.raises(ValueError, match=r"expected .* parameters.*handlers\.seed"):
        predict(KEY, line, new, params, 5, X)
    new = AutoDiagonalNormal(line)
    seed(new, 0)(X[:1], Y[:1])
    np.testing.assert_array_equal(predict(KEY, line, new, params, 5, X)["y"], expected)


class Small(nnx.Module):
    def __init__(self, rngs):
        self.first, self.last = nnx.Linear(1, 3, rngs=rngs), nnx.Linear(3, 1, rngs=rngs)

    def __call__(self, x):
        return self.last(jnp.tanh(self.first(x)))[:, 0]


def test_weights_without_a_prior_are_named():  # 22
    def model(x, y, names):
        prior = {name: dist.Normal(0, 1) for name in names}
        f = random_nnx_module("net", Small(nnx.Rngs(0)), prior=prior)(x)
        numpyro.sample("y", dist.Normal(f, 0.1), obs=y)

    every = [
        f"{part}.{kind}" for part in ("first", "last") for kind in ("kernel", "bias")
    ]
    some = partial(model, names=["last.kernel", "bias"])
    with pytest.warns(UserWarning, match=r"first.* no prior and stay points"):
        fit(KEY, make_svi(some), 4, X[:, None], Y)
    none = partial(model, names=["nothing"])
    with pytest.warns(UserWarning, match="an unknown .* got none"):
        fit(KEY, make_svi(none, lambda *args: None), 4, X[:, None], Y)
    fits_alike(partial(model, names=every), X[:, None], Y)


@pytest.mark.parametrize("start", [0, jnp.array(0), np.int64(0)])
def test_a_parameter_that_starts_at_a_whole_number_is_named(start):  # 23
    def guide(y):
        numpyro.sample("mu", dist.Normal(numpyro.param("loc", start), 1.0))

    with pytest.raises(TypeError, match=r"'loc'.*write 0\.0 for 0"):
        fit(KEY, make_svi(mean_model, guide), 4, Y)


def test_a_positive_parameter_may_start_at_a_whole_number():
    """Its logarithm is what is fitted."""

    def guide(y):
        scale = numpyro.param("scale", 1, constraint=dist.constraints.positive)
        numpyro.sample("mu", dist.Normal(0, scale))

    svi = make_svi(mean_model, guide)
    theirs = svi.run(KEY, 4, Y, progress_bar=False)
    np.testing.assert_allclose(fit(KEY, svi, 4, Y).losses, theirs.losses, rtol=1e-6)


def test_labels_with_a_decimal_point_are_refused_or_right():  # 23
    def model(z):
        p = numpyro.sample("p", dist.Dirichlet(jnp.ones(3)))
        with numpyro.plate("rows", len(z)):
            numpyro.sample("z", dist.Categorical(p), obs=z)

    fits_alike(model, np.tile([0, 2, 1], 8))
    with pytest.raises((TypeError, ValueError)):
        fit(KEY, make_svi(model), 4, np.tile([0.0, 2.0, 1.0], 8))


def test_an_unmasked_site_given_by_condition_is_data():
    def model():
        mu = numpyro.sample("mu", dist.Normal(0, 5))
        numpyro.sample("y", dist.Normal(mu, 1).expand([24]))

    fits_alike(condition(model, data={"y": Y}))


# Several keys.


def wide(y):
    """Two unknowns, whose names are in another order than they are drawn in."""
    spread = numpyro.sample("spread", dist.LogNormal(0, 1))
    level = numpyro.sample("level", dist.Normal(0, 100))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(level, spread), obs=y)


class Slots:
    """An object without a dictionary of attributes."""

    __slots__ = ("auto",)

    def __init__(self, auto):
        self.auto = auto

    def guide(self, y):
        return self.auto(y)


class Parts:
    """An object that is a guide itself."""

    def __init__(self, auto):
        self.parts = {"all": [auto]}

    def __call__(self, y):
        return self.parts["all"][0](y)


class Named(dict):
    """A dictionary that is a guide itself, and keeps its parts elsewhere."""

    __slots__ = ("auto",)

    def __call__(self, y):
        return self.auto(y)


def named(auto):
    """Return such a dictionary."""
    held = Named(other=1)
    held.auto = auto
    return held


def in_a_module(auto):
    """Return a guide that finds the autoguide in a module, in a function of its own."""
    module = types.ModuleType("guides")
    module.auto = auto
    return lambda y: next(module.auto(part) for part in [y])


@pytest.mark.parametrize(
    "kind", [AutoNormal, AutoDiagonalNormal, AutoMultivariateNormal]
)
@pytest.mark.parametrize(
    "called",
    [
        lambda auto: auto,
        lambda auto: lambda y: auto(y),
        lambda auto: lambda y, held=auto: held(y),
        lambda auto: Slots(auto).guide,
        lambda auto: Parts(auto),
        lambda auto: named(auto),
        lambda auto: in_a_module(auto),
    ],
    ids=["autoguide", "function", "default", "method", "object", "dict", "module"],
)
def test_each_run_starts_as_it_would_alone(kind, called):
    def svi():
        return make_svi(wide, called(kind(wide)))

    keys = jax.random.split(KEY, 3)
    runs = fit(keys, svi(), 5, Y)
    for i, key in enumerate(keys):
        alone = svi().run(key, 5, Y, progress_bar=False)
        np.testing.assert_allclose(runs.losses[i], alone.losses, rtol=1e-4)
        for name, value in alone.params.items():
            np.testing.assert_allclose(runs.params[name][i], value, rtol=1e-3)


def test_a_guide_is_as_before_after_several_runs():
    guide = AutoDiagonalNormal(wide)
    runs = fit(jax.random.split(KEY, 3), make_svi(wide, guide), 5, Y)
    assert type(guide) is AutoDiagonalNormal
    one = jax.tree.map(lambda value: value[1], runs.params)
    median = guide.median(one)
    assert median["level"] == one["auto_loc"][1]


def test_parameters_of_several_runs_are_not_those_of_one():
    guide = AutoNormal(wide)
    runs = fit(jax.random.split(KEY, 24), make_svi(wide, guide), 5, Y)
    message = "those of one run, got those of 24 runs"
    with pytest.raises(ValueError, match=message):
        predict(KEY, wide, guide, runs.params, 5, Y)
    with pytest.raises(ValueError, match=message):
        log_weights(KEY, wide, guide, runs.params, Y, num_draws=100)
    one = jax.tree.map(lambda value: value[0], runs.params)
    assert predict(KEY, wide, guide, one, 5, Y)["y"].shape == (5, 24)


def test_a_guide_may_name_its_parameters_alone():
    def bare(y):
        at = numpyro.param("at")
        numpyro.sample("spread", dist.LogNormal(0, 1))
        numpyro.sample("level", dist.Normal(at, 1))

    params = {"at": jnp.float32(1)}
    assert predict(KEY, wide, bare, params, 5, Y)["y"].shape == (5, 24)
    assert log_weights(KEY, wide, bare, params, Y, num_draws=100).shape == (100,)


def test_a_state_to_start_from_has_as_many_runs_as_keys():
    svi = make_svi(wide)
    keys = jax.random.split(KEY, 2)
    one, two = fit(KEY, svi, 2, Y).state, fit(keys, svi, 2, Y).state
    with pytest.raises(ValueError, match="init_state: expected as many runs"):
        fit(keys, svi, 2, Y, init_state=one)
    with pytest.raises(ValueError, match="init_state: expected as many runs"):
        fit(KEY, svi, 2, Y, init_state=two)


# Rows.


@pytest.mark.parametrize("size", [2, 3, 4, 5, 13, 23])
def test_rows_in_no_plate_that_depend_on_each_other(size):
    def centered(x, y):
        w = numpyro.sample("w", dist.Normal(0, 5))
        with scale(scale=24 / len(y)):
            numpyro.sample("y", dist.Normal(w * (x - x.mean()), 1), obs=y)

    def fine(x, y):
        w = numpyro.sample("w", dist.Normal(0, 5))
        with scale(scale=24 / len(y)):
            numpyro.sample("y", dist.Normal(w * x, 1), obs=y)

    assert fit(KEY, make_svi(fine), 2, X, Y, batch_size=size).steps == 2
    with pytest.raises(ValueError, match="rows that do not depend on each other"):
        fit(KEY, make_svi(centered), 2, X, Y, batch_size=size)


@pytest.mark.parametrize("rows", [1, 5, 23, 24, 100])
def test_batches_of_rows_of_a_plate_with_the_size_of_the_table(rows):
    def sized(x, y=None):
        w = numpyro.sample("w", dist.Normal(0, 1))
        with numpyro.plate("rows", 24, subsample_size=len(x)):
            numpyro.sample("y", dist.Normal(w * x, 1), obs=y)

    guide = AutoNormal(sized)
    params = fit(KEY, make_svi(sized, guide), 2, X, Y, batch_size=10).params
    found = predict(KEY, sized, guide, params, 3, X, row_batch=rows)
    assert found["y"].shape == (3, 24)


def test_names_as_arguments(tmp_path):
    def by_name(names, y):
        effect = numpyro.sample("effect", dist.Normal(0, 1).expand([3]))
        number = np.unique(names, return_inverse=True)[1]
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.Normal(effect[number], 1), obs=y)

    for names in (np.array(GROUPS.astype(str), object), GROUPS.astype(str)):
        path = tmp_path / f"{names.dtype.kind}.npz"
        first = fit(KEY, make_svi(by_name), 4, names, Y, checkpoint=path)
        again = fit(KEY, make_svi(by_name), 4, names, Y, checkpoint=path)
        np.testing.assert_array_equal(first.losses, again.losses)
        with pytest.raises(ValueError, match="checkpoint"):
            fit(KEY, make_svi(by_name), 4, names[::-1], Y, checkpoint=path)
        with pytest.raises(TypeError, match="names: expected numbers"):
            fit(KEY, make_svi(by_name), 4, names, Y, batch_size=6)


def of_table(compute, with_local=False):
    """A model of a table, whose mean `compute` makes of rows; perhaps with locals."""

    def model(x, y=None):
        a = numpyro.sample("a", dist.Normal(0, 1))
        with numpyro.plate("rows", 24, subsample_size=len(x)):
            mean = a * compute(x)
            if with_local:
                mean = numpyro.sample("z", dist.Normal(mean, 1))
            numpyro.sample("y", dist.Normal(mean, 1), obs=y)

    return model


@pytest.mark.parametrize(
    "compute",
    [
        lambda x: jnp.clip(x, -3, 1.5 * jnp.abs(x).mean()),
        lambda x: x / x.max(),
        lambda x: jnp.where((x > 20).any(), x, 1.0),
    ],
    ids=["outliers", "largest", "flag"],
)
def test_rows_that_depend_on_a_rare_row_are_refused(compute):
    x = X.copy()
    x[-1] = 30  # in none of the first batches, perhaps
    for size in (4, 6):
        with pytest.raises(ValueError, match="do not depend on each other"):
            fit(KEY, make_svi(of_table(compute)), 4, x, Y, batch_size=size)
    for table in (x, jnp.asarray(x)):
        fit(KEY, make_svi(of_table(jnp.tanh)), 4, table, Y, batch_size=4)


@pytest.mark.parametrize("size", [5, 6])
def test_local_unknowns_of_a_guide_that_depend_on_other_rows_are_refused(size):
    def guide_of(center):
        def guide(x, y=None):
            numpyro.sample("a", dist.Normal(numpyro.param("loc", 0.5), 0.1))
            slope = numpyro.param("slope", 0.5)
            with numpyro.plate("rows", 24, subsample_size=len(x)):
                numpyro.sample("z", dist.Normal(slope * (x - center(x)), 1))

        return guide

    model = of_table(lambda x: x, with_local=True)
    with pytest.raises(ValueError, match="guide: expected rows that do not depend"):
        fit(KEY, make_svi(model, guide_of(jnp.mean)), 4, X, Y, batch_size=size)
    fit(KEY, make_svi(model, guide_of(lambda x: 5.0)), 4, X, Y, batch_size=size)


def test_global_weights_inside_the_plate_of_a_guide_pass():
    def guide_of(events):
        def guide(x, y=None):
            numpyro.sample("a", dist.Normal(numpyro.param("loc", 0.5), 0.1))
            with numpyro.plate("rows", 24, subsample_size=len(x)):
                weights = numpyro.param("w", jnp.ones(24), event_dim=events)
                mean = weights.sum() * x if events else weights * x
                numpyro.sample("z", dist.Normal(mean, 1))

        return guide

    model = of_table(lambda x: x, with_local=True)
    fit(KEY, make_svi(model, guide_of(1)), 4, X, Y, batch_size=6)
    with pytest.raises(ValueError, match="an entry for each row"):
        fit(KEY, make_svi(model, guide_of(0)), 4, X, Y, batch_size=6)


def test_masked_arrays_of_numpy_are_refused():
    hidden = np.ma.masked_array(Y, mask=Y > 1)
    model = of_table(lambda x: x)
    some = [{"x": X[i : i + 6], "y": hidden[i : i + 6]} for i in (0, 6)]
    for data, options in (
        ((X, hidden), {"batch_size": 6}),
        ((), {"batches": some, "num_rows": 24}),
    ):
        with pytest.raises((TypeError, ValueError), match="masked array of NumPy"):
            fit(KEY, make_svi(model), 2, *data, **options)
    svi = make_svi(model)
    params = fit(KEY, svi, 2, X, Y).params
    masked = np.ma.masked_array(X, mask=X > 5)
    with pytest.raises(TypeError, match="x: expected an array without a mask"):
        predict(KEY, model, svi.guide, params, 3, masked, row_batch=7)


def test_several_runs_start_as_a_class_of_ones_own_starts_them():  # of SVI
    class Shifted(SVI):
        def init(self, *args, **kwargs):
            state = super().init(*args, **kwargs)
            start = self.optim.get_params(state.optim_state)
            moved = jax.tree.map(lambda value: value + 1.0, start)
            return state._replace(optim_state=self.optim.init(moved))

    def svi():
        model = of_table(lambda x: x)
        return Shifted(model, AutoNormal(model), optax.adam(0.1), Trace_ELBO())

    keys = jax.random.split(KEY, 2)
    both = fit(keys, svi(), 3, X, Y).losses
    for key, losses in zip(keys, both, strict=True):
        alone = svi().run(key, 3, X, Y, progress_bar=False).losses
        np.testing.assert_allclose(losses, alone, rtol=1e-5)


def test_several_keys_of_another_generator_give_a_warning():
    keys = jax.random.split(jax.random.key(1, impl="rbg"), 2)
    with pytest.warns(UserWarning, match="rng_key: several runs by keys of rbg"):
        fit(keys, make_svi(of_table(lambda x: x)), 2, X, Y)


def test_an_unknown_that_a_guide_computes_is_given_to_the_model():
    def model(x):
        mu = numpyro.sample("mu", dist.Normal(0, 1))
        with numpyro.plate("rows", len(x)):
            numpyro.sample("y", dist.Normal(mu + 0 * x, 0.01))

    def guide(x):
        numpyro.sample("u", dist.Normal(0, 1))
        numpyro.deterministic("mu", numpyro.param("loc", 5.0))

    params = {"loc": jnp.array(5.0)}
    for options in ({}, {"row_batch": 7}):
        found = predict(KEY, model, guide, params, 4, X, **options)["y"]
        assert np.abs(found - 5).max() < 0.1


def test_values_outside_of_a_support_pass_where_a_model_says_so():
    labels = RNG.uniform(size=24).astype("float32")

    def model_of(distribution, events=0, **options):
        def model(y):
            a = numpyro.sample("a", dist.Normal(0, 1))
            with numpyro.plate("rows", 24 if not events else 1):
                fn = distribution(a, **options)
                fn = fn.expand([24]).to_event(1) if events else fn
                numpyro.sample("y", fn, obs=y if not events else y[None])

        return model

    for events in (0, 1):
        soft = model_of(dist.BernoulliLogits, events, validate_args=False)
        run = make_svi(soft).run(KEY, 3, labels, progress_bar=False)
        found = fit(KEY, make_svi(soft), 3, labels)
        np.testing.assert_allclose(found.losses, run.losses, rtol=1e-5)
        with pytest.raises(ValueError, match=r"BernoulliLogits cannot give.*Classes"):
            fit(KEY, make_svi(model_of(dist.BernoulliLogits, events)), 3, labels)
    waits = labels.copy()
    waits[3] = -1
    wrong = model_of(lambda a: dist.Exponential(jnp.exp(a)))
    with pytest.raises(ValueError, match=r"support .*\)\. Where they are meant"):
        fit(KEY, make_svi(wrong), 3, waits)


def test_fit_runs_where_jax_looks_for_nan():
    svi = make_svi(of_table(lambda x: x))
    keys = jax.random.split(KEY, 2)
    with jax.debug_nans(True):
        found = fit(KEY, svi, 3, X, Y)
        both = fit(keys, svi, 3, X, Y)
    assert np.isfinite(found.losses).all()
    assert np.isfinite(both.losses).all()


def test_a_model_keyword_named_sites_is_named():
    def model(sites):
        a = numpyro.sample("a", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(a, 1).expand([len(sites)]))

    guide = AutoNormal(model)
    params = fit(KEY, make_svi(model, guide), 2, X).params
    with pytest.raises(TypeError, match=r"bind.*functools.partial\(model, sites="):
        predict(KEY, model, guide, params, 3, sites=X)


def test_a_model_that_gives_nothing_to_predict_is_named():
    def model():
        numpyro.factor("f", -(numpyro.sample("a", dist.Normal(0, 1)) ** 2))

    guide = AutoNormal(model)
    params = fit(KEY, make_svi(model, guide), 2).params
    with pytest.raises(ValueError, match="name unknowns of the guide"):
        predict(KEY, model, guide, params, 3)
    assert predict(KEY, model, guide, params, 3, sites=["a"])["a"].shape == (3,)


def test_numbers_of_more_than_64_bits_are_named():
    wide = Y.astype(np.longdouble)
    with pytest.raises(TypeError, match="y: expected numbers of at most 64 bits"):
        fit(KEY, make_svi(of_table(lambda x: x)), 2, X, wide, batch_size=6)


def test_columns_of_a_data_frame_are_named():
    frame = pd.DataFrame({"x": X, "y": Y})
    model = of_table(lambda x: x)
    with pytest.raises(
        TypeError, match=r"x: expected an array, got Series; \.to_numpy"
    ):
        fit(KEY, make_svi(model), 2, frame["x"], frame["y"])
    svi = make_svi(model)
    params = fit(KEY, svi, 2, X, Y).params
    with pytest.raises(Exception) as caught:  # noqa: PT011
        predict(KEY, model, svi.guide, params, 3, frame["x"])
    assert "x: expected an array, got Series" in "".join(caught.value.__notes__)


def test_parameters_of_several_runs_are_named_where_shapes_do_not_fit():
    model = of_table(lambda x: x)
    svi = make_svi(model)
    params = fit(jax.random.split(KEY, 3), svi, 2, X, Y).params
    for call in (
        lambda: predict(KEY, model, svi.guide, params, 3, X),
        lambda: predict(KEY, model, svi.guide, params, 3, X, row_batch=7),
        lambda: log_weights(KEY, model, svi.guide, params, X, Y, num_draws=100),
    ):
        with pytest.raises((TypeError, ValueError)) as caught:
            call()
        shown = "\n".join([str(caught.value), *getattr(caught.value, "__notes__", [])])
        assert "jax.tree.map(lambda v: v[0], params)" in shown


def test_a_model_in_the_coordinates_of_a_guide_starts_many_runs():
    """The guide that `NeuTraReparam` reads is no guide of the fit."""
    laplace = AutoLaplaceApproximation(wide)
    laplace_params = fit(KEY, make_svi(wide, laplace), 50, Y).params
    white = NeuTraReparam(laplace, laplace_params).reparam(wide)
    svi = make_svi(white, AutoNormal(white))
    keys = jax.random.split(KEY, 3)
    runs = fit(keys, svi, 5, Y)
    for i, key in enumerate(keys):
        alone = fit(key, make_svi(white, AutoNormal(white)), 5, Y)
        np.testing.assert_allclose(runs.losses[i], alone.losses, rtol=1e-4)
    assert laplace.prototype_trace is not None
