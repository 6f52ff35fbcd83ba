"""The report: what it calls good, what it calls off, and what it cannot tell."""

import re

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from flax import nnx
from numpyro.contrib.module import nnx_module, random_nnx_module
from numpyro.handlers import mask
from numpyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO
from numpyro.infer.autoguide import AutoDelta, AutoMultivariateNormal, AutoNormal

from helpers.diagnostics import importance_summary, log_weights, report

KEY = jax.random.key(5)
POSITIVE = dist.constraints.positive
RNG = np.random.default_rng(0)
Y = RNG.normal(1.5, 1.0, 40).astype("float32")
J = jnp.asarray(Y)
POST_SD = (1 / 4 + len(Y)) ** -0.5
POST_MEAN = POST_SD**2 * Y.sum()


def model(y, size=None):
    mu = numpyro.sample("mu", dist.Normal(0, 2))
    numpyro.deterministic("sign", jnp.where(mu > 0, 1, -1))
    numpyro.deterministic("twice", 2 * mu)
    with numpyro.plate("rows", len(y), subsample_size=size) as rows:
        numpyro.sample("y", dist.Normal(mu, 1), obs=y[rows])


def guide(y, size=None):
    at = numpyro.param("at", 0.0)
    width = numpyro.param("width", 1.0, constraint=POSITIVE)
    numpyro.sample("mu", dist.Normal(at, width))


def of(shift=0.0, ratio=1.0):
    """Return parameters of a guide that is off by that many sds, and that much."""
    return {"at": POST_MEAN + shift * POST_SD, "width": ratio * POST_SD}


def fitted(model, kind=AutoNormal, *args, steps=5_000, loss=None):
    made = kind(model)
    rates = optax.cosine_decay_schedule(0.03, steps)
    svi = SVI(model, made, optax.adam(rates), loss or Trace_ELBO())
    result = svi.run(jax.random.key(1), steps, *args, progress_bar=False)
    return made, result.params


def test_the_exact_posterior_is_good():
    said = report(KEY, model, guide, of(), J)
    assert said.verdict == "good"
    assert said.reasons == []
    # A site that is the same at all draws is not judged.
    assert [row["site"] for row in said.sites] == ["`mu`", "`twice`"]
    for name in ("mu", "twice"):
        np.testing.assert_allclose(said.shifts[name], 0, atol=0.15)
        np.testing.assert_allclose(said.ratios[name], 1, atol=0.1)
    covariance = np.eye(len(Y)) + 4
    evidence = -0.5 * (
        Y @ np.linalg.solve(covariance, Y)
        + np.linalg.slogdet(2 * np.pi * covariance)[1]
    )
    assert said.importance.elbo == pytest.approx(evidence, abs=1e-3)


@pytest.mark.parametrize(
    ("shift", "ratio", "reason"),
    [
        (0.7, 1.0, r"mu: a mean is off by \+0\.[678]"),
        (-0.7, 1.0, r"mu: a mean is off by -0\.[678]"),
        (0.0, 0.5, "mu: an sd is 0.[45]"),
        (0.0, 1.6, "mu: an sd is 1.[56].* times the posterior's"),
    ],
)
def test_what_is_off_is_said(shift, ratio, reason):
    said = report(KEY, model, guide, of(shift, ratio), J)
    assert said.verdict == "off"
    assert any(re.match(reason, text) for text in said.reasons)
    assert said.shifts["mu"] == pytest.approx(shift, abs=0.15)
    assert said.ratios["mu"] == pytest.approx(ratio, rel=0.1)


def test_the_report_is_a_table_and_a_figure():
    said = report(KEY, model, guide, of(0.0, 0.5), J)
    text = said._repr_markdown_()
    assert text.startswith("**Verdict: off.**\n\n- mu: an sd is")
    assert "| `mu` | 1 |" in text
    assert "k-hat" in text
    _, ax = plt.subplots()
    said.plot(ax)
    drawn = np.concatenate([each.get_offsets() for each in ax.collections])
    expected = [[said.shifts[n][0], said.ratios[n][0]] for n in ("mu", "twice")]
    np.testing.assert_allclose(drawn, expected)
    plt.close()


def test_another_mode_is_found():
    def sign_unknown():
        w = numpyro.sample("w", dist.Normal(0, 3))
        numpyro.sample("y", dist.Normal(w**2, 0.5), obs=jnp.float32(4.0))

    def one_side():
        numpyro.sample("w", dist.Normal(numpyro.param("at", 0.0), 0.125))

    said = report(KEY, sign_unknown, one_side, {"at": 2.0})
    assert said.verdict == "off"
    assert said.reasons[0].startswith("w: another mode: chains from the prior end 3")


def many_shapes(x, y, z, seen):
    """Sites of several shapes and supports, masked rows, two outcomes."""
    scale = numpyro.sample("scale", dist.HalfNormal(1).expand([2]).to_event(1))
    share = numpyro.sample("share", dist.Dirichlet(jnp.array([3.0, 4.0, 5.0])))
    root = numpyro.sample("root", dist.LKJCholesky(2, 2.0))
    numpyro.deterministic("correlation", root @ root.T)
    with numpyro.plate("columns", 2):
        w = numpyro.sample("w", dist.Normal(0, 1))
    with numpyro.plate("rows", len(y)):
        with mask(mask=seen):
            numpyro.sample("y", dist.Normal(x @ w, scale[0]), obs=y)
        numpyro.sample("z", dist.Normal(y * share[0], scale[1]), obs=z)


def test_sites_of_any_shape_and_support():
    x = RNG.normal(size=(50, 2)).astype("float32")
    y = (x @ [1.0, -1.0] + RNG.normal(size=50)).astype("float32")
    z = (y / 4 + RNG.normal(size=50)).astype("float32")
    args = x, y, z, np.arange(50) % 2 == 0
    made, params = fitted(many_shapes, AutoMultivariateNormal, *args)
    said = report(KEY, many_shapes, made, params, *args)
    numbers = {row["site"].strip("`"): row["numbers"] for row in said.sites}
    assert numbers["correlation"] == 2  # without the ones on the diagonal
    assert numbers["root"] == 2  # without the zero, and the one in the corner
    assert numbers["share"] == 3
    assert numbers["w"] == numbers["scale"] == 2
    for name in ("w", "share", "scale"):
        assert np.abs(said.shifts[name]).max() < 0.3
        np.testing.assert_allclose(said.ratios[name], 1, atol=0.25)


def test_subsampled_plates_take_all_rows():
    whole = report(KEY, model, guide, of(0.0, 0.5), J)
    part = report(KEY, model, guide, of(0.0, 0.5), J, size=5)
    assert part.ratios["mu"] == pytest.approx(whole.ratios["mu"], rel=1e-3)
    weights = [
        log_weights(KEY, model, guide, of(), J, num_draws=100, size=size)
        for size in (None, 5)
    ]
    np.testing.assert_allclose(*weights, rtol=1e-5)


class Net(nnx.Module):
    """A layer with dropout, if wanted."""

    def __init__(self, rate=0.0, *, rngs):
        self.layer = nnx.Linear(2, 1, rngs=rngs)
        self.dropout = nnx.Dropout(rate, rngs=rngs)
        self.rate = rate

    def __call__(self, x):
        out = self.layer(x)[..., 0]
        return self.dropout(out) if self.rate else out


def test_modules_of_nnx():
    x = RNG.normal(size=(60, 2)).astype("float32")
    y = (x @ [1.0, -1.0] + 0.3 * RNG.normal(size=60)).astype("float32")

    def bayesian(x, y):
        net = Net(rngs=nnx.Rngs(0))
        net = random_nnx_module("net", net, prior=lambda *_: dist.Normal(0, 1))
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.Normal(net(x), 0.3), obs=y)

    made, params = fitted(bayesian, AutoMultivariateNormal, x, y)
    said = report(KEY, bayesian, made, params, x, y)
    assert said.verdict == "good", said.reasons
    assert sum(row["numbers"] for row in said.sites) == 3


def test_what_it_cannot_tell():
    def said_of(model, kind=AutoNormal, **options):
        made, params = fitted(model, kind, steps=10, **options)
        return said_about(model, made, params)

    def said_about(model, guide, params):
        said = report(KEY, model, guide, params)
        assert said.verdict == "cannot tell"
        (reason,) = said.reasons
        return reason

    def simple():
        numpyro.sample("x", dist.Normal(0, 1))

    def with_class():
        x = numpyro.sample("x", dist.Normal(0, 1))
        which = numpyro.sample(
            "which", dist.Bernoulli(0.5), infer={"enumerate": "parallel"}
        )
        numpyro.sample("y", dist.Normal(x + which, 1), obs=0.5)

    def with_dropout():
        w = numpyro.sample("w", dist.Normal(0, 1))
        net = nnx_module("net", Net(0.5, rngs=nnx.Rngs(0)))
        numpyro.sample("y", dist.Normal(net(jnp.ones((4, 2))) + w, 1), obs=jnp.ones(4))

    def with_nothing_finite():
        x = numpyro.sample("x", dist.Normal(0, 1))
        numpyro.deterministic("log", jnp.log(x))

    def rough():
        x = numpyro.sample("x", dist.Normal(0, 1))
        numpyro.factor("rough", 30 * jnp.sin(1e5 * x))

    assert "points at ['x']" in said_of(simple, AutoDelta)
    loss = TraceEnum_ELBO()
    assert "got none for ['which']" in said_of(with_class, loss=loss, kind=hidden)
    assert "dropout" in said_of(with_dropout)
    said = said_about(with_nothing_finite, simple, {})
    assert said == "log: some of its numbers are not finite"
    assert said_about(rough, simple, {}) == "x: the chains hardly moved"


def hidden(model):
    """Return a guide for the continuous unknown."""
    return AutoNormal(numpyro.handlers.block(model, hide=["which"]))


def test_whole_numbers_that_a_guide_draws():
    def counted():
        numpyro.sample("n", dist.Poisson(3.0))

    said = report(KEY, counted, counted, {})
    assert said.verdict == "cannot tell"
    assert said.reasons == [
        "model: ['n'] are whole numbers, which gradients do not move"
    ]
    assert said.importance.elbo == 0


def test_too_little_time():
    y = jnp.repeat(J, 1_000)
    said = report(KEY, model, guide, of(), y, num_draws=100, max_seconds=0.01)
    assert said.verdict == "cannot tell"
    assert "max_seconds is 0.01" in said.reasons[0]
    assert "NUTS on a subset" in said.reasons[0]
    assert said.importance.num_draws == 100


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"rng_key": 0}, TypeError, "rng_key: expected .*key"),
        ({"params": [1.0]}, TypeError, "params: expected a dict, got list"),
        ({"params": {"at": 1.0}}, ValueError, r"params: expected \['width'\] too"),
        ({"num_draws": 99}, ValueError, "num_draws: expected at least 100, got 99"),
        ({"max_seconds": 0}, ValueError, "max_seconds: expected .*, got 0"),
    ],
)
def test_bad_input_to_report(change, error, message):
    options = {"rng_key": KEY, "params": of()} | change
    first = options.pop("rng_key"), model, guide, options.pop("params")
    with pytest.raises(error, match=message):
        report(*first, J, **options)


def test_what_has_no_chance():
    def bounded():
        x = numpyro.sample("x", dist.Normal(0, 1))
        numpyro.sample("y", dist.Uniform(x, 10), obs=jnp.float32(0.5))

    def wide():
        numpyro.sample("x", dist.Normal(0, 1))

    said = report(KEY, bounded, wide, {})
    assert said.verdict == "off"
    assert "have probability 0" in said.reasons[0]


def test_khat_is_that_of_the_weights():
    said = report(KEY, model, guide, of(0.0, 0.6), J)
    weights = log_weights(KEY, model, guide, of(0.0, 0.6), J, num_draws=20_000)
    assert said.importance.khat == pytest.approx(
        importance_summary(weights).khat, abs=0.25
    )
