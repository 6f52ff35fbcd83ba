"""Scores of forecasts agree with their definitions, and refuse bad input."""

import numpy as np
import pandas as pd
import pytest

from helpers.forecasts import (
    LEVELS,
    naive_scale,
    sales_and_plan,
    weighted_interval_score,
)

RNG = np.random.default_rng(1)


def interval_form(y, quantiles):
    """The score as Bracher et al. define it, from the median and three intervals."""
    total = 0.5 * abs(y - quantiles[3])
    for low, high, share in ((0, 6, 0.05), (1, 5, 0.2), (2, 4, 0.5)):
        lower, upper = quantiles[low], quantiles[high]
        outside = np.maximum(lower - y, 0) + np.maximum(y - upper, 0)
        total = total + share / 2 * (upper - lower + 2 / share * outside)
    return total / 3.5


def test_score_is_that_of_intervals():
    y = RNG.normal(size=(4, 5))
    quantiles = np.sort(RNG.normal(size=(7, 4, 5)), axis=0)
    score = weighted_interval_score(y, quantiles)
    np.testing.assert_allclose(score, interval_form(y, quantiles), rtol=1e-12)


def test_the_median_alone_gives_the_absolute_error():
    score = weighted_interval_score([3.0, -1.0], [[1.0, 2.0]], [0.5])
    np.testing.assert_allclose(score, [2, 3])


def test_many_levels_give_the_crps():
    draws = np.sort(RNG.normal(size=2_001))
    levels = (np.arange(999) + 0.5) / 999
    score = weighted_interval_score(0.7, np.quantile(draws, levels), levels)
    pairs = np.abs(draws[:, None] - draws).mean() / 2
    assert score == pytest.approx(np.abs(draws - 0.7).mean() - pairs, abs=2e-3)


def test_no_other_quantiles_are_expected_to_score_better():
    y = RNG.poisson(4, 200_000)
    right = np.quantile(y, LEVELS)
    scores = [
        weighted_interval_score(y, np.broadcast_to(q[:, None], (7, y.size))).mean()
        for q in (right, right * 0.8, right * 1.3, np.full(7, 4.0))
    ]
    assert min(scores) == scores[0]


@pytest.mark.parametrize(
    ("y", "quantiles", "levels", "message"),
    [
        ([1.0], [[1.0], [0.0], [2.0]], [0.1, 0.5, 0.9], "sort them"),
        ([1.0], [[1.0]], [0.4], "symmetric"),
        ([1.0], [[1.0], [2.0]], [0.9, 0.1], "ascending"),
        ([1.0], [[1.0], [2.0]], [0.0, 1.0], "between 0 and 1"),
        ([1.0], [[1.0]], [], "levels"),
        ([1.0, 2.0], [[1.0]], [0.5], r"expected shape \(1, 2\)"),
        ([np.nan], [[1.0]], [0.5], "y: "),
        ([1.0], [[np.inf]], [0.5], "quantiles: "),
        (["a"], [[1.0]], [0.5], "y: "),
    ],
)
def test_score_refuses(y, quantiles, levels, message):
    with pytest.raises((TypeError, ValueError), match=message):
        weighted_interval_score(y, quantiles, levels)


def test_scale_takes_changes_between_seen_times():
    y = np.array([[1.0, 3, 2, 9], [5, 5, 5, 5], [7, 0, 0, 0], [0, np.nan, 4, 6]])
    seen = np.array([[1, 1, 1, 0], [1, 1, 1, 1], [1, 0, 0, 0], [1, 0, 1, 1]], bool)
    np.testing.assert_allclose(naive_scale(y, seen), [1.5, np.nan, np.nan, 2])


def test_scale_refuses():
    with pytest.raises(ValueError, match="truth values of the shape of y"):
        naive_scale(np.ones((2, 3)), np.ones((2, 3)))
    with pytest.raises(ValueError, match="truth values of the shape of y"):
        naive_scale(np.ones((2, 3)), np.ones((2, 2), bool))
    with pytest.raises(ValueError, match="y: "):
        naive_scale([[1.0, np.nan]], np.ones((1, 2), bool))


SALES = pd.DataFrame(
    {
        "series": ["tea", "tea", "tea", "rye"],
        "group": ["drinks", "drinks", "drinks", "bread"],
        "date": pd.to_datetime(
            ["2026-01-19", "2026-01-05", "2026-01-12", "2026-01-12"]
        ),
        "price": [4.0, 2.0, 4.0, 3.0],
        "sales": [0, 5, 1, 7],
        "sold_out": [0, 1, 0, 0],
        "note": "x",
    }
)
PLAN = pd.DataFrame(
    {
        "series": ["tea", "nut"],
        "group": ["drinks", "bread"],
        "date": pd.to_datetime(["2026-01-26", "2026-01-26"]),
        "price": [3.0, 5.0],
    }
)


def test_sales_and_plan_become_one_table():
    both = sales_and_plan(SALES, PLAN)
    assert both["group"].tolist() == [1, 1, 1, 0, 1, 0]
    np.testing.assert_allclose(both["price"], [1, 0.5, 1, 1, 0.75, 1])
    assert both["sales"].tolist() == [0, 5, 1, 7, 0, 0]
    assert both["sold_out"].tolist() == [False, True, False, False, False, False]
    assert SALES["price"].tolist() == [4, 2, 4, 3]  # left as it was


@pytest.mark.parametrize(
    ("sales", "plan", "error", "message"),
    [
        (SALES.drop(columns="group"), PLAN, ValueError, "a column 'group', got"),
        (
            SALES,
            PLAN.drop(columns="price"),
            ValueError,
            "plan: expected a column 'price', got",
        ),
        (
            SALES.assign(group=[None, *"abc"]),
            PLAN,
            ValueError,
            "column 'group' has 1 missing",
        ),
        (SALES.assign(sales=[1, np.nan, 2, 3]), PLAN, ValueError, "column 'sales'"),
        (
            SALES,
            PLAN.assign(price=[1.0, np.nan]),
            ValueError,
            "plan: column 'price' has 1 missing",
        ),
        (SALES.assign(price=[1, 0, 1, 1]), PLAN, ValueError, "prices above 0, got 0"),
        (SALES.assign(sold_out=[0, 2, 0, 0]), PLAN, ValueError, "true or false"),
        (SALES.assign(group=[*"aabc"]), PLAN, ValueError, "several for tea"),
        (SALES, PLAN.assign(date=SALES["date"][0]), ValueError, "after the last one"),
        (SALES.to_dict(), PLAN, TypeError, "got builtins.dict"),
    ],
)
def test_sales_and_plan_refuse(sales, plan, error, message):
    with pytest.raises(error, match=message):
        sales_and_plan(sales, plan)
