"""Cohorts: from a log of orders to a table, simulated ones, and those of CDNOW."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from helpers.cohorts import TRUTH, cdnow, cohort_table, cohorts, to_cells

ROWS = [
    ("b", "2026-02-10", 5.0),
    ("a", "2026-01-31", 20.0),
    ("a", "2026-03-01", 4.0),
    ("a", "2026-03-31", 6.0),
    ("b", "2026-02-01", 1.0),
]


def log_of(rows):
    log = pd.DataFrame(rows, columns=["customer", "date", "revenue"])
    return log.assign(date=pd.to_datetime(log["date"]))


LOG = log_of(ROWS)


def test_orders_become_cohorts_by_month_in_any_order():
    table = cohort_table(LOG)
    assert table.columns.tolist() == [
        *("cohort", "age", "period", "customers", "active", "orders", "revenue")
    ]
    assert table.to_numpy().tolist() == [
        [0, 0, 0, 1, 1, 1, 20.0],
        [0, 1, 1, 1, 0, 0, 0.0],
        [0, 2, 2, 1, 1, 2, 10.0],
        [1, 0, 1, 1, 1, 2, 6.0],
        [1, 1, 2, 1, 0, 0, 0.0],
    ]
    pd.testing.assert_frame_equal(table, cohort_table(LOG[::-1]))


def test_periods_of_days_and_one_that_is_not_over():
    table = cohort_table(LOG, days=7)  # 31 January to 31 March: 8 whole weeks
    assert table["period"].max() == 7
    assert table["revenue"].sum() == 30  # the last order is in the ninth
    assert cohort_table(LOG, end="2026-04-29")["period"].max() == 2
    assert cohort_table(LOG, end="2026-04-30")["period"].max() == 3


def test_a_period_without_new_customers_has_no_cohort():
    log = log_of([("a", "2026-01-05", 1.0), ("b", "2026-03-31", 2.0)])
    table = cohort_table(log)
    assert table[["cohort", "age", "period"]].to_numpy().tolist() == [
        *([0, 0, 0], [0, 1, 1], [0, 2, 2], [1, 0, 2])
    ]


def test_customers_without_orders_count_where_they_are_known():
    days = ["2026-01-02", "2026-02-01", "2026-01-09"]
    acquired = pd.Series(pd.to_datetime(days), index=["a", "b", "c"])
    table = cohort_table(LOG, acquired=acquired)
    assert table.loc[0, ["customers", "active"]].tolist() == [2, 1]
    assert table["customers"].groupby(table["cohort"]).first().sum() == 3


def test_rows_twice_are_a_mistake_or_orders_or_one_order():
    log = pd.concat([LOG, LOG[:1]])
    with pytest.raises(ValueError, match="log: 1 rows repeat customer, date and rev"):
        cohort_table(log)
    assert cohort_table(log, duplicates="keep")["orders"].sum() == 6
    pd.testing.assert_frame_equal(
        cohort_table(log, duplicates="drop"), cohort_table(LOG)
    )


ACQUIRED = pd.Series(pd.to_datetime(["2026-01-01"] * 2), index=["a", "b"])


@pytest.mark.parametrize(
    ("log", "options", "error", "message"),
    [
        ([1], {}, TypeError, "log: expected a pandas DataFrame, got builtins.list"),
        (
            LOG.drop(columns="date"),
            {},
            ValueError,
            "log: expected a column 'date', got",
        ),
        (LOG[:0], {}, ValueError, "log: expected rows, got none"),
        (
            *(LOG.assign(revenue=[1, np.nan, 2, 3, 4]), {}, ValueError),
            "column 'revenue' has 1 missing values; drop",
        ),
        (
            *(LOG.assign(customer=["a", None, None, "b", "b"]), {}, ValueError),
            "column 'customer' has 2 missing",
        ),
        (
            *(LOG.assign(date=LOG["date"].where(LOG.index > 0)), {}, ValueError),
            "column 'date' has 1 missing",
        ),
        (
            *(LOG.assign(revenue=[1, -3, 2, 3, 4]), {}, ValueError),
            "1 values below 0, the first -3; subtract refunds",
        ),
        (
            LOG.assign(revenue="1"),
            {},
            TypeError,
            "expected numbers in column 'revenue'",
        ),
        (LOG.assign(revenue=np.inf), {}, ValueError, "infinite"),
        (LOG.assign(date=[r[1] for r in ROWS]), {}, TypeError, "dates .*to_datetime"),
        (
            *(LOG.assign(date=LOG["date"].dt.tz_localize("UTC")), {}, TypeError),
            "without a time zone",
        ),
        (LOG, {"days": 0}, ValueError, "days: expected at least 1"),
        (LOG, {"days": 7.0}, TypeError, "days: expected a whole number"),
        (LOG, {"days": 100}, ValueError, "one whole period"),
        (LOG, {"duplicates": "no"}, ValueError, "duplicates: expected one of"),
        (LOG, {"end": "2026-03-01"}, ValueError, "end: expected no order after"),
        (LOG, {"acquired": {"a": 1}}, TypeError, "acquired: expected a pandas Series"),
        (LOG, {"acquired": ACQUIRED[:1]}, ValueError, "2 orders are of customers not"),
        (
            *(LOG, {"acquired": ACQUIRED + pd.Timedelta(days=35)}, ValueError),
            "log: 2 orders are before",
        ),
        (
            *(LOG, {"acquired": pd.concat([ACQUIRED, ACQUIRED])}, ValueError),
            "one day for each customer",
        ),
    ],
)
def test_bad_logs(log, options, error, message):
    with pytest.raises(error, match=message):
        cohort_table(log, **options)


def test_cells_are_sorted_and_typed():
    table = cohort_table(LOG)
    cells = to_cells(table[::-1].drop(columns="orders"))
    assert cells.customers.tolist() == [1, 1]
    assert cells.cohort.tolist() == [0, 0, 0, 1, 1]
    assert cells.age.tolist() == [0, 1, 2, 0, 1]
    assert cells.active.dtype == "int32"
    assert cells.revenue.dtype == "float32"


def changed(**columns):
    table = cohort_table(LOG)
    for name, (row, value) in columns.items():
        table[name] = table[name].astype(float)
        table.loc[row, name] = value
    return table


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (changed(active=(2, 0.5)), "1 fractional numbers in column 'active'"),
        (changed(active=(2, -1)), "column 'active' has 1 values below 0"),
        (changed(active=(2, np.nan)), "column 'active' has 1 missing"),
        (changed(active=(2, 7)), "more active customers than there are"),
        (changed(revenue=(1, 3)), "revenue where nobody was active"),
        (changed(revenue=(2, 0)), "active customers and no revenue; drop"),
        (changed(customers=(0, 2)), "cohort 0 has customers of two numbers"),
        (changed(age=(1, 2)), r"several for cohort 0, age 2"),
        (cohort_table(LOG).assign(customers=0, active=0), "without customers"),
        (cohort_table(LOG).query("cohort == 1"), "numbered from 0"),
        (cohort_table(LOG)[:0], "expected rows"),
    ],
)
def test_bad_tables(table, message):
    with pytest.raises(ValueError, match=message):
        to_cells(table)


def test_simulated_cohorts_follow_their_truth():
    table, truth = cohorts(np.random.default_rng(1), 40, 30)
    assert len(table) == 40 * 30
    cells = to_cells(table)
    assert cells.customers.shape == (40,)
    p, m = (truth[name][cells.cohort, cells.age] for name in ("p", "m"))
    later, size = cells.age > 0, cells.customers[cells.cohort]
    assert (cells.active == size)[~later].all()
    # Beta-binomial: so much more variance than a binomial's.
    more = 1 + (size - 1) / (truth["kappa"] + 1)
    z = (cells.active - size * p) / np.sqrt(size * p * (1 - p) * more)
    assert abs(z[later].mean()) < 4 / np.sqrt(later.sum())
    assert z[later].std() == pytest.approx(1, abs=0.06)
    mean = m * cells.active
    z = (cells.revenue / mean - 1) * np.sqrt(truth["shape"] * cells.active)
    assert abs(z.mean()) < 4 / np.sqrt(len(z))
    assert z.std() == pytest.approx(1, abs=0.06)


def test_effects_of_simulated_cohorts_have_their_law():
    _, truth = cohorts(np.random.default_rng(2), 4_000, 1)
    keep, spend = truth["keep"], truth["spend"]
    assert keep.std() == pytest.approx(TRUTH["scale"][0], rel=0.05)
    assert spend.std() == pytest.approx(TRUTH["scale"][1], rel=0.05)
    assert stats.pearsonr(keep, spend)[0] == pytest.approx(TRUTH["rho"], abs=0.05)


@pytest.mark.parametrize(
    ("args", "error", "message"),
    [
        ((0,), TypeError, r"rng: expected np\.random\.default_rng"),
        ((np.random.default_rng(0), 1), ValueError, "num_cohorts: expected at least 2"),
        ((np.random.default_rng(0), 2.5), TypeError, "num_cohorts: expected a whole"),
        ((np.random.default_rng(0), 3, -1), ValueError, "num_ages: expected at least"),
    ],
)
def test_bad_simulations(args, error, message):
    with pytest.raises(error, match=message):
        cohorts(*args)


def test_cdnow_holds_all_customers_and_orders():
    table = cdnow()
    first = table[table["age"] == 0]
    assert len(first) == 12
    assert first["customers"].sum() == 23_570
    assert (first["active"] == first["customers"]).all()
    assert table["orders"].sum() == 69_659
    assert table["revenue"].sum() == pytest.approx(2_500_315.63, abs=0.01)
    assert table["period"].max() == 77
    assert to_cells(table).age.max() == 77
