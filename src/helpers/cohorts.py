"""Cohorts of customers: simulated, real, or from a log of orders.

A cohort is everyone who became a customer in the same period. All functions here speak
of one table, a *cohort table*, with a row for each cohort and age:

- `cohort`: its number, from 0; `age`: periods since it was acquired; `period`: the
  calendar, from 0, so that the age is `period - cohort` where each period has a cohort;
- `customers`: how many there are in the cohort; `active`: how many of them ordered in
  this period; `orders`, `revenue`: number and sum of what they ordered.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from fitting import arguments, frames

COUNTS = ("cohort", "age", "period", "customers", "active")


def _rows(name: str, value: Any, columns: tuple[str, ...]) -> pd.DataFrame:
    """Return `value` if it is a data frame with rows, these columns and no gaps."""
    frame = frames.data_frame(name, value, columns)
    frames.refuse_gaps(name, frame, columns)
    if not len(frame):
        raise ValueError(f"{name}: expected rows, got none")
    return frame


def _numbers(name: str, frame: pd.DataFrame, column: str) -> np.ndarray:
    """Return a column as finite numbers of at least 0."""
    if not pd.api.types.is_any_real_numeric_dtype(frame[column].dtype):
        raise TypeError(
            f"{name}: expected numbers in column {column!r}, got {frame[column].dtype}"
        )
    values = frame[column].to_numpy(float)
    if not np.isfinite(values).all():
        raise ValueError(f"{name}: column {column!r} has infinite values")
    if low := int((values < 0).sum()):
        raise ValueError(
            f"{name}: column {column!r} has {low} values below 0, the first "
            f"{values[values < 0][0]:g}; subtract refunds from the order they belong to"
        )
    return values


def cohort_table(
    log: pd.DataFrame,
    *,
    days: int | None = None,
    acquired: pd.Series | None = None,
    end: Any = None,
    duplicates: str = "error",
) -> pd.DataFrame:
    """Turn a log of orders into a cohort table.

    Parameters
    ----------
    log : pandas.DataFrame
        A row for each order, in any order: `customer`, `date` (datetime64), `revenue`.
    days : int, optional
        Length of a period in days, counted from the first day. By default a period is a
        calendar month.
    acquired : pandas.Series, optional
        Day on which each customer was acquired; its index is the customers. It brings
        in customers without orders. By default the day of the first order.
    end : date, optional
        Last day of the log; by default that of the last order. A period that goes on
        after it is left out.
    duplicates : str
        What rows are that agree in customer, date and revenue: ``"keep"``, orders
        like others; ``"drop"``, the same order; ``"error"``, a mistake.

    Returns
    -------
    pandas.DataFrame
        The cohort table, with a row for each cohort and each age up to `end`, orders
        or not. Columns: `cohort`, its number, from 0; `age`, periods since it was
        acquired; `period` of the calendar, from 0; `customers` of the cohort; `active`,
        how many of them ordered in this period; `orders` and `revenue`, number and sum
        of what they ordered. A period in which nobody was acquired has no cohort.

    Raises
    ------
    TypeError, ValueError
        For columns that are missing, have gaps, or no dates and numbers; for negative
        revenue, duplicates, orders before a customer was acquired or after `end`.
    """
    log = _rows("log", log, ("customer", "date", "revenue"))
    duplicates = arguments.one_of("duplicates", duplicates, ("error", "keep", "drop"))
    if days is not None:
        days = arguments.positive_int("days", days)
    twice = log.duplicated(["customer", "date", "revenue"])
    if twice.any() and duplicates == "error":
        raise ValueError(
            f"log: {int(twice.sum())} rows repeat customer, date and revenue of another"
            "; duplicates='keep' takes them for orders, 'drop' for the same order"
        )
    if duplicates == "drop":
        log = log[~twice]
    revenue = _numbers("log", log, "revenue")
    date = _days("log", log["date"])
    if acquired is None:
        acquired = date.groupby(log["customer"].to_numpy()).min()
    acquired = _acquired(acquired, log, date)
    last = date.max() if end is None else pd.Timestamp(end)
    if date.max() > last:
        raise ValueError(f"end: expected no order after {last}, got {date.max()}")
    first = acquired.min()
    complete = _period(pd.Series([last + pd.Timedelta(days=1)]), first, days)[0]
    cohort_of = pd.Series(_period(acquired, first, days), acquired.index)
    cohort_of = cohort_of[cohort_of < complete]
    if cohort_of.empty:
        raise ValueError(f"log: expected one whole period at least, got {first}–{last}")
    orders = pd.DataFrame(
        {
            "customer": log["customer"].to_numpy(),
            "period": _period(date, first, days),
            "revenue": revenue,
        }
    )
    orders["cohort"] = orders["customer"].map(cohort_of)
    orders = orders[orders["period"] < complete]
    cells = orders.groupby(["cohort", "period"]).agg(
        active=("customer", "nunique"),
        orders=("revenue", "size"),
        revenue=("revenue", "sum"),
    )
    sizes = cohort_of.value_counts().sort_index()
    places = [(c, t) for c in sizes.index for t in range(c, complete)]
    table = cells.reindex(pd.MultiIndex.from_tuples(places, names=cells.index.names))
    table = table.fillna(0).reset_index()
    table["customers"] = table["cohort"].map(sizes)
    table["age"] = table["period"] - table["cohort"]
    table["cohort"] = pd.factorize(table["cohort"])[0]
    whole = [*COUNTS, "orders"]
    return table[[*whole, "revenue"]].astype(dict.fromkeys(whole, "int64"))


def _days(name: str, column: pd.Series) -> pd.Series:
    """Return dates without a time of day."""
    if not pd.api.types.is_datetime64_dtype(column.dtype):
        raise TypeError(
            f"{name}: expected dates without a time zone, got {column.dtype}; "
            "pd.to_datetime(...) makes dates, .dt.tz_localize(None) takes zones off"
        )
    return column.dt.normalize().reset_index(drop=True)


def _acquired(acquired: Any, log: pd.DataFrame, date: pd.Series) -> pd.Series:
    """Return the day on which each customer was acquired, if it fits the log."""
    if not isinstance(acquired, pd.Series):
        kind = type(acquired).__name__
        raise TypeError(f"acquired: expected a pandas Series, got {kind}")
    if not acquired.index.is_unique or acquired.isna().any():
        raise ValueError("acquired: expected one day for each customer, without gaps")
    days = _days("acquired", acquired).set_axis(acquired.index)
    since = log["customer"].map(days).to_numpy()
    if unknown := int(pd.isna(since).sum()):
        raise ValueError(f"acquired: {unknown} orders are of customers not in it")
    if early := int((date.to_numpy() < since).sum()):
        raise ValueError(f"log: {early} orders are before their customer was acquired")
    return days


def _period(date: pd.Series, first: pd.Timestamp, days: int | None) -> np.ndarray:
    """Return the numbers of periods, from that of the first day."""
    if days is not None:
        return ((date - first).dt.days // days).to_numpy()
    months = 12 * date.dt.year + date.dt.month
    return (months - 12 * first.year - first.month).to_numpy()


class Cells(NamedTuple):
    """The cells of a cohort table as arrays.

    Attributes
    ----------
    customers : numpy.ndarray of int32, shape (num_cohorts,)
        Size of each cohort.
    cohort, age, period : numpy.ndarray of int32, shape (num_cells,)
        Where a cell lies.
    active : numpy.ndarray of int32, shape (num_cells,)
        How many customers ordered.
    revenue : numpy.ndarray of float32, shape (num_cells,)
        What they spent.
    """

    customers: np.ndarray
    cohort: np.ndarray
    age: np.ndarray
    period: np.ndarray
    active: np.ndarray
    revenue: np.ndarray


def to_cells(table: pd.DataFrame) -> Cells:
    """Check a cohort table, and return its cells as arrays.

    Parameters
    ----------
    table : pandas.DataFrame
        A cohort table, as `cohort_table` makes it; `orders` may be missing, and the
        order of the rows is free.

    Returns
    -------
    Cells
        Sorted by cohort and age.

    Raises
    ------
    TypeError, ValueError
        For gaps, negative or fractional counts, two rows for one cell, more active
        customers than there are, a cohort without customers or of two sizes, revenue
        where nobody was active or none where somebody was.
    """
    table = _rows("table", table, (*COUNTS, "revenue"))
    values = {name: _numbers("table", table, name) for name in (*COUNTS, "revenue")}
    for name in COUNTS:
        if broken := int((values[name] % 1 > 0).sum()):
            raise ValueError(f"table: {broken} fractional numbers in column {name!r}")
    twice = table.duplicated(["cohort", "age"])
    if twice.any():
        cohort, age = table.loc[twice, ["cohort", "age"]].iloc[0]
        raise ValueError(
            "table: expected one row for each cohort and age, got several for cohort "
            f"{cohort:g}, age {age:g}; add them up first"
        )
    active, customers = values["active"], values["customers"]
    sizes = table.groupby("cohort")["customers"].agg(["min", "max"]).sort_index()
    for problem, bad in {
        "more active customers than there are": active > customers,
        "a cohort without customers": customers == 0,
        "revenue where nobody was active": (active == 0) & (values["revenue"] > 0),
        "active customers and no revenue; drop such cells, or add the price of what "
        "was free": (active > 0) & (values["revenue"] == 0),
    }.items():
        if bad.any():
            row = table.loc[bad, ["cohort", "age", "customers", "active"]].iloc[0]
            raise ValueError(f"table: {problem}, first at {row.to_dict()}")
    if (sizes["min"] != sizes["max"]).any():
        which = sizes.index[sizes["min"] != sizes["max"]][0]
        raise ValueError(f"table: cohort {which} has customers of two numbers")
    if sizes.index.tolist() != list(range(len(sizes))):
        raise ValueError("table: expected cohorts numbered from 0 without a gap")
    order = np.lexsort((values["age"], values["cohort"]))
    found = {n: values[n][order].astype("int32") for n in COUNTS if n != "customers"}
    revenue = values["revenue"][order].astype("float32")
    return Cells(sizes["min"].to_numpy("int32"), revenue=revenue, **found)


#: What `cohorts` simulates with; the docstring says what the names mean.
TRUTH = {
    "size": (1_200.0, 0.4),
    "core": 0.1,
    "leaving": 0.4,
    "stays": 0.7,
    "spend": (3.4, 0.3, 4.0),
    "scale": (0.25, 0.12),
    "rho": 0.6,
    "season": ((0.18, 0.1), (0.12, -0.05)),
    "tau": (0.06, 0.04),
    "kappa": 400.0,
    "shape": 0.8,
}


def cohorts(
    rng: np.random.Generator, num_cohorts: int = 24, num_ages: int | None = None
) -> tuple[pd.DataFrame, dict[str, Any]]:
    r"""Simulate monthly cohorts: who comes back, and what they spend.

    Cohort $c$ at age $a \ge 1$ is seen in month $t = c + a$. Its active customers are
    beta-binomial with mean $p$ and concentration $\kappa$, and each of them spends a
    gamma amount with mean $m$ and the given shape, where

    $$\text{logit}\, p = \text{logit}(\text{core} + \text{leaving} \cdot
    \text{stays}^a) + \text{keep}_c + w_t^{(1)}, \qquad
    \log m = b + g\,(1 - e^{-a/s}) + \text{spend}_c + w_t^{(2)}.$$

    So some customers leave at a constant rate, and a core stays. The effects keep and
    spend of a cohort are normal with the sds `scale` and the correlation `rho`; $w_t$
    is a yearly sine and cosine plus a normal shock with the sds `tau`. All customers
    are active at age 0.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of randomness.
    num_cohorts : int
        Number of cohorts, one a month, at least 2.
    num_ages : int, optional
        Ages from 0 to simulate; as many as cohorts by default.

    Returns
    -------
    table : pandas.DataFrame
        A cohort table of all cohorts at all ages, the future included: rows with a
        period below `num_cohorts` are what has been seen by the time the last cohort
        arrives. `orders` is left out.
    truth : dict
        The numbers behind it: those of `TRUTH`; keep, spend, shape (num_cohorts,);
        `p` and `m`, shape (num_cohorts, num_ages).

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or lies outside its range.
    """
    arguments.generator("rng", rng)
    num_cohorts = arguments.positive_int("num_cohorts", num_cohorts)
    if num_cohorts < 2:
        raise ValueError("num_cohorts: expected at least 2, got 1")
    num_ages = arguments.positive_int("num_ages", num_ages or num_cohorts)
    median, spread = TRUTH["size"]
    size = np.ceil(rng.lognormal(np.log(median), spread, num_cohorts)).astype(int)
    rho, own = TRUTH["rho"], np.sqrt(1 - TRUTH["rho"] ** 2)
    z = rng.normal(size=(num_cohorts, 2))
    keep = TRUTH["scale"][0] * z[:, 0]
    spend = TRUTH["scale"][1] * (rho * z[:, 0] + own * z[:, 1])
    turn = 2 * np.pi * np.arange(num_cohorts + num_ages - 1) / 12
    wave = np.stack([np.sin(turn), np.cos(turn)], 1) @ np.array(TRUTH["season"])
    wave += rng.normal(size=wave.shape) * TRUTH["tau"]
    age = np.arange(num_ages)
    period = np.arange(num_cohorts)[:, None] + age
    share = TRUTH["core"] + TRUTH["leaving"] * TRUTH["stays"] ** age
    logit = np.log(share / (1 - share)) + keep[:, None] + wave[period, 0]
    p = 1 / (1 + np.exp(-logit))
    base, gain, pace = TRUTH["spend"]
    log_m = base + gain * (1 - np.exp(-age / pace)) + spend[:, None] + wave[period, 1]
    kappa, shape, m = TRUTH["kappa"], TRUTH["shape"], np.exp(log_m)
    active = rng.binomial(size[:, None], rng.beta(kappa * p, kappa * (1 - p)))
    active[:, 0] = size
    revenue = np.zeros(p.shape)
    some = active > 0
    revenue[some] = rng.gamma(shape * active[some], m[some] / shape)
    columns = {
        "cohort": np.repeat(np.arange(num_cohorts), num_ages),
        "age": np.tile(age, num_cohorts),
        "period": period.ravel(),
        "customers": np.repeat(size, num_ages),
        "active": active.ravel(),
        "revenue": revenue.ravel(),
    }
    truth = TRUTH | {"keep": keep, "spend": spend, "p": p, "m": m}
    return pd.DataFrame(columns), truth


def cdnow() -> pd.DataFrame:
    """Read the cohorts of CDNOW: 23,570 customers of a shop for music, 1997 and 1998.

    Returns
    -------
    pandas.DataFrame
        A cohort table: 12 weekly cohorts (first orders from 1 January to 25 March 1997)
        in the 78 weeks to 30 June 1998; revenue in dollars.

    Notes
    -----
    Data: Fader and Hardie (2001). `tools/cdnow.py` makes the file from the log of
    orders; `data/README.md` says more.
    """
    return pd.read_csv(Path(__file__).parent / "data" / "cdnow.csv")
