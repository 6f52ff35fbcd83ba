"""Late arrivals of flights: the model of notebook 07, and its data."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
from numpyro.handlers import reparam
from numpyro.infer.reparam import LocScaleReparam

from helpers.datasets import flights
from helpers.panels import number_groups

LATE = 15  # minutes
GROUPS = ("hour", "month", "carrier", "destination", "airplane", "origin_hour")


def columns_of(frame: pd.DataFrame) -> dict[str, pd.Series]:
    """Return the column of names of each group of effects."""
    hour = frame["departure"] // 100
    origin = frame["origin"].astype(str)
    return {
        "hour": hour,
        "month": pd.to_datetime(frame["date"]).dt.month,
        "carrier": frame["carrier"].astype(str),
        "destination": frame["destination"].astype(str),
        "airplane": frame["airplane"].astype(object),
        "origin_hour": origin + " " + hour.astype(str).str.zfill(2),
    }


def make_rows(test_every: int = 5) -> tuple[dict, dict, dict[str, int]]:
    """Return training and test rows as arrays, and the number of levels of each group.

    Every fifth week is held out. Flights without an arrival say nothing and are left
    out: cancelled ones were not late, they did not fly.
    """
    frame = flights()
    frame = frame[frame["delay"].notna()]
    week = pd.to_datetime(frame["date"]).dt.dayofyear // 7
    held = (week % test_every == test_every - 1).to_numpy()
    late = (frame["delay"] > LATE).to_numpy()
    parts = []
    levels: dict[str, Any] = {}
    for rows in (~held, held):
        codes = {}
        for name, column in columns_of(frame[rows]).items():
            codes[name], levels[name] = number_groups(column, levels.get(name))
        parts.append(codes | {"late": late[rows].astype("int32")})
    return *parts, {name: len(of) for name, of in levels.items()}


def flight_model(late=None, *, sizes: dict[str, int], num_rows: int, **codes) -> None:
    """Add up effects to the log odds of a late arrival, each group pooled by itself."""
    logit = numpyro.sample("intercept", dist.Normal(-1.2, 1))
    for name, size in sizes.items():
        scale = numpyro.sample(f"{name}_scale", dist.HalfNormal(0.5))
        with numpyro.plate(f"{name}s", size):
            effect = numpyro.sample(f"{name}_effect", dist.Normal(0, scale))
        logit = logit + effect[codes[name]]
    with numpyro.plate("flights", num_rows, subsample_size=len(logit)):
        numpyro.sample("late", dist.Bernoulli(logits=logit), obs=late)


def shares_by_rows(rows: dict, sizes: dict[str, int], scale: float = 0.3) -> dict:
    """Return how far to center each group: what an average level's rows tell of it.

    A row with probability p tells p (1 - p) of its log odds; the prior, 1 / scale².
    """
    p = float(np.mean(rows["late"]))
    told = {n: len(rows["late"]) / size * p * (1 - p) for n, size in sizes.items()}
    return {f"{n}_effect": tell / (tell + 1 / scale**2) for n, tell in told.items()}


def partly_centered(model: Callable, shares: dict[str, float]) -> Callable:
    """Center each group of effects by its share."""
    return reparam(model, config={k: LocScaleReparam(v) for k, v in shares.items()})


def logits_of(draws: dict, rows: dict, sizes: dict[str, int]) -> jnp.ndarray:
    """Return the log odds of rows for each draw, shape (draws, rows)."""
    total = draws["intercept"][:, None]
    for name in sizes:
        total = total + draws[f"{name}_effect"][:, rows[name]]
    return total
