"""Data sets: their distributions, their keys, and splits in equal shares."""

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.special import digamma, polygamma

from helpers.datasets import (
    demand,
    flights,
    log_gamma_sample,
    shop_sales,
    stratified_split,
    two_moons,
)

KEY = jax.random.key(0)
NUM = 100_000


@pytest.mark.parametrize(
    ("concentration", "rate"), [(1e-3, 1.0), (0.3, 2.0), (1.0, 0.1), (7.0, 5.0)]
)
def test_log_gamma_sample_has_its_distribution(concentration, rate):
    draws = log_gamma_sample(KEY, concentration, NUM, rate)
    assert draws.shape == (NUM,)
    assert draws.dtype == jnp.float32
    assert np.isfinite(draws).all()  # the variates themselves are 0 in float32
    draws = np.asarray(draws, dtype=float)
    mean, variance = digamma(concentration) - np.log(rate), polygamma(1, concentration)
    assert abs(draws.mean() - mean) < 4 * np.sqrt(variance / NUM)
    spread = (draws - mean) ** 2
    assert abs(spread.mean() - variance) < 4 * stats.sem(spread)
    exact = stats.loggamma(concentration, loc=-np.log(rate))
    assert stats.kstest(draws, exact.cdf).pvalue > 1e-3


def test_log_gamma_sample_moments_on_the_natural_scale():
    draws = np.exp(np.asarray(log_gamma_sample(KEY, 3.0, NUM, 2.0), dtype=float))
    assert draws.mean() == pytest.approx(3 / 2, abs=4 * np.sqrt(3 / 4 / NUM))


def test_log_gamma_sample_follows_its_key_alone():
    first = log_gamma_sample(KEY, 0.5, 100)
    np.testing.assert_array_equal(first, log_gamma_sample(KEY, 0.5, 100, rate=1.0))
    other = log_gamma_sample(jax.random.key(1), 0.5, 100)
    assert (first != other).all()
    assert len(np.unique(first)) == 100
    # The rate only scales.
    scaled = log_gamma_sample(KEY, 0.5, 100, rate=3.0)
    np.testing.assert_allclose(first - scaled, np.log(3), atol=1e-5)


GOOD = {"rng_key": KEY, "concentration": 1.0, "num_samples": 5, "rate": 1.0}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"rng_key": 1}, TypeError, r"rng_key: expected a key .*key\(seed\), got 1"),
        ({"rng_key": np.zeros(2)}, TypeError, "rng_key: .*dtype float64"),
        ({"rng_key": jax.random.split(KEY, 3)}, ValueError, "rng_key: .*got 3 keys"),
        ({"concentration": 0}, ValueError, "concentration: .*above 0, got 0"),
        ({"concentration": -1.5}, ValueError, "concentration: .*above 0, got -1.5"),
        ({"concentration": np.nan}, ValueError, "concentration: .*finite.*got nan"),
        ({"concentration": np.ones(2)}, TypeError, r"concentration: .*got .*\(2,\)"),
        ({"concentration": [1.0]}, TypeError, r"concentration: .*number, got \[1\.0\]"),
        ({"concentration": None}, TypeError, "concentration: .*number, got None"),
        ({"concentration": True}, TypeError, "concentration: .*number, got True"),
        ({"concentration": "3"}, TypeError, "concentration: .*number, got '3'"),
        ({"num_samples": 0}, ValueError, "num_samples: expected at least 1, got 0"),
        ({"num_samples": 10.0}, TypeError, r"num_samples: .*whole number, got 10\.0"),
        ({"rate": 0.0}, ValueError, "rate: .*above 0, got 0.0"),
        ({"rate": jnp.inf}, ValueError, "rate: .*finite.*got inf"),
        ({"rate": 1j}, TypeError, "rate: expected one number, got 1j"),
    ],
)
def test_bad_input_to_log_gamma_sample(change, error, message):
    with pytest.raises(error, match=message):
        log_gamma_sample(**(GOOD | change))


def test_two_moons_without_noise_are_two_half_circles():
    x, y = two_moons(KEY, 201, noise=0)
    assert x.shape == (201, 2)
    assert (x.dtype, y.dtype) == (jnp.float32, jnp.int32)
    assert np.bincount(y).tolist() == [100, 101]
    assert np.count_nonzero(np.diff(y)) > 10  # not sorted by class
    for label, center, side in ((0, [0, 0], 1), (1, [1, 0.5], -1)):
        gap = np.asarray(x[y == label], float) - center
        np.testing.assert_allclose(np.hypot(*gap.T), 1, atol=1e-6)
        assert (side * gap[:, 1] > -1e-6).all()
        angles = np.sort(np.arctan2(abs(gap[:, 1]), gap[:, 0]))
        np.testing.assert_allclose(np.diff(angles), np.pi / (len(gap) - 1), atol=1e-3)


def test_two_moons_noise_follows_its_key_alone():
    x, y = two_moons(KEY, 20_000, 0.25)
    again, _ = two_moons(KEY, 20_000, 0.25)
    np.testing.assert_array_equal(x, again)
    assert (two_moons(jax.random.key(1), 20_000, 0.25)[0] != x).all()
    still, _ = two_moons(KEY, 20_000, 0.0)  # the same order: it has the same key
    noise = np.asarray((x - still) / 0.25)
    assert stats.kstest(noise.ravel(), "norm").pvalue > 1e-3
    assert abs(np.corrcoef(noise.T)[0, 1]) < 4 / np.sqrt(20_000)
    assert abs(np.corrcoef(noise[:, 0], y)[0, 1]) < 4 / np.sqrt(20_000)


@pytest.mark.parametrize(
    ("counts", "sizes"),
    [
        ([600, 600], (588, 252, 360)),
        ([30, 70, 20], (60, 36, 24)),
        ([3, 5], (1, 7)),
        ([997, 3], (500, 500)),
        ([10, 11, 12, 13], (9, 1, 17, 19)),
        ([5], (2, 3)),
    ],
)
def test_stratified_split(counts, sizes):
    y = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    x = np.stack([np.arange(y.size), y], axis=1)
    parts = stratified_split(KEY, x, y, sizes)
    assert [len(labels) for _, labels in parts] == list(sizes)
    for rows, labels in parts:
        np.testing.assert_array_equal(rows[:, 1], labels)
        assert (np.diff(rows[:, 0]) > 0).all()  # their order is kept
        share = np.array(counts) * len(labels) / y.size
        found = np.bincount(labels, minlength=len(counts))
        assert (abs(found - share) < len(sizes)).all()
    np.testing.assert_array_equal(
        np.sort(np.concatenate([rows[:, 0] for rows, _ in parts])), x[:, 0]
    )


def test_stratified_split_is_random_and_exact_on_the_data_of_the_course():
    x, y = two_moons(KEY, 1_200)
    sizes = (588, 252, 360)
    parts = stratified_split(KEY, x, y, sizes)
    assert [labels.sum() for _, labels in parts] == [294, 126, 180]
    again = stratified_split(KEY, x, y, sizes)
    np.testing.assert_array_equal(parts[0][0], again[0][0])
    other = stratified_split(jax.random.key(1), x, y, sizes)
    kept = np.isin(parts[2][0][:, 0], other[2][0][:, 0]).mean()
    assert kept == pytest.approx(0.3, abs=0.1)


@pytest.mark.parametrize(
    ("function", "args", "error", "message"),
    [
        (two_moons, (0, 10), TypeError, "rng_key: expected a key"),
        (two_moons, (KEY, 1), ValueError, "num_samples: expected at least 2.*got 1"),
        (two_moons, (KEY, 10.0), TypeError, r"num_samples: .*whole.*got 10\.0"),
        (two_moons, (KEY, 9, -0.1), ValueError, r"noise: .*at least 0, got -0\.1"),
        (two_moons, (KEY, 9, np.nan), ValueError, "noise: .*finite.*got nan"),
        (stratified_split, (0, [1], [1], (1,)), TypeError, "rng_key: expected a key"),
        (
            *(stratified_split, (KEY, np.ones((3, 2)), [0, 1], (2,)), ValueError),
            r"x, y: expected equally many rows, got \(3, 2\) and \(2,\)",
        ),
        (stratified_split, (KEY, 1.0, [0], (1,)), ValueError, r"x, y: .*got \(\) and"),
        (
            *(stratified_split, (KEY, [1, 2], [0.5, 1], (2,)), TypeError),
            "y: expected whole numbers, got dtype float64",
        ),
        (stratified_split, (KEY, [1, 2], [[0, 1]], (2,)), ValueError, "y: .*1 dimens"),
        (stratified_split, (KEY, [1, np.nan], [0, 1], (2,)), ValueError, "x: .*1 NaN"),
        (
            *(stratified_split, (KEY, [1, 2, 3], [0, 1, 0], (2, 2)), ValueError),
            r"sizes: expected a sum of 3, the number of rows, got 2 \+ 2 = 4",
        ),
        (stratified_split, (KEY, [1], [0], (1, 0)), ValueError, r"sizes\[1\]: .*got 0"),
        (stratified_split, (KEY, [1], [0], (0.5,)), TypeError, r"sizes\[0\]: .*whole"),
    ],
)
def test_bad_input_to_moons_and_split(function, args, error, message):
    with pytest.raises(error, match=message):
        function(*args)


def test_shop_sales_follow_their_truth():
    frame, truth = shop_sales(np.random.default_rng(1), 400, 104, late=0.25)
    assert frame.columns.tolist() == ["shop", "week", "promotion", "sales"]
    assert truth["level"].shape == truth["slope"].shape == (400,)
    opened = frame.groupby("shop")["week"].min()
    assert 0.18 < (opened > 0).mean() < 0.32
    assert opened.max() < 84
    weeks = frame.groupby("shop")["week"]
    assert (weeks.max() == 103).all()
    assert (weeks.nunique() == 104 - opened).all()
    assert frame["promotion"].mean() == pytest.approx(0.25, abs=0.01)
    turn = 2 * np.pi * frame["week"] / 52
    season = truth["season"][0] * np.sin(turn) + truth["season"][1] * np.cos(turn)
    shop = frame["shop"].to_numpy()
    effect = truth["slope"][shop] * frame["promotion"]
    mean = np.exp(truth["level"][shop] + effect + season)
    assert frame["sales"].mean() == pytest.approx(mean.mean(), rel=0.01)
    # A negative binomial: the variance is the mean, and its square over phi.
    squares = ((frame["sales"] - mean) ** 2).mean()
    expected = (mean + mean**2 / truth["phi"]).mean()
    assert squares == pytest.approx(expected, rel=0.05)


def test_all_shops_can_open_at_once():
    frame, _ = shop_sales(np.random.default_rng(1), 5, 4, late=0)
    assert len(frame) == 20


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_shops": 0}, "num_shops: expected at least 1"),
        ({"num_weeks": 0}, "num_weeks: expected at least 1"),
        ({"late": 2}, "late: expected a share"),
    ],
)
def test_bad_shops(change, message):
    call = {"num_shops": 3, "num_weeks": 4} | change
    with pytest.raises(ValueError, match=message):
        shop_sales(np.random.default_rng(0), **call)


def test_shops_want_a_generator():
    with pytest.raises(TypeError, match=r"rng: expected np\.random\.default_rng"):
        shop_sales(0, 3, 4)


def test_flights():
    table = flights()
    assert len(table) == 336_776
    assert table["delay"].isna().sum() == 9_430
    assert table["airplane"].nunique() == 4_043
    assert table["destination"].nunique() == 105
    assert table["carrier"].nunique() == 16
    assert (table["delay"] > 15).sum() / table["delay"].notna().sum() > 0.23
    assert table["date"].is_monotonic_increasing
    assert str(table["date"].min().date()) == "2013-01-01"


def test_demand_follows_its_truth():
    frame, truth = demand(np.random.default_rng(1), 600, 120, late=0.25)
    names = ["series", "group", "date", "price", "sales", "sold_out"]
    assert frame.columns.tolist() == names
    assert (frame["group"] == frame["series"] % 10).all()
    assert truth["elasticity"].shape == truth["phi"].shape == (600,)
    assert truth["season"].shape == (10, 120)
    assert (frame["date"].dt.day_of_week == 0).all()
    start = frame.groupby("series")["date"].min()
    late = start > frame["date"].min()
    assert 0.19 < late.mean() < 0.31
    weeks = frame.groupby("series")["date"]
    assert (weeks.max() == frame["date"].max()).all()
    assert ((weeks.max() - weeks.min()).dt.days // 7 + 1 == weeks.size()).all()
    assert set(frame["price"].round(2)) == {1.0, 0.9, 0.8, 0.7, 0.6}
    assert (frame["price"] < 1).mean() == pytest.approx(1 / 7, abs=0.01)
    # Sold is what was wanted, but where it sold out.
    wanted, mean = truth["demand"], truth["mean"]
    full = ~frame["sold_out"]
    assert (frame["sales"] == wanted)[full].all()
    assert (frame["sales"] <= wanted).all()
    assert 0.03 < frame["sold_out"].mean() < 0.15
    # A negative binomial: the variance is the mean, and its square over phi.
    assert (wanted / mean).mean() == pytest.approx(1, abs=0.02)
    expected = mean + mean**2 / truth["phi"][frame["series"]]
    assert ((wanted - mean) ** 2 / expected).mean() == pytest.approx(1, abs=0.05)


def test_the_price_does_what_the_truth_says():
    frame, truth = demand(np.random.default_rng(2), 50, 100)
    cheap = np.log(frame["price"].to_numpy())
    series = frame["series"].to_numpy()
    usual = truth["mean"] / np.exp(truth["elasticity"][series] * cheap)
    # Without its effect, cheap weeks are like others.
    level = pd.Series(usual).groupby(series).transform("mean")
    assert (usual / level)[cheap < 0].mean() == pytest.approx(1, abs=0.03)


def test_all_articles_can_start_at_once():
    frame, _ = demand(np.random.default_rng(1), 5, 4, num_groups=2, late=0)
    assert len(frame) == 20
    assert set(frame["group"]) == {0, 1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_series": 0}, "num_series: expected at least 1"),
        ({"num_weeks": 0}, "num_weeks: expected at least 1"),
        ({"num_groups": 0}, "num_groups: expected at least 1"),
        ({"late": 1.5}, "late: expected a share"),
    ],
)
def test_bad_demand(change, message):
    call = {"num_series": 3, "num_weeks": 4} | change
    with pytest.raises(ValueError, match=message):
        demand(np.random.default_rng(0), **call)


def test_demand_wants_a_generator():
    with pytest.raises(TypeError, match="rng: expected"):
        demand(1)
