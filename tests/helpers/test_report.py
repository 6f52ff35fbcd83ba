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
from numpyro.contrib.control_flow import scan
from numpyro.contrib.module import nnx_module, random_nnx_module
from numpyro.handlers import block, mask, reparam, scale
from numpyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO
from numpyro.infer.autoguide import AutoDelta, AutoMultivariateNormal, AutoNormal
from numpyro.infer.reparam import CircularReparam

from fitting import posteriors
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


@pytest.mark.parametrize(
    ("shift", "ratio", "reason"),
    [
        (0.45, 1.0, r"mu: a mean is off by \+0\.4.* sds, which is not certain"),
        (0.0, 1.34, r"mu: an sd is 1\.3.* times the posterior's, which is not certain"),
    ],
)
def test_what_is_at_the_edge_is_neither_good_nor_off(shift, ratio, reason):
    said = report(jax.random.key(0), model, guide, of(shift, ratio), J)
    assert said.verdict == "cannot tell"
    assert any(re.match(reason, text) for text in said.reasons), said.reasons


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

    said = [
        report(key, sign_unknown, one_side, {"at": 2.0})
        for key in jax.random.split(jax.random.key(6), 3)
    ]
    verdicts = [each.verdict for each in said]
    assert "good" not in verdicts
    expected = r"w: another mode: chains from the prior end \d+ sds away"
    found = [bool(re.match(expected, each.reasons[0])) for each in said]
    assert sum(found) >= 2


def test_the_width_of_a_guide_with_heavy_tails():
    """The sd of a log-normal guide is 1.8 times that of the gamma distribution."""

    def gamma():
        numpyro.sample("x", dist.Gamma(0.5, 1.0))

    def log_normal():
        numpyro.sample("x", dist.LogNormal(numpyro.param("at", 0.0), 2**0.5))

    for key in jax.random.split(KEY, 3):
        said = report(key, gamma, log_normal, {"at": jnp.log(0.5) - 1})
        assert said.verdict != "good"  # its own error is large
        assert said.ratios["x"] > 1.35


def many_shapes(x, y, z, seen):
    """Sites of several shapes and supports, masked rows, two outcomes."""
    scale = numpyro.sample("scale", dist.HalfNormal(1).expand([2]).to_event(1))
    share = numpyro.sample("share", dist.Dirichlet(jnp.array([3.0, 4.0, 5.0])))
    numpyro.deterministic("odds", jnp.append(share[:2] / share[2], 1.0))
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
    assert numbers["share"] == 3
    assert numbers["odds"] == 2  # without the constant
    assert numbers["w"] == numbers["scale"] == 2
    for name in ("w", "share", "scale"):
        assert np.abs(said.shifts[name]).max() < 0.3
        np.testing.assert_allclose(said.ratios[name], 1, atol=0.25)


def test_matrices_are_read_as_numbers():
    def correlated():
        root = numpyro.sample("root", dist.LKJCholesky(2, 2.0))
        numpyro.deterministic("correlation", root @ root.T)

    target = posteriors.posterior(correlated, AutoNormal(correlated), (), {})
    assert target.of_prior(KEY).shape == (1,)
    values = {n: np.asarray(v) for n, v in target.values(jnp.zeros(1)).items()}
    np.testing.assert_allclose(values["root"], [1, 0, 0, 1], atol=1e-6)
    np.testing.assert_allclose(values["correlation"], [1, 0, 0, 1], atol=1e-6)


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
    assert said == "log: some of its numbers are not always finite"
    assert said_about(rough, simple, {}) == "x: the chains hardly moved"


def hidden(model):
    """Return a guide for the continuous unknown."""
    return AutoNormal(block(model, hide=["which"]))


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
    said = report(KEY, model, guide, of(), y, num_draws=100, max_seconds=0.3)
    assert said.verdict == "cannot tell"
    assert "short chains need" in said.reasons[0]
    assert "max_seconds is 0.3" in said.reasons[0]
    assert "NUTS on a subset" in said.reasons[0]
    assert said.importance.num_draws == 100
    said = report(KEY, model, guide, of(), y, max_seconds=1e-4)
    assert said.verdict == "cannot tell"
    assert "draws of the guide need" in said.reasons[0]
    assert said.importance is None


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


def test_a_slow_direction_of_many_unknowns_is_not_called_good():
    """All means are off by an sd, along a direction in which chains hardly move."""
    n, share = 400, 0.6
    root = np.linalg.cholesky(np.full((n, n), share) + (1 - share) * np.eye(n))

    def common():
        numpyro.sample("x", dist.MultivariateNormal(jnp.zeros(n), scale_tril=root))

    def shifted():
        at = jnp.full(n, numpyro.param("at", 0.0))
        numpyro.sample("x", dist.MultivariateNormal(at, scale_tril=root))

    def narrow():
        sd = numpyro.param("sd", 1.0)
        numpyro.sample("x", dist.Normal(0, sd).expand([n]).to_event(1))

    assert report(KEY, common, shifted, {"at": 1.0}).verdict != "good"
    assert report(KEY, common, narrow, {"sd": (1 - share) ** 0.5}).verdict != "good"


@pytest.mark.parametrize("share", [0.95, 0.999])
def test_more_unknowns_than_chains_that_correlate(share):
    """Chains that shape their own moves contract, and call a good guide too wide."""
    n = 120
    root = np.linalg.cholesky(np.full((n, n), share) + (1 - share) * np.eye(n))

    def common(sd=1.0):
        numpyro.sample("x", dist.MultivariateNormal(jnp.zeros(n), scale_tril=root * sd))

    def guide():
        common(numpyro.param("sd", 1.0))

    said = report(KEY, common, guide, {"sd": 1.0})
    assert said.verdict == "good"
    np.testing.assert_allclose(said.ratios["x"], 1, atol=0.15)
    assert report(KEY, common, guide, {"sd": 0.5}).verdict == "off"
    assert report(KEY, common, guide, {"sd": 1.7}).verdict == "off"


def test_the_neck_of_a_funnel_is_no_mode():
    """Chains from the prior climb to tau near 0: the density is high there."""
    rng = np.random.default_rng(0)
    y = 0.5 * rng.normal(size=(60, 1)) + 0.3 * rng.normal(size=(60, 6))

    def centered(y):
        tau = numpyro.sample("tau", dist.LogNormal(-3, 2))
        sd = numpyro.sample("sd", dist.LogNormal(0, 1))
        with numpyro.plate("groups", 60):
            level = numpyro.sample("level", dist.Normal(0, tau))
        numpyro.sample("y", dist.Normal(level[:, None], sd).to_event(2), obs=y)

    guide, params = fitted(centered, AutoNormal, y, loss=Trace_ELBO(num_particles=4))
    for key in jax.random.split(jax.random.key(0), 3):
        said = report(key, centered, guide, params, y)
        assert said.verdict == "good", said.reasons


def test_a_location_that_hides_its_width_is_not_passed_over():
    def stamped():
        numpyro.sample("mu", dist.Normal(0, 1))
        numpyro.sample("seconds", dist.Normal(2e5, 0.05))

    def wrong():
        numpyro.sample("mu", dist.Normal(0, 1))
        numpyro.sample("seconds", dist.Normal(numpyro.param("at", 0.0), 0.02))

    said = report(KEY, stamped, wrong, {"at": 2e5 + 0.3})
    assert said.verdict == "cannot tell"
    assert "['seconds']: values are so large" in said.reasons[0]


def test_an_improper_prior_is_a_prior():
    def flat():
        at = dist.ImproperUniform(dist.constraints.real, (), ())
        mu = numpyro.sample("mu", at)
        numpyro.sample("y", dist.Normal(mu, 1), obs=jnp.array([1.0, 2.0]))

    def exact():
        numpyro.sample("mu", dist.Normal(numpyro.param("at", 0.0), 0.5**0.5))

    assert report(KEY, flat, exact, {"at": 1.5}).verdict == "good"


def test_numbers_behind_a_mask_are_left_out():
    seen = np.arange(12) < 8
    y = RNG.normal(size=12).astype("float32")

    def padded():
        with numpyro.plate("rows", 12), mask(mask=jnp.asarray(seen)):
            z = numpyro.sample("z", dist.Normal(0, 1))
            numpyro.sample("y", dist.Normal(z, 1), obs=y)

    def exact():
        with numpyro.plate("rows", 12), mask(mask=jnp.asarray(seen)):
            scale = numpyro.param("scale", 1.0)
            numpyro.sample("z", dist.Normal(jnp.asarray(y) / 2, scale))

    said = report(KEY, padded, exact, {"scale": 0.5**0.5})
    assert said.verdict == "good"
    assert said.sites[0]["numbers"] == 8


@pytest.mark.parametrize(
    "derived",
    [lambda a, b: a > -3.3, lambda a, b: -a / b, lambda a, b: jnp.append(a, jnp.nan)],
    ids=["rare", "a ratio", "NaN for padding"],
)
def test_functions_of_the_unknowns_give_no_false_alarm(derived):
    def two():
        a = numpyro.sample("a", dist.Normal(0, 1))
        b = numpyro.sample("b", dist.Normal(1, 1))
        numpyro.deterministic("derived", derived(a, b))

    def exact():
        numpyro.sample("a", dist.Normal(0, numpyro.param("sd", 1.0)))
        numpyro.sample("b", dist.Normal(1, 1))

    assert report(KEY, two, exact, {"sd": 1.0}).verdict != "off"


def test_no_unknowns_are_nothing_to_judge():
    def known():
        numpyro.sample("y", dist.Normal(0, 1), obs=1.0)

    said = report(KEY, known, lambda: None, {})
    assert said.reasons == ["the model has no unknown numbers"]


def test_what_is_no_fit_is_named():
    with pytest.raises(TypeError, match="model: expected a NumPyro model, got None"):
        report(KEY, None, guide, of(), J)
    with pytest.raises(ValueError, match="are model and guide swapped"):
        report(KEY, guide, model, of(), J)

    def misspelt(size):
        numpyro.sample("mmu", dist.Normal(numpyro.param("loc", 0.0), 1))

    said = report(KEY, model, misspelt, {"loc": 0.0}, J)
    assert said.verdict == "cannot tell"
    assert "but ['mmu'], which the model does not have" in said.reasons[0]


def test_misspelt_and_missing_arguments_are_named():
    for call, options in ((report, "max_seconds"), (log_weights, "batch_size")):
        with pytest.raises(TypeError, match=f"num_drawz: .*{options}.*y, size"):
            call(KEY, model, guide, of(), J, num_drawz=200)
        with pytest.raises(TypeError, match=r"model: .*missing .*'y'.* as in the fit"):
            call(KEY, model, guide, of())

    def of_any(y, **options):
        model(y)

    def its_guide(y, **options):
        guide(y)

    assert log_weights(KEY, of_any, its_guide, of(), J, num_drawz=200).size == 20_000


def test_angles_are_not_judged_by_means_and_sds():
    def turned():
        numpyro.sample("angle", dist.VonMises(jnp.pi, 4.0))
        numpyro.sample("mu", dist.Normal(0, 1))

    def exact():
        numpyro.sample("angle", dist.VonMises(numpyro.param("at", 0.0), 4.0))
        numpyro.sample("mu", dist.Normal(0, 1))

    said = report(KEY, turned, exact, {"at": jnp.pi})
    assert said.verdict == "cannot tell"
    assert said.reasons == ["angle: means and sds say nothing about angles, which wrap"]
    assert list(said.shifts) == ["mu"]

    unwrapped = reparam(turned, config={"angle": CircularReparam()})
    target = posteriors.posterior(unwrapped, AutoNormal(unwrapped), (), {})
    assert target.circular == ["angle_unwrapped", "angle"]


def test_a_hidden_site_is_noise_only_where_the_density_needs_it():
    def hidden():
        mu = numpyro.sample("mu", dist.Normal(0, 2))
        numpyro.sample("y", dist.Normal(mu, 1).expand([len(Y)]).to_event(1), obs=J)
        with block():
            return numpyro.sample("new", dist.Normal(mu, 1))

    def noisy():
        numpyro.factor("random", hidden())

    def its_guide():
        guide(J)

    assert report(KEY, hidden, its_guide, of()).verdict == "good"
    said = report(KEY, noisy, its_guide, of())
    assert "noise of its own" in said.reasons[0]


def test_nan_in_the_data_is_not_blamed_on_the_parameters():
    x = RNG.normal(size=40).astype("float32")
    x[3] = np.nan

    def line(x, y):
        numpyro.sample("y", dist.Normal(numpyro.sample("mu", dist.Normal()) * x), obs=y)

    def its_guide(x, y):
        guide(y)

    for call in (report, log_weights):
        with pytest.raises(ValueError, match=r"^x has 1 NaN .*\(3,\), and 200"):
            call(KEY, line, its_guide, of(), x, J, num_draws=200)


def test_an_unknown_with_a_scaled_density_keeps_its_jacobian():
    def annealed():
        with scale(scale=0.2):
            numpyro.sample("rate", dist.Gamma(6, 1))

    def exact():  # its log weights are all equal
        numpyro.sample("rate", dist.Gamma(numpyro.param("shape", 1.0), 0.2))

    def without():
        numpyro.sample("rate", dist.Gamma(numpyro.param("shape", 1.0), 0.2))

    said = report(KEY, annealed, exact, {"shape": 2.0})
    assert said.importance.relative_ess == pytest.approx(1, abs=1e-3)
    assert said.verdict == "good", said.reasons
    assert report(KEY, annealed, without, {"shape": 1.2}).verdict == "off"


def test_a_scaled_guide_is_refused():
    scaled = [scale(fn, scale=1 / len(Y)) for fn in (model, guide)]
    message = r"guide: expected densities as they are, got scaled ones at \['mu'\]"
    with pytest.raises(ValueError, match=message):
        log_weights(KEY, *scaled, of(), J)
    said = report(KEY, *scaled, of(), J)
    assert said.verdict == "cannot tell"
    assert re.match(message, said.reasons[0])
    assert log_weights(KEY, scaled[0], guide, of(), J, num_draws=100).size == 100


def test_what_a_guide_draws_beyond_the_unknowns_leaves_no_evidence():
    def extended(y):
        u = numpyro.sample("u", dist.Uniform(0, 10), infer={"is_auxiliary": True})
        numpyro.sample("mu", dist.Normal(numpyro.param("at", 0.0) + 0 * u, POST_SD))

    def with_a_function(y):
        guide(y)
        numpyro.sample("twice", dist.Normal(0, 1))

    message = r"guide: it draws \['u'\], which the model does not draw"
    with pytest.raises(ValueError, match=message):
        log_weights(KEY, model, extended, {"at": POST_MEAN}, J)
    with pytest.raises(ValueError, match=r"guide: it draws \['twice'\]"):
        log_weights(KEY, model, with_a_function, of(), J)
    for shift, verdict in ((0, "good"), (1, "off")):
        at = {"at": POST_MEAN + shift * POST_SD}
        said = report(KEY, model, extended, at, J)
        assert said.verdict == verdict
        assert said.importance is None
        assert re.search(message, said._repr_markdown_())


def test_a_guide_may_compute_unknowns_from_what_it_draws():
    def turned(y):
        at, width = numpyro.param("at", 0.0), numpyro.param("width", 1.0)
        u = numpyro.sample("u", dist.Normal(0, 1), infer={"is_auxiliary": True})
        numpyro.sample("mu", dist.Delta(at + width * u, -jnp.log(width)))

    weights = [
        log_weights(KEY, model, fn, of(), J, num_draws=100) for fn in (guide, turned)
    ]
    np.testing.assert_allclose(*weights, rtol=1e-4)


def test_unknowns_that_a_mask_hides_leave_no_evidence():
    def with_new(y):
        model(y)
        with mask(mask=False):
            numpyro.sample("new", dist.Normal(0, 1))

    def draws_new(y):
        guide(y)
        numpyro.sample("new", dist.Normal(0, 5))

    weights = log_weights(KEY, with_new, guide, of(), J, num_draws=100)
    expected = log_weights(KEY, model, guide, of(), J, num_draws=100)
    np.testing.assert_allclose(weights, expected, rtol=1e-4)
    assert report(KEY, with_new, guide, of(), J).verdict == "good"
    with pytest.raises(ValueError, match=r"a mask hides numbers of \['new'\]"):
        log_weights(KEY, with_new, draws_new, of(), J)
    said = report(KEY, with_new, draws_new, of(), J)
    assert said.verdict == "good"
    assert said.importance is None
    assert list(said.shifts) == ["mu", "twice"]


@pytest.mark.parametrize("rows", [1, 10])
def test_a_batch_of_rows_is_not_all_of_them(rows):
    def batched(y):
        mu = numpyro.sample("mu", dist.Normal(0, 2))
        with numpyro.plate("rows", len(Y), subsample_size=len(y)):
            numpyro.sample("y", dist.Normal(mu, 1), obs=y)

    for call in (report, log_weights):
        with pytest.raises(ValueError, match=r"all rows .* \(40 of 'rows'\), got some"):
            call(KEY, batched, guide, of(), J[:rows])
    found = log_weights(KEY, batched, guide, of(), J, num_draws=100)
    np.testing.assert_allclose(
        found, log_weights(KEY, model, guide, of(), J, num_draws=100), rtol=1e-4
    )


def test_unknowns_of_a_series_are_judged():
    noise = 0.5

    def walk(y):
        def step(before, seen):
            level = numpyro.sample("level", dist.Normal(before, 1))
            numpyro.sample("y", dist.Normal(level, noise), obs=seen)
            return level, None

        scan(step, 0.0, y)

    y = np.array([0.5, -1.0, 2.0, 1.0], "float32")
    ends = np.diag([2.0, 2.0, 2.0, 1.0]) - np.eye(4, k=1) - np.eye(4, k=-1)
    covariance = np.linalg.inv(ends + np.eye(4) / noise**2)
    mean, sds = covariance @ y / noise**2, np.sqrt(np.diag(covariance))

    def its_guide(y):
        at = numpyro.param("at", jnp.zeros(4))
        numpyro.sample("level", dist.Normal(at, sds).to_event(1))

    assert report(KEY, walk, its_guide, {"at": mean}, y).verdict == "good"
    said = report(KEY, walk, its_guide, {"at": mean + np.eye(4)[2] * sds}, y)
    assert said.verdict == "off"
    np.testing.assert_allclose(said.shifts["level"], [0, 0, 1, 0], atol=0.3)
