"""The model of shops and weeks of notebook 07, and its guides, for the benchmarks.

The notebook writes the same lines out, because it teaches them. A test fails if the two
differ.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.infer.autoguide import AutoGuideList, AutoMultivariateNormal, AutoNormal
from numpyro.infer.reparam import LocScaleReparam

from helpers.datasets import shop_sales
from helpers.panels import to_panel

GLOBALS = ["mu", "sigma", "beta", "tau", "season", "phi"]
CENTERED = {"level": 1.0, "slope": 1.0}
NON_CENTERED = {"level": 0.0, "slope": 0.0}


def make_data(seed: int, shops: int, weeks: int, rows: int | None = None) -> tuple:
    """Return promotion, whether open, sales, and the truth; `rows` a shop, or all."""
    frame, truth = shop_sales(np.random.default_rng(seed), shops, weeks)
    if rows is not None:
        frame = frame.groupby("shop").sample(rows, random_state=seed)
    panel = to_panel(frame, "shop", "week", ["promotion", "sales"])
    return panel.values["promotion"], panel.seen, panel.values["sales"], truth


def draw_globals():
    """Draw what all shops share."""
    return {
        "mu": numpyro.sample("mu", dist.Normal(1, 1)),
        "sigma": numpyro.sample("sigma", dist.HalfNormal(1)),
        "beta": numpyro.sample("beta", dist.Normal(0, 0.5)),
        "tau": numpyro.sample("tau", dist.HalfNormal(0.5)),
        "season": numpyro.sample("season", dist.Normal(0, 0.5).expand([2]).to_event(1)),
        "phi": numpyro.sample("phi", dist.LogNormal(1.5, 1)),
    }


def wave(weeks):
    """Sine and cosine of the season, shape (2, weeks)."""
    turn = 2 * jnp.pi * jnp.arange(weeks) / 52
    return jnp.stack([jnp.sin(turn), jnp.cos(turn)])


def model(
    promotion, is_open, sales=None, shop=None, num_shops=None, centering=CENTERED
):
    """Levels and slopes of shops, weekly counts; `shop` says which are here."""
    shops, weeks = promotion.shape
    g = draw_globals()
    as_told = {name: LocScaleReparam(share) for name, share in centering.items()}
    with numpyro.plate("shops", num_shops or shops, subsample_size=shops, dim=-2):
        with handlers.reparam(config=as_told):
            level = numpyro.sample("level", dist.Normal(g["mu"], g["sigma"]))
            slope = numpyro.sample("slope", dist.Normal(g["beta"], g["tau"]))
        with numpyro.plate("weeks", weeks, dim=-1), handlers.mask(mask=is_open):
            mean = jnp.exp(level + slope * promotion + g["season"] @ wave(weeks))
            numpyro.sample("sales", dist.NegativeBinomial2(mean, g["phi"]), obs=sales)


def table_guide(num_shops: int) -> tuple[Callable, AutoNormal]:
    """Return a guide with a table of locals, and the part of it for the globals."""
    of_globals = AutoNormal(handlers.block(model, hide=["level", "slope", "sales"]))

    def guide(promotion, is_open, sales=None, shop=None, num_shops=num_shops):
        of_globals(promotion, is_open, sales, shop, num_shops)
        here = len(promotion)
        with numpyro.plate("shops", num_shops, subsample_size=here, dim=-2):
            for name in ("level", "slope"):
                loc = numpyro.param(f"{name}_loc", jnp.zeros((num_shops, 1)))
                scale = numpyro.param(
                    f"{name}_scale",
                    jnp.full((num_shops, 1), 0.1),
                    constraint=dist.constraints.positive,
                )
                numpyro.sample(name, dist.Normal(loc[shop], scale[shop]))

    return guide, of_globals


def encoder_guide(summaries: jax.Array) -> tuple[Callable, AutoNormal]:
    """Return a guide that computes locals from summaries of each shop, by a network."""
    total = len(summaries)
    of_globals = AutoNormal(handlers.block(model, hide=["level", "slope", "sales"]))
    width = (summaries.shape[1], 16, 4)
    keys = jax.random.split(jax.random.key(0), 2)

    def guide(promotion, is_open, sales=None, shop=None, num_shops=total):
        of_globals(promotion, is_open, sales, shop, num_shops)
        here, hidden = len(promotion), summaries[shop]
        for layer, key in enumerate(keys):
            start = jax.random.normal(key, width[layer : layer + 2])
            start = start / jnp.sqrt(width[layer])
            kernel = numpyro.param(f"kernel_{layer}", start)
            bias = numpyro.param(f"bias_{layer}", jnp.zeros(width[layer + 1]))
            hidden = hidden @ kernel + bias
            hidden = jnp.tanh(hidden) if layer == 0 else hidden
        with numpyro.plate("shops", num_shops, subsample_size=here, dim=-2):
            for at, name in enumerate(("level", "slope")):
                loc, log_scale = hidden[:, at : at + 1], hidden[:, at + 2 : at + 3] - 1
                numpyro.sample(name, dist.Normal(loc, jnp.exp(log_scale)))

    return guide, of_globals


def list_guide(model: Callable) -> AutoGuideList:
    """Return a guide: one normal for all globals together, one for each local."""
    guide = AutoGuideList(model)
    guide.append(AutoMultivariateNormal(handlers.block(model, expose=GLOBALS)))

    def hidden(site):
        return site.get("name") in GLOBALS or site["type"] == "deterministic"

    guide.append(AutoNormal(handlers.block(model, hide_fn=hidden)))
    return guide


def log_joint(local, g, promotion, is_open, sales):
    """Log joint density of one shop's level and slope and its sales, given globals."""
    rate = jnp.exp(local[0] + local[1] * promotion + g["season"] @ wave(len(sales)))
    rows = dist.NegativeBinomial2(rate, g["phi"]).log_prob(sales)
    prior = dist.Normal(g["mu"], g["sigma"]).log_prob(local[0])
    prior += dist.Normal(g["beta"], g["tau"]).log_prob(local[1])
    return prior + jnp.where(is_open, rows, 0).sum()


def newton_step(local, g, *data):
    """Take a step, at most one unit long, toward the best level and slope."""
    slope = jax.grad(log_joint)(local, g, *data)
    step = jnp.linalg.solve(jax.hessian(log_joint)(local, g, *data), slope)
    return local - jnp.clip(step, -1, 1)


def best_local(g, *data):
    """Return the most probable level and slope of a shop, and the curvature there."""
    fixed = jax.tree.map(jax.lax.stop_gradient, g)
    local = jnp.stack([g["mu"], g["beta"]])
    for _ in range(6):
        local = newton_step(local, fixed, *data)
    local = newton_step(jax.lax.stop_gradient(local), g, *data)
    return local, -jax.hessian(log_joint)(local, g, *data)


def log_evidence(g, *data):
    """Integrate a shop's level and slope out, by Laplace's method."""
    local, curvature = best_local(g, *data)
    (a, b), (_, c) = curvature
    return log_joint(local, g, *data) + jnp.log(2 * jnp.pi) - jnp.log(a * c - b**2) / 2


def marginal_model(promotion, is_open, sales):
    """Sum up what each shop says about the globals, its level and slope integrated."""
    g = draw_globals()
    each = jax.vmap(lambda *shop: log_evidence(g, *shop))(promotion, is_open, sales)
    numpyro.factor("shops", each.sum())


def draw_local(rng_key, g, *data):
    """Draw a shop's level and slope given the globals, as Laplace's method has it."""
    local, curvature = best_local(g, *data)
    return jax.random.multivariate_normal(rng_key, local, jnp.linalg.inv(curvature))
