"""Weekly sales of many shops: the model of notebook 07, and guides for its shops."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from flax import nnx
from jax import lax
from jax.scipy.special import gammaln
from numpyro.contrib.module import nnx_module
from numpyro.distributions.constraints import positive
from numpyro.handlers import block, mask, reparam
from numpyro.infer.autoguide import (
    AutoGuideList,
    AutoMultivariateNormal,
    AutoNormal,
)
from numpyro.infer.reparam import LocScaleReparam

from helpers.datasets import shop_sales
from helpers.panels import to_panel

GLOBALS = ("mu", "sigma", "beta", "tau", "season", "phi")
LOCALS = ("level", "slope")
NEWTON_STEPS = 6
PHI_GUESS = 5.0  # the shares hardly depend on it


def make_panel(
    seed: int, num_shops: int, num_weeks: int, rows: int | None = None
) -> tuple[dict, dict]:
    """Return arrays of simulated shops, all rows or some of each, and the truth."""
    frame, truth = shop_sales(np.random.default_rng(seed), num_shops, num_weeks)
    if rows is not None:
        frame = frame.groupby("shop").sample(rows, random_state=seed)
    panel = to_panel(frame, "shop", "week", ["promotion", "sales"])
    tables = {"shop": np.arange(num_shops, dtype="int32"), "seen": panel.seen}
    return tables | {k: panel.values[k] for k in ("promotion", "sales")}, truth


def season_of(num_weeks: int) -> jax.Array:
    """Return sine and cosine of the time of the year, shape (2, num_weeks)."""
    turn = 2 * jnp.pi * jnp.arange(num_weeks) / 52
    return jnp.stack([jnp.sin(turn), jnp.cos(turn)])


def draw_globals() -> dict[str, jax.Array]:
    """Draw what all shops share from its prior."""
    return {
        "mu": numpyro.sample("mu", dist.Normal(1, 1)),
        "sigma": numpyro.sample("sigma", dist.HalfNormal(1)),
        "beta": numpyro.sample("beta", dist.Normal(0, 0.5)),
        "tau": numpyro.sample("tau", dist.HalfNormal(0.5)),
        "season": numpyro.sample("season", dist.Normal(0, 0.5).expand([2]).to_event(1)),
        "phi": numpyro.sample("phi", dist.LogNormal(1.5, 1)),
    }


def shop_model(shop, seen, promotion, sales=None, *, size: int) -> None:
    """Sales are negative binomial, around a level and a slope of each shop."""
    shared = draw_globals()
    season = shared["season"] @ season_of(promotion.shape[1])
    with numpyro.plate("shops", size, subsample_size=len(shop), dim=-2):
        level = numpyro.sample("level", dist.Normal(shared["mu"], shared["sigma"]))
        slope = numpyro.sample("slope", dist.Normal(shared["beta"], shared["tau"]))
        mean = jnp.exp(level + slope * promotion + season)
        with numpyro.plate("weeks", promotion.shape[1], dim=-1), mask(mask=seen):
            counts = dist.NegativeBinomial2(mean, shared["phi"])
            numpyro.sample("sales", counts, obs=sales)


def with_shares(model: Callable, shares: dict[str, Any]) -> Callable:
    """Center the shops' unknowns in part: 1 centered, 0 not, None learned."""
    return reparam(model, config={k: LocScaleReparam(v) for k, v in shares.items()})


def share(estimates: np.ndarray, noise: np.ndarray) -> float:
    """Return the shops' share of what differs between crude estimates of each shop.

    `noise` holds the variances of the estimates. What is left of their scatter is that
    of the shops.
    """
    if len(estimates) < 2:
        return 0.0  # nothing is told
    between = max(np.var(estimates) - np.mean(noise), 1e-3)
    return float(between / (between + np.mean(noise)))


def shares_by_rows(seen, promotion, sales, shop=None) -> dict[str, float]:
    """Return how far to center level and slope, from averages of each shop.

    n counts of mean m and concentration phi tell n m / (1 + m / phi) about log m.
    """

    def log_mean(where):
        rows = where.sum(1)
        mean = (np.where(where, sales, 0).sum(1) + 0.5) / np.maximum(rows, 1)
        return rows > 0, np.log(mean), (1 + mean / PHI_GUESS) / (rows * mean + 1e-9)

    any_on, log_on, noise_on = log_mean(seen & (promotion == 1))
    any_off, log_off, noise_off = log_mean(seen & (promotion == 0))
    both = any_on & any_off
    _, log_all, noise_all = log_mean(seen)
    return {
        "level": share(log_all, noise_all),
        "slope": share((log_on - log_off)[both], (noise_on + noise_off)[both]),
    }


def normal_globals() -> None:
    """Draw the globals from independent normals, positive ones on the log scale."""
    starts = {"mu": 1.0, "sigma": -0.7, "beta": 0.0, "tau": -1.2, "phi": 1.5}
    for name, start in (starts | {"season": jnp.zeros(2)}).items():
        loc = numpyro.param(f"{name}_loc", jnp.asarray(start))
        scale = numpyro.param(
            f"{name}_scale", jnp.full(jnp.shape(start), 0.1), constraint=positive
        )
        normal = dist.Normal(loc, scale)
        if name == "season":
            numpyro.sample(name, normal.to_event(1))
        else:
            kind = dist.LogNormal if name in ("sigma", "tau", "phi") else dist.Normal
            numpyro.sample(name, kind(loc, scale))


def table_guide(shop, seen, promotion, sales=None, *, size: int) -> None:
    """Keep a location and a scale for each shop in a table, looked up by its number."""
    normal_globals()
    found = {}
    for name, start in (("level", 1.0), ("slope", 0.0)):
        loc = numpyro.param(f"{name}_loc", jnp.full(size, start))
        scale = numpyro.param(f"{name}_scale", jnp.full(size, 0.1), constraint=positive)
        found[name] = loc[shop, None], scale[shop, None]
    with numpyro.plate("shops", size, subsample_size=len(shop), dim=-2):
        for name, (loc, scale) in found.items():
            numpyro.sample(name, dist.Normal(loc, scale))


class Encoder(nnx.Module):
    """From four summaries of a shop to locations and log scales."""

    def __init__(self, *, rngs: nnx.Rngs):
        self.inner = nnx.Linear(4, 32, rngs=rngs)
        self.outer = nnx.Linear(32, 4, rngs=rngs)

    def __call__(self, summaries):
        """Return two locations and two log scales for each shop."""
        return self.outer(nnx.tanh(self.inner(summaries)))


ENCODER = Encoder(rngs=nnx.Rngs(0))


def summaries_of(seen, promotion, sales) -> jax.Array:
    """Return log mean sales with and without promotion, and log counts of the weeks."""
    parts = []
    for where in (seen & (promotion == 1), seen & (promotion == 0)):
        rows = where.sum(1)
        mean = jnp.where(where, sales, 0).sum(1) / jnp.maximum(rows, 1)
        parts += [jnp.log(mean + 0.5) - 1.5, jnp.log1p(rows) - 2.5]
    return jnp.stack(parts, -1)


def encoder_guide(shop, seen, promotion, sales=None, *, size: int) -> None:
    """Compute location and scale of each shop from summaries of its rows."""
    normal_globals()
    encoder = nnx_module("encoder", ENCODER)
    out = encoder(summaries_of(seen, promotion, sales))
    with numpyro.plate("shops", size, subsample_size=len(shop), dim=-2):
        for at, name in enumerate(LOCALS):
            loc, scale = out[:, at, None], jnp.exp(out[:, 2 + at, None] - 2)
            numpyro.sample(name, dist.Normal(loc, scale))


def joint_globals(model: Callable) -> AutoGuideList:
    """Return a guide with one joint normal for the globals, shops apart."""
    guide = AutoGuideList(model)

    def others(site):
        return site.get("name") in GLOBALS or site["type"] == "deterministic"

    guide.append(AutoMultivariateNormal(block(model, expose=list(GLOBALS))))
    guide.append(AutoNormal(block(model, hide_fn=others)))
    return guide


def log_joint_of_shop(shared: dict, both, season, seen, promotion, sales) -> jax.Array:
    """Return log p(rows, level, slope | globals) of one shop."""
    level, slope = both
    phi = shared["phi"]
    eta = level + slope * promotion + season
    rows = (
        gammaln(sales + phi)
        - gammaln(phi)
        - gammaln(sales + 1)
        + phi * jnp.log(phi)
        + sales * eta
        - (sales + phi) * jnp.logaddexp(jnp.log(phi), eta)
    )
    prior = dist.Normal(shared["mu"], shared["sigma"]).log_prob(level)
    prior += dist.Normal(shared["beta"], shared["tau"]).log_prob(slope)
    return jnp.where(seen, rows, 0).sum() + prior


def laplace_of_shop(shared: dict, season, seen, promotion, sales) -> tuple:
    """Return mode and curvature of level and slope of one shop, and its log evidence.

    Gradients of all three are those of the mode: the last step alone is differentiated.
    """
    rows = {"season": season, "seen": seen, "promotion": promotion, "sales": sales}
    log_joint = partial(log_joint_of_shop, **rows)

    def newton(shared, both):
        curvature = jax.hessian(log_joint, argnums=1)(shared, both)
        gradient = jax.grad(log_joint, argnums=1)(shared, both)
        step = jnp.linalg.solve(curvature, gradient)
        # Not farther than one: the first steps may start far from the mode.
        return both - step / jnp.maximum(1.0, jnp.abs(step).max())

    fixed = lax.stop_gradient(shared)
    both = jnp.stack([fixed["mu"], fixed["beta"]])
    for _ in range(NEWTON_STEPS):
        both = newton(fixed, both)
    both = newton(shared, lax.stop_gradient(both))
    curvature = jax.hessian(log_joint, argnums=1)(shared, both)
    _, log_det = jnp.linalg.slogdet(-curvature)
    evidence = log_joint(shared, both) + jnp.log(2 * jnp.pi) - log_det / 2
    return both, curvature, evidence


def integrated_model(shop, seen, promotion, sales, *, size: int) -> None:
    """Integrate each shop out of the same model by Laplace's approximation."""
    shared = draw_globals()
    season = shared["season"] @ season_of(promotion.shape[1])
    of_all = jax.vmap(laplace_of_shop, (None, None, 0, 0, 0))
    with numpyro.plate("shops", size, subsample_size=len(shop)):
        *_, evidence = of_all(shared, season, seen, promotion, sales)
        numpyro.factor("rows", evidence)


@jax.jit
def draw_shops(rng_key, shared: dict, seen, promotion, sales) -> dict[str, jax.Array]:
    """Draw levels and slopes given draws of the globals, by Laplace's approximation."""
    waves = season_of(promotion.shape[1])
    of_all = jax.vmap(laplace_of_shop, (None, None, 0, 0, 0))

    def one(given):
        key, shared = given
        season = shared["season"] @ waves
        mode, curvature, _ = of_all(shared, season, seen, promotion, sales)
        root = jnp.linalg.cholesky(jnp.linalg.inv(-curvature))
        noise = jax.random.normal(key, mode.shape)
        return mode + jnp.einsum("sij,sj->si", root, noise)

    keys = jax.random.split(rng_key, len(shared["mu"]))
    both = lax.map(one, (keys, shared))
    return {name: both[..., at] for at, name in enumerate(LOCALS)}
