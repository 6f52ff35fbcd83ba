"""Chain ladder: the published example, the tail, and triangles that make no sense."""

import numpy as np
import pandas as pd
import pytest

from helpers.chain_ladder import chain_ladder, to_triangle

NAN = np.nan
#: The triangle of Taylor and Ashe (1983), as in Mack (1993).
CLAIMS = """
357848 1124788 1735330 2218270 2745596 3319994 3466336 3606286 3833515 3901463
352118 1236139 2170033 3353322 3799067 4120063 4647867 4914039 5339085
290507 1292306 2218525 3235179 3985995 4132918 4628910 4909315
310608 1418858 2195047 3757447 4029929 4381982 4588268
443160 1136350 2128333 2897821 3402672 3873311
396132 1333217 2180715 2985752 3691712
440832 1288463 2419861 3483130
359480 1421128 2864498
376686 1363294
344014
"""


def triangle(text):
    rows = [[float(x) for x in line.split()] for line in text.strip().splitlines()]
    return np.array([row + [NAN] * (len(rows[0]) - len(row)) for row in rows])


def test_forecasts_and_standard_errors_are_those_of_mack():
    cumulative = triangle(CLAIMS)
    ladder = chain_ladder(cumulative)
    latest = np.array([row[np.isfinite(row)][-1] for row in cumulative])
    reserve = ladder.filled[:, -1] - latest
    assert reserve.sum() == pytest.approx(18_680_856, abs=1)
    thousands = [0, 95, 470, 710, 985, 1419, 2178, 3920, 4279, 4626]
    assert (reserve / 1e3).round().tolist() == thousands
    thousands = [0, 76, 122, 134, 261, 411, 558, 875, 971, 1363]
    assert (ladder.sd / 1e3).round().tolist() == thousands
    assert ladder.total_sd == pytest.approx(2_447_095, abs=1)
    seen = np.isfinite(cumulative)
    np.testing.assert_array_equal(ladder.filled[seen], cumulative[seen])


def test_a_known_pattern_is_found_and_goes_on_past_the_oldest_age():
    factors = 1 + 0.8 * np.arange(1.0, 12) ** -1.5
    whole = np.array([[100.0], [250.0], [80.0]]) * np.cumprod([1, *factors])
    part = whole[:, :8].copy()
    part[1, 6:] = part[2, 4:] = NAN
    ladder = chain_ladder(part, num_ages=12)
    np.testing.assert_allclose(ladder.filled, whole, rtol=1e-9)
    np.testing.assert_allclose(ladder.sd, 0, atol=1e-6)


def test_cohorts_that_start_together_and_one_without_growth():
    part = np.array([[10.0, 12, 12], [20, 26, NAN], [0, NAN, NAN], [5, NAN, NAN]])
    ladder = chain_ladder(part)
    assert ladder.filled[2].tolist() == [0, 0, 0]
    assert ladder.filled[3, 1] == pytest.approx(5 * 38 / 30)
    assert ladder.total_sd >= np.sqrt((ladder.sd**2).sum())


def test_a_table_is_spread_over_cohorts_and_ages():
    table = pd.DataFrame({"cohort": [1, 0, 0], "age": [0, 1, 0], "active": [3, 2, 5]})
    np.testing.assert_array_equal(to_triangle(table, "active"), [[5, 2], [3, NAN]])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1.0, 2.0], r"expected a table, got shape \(2,\)"),
        (np.zeros((0, 3)), "expected a table"),
        ([[1.0, NAN], [2.0, NAN]], "each age once"),
        ([[NAN, 1.0], [2.0, 3.0]], "each cohort at age 0"),
        ([[1.0, 2.0, 3.0], [1.0, NAN, 3.0]], "no gap"),
        ([[2.0, 1.0], [1.0, NAN]], "do not fall"),
        ([[-1.0, 1.0], [1.0, NAN]], "at least 0"),
        ([[0.0, 0.0], [1.0, NAN]], "no factor at age 0"),
    ],
)
def test_bad_triangles(values, message):
    with pytest.raises(ValueError, match=message):
        chain_ladder(np.array(values))


def test_a_constant_triangle_has_no_tail():
    flat = np.full((3, 4), 7.0)
    assert (chain_ladder(flat).filled == 7).all()
    with pytest.raises(ValueError, match="num_ages: expected at most 4"):
        chain_ladder(flat, num_ages=6)


@pytest.mark.parametrize("table", [[1, 2], pd.DataFrame({"cohort": [1]})])
def test_a_triangle_needs_a_cohort_table(table):
    with pytest.raises(TypeError, match="expected a data frame with cohort, age"):
        to_triangle(table, "active")


def test_a_cell_twice_is_refused():
    table = pd.DataFrame({"cohort": [0, 0], "age": [0, 0], "active": [1, 2]})
    with pytest.raises(ValueError, match="one row for each cohort and age"):
        to_triangle(table, "active")
