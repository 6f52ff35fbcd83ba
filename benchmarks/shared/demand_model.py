"""The model of notebook 10: demand of many articles, week after week.

The functions are those of the notebook; a test compares them.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import lax
from jax.scipy.stats import norm
from numpyro.contrib.control_flow import scan


class History(NamedTuple):
    """What a shop knows; tables have a row per article and a column per week."""

    group: np.ndarray  # number of each article's group, shape (articles,)
    log_price: np.ndarray  # log of price over usual price
    calendar: np.ndarray  # a row per effect, a column per week
    sales: np.ndarray
    seen: np.ndarray  # whether the article was on sale
    sold_out: np.ndarray  # whether demand may have been more than sales


class Future(NamedTuple):
    """What a shop plans."""

    log_price: np.ndarray
    calendar: np.ndarray


def calendar(weeks):
    """Return years since week 0, and the waves of a year and of half a year."""
    turn = 2 * np.pi * weeks / 52
    waves = [f(k * turn) for k in (1, 2) for f in (np.sin, np.cos)]
    return np.stack([weeks / 52, *waves])


def before_and_after(panel, cut, rows):
    """Return what is known before week `cut`, and what is planned from then on."""
    values = {name: table[rows] for name, table in panel.values.items()}
    seen = panel.seen[rows]
    log_price = np.log(np.where(seen, values["price"], 1)).astype("float32")
    weeks = calendar(np.arange(panel.times.size)).astype("float32")
    known = (values["sales"], seen, values["sold_out"] > 0)
    tables_before = [table[:, :cut] for table in (log_price, weeks, *known)]
    history = History(values["group"].max(1), *tables_before)
    return history, Future(log_price[:, cut:], weeks[:, cut:])


def expected_beyond(mean, phi, stock):
    """Return about how many were wanted, when at least `stock` were."""
    sd = jnp.sqrt(mean + mean**2 / phi)
    z = (stock - mean) / sd
    beyond = mean + sd * jnp.exp(norm.logpdf(z) - norm.logsf(z))
    return jnp.where(stock > 0, beyond, mean)  # an empty shelf says nothing


def forget_and_add(state, sales, factor, memory):
    """Take in a week of sales."""
    total, weight = state
    return memory * total + sales, memory * weight + factor


def follow(start, memory, phi, factor, history):
    """Return the state after all weeks, and what each week was expected to sell."""

    def week(state, now):
        factor, sales, seen, sold_out = now
        mean = factor * state[0] / state[1]
        sales = jnp.where(sold_out, expected_beyond(mean, phi, sales), sales)
        new = forget_and_add(state, sales, factor, memory)
        return jax.tree.map(lambda a, b: jnp.where(seen, a, b), new, state), mean

    tables = factor, history.sales, history.seen, history.sold_out
    state, mean = lax.scan(week, start, tuple(jnp.asarray(x).T for x in tables))
    return state, mean.T


def chance_to_reach(mean, phi, stock):
    """Return the probability that demand reaches the stock of each entry."""
    entry = np.repeat(np.arange(len(stock)), stock)  # an element for each lower demand
    lower = np.arange(len(entry)) - np.repeat(np.cumsum(stock) - stock, stock)
    mass = jnp.exp(dist.NegativeBinomial2(mean[entry], phi[entry]).log_prob(lower))
    less = jax.ops.segment_sum(mass, entry, len(stock), indices_are_sorted=True)
    return jnp.clip(1 - less, 1e-6, 1 - 1e-6)


def demand_model(history, future=None, num_groups=10):
    """Follow the level of each article, and go on from its last state."""
    group = history.group
    memory = numpyro.sample("memory", dist.Uniform(0.5, 1))
    spread = numpyro.sample("spread", dist.HalfNormal(1))
    price_spread = numpyro.sample("price_spread", dist.HalfNormal(0.5))
    with numpyro.plate("groups", num_groups):
        center = numpyro.sample("center", dist.Normal(1, 1))
        price_center = numpyro.sample("price_center", dist.Normal(-1.5, 1))
        phi = numpyro.sample("phi", dist.LogNormal(1.4, 0.7))
        season = numpyro.sample("season", dist.Normal(0, 0.3).expand([5]).to_event(1))
    with numpyro.plate("articles", len(group)):
        level = numpyro.sample("level", dist.Normal(center[group], spread))
        own = numpyro.sample("own", dist.Normal(0, 1))
    elasticity = price_center[group] + price_spread * own
    numpyro.deterministic("elasticity", elasticity)

    def factor(weeks):
        seasonal = (season @ weeks.calendar)[group]
        return jnp.exp(seasonal + elasticity[:, None] * weeks.log_price)

    start = jnp.exp(level) / (1 - memory), jnp.ones_like(level) / (1 - memory)
    state, mean = follow(start, memory, phi[group], factor(history), history)
    observe(history, mean, phi[group])
    if future is not None:
        go_on(state, memory, phi[group], factor(future))


def observe(history, mean, phi):
    """Compare what was expected with what was sold."""
    demand = dist.NegativeBinomial2(mean, phi[:, None])
    counted = history.seen & ~history.sold_out
    numpyro.sample("sales", demand.mask(counted).to_event(2), obs=history.sales)
    row, week = np.nonzero(history.seen & history.sold_out)
    chance = chance_to_reach(mean[row, week], phi[row], history.sales[row, week])
    sold_out = dist.Bernoulli(chance).to_event(1)
    numpyro.sample("sold_out", sold_out, obs=np.ones(len(row)))


def go_on(state, memory, phi, factor):
    """Draw the demand of one week after the other."""

    def week(state, factor):
        mean = factor * state[0] / state[1]
        wanted = dist.NegativeBinomial2(mean, phi).to_event(1)
        demand = numpyro.sample("demand", wanted)
        return forget_and_add(state, demand, factor, memory), None

    scan(week, state, factor.T)
