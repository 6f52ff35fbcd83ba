"""Late arrivals of flights: the model of notebook 07, and its data."""

from collections.abc import Callable

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
from numpyro.handlers import reparam
from numpyro.infer.reparam import LocScaleReparam

from helpers.datasets import flights
from helpers.panels import number_groups

LATE = 15  # minutes
SCALE_GUESS = 0.2  # of effects; shares to center follow from it
GROUPS = ("hour", "month", "carrier", "destination", "airplane", "origin_hour")


def columns_of(frame: pd.DataFrame) -> dict[str, pd.Series]:
    """Return the column of names of each group of effects."""
    hour = frame["departure"] // 100
    return {
        "hour": hour,
        "month": pd.to_datetime(frame["date"]).dt.month,
        "carrier": frame["carrier"].astype(str),
        "destination": frame["destination"].astype(str),
        "airplane": frame["airplane"].astype(object),
        "origin_hour": frame["origin"].astype(str) + hour.astype(str).str.zfill(2),
    }


def make_rows() -> tuple[dict, dict, np.ndarray]:
    """Return training rows, test rows, and the group of each level.

    Rows have `levels`, the numbers of a level in each group, shape (rows, groups), and
    whether they were `late`. Every fifth week is held out. Flights without an arrival
    are left out: cancelled ones were not late, they did not fly.
    """
    frame = flights()
    frame = frame[frame["delay"].notna()]
    week = pd.to_datetime(frame["date"]).dt.day_of_year // 7
    held = (week % 5 == 4).to_numpy()
    late = (frame["delay"] > LATE).to_numpy().astype("int32")
    numbers, sizes = [], []
    for column in columns_of(frame).values():
        _, known = number_groups(column[~held])
        numbers.append(number_groups(column, known)[0] + sum(sizes))
        sizes.append(len(known))
    levels = np.stack(numbers, -1).astype("int32")
    train, test = (
        {"levels": levels[some], "late": late[some]} for some in (~held, held)
    )
    return train, test, np.repeat(np.arange(len(sizes)), sizes)


def flight_model(levels, late=None, *, group: np.ndarray, num_rows: int) -> None:
    """Add up effects to the log odds of a late arrival, each group pooled by itself."""
    intercept = numpyro.sample("intercept", dist.Normal(-1.2, 1))
    with numpyro.plate("groups", group.max() + 1):
        scale = numpyro.sample("scale", dist.HalfNormal(0.5))
    with numpyro.plate("levels", len(group)):
        effect = numpyro.sample("effect", dist.Normal(0, scale[group]))
    with numpyro.plate("flights", num_rows, subsample_size=len(levels)):
        logit = intercept + effect[levels].sum(-1)
        numpyro.deterministic("p", jax.nn.sigmoid(logit))
        numpyro.sample("late", dist.Bernoulli(logits=logit), obs=late)


def shares_by_rows(rows: dict, group: np.ndarray) -> np.ndarray:
    """Return how far to center each effect: what its rows tell, beside the prior.

    A row with probability p tells p (1 - p) of its log odds; the prior, 1 / scale².
    """
    p = float(np.mean(rows["late"]))
    told = np.bincount(rows["levels"].ravel(), minlength=len(group)) * p * (1 - p)
    return (told / (told + 1 / SCALE_GUESS**2)).astype("float32")


def partly_centered(model: Callable, shares: np.ndarray | float) -> Callable:
    """Center each effect by its share."""
    return reparam(model, config={"effect": LocScaleReparam(shares)})
